"""The trainable parameters of a run: the loop optimises them, evaluates with them and keeps them in its checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from madx.contract.module_type import ModuleType
from madx.engine import Engine
from madx.module import Module
from madx.training.settings import TrainSettings

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Trainee(Generic[Unit]):
    """The module of an engine that a run trains.

    Args:
        engine: the module is attached to it, and its active composition names the module.
        name: the module's name.
        unit: the unit on whose training phases depend, e.g. a `SparseDiff`; None where the module is trained as it is.
    """

    engine: Engine
    name: str
    unit: Unit

    @property
    def module(self) -> Module:
        """The module itself."""
        return self.engine.module(self.name)

    @property
    def units(self) -> list[ModuleType]:
        """All units of the module."""
        return [unit for units in self.module.units.values() for unit in units.values()]


class Trainable(ABC):
    """The parameters that an optimiser holds, and the state that a checkpoint keeps of them.

    All other modules and the base are closed to gradients when it is made.

    Attributes:
        parameters: all that the optimiser holds, those of the module's head among them.
    """

    parameters: list[nn.Parameter]

    def __init__(self, trainee: Trainee[Any]):
        self.trainee, self.engine, self.module = trainee, trainee.engine, trainee.module
        self.parameters = self.engine.train_only(trainee.name)

    # ---- the optimiser -------------------------------------------------------------------------------------------

    def make_optimizer(self, settings: TrainSettings) -> torch.optim.Optimizer:
        """AdamW over all parameters. The loop sets a group's learning rate to `peak` times the schedule's factor."""
        fused = self.engine.base.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(
            self.parameter_groups(settings), lr=0.0, weight_decay=settings.weight_decay, fused=fused
        )

    def parameter_groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """The parameters by peak learning rate: `params` and `peak` of each group."""
        head = set(self.module.head.parameters()) if self.module.head is not None else set()
        rates = settings.learning_rate, settings.head_learning_rate or settings.learning_rate
        groups = [
            {"params": [p for p in self.parameters if (p in head) == of_head], "peak": peak}
            for of_head, peak in zip((False, True), rates)
        ]
        return [group for group in groups if group["params"]]

    # ---- the loop calls these --------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator["Trainable"]:
        """For the length of a run, gradients reach the parameters. Afterwards nothing else of the base has changed."""
        yield self

    def set_mode(self, *, training: bool, base_dropout: bool = False) -> None:
        """Training or evaluation: dropout, and whatever else differs between the two."""
        self.module.train(training)
        self.engine.base.model.train(training and base_dropout)

    def begin_step(self, step: int, seed: int) -> None:
        """A step begins and its composition is active. What is random in it must be a function of seed and step."""
        return

    def add_penalty(self) -> None:
        """Add the gradient of a penalty to the gradients of a step, after all processes have summed theirs."""
        return

    def end_step(self, step: int) -> None:
        """The optimiser has made a step."""
        self.apply_parameters()

    def apply_parameters(self) -> None:
        """Bring whatever was computed from the parameters up to date, after their values have changed."""
        return

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that is trained, by name: the tensors themselves, not copies."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the values of a state."""


class ModuleTrainable(Trainable):
    """A module that computes during the forward pass: its own parameters are trained, the base computes as it is."""

    def state_dict(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)
