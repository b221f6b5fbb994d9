"""A graph compiled ahead of time: the numbers of the module, at any batch, and made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clouds_deploy.artifacts import CACHE_VARIABLE
from clouds_deploy.backends import torch_session
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.torch_session import TorchSession
from clouds_deploy.bundles.tensors import GraphSpec, TensorSpec
from clouds_deploy.errors import CloudsError

INPUT, OUTPUT = TensorSpec("x", "uint8", (None, 4)), TensorSpec("y", "float32", (None, 4))


class Doubled(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x.float() * self.factor,)


class Stubborn(Doubled):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x.float() * float(x.sum().item()),) if x.sum() > 0 else (x.float(),)


def session(module: nn.Module) -> TorchSession:
    return TorchSession(module, GraphSpec((INPUT,), (OUTPUT,)), Options())


@pytest.mark.slow
def test_compiled_once_for_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    compiled = session(Doubled()).compile_ahead("key")
    assert compiled.backend == "torch-aot"
    for rows in (1, 2, 5):
        x = np.arange(4 * rows, dtype=np.uint8).reshape(rows, 4)
        np.testing.assert_array_equal(compiled.run({"x": x})["y"], 2.0 * x)
    assert [path.suffix for path in (tmp_path / "aot").iterdir()] == [".pt2"]

    def never(*_: Any) -> None:
        raise AssertionError("it was compiled again")

    monkeypatch.setattr(torch_session, "_compile_ahead", never)
    again = session(Doubled()).compile_ahead("key")
    assert again.run({"x": np.ones((3, 4), np.uint8)})["y"].max() == 2.0
    with pytest.raises(AssertionError, match="again"):
        session(Doubled()).compile_ahead("another key")


def test_what_cannot_be_compiled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(CloudsError, match="AOTInductor compiled no graph"):
        session(Stubborn()).compile_ahead("key")
    assert not list((tmp_path / "aot").glob("*")) if (tmp_path / "aot").is_dir() else True
