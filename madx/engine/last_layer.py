"""Narrowing: the last layer, past its attention, for the positions that somebody will read.

A masked-LM loss reads 15 % of the positions, a word's label is read at its first piece. Past its attention the last layer
treats each token by itself, so it need not treat the others: of three layers this spares a fifth of all products, of
twelve a twentieth. The numbers are the same to rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from madx.base import Base
from madx.contract.module_type import all_tokenwise

#: numbers of rows and of places in them, `(n,)` each
Positions = tuple[Tensor, Tensor]


class Narrowing:
    """Which positions the forward pass at hand goes on with, past the last layer's attention; None: with all.

    A pre-norm base cannot be narrowed: its residual stream passes its sublayers by.
    """

    def __init__(self, base: Base):
        self.at: Positions | None = None
        self._site, self._norm = f"layer.{base.depth - 1}.ffn", base.family.attention.norm

    def place(self, base: Base) -> nn.Module | None:
        """The module on whose output the other positions are left out."""
        layers = base.encoder.get_submodule(base.family.layers)
        return layers[base.depth - 1].get_submodule(self._norm) if self._norm is not None else None

    def wrap(self, original: Callable) -> Callable:
        """Its forward: `(batch, tokens, width)`, or `(1, n, width)` for `at`."""

        def forward(summed: Tensor) -> Tensor:
            result = original(summed)
            return result if self.at is None else result[self.at][None]

        return forward

    @contextmanager
    def to(self, at: Positions | None, plan: dict[str, list]) -> Iterator[Callable[[Tensor], Tensor]]:
        """For one forward pass under a plan; gives what makes `(n, width)` of the encoder's output. Nothing is narrowed
        where a step of the last layer looks at other tokens (`tokenwise`)."""
        narrow = self._norm is not None and all_tokenwise(plan.get(self._site, ()))
        self.at = at if narrow else None
        try:
            yield (lambda hidden: hidden) if at is None else (lambda hidden: hidden[0] if narrow else hidden[at])
        finally:
            self.at = None
