"""Bundles that no honest writer makes, each with the reason for which every reader has to refuse it.

`python -m tests.bundles.hostile OUT` writes them as folders and files, with `OUT/expected.json`: a list of
`name`, `path`, `door` (what has to be refused: `open`, `reference`, `vocabulary` or `session`), `reason` (a
key of `REASONS`), `message` (a regular expression that is found in the error) and `languages`. They are the
same every time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from clouds_deploy.artifacts import MANIFEST
from clouds_deploy.bundles.bundle import FACTS, GATES, GRAPH, REFERENCE
from clouds_deploy.bundles.vocabulary import FILE
from tests.cpp.toy import write_toy

REASONS = {
    "json": "is not valid JSON",
    "large": "is larger than 16 MiB",
    "deep": "is nested over 64 deep",
    "digits": "a number has over 400 digits",
    "values": "has over 1000000 values",
    "format": "is not of format 1",
    "kind": "is a .*, not a bundle",
    "facts": "lacks or garbles a fact",
    "outside": "names a file outside of its directory",
    "unlisted": "is not in the manifest of the bundle",
    "missing": "is missing from the bundle",
    "changed": "is not the file its manifest names",
    "link": "is a link that leads out of its directory",
    "unfinished": "it is not a finished bundle|is no file|is missing",
    "weights": "takes weights from",
    "engine": "names the engine",
    "onnx": "is no ONNX file",
    "graph": "of another shape in the graph|refuses",
    "arrays": "is no array file",
    "vocabulary": "is no vocabulary file|vectors are|names,|not finite|classes",
    "packed": "is no bundle, or was changed|is not in the manifest|is missing from",
}
"""What the error says, by the reason."""
BOTH, PYTHON = ("python", "cpp"), ("python",)
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Hostile:
    """One bundle that has to be refused.

    Attributes:
        name: Unique.
        path: Below the folder that all are written to.
        door: What refuses it.
        reason: A key of `REASONS`, or several with `|` between.
        message: What the error says, a regular expression.
        languages: Readers that have this door.
    """

    name: str
    path: str
    door: str
    reason: str
    message: str
    languages: tuple[str, ...]


# ---------------------------------------------------------------- changes


def digest(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def manifest(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Changes the manifest alone."""

    def apply(folder: Path) -> None:
        tree = json.loads((folder / MANIFEST).read_text())
        change(tree)
        (folder / MANIFEST).write_text(json.dumps(tree))

    return apply


def setting(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        del tree[keys[-1]]

    return change


def raw(data: bytes, file: str = MANIFEST, *, seal: bool = False) -> Change:
    def apply(folder: Path) -> None:
        (folder / file).write_bytes(data)
        if seal:
            reseal(folder, file)

    return apply


def reseal(folder: Path, *files: str) -> None:
    tree = json.loads((folder / MANIFEST).read_text())
    for file in files:
        tree["files"][file] = digest((folder / file).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(tree))


def facts(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Changes `bundle.json`, and seals it: everything holds but what it says."""

    def apply(folder: Path) -> None:
        tree = json.loads((folder / FACTS).read_text())
        change(tree)
        (folder / FACTS).write_text(json.dumps(tree))
        reseal(folder, FACTS)

    return apply


def text_in(file: str, old: str, new: str) -> Change:
    def apply(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text, old
        (folder / file).write_text(text.replace(old, new, 1))
        if file != MANIFEST:
            reseal(folder, file)

    return apply


def model(change: Callable[[Any], None], *more: Change) -> Change:
    """Changes the ONNX file, and seals it."""

    def apply(folder: Path) -> None:
        graph = onnx.load(folder / GRAPH)
        change(graph)
        (folder / GRAPH).write_bytes(graph.SerializeToString())
        for one in more:
            one(folder)
        reseal(folder, GRAPH)

    return apply


def external(tensor: Any, location: str, **entries: int) -> None:
    for name in ("raw_data", "float_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def weights_at(location: str, **entries: int) -> Change:
    def change(graph: Any) -> None:
        external(next(t for t in graph.graph.initializer if t.name == "weights"), location, **entries)

    return model(change)


def constant_at(location: str) -> Change:
    """External data of a constant's attribute, in a branch of an `If`, rather than of an initialiser."""

    def change(graph: Any) -> None:
        tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1])
        external(tensor, location, offset=0, length=4)
        node = helper.make_node("Constant", [], ["far"])
        node.attribute.append(helper.make_attribute("value", tensor))
        info = helper.make_tensor_value_info("far", TensorProto.FLOAT, [1])
        branch = helper.make_graph([node], "branch", [], [info])
        graph.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
        graph.graph.node.insert(
            0, helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch)
        )

    return model(change)


