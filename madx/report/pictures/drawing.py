"""Pieces that several pictures have in common."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from madx.outside import visible
from madx.results.cells import Row

RED = "#CC0000"


def png(figure: Figure) -> bytes:
    """A drawn figure as PNG bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def literal(text: str) -> str:
    """A text from outside as matplotlib shows it letter by letter: two dollar signs would make it a formula."""
    return visible(text).replace("$", r"\$")


def colour_scale(means: Sequence[float]) -> ScalarMappable:
    """cividis from the smallest to the largest of the means, wider where they hardly differ."""
    low, high = (min(means), max(means)) if means else (0.0, 100.0)
    return ScalarMappable(Normalize(low, high) if high - low > 0.1 else Normalize(low - 1, high + 1), "cividis")


def score_square(axes: Axes, x: int, y: int, row: Row, *, colours: ScalarMappable, mark: str = "") -> None:
    """A place of a heatmap: mean ± sd and a mark on the mean's colour. It is hatched without a score and has a red
    frame where a module did not act."""
    corner = (x - 0.48, y - 0.46)
    if row.mean is None:
        axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor="#EEEEEE", edgecolor="#BBBBBB", hatch="///", lw=0))
        axes.text(x, y, "-", ha="center", va="center")
        return
    red, green, blue, _ = colours.to_rgba(np.asarray(row.mean))
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
    axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor=(red, green, blue)))
    if row.inactive:
        axes.add_patch(Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, fill=False, edgecolor=RED, linewidth=3))
    text = f"{row.mean:.1f}" + ("" if row.sd is None else f" ± {row.sd:.1f}") + mark + (" !" if row.inactive else "")
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
