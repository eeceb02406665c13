"""The masked-LM loss without the numbers that cross entropy keeps for its backward pass.

With z = decode(y) the scores `(n, vocabulary)` and t the targets, the loss is sum_i log sum_j exp z_ij - z_i,t_i and its
gradient by z is p - onehot(t), p = softmax(z). The decoder stands still, so of all this the backward pass needs the gradient
by y alone, `(n, width)`: it is computed at once, in the place of z, and z is let go. Of XLM-R's 250,002 scores per position
one copy lives, of `ROWS` positions at a time, where cross entropy keeps three of all. Sums are taken in float32 whatever z is in.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from madx.engine.call import CurrentCall
from madx.engine.hooks import Hook

NUMBERS = {"cpu": 1 << 26, "cuda": 1 << 29}  # scores that live at once: 256 MB in float32 on a CPU
BLOCK = {"cpu": 1 << 19, "cuda": 1 << 28}  # of these, as many as stay in the processor's cache


def masked_loss(y: Tensor, decode: Callable[[Tensor], Tensor], targets: Tensor, *, vocabulary: int) -> Tensor:
    """The sum (a scalar in float32) of -log p(target): y `(n, width)`, targets `(n,)`; decode gives `(n, vocabulary)`.

    What decode computes with gets no gradient; the base's decoder never asks for one.
    """
    return _MaskedLoss.apply(y, targets, decode, max(1, NUMBERS.get(y.device.type, 1 << 26) // vocabulary))


class _MaskedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, targets: Tensor, decode: Callable, rows: int) -> Tensor:
        total, gradients, wanted = torch.zeros((), device=y.device), [], ctx.needs_input_grad[0]
        for part, target in zip(y.split(rows), targets.split(rows)):
            part = part.detach().requires_grad_(wanted)
            with torch.enable_grad() if wanted else nullcontext():
                z = decode(part)
            total += _loss(z.detach(), target, write=wanted)
            if wanted:  # z now holds p - onehot(t); a linear map's backward pass does not read its result
                gradients.append(torch.autograd.grad(z, part, z.detach())[0])
        if wanted:
            ctx.save_for_backward(torch.cat(gradients) if gradients else torch.zeros_like(y))
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradient, None, None, None


def _loss(z: Tensor, targets: Tensor, *, write: bool) -> Tensor:
    """The loss of scores `(n, vocabulary)`; write: leaves p - onehot(t) in their place. A few rows at a time."""
    total = torch.zeros((), device=z.device)
    rows = max(1, BLOCK.get(z.device.type, 1 << 19) // max(z.shape[1], 1))
    in_place = write and z.dtype == torch.float32
    work = (
        None if in_place else torch.empty(min(rows, len(z)), z.shape[1], device=z.device)
    )  # one for all: new memory costs more than exp
    for part, target in zip(z.split(rows), targets[:, None].split(rows)):
        of_target = part.gather(1, target).float()
        high = part.amax(1, keepdim=True).float()
        p = (part if work is None else work[: len(part)].copy_(part)).sub_(high).exp_()
        mass = p.sum(1, keepdim=True)
        total += (mass.log() + high - of_target).sum()
        if write:
            p.div_(mass).scatter_add_(1, target, torch.full_like(mass, -1.0))
            if work is not None:
                part.copy_(p)
    return total


class LossAtDecoder(Hook):
    """At the last map to the vocabulary: gives the masked loss in place of scores where the current call has targets."""

    def __init__(self, current: CurrentCall, vocabulary: int):
        super().__init__(current)
        self.vocabulary = vocabulary

    def __call__(self, y: Tensor) -> Tensor:
        call = self.current.get()
        if call is None or call.targets is None:
            return self.original(y)
        return masked_loss(y, self.original, call.targets, vocabulary=self.vocabulary)


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """The same loss from scores `(n, vocabulary)`, where the base has no decoder that can be hooked."""
    return F.cross_entropy(scores.float(), targets, reduction="sum")
