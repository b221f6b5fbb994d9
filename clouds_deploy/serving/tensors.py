"""Tensors on the wire: the KServe v2 protocol's JSON and its binary extension, parsed and written.

Source: "Predict Protocol - Version 2" of KServe, and Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.serving.limits import Refusal

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""The protocol's names of numpy's types."""

HEADER = "Inference-Header-Content-Length"
HEADER_LENGTH = HEADER.lower()
_GUIDE = "see docs/guides/serve.md, or GET /v2/models/NAME for what the model takes"
_UNSERVED = {
    "shared_memory_region": ("shared memory is not served", "send `data`, or binary data"),
    "classification": ("classification is not served", "ask for the output as it is"),
}
"""Parameters of tensors that would change their meaning: refused, other unknown ones are ignored."""


@dataclass(frozen=True)
class Wanted:
    """One output that a client asked for."""

    name: str
    binary: bool


@dataclass(frozen=True)
class Inference:
    """A parsed request.

    Attributes:
        inputs: Arrays by name, checked against the model's specification.
        outputs: What is to be answered.
        identity: The client's own name of the request, echoed.
    """

    inputs: dict[str, Array]
    outputs: tuple[Wanted, ...]
    identity: str | None = None


@dataclass
class _Tail:
    """The binary data behind a JSON header, handed out in order."""

    data: memoryview
    used: int = field(default=0)

    def take(self, size: int, name: str) -> memoryview:
        if size < 0 or self.used + size > len(self.data):
            left = len(self.data) - self.used
            raise Refusal(400, f"input `{name}` has {size} bytes of binary data, {left} came", _GUIDE)
        self.used += size
        return self.data[self.used - size : self.used]


def metadata(spec: TensorSpec) -> dict[str, Any]:
    """An input or output as the protocol describes it; -1 is a free size."""
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def takes(spec: TensorSpec) -> str:
    """An input as messages name it: in the protocol's words."""
    return f"`{spec.name}` {DATATYPES[spec.dtype]} {metadata(spec)['shape']}".replace("-1", "N")


