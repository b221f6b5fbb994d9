from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from clouds_deploy.reports.charts import Bar, BarChart, LineChart, Series, number, ticks
from clouds_deploy.reports.page import Details, Figures, Heading, Page, Paragraph, Pictures, Table

VOID = {"meta", "img"}


class Checker(HTMLParser):
    """Collects references and unbalanced tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.references += [value for key, value in attrs if key in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page() -> str:
    picture = np.zeros((8, 16, 3), np.uint8)
    return (
        Page("A <title>", "lede & all", footer="foot")
        .add(
            Heading("h", "l"),
            Paragraph("<script>alert(1)</script>", "warning"),
            Figures([("1", "one")]),
            Table(["a", "b"], [["x", "<b>"], ["y", "2"]], bad=frozenset({1})),
            LineChart(
                "line", [Series("s", [(0, 1), (1, math.nan), (2, 3)]), Series("t", [(0, 2)])], "x", "y"
            ),
            LineChart("empty", [Series("s", [])]),
            LineChart("flat", [Series("s", [(1, 5.0), (2, 5.0)])]),
            BarChart("bars", [Bar("b", 2, "2", 1, 3), Bar("zero", 0, "0", bad=True)], "ms"),
            BarChart("no bars", []),
            Pictures([(picture, "p")], photo=True),
            Pictures([(picture, "q")], enlarge=True),
            Details("more", "a\nb"),
        )
        .html()
    )


def test_refers_to_nothing_outside_and_runs_nothing(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert all(reference.startswith("data:image/") for reference in checker.references)
    assert len(checker.references) == 2
    assert not re.search(r"https?://|@import|url\(", page)


def test_escapes_text(page: str) -> None:
    assert "A &lt;title&gt;" in page
    assert "&lt;script&gt;" in page


def test_numbers_are_finite(page: str) -> None:
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', page)


def test_every_used_colour_is_defined(page: str) -> None:
    assert set(re.findall(r"var\((--\w+)\)", page)) <= set(re.findall(r"(--\w+):", page))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8]),
        (5, 5, [5]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.25, 100.0, 40000.0)] == ["0.25", "100", "40k"]
