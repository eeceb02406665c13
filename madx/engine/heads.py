"""Heads: the task module of a composition, and the scores of a batch whose rows end in different task modules."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from madx.composition import Stack
from madx.engine.call import Call
from madx.engine.plan import Plan
from madx.engine.routing import Branches, RoutePlan, Rows, sort
from madx.errors import CompositionError
from madx.module import Module, require_task_head
from madx.module.pooling import Pooling


def task_module(stack: Stack, modules: Mapping[str, Module]) -> Module:
    """Return the last module with a head in a stack. Raises CompositionError if there is none."""
    names = stack.names()
    with_head = [name for name in names if modules[name].head is not None]
    if with_head:
        return modules[with_head[-1]]
    if not names:
        raise CompositionError("The bare base is active and predicts no labels; end a composition with a task module.")
    require_task_head(modules[names[-1]])  # raises
    return modules[names[-1]]


def head_call(plan: Plan, route: RoutePlan | None, hidden: Tensor, branches: Branches | None) -> Call:
    """Make the call of the masked-LM head for states `(n, width)`; branches: under a route, their branches."""
    rows = sort(route, branches, hidden)
    if route is None or rows is None:
        return Call(plan)
    return Call(route.plan(rows.present), offsets=rows.offsets, sort=rows.order, unsort=rows.back)


def routed_labels(route: RoutePlan, rows: Rows, hidden: Tensor, modules: Mapping[str, Module]) -> Tensor:
    """Compute the scores of each row by the head of its own stack, `(rows, ..., labels)`.

    Raises CompositionError if these heads have different labels.
    """
    with_head = [name for name in route.route.names() if modules[name].head is not None]
    stacks = route.stacks_of(rows) or [Stack(*with_head[-1:])]  # for no rows at all: any head
    found = [task_module(stack, modules) for stack in stacks]
    if len({module.info.labels for module in found}) > 1:
        raise CompositionError(
            "These rows have task modules with different labels, whose scores do not fit one tensor: "
            f"{', '.join(dict.fromkeys(m.name for m in found))}. Call label_logits for each task's rows separately."
        )
    if len(set(found)) == 1:
        scores: Tensor = require_task_head(found[0])(hidden)
        return scores
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
