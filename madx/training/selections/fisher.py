"""FISH mask (Sung et al. 2021, arXiv:2111.09839): the weights that the labels depend on most, without full fine-tuning.

Score: the diagonal of the empirical Fisher information, the mean over the samples of (d loss / d theta)^2.
"""

from torch import Tensor

from madx.training.selections.base import SELECTIONS, Evidence, Selection


@SELECTIONS.register("fisher")
class Fisher(Selection):
    """Mean squared gradient of a weight, one sample at a time."""

    needs = "gradients"

    def scores(self, evidence: Evidence, first: int, last: int) -> Tensor:
        return evidence.squares.reshape(-1)[first:last]
