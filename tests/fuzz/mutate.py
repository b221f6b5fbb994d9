"""Damage to whole inputs: blindly in bytes, or in parts of a file that is then made to hold again.

Blind damage mostly fails a checksum at the door. So documents are changed as trees, and zips, tars and PNGs
member by member, with the checksums that follow made right afterwards.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
"""Changes an input; the third argument are all inputs that are known."""

LONGEST = 1 << 20
"""Bytes of an input: what is larger says nothing that a smaller one does not."""
_EDGES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_TEXTS = (
    "", "\0", "..", "../x", "/etc/passwd", "a" * 300, "\x1b[31m", "nan", "1e999", "9" * 5000, "\ud800", "é",
    "C:x", "con", "\u202e", "[" * 100, "{" * 100, "0x", "_", "2001-99-99", "1:2:3", "!!python/name:os.system",
    "&a [*a]", "*a", "<<: *a", "!!binary =", "? ", "- ", "---\n", "%YAML 9.9\n---\n",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 256, 2**31, 2**63, 2**64, 10**30, -0.0, 1e308, "", "x", "..", "\0",
    [], {}, [[]], {"": 0}, [0] * 1000, "a" * 300, "\ud800", 0.5,
)  # fmt: skip


def any_bytes(data: bytes, rng: random.Random, known: Sequence[bytes]) -> bytes:
    """One to eight changes of any kind, anywhere."""
    made = bytearray(data[:LONGEST])
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(made) + 1)
        length = min(rng.choice((1, 2, 4, 8, 16, 64, 1024)), len(made) - at)
        match rng.randrange(9):
            case 0 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                del made[at : at + length]
            case 2:
                made[at:at] = made[at : at + length] * rng.choice((1, 2, 50))
            case 3:
                made[at : at + length] = rng.randbytes(length)
            case 4:
                size, order = rng.choice((1, 2, 4, 8)), rng.choice("<>")
                value = (rng.choice(_EDGES) + rng.randrange(-2, 3)) & ((1 << 8 * size) - 1)
                made[at : at + size] = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[size], value)
            case 5:
                other = rng.choice(known)
                start = rng.randrange(len(other) + 1)
                made[at:at] = other[start : start + rng.choice((4, 16, 256))]
            case 6:
                made[at:at] = rng.choice(_TEXTS).encode("utf-8", "surrogatepass")
            case 7:
                numbers = list(re.finditer(rb"\d+", made))
                if numbers:
                    one = rng.choice(numbers)
                    made[one.start() : one.end()] = str(rng.choice(_EDGES) + rng.randrange(-2, 3)).encode()
            case _:
                del made[at:]
    return bytes(made[:LONGEST])


def tree(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts replaced, removed, doubled or nested; the value itself stays."""
    value = json.loads(json.dumps(value))
    if not isinstance(value, (dict, list)) or not value:
        return rng.choice(_VALUES)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(keys)
    inner = value[key]
    if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
        value[key] = tree(inner, rng)
        return value
    match rng.randrange(5):
        case 0:
            del value[key]
        case 1 if isinstance(value, list):
            value.insert(rng.randrange(len(value) + 1), inner)
        case 1:
            value[rng.choice(_TEXTS)] = inner
        case 2:
            value[key] = [inner]
        case 3 if isinstance(inner, (int, float)):
            value[key] = rng.choice((inner + 1, -inner, inner * 10**6, inner / 2, str(inner)))
        case _:
            value[key] = rng.choice(_VALUES)
    return value


def documents(data: bytes, rng: random.Random, known: Sequence[bytes]) -> bytes:
    """A JSON document, changed as a tree or, one time in three, as bytes."""
    if rng.random() < 0.33:
        return any_bytes(data, rng, known)
    try:
        value = json.loads(data)
        for _ in range(rng.choice((1, 1, 2))):
            value = tree(value, rng)
        return json.dumps(value).encode()
    except (ValueError, RecursionError, TypeError):
        return any_bytes(data, rng, known)


