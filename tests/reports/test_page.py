from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from clouds_deploy.reports.charts import Bar, BarChart, LineChart, Series, number
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
    outside = [reference for reference in checker.references if not reference.startswith("#")]
    assert all(reference.startswith("data:image/") for reference in outside)
    assert len(outside) == 2
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_escapes_text(page: str) -> None:
    assert "A &lt;title&gt;" in page
    assert "&lt;script&gt;" in page


def test_numbers_are_finite(page: str) -> None:
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', page)


def test_every_used_colour_is_defined(page: str) -> None:
    assert set(re.findall(r"var\((--\w+)\)", page)) <= set(re.findall(r"(--\w+):", page))


def test_a_chart_is_the_same_every_time(page: str) -> None:
    chart = LineChart("line", [Series("s", [(0, 1), (2, 3)])], "x", "y")
    assert chart.svg(narrow=False) == chart.svg(narrow=False) != chart.svg(narrow=True)
    assert page.count("no data yet") == 4  # two charts, each wide and narrow


def test_a_page_without_matplotlib_says_how_to_get_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clouds_deploy.reports.page.installed", lambda _: False)
    page = Page("t").add(LineChart("line", [Series("s", [(0, 1)])]), Table(["a"], [["x"]]))
    assert "<svg" not in page.html()
    assert "clouds-deploy[report]" in page.html()
    assert "<table>" in page.html()
    assert "matplotlib" not in Page("t").html()


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.25, 100.0, 40000.0)] == ["0.25", "100", "40k"]
