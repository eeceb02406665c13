"""Heads: the task module of a composition, and the scores of a batch whose rows end in different task modules."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from madx.composition import Stack
from madx.engine.routing import Branches, RoutePlan, Rows
from madx.errors import CompositionError
from madx.module import Module, require_task_head
from madx.module.pooling import Pooling


def task_module(stack: Stack, modules: Mapping[str, Module]) -> Module:
    """The last module with a head in a stack; raises CompositionError without one."""
    names = stack.names()
    with_head = [name for name in names if modules[name].head is not None]
    if with_head:
        return modules[with_head[-1]]
    if not names:
        raise CompositionError("The bare base is active and predicts no labels; end a composition with a task module.")
    require_task_head(modules[names[-1]])  # raises
    return modules[names[-1]]


def routed_labels(route: RoutePlan, rows: Rows, hidden: Tensor, modules: Mapping[str, Module]) -> Tensor:
    """Scores of the heads that the rows' stacks end in, `(rows, ..., labels)`. Raises CompositionError where these have
    different labels."""
    with_head = [name for name in route.route.names() if modules[name].head is not None]
    stacks = route.stacks_of(rows) or [Stack(*with_head[-1:])]  # for no rows at all: any head
    found = [task_module(stack, modules) for stack in stacks]
    if len({module.info.labels for module in found}) > 1:
        raise CompositionError(
            f"These rows end in task modules with different labels, {', '.join(dict.fromkeys(m.name for m in found))}, which "
            "cannot stand in one tensor. Call label_logits for the rows of each task by themselves."
        )
    if len(set(found)) == 1:
        return require_task_head(found[0])(hidden)
    parts = rows.sorted(hidden).split(rows.counts)
    return rows.unsorted(torch.cat([require_task_head(module)(part) for module, part in zip(found, parts)]))


def routed_poolings(
    route: RoutePlan, branches: Branches | None, rows: int, modules: Mapping[str, Module]
) -> list[Pooling]:
    """Return the pooling of the task module that the stack of each row ends in. branches: one for each row."""
    ranks = route.ranks[route.numbers(branches, rows)].tolist()
    found = {rank: pooling_of(task_module(route.stacks[rank], modules)) for rank in set(ranks)}
    return [found[rank] for rank in ranks]


def pooling_of(module: Module) -> Pooling:
    """Return the pooling of a module with a head; raises CompositionError for one without."""
    require_task_head(module)
    return cast(Pooling, module.pooling)  # it is made together with the head
