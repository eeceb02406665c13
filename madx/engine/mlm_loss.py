"""The masked-LM loss in less memory than cross entropy, which keeps the scores for its backward pass.

Let z = decode(y) be the scores `(n, vocabulary)` and t the targets. The loss is sum_i (log sum_j exp z_ij - z_i,t_i),
and its gradient with respect to z is p - onehot(t), with p = softmax(z). The decoder's matrix is frozen, so the
backward pass needs only the gradient with respect to y, `(n, width)`, and, where a head is trained, that of the
decoder's bias, sum_i (p_i - onehot(t_i)). The forward pass computes both at once, writes p - onehot(t) over z, and
frees z. Of XLM-R's 250,002 scores for each position there is one copy, for some positions at a time, where cross
entropy keeps three copies for all positions. Sums are computed in float32, whatever the number format of z.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madx.engine.call import CurrentCall
from madx.engine.hooks import Hook

NUMBERS = {"cpu": 1 << 26, "cuda": 1 << 29}  # scores in memory at once: 256 MB in float32 on a CPU
BLOCK = {"cpu": 1 << 19, "cuda": 1 << 28}  # scores processed at once: on a CPU they fit its cache


def masked_loss(
    y: Tensor,
    decode: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    vocabulary: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the sum of -log p(target), a scalar in float32.

    Args:
        y: inputs of the decoder, `(n, width)`.
        decode: `(m, width)` -> scores `(m, vocabulary)`. Its weights get no gradient but for `bias`.
        targets: `(n,)`.
        vocabulary: the number of scores for each position.
        bias: `(vocabulary,)`, the bias that `decode` adds; it gets a gradient where it asks for one.
    """
    apply: Callable[..., Tensor] = _MaskedLoss.apply
    return apply(y, bias, targets, decode, max(1, NUMBERS.get(y.device.type, 1 << 26) // vocabulary))


class _MaskedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, bias: Tensor | None, targets: Tensor, decode: Callable[[Tensor], Tensor], rows: int
    ) -> Tensor:
        total, gradients, wanted = torch.zeros((), device=y.device), [], any(ctx.needs_input_grad[:2])
        of_bias = torch.zeros(bias.shape, device=y.device) if bias is not None and ctx.needs_input_grad[1] else None
        for part, target in zip(y.split(rows), targets.split(rows)):
            part = part.detach().requires_grad_(wanted)
            with torch.enable_grad() if wanted else nullcontext():
                z = decode(part)
            total += _loss(z.detach(), target, write=wanted)
            if wanted:  # z now holds p - onehot(t); the backward pass of a linear map does not read its output
                gradients.append(torch.autograd.grad(z, part, z.detach())[0])
                if of_bias is not None:
                    of_bias += z.detach().sum(0, dtype=torch.float32)
        if wanted:
            ctx.save_for_backward(torch.cat(gradients) if gradients else torch.zeros_like(y), of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_y, of_bias = ctx.saved_tensors
        return of_y * gradient, None if of_bias is None else of_bias * gradient, None, None, None


def _loss(z: Tensor, targets: Tensor, *, write: bool) -> Tensor:
    """Compute the loss of scores `(n, vocabulary)`, a few rows at a time. write: p - onehot(t) replaces the scores."""
    total = torch.zeros((), device=z.device)
    rows = max(1, BLOCK.get(z.device.type, 1 << 19) // max(z.shape[1], 1))
    in_place = write and z.dtype == torch.float32
    # one buffer for all blocks: allocating memory takes longer than exp
    work = None if in_place else torch.empty(min(rows, len(z)), z.shape[1], device=z.device)
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
    """The hook at the last map to the vocabulary: returns the masked loss instead of scores if the call has targets."""

    def __init__(self, current: CurrentCall, decoder: nn.Linear):
        super().__init__(current)
        self.decoder = decoder

    def __call__(self, y: Tensor) -> Any:
        call = self.current.get()
        if call is None or call.targets is None:
            return self.original(y)
        if self.decoder.weight.requires_grad and torch.is_grad_enabled():  # an untied decoder in the training of a head
            return loss_of(self.original(y), call.targets)
        vocabulary, bias = self.decoder.out_features, self.decoder.bias
        return masked_loss(y, self.original, call.targets, vocabulary=vocabulary, bias=bias)


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Compute the loss from scores `(n, vocabulary)`, for a base whose decoder cannot be hooked."""
    return F.cross_entropy(scores.float(), targets, reduction="sum")
