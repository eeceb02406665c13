"""All alike: with `entries: all` the whole of what is selectable trains, nothing needs to be found out first.

BitFit (Ben Zaken et al. 2022, arXiv:2106.10199) is `kinds: [bias]`, fine-tuning of the upper layers `top_layers: n`, full
fine-tuning `freeze_norms: false` with nothing left out. With fewer entries the first ones are taken.
"""

import torch
from torch import Tensor

from madx.training.selections.base import SELECTIONS, Evidence, Selection


@SELECTIONS.register("everything")
class Everything(Selection):
    """One for each entry."""

    needs = "nothing"

    def scores(self, evidence: Evidence, first: int, last: int) -> Tensor:
        return torch.ones(last - first)
