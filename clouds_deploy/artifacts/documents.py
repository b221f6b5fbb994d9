"""JSON documents from elsewhere: bounded before they are parsed, and held to a schema afterwards.

The limits and the verdicts are those of the C++ library (`engines/cpp/src/documents.cpp`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clouds_deploy.artifacts.names import TAMPERED, is_regular
from clouds_deploy.errors import CloudsError, first_line, printable

LARGEST = 16 << 20
"""Bytes of a document."""
DEEPEST = 64
DIGITS = 400
"""Of one number."""
VALUES = 1_000_000

_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NUMBER = re.compile(rb"[0-9]{%d}" % (DIGITS + 1))
_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(rb"(?<!\\)\\u(?:d[89ab]..(?!\\ud[c-f])|d[c-f]..)", re.IGNORECASE)
_PAIR = re.compile(rb"\\ud[89ab]..\\ud[c-f]..", re.IGNORECASE)


def parse_document(data: bytes, where: str | Path) -> Any:
    """Values of a JSON document.

    Args:
        data: Its bytes, UTF-8.
        where: What to call it in errors.

    Raises:
        CloudsError: It is larger, deeper or of more values than a document is, or no JSON; it has NaN, an
            infinite number, a number of over 400 digits or half a character.
    """
    bare = _TEXT.sub(b"0", data)
    wrong = ""
    if len(data) > LARGEST:
        wrong = f"it is larger than {LARGEST >> 20} MiB"
    elif _NUMBER.search(bare):
        wrong = f"a number has over {DIGITS} digits"
    elif bare.count(b",") >= VALUES or bare.count(b"[") + bare.count(b"{") > VALUES:
        wrong = f"it has over {VALUES} values"
    elif _depth(bare) > DEEPEST:
        wrong = f"it is nested over {DEEPEST} deep"
    if wrong:
        raise CloudsError(f"{where} is no document of this project: {wrong}", TAMPERED)
    try:
        if b"\\u" in data and _SURROGATE.search(_PAIR.sub(b"", data)):
            raise ValueError("a text has half a character in it")
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CloudsError(
            f"{where} is not valid JSON: {printable(first_line(error))}", "make the directory again"
        ) from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        _no_number(text)
    return number


def _depth(bare: bytes) -> int:
    depth = deepest = 0
    for bracket in bare.translate(None, _BRACKETS):
        depth += 1 if bracket in b"[{" else -1 if depth else 0
        deepest = max(deepest, depth)
    return deepest


def read_document(path: Path, where: str | Path = "") -> Any:
    """Reads a JSON document; errors as `parse_document`, or it is missing, or no file."""
    named = where or path
    if not is_regular(path):
        wrong = "is no file" if path.exists() else "is missing"
        raise CloudsError(f"{named} {wrong}", "make the directory again, or copy it whole")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise CloudsError(f"{named} cannot be read: {error.strerror}", "check its permissions") from error
    return parse_document(data, named)


class Document(BaseModel):
    """A part of a document; what this version does not know stays."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class FileEntry(Document):
    """A file of a manifest.

    Attributes:
        bytes: Its size.
        sha256: Of its bytes.
    """

    bytes: Annotated[int, Field(ge=0, le=2**63 - 1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestDocument(Document):
    """A manifest, as far as readers rely on it.

    Attributes:
        format: Of manifests.
        kind: Of the directory.
        files: Its files, by path.
    """

    format: int
    kind: str
    files: Mapping[str, FileEntry]


D = TypeVar("D", bound=Document)


def checked(schema: type[D], value: Any, where: str | Path, hint: str) -> D:
    """A document's values in the form of its schema.

    Args:
        schema: What it has to hold.
        value: What was parsed.
        where: What to call it in errors.
        hint: What to do about a fault.

    Raises:
        CloudsError: A value is missing, of another type, or out of range; the message names it.
    """
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = printable(".".join(str(part) for part in first["loc"])[:120]) or "it"
        what = first["msg"].removeprefix("Value error, ")
        raise CloudsError(f"{where} lacks or garbles a fact: `{key}`: {what}", hint) from error
