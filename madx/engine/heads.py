"""Heads: the task module of a composition, and the scores of a batch whose rows end in different task modules."""

from collections.abc import Mapping

import torch
from torch import Tensor

from madx.composition import Stack
from madx.engine.routing import RoutePlan, Rows
from madx.errors import CompositionError
from madx.module import Module, require_task_head


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
