"""The marks of differences: what each means, in one place for tables, pages and pictures.

`Contrast.mark` decides which mark a difference has. Text shows its sign, a picture its shape.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from madx.metrics.significance import ALPHA
from madx.results.contrasts import ALONE, NOISE, Contrast


class Mark(NamedTuple):
    """A mark of a difference.

    sign: in text. shape: of a point in a picture. verdict: in two words, for a column of a table. meaning: in full.
    """

    sign: str
    shape: Literal["hollow", "half", "full"]
    verdict: str
    meaning: str


#: every mark by its sign, from the least sure difference to the surest
MARKS = {
    mark.sign: mark
    for mark in (
        Mark(NOISE, "hollow", "noise", f"within noise (p >= {ALPHA} over seeds or over sentences, or one seed)"),
        Mark(ALONE, "half", "before Holm", "beyond noise alone, but not after Holm's correction"),
        Mark("", "full", "beyond", "beyond noise, after the correction too"),
    )
}


def mark_of(contrast: Contrast) -> Mark:
    """Return the mark of a difference."""
    return MARKS[contrast.mark]


def legend(contrasts: Sequence[Contrast] | None = None) -> list[Mark]:
    """Return the marks that occur among some differences (None: every mark), the least sure first."""
    return [m for m in MARKS.values() if contrasts is None or any(c.mark == m.sign for c in contrasts)]
