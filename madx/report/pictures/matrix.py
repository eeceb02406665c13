"""The transfer matrix as a picture: scores per language and control, and what the target's module adds.

Colours: cividis, and the blue and vermillion of Okabe & Ito, which every common colour vision tells apart.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from madx.report.marks import Mark, legend, mark_of
from madx.report.pictures.drawing import RED, colour_scale, literal, png, score_square
from madx.report.tables.text import over_text
from madx.results.cells import AVERAGE, PROXIES
from madx.results.contrasts import NOISE, like_best
from madx.results.matrix import TransferMatrix

_SERIES = {"none": ("#0072B2", "o", -0.16), "source": ("#D55E00", "s", 0.16)}  # colour, marker, offset within a row
_SOURCE = " (source)"
_WRAP = 150  # characters of 8 point bold that fit the narrowest picture
_ROW, _COLUMN, _LETTER = 0.46, 1.275, 0.078  # inches


def heatmap_png(matrix: TransferMatrix) -> bytes:
    """The picture as PNG bytes."""
    return png(heatmap_figure(matrix))


def heatmap_figure(matrix: TransferMatrix) -> Figure:
    """Left: mean ± sd per language and column. `-` is missing, a red frame is an inactive module, `≈` is within noise
    of the row's best. Right: target - none and target - source with their 95 % intervals over seeds; a language without
    a module has its first proxy in target's place. The shapes of the marks are those of `madx.report.marks`."""
    names = matrix.rows
    warnings = [part for line in matrix.warnings() for part in textwrap.wrap(line, _WRAP)]
    notes = textwrap.wrap(matrix.meta.note, _WRAP) if matrix.meta.note else []
    # Everything in inches: title, notes and legend above the rows, the axis below them; labels by their length.
    above, below, body = 0.95 + 0.2 * len(warnings + notes), 0.6, max(_ROW * len(names), 1.1)
    label = 0.2 + _LETTER * max(map(len, _lead_names(matrix, names)))
    left = 0.2 + _LETTER * max(map(len, _row_names(matrix, names)))
    wide = _COLUMN * len(matrix.columns)  # of the left panel
    right = left + wide + 0.85 + label
    width, height = right + 3.7, above + body + below
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    title = f"{matrix.meta.task_module} on {matrix.meta.base}: {matrix.scored.measure}"
    figure.text(0.15 / width, 1 - 0.3 / height, literal(title), fontsize=12, weight="bold", va="center")
    for i, line in enumerate(notes + warnings):
        loud: dict[str, Any] = {"color": RED, "weight": "bold"} if i >= len(notes) else {}
        figure.text(0.15 / width, 1 - (0.55 + 0.2 * i) / height, literal(line), fontsize=8, va="center", **loud)

    def panel(x: float, wide: float) -> Axes:
        return figure.add_axes((x / width, below / height, wide / width, body / height))

    colours = _scores(panel(left, wide), matrix, names)
    bar = panel(left + wide + 0.1, 0.13)
    figure.colorbar(colours, cax=bar)
    bar.tick_params(labelsize=7)
    bar.set_title(matrix.scored.short, fontsize=8)
    _differences(panel(right, 3.5), matrix, names)
    return figure


def _row_names(matrix: TransferMatrix, names: Sequence[str]) -> list[str]:
    return [n + _SOURCE * (n in matrix.meta.sources) for n in names]


def _scores(axes: Axes, matrix: TransferMatrix, names: Sequence[str]) -> ScalarMappable:
    """Draw the left panel; gives its scale of colours."""
    table, pairs, columns = matrix.table(), matrix.pairs(), matrix.columns
    colours = colour_scale([r.mean for r in table if r.mean is not None and r.target in names])
    for y, name in enumerate(names):
        rows = [r for r in table if r.target == name]
        alike = like_best(rows, pairs)
        for x, row in enumerate(rows):
            mark = over_text(row, rows) + f" {NOISE}" * (row.control in alike)
            score_square(axes, x, y, row, colours=colours, mark=mark)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(names) - 0.5, -0.5))
    labels = [c if c in PROXIES else "no\nmodule" if c == "none" else f"{c}\nmodule" for c in columns]
    axes.set_xticks(range(len(columns)), labels, fontsize=9)
    _language_axis(axes, _row_names(matrix, names))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return colours


def _leads(matrix: TransferMatrix) -> dict[str, str]:
    """For each row the column that is compared: the target's module, else the first proxy that has a score. The source
    language has its module: no proxy stands in for it."""
    table, sources = matrix.table(), matrix.meta.sources
    scored = {(r.target, r.control) for r in table if r.mean is not None and r.target not in sources}
    return {
        name: next((c for c in ("target", *PROXIES) if (name, c) in scored), "target")
        for name in (*matrix.targets, AVERAGE)
    }


def _lead_names(matrix: TransferMatrix, names: Sequence[str]) -> list[str]:
    """`swa`; `yor (weighted)` where a proxy is compared."""
    leads = _leads(matrix)
    return [n if leads[n] == "target" else f"{n} ({leads[n]})" for n in names]


def _differences(axes: Axes, matrix: TransferMatrix, names: Sequence[str]) -> None:
    leads = _leads(matrix)
    shown = [c for c in matrix.pairs() if c.minus in _SERIES and c.target in names and c.control == leads[c.target]]
    axes.axvline(0, color="black", linewidth=0.8)
    for minus, (colour, marker, offset) in _SERIES.items():
        axes.plot([], [], marker, color=colour, label=f"target - {minus}")
        for c in (c for c in shown if c.minus == minus):
            y = names.index(c.target) + offset
            if c.low is not None and c.high is not None:
                axes.plot([c.low, c.high], [y, y], color=colour, linewidth=1.6)
            axes.plot(
                [c.delta], [y], marker, markersize=6, zorder=3, **_filling(mark_of(c), RED if c.inactive else colour)
            )
    if not shown:
        axes.set_xlim(-1, 1)
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "backgroundcolor": "white"}
        axes.text(0, (len(names) - 1) / 2, "no target module to compare", **text)
    axes.set_ylim(len(names) - 0.5, -0.5)
    _language_axis(axes, _lead_names(matrix, names))
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"difference in {matrix.scored.short}, points; bars: 95 % t interval over seeds", fontsize=8)
    _legend(axes, legend(shown))


def _legend(axes: Axes, marks: Sequence[Mark]) -> None:
    """Above the panel, so that it never covers a bar. marks: those that occur in the panel."""
    for mark in marks:
        axes.plot(
            [], [], "o", label=f"{mark.shape} {mark.sign}".strip() + f": {mark.verdict}", **_filling(mark, "#555555")
        )
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )


def _filling(mark: Mark, colour: str) -> dict[str, Any]:
    """The settings of a point in the shape of a mark."""
    if mark.shape == "half":
        return {"color": colour, "fillstyle": "left", "markerfacecoloralt": "white"}
    return {
        "color": colour,
        "markeredgecolor": colour,
        "markerfacecolor": "white" if mark.shape == "hollow" else colour,
    }


def _language_axis(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), [*map(literal, labels)], fontsize=9)
    if labels[-1].split(" ")[0] == AVERAGE:
        axes.axhline(len(labels) - 1.5, color="black", linewidth=1.2)
