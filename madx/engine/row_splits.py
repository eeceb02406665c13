"""Steps that hand neighbouring rows of a batch to steps of their own: what a route's plan is made of."""

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from madx.contract.module_type import Sublayer
from madx.errors import CompositionError

Group = tuple[int, int, list[Callable]]


def merged(lists: list[list[Callable]], first: int, split: Callable[[list[Group]], Callable]) -> list[Callable]:
    """One list of steps for neighbouring branches, the first of which is number `first` of the batch: what all begin and
    end with stands in it once, for all their rows; what lies between becomes one step that splits the rows."""
    if len(lists) == 1:
        return lists[0]
    one, shortest = lists[0], min(map(len, lists))
    head = 0
    while head < shortest and all(each[head] is one[head] for each in lists):
        head += 1
    tail = 0
    while tail < shortest - head and all(each[-1 - tail] is one[-1 - tail] for each in lists):
        tail += 1
    between = [each[head : len(each) - tail] for each in lists]
    steps = list(one[:head])
    if any(between):
        groups = []
        for _, members in groupby(enumerate(between), key=lambda member: id(member[1][-1]) if member[1] else None):
            members = list(members)
            a, b = first + members[0][0], first + members[-1][0] + 1
            groups.append((a, b, merged([each for _, each in members], a, split)))
        steps.append(split(groups))
    return steps + one[len(one) - tail :]


class _Split:
    """A step that hands each group of neighbouring rows to steps of their own. groups: (first branch, branch after the
    last, steps), branches counted within the batch; offsets: where the branches' rows lie, set for each batch."""

    def __init__(self, groups: list[Group], offsets: list[int]):
        self.groups, self.offsets = groups, offsets

    def slices(self, rows: int) -> list[tuple[int, int, list[Callable]]]:
        """(first row, row after the last, steps) within the rows at hand."""
        start, end = self.offsets[self.groups[0][0]], self.offsets[self.groups[-1][1]]
        if end - start != rows:
            raise CompositionError(
                f"A route expects {end - start} rows here, but the base hands over {rows}: it joins rows without padding, so they "
                'cannot be told apart. Load it with attn_implementation="sdpa" or "eager".'
            )
        return [(self.offsets[a] - start, self.offsets[b] - start, steps) for a, b, steps in self.groups]


class SplitChange(_Split):
    """At a sublayer: the changes that the groups' steps make, one below the other."""

    def __call__(self, at: Sublayer) -> Tensor:
        changes, flags = [], []
        for a, b, steps in self.slices(len(at.sum)):
            part = at.rows(a, b)
            change = part.run(steps)
            changes.append(torch.zeros_like(part.sum) if change is None else change)
            flags.append(part.final_norm)
        if all(flag is flags[0] for flag in flags):
            at.final_norm = flags[0]
        else:
            at.final_norm = torch.cat(
                [
                    flag if isinstance(flag, Tensor) else torch.full((len(c),), flag, device=c.device)
                    for flag, c in zip(flags, changes)
                ]
            )
        return torch.cat(changes)


class SplitMap(_Split):
    """At the embeddings: the groups' maps, one below the other; each is undone on its own rows."""

    def __call__(self, x: Tensor) -> Tensor:
        parts = []
        for a, b, steps in self.slices(len(x)):
            part = x[a:b]
            for step in steps:
                part = step(part)
            parts.append(part)
        return torch.cat(parts)

    def inverse(self, y: Tensor) -> Tensor:
        parts = []
        for a, b, steps in self.slices(len(y)):
            part = y[a:b]
            for step in reversed(steps):
                part = step.inverse(part)
            parts.append(part)
        return torch.cat(parts)
