"""Consistency between two passes of a step, for module types that draw something at random.

Each batch is computed twice, with draw 0 and draw 1 of the step (`ModuleType.use_draw`). With the scores z and z'
`(n, classes)` of its n predictions, p = softmax(z), p' = softmax(z') and the targets t:

    loss = sum over predictions of -log p[t] + weight * (KL(p || p') + KL(p' || p)) / 2

The gradients of both passes count (AdaMix, Wang et al. 2022, arXiv:2205.12410).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from madx.data.text.masking import IGNORED
from madx.tasks.base import Batch, Task
from madx.training.precision import autocast
from madx.training.trainable import Trainable


def add_consistent_gradients(
    trainable: Trainable, task: Task, batch: Batch, *, weight: float, predictions: Tensor, precision: str
) -> Tensor:
    """Add the gradients of the loss of a batch, divided by the number of predictions of the step; return its sum.

    Args:
        trainable: its step has begun.
        task: gives scores and targets.
        batch: on the device of the base.
        weight: of the consistency.
        predictions: the number of predictions in the global batch, a scalar.
        precision: `fp32` or `bf16`.
    """
    scores, device = [], trainable.engine.base.device
    try:
        for number in (0, 1):
            trainable.use_draw(number)
            with autocast(precision, device):
                scores.append(task.scores(trainable.engine, batch))
        leaves = [each.detach().requires_grad_() for each in scores]
        loss = consistent_loss(leaves[0], leaves[1], task.targets(batch), weight=weight)
        (loss / predictions).backward()
        for number in (1, 0):  # a layer that is recomputed in the backward pass finds the draw of its forward pass
            trainable.use_draw(number)
            scores[number].backward(leaves[number].grad)
    finally:
        trainable.use_draw(0)
    return loss.detach()


def consistent_loss(scores: Tensor, others: Tensor, targets: Tensor, *, weight: float) -> Tensor:
    """Return the loss of the file's docstring, a scalar: two scores `(n, classes)`, targets `(n,)`."""
    entropy = F.cross_entropy(scores, targets, reduction="sum", ignore_index=IGNORED)
    return entropy + weight * symmetric_divergence(scores[targets != IGNORED], others[targets != IGNORED])


def symmetric_divergence(scores: Tensor, others: Tensor) -> Tensor:
    """Return the sum over n predictions of (KL(p || p') + KL(p' || p)) / 2 = (p - p') (log p - log p') / 2."""
    one, other = torch.log_softmax(scores.float(), -1), torch.log_softmax(others.float(), -1)
    return ((one.exp() - other.exp()) * (one - other)).sum() / 2
