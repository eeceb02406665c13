"""The weights that a run may end with instead of its last ones: the best ones, or a mean over the last evaluations."""

from torch import Tensor

Weights = dict[str, Tensor]


class KeptWeights:
    """Copies of a run's weights at its evaluations.

    Attributes:
        best: the weights of the best evaluation; None before there is one.
        mean: the mean of the weights at the last evaluations, for `average_last`.
        averaged: number of evaluations in the mean.
    """

    def __init__(self) -> None:
        self.best: Weights | None = None
        self.mean: Weights = {}
        self.averaged = 0

    def keep_as_best(self, weights: Weights) -> None:
        """Take a copy as the best weights so far."""
        self.best = {name: value.detach().clone() for name, value in weights.items()}

    def add_to_mean(self, weights: Weights) -> None:
        """mean <- mean + (weights - mean) / n; tensors of whole numbers stay those of the first evaluation."""
        self.averaged += 1
        for name, value in weights.items():
            if name not in self.mean:
                self.mean[name] = value.detach().clone()
            elif value.is_floating_point():
                self.mean[name] += (value.detach() - self.mean[name]) / self.averaged

    def tensors(self) -> Weights:
        """All copies, by the names under which a checkpoint keeps them."""
        best = {f"best.{name}": value for name, value in (self.best or {}).items()}
        return best | {f"mean.{name}": value for name, value in self.mean.items()}

    def restore(self, tensors: Weights, *, averaged: int) -> None:
        """Take up the copies of a checkpoint."""
        self.best = tensors_under("best.", tensors) or None
        self.mean, self.averaged = tensors_under("mean.", tensors), averaged


def tensors_under(prefix: str, tensors: Weights) -> Weights:
    """The tensors whose names begin with a prefix, without it.

    >>> tensors_under("best.", {"best.w": 1, "mean.w": 2})
    {'w': 1}
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
