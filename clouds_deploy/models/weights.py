"""The one reader of weight files from elsewhere; no code in a file is ever run.

A pickle is a program. `torch.load(weights_only=True)` admits tensors only; detectron2's `.pkl` files hold
numpy arrays and get an unpickler of their own, which knows how to rebuild an array and nothing else.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError, first_line

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".th", ".tar", ".pkl", ".safetensors")
WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict", "module")
"""Keys under which training frameworks put the tensors; averaged weights come first, as in timm."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_NUMBERS = "biufc"  # numpy's kinds: bool, int, unsigned, float, complex
_CONTAINERS = ("set", "frozenset", "list", "dict", "tuple", "bytearray", "complex")
_ARRAYS = ("_reconstruct", "scalar", "_frombuffer")


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Reads the named tensors of a weight file onto the CPU.

    Args:
        path: `.pth`, `.pt`, `.bin`, `.ckpt`, `.th` or `.tar` (written by `torch.save`; mapped into memory
            where its format allows it), `.pkl` (detectron2's model zoo) or `.safetensors`. Tensors may sit
            under one of `WRAPPERS`; what is beside them there (optimiser, step, author) is ignored.

    Returns:
        Tensors by their names in the file, without those of `PREFIXES` that all names begin with.

    Raises:
        CloudsError: There is no such file, it is of another kind or damaged, it names a global that is not
            admitted (the message says which), or something in it that should be a tensor is none.
    """
    if not path.is_file():
        raise CloudsError(f"there is no weight file {path}", "check the path")
    if path.suffix.lower() not in SUFFIXES:
        raise CloudsError(
            f"{path} is none of the known kinds of weight files",
            "known endings: " + ", ".join(SUFFIXES) + "; rename it to what it is",
        )
    try:
        content = _read(path)
    except CloudsError:
        raise
    except Exception as error:  # damaged files break in as many ways as there are bytes
        refused = re.search(r"GLOBAL ([\w.]*\w)", str(error))
        if refused:
            raise _refuse(path, refused[1]) from error
        reason = first_line(error)
        if reason.startswith("Weights only load failed"):  # torch goes on with advice to run the file
            reason = "it is not what torch.save writes"
        raise CloudsError(f"{path} is no readable weight file: {reason}", "download it again") from error
    return _without_prefixes(_tensors(_unwrap(content, path), path))


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors" or _has_safetensors_header(path):
        from safetensors.torch import load_file

        return load_file(path)
    zipped = zipfile.is_zipfile(path)
    if path.suffix.lower() == ".pkl" and not zipped:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, path).load()
    with torch.serialization.safe_globals([argparse.Namespace, *_numpy_globals()]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _has_safetensors_header(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _numpy_globals() -> list[Any]:
    """Numpy's numbers, which a training framework's schedule and step may be, beside the weights."""
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
        inside = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inside:
            return content
        if len(inside) > 1:
            from rich.markup import escape

            say(f"  {escape(path.name)}: the weights under `{inside[0]}` are taken, not `{inside[1]}`")
        content = content[inside[0]]
    raise CloudsError(
        f"{path} holds a {type(content).__name__}, not named tensors", "give a file of named tensors"
    )


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Tensors of whatever numbers a file holds; tied ones are copied apart, since safetensors can't tie."""
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
                "give a file of nothing but weights",
            )
        tensor = value.detach()
        if tensor.numel() and tensor.device.type != "meta":
            tensor = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
        tensors[name] = tensor
    if not tensors:
        raise CloudsError(f"{path} holds no tensors", "give a file of weights")
    return tensors


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes of named tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Faults:
    """Everything in which a file departs from what a model needs.

    Attributes:
        missing: Names it lacks.
        unexpected: Names it should not have.
        misshapen: What is wrong with a tensor's shape, by name.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        groups = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": tuple(f"{name}: {what}" for name, what in self.misshapen.items()),
        }
        return "\n".join(
            "\n  ".join((f"{len(lines)} {group}:", *lines)) for group, lines in groups.items() if lines
        )


def compare(found: Shapes, expected: Mapping[str, Shape | None], optional: Collection[str] = ()) -> Faults:
    """Differences between a file's names and shapes and a model's.

    A transposed matrix is recognised by its swapped sides; a square one cannot be.

    Args:
        found: Of the file.
        expected: Of the model; None admits any shape.
        optional: Names that may be missing.
    """
    return Faults(
        missing=tuple(n for n in expected if n not in found and n not in optional),
        unexpected=tuple(n for n in found if n not in expected),
        misshapen={
            name: _difference(found[name], shape)
            for name, shape in expected.items()
            if shape is not None and found.get(name, shape) != shape
        },
    )


def _difference(shape: Shape, expected: Shape) -> str:
    text = f"{list(shape)}, not {list(expected)}"
    return f"{text} (transposed)" if sorted(shape) == sorted(expected) else text
