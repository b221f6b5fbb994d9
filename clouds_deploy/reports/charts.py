"""Line and bar charts as inline SVG, drawn by matplotlib for wide screens and once more for phones."""

from __future__ import annotations

import io
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

WIDE, NARROW = 960, 360
COLORS = 6
"""Series colours of the page's style sheet, `--s0` and so on."""
_PLACEHOLDERS = {"bad": "#000101", "ink": "#000102", "soft": "#000103", "line": "#000104"}
_PLACEHOLDERS |= {f"s{i}": f"#00020{i}" for i in range(COLORS)}
"""matplotlib knows no CSS variables: each is drawn in a colour of its own, which is then replaced."""


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: What it is.
        points: (x, y) each, by rising x; points that are not finite are left out.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: What it is.
        value: Its length, 0 or more.
        shown: Its value as text.
        low: Lower end of its uncertainty, if any.
        high: Upper end of its uncertainty, if any.
        bad: Whether something is wrong with it.
    """

    name: str
    value: float
    shown: str
    low: float | None = None
    high: float | None = None
    bad: bool = False


class Chart(ABC):
    """What line and bar charts have in common.

    Attributes:
        title: What the chart shows.
    """

    kind: ClassVar[str] = "chart"
    title: str

    @property
    def names(self) -> Sequence[str]:
        """Names for the chart's key, in the order of the series colours; empty where it needs none."""
        return ()

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether there is nothing to draw."""

    @abstractmethod
    def height(self, narrow: bool) -> int:
        """Height in CSS pixels."""

    @abstractmethod
    def draw(self, axes: Any, narrow: bool) -> None:
        """Draws on matplotlib's axes."""

    def svg(self, narrow: bool) -> str:
        """The chart as an `<svg>` element, the same for the same data.

        Args:
            narrow: Whether it is drawn for a phone.
        """
        import matplotlib
        from matplotlib.figure import Figure

        width, height = NARROW if narrow else WIDE, 60 if self.empty else self.height(narrow)
        settings = {
            "svg.fonttype": "none",
            "svg.hashsalt": f"{self.title} {width}",
            "font.size": 13,
            "text.parse_math": False,
        }
        with matplotlib.rc_context(settings), io.StringIO() as buffer:
            figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
            axes = figure.add_subplot(frame_on=False)
            axes.tick_params(length=0, pad=8, labelcolor=_PLACEHOLDERS["soft"])
            if self.empty:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "no data yet", ha="center", va="center", color=_PLACEHOLDERS["soft"])
            else:
                axes.set_axisbelow(True)
                self.draw(axes, narrow)
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
            text = buffer.getvalue()
        text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r'(<g) id="[^"]*"', r"\1", text).replace("xlink:href", "href")
        for name, color in _PLACEHOLDERS.items():
            text = text.replace(color, f"var(--{name})")
        head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.title)}">'
        return re.sub(r"^.*?<svg[^>]*>", lambda _: head, text, count=1, flags=re.DOTALL).strip()


@dataclass(frozen=True)
class LineChart(Chart):
    """Lines over a common axis.

    Attributes:
        title: What the chart shows.
        series: The lines, six at most in colours of their own.
        x_label: What the x axis counts.
        y_label: What the y axis counts.
    """

    title: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""

    @property
    def names(self) -> Sequence[str]:
        """See `Chart.names`."""
        return [one.name for one in self.series]

    @property
    def empty(self) -> bool:
        """See `Chart.empty`."""
        return not any(self._finite())

    def height(self, narrow: bool) -> int:
        """See `Chart.height`."""
        return 260 if narrow else 330

    def draw(self, axes: Any, narrow: bool) -> None:
        """See `Chart.draw`."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        lines = self._finite()
        for index, points in enumerate(lines):
            color = _PLACEHOLDERS[f"s{index % COLORS}"]
            marker = "o" if len(points) <= 12 else None
            axes.plot(
                *zip(*points, strict=True), color=color, marker=marker, lw=2.2, ms=6
            ) if points else None
        axes.grid(axis="y", color=_PLACEHOLDERS["line"], lw=1)
        whole = all(float(x).is_integer() for points in lines for x, _ in points)
        steps = [1, 2, 2.5, 5, 10]
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, steps=steps, integer=whole))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=steps))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        if 0 <= min(y for points in lines for _, y in points) < 0.4 * axes.get_ylim()[1]:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(self.x_label, color=_PLACEHOLDERS["soft"])
        axes.set_title(self.y_label, color=_PLACEHOLDERS["soft"], fontsize=13, loc="left")

    def _finite(self) -> list[list[tuple[float, float]]]:
        return [[p for p in one.points if math.isfinite(p[0]) and math.isfinite(p[1])] for one in self.series]


@dataclass(frozen=True)
class BarChart(Chart):
    """Horizontal bars, so that their names have room.

    Attributes:
        title: What the chart shows, with its unit.
        bars: The bars, top to bottom.
        axis: What the axis counts.
    """

    title: str
    bars: Sequence[Bar]
    axis: str = ""

    @property
    def empty(self) -> bool:
        """See `Chart.empty`."""
        return not self.bars

    def height(self, narrow: bool) -> int:
        """See `Chart.height`."""
        return (50 if narrow else 38) * len(self.bars) + (52 if self.axis else 32)

    def draw(self, axes: Any, narrow: bool) -> None:
        """See `Chart.draw`."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        ink = _PLACEHOLDERS["ink"]
        thick = 0.36 if narrow else 0.58
        for row, bar in enumerate(self.bars):
            color = _PLACEHOLDERS["bad" if bar.bad else f"s{row % COLORS}"]
            axes.barh(row, bar.value, thick, color=color)
            end = bar.value
            if bar.low is not None and bar.high is not None:
                axes.hlines(row, bar.low, bar.high, color=ink, lw=1.5)
                end = max(end, bar.high)
            place = {"textcoords": "offset points", "color": ink, "annotation_clip": False}
            axes.annotate(bar.shown, (end, row), (8, 0), va="center", **place)
            if narrow:
                axes.annotate(bar.name, (0, row - thick / 2), (0, 3), va="bottom", **place)
        axes.set_ylim(len(self.bars) - 0.5 + (0.1 if narrow else 0), -0.85 if narrow else -0.5)
        axes.set_yticks(range(len(self.bars)), [] if narrow else [bar.name for bar in self.bars], color=ink)
        axes.set_xlim(left=0)
        axes.grid(axis="x", color=_PLACEHOLDERS["line"], lw=1)
        axes.xaxis.set_major_locator(MaxNLocator(3 if narrow else 6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.set_xlabel(self.axis, color=_PLACEHOLDERS["soft"])


def number(value: float) -> str:
    """A tick's number without needless zeros, thousands as k."""
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:g}"
