"""`--device` means the same in every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from clouds_deploy.backends import device, torch_session
from clouds_deploy.backends.backends import open_session
from clouds_deploy.errors import CloudsError


@pytest.mark.parametrize(
    ("asked", "gpus", "chosen"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 2, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_is_chosen(asked: str, gpus: int, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_session, "gpu_count", lambda: gpus)
    assert device.resolve_device(asked, "torch") == chosen


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("gpu", "there is no device `gpu`"),
        ("cuda:x", "there is no device"),
        ("cuda", "cannot compute on cuda here"),
        ("cuda:3", "cannot compute on cuda:3 here: it can use 2"),
    ],
)
def test_other_devices_are_refused(asked: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_session, "gpu_count", lambda: 2 if ":" in asked else 0)
    with pytest.raises(CloudsError, match=message):
        device.resolve_device(asked, "torch")


def test_onnxruntime_that_falls_back_to_the_cpu_says_so(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that lists CUDA without finding its libraries does as this one does: it runs on the CPU."""
    monkeypatch.setattr("clouds_deploy.backends.onnxruntime_session.lists_cuda", lambda: True)
    monkeypatch.setattr("clouds_deploy.backends.device.gpu_count", lambda: 1)
    with pytest.raises(CloudsError, match="asked for CUDAExecutionProvider but runs on CPUExecutionProvider"):
        open_session(small_bundle, device="cuda")
    assert open_session(small_bundle, device="auto").device == "cpu"
    assert "the CPU computes" in capsys.readouterr().err
