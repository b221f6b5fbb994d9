from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones.weights import load_file_or_random
from clouds_deploy.models.sam.weights import fill
from clouds_deploy.models.weights import read_weight_file


class Malice:
    """What a pickle can do: name a function, and have it called."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".legacy.pth"])
def test_a_pickle_that_wants_to_run_code_is_refused_by_name(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"x{suffix}"
    content = {"model": {"a": Malice()}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=suffix == ".pth")
    with pytest.raises(CloudsError, match=r"`posix\.system`") as caught:
        read_weight_file(path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_an_array_may_not_smuggle_in_a_global(tmp_path: Path) -> None:
    for value, name in ((np.load, "numpy"), (eval, "builtins.eval"), (Path("x"), "pathlib")):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"a": value}}))
        with pytest.raises(CloudsError, match=f"wants `{name}"):
            read_weight_file(tmp_path / "x.pkl")


def test_pickled_numbers_of_every_kind(tmp_path: Path) -> None:
    content = OrderedDict(
        half=np.ones((2, 3), np.float16),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        number=np.float32(2.5),
        whole=np.array(7),
    )
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": content}, protocol=2))
    found = read_weight_file(tmp_path / "x.pkl")
    assert {name: (str(t.dtype), list(t.shape)) for name, t in found.items()} == {
        "half": ("torch.float16", [2, 3]),
        "fortran": ("torch.float64", [2, 3]),
        "number": ("torch.float32", []),
        "whole": ("torch.int64", []),
    }
    assert found["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.onnx", b"", "none of the known kinds"),
        ("x.pth", b"no weights", "no readable weight file"),
        ("x.pkl", b"\x80", "no readable weight file"),
        ("x.safetensors", b"12345678", "no readable weight file"),
        ("x.pkl", pickle.dumps([1]), "a list, not named tensors"),
        ("x.pkl", pickle.dumps({}), "holds no tensors"),
        ("x.pkl", pickle.dumps({"model": {"a": "text"}}), "`a` is no dense tensor but a str"),
        ("x.pkl", pickle.dumps({"a": np.array(["b"])}), "`a` is no dense tensor"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_none(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CloudsError, match=message):
        read_weight_file(tmp_path / name)
    with pytest.raises(CloudsError, match="there is no weight file"):
        read_weight_file(tmp_path / "nowhere.pth")


WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.arange(2)}
OTHER = {name: tensor + 1 for name, tensor in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3, "args": argparse.Namespace(lr=np.float64(0.1))},
        {"model": {"state_dict": WEIGHTS}},
        {"state_dict": OTHER, "state_dict_ema": WEIGHTS},
        {"model": OTHER, "model_ema": WEIGHTS},
        {"module": WEIGHTS, "optimizer": {}},
        {"state_dict": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
        {f"module._orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".ckpt", ".pth.tar", ".PT", ".pkl"])
def test_wrappers_and_prefixes(content: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / f"x{suffix}")
    found = read_weight_file(tmp_path / f"x{suffix}")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


def test_the_choice_among_two_models_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": OTHER, "state_dict_ema": WEIGHTS}, tmp_path / "x.pth")
    read_weight_file(tmp_path / "x.pth")
    assert "x.pth: the weights under `state_dict_ema` are taken, not `state_dict`" in capsys.readouterr().err


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "x.bin")
    assert torch.equal(read_weight_file(tmp_path / "x.bin")["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict_ema": s}])
def test_backbone_and_sam_read_the_same_files(wrap: Any, tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    state = {f"module.{name}": tensor + 1 for name, tensor in layer.state_dict().items()}
    torch.save(wrap(state), tmp_path / "x.th")
    config = BackboneConfig(name="timm/resnet18", weights=str(tmp_path / "x.th"))
    assert load_file_or_random(layer, config) == "file x.th"
    assert torch.equal(layer.weight, state["module.weight"])
    other = torch.nn.Linear(3, 2)
    fill(other, tmp_path / "x.th")
    assert torch.equal(other.bias, state["module.bias"])
    (tmp_path / "x.th").write_bytes(b"damaged")
    messages = []
    for load in (lambda: load_file_or_random(layer, config), lambda: fill(other, tmp_path / "x.th")):
        with pytest.raises(CloudsError, match="no readable weight file") as caught:
            load()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "weights_only" not in messages[0]
