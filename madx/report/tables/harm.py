"""Languages whose own module lowers the score, in words, with what can be done: the first lines of every report."""

from collections.abc import Sequence

from madx.results.contrasts import ALONE, Contrast
from madx.results.matrix import TransferMatrix

REMEDIES = (
    "What can help: a task module that was trained over the modules of these languages in turn (cycle), or that reads "
    "a word at its last piece or at the mean of its pieces (pooling), where names begin inside a word; see "
    "docs/evidence.md."
)


def harm_lines(matrix: TransferMatrix) -> list[str]:
    """A line for each language whose module lowers the score beyond noise, then one with remedies; none without any."""
    lines = [_line(matrix, [c for c in matrix.harmed() if c.target == t]) for t in matrix.targets]
    found = [line for line in lines if line]
    return [*found, REMEDIES] if found else []


def _line(matrix: TransferMatrix, contrasts: Sequence[Contrast]) -> str:
    if not contrasts:
        return ""
    target = contrasts[0].target
    below = " and ".join(f"{-c.delta:.1f} points below {c.minus}" for c in contrasts)
    scores = {r.control: r.mean for r in matrix.table() if r.target == target and r.control in ("none", "source")}
    better = max((c.minus for c in contrasts), key=lambda control: scores.get(control) or 0.0)
    sure = "" if any(c.mark != ALONE for c in contrasts) else ", though not after the correction for all pairs"
    return f"{target}: the target's module LOWERS the score: {below}, beyond noise{sure}. Better here: {better}."
