"""What moves in the phases of a sparse difference: all selectable weights of the base in place, or the selected entries."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from madx.contract.sites import BaseParameter
from madx.engine import Engine
from madx.engine.weight_deltas import PIECE, Applied
from madx.module import Module
from madx.module_types.sparse_diff import SparseDiff
from madx.training.settings import TrainSettings
from madx.training.sparse.importance import Importance
from madx.training.sparse.regrowth import EntryAdamW, Regrowth
from madx.training.trainable import Trainable

LANGUAGE_L1 = 0.1  # what LT-SFT's language differences were trained with; tasks had none


def share_of_l1(engine: Engine, module: Module, given: float | None, *, all_entries: bool = False) -> float:
    """lambda / (number of all parameters): those of the masked-LM model, its decoder counted as the own one that it is
    here, and those of the head."""
    weight = given if given is not None else LANGUAGE_L1 if module.info.role == "language" and not all_entries else 0.0
    model = engine.base.model
    tied = model.get_input_embeddings().weight.numel() if engine.base.family.tied else 0
    head = sum(p.numel() for p in module.head.parameters()) if module.head is not None else 0
    return weight / (sum(p.numel() for p in model.parameters()) + tied + head)


class Phase(Trainable):
    """What all phases share: the module's head and other components train densely, under the same penalty."""

    def __init__(self, engine: Engine, name: str, unit: SparseDiff, *, l1: float):
        super().__init__(engine, name)
        self.unit, self.l1 = unit, l1
        self.others = [p for p in self.parameters if p is not unit.values]
        self.others_start = [p.detach().clone() for p in self.others] if l1 else []

    def pull_to(self, state: dict[str, Tensor]) -> None:
        """Where the penalty pulls the head and other components, if that is not what they are now: a state of the module."""
        if self.l1:
            names = {id(p): name for name, p in self.module.named_parameters()}
            self.others_start = [state[names[id(p)]] for p in self.others]

    def penalise_others(self) -> None:
        """+ lambda/n sign(p - p_0)."""
        for parameter, start in zip(self.others, self.others_start):
            if parameter.grad is None:
                continue
            parameter.grad.add_((parameter.detach() - start).sign_(), alpha=self.l1)

    def others_state(self) -> dict[str, Tensor]:
        """The module's tensors without those of the sparse difference."""
        own = self.module.start_of(self.unit)
        return {k: v for k, v in self.module.state_dict().items() if not k.startswith(own)}

    def applied(self) -> Applied | None:
        """The difference in training, where it lies on the base."""
        return next((a for a in self.engine.deltas.applied if a.term.shares[0].unit is self.unit), None)


class DensePhase(Phase):
    """All selectable weights move. `start` keeps what they were, and the decoder reads it while they move."""

    def __init__(self, engine: Engine, name: str, unit: SparseDiff, *, l1: float):
        super().__init__(engine, name, unit, l1=l1)
        self.weights = {p.name: engine.base.encoder.get_parameter(p.name) for p in unit.space.parameters}
        self.start: dict[str, Tensor] = {}

    @contextmanager
    def opened(self) -> Iterator["DensePhase"]:
        """The weights are back bit for bit at its end, and nothing of the base asks for gradients."""
        self.start = {name: p.detach().clone() for name, p in self.weights.items()}
        self.engine.deltas.dense = self.start
        try:
            for parameter in self.weights.values():
                parameter.requires_grad_(True)
            yield self
        finally:
            self.back()
            for parameter in self.weights.values():
                parameter.requires_grad_(False)
                parameter.grad = None
            self.engine.deltas.dense, self.start = {}, {}

    @torch.no_grad()
    def back(self) -> None:
        """The weights are what they were."""
        for name, parameter in self.weights.items():
            parameter.copy_(self.start[name])

    def importance(self, parameter: BaseParameter) -> Importance:
        """What the phase says of a parameter at its end."""
        return Importance(parameter, self.start[parameter.name], self.weights[parameter.name].detach())

    @torch.no_grad()
    def values(self) -> Tensor:
        """How far everything moved, `(all entries,)`: the difference as a module keeps it."""
        return torch.cat([(p.detach() - self.start[name]).reshape(-1) for name, p in self.weights.items()])


