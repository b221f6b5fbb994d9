"""What refuses an engine before it runs; whether one runs is for a machine with a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.backends.options import Options
from clouds_deploy.backends.tensorrt import session as engine_session
from clouds_deploy.backends.tensorrt.session import EngineSession, open_engine
from clouds_deploy.errors import CloudsError


def test_an_engine_that_is_not_there_or_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CloudsError, match="holds no engine of tensorrt for its segmenter"):
        open_engine("tensorrt", "segmenter", [], tmp_path, Options("cuda:0"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(CloudsError, match="is not installed"):
        EngineSession(tmp_path / "a.engine", "tensorrt", Options("cuda:0"))


def test_preflight_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(facts: dict[str, Any], bundle: Path, machine: Any) -> None:
        asked.append(facts["file"])
        raise CloudsError("built for SM 89", "export it again")

    monkeypatch.setattr(engine_session, "check_engine", refuse)
    facts = {"engine": "tensorrt", "file": "engines/encoder-tensorrt-11-this_gpu.engine"}
    with pytest.raises(CloudsError, match="built for SM 89"):
        open_engine("tensorrt", "encoder", [facts], tmp_path, Options("cuda:0"))
    assert asked == [facts["file"]]
