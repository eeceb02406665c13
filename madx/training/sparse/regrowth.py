"""Regrowth: entries that are replaced during training, and an AdamW in which every entry has an age of its own."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Regrown:
    """The entries after a regrowth.

    Args:
        indices: `(K,)`, global and ascending.
        source: `(K,)`, the place of each among the entries before; -1 for a new one.
        moments: by name `(K,)`, what the optimiser starts new entries from; at other entries they are not read.
    """

    indices: Tensor
    source: Tensor
    moments: dict[str, Tensor]


class Regrowth(ABC):
    """Observes every step of a sparse phase and may replace entries at its end. Its state is in proportion to K."""

    @abstractmethod
    def begin_step(self, step: int) -> None:
        """A step begins, counted from 0."""

    @abstractmethod
    def observe_gradient(self, offset: int, gradient: Tensor) -> None:
        """The whole gradient, flattened, of the parameter that begins at a global index, in one backward pass of this
        process."""

    @abstractmethod
    def observe_entries(self, indices: Tensor, gradient: Tensor) -> None:
        """The gradient `(K,)` of the entries in a step, summed over all processes."""

    @abstractmethod
    def regrow(self, indices: Tensor, values: Tensor) -> Regrown | None:
        """Other entries at the end of a step, or None."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps of it, themselves and not copies; their shapes never change."""


class EntryAdamW(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015) in which every entry has an age of its own: the moments of one that came in late are
    corrected for the steps that it has seen. With equal ages it takes the steps of torch's AdamW without decay."""

    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """theta <- theta - lr * m / (1 - b1^age) / (sqrt(v / (1 - b2^age)) + eps)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                for key in () if state else ("age", "exp_avg", "exp_avg_sq"):
                    state[key] = torch.zeros_like(parameter)
                age = state["age"].add_(1)
                mean = state["exp_avg"].lerp_(parameter.grad, 1 - BETAS[0])
                square = state["exp_avg_sq"].mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
                spread = square.div(1 - BETAS[1] ** age).sqrt_().add_(EPS)
                parameter.addcdiv_(mean.div(1 - BETAS[0] ** age), spread, value=-group["lr"])
