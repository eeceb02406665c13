"""The importance of weights: what a selection may judge the entries of one parameter by."""

from dataclasses import dataclass

from torch import Tensor

from madx.contract.sites import BaseParameter


@dataclass(frozen=True)
class Importance:
    """Measures of the weights of one parameter; tensors have the parameter's shape.

    Args:
        parameter: its name, shape and place.
        start: the weights before training.
        trained: the weights after a phase in which all of them were trained; None without such a phase.
        squares: mean squared gradients; None where they were not measured.
        seed: for random scores.
    """

    parameter: BaseParameter
    start: Tensor
    trained: Tensor | None = None
    squares: Tensor | None = None
    seed: int = 0

    def change(self) -> Tensor:
        """trained - start, in the parameter's shape. Raises ValueError without a phase before the selection."""
        return _known(self.trained, "trained weights") - self.start

    def distance(self, first: int, last: int) -> Tensor:
        """|trained - start| `(last - first,)` of the entries first..last-1 of the flattened parameter."""
        trained = _known(self.trained, "trained weights").reshape(-1)
        return (trained[first:last] - self.start.reshape(-1)[first:last]).abs_()

    def fisher(self, first: int, last: int) -> Tensor:
        """The mean squared gradients `(last - first,)` of the entries first..last-1 of the flattened parameter."""
        return _known(self.squares, "squared gradients").reshape(-1)[first:last]


def _known(tensor: Tensor | None, what: str) -> Tensor:
    if tensor is None:
        raise ValueError(
            f"This selection judges entries by {what}, which were not measured: it must override `phase_before` or "
            "`importance` so that they are."
        )
    return tensor
