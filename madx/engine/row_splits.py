"""Merges the steps of several stacks into one list for a batch whose rows are sorted by stack."""

from collections.abc import Callable, Sequence
from itertools import groupby

from madx.contract.rules import Group, Step, Steps


def merged(lists: Sequence[Steps], first: int, split: Callable[[list[Group]], Step]) -> Steps:
    """Merge the step lists of neighbouring branches into one list.

    The steps with which all branches begin or end occur in it once, for all their rows; the steps between become one
    step that splits the rows. The same is done inside that step, for neighbours that share steps.

    Args:
        lists: the steps of each branch.
        first: the number of the first of these branches in the batch.
        split: makes the step that splits rows; see `madx.contract.rules`.
    """
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
        for _, some in groupby(enumerate(between), key=lambda member: id(member[1][-1]) if member[1] else None):
            members = list(some)
            a, b = first + members[0][0], first + members[-1][0] + 1
            groups.append((a, b, merged([each for _, each in members], a, split)))
        steps.append(split(groups))
    return steps + one[len(one) - tail :]