def sparse_at(location: str) -> Change:
    def change(graph: Any) -> None:
        sparse = graph.graph.sparse_initializer.add()
        sparse.dims.append(4)
        sparse.values.CopyFrom(TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1]))
        external(sparse.values, location, offset=0, length=4)

    return model(change)


def function_at(location: str) -> Change:
    def change(graph: Any) -> None:
        tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1])
        external(tensor, location, offset=0, length=4)
        node = helper.make_node("Constant", [], ["far"])
        node.attribute.append(helper.make_attribute("value", tensor))
        made = helper.make_function("local", "Far", [], ["far"], [node], [helper.make_opsetid("", 17)])
        graph.functions.append(made)

    return model(change)


def link(name: str, to: str, *, seal_as: str = "") -> Change:
    """Puts a link in the place of a file; `to` may name `{out}`, a file beside the bundle."""

    def apply(folder: Path) -> None:
        path = folder / name
        beside = folder.parent / f"{folder.name}.beside"
        if path.is_file():
            shutil.copyfile(path, beside)
            path.unlink()
        else:
            beside.write_bytes(b"x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(to.format(out=f"{'../' * len(Path(name).parts)}{beside.name}"))

    return apply


def swapped(name: str, make: Callable[[Path], None]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / name
        if path.exists():
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return apply


def flipped(name: str) -> Change:
    def apply(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return apply


def added(name: str, data: bytes = b"x") -> Change:
    return swapped(name, lambda path: path.write_bytes(data) and None)


def resized(name: str, by: int) -> Change:
    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data + b"x" * by if by > 0 else data[:by])

    return apply


# ---------------------------------------------------------------- zips


def npy(
    descr: str = "'|u1'", shape: str = "(4,)", data: bytes = b"abcd", order: str = "False", **more: Any
) -> bytes:
    header = more.get("header") or f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text = header.encode().ljust(more.get("width", 117)) + b"\n"
    return more.get("magic", b"\x93NUMPY\x01\x00") + struct.pack("<H", len(text)) + text + data


@dataclass
class Entry:
    """An entry of a zip; what its two headers say can differ from what it is."""

    name: str
    data: bytes
    deflated: bool = False
    method: int | None = None
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    at: int | None = None
    attributes: int = 0


def zipped(
    entries: Iterable[Entry], *, before: bytes = b"", count: int | None = None, shift: int = 0
) -> bytes:
    body, directory, number = before, b"", 0
    for entry in entries:
        number += 1
        packed = entry.data
        if entry.deflated:
            deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = deflate.compress(entry.data) + deflate.flush()
        method = entry.method if entry.method is not None else 8 if entry.deflated else 0
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        length = len(packed) if entry.packed is None else entry.packed
        inner = (entry.local_name or entry.name).encode()
        shown = size if entry.local_size is None else entry.local_size
        head = struct.pack(
            "<IHHHHHIIIHH", 0x04034B50, 20, entry.flags, method, 0, 0x21, crc, length, shown, len(inner), 0
        )
        at = len(body) if entry.at is None else entry.at
        if entry.at is None:
            body += head + inner + packed
        name = entry.name.encode()
        directory += struct.pack(
            "<IHHHHHHIIIHHHHHII",
            *(0x02014B50, 0x0314, 20, entry.flags, method, 0, 0x21, crc, length, size, len(name), 0, 0, 0, 0),
            *(entry.attributes, at),
        )
        directory += name
    number = number if count is None else count
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, number, number, len(directory), len(body) + shift, 0)
    return body + directory + end


def bomb(name: str, mebibytes: int) -> Entry:
    """An entry of zeros, a thousandth as large as what it unpacks to."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)  # can be repeated
    return Entry(name, part * mebibytes + deflate.flush(), method=8, size=mebibytes << 20)


GOOD = npy()
ARRAYS = {
    "empty": b"",
    "text": b"no zip at all" * 10,
    "truncated": zipped([Entry("image.npy", GOOD)])[:-10],
    "no_end": zipped([Entry("image.npy", GOOD)])[:-22],
    "twice": zipped([Entry("image.npy", GOOD), Entry("image.npy", GOOD)]),
    "overlap": zipped(
        [Entry("image.npy", GOOD), *(Entry("labels.npy", GOOD, at=0, local_name="image.npy"),)]
    ),
    "overlap_same_name": zipped([Entry("image.npy", GOOD), Entry("image.npy", GOOD, at=0)]),
    "encrypted": zipped([Entry("image.npy", GOOD, flags=1)]),
    "checksum": zipped([Entry("image.npy", GOOD, crc=1)]),
    "size_too_large": zipped([Entry("image.npy", GOOD, size=len(GOOD) + 9)]),
    "size_too_small": zipped([Entry("image.npy", GOOD, size=10)]),
    "deflated_size": zipped([Entry("image.npy", GOOD, deflated=True, size=len(GOOD) + 5)]),
    "deflated_garbage": zipped([Entry("image.npy", b"\xff" * 60, method=8, size=200)]),
    "unknown_method": zipped([Entry("image.npy", GOOD, method=99)]),
    "lzma": zipped([Entry("image.npy", GOOD, method=14)]),
    "bzip2": zipped([Entry("image.npy", GOOD, method=12)]),
    "two_names": zipped([Entry("image.npy", GOOD, local_name="other.npy")]),
    "two_sizes": zipped([Entry("image.npy", GOOD, local_size=3)]),
    "beyond_the_end": zipped([Entry("image.npy", GOOD), Entry("labels.npy", GOOD, at=1 << 30)]),
    "count": zipped([Entry("image.npy", GOOD)], count=2),
    "count_none": zipped([Entry("image.npy", GOOD)], count=0),
    "directory_elsewhere": zipped([Entry("image.npy", GOOD)], shift=7),
    "many": zipped([Entry(f"a{i}.npy", GOOD) for i in range(65)]),
    "no_array": zipped([Entry("image.npy", b"text")]),
    "magic": zipped([Entry("image.npy", npy(magic=b"\x93NUMPZ\x01\x00"))]),
    "objects": zipped([Entry("image.npy", npy("'|O'", "(1,)", b"\x80\x04N."))]),
    "objects_bytes": zipped([Entry("image.npy", npy("'|O8'", "(1,)", b"\x41" * 8))]),
    "unicode": zipped([Entry("image.npy", npy("'<U1'", "(1,)", b"a\0\0\0"))]),
    "record": zipped([Entry("image.npy", npy("[('a', '<f4')]", "(1,)", b"\0" * 4))]),
    "big_endian": zipped([Entry("image.npy", npy("'>f4'", "(1,)", b"\0" * 4))]),
    "wide": zipped([Entry("image.npy", npy("'<f16'", "(1,)", b"\0" * 16))]),
    "fortran": zipped([Entry("image.npy", npy(shape="(2, 2)", order="True"))]),
    "negative": zipped([Entry("image.npy", npy(shape="(-4,)"))]),
    "huge": zipped([Entry("image.npy", npy(shape="(4611686018427387904, 4)"))]),
    "overflow": zipped([Entry("image.npy", npy(shape="(4294967296, 4294967296)"))]),
    "too_short": zipped([Entry("image.npy", npy(shape="(5,)"))]),
    "too_long": zipped([Entry("image.npy", npy(shape="(3,)"))]),
    "no_shape": zipped([Entry("image.npy", npy(header="{'descr': '|u1', 'fortran_order': False, }"))]),
    "code_in_header": zipped([Entry("image.npy", npy(shape="(__import__('os').getpid(),)"))]),
    "deep_header": zipped([Entry("image.npy", npy(shape="(" * 3000 + ")" * 3000))]),
    "long_header": zipped([Entry("image.npy", npy(width=20000))]),
    "bomb": zipped([bomb("image.npy", 1200)]),
}


def reference(data: bytes) -> Change:
    return raw(data, REFERENCE, seal=True)


def words(**arrays: Any) -> Change:
    """Changes the vocabulary of a text-headed bundle."""

    def apply(folder: Path) -> None:
        with np.load(folder / FILE) as old:
            held = {**{name: old[name] for name in old.files}, **arrays}
        np.savez(folder / FILE, **{name: value for name, value in held.items() if value is not None})
        reseal(folder, FILE)

    return apply


def names(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


# ---------------------------------------------------------------- the list

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5000
ODD_NAMES = {
    "up": "../x", "up_in_between": "a/../../x", "up_and_back": "a/../bundle.json", "absolute": "/etc/passwd",
    "device": "/dev/zero", "kernel": "/proc/kmsg", "dot": ".", "dots": "..", "dot_first": "./bundle.json",
    "empty": "", "empty_part": "a//b", "slash_last": "a/", "backslash": "a\\b", "backslashes_up": "..\\..\\x",
    "drive": "C:x", "drive_absolute": "C:/x", "nul": "a\0b", "newline": "a\nb", "escape": "a\x1b[31mb",
    "delete": "a\x7fb",
    "part_of_256_bytes": "a" * 256, "part_of_256_bytes_wide": "é" * 128, "of_5000_bytes": "a" * 5000,
}  # fmt: skip
FACT_FAULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"without_{key}": without(key) for key in (
        "inputs", "outputs", "height", "width", "mean_color", "classes", "palette", "label_agreement",
        "backbone_weights",
    )},
    **{f"height_{name}": setting("height", to=value) for name, value in {
        "zero": 0, "negative": -32, "huge": 2**40, "beyond": 65537, "text": "32", "null": None, "list": [32],
        "fraction": 32.5, "over_64_bits": 2**70, "other": 64,
    }.items()},
    "width_other": setting("width", to=32),
    **{f"mean_color_{name}": setting("mean_color", to=value) for name, value in {
        "large": [300, 1, 5], "negative": [1, -1, 5], "one": [1], "four": [1, 2, 3, 4], "text": "abc",
        "null": None, "fraction": [0.5, 1, 2],
    }.items()},
    **{f"{side}_{name}": setting(side, to=value) for side in ("inputs", "outputs") for name, value in {
        "empty": [], "null": None, "text": "x", "number": 3, "object": {}, "of_null": [None],
        "of_text": ["x"], "nameless": [{"dtype": "uint8", "shape": [None]}],
        "shapeless": [{"name": "x", "dtype": "uint8"}],
        "shape_text": [{"name": "x", "dtype": "uint8", "shape": "abc"}],
        "shape_of_objects": [{"name": "x", "dtype": "uint8", "shape": [{}, []]}],
        "shape_negative": [{"name": "x", "dtype": "uint8", "shape": [-1]}],
        "shape_overflow": [{"name": "x", "dtype": "uint8", "shape": [2**30] * 8}],
        "shape_long": [{"name": "x", "dtype": "uint8", "shape": [1] * 9}],
    }.items()},
    "inputs_of_another_size": lambda tree: setting("shape", to=[None, 99, 99, 3])(tree["inputs"][0]),
    "inputs_of_another_type": lambda tree: setting("dtype", to="float32")(tree["inputs"][0]),
    "outputs_of_another_size": lambda tree: setting("shape", to=[None, 32])(tree["outputs"][0]),
    "outputs_many": lambda tree: tree["outputs"].extend(tree["outputs"] * 3),
    "classes_null": setting("classes", to=None),
    "classes_numbers": setting("classes", to=[1, 2]),
    "palette_text": setting("palette", to=["red;}</style>"] * 19),
    "palette_large": setting("palette", to=[[256, 0, 0]] * 19),
    "agreement_text": setting("label_agreement", to="NaN"),
    "agreement_null": setting("label_agreement", to=None),
    "engines_text": setting("engines", to="x"),
    "engines_bare": setting("engines", to=[{"file": "../../../etc/passwd"}]),
    "weights_number": setting("backbone_weights", to=3),
}  # fmt: skip
PYTHON_FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "inference": setting("inference", to=["x"]),
    "recipe_null": setting("recipe", to=None),
    "recipe_unknown_key": setting("recipe", "evil", to=1),
    "recipe_options": setting(
        "recipe", "model", "backbone", to={"name": "open_clip/RN50", "options": {"weights_only": False}}
    ),
    "recipe_checkpoint": setting(
        "recipe",
        "model",
        "backbone",
        to={"name": "timm/resnet18", "options": {"checkpoint_path": "evil.pth"}},
    ),
}


def _manifests() -> Iterable[tuple[str, str, Change]]:
    yield "deep_list", "deep", raw(DEEP.encode())
    yield "deep_object", "deep", raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "deep_unclosed", "deep", raw(b"[" * 200_000)
    yield "deep_by_one", "deep", manifest(setting("x", to=json.loads("[" * 64 + "]" * 64)))
    yield "digits", "digits", text_in(MANIFEST, '"format": 1', f'"format": {DIGITS}')
    yield "digits_401", "digits", text_in(MANIFEST, '"format": 1', '"format": 1, "x": ' + "1" * 401)
    yield "values", "values", raw(b'{"x": [' + b"1," * 1_000_001 + b"1]}")
    yield "large", "large", raw(b'{"format": 1}' + b" " * (17 << 20))
    for name, data in {
        "empty": b"", "binary": b"\xff\xfe\x00\x80" * 50, "utf16": '{"format": 1}'.encode("utf-16"),
        "cut_off": b'{"format": 1, "kind": "bun', "trailing": b'{"format": 1} x',
        "single_quotes": b"{'format': 1}",
        "comment": b'{"format": 1 /* x */}', "nan": b'{"format": 1, "x": NaN}',
        "infinity": b'{"x": -Infinity}',
        "surrogate": b'{"format": 1, "x": "\\ud800"}', "control": b'{"format": 1, "x": "\n"}',
        "trailing_comma": b"[1,]",
        "infinite": b'{"format": 1, "x": 1e999}',
    }.items():  # fmt: skip
        yield f"json_{name}", "json", raw(data)
    for name, data in {
        "list": b"[]",
        "number": b"12",
        "null": b"null",
        "text": b'"x"',
        "object": b"{}",
    }.items():
        yield f"is_{name}", "format", raw(data)
    for name, value in {"2": 2, "text": "1", "true": True, "null": None, "list": [1]}.items():
        yield f"format_{name}", "format", manifest(setting("format", to=value))
    yield "kind_run", "kind", manifest(setting("kind", to="run"))
    yield "kind_absent", "kind", manifest(without("kind"))
    yield "absent", "unfinished", lambda folder: (folder / MANIFEST).unlink()
    yield "is_folder", "unfinished", swapped(MANIFEST, lambda path: path.mkdir())
    yield "is_pipe", "unfinished", swapped(MANIFEST, os.mkfifo)
    yield "is_lost_link", "unfinished", swapped(MANIFEST, lambda path: path.symlink_to("nowhere"))


def _entries() -> Iterable[tuple[str, str, Change]]:
    yield "absent", "facts", manifest(without("files"))
    for name, value in {"list": [], "null": None, "text": "x", "number": 1, "true": True}.items():
        yield name, "facts", manifest(setting("files", to=value))
        if name != "list":
            yield f"entry_{name}", "facts", manifest(setting("files", GRAPH, to=value))
    yield "entry_list", "facts", manifest(setting("files", GRAPH, to=[]))
    for key in ("bytes", "sha256"):
        yield f"entry_without_{key}", "facts", manifest(without("files", GRAPH, key))
        yield f"{key}_null", "facts", manifest(setting("files", GRAPH, key, to=None))
        yield f"{key}_list", "facts", manifest(setting("files", GRAPH, key, to=[]))
    for name, size in {
        "text": "573",
        "fraction": 573.5,
        "negative": -1,
        "over": 2**63,
        "huge": 10**300,
    }.items():
        yield f"bytes_{name}", "facts", manifest(setting("files", GRAPH, "bytes", to=size))
    yield "bytes_deep", "deep", text_in(MANIFEST, '"bytes": ', f'"bytes": {DEEP}, "x": ')
    yield "bytes_other", "changed", manifest(setting("files", GRAPH, "bytes", to=1))
    yield "sha256_other", "changed", manifest(setting("files", GRAPH, "sha256", to="0" * 64))
    yield "none", "unlisted", manifest(setting("files", to={}))
    yield "graph_unlisted", "unlisted", manifest(without("files", GRAPH))
    yield "facts_unlisted", "unlisted", manifest(without("files", FACTS))
    nothing = digest(b"")
    for name, odd in ODD_NAMES.items():
        yield f"name_{name}", "outside", manifest(setting("files", odd, to=nothing))


def _files() -> Iterable[tuple[str, str, Change]]:
    for name in (
        "evil.so",
        ".hidden",
        "weights.bin",
        "source/frozen.safetensors",
        "a/b/c/d",
        "vocabulary.npz",
    ):
        yield f"added_{name.replace('/', '_')}", "unlisted", added(name)
    yield "added_link", "unlisted", link("evil", "{out}")
    yield "added_link_to_folder", "unlisted", swapped("evil", lambda path: path.symlink_to("/tmp"))
    yield "added_lost_link", "unlisted", swapped("evil", lambda path: path.symlink_to("nowhere"))
    yield "added_pipe", "unlisted", swapped("evil", os.mkfifo)
    for name in (FACTS, GRAPH, GATES, REFERENCE):
        plain = name.partition(".")[0]
        yield f"removed_{plain}", "missing", lambda folder, name=name: (folder / name).unlink()  # type: ignore[misc]
        yield f"flipped_{plain}", "changed", flipped(name)
        yield f"grown_{plain}", "changed", resized(name, 1)
        yield f"cut_{plain}", "changed", resized(name, -1)
        yield f"link_out_{plain}", "link", link(name, "{out}")
        yield f"pipe_{plain}", "missing", swapped(name, os.mkfifo)
        yield f"folder_{plain}", "missing", swapped(name, lambda path: path.mkdir())
        yield f"loop_{plain}", "missing", link(name, name)


def _models() -> Iterable[tuple[str, str, Change]]:
    for name, location in {
        "up": "../secret.bin", "absolute": "/tmp/secret.bin", "passwd": "../../../../../../etc/passwd",
        "device": "/dev/zero", "process": "/proc/self/mem", "memory": "*/_ORT_MEM_ADDR_/*", "absent": "w.bin",
        "no_name": "", "dot": ".", "dotted": "./bundle.json", "escape": "a\x1b[31m",
    }.items():  # fmt: skip
        yield f"weights_{name}", "weights", weights_at(location, offset=0, length=228)
    yield "weights_memory_at", "weights", weights_at("*/_ORT_MEM_ADDR_/*", offset=0x41414141, length=228)
    yield "weights_huge", "weights", weights_at("../secret.bin", offset=0, length=2**62)
    yield "weights_before", "weights", weights_at("../secret.bin", offset=-4, length=228)
    yield "constant_up", "weights", constant_at("../secret.bin")
    yield "constant_memory", "weights", constant_at("*/_ORT_MEM_ADDR_/*")
    yield "sparse_up", "weights", sparse_at("../secret.bin")
    yield "function_memory", "weights", function_at("*/_ORT_MEM_ADDR_/*")
    for name, data in {
        "garbage": b"\x08\x07garbage" * 100, "empty": b"", "text": b"<net name='x'/>", "groups": b"\x3b\x3c",
        "long_varint": b"\x08" + b"\xff" * 11, "beyond": b"\x3a\xff\xff\xff\xff\x0f",
        "field_zero": b"\x00\x01", "nested": _nested(150),
    }.items():  # fmt: skip
        yield f"onnx_{name}", "onnx", raw(data, GRAPH, seal=True)


def _nested(levels: int) -> bytes:
    """A graph whose node has an attribute that is a graph, and so on."""
    data = b""
    for _ in range(levels):
        for field in (b"\x32", b"\x2a", b"\x0a"):  # graph in an attribute, attribute of a node, node
            data = field + _varint(len(data)) + data
    return b"\x3a" + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _vocabularies() -> Iterable[tuple[str, Change]]:
    vectors = np.ones((19, 1, 3), np.float32)
    share = np.ones(19, np.float32)
    yield "names_deep", words(names=names(DEEP))
    yield "names_object", words(names=names("{}"))
    yield "names_numbers", words(names=names("[1, 2]"))
    yield "names_no_json", words(names=names("x"))
    yield "names_few", words(names=names('["a"]'))
    yield "names_absent", words(names=None)
    yield "vectors_absent", words(vectors=None)
    yield "share_absent", words(share=None)
    yield "vectors_double", words(vectors=vectors.astype(np.float64))
    yield "vectors_flat", words(vectors=vectors[:, 0])
    yield "vectors_none", words(vectors=vectors[:, :0])
    yield "vectors_nan", words(vectors=vectors * np.float32("nan"))
    yield "vectors_infinite", words(vectors=vectors * np.float32("inf"))
    yield "share_over", words(share=share * 2)
    yield "share_nan", words(share=share * np.float32("nan"))
    yield "share_short", words(share=share[:5])
    many = np.ones((300, 1, 3), np.float32)
    yield (
        "too_many",
        words(names=names(json.dumps(["a"] * 300)), vectors=many, share=np.ones(300, np.float32)),
    )
    yield "no_zip", raw(b"x" * 100, FILE, seal=True)


def _packed(good: dict[str, bytes]) -> Iterable[tuple[str, bytes]]:
    entries = [Entry(name, data) for name, data in good.items()]
    whole = zipped(entries)
    regular = 0o100644 << 16
    yield "empty", b""
    yield "text", b"hello" * 100
    yield "cut_off", whole[:-30]
    yield "flipped", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    for name, odd in ODD_NAMES.items():
        if odd and not odd.endswith("/"):
            yield f"name_{name}", zipped([*entries, Entry(odd, b"x")])
    yield "unlisted", zipped([*entries, Entry("evil.so", b"x")])
    yield "without_manifest", zipped([entry for entry in entries if entry.name != MANIFEST])
    yield "without_graph", zipped([entry for entry in entries if entry.name != GRAPH])
    yield "two_manifests", zipped([Entry(MANIFEST, b"{}"), *entries])
    yield "file_and_folder", zipped([*entries, Entry(f"{GRAPH}/evil", b"x")])
    yield "link", zipped([*entries, Entry("evil", b"/etc/passwd", attributes=0o120777 << 16)])
    yield "device", zipped([*entries, Entry("evil", b"", attributes=0o020666 << 16)])
    yield "compressed", zipped([Entry(e.name, e.data, deflated=True, attributes=regular) for e in entries])
    yield "bomb", zipped([*entries, bomb("bomb.bin", 3000)])
    yield "encrypted", zipped([Entry(e.name, e.data, flags=1) for e in entries])
    yield "overlap", zipped([*entries, Entry("evil", entries[0].data, at=0, local_name=entries[0].name)])
    yield "two_names", zipped([*entries, Entry("evil", b"x", local_name="good")])
    yield "checksum", zipped([Entry(e.name, e.data, crc=7) for e in entries])
    yield "something_before", zipped(entries, before=b"#!/bin/sh\n", shift=-10)
    yield "many", zipped([*entries, *(Entry(f"f{i}", b"") for i in range(5000))])


def write_all(out: Path) -> list[Hostile]:
    """Writes all bundles below a folder, and `expected.json`.

    Returns:
        What each has to be refused for.
    """
    out.mkdir(parents=True)
    base, text = write_toy(out / "good"), write_toy(out / "good_text", text=True)
    made: list[Hostile] = []

    def add(
        group: str, name: str, door: str, reason: str, change: Change, of: Path, who: tuple[str, ...] = BOTH
    ) -> None:
        full = f"{group}_{name}"
        shutil.copytree(of, out / full)
        change(out / full)
        message = "|".join(REASONS[one] for one in reason.split("|"))
        made.append(Hostile(full, full, door, reason, message, who))

    for name, reason, change in _manifests():
        add("manifest", name, "open", reason, change, base)
    for name, reason, change in _entries():
        add("entry", name, "open", reason, change, base)
    for name, reason, change in _files():
        add("file", name, "open", reason, change, base)
    for name, fault in FACT_FAULTS.items():
        add("facts", name, "open", "facts", facts(fault), base)
    for name, fault in PYTHON_FACTS.items():
        add("facts", name, "open", "facts", facts(fault), base, PYTHON)
    engine = {"file": "../evil.engine", "engine": "tensorrt", "version": "1", "sha256": "", "sms": []}
    outside = facts(setting("engines", to=[engine]))
    add("facts", "engine_outside", "open", "engine", outside, base, PYTHON)
    add("facts", "deep", "open", "deep", text_in(FACTS, '"height": 32', f'"height": {DEEP}'), base)
    add("facts", "digits", "open", "digits", text_in(FACTS, '"height": 32', f'"height": {DIGITS}'), base)
    add("facts", "nan", "open", "json", text_in(FACTS, '"height": 32', '"height": NaN'), base)
    add("facts", "list", "open", "facts", raw(b"[1]", FACTS, seal=True), base)
    add("facts", "number", "open", "facts", raw(b"0", FACTS, seal=True), base)
    add("facts", "empty", "open", "json", raw(b"", FACTS, seal=True), base)
    for name, reason, change in _models():
        add("model", name, "open", reason, change, base)
    lie = facts(lambda tree: setting("name", to="nolabels")(tree["outputs"][0]))
    add("model", "another_output", "session", "graph", lie, base)
    custom = model(lambda graph: setattr(graph.graph.node[0], "domain", "evil.corp"))
    add("model", "unknown_domain", "session", "graph", custom, base)
    for name, data in ARRAYS.items():
        add("arrays", name, "reference", "arrays", reference(data), base)
    for name, change in _vocabularies():
        add("words", name, "vocabulary", "vocabulary", change, text)
    good = {path.name: path.read_bytes() for path in sorted(base.iterdir())}
    for name, data in _packed(good):
        path = f"packed_{name}.clouds"
        (out / path).write_bytes(data)
        made.append(Hostile(f"packed_{name}", path, "open", "packed", REASONS["packed"], PYTHON))
    (out / "expected.json").write_text(json.dumps([asdict(one) for one in made], indent=1) + "\n")
    return made


if __name__ == "__main__":
    sys.stdout.write(f"{len(write_all(Path(sys.argv[1])))} bundles in {sys.argv[1]}\n")
