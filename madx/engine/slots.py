"""Slots: positions reserved before the tokens, for prompts (vectors) and prefixes (keys and values of attention).

For a batch of ids `(batch, tokens)` the engine puts P dummy ids and their mask before the tokens. The embedding block
embeds the tokens alone, with their own positions (or, where a type says so, with those behind its slots), and P vectors
are put in front of its output. So the base computes on
P + tokens positions, and the engine removes the first P from its result.

    positions   | prefix slots | prompt slots | tokens |       the slots of a row are next to its tokens; rows of a
    row 0       | K V   K V    |  v   v       | ...    |       route with fewer slots have masked slots before them
    row 1       | masked         K V          | ...    |

A prefix replaces the output of its layer's key and value maps at its slots, so the states at these slots do not matter.
In a layer where a prefix has no unit (`leave_out`), its slots are masked. In a layer with local attention (ModernBERT)
they are visible to all tokens, while a prompt is visible within the window alone, as a token in its place would be.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from madx.contract.views import Slots, Tokens
from madx.errors import CompositionError

Fill = Callable[[Slots], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Block:
    """The slots of one component, or of an average of several: their number, and their fill at each site.

    moves_tokens: the tokens count their positions on behind these slots.
    """

    kind: Literal["prompt", "prefix"]
    length: int
    fills: Mapping[str, Fill]
    module: str
    moves_tokens: bool = False


@dataclass(frozen=True)
class SlotPlan:
    """All slots of a stack, prefixes first. blocks: (number of the first slot within the stack, block)."""

    blocks: tuple[tuple[int, Block], ...] = ()

    @property
    def length(self) -> int:
        """The number of positions that the stack reserves."""
        return sum(block.length for _, block in self.blocks)

    @property
    def shift(self) -> int:
        """By how many positions the tokens stand behind their own."""
        return sum(block.length for _, block in self.blocks if block.moves_tokens)

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "SlotPlan":
        """Order the blocks: prefixes before prompts, otherwise as in the stack."""
        laid, start = [], 0
        for block in sorted(blocks, key=lambda block: block.kind == "prompt"):
            laid.append((start, block))
            start += block.length
        return cls(tuple(laid))


#: The plan of a stack without slots.
NO_SLOTS = SlotPlan()


def mixed(item: object, children: Sequence[Sequence[Block]], weights: Sequence[float]) -> list[Block]:
    """Make the blocks of an average: their vectors are the sum of w_i times the children's vectors.

    Raises CompositionError unless all children reserve the same number of slots of the same kind at the same sites.
    """
    shapes = [[(b.kind, b.length, b.moves_tokens, sorted(b.fills)) for b in blocks] for blocks in children]
    if any(shape != shapes[0] for shape in shapes):
        told = "; ".join(
            ", ".join(f"{b.module}: {b.kind} of {b.length}" for b in blocks) or "no slots" for blocks in children
        )
        raise CompositionError(
            f"'{item}' averages modules that do not reserve the same slots ({told}), and vectors can be averaged only "
            "slot by slot. Average modules whose prefixes or prompts have one length and act in the same layers."
        )
    names = ", ".join(dict.fromkeys(b.module for blocks in children for b in blocks))
    return [
        Block(
            same[0].kind,
            same[0].length,
            {site: _Mean([b.fills[site] for b in same], weights) for site in same[0].fills},
            names,
            same[0].moves_tokens,
        )
        for same in zip(*children)
    ]


class _Mean:
    """The weighted sum of the vectors that several units give for the same slots."""

    def __init__(self, fills: Sequence[Fill], weights: Sequence[float]):
        self.fills, self.weights = fills, weights

    def __call__(self, view: Slots) -> Tensor | tuple[Tensor, Tensor]:
        found = [fill(view) for fill in self.fills]
        if isinstance(found[0], tuple):
            return self._sum([each[0] for each in found]), self._sum([each[1] for each in found])
        return self._sum(found)  # type: ignore[arg-type]

    def _sum(self, vectors: Sequence[Tensor]) -> Tensor:
        total = self.weights[0] * vectors[0]
        for weight, each in zip(self.weights[1:], vectors[1:]):
            total = total + weight * each
        return total


def refuse_scaled(item: object, blocks: Sequence[Block]) -> None:
    """Raise CompositionError for a factor on slots: the effect of scaled keys is not scaled by the factor."""
    if blocks:
        names = ", ".join(dict.fromkeys(b.module for b in blocks))
        raise CompositionError(
            f"'{item}' puts a factor before {names}, whose {blocks[0].kind} takes part in attention: a factor on its "
            "vectors does not scale its effect. Leave the factor out."
        )


@dataclass(frozen=True, eq=False)
class SlotBatch:
    """The slots of one batch: `length` positions before the tokens; groups: (first row, row after the last, plan) of
    neighbouring rows with the same slots."""

    length: int
    groups: tuple[tuple[int, int, SlotPlan], ...]
    filled: dict[str, list[tuple[int, int, int, int, Tensor]]] = field(default_factory=dict)

    def tokens(self, mask: Tensor) -> Tokens:
        """Return the tokens of the whole input, slots included. mask: of the tokens alone, `(batch, tokens)`."""
        used = torch.zeros(len(mask), self.length, dtype=mask.dtype, device=mask.device)
        held = torch.zeros(len(mask), self.length, dtype=torch.bool, device=mask.device)
        for first, last, start, end, block in self._places():
            used[first:last, start:end] = 1
            held[first:last, start:end] = block.kind == "prompt"
        return Tokens(torch.cat([used, mask], dim=1), self.length, held)

    def _places(self) -> Iterator[tuple[int, int, int, int, Block]]:
        """Yield (first row, row after the last, first slot, slot after the last, block)."""
        for first, last, plan in self.groups:
            shift = self.length - plan.length
            for start, block in plan.blocks:
                yield first, last, shift + start, shift + start + block.length, block

    def embed(self, embedded: Tensor) -> Tensor:
        """Put the slots in front of the output of the embedding block, `(batch, tokens, width)`.

        The slots of prompts hold their vectors; the slots of prefixes and masked slots hold zeros.
        """
        front = embedded.new_zeros(embedded.shape[0], self.length, embedded.shape[2])
        for first, last, start, end, block in self._places():
            if block.kind == "prompt":
                vectors = block.fills["slots"](Slots(embedded[first:last]))
                front[first:last, start:end] = vectors.to(front.dtype)  # type: ignore[union-attr]
        return torch.cat([front, embedded], dim=1)

    def shifts(self, rows: int) -> list[tuple[int, int, int]]:
        """Return (first row, row after the last, shift of the tokens' positions) for all rows of the batch."""
        found, at = [], 0
        for first, last, plan in self.groups:
            found += [(at, first, 0)] if first > at else []
            found.append((first, last, plan.shift))
            at = last
        return found + ([(at, rows, 0)] if at < rows else [])

    def acts_at(self, site: str) -> bool:
        """Return true if a prefix of the batch has a unit at the site `layer.N.slots`."""
        return any(site in block.fills for *_, block in self._places())

    def write(
        self, site: str, which: Literal["key", "value"], result: Tensor, *, given: Tensor, tokens: Tokens
    ) -> Tensor:
        """Write the prefixes' keys or values into the output of a layer's key or value map.

        result, given: the output and the input of the map, `(batch, positions, width)`. Keys and values are computed
        together, at the keys.
        """
        if which == "key":
            self.filled[site] = []
            for first, last, start, end, block in self._places():
                if site in block.fills:
                    view = Slots(result[first:last], given[first:last], tokens.rows(first, last))
                    keys, values = block.fills[site](view)
                    self.filled[site].append((first, last, start, end, values))
                    result = _put(result, keys, first, last, start, end)
            return result
        for first, last, start, end, values in self.filled.pop(site, ()):
            result = _put(result, values, first, last, start, end)
        return result

    def shown(self, layer: int, mask: Tensor, *, local: bool) -> Tensor | None:
        """Return the differences between a layer's attention mask and that of the batch, `(batch, slots)`.

        1: the slot is visible; 0: it is hidden; -1: as in the batch's mask. None: the masks are equal.
        """
        site, found = f"layer.{layer}.slots", None
        for first, last, start, end, block in self._places():
            acts = site in block.fills
            if block.kind == "prefix" and (local or not acts):
                if found is None:
                    found = torch.full((len(mask), self.length), -1, dtype=torch.int8, device=mask.device)
                found[first:last, start:end] = int(acts)
        return found


def _put(result: Tensor, vectors: Tensor, first: int, last: int, start: int, end: int) -> Tensor:
    result = result.clone()
    result[first:last, start:end] = vectors.to(result.dtype)
    return result


def masked(mask: Tensor | None, shown: Tensor, like: Tensor) -> Tensor:
    """Show or hide some slots in a layer's attention mask, `(batch, 1 or heads, queries or 1, positions)`.

    A boolean or integer mask is true where attention is allowed; a mask of floating-point numbers is added to the
    scores (0 or a very low number). None, which allows all, becomes a mask of floating-point numbers. shown: see
    `SlotBatch.shown`. like: the layer's input.
    """
    if mask is None:
        mask = like.new_zeros(shown.shape[0], 1, 1, like.shape[1])
    batch = max(mask.shape[0], shown.shape[0])
    mask = mask.expand(batch, *mask.shape[1:]).clone()
    slots = mask[..., : shown.shape[1]]
    where = shown[:, None, None, :]
    if mask.is_floating_point():
        visible, hidden = torch.zeros_like(slots), torch.full_like(slots, torch.finfo(mask.dtype).min)
    else:
        visible, hidden = torch.ones_like(slots), torch.zeros_like(slots)
    mask[..., : shown.shape[1]] = torch.where(where == 1, visible, torch.where(where == 0, hidden, slots))
    return mask
