"""The transfer matrix as a picture: scores per language and control, and what the target module adds.

Colours: cividis and Okabe & Ito's blue and vermillion, told apart with every common colour vision. Figure objects
only, never pyplot: nothing global is opened or left behind.
"""

import io
import textwrap
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from madx.results.contrasts import ALONE, NOISE, Contrast, like_best
from madx.results.matrix import AVERAGE, PROXIES, Row, TransferMatrix

_SERIES = {"none": ("#0072B2", "o"), "source": ("#D55E00", "s")}
_RED = "#CC0000"
_SOURCE = " (source)"
_WRAP = 150  # characters of 8 point bold that fit the narrowest picture


def heatmap_png(matrix: TransferMatrix) -> bytes:
    """The picture as PNG bytes."""
    return png(heatmap_figure(matrix))


def png(figure: Figure) -> bytes:
    """A drawn figure as PNG bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def heatmap_figure(matrix: TransferMatrix) -> Figure:
    """Left: mean ± sd per language and column; `-` is missing, a red frame is a silent module, `≈` is within noise of the
    row's best. Right: target - none and target - source with their 95 % interval over seeds, for a language without a
    module its first proxy in target's place; hollow = within noise, half = not after the correction over all pairs."""
    names = matrix.rows
    warnings = [part for line in matrix.warnings() for part in textwrap.wrap(line, _WRAP)]
    notes = textwrap.wrap(matrix.meta.note, _WRAP) if matrix.meta.note else []
    # Everything in inches: 0.46 a row; above it title, notes and legend, below it the axis; labels by their length.
    above, below, body = 0.95 + 0.2 * len(warnings + notes), 0.6, max(0.46 * len(names), 1.1)
    label = 0.2 + 0.078 * max(map(len, _lead_names(matrix, names)))
    left = 0.2 + 0.078 * max(len(n + _SOURCE * (n in matrix.meta.sources)) for n in names)
    height = above + body + below
    wide = 1.275 * len(matrix.columns)  # of the left panel
    right = left + wide + 0.85 + label
    width = right + 3.7
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    figure.text(
        0.15 / width,
        1 - 0.3 / height,
        f"{matrix.meta.task_module} on {matrix.meta.base}: {matrix.scored.measure}",
        fontsize=12,
        weight="bold",
        va="center",
    )
    for i, line in enumerate(notes + warnings):
        figure.text(
            0.15 / width,
            1 - (0.55 + 0.2 * i) / height,
            line,
            fontsize=8,
            va="center",
            color=_RED if i >= len(notes) else "black",
            weight="bold" if i >= len(notes) else "normal",
        )

    def panel(x: float, wide: float):
        return figure.add_axes((x / width, below / height, wide / width, body / height))

    _scores(panel(left, wide), panel(left + wide + 0.1, 0.13), matrix, names)
    _differences(panel(right, 3.5), matrix, names)
    return figure


def _scores(axes, bar, matrix: TransferMatrix, names: Sequence[str]) -> None:
    table = matrix.table()
    colours = colour_scale([r.mean for r in table if r.mean is not None and r.target in names])
    for y, name in enumerate(names):
        rows = [r for r in table if r.target == name]
        alike = like_best(matrix, rows)
        for x, row in enumerate(rows):
            score_square(axes, x, y, row, colours, mark=f" {NOISE}" * (row.control in alike))
    columns = matrix.columns
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set_xticks(
        range(len(columns)),
        [c if c in PROXIES else "no\nmodule" if c == "none" else f"{c}\nmodule" for c in columns],
        fontsize=9,
    )
    _language_axis(axes, [n + _SOURCE * (n in matrix.meta.sources) for n in names])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar.figure.colorbar(colours, cax=bar)
    bar.tick_params(labelsize=7)
    bar.set_title(matrix.scored.short, fontsize=8)


def colour_scale(means: Sequence[float]) -> ScalarMappable:
    """cividis from the least to the largest of the means, wider where they hardly differ."""
    low, high = (min(means), max(means)) if means else (0.0, 100.0)
    return ScalarMappable(Normalize(low, high) if high - low > 0.1 else Normalize(low - 1, high + 1), "cividis")


