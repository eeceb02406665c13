"""The trainable parameters of a run: the loop optimises them, evaluates with them and keeps them in its checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, nn

from madx.contract.module_type import ModuleType, WeightsType
from madx.engine import Engine
from madx.module import Module
from madx.training.processes import broadcast_in_place
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

    @property
    def weights_units(self) -> list[WeightsType]:
        """Those that act through the base's parameters."""
        return [unit for unit in self.units if isinstance(unit, WeightsType)]


class Trainable(ABC):
    """The parameters that an optimiser holds, and the state that a checkpoint keeps of them.

    Args:
        engine: computes with them; all its other parameters are closed to gradients.
        parameters: all that the optimiser holds.
    """

    def __init__(self, engine: Engine, parameters: list[nn.Parameter]):
        self.engine, self.parameters = engine, parameters

    # ---- the optimiser -------------------------------------------------------------------------------------------

    def make_optimizer(self, settings: TrainSettings) -> torch.optim.Optimizer:
        """AdamW over all parameters. The loop sets a group's learning rate to `peak` times the schedule's factor."""
        fused = self.engine.base.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(
            self.parameter_groups(settings), lr=0.0, weight_decay=settings.weight_decay, fused=fused
        )

    def parameter_groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """The parameters by peak learning rate: `params` and `peak` of each group."""
        return [{"params": self.parameters, "peak": settings.learning_rate}]

    # ---- the loop calls these --------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator["Trainable"]:
        """For the length of a run, gradients reach the parameters. Afterwards nothing else of the base has changed."""
        yield self

    def set_mode(self, *, training: bool, base_dropout: bool = False) -> None:
        """Training or evaluation: dropout, and whatever else differs between the two."""
        self.engine.base.model.train(training and base_dropout)

    def begin_step(self, step: int, seed: int) -> None:
        """A step begins and its composition is active. What is random in it must be a function of seed and step."""
        return

    def add_penalty(self) -> float:
        """Add the gradients of all penalties to those of a step, after all processes have summed theirs; gives their
        sum."""
        return 0.0

    def end_step(self, step: int) -> None:
        """The optimiser has made a step."""
        self.apply_parameters()

    def apply_parameters(self) -> None:
        """Bring whatever was computed from the parameters up to date, after their values have changed."""
        return

    def broadcast_parameters(self) -> None:
        """Give every process the first one's parameters and buffers, whatever seed the caller's own code had."""
        if PartialState().num_processes > 1:
            broadcast_in_place([*self.parameters, *self.buffers()])
            self.apply_parameters()

    def buffers(self) -> list[Tensor]:
        """The buffers that belong to the parameters."""
        return []

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that is trained, by name: the tensors themselves, not copies."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the values of a state."""


class TraineeTrainable(Trainable):
    """A module of the engine, as a whole or in a phase; all other modules and the base are closed to gradients.

    The engine decides, by the class attribute `backward` of the module's units, whether gradients flow through the base
    at all.
    """

    def __init__(self, trainee: Trainee[Any]):
        super().__init__(trainee.engine, trainee.engine.train_only(trainee.name))
        self.trainee, self.module = trainee, trainee.module

    def parameter_groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """The parameters by peak learning rate, which a task's head may have of its own."""
        head = set(self.module.head_parameters())
        rates = settings.learning_rate, settings.head_learning_rate or settings.learning_rate
        groups = [
            {"params": [p for p in self.parameters if (p in head) == of_head], "peak": peak}
            for of_head, peak in zip((False, True), rates)
        ]
        return [group for group in groups if group["params"]]

    def set_mode(self, *, training: bool, base_dropout: bool = False) -> None:
        self.module.train(training)
        super().set_mode(training=training, base_dropout=base_dropout)

    def begin_step(self, step: int, seed: int) -> None:
        with torch.no_grad():
            for unit in self.trainee.units:
                unit.begin(step, seed)

    def add_penalty(self) -> float:
        """Add the gradients of all penalties; gives the sum of the units' penalties.

        They are terms of the loss as a whole, so they are added once, whatever the number of predictions, batches and
        processes; and as the forward passes are over, they depend on parameters alone.
        """
        self.add_own_penalty()
        terms = [term for unit in self.trainee.units if (term := unit.penalty()) is not None]
        if not terms:
            return 0.0
        total = torch.stack([term.float() for term in terms]).sum()
        if total.requires_grad:
            total.backward()
        return total.item()

    def add_own_penalty(self) -> None:
        """Add the gradient of a penalty that belongs to this kind of training."""
        return

    def buffers(self) -> list[Tensor]:
        return list(self.module.buffers())


class ModuleTrainable(TraineeTrainable):
    """A module that computes during the forward pass: its own parameters are trained, the base computes as it is."""

    def state_dict(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)
