"""Equal scores: the first entries are taken. With `entries: all` nothing is selected and no rule is asked
(`madx.training.sparse`)."""

import torch
from torch import Tensor

from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection


@SELECTIONS.register("everything")
class Everything(Selection):
    """Scores each entry by 1."""

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        return torch.ones(last - first)
