"""Steps of a compiled composition that stand for more than one module: means and factors, at sublayers and embeddings."""

from collections.abc import Callable

from torch import Tensor

from madx.errors import CompositionError
from madx.modules.base import Sublayer


class WeightedChange:
    """One step for an average or a factor at a sublayer: the weighted sum of the changes that its branches would make."""

    def __init__(self, branches: list[list[Callable]], weights: tuple[float, ...]):
        self.branches, self.weights = branches, weights

    def __call__(self, at: Sublayer) -> Tensor:
        total = None
        for steps, weight in zip(self.branches, self.weights):
            if not steps:  # a branch without a part here changes nothing
                continue
            branch, change = at.fork(), None
            for step in steps:
                delta = step(branch)
                branch.add(delta)
                change = delta if change is None else change + delta
            total = weight * change if total is None else total + weight * change
            at.final_norm = branch.final_norm
        return total


class WeightedMap:
    """One step for an average or a factor at the embeddings: x + sum of w_i * (A_i(x) - x), with A_i the branches' maps."""

    def __init__(self, branches: list[list[Callable]], weights: tuple[float, ...]):
        self.branches, self.weights = branches, weights
        rest = 1.0 - sum(weights)
        self.rest = rest if abs(rest) > 1e-9 else 0.0  # the share of x itself; none in a mean

    def __call__(self, x: Tensor) -> Tensor:
        total = self.rest * x if self.rest else None
        for steps, weight in zip(self.branches, self.weights):
            y = x
            for step in steps:
                y = step(y)
            total = weight * y if total is None else total + weight * y
        return total

    def inverse(self, y: Tensor) -> Tensor:
        raise CompositionError(
            "This composition averages or scales invertible parts; such a map has no inverse in closed form, so it cannot "
            "feed the masked-LM decoder. Use one language module, unscaled, for masked language modelling."
        )
