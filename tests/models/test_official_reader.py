from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clouds_deploy.errors import CloudsError
from clouds_deploy.models.importing.reader import read_checkpoint


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
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_an_array_may_not_smuggle_in_a_global(tmp_path: Path) -> None:
    for value, name in ((np.load, "numpy"), (eval, "builtins.eval"), (Path("x"), "pathlib")):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"a": value}}))
        with pytest.raises(CloudsError, match=f"wants `{name}"):
            read_checkpoint(tmp_path / "x.pkl")


def test_pickled_numbers_of_every_kind(tmp_path: Path) -> None:
    content = OrderedDict(
        half=np.ones((2, 3), np.float16),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        number=np.float32(2.5),
        whole=np.array(7),
    )
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": content}, protocol=2))
    found = read_checkpoint(tmp_path / "x.pkl")
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
        ("x.pth", b"no checkpoint", "no readable checkpoint"),
        ("x.pkl", b"\x80", "no readable checkpoint"),
        ("x.safetensors", b"12345678", "no readable checkpoint"),
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
        read_checkpoint(tmp_path / name)
    with pytest.raises(CloudsError, match="no checkpoint"):
        read_checkpoint(tmp_path / "nowhere.pth")
