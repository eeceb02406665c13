"""Chance: what a selection must beat. Each entry's score is a uniform number drawn by seed, parameter and place."""

from torch import Tensor

from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection, uniform


@SELECTIONS.register("random")
class Random(Selection):
    """A number between 0 and 1, the same whenever it is asked for."""

    def scores(self, evidence: Importance, first: int, last: int) -> Tensor:
        return uniform(evidence, first, last)
