"""Several transfer matrices as one picture: for each task the own scores by language, and the averages by control."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from madx.report.pictures.drawing import colour_scale, literal, png, score_square
from madx.report.tables.text import over_text
from madx.results.cells import AVERAGE, Row
from madx.results.matrices import Entry, Matrices

_CELL, _ROW, _HEAD, _FOOT, _GAP = 1.05, 0.42, 0.95, 0.25, 0.7  # inches
#: a place of a panel: a row of a table, or None where there is nothing to show
_Places = Sequence[Sequence[Row | None]]


def picture_png(matrices: Matrices) -> bytes:
    """The picture as PNG bytes."""
    return png(picture(matrices))


def picture(matrices: Matrices) -> Figure:
    """A row of two panels for each task, with its own scale of colours; `-` is missing, a red frame an inactive
    module."""
    tasks, controls = matrices.tasks(), matrices.controls()
    label = 0.3 + 0.078 * max(len(_name(e)) for e in matrices.entries)
    widest = max(len(matrices.targets(task)) + 1 for task in tasks)
    width = label + _CELL * (widest + len(controls)) + _GAP + 0.3
    height = sum(_HEAD + _ROW * len(matrices.of(task)) + _FOOT for task in tasks) + 0.15
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    top = height - 0.1
    for task in tasks:
        entries = matrices.of(task)
        body = _ROW * len(entries)
        y = top - _HEAD - body
        targets = [*matrices.targets(task), AVERAGE]
        own = [[None if t == e.source else e.own(t) for t in targets] for e in entries]
        by_control = [[found.get(c) for c in controls] for found in (e.averages() for e in entries)]
        scored = [row for line in (*own, *by_control) for row in line if row is not None]
        colours = colour_scale([row.mean for row in scored if row.mean is not None])
        titles = (f"{task}: {entries[0].metric} under the target's module", "average under each control")
        panels = ((label, targets, own), (label + _CELL * widest + _GAP, controls, by_control))
        for number, (x, names, places) in enumerate(panels):
            axes = figure.add_axes((x / width, y / height, _CELL * len(names) / width, body / height))
            _panel(axes, names, places, labels=[] if number else [_name(e) for e in entries], colours=colours)
            figure.text(
                x / width, (top - 0.28) / height, literal(titles[number]), fontsize=11, weight="bold", va="center"
            )
        top = y - _FOOT
    return figure


def _name(entry: Entry) -> str:
    return literal(f"{entry.module_type}, from {entry.source}")


def _panel(
    axes: Axes, names: Sequence[str], places: _Places, *, labels: Sequence[str], colours: ScalarMappable
) -> None:
    """labels: of the rows; empty for the second panel, which stands beside the first."""
    averages = [line[-1].languages for line in places if labels and line[-1] is not None]
    most = max(averages, default=0)
    for y, line in enumerate(places):
        for x, row in enumerate(line):
            if row is None:
                axes.text(x, y, "source" if labels else "-", ha="center", va="center", fontsize=8, color="#777777")
                continue
            over = over_text(row, [each for each in line if each is not None])
            score_square(axes, x, y, row, colours=colours, mark=over)
            if names[x] == AVERAGE and 0 < row.languages < most:
                _say_fewer(axes, x, y, f"{row.languages} of {most} languages")
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(places) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), [*map(literal, names)], fontsize=9)
    axes.set_yticks(range(len(places)), labels or [""] * len(places), fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _say_fewer(axes: Axes, x: int, y: int, text: str) -> None:
    """A small label below a score: this average is over fewer languages than its neighbours'."""
    box = {"facecolor": "#555555", "edgecolor": "none", "pad": 0.8}
    axes.text(x, y + 0.34, text, ha="center", va="center", fontsize=6, color="white", bbox=box)
