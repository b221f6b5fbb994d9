"""The documentation: generated pages are up to date, links lead somewhere, and the words are the field's."""

from __future__ import annotations

import inspect
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clouds_deploy.cli.app import app
from docs.generate import commands, option_names, pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
SHOWING = ("README", "docs/README", "docs/guides/", "docs/tutorials/", "docs/troubleshooting")
FOR_USERS = [name for name in NAMES if name.startswith((*SHOWING, "docs/reference/"))]
CITING = (".py", ".yaml", ".hpp", ".cpp", ".cmake", ".sh", ".md", ".html", ".js")
PRIVATE = re.compile(r"mend(s|ed|ing)?\b|drawn streets|in turns|quicker", re.IGNORECASE)


@pytest.mark.parametrize("name", pages())
def test_the_reference_is_what_the_code_says(name: str) -> None:
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == pages()[name], "run `make docs`"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(ROOT / name)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        page = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert page.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(page), f"{name}: {target}"


@pytest.mark.parametrize("name", FOR_USERS)
def test_pages_use_the_words_of_the_field(name: str) -> None:
    assert not PRIVATE.search((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", [name for name, _ in commands(app)])
def test_help_uses_the_words_of_the_field(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert not PRIVATE.search(shown.output)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(SHOWING)])
def test_commands_have_their_options(name: str) -> None:
    known = dict(commands(app))
    for block in re.findall(
        r"^```\w*\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("clouds-deploy "):
                continue
            words = shlex.split(line, comments=True)[1:]
            verb = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            assert verb in known, line
            parameters = inspect.signature(known[verb], eval_str=True).parameters.values()
            options = {option for parameter in parameters for option in option_names(parameter)}
            assert {word for word in words if word.startswith("--")} <= options, line


def test_pages_that_the_code_cites_are_there() -> None:
    for folder in ("clouds_deploy", "training", "export", "engines", "benchmarks", "tests"):
        for path in (one for one in (ROOT / folder).rglob("*") if one.suffix in CITING and one.is_file()):
            for cited in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
                assert (ROOT / cited).is_file(), f"{path}: {cited}"


@cache
def anchors(page: Path) -> frozenset[str]:
    """Fragments that GitHub gives a page's headings."""
    found: list[str] = []
    for title in re.findall(r"^#+ (.*)$", without_fences(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower().strip()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return frozenset(found)


def without_fences(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
