"""Reports as one HTML file: no script, no second file, readable on a phone, printed, light and dark.

A page is a list of sections; `templates/` has a macro for each kind of them, and escapes their text.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from clouds_deploy.errors import installed

NO_CHARTS = 'This report has no charts: they need matplotlib. pip install "clouds-deploy[report]"'


class Section(Protocol):
    """A part of a page; `kind` is the name of its macro in templates/sections.html."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Heading:
    """The title of a chapter.

    Attributes:
        text: The title.
        lede: A sentence under it.
    """

    kind: ClassVar[str] = "heading"
    text: str
    lede: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Running text.

    Attributes:
        text: The text.
        style: Empty, `note` or `warning`.
    """

    kind: ClassVar[str] = "paragraph"
    text: str
    style: str = ""


@dataclass(frozen=True)
class Figures:
    """A few numbers that matter, large.

    Attributes:
        items: (number, what it is) each.
    """

    kind: ClassVar[str] = "figures"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows and columns; every column but the first is aligned right.

    Attributes:
        columns: Column titles.
        rows: Cells as text.
        caption: What the table shows.
        bad: Indices of the rows that show a fault.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bad: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Pictures:
    """A grid of pictures with captions, carried inside the page.

    Attributes:
        items: (picture (H, W, 3) uint8 RGB, caption) each.
        columns: Pictures beside each other on a wide screen; a narrow screen shows two at most.
        photo: True packs JPEG, False PNG (label maps, drawings).
        enlarge: Whether small pictures are enlarged without smoothing.
    """

    kind: ClassVar[str] = "pictures"
    items: Sequence[tuple[npt.NDArray[np.uint8], str]]
    columns: int = 3
    photo: bool = False
    enlarge: bool = False


@dataclass(frozen=True)
class Details:
    """Something to unfold: commands, versions, how it was measured.

    Attributes:
        summary: What is always visible.
        text: The rest; line breaks are kept.
        open: Whether it starts unfolded.
    """

    kind: ClassVar[str] = "details"
    summary: str
    text: str
    open: bool = False


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
        """Appends parts."""
        self.sections.extend(sections)
        return self

    def html(self) -> str:
        """The page as HTML; without matplotlib a line stands in for its charts."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("clouds_deploy.reports"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        environment.globals["data_address"] = data_address
        shown = self.sections
        if not installed("matplotlib"):
            shown = [section for section in shown if section.kind != "chart"]
            if len(shown) < len(self.sections):
                shown.append(Paragraph(NO_CHARTS, "note"))
        template = environment.get_template("page.html")
        return template.render(title=self.title, lede=self.lede, sections=shown, footer=self.footer).lstrip()


def data_address(picture: npt.NDArray[np.uint8], photo: bool = False) -> str:
    """A picture (H, W, 3) uint8 as a `data:` address: JPEG of a photo, else PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    if photo:
        Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    else:
        Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{'jpeg' if photo else 'png'};base64,{text}"


def as_json_text(value: Any) -> str:
    """A JSON value laid out for `Details`."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
