"""Merges the steps of several stacks into one list for a batch whose rows are sorted by stack."""

from collections.abc import Callable
from itertools import groupby

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