def parse(
    body: bytes, header_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Inference:
    """An inference request, parsed and checked.

    Args:
        body: JSON, with binary data behind it where the header says so.
        header_length: What the HTTP header `Inference-Header-Content-Length` says, or None.
        inputs: What the model takes.
        outputs: What it gives.

    Raises:
        Refusal: 400 where it is not of the protocol, 422 where it does not fit the model.
    """
    head, tail = _split(body, header_length)
    if header_length is not None and not head:
        return _raw(tail.data, inputs, outputs)
    if head.count(b"[") + head.count(b"{") > len(head) // _BYTES_A_BRACKET + 1000:
        raise Refusal(400, "the request has more brackets than numbers can need", _GUIDE)
    try:
        return _parse(json.loads(head), tail, inputs, outputs)
    except (ValueError, RecursionError) as error:
        hint = f"{HEADER} is missing, if binary data follows; {_GUIDE}" if header_length is None else _GUIDE
        raise Refusal(400, f"the request is not JSON: {str(error)[:200]}", hint) from error


def _parse(
    request: Any, tail: _Tail, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Inference:
    given = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        listed = ", ".join(map(takes, inputs))
        raise Refusal(400, "the request has no list `inputs` of objects", f"send {listed}")
    specs = {spec.name: spec for spec in inputs}
    arrays: dict[str, Array] = {}
    for one in given:
        name = one.get("name")
        if not isinstance(name, str) or name not in specs or name in arrays:
            fault = "is sent twice" if isinstance(name, str) and name in arrays else "is none of the model's"
            known = ", ".join(map(takes, inputs))
            raise Refusal(422, f"input `{str(name)[:100]}` {fault}", f"it takes {known}")
        arrays[name] = _array(one, specs[name], tail)
    if lacking := [name for name in specs if name not in arrays]:
        raise Refusal(422, f"input `{lacking[0]}` is missing", f"send {takes(specs[lacking[0]])}")
    if tail.used != len(tail.data):
        raise Refusal(400, f"{len(tail.data) - tail.used} bytes of binary data belong to no input", _GUIDE)
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise Refusal(400, "`id` is no string", "send a string, or none")
    return Inference(arrays, _wanted(request, outputs), identity)


def render(
    name: str, version: str, inference: Inference, arrays: Mapping[str, Array]
) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers.

    Args:
        name: The model's.
        version: The model's.
        inference: What was asked.
        arrays: The model's outputs by name.

    Returns:
        The body and its HTTP headers.
    """
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for wanted in inference.outputs:
        array = np.ascontiguousarray(arrays[wanted.name])
        about: dict[str, Any] = {
            "name": wanted.name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if wanted.binary:
            blobs.append(array.tobytes())
            about["parameters"] = {"binary_data_size": array.nbytes}
        else:
            about["data"] = array.ravel().tolist()
        outputs.append(about)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if inference.identity is not None:
        answer["id"] = inference.identity
    head = json.dumps(answer, separators=(",", ":")).encode()
    if not blobs:
        return head, {"Content-Type": "application/json"}
    return b"".join([head, *blobs]), {
        "Content-Type": "application/octet-stream",
        HEADER: str(len(head)),
    }


_BYTES_A_BRACKET = 4
"""Nested data has one bracket a pixel, `[0,0,0],`; empty lists take 30 times their text in memory."""
_LETTERS = {"bool": 6, "uint8": 4, "int32": 12, "int64": 21}
"""Most bytes of a number in JSON, with its comma."""


def answer_bytes(inference: Inference, outputs: Sequence[TensorSpec], images: int) -> int:
    """Bytes of an answer, at most, from the shapes alone.

    Args:
        inference: What was asked.
        outputs: What the model gives; free sizes count as 1.
        images: Images of the request.
    """
    specs = {spec.name: spec for spec in outputs}
    size = 0
    for wanted in inference.outputs:
        spec = specs[wanted.name]
        each = np.dtype(spec.dtype).itemsize if wanted.binary else _LETTERS.get(spec.dtype, 25)
        size += images * each * math.prod(one or 1 for one in spec.shape[1:])
    return size


def json_bytes(body: bytes, header_length: str | None) -> int:
    """Bytes of a request that are JSON, before anything of it is checked."""
    if header_length is None or not (header_length.isascii() and header_length.isdigit()):
        return len(body)
    return min(len(body), int(header_length[:12]))


def _split(body: bytes, header_length: str | None) -> tuple[bytes, _Tail]:
    if header_length is None:
        return body, _Tail(memoryview(b""))
    if not (header_length.isascii() and header_length.isdigit()) or int(header_length[:12]) > len(body):
        raise Refusal(
            400,
            f"{HEADER} is {header_length[:40]}",
            f"send the length of the JSON before the binary data, 0 to {len(body)} here; 0 where all is data",
        )
    length = int(header_length)
    return body[:length], _Tail(memoryview(body)[length:])


def _raw(data: memoryview, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Inference:
    """A request that is binary data alone, without JSON: the one input, answered in binary."""
    listed = ", ".join(map(takes, inputs))
    if len(inputs) != 1:
        raise Refusal(400, f"a request without JSON fits one input, the model has {len(inputs)}", listed)
    dtype, sizes = np.dtype(inputs[0].dtype), [size for size in inputs[0].shape if size is not None]
    one = math.prod(sizes) * dtype.itemsize
    free = len(inputs[0].shape) - len(sizes)
    if free > 1 or not data or (len(data) % one if free else len(data) != one):
        raise Refusal(
            422, f"{len(data)} bytes of binary data do not fit", f"send {one} bytes per image: {listed}"
        )
    shape = [len(data) // one if size is None else size for size in inputs[0].shape]
    array = np.frombuffer(data, dtype).reshape(shape)
    return Inference({inputs[0].name: array}, tuple(Wanted(spec.name, True) for spec in outputs))


def _array(one: dict[str, Any], spec: TensorSpec, tail: _Tail) -> Array:
    """An input's array, checked against what the model takes."""
    shape, datatype = one.get("shape"), one.get("datatype")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise Refusal(
            422, f"input `{spec.name}` has no shape of whole numbers above 0", f"send {takes(spec)}"
        )
    if datatype != DATATYPES[spec.dtype]:
        raise Refusal(
            422, f"input `{spec.name}` has the datatype {str(datatype)[:40]}", f"send {takes(spec)}"
        )
    fits = len(shape) == len(spec.shape) and all(
        want in (None, have) for have, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise Refusal(422, f"input `{spec.name}` has shape {str(shape)[:100]}", f"send {takes(spec)}")
    count = math.prod(shape)
    dtype = np.dtype(spec.dtype)
    size = _parameters(one).get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != count * dtype.itemsize:
            raise Refusal(
                422,
                f"input `{spec.name}` names {str(size)[:40]} bytes of binary data for the shape {shape}",
                f"send {count * dtype.itemsize}",
            )
        return np.frombuffer(tail.take(size, spec.name), dtype).reshape(shape)
    return _numbers(one.get("data"), spec, shape).reshape(shape)


def _numbers(data: Any, spec: TensorSpec, shape: list[int]) -> Array:
    """A list of numbers, flat or nested, as an array of the type that the model takes."""
    count = math.prod(shape)
    if not isinstance(data, list):
        raise Refusal(422, f"input `{spec.name}` has no list `data`", f"send {count} numbers")
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise Refusal(422, f"`data` of input `{spec.name}` is ragged", f"send {count} numbers") from error
    dtype = np.dtype(spec.dtype)
    if values.size != count:
        raise Refusal(
            422, f"`data` of input `{spec.name}` holds {values.size} values", f"send {count}: {takes(spec)}"
        )
    if values.ndim > 1 and list(values.shape) != shape:
        raise Refusal(
            400,
            f"`data` of input `{spec.name}` is nested as {list(values.shape)}, its shape is {shape}",
            f"send a flat list, or one nested as the shape: {takes(spec)}",
        )
    whole = f"whole numbers: {takes(spec)}" if dtype.kind in "iu" else takes(spec)
    if values.dtype.kind not in ("iu" if dtype.kind in "iu" else "iuf"):
        raise Refusal(422, f"`data` of input `{spec.name}` are no {spec.dtype} numbers", f"send {whole}")
    if dtype.kind in "iu":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        if values.min() < least or values.max() > most:
            raise Refusal(422, f"`data` of input `{spec.name}` leaves {least}..{most}", f"send {whole}")
    return values.astype(dtype)


def _wanted(request: dict[str, Any], outputs: Sequence[TensorSpec]) -> tuple[Wanted, ...]:
    names = [spec.name for spec in outputs]
    usual = _flag(request, "binary_data_output")
    listed = request.get("outputs")
    if listed is None:
        return tuple(Wanted(name, usual) for name in names)
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed) or not listed:
        known = ", ".join(f"`{name}`" for name in names)
        raise Refusal(
            400, "`outputs` is no list of one object or more", f"name {known} there, or leave it out"
        )
    wanted: list[Wanted] = []
    for one in listed:
        if one.get("name") not in names:
            known = ", ".join(f"`{name}`" for name in names)
            raise Refusal(422, f"the model has no output `{str(one.get('name'))[:100]}`", f"known: {known}")
        if any(one["name"] == before.name for before in wanted):
            raise Refusal(400, f"output `{one['name']}` is asked for twice", "ask for each output once")
        wanted.append(Wanted(one["name"], _flag(one, "binary_data", usual)))
    return tuple(wanted)


def _flag(owner: dict[str, Any], key: str, usual: bool = False) -> bool:
    value = _parameters(owner).get(key, usual)
    if not isinstance(value, bool):
        raise Refusal(400, f"the parameter `{key}` is {str(value)[:40]}", "send true or false")
    return value


def _parameters(owner: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request, an input or an output."""
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise Refusal(400, "`parameters` is no object", 'send {"NAME": value}, or leave it out')
    for name, (fault, hint) in _UNSERVED.items():
        if name in parameters:
            raise Refusal(400, f"parameter `{name}`: {fault}", hint)
    return parameters
