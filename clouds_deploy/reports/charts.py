"""Line and bar charts as inline SVG, each drawn twice: for wide screens and for phones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDE, NARROW = 960, 360
COLORS = 6


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: What it is.
        points: (x, y) each, by rising x; points that are not finite are left out.
        dashed: Whether the line is dashed.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


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


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose about `count` round numbers (1, 2, 2.5 or 5 times a power of ten) from low to high."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def number(value: float) -> str:
    """Write a tick's number: no needless zeros, thousands as k."""
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _both(draw: Callable[[int], str], title: str, key: str = "") -> str:
    """Wrap the wide and the narrow drawing of a chart in a figure."""
    parts = []
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        parts.append(f'<div class="{name}">{draw(width)}</div>')
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{key}{"".join(parts)}</figure>'


def _centered(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.0f}" text-anchor="middle">{escape(text)}</text>'


def _svg(width: int, height: float, body: str, title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}">{body}</svg>'


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis.

    Attributes:
        title: What the chart shows.
        series: The lines, six at most in colours of their own.
        x_label: What the x axis counts.
        y_label: What the y axis counts.
        y_range: Lowest and highest y; None takes them from the points.
    """

    title: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    y_range: tuple[float, float] | None = None

    def html(self) -> str:
        """See `page.Section.html`."""
        named = [
            f'<span style="--c:var(--s{i % COLORS})"><i></i>{escape(s.name)}</span>'
            for i, s in enumerate(self.series)
        ]
        key = f'<div class="key">{"".join(named)}</div>' if len(named) > 1 else ""
        return _both(self._draw, self.title, key)

    def _draw(self, width: int) -> str:
        kept = [[(x, y) for x, y in s.points if math.isfinite(x) and math.isfinite(y)] for s in self.series]
        every = [point for points in kept for point in points]
        if not every:
            return _svg(
                width, 60, f'<text x="{width / 2}" y="34" text-anchor="middle">no data yet</text>', self.title
            )
        height = 330 if width == WIDE else 260
        left, right, top, bottom = 58, 18, 26 if self.y_label else 12, 46 if self.x_label else 30
        x_low, x_high = min(p[0] for p in every), max(p[0] for p in every)
        y_low, y_high = self.y_range or _padded(min(p[1] for p in every), max(p[1] for p in every))
        x_high = x_high if x_high > x_low else x_low + 1
        whole = all(float(point[0]).is_integer() for point in every)

        def at_x(x: float) -> float:
            return left + (x - x_low) / (x_high - x_low) * (width - left - right)

        def at_y(y: float) -> float:
            inside = min(max(y, y_low), y_high)
            return height - bottom - (inside - y_low) / (y_high - y_low) * (height - top - bottom)

        parts = []
        for tick in ticks(y_low, y_high):
            y = at_y(tick)
            parts.append(
                f'<line class="gridline" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        parts += [
            _centered(at_x(tick), height - bottom + 19, number(tick))
            for tick in ticks(x_low, x_high, 8 if width == WIDE else 4)
            if float(tick).is_integer() or not whole
        ]
        if self.x_label:
            middle = (left + width - right) / 2
            parts.append(
                f'<text x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(self.x_label)}</text>'
            )
        if self.y_label:
            parts.append(f'<text x="4" y="13">{escape(self.y_label)}</text>')
        for index, points in enumerate(kept):
            color = f"var(--s{index % COLORS})"
            path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
            dash = ' stroke-dasharray="6 5"' if self.series[index].dashed else ""
            if len(points) > 1:
                parts.append(
                    f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.2" '
                    f'stroke-linejoin="round" stroke-linecap="round"{dash}/>'
                )
            if 0 < len(points) <= 12:
                parts += [
                    f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.4" fill="{color}"/>'
                    for x, y in points
                ]
        return _svg(width, height, "".join(parts), self.title)


def _padded(low: float, high: float) -> tuple[float, float]:
    """Leave some room around a range; a flat one gets room both ways, one near zero starts there."""
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    if 0 <= low < 0.4 * high:
        return 0.0, high + 0.06 * (high - 0.0)
    room = 0.06 * (high - low)
    return low - room, high + room


@dataclass(frozen=True)
class BarChart:
    """Bars lying down, so that their names have room.

    Attributes:
        title: What the chart shows, with its unit.
        bars: The bars, top to bottom.
        axis: What the axis counts.
    """

    title: str
    bars: Sequence[Bar]
    axis: str = ""

    def html(self) -> str:
        """See `page.Section.html`."""
        return _both(self._draw, self.title)

    def _draw(self, width: int) -> str:
        if not self.bars:
            return _svg(
                width, 60, f'<text x="{width / 2}" y="34" text-anchor="middle">no data yet</text>', self.title
            )
        narrow = width == NARROW
        longest = max(len(bar.name) for bar in self.bars)
        left = 8 if narrow else min(340, 26 + 8 * longest)
        right = 16 + 8 * max(len(bar.shown) for bar in self.bars)
        line, thick, top = (50, 18, 6) if narrow else (38, 22, 8)
        bottom = 46 if self.axis else 26
        height = top + line * len(self.bars) + bottom
        highest = max([bar.value for bar in self.bars] + [bar.high or 0.0 for bar in self.bars]) or 1.0

        def at(value: float) -> float:
            return left + min(value, highest) / highest * (width - left - right)

        floor = height - bottom
        parts = []
        for tick in ticks(0.0, highest, 3 if narrow else 6):
            x = at(tick)
            parts.append(f'<line class="gridline" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{floor}"/>')
            parts.append(f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{number(tick)}</text>')
        for index, bar in enumerate(self.bars):
            y = top + line * index + (24 if narrow else (line - thick) / 2)
            color = "var(--bad)" if bar.bad else f"var(--s{index % COLORS})"
            length = max(at(bar.value) - left, 1.5)
            parts.append(
                f'<rect x="{left}" y="{y:.1f}" width="{length:.1f}" height="{thick}" rx="3" fill="{color}"/>'
            )
            end = at(bar.value)
            middle = y + thick / 2
            if bar.low is not None and bar.high is not None:
                end = at(bar.high)
                parts.append(
                    f'<line x1="{at(bar.low):.1f}" x2="{end:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" '
                    'stroke="var(--ink)" stroke-width="1.5"/>'
                )
            anchor = (
                f'x="{left}" y="{y - 6:.1f}"'
                if narrow
                else f'x="{left - 10}" y="{middle + 4.5:.1f}" text-anchor="end"'
            )
            parts.append(f'<text class="label" {anchor}>{escape(bar.name)}</text>')
            parts.append(
                f'<text class="label" x="{end + 8:.1f}" y="{middle + 4.5:.1f}">{escape(bar.shown)}</text>'
            )
        if self.axis:
            parts.append(_centered((left + width - right) / 2, height - 6, self.axis))
        return _svg(width, height, "".join(parts), self.title)
