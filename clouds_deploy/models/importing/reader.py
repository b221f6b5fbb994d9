"""Read a foreign weight file without ever running code from it.

A pickle is a program. `torch.load(weights_only=True)` admits tensors only; detectron2's `.pkl` files hold
numpy arrays and get an unpickler of their own, which knows how to rebuild an array and nothing else.
"""

from __future__ import annotations

import collections
import contextlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clouds_deploy.errors import CloudsError

SUFFIXES = (".pth", ".pt", ".bin", ".pkl", ".safetensors")
WRAPPERS = ("model", "state_dict")
"""Keys under which training frameworks put the tensors, beside the optimiser and the step."""

_NUMBERS = "biufc"  # numpy's kinds: bool, int, unsigned, float, complex
_CONTAINERS = ("set", "frozenset", "list", "dict", "tuple", "bytearray", "complex")
_ARRAYS = ("_reconstruct", "scalar", "_frombuffer")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a checkpoint.

    Args:
        path: `.pth`, `.pt` or `.bin` (written by `torch.save`; mapped into memory where its format allows
            it), `.pkl` (detectron2's model zoo) or `.safetensors`. Tensors may sit under `model` or
            `state_dict`; what is beside them there (optimiser, step, author) is not weights and is left.

    Returns:
        Tensors on the CPU by their names in the file; no name is changed.

    Raises:
        CloudsError: There is no such file, it is of another kind or damaged, it names a global that is not
            admitted (the message says which), or something in it that should be a tensor is none.
    """
    if not path.is_file():
        raise CloudsError(f"there is no checkpoint {path}", "check the path")
    if path.suffix not in SUFFIXES:
        raise CloudsError(
            f"{path} is none of the known kinds of checkpoint",
            "known endings: " + ", ".join(SUFFIXES) + "; rename it to say what it is",
        )
    try:
        content = _read(path)
    except CloudsError:
        raise
    except Exception as error:  # damaged files break in as many ways as there are bytes
        refused = re.search(r"GLOBAL ([\w.]*\w)", str(error))
        if refused:
            raise _refuse(path, refused[1]) from error
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if reason.startswith("Weights only load failed"):  # what follows is advice to run the file
            reason = "it is not what torch.save writes"
        raise CloudsError(f"{path} is no readable checkpoint: {reason}", "download it again") from error
    return _tensors(_unwrap(content, path), path)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            return _ArrayUnpickler(file, path).load()
    with torch.serialization.safe_globals(_numpy_globals()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _numpy_globals() -> list[Any]:
    """Admit numpy's numbers too: a training framework's schedule and step may be such, beside the weights."""
    from numpy._core import multiarray

    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    return [
        np.dtype,
        *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
        *((multiarray.scalar, f"{module}.scalar") for module in modules),
    ]


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can rebuild arrays, numbers and containers.

    Files of Python 2 are read as detectron2 reads them, with text and bytes alike as latin-1.
    """

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _CONTAINERS:
            return super().find_class(module, name)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric"):
            if name in _ARRAYS:
                return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
        elif module == "numpy.core.numeric" and name == "_frombuffer":
            return super().find_class("numpy._core.numeric", name)
        elif (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return lambda text, encoding="latin1": str(text).encode("latin1")
        raise _refuse(self._path, f"{module}.{name}")


def _refuse(path: Path, name: str) -> CloudsError:
    return CloudsError(
        f"{path} wants `{name}` to be called when it is read, which no weight file needs: refused",
        "nothing of it was run; get the file from a source you trust, or save its tensors as .safetensors",
    )


def _unwrap(content: Any, path: Path) -> Mapping[Any, Any]:
    while isinstance(content, Mapping):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            return content
        content = inner
    raise CloudsError(
        f"{path} holds a {type(content).__name__}, not named tensors", "give a checkpoint of weights"
    )


def _tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Make tensors of whatever numbers a file holds; tied ones are parted, since safetensors can't tie."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if isinstance(value, np.generic | np.ndarray) and np.asarray(value).dtype.kind in _NUMBERS:
            # ascontiguousarray would turn a number into an array of one
            with contextlib.suppress(TypeError, ValueError):
                value = torch.from_numpy(np.array(value, order="C"))
        if not isinstance(value, Tensor) or value.layout != torch.strided or not isinstance(name, str):
            raise CloudsError(
                f"{path}: `{name}` is no dense tensor but a {type(value).__name__}",
                "give a checkpoint of weights only",
            )
        tensor = value.detach()
        if tensor.numel() and tensor.device.type != "meta":
            tensor = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
        tensors[name] = tensor
    if not tensors:
        raise CloudsError(f"{path} holds no tensors", "give a checkpoint of weights")
    return tensors
