"""Entries that change during training: what the sparse phase tells an regrowth, and what it asks of it; and AdamW for them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Change:
    """Other entries. indices `(K,)`: global and ascending; source `(K,)`: where each stood before, -1 for a new one; moments:
    by name `(K,)`, what the optimiser starts the new ones from (elsewhere unread)."""

    indices: Tensor
    source: Tensor
    moments: dict[str, Tensor]


class Regrowth(ABC):
    """Told of every step of a sparse phase, it may exchange entries at a step's end. What it keeps is in proportion to K."""

    @abstractmethod
    def begins(self, step: int) -> None:
        """A step begins, counted from 0."""

    @abstractmethod
    def sees(self, offset: int, gradient: Tensor) -> None:
        """The whole gradient, flattened, of the parameter that begins at a global index, in one backward pass of this process."""

    @abstractmethod
    def gathers(self, indices: Tensor, gradient: Tensor) -> None:
        """The gradient `(K,)` of the entries in a step, summed over all processes."""

    @abstractmethod
    def change(self, indices: Tensor, values: Tensor) -> Change | None:
        """Once the step is made: other entries, or None."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it, of fixed shapes; the tensors themselves."""


class EntryAdamW(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015) in which every entry has an age of its own: one that came in late has its moments corrected
    for the steps that it has seen. With equal ages it takes the steps of torch's."""

    def __init__(self, groups: list[dict]):
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure=None) -> None:
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
