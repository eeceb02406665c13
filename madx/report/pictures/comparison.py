"""A comparison as one picture: a panel for each of the five axes, a row for each candidate."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from madx.report.pictures.drawing import literal, png
from madx.report.tables.text import amount
from madx.results.comparison import Candidate, Comparison, spread

_BLUE, _GREY = "#0072B2", "#555555"
#: middle, low, high
Interval = tuple[float, float, float]


def picture_png(comparison: Comparison) -> bytes:
    """The picture as PNG bytes."""
    return png(picture(comparison))


def picture(comparison: Comparison) -> Figure:
    """Dots with their spread: the deviation over seeds for the score, the middle half of the rounds for inference.

    Costs are on a logarithmic scale, cheaper to the left; candidates that failed have no dots."""
    candidates = comparison.candidates
    panels = [
        ("storage", [_point(c.storage) for c in candidates], "B", True),
        ("training memory\nabove the base", [_point(c.memory) for c in candidates], "B", True),
        ("training compute\noperations in all", [_point(c.flops) for c in candidates], "", True),
        (f"accuracy\n{comparison.metric} on dev, ± sd", [_score(c) for c in candidates], None, False),
        ("inference time\n× the bare base", [spread(c.inference) for c in candidates], None, False),
    ]
    label = 0.25 + 0.085 * max(len(c.name) for c in candidates)
    wide, gap, head, foot = 1.75, 0.2, 1.15, 0.45
    body = 0.38 * len(candidates) + 0.1
    width, height = label + len(panels) * (wide + gap) + 0.1, head + body + foot
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    title = f"{comparison.task} on {comparison.base}" + (f": {comparison.note}" if comparison.note else "")
    figure.text(0.15 / width, 1 - 0.25 / height, literal(title), fontsize=11, weight="bold", va="center")
    for number, (name, values, unit, logarithmic) in enumerate(panels):
        x = label + number * (wide + gap)
        axes = figure.add_axes((x / width, foot / height, wide / width, body / height))
        _panel(axes, values, unit, logarithmic=logarithmic)
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(len(candidates)), ["" if number else literal(c.name) for c in candidates], fontsize=9)
        axes.set_ylim(len(candidates) - 0.4, -0.6)
    return figure


def _point(value: float | None) -> Interval | None:
    return None if value is None else (value, value, value)


def _score(c: Candidate) -> Interval | None:
    return None if c.mean is None else (c.mean, c.mean - (c.sd or 0.0), c.mean + (c.sd or 0.0))


def _panel(axes: Axes, values: Sequence[Interval | None], unit: str | None, *, logarithmic: bool) -> None:
    """unit: of the numbers beside the dots; None for plain numbers."""
    if logarithmic and all(value[0] > 0 for value in values if value is not None):
        axes.set_xscale("log")
    small: dict[str, Any] = {"ha": "center", "color": _GREY}
    for y, value in enumerate(values):
        if value is None:
            axes.text(0.5, y, "failed", va="center", fontsize=8, transform=axes.get_yaxis_transform(), **small)
            continue
        middle, low, high = value
        axes.plot([low, high], [y, y], color=_BLUE, linewidth=1.6)
        axes.plot([middle], [y], "o", color=_BLUE, markersize=6)
        text = f"{middle:.3g}" if unit is None else amount(middle, unit)
        axes.annotate(text, (middle, y), xytext=(0, 6), textcoords="offset points", fontsize=7, **small)
    axes.margins(x=0.25)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7, which="both")
    axes.minorticks_off()
