"""Random entries: the control that a selection must beat.

Score: a uniform number, drawn by seed, parameter and place.
"""

from torch import Tensor

from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection, uniform


@SELECTIONS.register("random")
class Random(Selection):
    """Scores an entry by a number between 0 and 1, the same whenever it is asked for."""

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        return uniform(importance, first, last)
