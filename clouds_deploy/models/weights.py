"""The one reader of weight files from elsewhere; no code in a file is ever run.

A pickle is a program. `torch.load(weights_only=True)` admits tensors only; detectron2's `.pkl` files hold
numpy arrays and get an unpickler of their own, which knows how to rebuild an array and nothing else. Both
read only what `pickles.check_pickle` has gone through.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clouds_deploy.artifacts.names import is_regular, shown
from clouds_deploy.artifacts.zips import BadZip, checked_zip, stored_bytes
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError, first_line
from clouds_deploy.models.pickles import Array, check_pickle, load_arrays, torch_globals

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".th", ".tar", ".pkl", ".safetensors")
WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict", "module")
"""Keys under which training frameworks put the tensors; averaged weights come first, as in timm."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_NUMBERS = "biufc"  # numpy's kinds: bool, int, unsigned, float, complex
_ENTRIES, _PICKLE = 200_000, 1 << 28
"""Largest number of entries of a PyTorch file, and bytes of its pickle."""
_OLD_PICKLES = 5
"""At the beginning of an old PyTorch file: a magic number, two headers, the content, the storages' keys."""
_NESTED = 8
"""Wrappers around the tensors."""


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
    if not is_regular(path):
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
        return load_arrays(path, lambda name: _refuse(path, name))
    if zipped:
        _check_archive(path)
    else:
        _check_old(path)
    with torch.serialization.safe_globals([argparse.Namespace, *torch_globals()]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _check_archive(path: Path) -> None:
    """Checks the zip that `torch.save` writes: nothing in it is compressed, and its pickle is one of weights.

    Raises:
        CloudsError: It is a TorchScript program.
        Refused: Its pickle is larger or deeper than weights are.
        BadZip: It is damaged.
    """
    size = path.stat().st_size
    opened = checked_zip(path, entries=_ENTRIES, total=64 * size, deflated=True, dressed=False)
    with opened as archive, path.open("rb") as file:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise CloudsError(
                f"{path} is a TorchScript program, which runs code when it is opened: refused",
                "nothing of it was run; save the module's state_dict() with torch.save, or as .safetensors",
            )
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise BadZip(f"{shown(info.filename)} in it is compressed")
            if info.filename.endswith(".pkl"):
                data = stored_bytes(file, info, _PICKLE)
                check_pickle(io.BytesIO(data), len(data))


def _check_old(path: Path) -> None:
    """Checks the pickles at the beginning of a file that PyTorch before 1.6 wrote."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(_OLD_PICKLES):
            check_pickle(file, size)


def _has_safetensors_header(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _refuse(path: Path, name: str) -> CloudsError:
    return CloudsError(
        f"{path} wants `{name}` to be called when it is read, which no weight file needs: refused",
        "nothing of it was run; get the file from a source you trust, or save its tensors as .safetensors",
    )


def _unwrap(content: Any, path: Path) -> Mapping[Any, Any]:
    for _ in range(_NESTED):
        if not isinstance(content, Mapping):
            break
        inside = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inside:
            return content
        if len(inside) > 1:
            from rich.markup import escape

            say(f"  {escape(path.name)}: the weights under `{inside[0]}` are taken, not `{inside[1]}`")
        content = content[inside[0]]
    else:
        raise CloudsError(
            f"{path} holds its tensors in over {_NESTED} wrappers, or contains itself",
            "save them anew, alone",
        )
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
        value = value.value if isinstance(value, Array) else value
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