class FullPhase(DensePhase):
    """They move in place: nothing is as large as the base but the weights, their start, their gradients and moments. No
    other composition can act meanwhile; `madx.training.sparse.dense_delta` is for that."""

    def __init__(self, engine: Engine, name: str, unit: SparseDiff, *, l1: float):
        super().__init__(engine, name, unit, l1=l1)
        self.parameters = [*self.weights.values(), *self.others]

    def state(self) -> dict[str, Tensor]:
        return self.others_state() | {f"base.{name}": p.detach() for name, p in self.weights.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.weights.items():
            parameter.copy_(state[f"base.{name}"])
        self.module.load_state_dict({k: v for k, v in state.items() if not k.startswith("base.")}, strict=False)

    def moved(self) -> None:
        """They are the base's own weights."""

    @torch.no_grad()
    def penalise(self) -> None:
        """+ lambda/n sign(theta - theta_0); at entries of the rounds before, theta_0 is without them."""
        if not self.l1:
            return
        applied = self.applied()
        for name, parameter in self.weights.items():
            if parameter.grad is None:  # nothing computed with it, so it has not moved
                continue
            flat, start, grad = (t.detach().view(-1) for t in (parameter, self.start[name], parameter.grad))
            for a in range(0, len(flat), PIECE):
                grad[a : a + PIECE].add_((flat[a : a + PIECE] - start[a : a + PIECE]).sign_(), alpha=self.l1)
            for piece in applied.pieces if applied is not None else ():
                if piece.parameter == name:
                    places = piece.places()
                    now = flat[places]
                    grad.index_add_(
                        0, places, (now - piece.found).sign_() - (now - start[places]).sign_(), alpha=self.l1
                    )
        self.penalise_others()


class SparsePhase(Phase):
    """The values of the selected entries move. Gradients of whole parameters live until they have been read at the
    selected places: during the backward pass, one parameter at a time. An exchange may replace entries on the way."""

    def __init__(self, engine: Engine, name: str, unit: SparseDiff, *, l1: float, regrowth: Regrowth | None = None):
        super().__init__(engine, name, unit, l1=l1)
        self.regrowth = regrowth
        self._adam: torch.optim.Optimizer | None = None
        self._places: dict[str, tuple[int, int, Tensor]] = {}

    def optimizer(self, settings: TrainSettings) -> torch.optim.Optimizer:
        self._adam = EntryAdamW(self.groups(settings)) if self.regrowth is not None else super().optimizer(settings)
        return self._adam

    @contextmanager
    def opened(self) -> Iterator["SparsePhase"]:
        """Gradients reach the entries; afterwards nothing of the base asks for gradients."""
        encoder, handles, touched = self.engine.base.encoder, [], []
        self.unit.values.grad = torch.zeros_like(self.unit.values)
        self._locate()
        try:
            for number, described in enumerate(self.unit.space.parameters):
                if described.name in self._places or self.regrowth is not None:
                    parameter = encoder.get_parameter(described.name).requires_grad_(True)
                    touched.append(parameter)
                    reader = self._reader(described.name, self.unit.space.offsets[number])
                    handles.append(parameter.register_post_accumulate_grad_hook(reader))
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for parameter in touched:
                parameter.requires_grad_(False)
                parameter.grad = None
            self.unit.values.grad = None

    def _locate(self) -> None:
        """Which entries lie in which parameter, and where."""
        found = self.unit.space.split(self.unit.indices)
        self._places = {name: (a, b, (self.unit.indices[a:b] - offset).long()) for name, a, b, offset in found}

    def _reader(self, name: str, offset: int):
        def read(parameter: nn.Parameter) -> None:
            gradient = parameter.grad.reshape(-1)
            if name in self._places:
                a, b, places = self._places[name]
                self.unit.values.grad[a:b] += gradient.index_select(0, places)
            if self.regrowth is not None:
                self.regrowth.sees(offset, gradient)
            parameter.grad = None

        return read

    def begins(self, step: int, seed: int) -> None:
        if self.regrowth is not None:
            self.regrowth.begins(step)

    @torch.no_grad()
    def penalise(self) -> None:
        """+ lambda/n sign(delta)."""
        if self.regrowth is not None:
            self.regrowth.gathers(self.unit.indices, self.unit.values.grad)
        if self.l1:
            self.unit.values.grad.add_(self.unit.values.sign(), alpha=self.l1)
            self.penalise_others()

    @torch.no_grad()
    def ends(self, step: int) -> None:
        """Write the values that have moved, at other entries where the exchange says so."""
        change = (
            self.regrowth.change(self.unit.indices, self.unit.values.detach()) if self.regrowth is not None else None
        )
        if change is not None:
            fresh, source = change.source < 0, change.source.clamp_min(0)
            self.unit.values.copy_(self.unit.values[source].masked_fill_(fresh, 0.0))
            self.unit.indices = change.indices  # not written in place: what lies on the base still reads the old ones
            moments = self._adam.state[self.unit.values]
            for key, value in moments.items():
                started = change.moments.get(key)
                moments[key] = torch.where(
                    fresh, started if started is not None else torch.zeros_like(value), value[source]
                )
            self._locate()
            self.engine.refresh()
        else:
            self.moved()

    def moved(self) -> None:
        applied = self.applied()
        if applied is not None:
            self.engine.deltas.rewrite(applied)

    def state(self) -> dict[str, Tensor]:
        exchanged = self.regrowth.state() if self.regrowth is not None else {}
        return self.module.state_dict() | {f"regrowth.{k}": v for k, v in exchanged.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for key, value in (self.regrowth.state() if self.regrowth is not None else {}).items():
            value.copy_(state[f"regrowth.{key}"])
        self.unit.indices = self.unit.indices.clone()  # as in `ends`
        self.module.load_state_dict({k: v for k, v in state.items() if not k.startswith("regrowth.")})
        self._locate()
        self.engine.refresh()