def score_square(axes, x: int, y: int, row: Row, colours: ScalarMappable, *, mark: str = "") -> None:
    """A place of a heatmap: mean ± sd and mark on its colour; hatched without a score, framed in red with a silent module."""
    corner = (x - 0.48, y - 0.46)
    if row.mean is None:
        axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor="#EEEEEE", edgecolor="#BBBBBB", hatch="///", lw=0))
        axes.text(x, y, "-", ha="center", va="center")
        return
    red, green, blue, _ = colours.to_rgba(row.mean)
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
    axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor=(red, green, blue)))
    if row.silent:
        axes.add_patch(Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, fill=False, edgecolor=_RED, linewidth=3))
    text = f"{row.mean:.1f}" + ("" if row.sd is None else f" ± {row.sd:.1f}") + mark + (" !" if row.silent else "")
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")


def _leads(matrix: TransferMatrix) -> dict[str, str]:
    """For each row the column that is compared: the target's module, else the first proxy that has a score. The source
    language has its module: no proxy stands in for it."""
    scored = {
        (r.target, r.control) for r in matrix.table() if r.mean is not None and r.target not in matrix.meta.sources
    }
    return {
        name: next((c for c in ("target", *PROXIES) if (name, c) in scored), "target")
        for name in (*matrix.targets, AVERAGE)
    }


def _lead_names(matrix: TransferMatrix, names: Sequence[str]) -> list[str]:
    """`swa`; `yor (weighted)` where a proxy is compared."""
    leads = _leads(matrix)
    return [n if leads[n] == "target" else f"{n} ({leads[n]})" for n in names]


def _differences(axes, matrix: TransferMatrix, names: Sequence[str]) -> None:
    leads = _leads(matrix)
    contrasts = [c for c in matrix.pairs() if c.minus in _SERIES and c.target in names and c.control == leads[c.target]]
    axes.axvline(0, color="black", linewidth=0.8)
    for minus, (colour, marker) in _SERIES.items():
        offset = -0.16 if minus == "none" else 0.16
        axes.plot([], [], marker, color=colour, label=f"target - {minus}")
        for c in (c for c in contrasts if c.minus == minus):
            y = names.index(c.target) + offset
            if c.low is not None:
                axes.plot([c.low, c.high], [y, y], color=colour, linewidth=1.6)
            axes.plot([c.delta], [y], marker, markersize=6, zorder=3, **_filling(c, colour))
    axes.plot([], [], "o", markerfacecolor="white", markeredgecolor="#555555", label="hollow: within noise")
    if halves := any(c.mark == ALONE for c in contrasts):
        axes.plot(
            [], [], "o", color="#555555", fillstyle="left", markerfacecoloralt="white", label="half: not after Holm"
        )
    if not contrasts:
        axes.set_xlim(-1, 1)
        axes.text(
            0,
            (len(names) - 1) / 2,
            "no target module to compare",
            ha="center",
            va="center",
            fontsize=9,
            backgroundcolor="white",
        )
    axes.set_ylim(len(names) - 0.5, -0.5)
    _language_axis(axes, _lead_names(matrix, names))
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"difference in {matrix.scored.short}, points; bars: 95 % t interval over seeds", fontsize=8)
    # Above the panel, so that it never covers a bar.
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2 if halves else 3,
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )


def _filling(contrast: Contrast, colour: str) -> dict[str, str]:
    """Full, half or hollow, by how sure the difference is."""
    edge = _RED if contrast.silent else colour
    if contrast.mark == ALONE:
        return {"color": edge, "fillstyle": "left", "markerfacecoloralt": "white"}
    return {"markeredgecolor": edge, "markerfacecolor": "white" if contrast.noise else colour}


def _language_axis(axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    if labels[-1].split(" ")[0] == AVERAGE:
        axes.axhline(len(labels) - 1.5, color="black", linewidth=1.2)
