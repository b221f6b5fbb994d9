"""Where an ONNX file takes its weights from, told from its bytes: only from files of its bundle.

A tensor of an ONNX file may name any place for its numbers, and runtimes follow: paths outside, devices, and
with ONNX Runtime's `*/_ORT_MEM_ADDR_/*` an address in the memory of the process. So the protobuf is walked,
without the package onnx, before a runtime sees the file. The C++ library does the same (`onnx_model.cpp`).
"""

from __future__ import annotations

import mmap
from collections.abc import Collection
from pathlib import Path

from clouds_deploy.artifacts.names import TAMPERED, is_regular, shown
from clouds_deploy.errors import CloudsError

_NESTED = 100
"""Messages within each other; protobuf's own limit."""
_LONGEST = 4096
_MODEL, _TRAINING, _FUNCTION, _GRAPH, _NODE, _ATTRIBUTE, _SPARSE, _TENSOR, _ENTRY = range(9)
_INSIDE: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 10: _TENSOR, 6: _GRAPH, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
    _ENTRY: {},
}
"""Messages of onnx.proto on the way to a tensor, by the number of the field; all else is passed over."""


class _Malformed(ValueError):
    """The bytes are no ONNX file."""


def check_weights(model: Path, listed: Collection[str]) -> None:
    """Refuses an ONNX file that takes weights from anywhere but files of its bundle.

    Args:
        model: The file.
        listed: Names of the files beside it that its manifest holds.

    Raises:
        CloudsError: It does, or it is no ONNX file.
    """
    for location in external_locations(model):
        if location not in listed:
            raise CloudsError(
                f"{model} takes weights from {shown(location)}, which is no file of the bundle's manifest",
                TAMPERED,
            )


def external_locations(model: Path) -> list[str]:
    """Names of the files that an ONNX file takes weights from, in the order in which they come first.

    Raises:
        CloudsError: It is no ONNX file.
    """
    wrong = CloudsError(f"{model} is no ONNX file", "export the run again")
    if not is_regular(model) or not model.stat().st_size:
        raise wrong
    found: dict[str, None] = {}
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _walk(data, found)
        except (_Malformed, IndexError) as error:
            raise wrong from error
    return list(found)


def _walk(data: mmap.mmap, found: dict[str, None]) -> None:
    """Goes through the messages; of each open one: kind, end, an entry's key and value."""
    at, end = 0, len(data)
    open_messages: list[tuple[int, int, list[str]]] = [(_MODEL, end, ["", ""])]
    while open_messages:
        kind, end, words = open_messages[-1]
        if at >= end:
            if at > end:
                raise _Malformed
            if kind == _ENTRY and words[0] == "location":
                found[words[1]] = None
            open_messages.pop()
            continue
        tag, at = _varint(data, at)
        field, wire = tag >> 3, tag & 7
        if not field or tag > 0xFFFFFFFF:
            raise _Malformed
        if wire == 0:
            _, at = _varint(data, at)
            continue
        if wire not in (1, 2, 5):  # groups: no ONNX file has them
            raise _Malformed
        length = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            length, at = _varint(data, at)
        if length > end - at:
            raise _Malformed
        inner = _INSIDE[kind].get(field) if wire == 2 else None
        if inner is not None:
            if len(open_messages) > _NESTED:
                raise _Malformed
            open_messages.append((inner, at + length, ["", ""]))
            continue
        if kind == _ENTRY and field in (1, 2) and wire == 2:
            if length > _LONGEST:
                raise _Malformed
            words[field - 1] = data[at : at + length].decode("utf-8", "surrogateescape")
        at += length


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise _Malformed
