"""Protobuf's text format, in which Triton's configs are, written without protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Word(str):
    """A value that is written without quotes: a member of an enumeration."""

    __slots__ = ()


def pbtxt(message: Mapping[str, Any], indent: str = "") -> str:
    """A message as text.

    Args:
        message: By field: a text, a `Word`, a number, a truth value, a message, or a list of these.
        indent: Before each line.

    Returns:
        One field a line, in the mapping's order; None and empty lists are left out.
    """
    lines: list[str] = []
    for name, value in message.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            lines.extend(_field(name, one, indent))
    return "\n".join(lines) + ("\n" if not indent else "")


def _field(name: str, value: Any, indent: str) -> Sequence[str]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        inner = pbtxt(value, indent + "  ")
        return [f"{indent}{name} {{", inner, f"{indent}}}"] if inner else [f"{indent}{name} {{}}"]
    return [f"{indent}{name}: {_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return str(value)
    return json.dumps(value) if isinstance(value, str) else str(value)
