"""The pictures of a page: heatmaps, differences with intervals, learning curves, scores against properties of a
corpus."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from madx.report.marks import mark_of
from madx.report.page.svg import Svg, log_ticks, shade, ticks
from madx.report.tables.text import amount
from madx.results.contrasts import Contrast

#: pixels: panels are as wide as a telephone's screen, so that they fit there without scaling
WIDTH = 344
CELL, ROW = 62, 38


class Square(NamedTuple):
    """One place of a heatmap.

    value: decides the colour; None: no colour. text, below: in the square, the second smaller. hint: shown when the
    pointer rests on it. loud: a frame that warns.
    """

    value: float | None
    text: str
    below: str = ""
    hint: str = ""
    loud: bool = False


def heatmap(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    squares: Sequence[Sequence[Square]],
    *,
    cell: int = CELL,
    row: int = ROW,
    separate: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Svg:
    """A square for each row and column, the brighter the more.

    squares: by row. cell, row: width and height of a square in pixels. separate: the row above which a line is drawn.
    low, high: the ends of the scale; without them the smallest and the largest value.
    """
    values = [s.value for line in squares for s in line if s.value is not None]
    low = min(values, default=0.0) if low is None else low
    high = max(values, default=1.0) if high is None else high
    left = 12 + 7.6 * max(map(len, rows), default=0)
    svg = Svg(left + cell * len(columns) + 2, 24 + row * len(rows) + 2, title)
    for x, name in enumerate(columns):
        svg.text(left + cell * (x + 0.5), 16, name, css="label", anchor="middle")
    for y, (name, line) in enumerate(zip(rows, squares)):
        top = 24 + row * y
        svg.text(left - 8, top + row / 2 + 4, name, css="label", anchor="end")
        for x, s in enumerate(line):
            at = left + cell * x
            if s.value is None:
                svg.rect(at + 1, top + 1, cell - 2, row - 2, css="nothing", hint=s.hint)
                svg.text(at + cell / 2, top + row / 2 + 4, s.text, css="quiet", anchor="middle")
                continue
            fill, ink = shade((s.value - low) / (high - low) if high > low else 0.5)
            svg.rect(at + 1, top + 1, cell - 2, row - 2, colour=fill, css="loud" if s.loud else "", hint=s.hint)
            svg.text(
                at + cell / 2, top + row / 2 + (-1 if s.below else 4), s.text, css="value", anchor="middle", colour=ink
            )
            if s.below:
                svg.text(at + cell / 2, top + row / 2 + 12, s.below, css="below", anchor="middle", colour=ink)
    if separate is not None:
        svg.line(4, 24 + row * separate, svg.width - 2, 24 + row * separate, css="axis")
    return svg


def intervals(title: str, names: Sequence[str], contrasts: Sequence[Contrast], baselines: Sequence[str]) -> Svg:
    """For each language its differences to the baselines, with intervals over seeds; the shapes of the marks are those
    of `madx.report.marks`."""
    left, right, row = 12 + 7.6 * max(map(len, names)), WIDTH - 12, 18 * len(baselines) + 8
    ends = [v for c in contrasts for v in (c.delta, c.low, c.high) if v is not None] + [0.0]
    # the interval of two seeds may be far wider than the differences: it is cut
    cap = 4 * max((abs(c.delta) for c in contrasts), default=1.0) + 1
    low, high = max(min(ends), -cap), min(max(ends), cap)
    low, high = (low, high) if high > low else (-1.0, 1.0)  # no difference at all
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)

    def at(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    top = 6 + 17 * math.ceil(len(baselines) / 3)
    bottom = top + row * len(names)
    svg = Svg(WIDTH, bottom + 38, title)
    for number, minus in enumerate(baselines):
        x, y = left + 8 + (right - left) / 3 * (number % 3), 10 + 17 * (number // 3)
        svg.mark(x, y, shape=number, css=f"s{number % 6}")
        svg.text(x + 9, y + 4, f"− {minus}", css="label")
    for value in ticks(low, high, 5):
        svg.line(at(value), top, at(value), bottom, css="axis" if value == 0 else "grid")
        svg.text(at(value), bottom + 15, f"{value:+g}" if value else "0", css="quiet", anchor="middle")
    svg.text((left + right) / 2, bottom + 32, "difference in points", css="quiet", anchor="middle")
    for y, name in enumerate(names):
        svg.text(left - 8, top + row * (y + 0.5) + 4, name, css="label", anchor="end")
        for number, minus in enumerate(baselines):
            found = next((c for c in contrasts if (c.target, c.minus) == (name, minus)), None)
            if found is None:
                continue
            place = top + row * y + 13 + 18 * number
            if found.low is not None and found.high is not None:
                svg.line(at(found.low), place, at(found.high), place, css=f"s{number % 6} bar")
            mark, inactive = mark_of(found), "; INACTIVE: " * bool(found.inactive) + ", ".join(found.inactive)
            svg.mark(
                at(found.delta),
                place,
                shape=number,
                css=f"s{number % 6}",
                filling=mark.shape,
                hint=f"{name}: target − {minus} {found.delta:+.1f}, {mark.meaning}{inactive}",
            )
    return svg


class Curve(NamedTuple):
    """A line through (step, value). best: the step whose weights were kept, None when that is not known."""

    name: str
    points: list[tuple[float, float]]
    best: float | None = None


def curves(title: str, lines: Sequence[Curve], *, y_name: str, logarithmic: bool = False) -> Svg:
    """Lines over optimiser steps, which differ in colour and dashes; the legend stands below. A mark shows the step
    whose weights were kept."""
    left, right, top, bottom = 50, WIDTH - 12, 24, 190
    ys = [y for line in lines for _, y in line.points]
    xs = [x for line in lines for x, _ in line.points]
    change = math.log10 if logarithmic else float
    low, high = change(min(ys)), change(max(ys))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    last = max(xs) or 1

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / last * (right - left), bottom - (change(y) - low) / (high - low) * (bottom - top)

    svg = Svg(WIDTH, bottom + 42 + 17 * math.ceil(len(lines) / 2), title)
    svg.text(left, 14, y_name + (" (logarithmic)" if logarithmic else ""), css="quiet")
    for value in log_ticks(min(ys), max(ys)) if logarithmic else ticks(low, high):
        y = at(0, value)[1]
        svg.line(left, y, right, y, css="grid")
        svg.text(left - 6, y + 4, f"{value:g}", css="quiet", anchor="end")
    for value in ticks(0, last, 3):
        svg.text(left + value / last * (right - left), bottom + 16, f"{value:,.0f}", css="quiet", anchor="middle")
    svg.line(left, bottom, right, bottom, css="axis")
    svg.text(right, bottom + 30, "steps", css="quiet", anchor="end")
    for number, line in enumerate(lines):
        style = f"s{number % 6} d{number // 6 % 3 + number % 3} curve"
        svg.path([at(*p) for p in line.points], css=style)
        for point in line.points:
            if point[0] == line.best:
                svg.mark(
                    *at(*point),
                    shape=number,
                    css=f"s{number % 6}",
                    hint=f"{line.name}: kept, step {point[0]:g}, {point[1]:.4g}",
                )
        x, y = left + (number % 2) * 146, bottom + 44 + 17 * (number // 2)
        svg.path([(x, y - 4), (x + 24, y - 4)], css=style)
        svg.text(x + 30, y, line.name, css="label")
    return svg


def scatter(title: str, points: Sequence[tuple[str, float, float]], *, x_name: str, y_name: str) -> Svg:
    """Named points (name, x, y). The x axis is logarithmic where the largest x is more than five times the smallest."""
    left, right, top, bottom = 50, WIDTH - 40, 24, 180
    logarithmic = max(x for _, x, _ in points) > 5 * min(x for _, x, _ in points) > 0
    change = math.log10 if logarithmic else float
    xs, ys = [change(x) for _, x, _ in points], [y for _, _, y in points]

    def range_of(values: list[float], least: float) -> tuple[float, float]:
        span = max(max(values) - min(values), least)
        return min(values) - 0.12 * span, max(values) + 0.12 * span

    (x0, x1), (y0, y1) = range_of(xs, 0.05), range_of(ys, 1.0)
    svg = Svg(WIDTH, bottom + 38, title)
    svg.text(left, 14, y_name, css="quiet")
    for value in ticks(y0, y1):
        y = bottom - (value - y0) / (y1 - y0) * (bottom - top)
        svg.line(left, y, right, y, css="grid")
        svg.text(left - 6, y + 4, f"{value:g}", css="quiet", anchor="end")
    for value in log_ticks(10**x0, 10**x1) if logarithmic else ticks(x0, x1):
        x = left + (change(value) - x0) / (x1 - x0) * (right - left)
        svg.line(x, bottom, x, bottom + 4, css="axis")
        svg.text(x, bottom + 17, amount(value, ""), css="quiet", anchor="middle")
    svg.line(left, bottom, right, bottom, css="axis")
    svg.text(right, bottom + 33, x_name + (" (logarithmic)" if logarithmic else ""), css="quiet", anchor="end")
    for (name, _, y_value), x_value in zip(points, xs):
        x, y = left + (x_value - x0) / (x1 - x0) * (right - left), bottom - (y_value - y0) / (y1 - y0) * (bottom - top)
        svg.mark(x, y, shape=0, css="s0", hint=f"{name}: {y_value:.1f}")
        svg.text(x + 8, y + 4, name, css="label")
    return svg
