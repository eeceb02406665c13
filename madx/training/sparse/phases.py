"""The phases of a sparse weight delta: all selectable weights are trained in place, or the selected entries."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from madx.contract.sites import BaseParameter
from madx.engine.weight_deltas import PIECE, Applied
from madx.module_types.sparse_diff import SparseDiff
from madx.training.base_gradients import close_to_gradients, gradient_of, reading_gradients, require_unscaled
from madx.training.settings import TrainSettings
from madx.training.sparse.importance import Importance
from madx.training.sparse.regrowth import EntryAdamW, Regrown, Regrowth
from madx.training.trainable import Trainee, TraineeTrainable

LANGUAGE_L1 = 0.1  # LT-SFT's language modules were trained with it, its task modules without a penalty


def l1_per_parameter(trainee: Trainee[SparseDiff], given: float | None, *, all_entries: bool = False) -> float:
    """lambda / (number of all parameters): those of the masked-LM model, whose decoder counts as its own even where
    it shares the embeddings, and those of the head."""
    module, base = trainee.module, trainee.engine.base
    model: Any = base.model
    default = LANGUAGE_L1 if module.info.role == "language" and not all_entries else 0.0
    tied = model.get_input_embeddings().weight.numel() if base.family.tied else 0
    head = sum(p.numel() for p in module.head_parameters())
    return (given if given is not None else default) / (sum(p.numel() for p in model.parameters()) + tied + head)


class Phase(TraineeTrainable):
    """The common ground of all phases: the module's head and other components are trained as usual, with the penalty.

    Args:
        trainee: the module and its sparse weight delta.
        l1: lambda / (number of all parameters), see `l1_per_parameter`.
    """

    def __init__(self, trainee: Trainee[SparseDiff], *, l1: float):
        super().__init__(trainee)
        self.unit, self.l1 = trainee.unit, l1
        self.others = [p for p in self.parameters if p is not self.unit.values]
        self.others_start = [p.detach().clone() for p in self.others] if l1 else []

    def penalise_from(self, state: dict[str, Tensor]) -> None:
        """Let the penalty pull the head and other components to a state of the module, not to what they are now."""
        if self.l1:
            names = {id(p): name for name, p in self.module.named_parameters()}
            self.others_start = [state[names[id(p)]] for p in self.others]

    def add_penalty_of_others(self) -> None:
        """+ lambda/n sign(p - p_0), for the head and other components."""
        for parameter, start in zip(self.others, self.others_start):
            if parameter.grad is not None:
                parameter.grad.add_((parameter.detach() - start).sign_(), alpha=self.l1)

    def others_state(self) -> dict[str, Tensor]:
        """The module's tensors without those of the sparse weight delta."""
        own = self.module.start_of(self.unit)
        return {k: v for k, v in self.module.state_dict().items() if not k.startswith(own)}

    def begin_step(self, step: int, seed: int) -> None:
        require_unscaled(self.trainee, self.unit)  # the composition may be another one in each step
        super().begin_step(step, seed)

    def applied(self) -> Applied | None:
        """The sparse weight delta as it lies on the base; None while it is not active."""
        return next((a for a in self.engine.deltas.applied if a.term.shares[0].unit is self.unit), None)


class DensePhase(Phase):
    """All selectable weights are trained.

    Attributes:
        weights: the selectable parameters of the base, by name.
        start: copies of what they were before; the masked-LM decoder goes on reading its own embeddings there.
    """

    def __init__(self, trainee: Trainee[SparseDiff], *, l1: float):
        super().__init__(trainee, l1=l1)
        self.weights = {p.name: self.engine.base.encoder.get_parameter(p.name) for p in self.unit.space.parameters}
        self.start: dict[str, Tensor] = {}

    @contextmanager
    def running(self) -> Iterator["DensePhase"]:
        """At its end the weights are restored exactly, and nothing of the base asks for gradients."""
        self.start = {name: p.detach().clone() for name, p in self.weights.items()}
        self.engine.deltas.dense = self.start
        try:
            for parameter in self.weights.values():
                parameter.requires_grad_(True)
            yield self
        finally:
            self.restore_weights()
            close_to_gradients(self.weights.values())
            self.engine.deltas.dense, self.start = {}, {}

    @abstractmethod
    def restore_weights(self) -> None:
        """Write the values before the phase back to the base."""

    def importance(self, parameter: BaseParameter) -> Importance:
        """The importance of a parameter's weights at the end of the phase."""
        return Importance(parameter, self.start[parameter.name], self.weights[parameter.name].detach())

    @torch.no_grad()
    def weight_deltas(self) -> Tensor:
        """theta - start, `(all selectable entries,)`: the values of a sparse delta with all entries."""
        return torch.cat([(p.detach() - self.start[name]).reshape(-1) for name, p in self.weights.items()])


