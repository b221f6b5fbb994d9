"""What the documentation shows: the code blocks of a page, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str = "sh") -> list[str]:
    """Blocks of one language of a page, named from docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Lines of a page's `sh` blocks."""
    return [line for block in blocks(page) for line in block.replace("\\\n", " ").splitlines() if line]


def words(command: str) -> list[str]:
    """What is typed behind `clouds-deploy`."""
    import shlex

    tool, *rest = shlex.split(command, comments=True)
    assert tool == "clouds-deploy", command
    return rest


def changed(given: list[str], **values: str) -> list[str]:
    """Words with other values for some options: `changed(words, count="4")` for `--count 500`."""
    for name, value in values.items():
        if f"--{name}" in given:
            given = [*given]
            given[given.index(f"--{name}") + 1] = value
    return given
