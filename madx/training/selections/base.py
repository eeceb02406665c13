"""The contract of selections, and the exact choice of the K largest scores over all parameters."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from madx.errors import TrainingError
from madx.modules.base import BaseParameter
from madx.modules.sparse_diff import Space
from madx.registry import Registry

SELECTIONS = Registry("selection")

RUN = 1 << 22  # scores looked at together: 16 MB of them
BINS = 1 << 15  # of the upper half of a float's bits, its sign being +
INFINITE = 0x7F80  # the first of them that is no finite number


@dataclass(frozen=True)
class Evidence:
    """What a selection may judge one parameter by, each of the parameter's shape or None.

    start: its weights before; moved: after full fine-tuning; squares: mean squared gradients; seed: for chance.
    """

    parameter: BaseParameter
    start: Tensor
    moved: Tensor | None = None
    squares: Tensor | None = None
    seed: int = 0


class Selection(ABC):
    """Scores that are compared over all parameters; the K largest entries are selected, equal ones from the first on."""

    #: "full": `moved`, for which all weights are trained first; "gradients": `squares`; "nothing"
    needs: ClassVar[Literal["full", "gradients", "nothing"]]

    def __init__(self, settings):
        self.settings = settings

    @abstractmethod
    def scores(self, evidence: Evidence, first: int, last: int) -> Tensor:
        """Scores `(last - first,)` >= 0 in float32 of the entries first..last-1 of the flattened parameter. It is asked
        for each entry twice and gives the same score both times."""


def top(space: Space, count: int, scores: Callable[[int, int, int], Tensor], *, taken: Tensor) -> Tensor:
    """Global indices `(count,)`, ascending, of the `count` largest scores; `scores(parameter's number, first, last)`.

    Exactly `count`: of equal scores the first ones are taken. taken: global indices, ascending, that are out of the
    question. Two passes in runs of 4 million: the scores' bits, read as whole numbers, are ordered as they are, so a
    histogram of their upper halves finds the one bin in which the threshold lies; only this bin is sorted.
    Raises TrainingError for scores that are infinite or not a number.
    """
    histogram = torch.zeros(BINS + 1, dtype=torch.int64)
    for _, bits in _bits(space, scores, taken):
        histogram += torch.bincount((bits >> 16).clamp_(max=BINS).cpu(), minlength=BINS + 1)
    if int(histogram[INFINITE:BINS].sum()):
        raise TrainingError("A score for the selection of entries is infinite or not a number; lower train.learning_rate.")
    if int(histogram[:BINS].sum()) < count:
        raise TrainingError(f"{count:,} entries are to be selected, but only {int(histogram[:BINS].sum()):,} can be.")
    above = histogram[:BINS].flip(0).cumsum(0).flip(0)  # scores in this bin or above
    border = int((above >= count).nonzero()[-1])
    sure = int(above[border + 1]) if border + 1 < BINS else 0
    chosen, undecided, their_bits = [], [], []
    for offset, bits in _bits(space, scores, taken):
        bins = bits >> 16
        chosen.append(((bins > border) & (bins < BINS)).nonzero().flatten() + offset)
        inside = (bins == border).nonzero().flatten()
        undecided.append(inside + offset)
        their_bits.append(bits[inside])
    candidates, bits = torch.cat(undecided), torch.cat(their_bits)
    # stable: of equal scores the first ones come first
    best = bits.sort(descending=True, stable=True).indices[: count - sure]
    return torch.cat([*chosen, candidates[best]]).sort().values


def _bits(space: Space, scores: Callable, taken: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(global index of the first, bits as int32) of the scores, run by run; those of taken entries lie above all bins."""
    for number, parameter in enumerate(space.parameters):
        for first in range(0, parameter.numel, RUN):
            last = min(first + RUN, parameter.numel)
            offset = space.offsets[number] + first
            bits = scores(number, first, last).to(torch.float32).contiguous().view(torch.int32)
            if bool((bits < 0).any()):
                bits = torch.where(bits == -(2**31), 0, bits)  # -0.0
                if bool((bits < 0).any()):
                    raise TrainingError("A score for the selection of entries is negative or not a number.")
            if taken.numel():
                a, b = torch.searchsorted(taken, torch.tensor([offset, offset + last - first], dtype=taken.dtype, device=taken.device)).tolist()
                bits = bits.to(torch.int64)
                bits[taken[a:b].long() - offset] = BINS << 16
            yield offset, bits