class FullPhase(DensePhase):
    """The weights are trained in place: only the weights, their start, gradients and moments are as large as the
    base. No other composition can act meanwhile; `madx.training.sparse.dense_delta` is for that."""

    def __init__(self, trainee: Trainee[SparseDiff], *, l1: float):
        super().__init__(trainee, l1=l1)
        self.parameters = [*self.weights.values(), *self.others]

    @torch.no_grad()
    def restore_weights(self) -> None:
        for name, parameter in self.weights.items():
            parameter.copy_(self.start[name])

    def state_dict(self) -> dict[str, Tensor]:
        return self.others_state() | {f"base.{name}": p.detach() for name, p in self.weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.weights.items():
            parameter.copy_(state[f"base.{name}"])
        self.module.load_state_dict({k: v for k, v in state.items() if not k.startswith("base.")}, strict=False)

    @torch.no_grad()
    def add_own_penalty(self) -> None:
        """+ lambda/n sign(theta - theta_0); at entries of the rounds before, theta_0 is without them."""
        if not self.l1:
            return
        applied = self.applied()
        for name, parameter in self.weights.items():
            if parameter.grad is None:  # the forward pass did not use it, so it has not changed
                continue
            flat, start, grad = (t.detach().view(-1) for t in (parameter, self.start[name], parameter.grad))
            for a in range(0, len(flat), PIECE):
                grad[a : a + PIECE].add_((flat[a : a + PIECE] - start[a : a + PIECE]).sign_(), alpha=self.l1)
            for piece in applied.pieces if applied is not None else ():
                if piece.parameter == name:
                    places = piece.places()
                    now = flat[places]
                    correction = (now - piece.found).sign_() - (now - start[places]).sign_()
                    grad.index_add_(0, places, correction, alpha=self.l1)
        self.add_penalty_of_others()


class SparsePhase(Phase):
    """The values of the selected entries are trained. Gradients of whole parameters live until they have been read at
    the selected places: during the backward pass, one parameter at a time. A regrowth may replace entries on the
    way."""

    def __init__(self, trainee: Trainee[SparseDiff], *, l1: float, regrowth: Regrowth | None = None):
        super().__init__(trainee, l1=l1)
        self.regrowth = regrowth
        self._optimizer: torch.optim.Optimizer | None = None
        self._places: dict[str, tuple[int, int, Tensor]] = {}

    def make_optimizer(self, settings: TrainSettings) -> torch.optim.Optimizer:
        own = EntryAdamW(self.parameter_groups(settings)) if self.regrowth is not None else None
        self._optimizer = own if own is not None else super().make_optimizer(settings)
        return self._optimizer

    @contextmanager
    def running(self) -> Iterator["SparsePhase"]:
        """Gradients reach the entries; afterwards nothing of the base asks for gradients."""
        self.unit.values.grad = torch.zeros_like(self.unit.values)
        self._locate()
        space, encoder = self.unit.space, self.engine.base.encoder
        names = [p.name for p in space.parameters if p.name in self._places or self.regrowth is not None]
        offsets = {p.name: offset for p, offset in zip(space.parameters, space.offsets)}
        reader = self._reader(offsets, self.regrowth)
        try:
            with reading_gradients({name: encoder.get_parameter(name) for name in names}, reader):
                yield self
        finally:
            self.unit.values.grad = None

    def _locate(self) -> None:
        """Find which entries lie in which parameter, and where."""
        found = self.unit.space.split(self.unit.indices)
        self._places = {name: (a, b, (self.unit.indices[a:b] - offset).long()) for name, a, b, offset in found}

    def _reader(self, offsets: dict[str, int], regrowth: Regrowth | None) -> Callable[[str, Tensor], None]:
        def read(name: str, gradient: Tensor) -> None:
            flat = gradient.reshape(-1)
            if name in self._places:
                a, b, places = self._places[name]
                gradient_of(self.unit.values)[a:b] += flat.index_select(0, places)
            if regrowth is not None:
                regrowth.observe_gradient(offsets[name], flat)

        return read

    def begin_step(self, step: int, seed: int) -> None:
        super().begin_step(step, seed)
        if self.regrowth is not None:
            self.regrowth.begin_step(step)

    @torch.no_grad()
    def add_own_penalty(self) -> None:
        """+ lambda/n sign(delta)."""
        gradient = gradient_of(self.unit.values)
        if self.regrowth is not None:
            self.regrowth.observe_entries(self.unit.indices, gradient)
        if self.l1:
            gradient.add_(self.unit.values.sign(), alpha=self.l1)
            self.add_penalty_of_others()

    @torch.no_grad()
    def end_step(self, step: int) -> None:
        """Write the values to the base, at other entries where the regrowth says so."""
        regrown = (
            self.regrowth.regrow(self.unit.indices, self.unit.values.detach()) if self.regrowth is not None else None
        )
        if regrown is None:
            self.apply_parameters()
            return
        self._replace_entries(regrown)
        self._locate()
        self.engine.refresh()

    def _replace_entries(self, regrown: Regrown) -> None:
        fresh, source = regrown.source < 0, regrown.source.clamp_min(0)
        self.unit.values.copy_(self.unit.values[source].masked_fill_(fresh, 0.0))
        self.unit.indices = regrown.indices  # not written in place: what lies on the base still reads the old ones
        moments = self._optimizer.state[self.unit.values] if self._optimizer is not None else {}
        for name, value in moments.items():
            started = regrown.moments.get(name)
            moments[name] = torch.where(
                fresh, started if started is not None else torch.zeros_like(value), value[source]
            )

    def apply_parameters(self) -> None:
        applied = self.applied()
        if applied is not None:
            self.engine.deltas.rewrite(applied)
            applied.state = applied.term.state()

    def state_dict(self) -> dict[str, Tensor]:
        regrowth = self.regrowth.state_dict() if self.regrowth is not None else {}
        return self.module.state_dict() | {f"regrowth.{name}": value for name, value in regrowth.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in (self.regrowth.state_dict() if self.regrowth is not None else {}).items():
            value.copy_(state[f"regrowth.{name}"])
        self.unit.indices = self.unit.indices.clone()  # not written in place, as in `_replace_entries`
        self.module.load_state_dict({k: v for k, v in state.items() if not k.startswith("regrowth.")})
        self._locate()
        self.engine.refresh()
