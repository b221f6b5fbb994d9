"""Reports as one HTML file: no script, no second file, readable on a phone, printed, light and dark.

A page is a list of sections; each knows how to write itself. Text is escaped here, so callers pass text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clouds_deploy.reports.style import CSS


class Section(Protocol):
    """A part of a page."""

    def html(self) -> str:
        """Write the part as HTML."""
        ...


@dataclass(frozen=True)
class Heading:
    """The title of a chapter.

    Attributes:
        text: The title.
        lede: A sentence under it.
    """

    text: str
    lede: str = ""

    def html(self) -> str:
        """See `Section.html`."""
        return f"<h2>{escape(self.text)}</h2>" + (f"<p>{escape(self.lede)}</p>" if self.lede else "")


@dataclass(frozen=True)
class Paragraph:
    """Running text.

    Attributes:
        text: The text.
        kind: Empty, `note` or `warning`.
    """

    text: str
    kind: str = ""

    def html(self) -> str:
        """See `Section.html`."""
        return f'<p class="{escape(self.kind)}">{escape(self.text)}</p>'


@dataclass(frozen=True)
class Figures:
    """A few numbers that matter, large.

    Attributes:
        items: (number, what it is) each.
    """

    items: Sequence[tuple[str, str]]

    def html(self) -> str:
        """See `Section.html`."""
        cells = "".join(f"<div><b>{escape(n)}</b><span>{escape(what)}</span></div>" for n, what in self.items)
        return f'<div class="figures">{cells}</div>'


@dataclass(frozen=True)
class Table:
    """Rows and columns; every column but the first stands right.

    Attributes:
        columns: Column titles.
        rows: Cells as text.
        caption: What the table shows.
        bad: Numbers of the rows that tell of a fault.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bad: frozenset[int] = frozenset()

    def html(self) -> str:
        """See `Section.html`."""
        head = "".join(f'<th scope="col">{escape(c)}</th>' for c in self.columns)
        lines = []
        for number, row in enumerate(self.rows):
            first, *rest = row
            cells = f'<th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(c)}</td>" for c in rest)
            mark = ' class="bad"' if number in self.bad else ""
            lines.append(f"<tr{mark}>{cells}</tr>")
        caption = f"<caption><span>{escape(self.caption)}</span></caption>" if self.caption else ""
        body = "".join(lines)
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="scroll" tabindex="0">{table}</div>'


@dataclass(frozen=True)
class Pictures:
    """A grid of pictures with captions, carried inside the page.

    Attributes:
        items: (picture (H, W, 3) uint8 RGB, caption) each.
        columns: Pictures beside each other on a wide screen; one narrow screen shows two at most.
        photo: True packs JPEG, False PNG (label maps, drawings).
        enlarge: Whether small pictures are blown up without smoothing.
    """

    items: Sequence[tuple[npt.NDArray[np.uint8], str]]
    columns: int = 3
    photo: bool = False
    enlarge: bool = False

    def html(self) -> str:
        """See `Section.html`."""
        kind = ' class="pixels"' if self.enlarge else ""
        cells = []
        for picture, caption in self.items:
            height, width = picture.shape[:2]
            address = data_address(picture, photo=self.photo)
            image = f'<img{kind} src="{address}" width="{width}" height="{height}" alt="{escape(caption)}">'
            cells.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
        return f'<div class="grid" style="--columns:{self.columns}">{"".join(cells)}</div>'


def data_address(picture: npt.NDArray[np.uint8], *, photo: bool = False) -> str:
    """Pack a picture (H, W, 3) uint8 into a `data:` address."""
    from PIL import Image

    buffer = io.BytesIO()
    if photo:
        Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    else:
        Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{'jpeg' if photo else 'png'};base64,{text}"


@dataclass(frozen=True)
class Details:
    """Something to unfold: commands, versions, how it was measured.

    Attributes:
        summary: What is always visible.
        text: The rest; line breaks are kept.
        open: Whether it starts unfolded.
    """

    summary: str
    text: str
    open: bool = False

    def html(self) -> str:
        """See `Section.html`."""
        mark = " open" if self.open else ""
        summary = f"<summary>{escape(self.summary)}</summary>"
        return f"<details{mark}>{summary}<pre>{escape(self.text)}</pre></details>"


@dataclass
class Page:
    """A whole report.

    Attributes:
        title: Its title.
        lede: What it says in one or two sentences.
        sections: Its parts, in order.
        footer: The small print.
    """

    title: str
    lede: str = ""
    sections: list[Section] = field(default_factory=list)
    footer: str = ""

    def add(self, *sections: Section) -> Page:
        """Append parts."""
        self.sections.extend(sections)
        return self

    def html(self) -> str:
        """Write the page."""
        body = "\n".join(section.html() for section in self.sections)
        lede = f'<p class="lede">{escape(self.lede)}</p>' if self.lede else ""
        footer = f"<footer>{escape(self.footer)}</footer>" if self.footer else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title><style>{CSS}</style></head><body><main>\n"
            f"<header><h1>{escape(self.title)}</h1>{lede}</header>\n{body}\n{footer}</main></body></html>\n"
        )


def as_json_text(value: Any) -> str:
    """Lay JSON values out for `Details`."""
    import json

    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
