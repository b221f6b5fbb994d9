"""What the site's build adds to the pages: files they link to outside of docs/, the list of errors, OpenAPI.

On GitHub a page links to `../../benchmarks/results/head.json` or `../README.md`; the site holds a copy of
each such file, and the project's own pages (changelog, contributing, ...) are pages of the site.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PROJECT = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
"""Pages at the root that are pages of the site too, below project/."""

ERRORS = "<!-- errors -->"
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds the project's pages, OpenAPI's description and the files that pages link to."""
    for name in PROJECT:
        if (ROOT / name).is_file():
            text = _rewritten((ROOT / name).read_text("utf-8"), name, _place(name))
            files.append(File.generated(config, _place(name), content=text))
    files.append(File.generated(config, "reference/openapi.json", content=_openapi()))
    pages = [file.abs_src_path for file in files if file.is_documentation_page() and file.abs_src_path]
    for path in sorted(outside([*map(Path, pages), *(ROOT / n for n in PROJECT if (ROOT / n).is_file())])):
        where = _place(path)
        if (ROOT / path).is_dir():
            inside = sorted(one.name for one in (ROOT / path).iterdir() if one.is_file())
            listed = "\n".join(f"- [`{name}`]({name})" for name in inside)
            page = File.generated(config, where, content=f"# {path}\n\n{listed}\n")
            page.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(page)
            for name in inside:
                _copy(files, config, f"{path}/{name}")
        else:
            _copy(files, config, path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links out of docs/ into links to the copies, and writes the list of errors where it belongs."""
    if ERRORS in markdown:
        from docs.faults import listing

        markdown = markdown.replace(ERRORS, listing())
    markdown = re.sub(r"\A<!--.*?-->\s*", "", markdown, flags=re.DOTALL)  # the title is in the first line
    if page.file.abs_src_path is None:
        return markdown
    source = Path(page.file.abs_src_path).resolve().relative_to(ROOT).as_posix()
    return _rewritten(markdown, source, page.file.src_uri)


def outside(pages: list[Path]) -> set[str]:
    """Paths, from the checkout's root, of what pages link to and the site does not have as a page."""
    found = set()
    for page in pages:
        source = page.resolve().relative_to(ROOT).as_posix()
        for part in _FENCE.split(page.read_text("utf-8"))[::2]:
            for _, target, _ in _LINK.findall(part):
                path = _target(target, source)
                if path and not path.startswith("docs/") and path not in (*PROJECT, "README.md"):
                    found.add(path)
    return found


def _copy(files: Files, config: Any, path: str) -> None:
    where = _place(path)
    if files.get_file_from_path(where) is None:
        text = "" if Path(path).suffix else ".txt"
        files.append(File.generated(config, where + text, content=(ROOT / path).read_bytes()))


def _target(link: str, source: str) -> str | None:
    """What a link of a file leads to, from the checkout's root; None for an address or a heading."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


@cache
def _place(path: str) -> str:
    """Where a file of the checkout is in the site's sources."""
    if path == "README.md":
        return "README.md"
    if path in PROJECT:
        return f"project/{path.lower()}"
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        return f"{inside}/README.md" if (ROOT / path).is_dir() else inside
    return f"files/{path}/index.md" if (ROOT / path).is_dir() else f"files/{path}"


def _rewritten(markdown: str, source: str, place: str) -> str:
    """A page's text with its links as they are in the site."""

    def renamed(found: re.Match[str]) -> str:
        path = _target(found[2], source)
        if path is None or not (ROOT / path).exists():
            return found[0]
        where = _place(path)
        if where.startswith("files/") and not Path(where).suffix:
            where += ".txt"
        anchor = "".join(found[2].partition("#")[1:])
        return f"{found[1]}{posixpath.relpath(where, posixpath.dirname(place) or '.')}{anchor}{found[3]}"

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(renamed, part) for part in parts[::2]]
    return "".join(parts)


def _openapi() -> str:
    """What a server with a SAM answers at `/openapi.json`, for a graph of 512x1024 pixels called `model`."""
    from clouds_deploy.bundles.tensors import TensorSpec
    from clouds_deploy.serving.limits import Limits
    from clouds_deploy.serving.openapi import openapi

    image = TensorSpec("image", "uint8", (None, 512, 1024, 3))
    made = (TensorSpec("labels", "uint8", (None, 512, 1024)),)
    model: Any = SimpleNamespace(name="model", image=image, outputs=made)
    return json.dumps(openapi(model, True, Limits()), indent=1)
