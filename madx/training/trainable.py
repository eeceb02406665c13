"""What moves in a training run: the loop asks it for parameters, for its state, and tells it when a step was made."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from madx.engine import Engine
from madx.training.settings import TrainSettings


class Trainable(ABC):
    """Parameters that an optimiser moves, and the state that a checkpoint keeps of them.

    module: the module in training; parameters: all that the optimiser holds, the head's among them.
    """

    parameters: list[nn.Parameter]

    def __init__(self, engine: Engine, name: str):
        self.engine, self.module = engine, engine.module(name)
        self.parameters = engine.train_only(name)

    def head_parameters(self) -> list[nn.Parameter]:
        """Those of the task's head, which may have a learning rate of their own."""
        return list(self.module.head.parameters()) if self.module.head is not None else []

    def optimizer(self, settings: TrainSettings) -> torch.optim.Optimizer:
        """AdamW over all of them; the loop sets the learning rate of each group to its `peak` times the schedule's factor."""
        fused = self.engine.base.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(self.groups(settings), lr=0.0, weight_decay=settings.weight_decay, fused=fused)

    def groups(self, settings: TrainSettings) -> list[dict]:
        """The parameters by peak learning rate."""
        head = {id(p) for p in self.head_parameters()}
        groups = [
            {"params": [p for p in self.parameters if id(p) not in head], "peak": settings.learning_rate},
            {
                "params": [p for p in self.parameters if id(p) in head],
                "peak": settings.head_learning_rate or settings.learning_rate,
            },
        ]
        return [g for g in groups if g["params"]]

    def mode(self, *, training: bool) -> None:
        """Training or looking: dropout, and whatever else differs."""
        self.module.train(training)

    def begins(self, step: int, seed: int) -> None:
        """A step begins; its composition is active. What is left to chance is a function of seed and step."""
        return

    def ends(self, step: int) -> None:
        """The optimiser has made a step."""
        self.moved()

    @contextmanager
    def opened(self) -> Iterator["Trainable"]:
        """For the length of a run: gradients reach it. Afterwards nothing else of the base has changed."""
        yield self

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that has moved, by name; the tensors themselves, not copies."""

    @abstractmethod
    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a state."""

    @abstractmethod
    def penalise(self) -> None:
        """Add the gradient of a penalty to the gradients of a step, once all processes have summed theirs."""

    @abstractmethod
    def moved(self) -> None:
        """The parameters have changed."""


class TrainableModule(Trainable):
    """A module whose components compute something: its own parameters move, the base's stand still."""

    def state(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)

    def penalise(self) -> None:
        """Adapters have no penalty."""

    def moved(self) -> None:
        """They are read where they are."""