def texts(data: bytes, rng: random.Random, known: Sequence[bytes]) -> bytes:
    """YAML: a value, a key or a line changed, or bytes."""
    if rng.random() < 0.3:
        return any_bytes(data, rng, known)
    lines = data.decode("utf-8", "replace").splitlines() or [""]
    at = rng.randrange(len(lines))
    key, colon, value = lines[at].partition(":")
    match rng.randrange(7):
        case 0:
            lines[at] = key + colon + " " + rng.choice(_TEXTS)
        case 1:
            lines[at] = key + colon + " " + json.dumps(rng.choice(_VALUES))
        case 2:
            lines.insert(at, rng.choice(rng.choice(known).decode("utf-8", "replace").splitlines() or [""]))
        case 3:
            lines[at] = rng.choice(("  ", "\t", "- ", "? ", "&a ", "*a", "!!")) + lines[at]
        case 4:
            del lines[at]
        case 5:
            lines[at] = rng.choice(_TEXTS) + ":" + value
        case _:
            lines[at] = f"{key}{colon} {'[' * rng.choice((3, 3000))}{value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")[:LONGEST]


def zips(inner: Mutator) -> Mutator:
    """A zip with one member changed by `inner` and packed again, or with its bytes changed."""

    def change(data: bytes, rng: random.Random, known: Sequence[bytes]) -> bytes:
        if rng.random() < 0.4:
            return any_bytes(data, rng, known)
        buffer = io.BytesIO()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
                infos = old.infolist()
                chosen = rng.choice(infos) if infos else None
                for info in infos:
                    content = old.read(info)
                    if info is chosen and rng.random() < 0.8:
                        content = inner(content, rng, [content])
                    elif info is chosen:
                        info.filename = rng.choice((*_TEXTS, info.filename + "/", "x/../y"))
                    new.writestr(info, content)
        except (OSError, ValueError, RuntimeError, EOFError, NotImplementedError, struct.error, zlib.error,
                zipfile.BadZipFile, zipfile.LargeZipFile):  # fmt: skip
            return any_bytes(data, rng, known)
        return buffer.getvalue()

    return change


def tars(data: bytes, rng: random.Random, known: Sequence[bytes]) -> bytes:
    """A tar with bytes of one header changed and its checksum made right, or with any bytes changed."""
    if rng.random() < 0.3 or len(data) < 512:
        return any_bytes(data, rng, known)
    made = bytearray(data)
    heads = [at for at in range(0, len(made) - 511, 512) if made[at + 257 : at + 262] == b"ustar"]
    if not heads:
        return any_bytes(data, rng, known)
    at = rng.choice(heads)
    name, size = rng.choice(
        ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
    )
    if name == 156:
        made[at + 156] = rng.choice(b"0123456789xgLKSVMND\0\xff")
    elif name in (100, 124, 136) and rng.random() < 0.7:
        value = rng.choice(
            (
                b"0",
                b"-1",
                b"77777777777",
                b"8",
                b"zz",
                b"\x80\0\0\0\0\0\0\1",
                b"\xff" * 8,
                b"\x80" + b"\xff" * 11,
            )
        )
        made[at + name : at + name + size] = value[:size].ljust(size, b"\0")
    else:
        text = any_bytes(
            bytes(made[at + name : at + name + size]), rng, [b"../", b"/", b"GNU.sparse.map=0,9"]
        )
        made[at + name : at + name + size] = text[:size].ljust(size, b"\0")
    if rng.random() < 0.2:  # what follows a header of the kinds x, g, L, S
        made[at + 512 : at + 1024] = any_bytes(
            rng.choice((b"30 GNU.sparse.realsize=99999999\n", b"19 size=99999999999\n", b"11 path=..\n")),
            rng,
            known,
        )[:512].ljust(512, b"\0")
    head = made[at : at + 512]
    head[148:156] = b" " * 8
    made[at + 148 : at + 156] = b"%06o\0 " % sum(head)
    return bytes(made)


def pngs(data: bytes, rng: random.Random, known: Sequence[bytes]) -> bytes:
    """A PNG with one chunk changed and its checksum made right; of other files any bytes."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or rng.random() < 0.2:
        return any_bytes(data, rng, known)
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        if at + 12 + length > len(data):
            break
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return any_bytes(data, rng, known)
    index = rng.randrange(len(chunks))
    kind, content = chunks[index]
    match rng.randrange(5):
        case 0 if kind == b"IDAT":
            try:
                content = zlib.compress(any_bytes(zlib.decompress(content), rng, known))
            except zlib.error:
                content = any_bytes(content, rng, known)
        case 1:
            kind = rng.choice(
                (b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"fdAT", b"pHYs")
            )
        case 2:
            chunks.insert(index, chunks[index])
        case _:
            content = any_bytes(content, rng, [part for _, part in chunks])
    chunks[index] = (kind, content)
    parts = [
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in chunks
    ]
    return data[:8] + b"".join(parts)


def tar_of(members: Sequence[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of some members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return buffer.getvalue()
