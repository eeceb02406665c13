"""What a selection may judge the entries of one parameter by."""

from dataclasses import dataclass

from torch import Tensor

from madx.contract.sites import BaseParameter


@dataclass(frozen=True)
class Importance:
    """What a selection may judge one parameter by, each of the parameter's shape or None.

    start: its weights before; moved: after a phase in which all of them were trained; squares: mean squared gradients;
    seed: for chance.
    """

    parameter: BaseParameter
    start: Tensor
    moved: Tensor | None = None
    squares: Tensor | None = None
    seed: int = 0

    def distance(self, first: int, last: int) -> Tensor:
        """|moved - start| `(last - first,)` of the entries first..last-1 of the flattened parameter."""
        return (self.moved.reshape(-1)[first:last] - self.start.reshape(-1)[first:last]).abs_()
