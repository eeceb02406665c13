"""Several transfer matrices as one picture: for each task the own scores by language, and the averages by control."""

from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from madx.report.heatmap import colour_scale, png, score_square
from madx.results.matrices import Entry, Matrices
from madx.results.matrix import AVERAGE, Row

_CELL, _ROW, _HEAD, _FOOT, _GAP = 1.05, 0.42, 0.95, 0.25, 0.7  # inches


def picture_png(matrices: Matrices) -> bytes:
    """The picture as PNG bytes."""
    return png(picture(matrices))


def picture(matrices: Matrices) -> Figure:
    """A row of two panels for each task, with a scale of colours of its own; `-` is missing, a red frame a silent module."""
    rows = {task: [e for e in matrices.entries if e.task == task] for task in matrices.tasks()}
    controls = matrices.controls()
    label = 0.3 + 0.078 * max(len(_name(e)) for e in matrices.entries)
    widest = max(len(matrices.targets(task)) + 1 for task in rows)
    width = label + _CELL * (widest + len(controls)) + _GAP + 0.3
    height = sum(_HEAD + _ROW * len(entries) + _FOOT for entries in rows.values()) + 0.15
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    top = height - 0.1
    for task, entries in rows.items():
        body = _ROW * len(entries)
        y = top - _HEAD - body
        targets = [*matrices.targets(task), AVERAGE]
        own = [[None if t == e.source else e.own(t) for t in targets] for e in entries]
        by_control = [[found.get(c) for c in controls] for found in (e.averages() for e in entries)]
        colours = colour_scale(
            [row.mean for line in (*own, *by_control) for row in line if row is not None and row.mean is not None]
        )
        panels = ((label, targets, own), (label + _CELL * widest + _GAP, controls, by_control))
        for number, (x, names, table) in enumerate(panels):
            wide = _CELL * len(names)
            axes = figure.add_axes((x / width, y / height, wide / width, body / height))
            _panel(axes, names, [_name(e) for e in entries] if number == 0 else None, table, colours)
            title = (f"{task}: {entries[0].metric} under the target's module", "average under each control")[number]
            figure.text(x / width, (top - 0.28) / height, title, fontsize=11, weight="bold", va="center")
        top = y - _FOOT
    return figure


def _name(entry: Entry) -> str:
    return f"{entry.module_type}, from {entry.source}"


def _panel(
    axes, names: list[str], labels: list[str] | None, table: list[list[Row | None]], colours: ScalarMappable
) -> None:
    averages = [line[-1].languages for line in table if line[-1] is not None]
    most = max(averages, default=0) if labels else 0
    for y, line in enumerate(table):
        for x, row in enumerate(line):
            if row is None:
                axes.text(x, y, "source" if labels else "-", ha="center", va="center", fontsize=8, color="#777777")
            else:
                score_square(axes, x, y, row, colours)
                if (
                    labels and names[x] == AVERAGE and 0 < row.languages < most
                ):  # an average over fewer languages than its neighbours'
                    axes.text(
                        x,
                        y + 0.34,
                        f"{row.languages} of {most} languages",
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white",
                        bbox={"facecolor": "#555555", "edgecolor": "none", "pad": 0.8},
                    )
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(table) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_yticks(range(len(table)), labels or [""] * len(table), fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
