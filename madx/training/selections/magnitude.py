"""LT-SFT (Ansell et al. 2022, arXiv:2110.07560): the weights that full fine-tuning moved farthest, |theta - theta_0|."""

from torch import Tensor

from madx.training.selections.base import SELECTIONS, Evidence, Selection


@SELECTIONS.register("magnitude")
class Magnitude(Selection):
    """How far a weight moved."""

    needs = "full"

    def scores(self, evidence: Evidence, first: int, last: int) -> Tensor:
        return (evidence.moved.reshape(-1)[first:last] - evidence.start.reshape(-1)[first:last]).abs_()
