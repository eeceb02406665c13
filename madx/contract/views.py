"""Views: the tensors that a module can read at a site during one forward pass.

A unit (one instance of a module type at one site) gets a view and returns the change that it makes; it writes nothing.
`value` is the output of the site, with the changes of the units before this one in the stack. All tensors are
`(batch, positions, width)` unless stated otherwise; the positions are the reserved slots, if any, and then the tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from madx.errors import MadxError

V = TypeVar("V", bound="View")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which positions of a batch hold tokens.

    Args:
        mask: `(batch, positions)`, true at tokens and at the slots that the row uses, false at padding; None: true
            everywhere.
        slots: number of positions before the first token.
        held: `(batch, slots)`, true at slots that hold a state of their own, such as a prompt's; None: no slot does.
    """

    mask: Tensor | None = None
    slots: int = 0
    held: Tensor | None = None

    def rows(self, first: int, last: int) -> "Tokens":
        """Return the tokens of the rows first to last - 1."""
        mask, held = (None if t is None else t[first:last] for t in (self.mask, self.held))
        return Tokens(mask, self.slots, held)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of `x` `(batch, positions, ...)` over all positions that hold a state, `(batch, 1, ...)`.

        Padding counts; slots without a state (those of a prefix) do not. An `x` of other positions than the batch's,
        such as DeBERTa's relative ones, has no slots, and all of its positions count.
        """
        slots = self.slots
        if not slots or self.mask is not None and self.mask.shape != x.shape[:2]:
            return x.mean(dim=1, keepdim=True)
        own = torch.zeros(x.shape[0], slots, dtype=torch.bool, device=x.device) if self.held is None else self.held
        counts = torch.cat([own, own.new_ones(x.shape[0], x.shape[1] - slots)], dim=1)
        weights = counts.to(x.dtype).view(*counts.shape, *[1] * (x.dim() - 2))
        return (x * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


class View:
    """The view at a site of any kind; subclasses add what is particular to a kind.

    Args:
        value: the output of the site, with all changes so far.
        captured: tensors by name: those that the module types at this site list in `reads`.
        tokens: which positions hold tokens.
    """

    __slots__ = ("value", "captured", "tokens")

    def __init__(self, value: Tensor, captured: Mapping[str, Tensor], tokens: Tokens):
        self.value, self.captured, self.tokens = value, captured, tokens

    def read(self, name: str) -> Tensor:
        """Return a tensor of the base: `input`, `output`, `residual`, `layer_input` or (at `encoder`) `states`.

        Raises MadxError for a tensor that the module type does not list in `reads`: the engine keeps no others.
        """
        try:
            return self.captured[name]
        except KeyError:
            raise MadxError(
                f"A module reads {name!r} here, which the engine did not keep. Its module type must list it in "
                f"`reads`, and the site must have it; kept: {', '.join(self.captured) or 'nothing'}."
            ) from None

    @property
    def mask(self) -> Tensor:
        """`(batch, positions)`: true at tokens, false at padding and at hidden slots."""
        if self.tokens.mask is not None:
            return self.tokens.mask.bool()
        return torch.ones(self.value.shape[:2], dtype=torch.bool, device=self.value.device)

    @property
    def filled(self) -> Tensor:
        """`(batch, positions)`: true at positions that hold a state of the row: tokens, and the slots of a prompt.

        It is false at padding and at the slots of a prefix, which is visible to the base's own attention alone.
        """
        found = self.mask
        if self.tokens.slots:
            found = found.clone()
            held = self.tokens.held
            found[:, : self.tokens.slots] &= False if held is None else held
        return found

    @property
    def text(self) -> Tensor:
        """`(batch, positions)`: true at tokens, false at padding and at all slots."""
        found = self.mask.clone()
        found[:, : self.tokens.slots] = False
        return found

    @property
    def first(self) -> Tensor:
        """`(batch,)`: the position of each row's first token."""
        return self.text.to(torch.int8).argmax(1)

    @property
    def last(self) -> Tensor:
        """`(batch,)`: the position of each row's last token."""
        found = self.text
        return found.shape[1] - 1 - found.flip(1).to(torch.int8).argmax(1)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of `x` over positions, `(batch, 1, ...)`; see `Tokens.mean`."""
        return self.tokens.mean(x)

    def add(self, change: Tensor) -> None:
        """value <- value + change."""
        self.value = self.value + change

    def run(self, steps: Iterable[Callable[..., Tensor]]) -> Tensor | None:
        """Return the sum of the changes of some steps, each of which sees the changes before it; None without steps.

        The last change is not added to the view, because nothing reads the view afterwards.
        """
        total = change = None
        for step in steps:
            if change is not None:
                self.add(change)
            change = step(self)
            total = change if total is None else total + change
        return total

    def fork(self: V) -> V:
        """Copy the view to run another branch from it; a change that one branch adds does not appear in the other."""
        return type(self)(self.value, self.captured, self.tokens)

    def rows(self: V, first: int, last: int) -> V:
        """Return the view of the rows first to last - 1."""
        return type(self)(self.value[first:last], cut(self.captured, first, last), self.tokens.rows(first, last))


class Sublayer(View):
    """A sublayer: an attention or feed-forward block with its residual connection.

    With h the block's output and x the residual stream, the base computes LN(h + x) (post-norm) or h + x (pre-norm,
    where `norm` is the identity). Modules change h.

    Attributes:
        sum: s = h + x with all changes so far.
        norm: the base's LN after the sum, or the identity.
        value: h with all changes so far. To read it, a type lists `output`.
    `read("residual")` is x; `read("input")` is the block's input: x in a post-norm base, LN(x) in a pre-norm base.
    """

    __slots__ = ("sum", "norm", "change")

    def __init__(self, sum: Tensor, norm: Callable[[Tensor], Tensor], captured: Mapping[str, Tensor], tokens: Tokens):
        self.sum, self.norm, self.captured, self.tokens = sum, norm, captured, tokens
        self.change: Tensor | None = None

    @property
    def value(self) -> Tensor:  # type: ignore[override]
        h = self.read("output")
        return h if self.change is None else h + self.change

    @property
    def mask(self) -> Tensor:
        if self.tokens.mask is not None:
            return self.tokens.mask.bool()
        return torch.ones(self.sum.shape[:2], dtype=torch.bool, device=self.sum.device)

    def add(self, change: Tensor) -> None:
        """h <- h + change."""
        self.sum = self.sum + change
        self.change = change if self.change is None else self.change + change

    def fork(self) -> "Sublayer":
        twin = Sublayer(self.sum, self.norm, self.captured, self.tokens)
        twin.change = self.change
        return twin

    def rows(self, first: int, last: int) -> "Sublayer":
        some = Sublayer(self.sum[first:last], self.norm, cut(self.captured, first, last), self.tokens.rows(first, last))
        some.change = None if self.change is None else self.change[first:last]
        return some


class Projection(View):
    """A linear map y = W x + b of the base. Modules change y.

    Attributes:
        value: y with all changes so far, `(batch, positions, output width)`.
        weight, bias: W `(output width, input width)` and b `(output width,)` or None, the base's own.
    `read("input")` is x, `(batch, positions, input width)`; it is always available. DeBERTa calls its query and key
    maps once more, on relative positions `(1, 2 * span, width)`.
    """

    __slots__ = ("weight", "bias")

    def __init__(
        self, value: Tensor, captured: Mapping[str, Tensor], tokens: Tokens, weight: Tensor, bias: Tensor | None
    ):
        super().__init__(value, captured, tokens)
        self.weight, self.bias = weight, bias

    def fork(self) -> "Projection":
        return Projection(self.value, self.captured, self.tokens, self.weight, self.bias)

    def rows(self, first: int, last: int) -> "Projection":
        some = cut(self.captured, first, last)
        return Projection(self.value[first:last], some, self.tokens.rows(first, last), self.weight, self.bias)


class LayerOutput(View):
    """The output of a layer, or the last state at the site `encoder`.

    `read("layer_input")` is the layer's input. At `encoder`, `read("states")` is the tuple of all states: the
    embeddings, then the output of each layer.
    """

    __slots__ = ()


class Slots:
    """The view of a slots type: what is known before the slots are filled.

    Attributes:
        like: a tensor with the rows, the number format and the device of the batch.
        tokens: which positions hold tokens.
    """

    __slots__ = ("like", "tokens", "_input")

    def __init__(self, like: Tensor, input: Tensor | None = None, tokens: Tokens = Tokens()):
        self.like, self.tokens, self._input = like, tokens, input

    @property
    def input(self) -> Tensor:
        """The input of the attention at `layer.N.slots`, `(batch, positions, width)`.

        At slots that hold no state its numbers mean nothing; `tokens.mean` leaves them out. Raises MadxError at the
        site `slots`, which is filled before there is any state.
        """
        if self._input is None:
            raise MadxError("A module reads the attention's input at the site `slots`, which comes before all layers.")
        return self._input


class _Rows(Mapping[str, Any]):
    """Neighbouring rows of captured tensors, sliced only when they are read."""

    def __init__(self, captured: Mapping[str, Tensor], first: int, last: int):
        self.captured, self.first, self.last = captured, first, last

    def __getitem__(self, name: str) -> Any:
        rows, found = slice(self.first, self.last), self.captured[name]
        return tuple(t[rows] for t in found) if isinstance(found, tuple) else found[rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self.captured)

    def __len__(self) -> int:
        return len(self.captured)


def cut(captured: Mapping[str, Tensor], first: int, last: int) -> Mapping[str, Tensor]:
    """Return the captured tensors of the rows first to last - 1."""
    return _Rows(captured, first, last)
