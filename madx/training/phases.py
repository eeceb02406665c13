"""What moves in the phases of a sparse difference: all selectable weights of the base, or the selected entries alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from madx.differences import PIECE, Applied
from madx.engine import Engine
from madx.module import Module
from madx.modules.sparse_diff import SparseDiff
from madx.training.moving import Moving

LANGUAGE_L1 = 0.1  # what LT-SFT's language differences were trained with; tasks had none


def share_of_l1(engine: Engine, module: Module, given: float | None) -> float:
    """lambda / (number of all parameters): those of the masked-LM model, its decoder counted as the own one that it is
    here, and those of the head."""
    weight = given if given is not None else LANGUAGE_L1 if module.info.role == "language" else 0.0
    model = engine.base.model
    tied = model.get_input_embeddings().weight.numel() if engine.base.family.tied else 0
    head = sum(p.numel() for p in module.head.parameters()) if module.head is not None else 0
    return weight / (sum(p.numel() for p in model.parameters()) + tied + head)


class _Phase(Moving):
    """What both phases share: the module's head and other parts train densely, under the same penalty."""

    def __init__(self, engine: Engine, name: str, unit: SparseDiff, *, l1: float):
        super().__init__(engine, name)
        self.unit, self.l1 = unit, l1
        self.others = [p for p in self.parameters if p is not unit.values]
        self.others_start = [p.detach().clone() for p in self.others] if l1 else []

    def _penalise_others(self) -> None:
        for parameter, start in zip(self.others, self.others_start):
            if parameter.grad is None:
                continue
            parameter.grad.add_((parameter.detach() - start).sign_(), alpha=self.l1)

    def _applied(self) -> Applied | None:
        """The difference in training, where it lies on the base."""
        return next((a for a in self.engine.differences.applied if a.term.shares[0].unit is self.unit), None)


class FullPhase(_Phase):
    """All selectable weights move in place. `start` keeps what they were, and the decoder reads it while they move."""

    def __init__(self, engine: Engine, name: str, unit: SparseDiff, *, l1: float):
        super().__init__(engine, name, unit, l1=l1)
        self.weights = {p.name: engine.base.encoder.get_parameter(p.name) for p in unit.space.parameters}
        self.parameters = [*self.weights.values(), *self.others]
        self.start: dict[str, Tensor] = {}

    @contextmanager
    def opened(self) -> Iterator["FullPhase"]:
        """The weights are back bit for bit at its end, and nothing of the base asks for gradients."""
        self.start = {name: p.detach().clone() for name, p in self.weights.items()}
        self.engine.differences.dense = self.start
        try:
            for parameter in self.weights.values():
                parameter.requires_grad_(True)
            yield self
        finally:
            with torch.no_grad():
                for name, parameter in self.weights.items():
                    parameter.requires_grad_(False).copy_(self.start[name])
                    parameter.grad = None
            self.engine.differences.dense, self.start = {}, {}

    def state(self) -> dict[str, Tensor]:
        own = next(start for start, unit in self.module.packed_units().items() if unit is self.unit)
        kept = {k: v for k, v in self.module.state_dict().items() if not k.startswith(own)}
        return kept | {f"base.{name}": p.detach() for name, p in self.weights.items()}

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
        applied = self._applied()
        for name, parameter in self.weights.items():
            if parameter.grad is None:  # nothing computed with it, so it has not moved
                continue
            flat, start, grad = (t.detach().view(-1) for t in (parameter, self.start[name], parameter.grad))
            for a in range(0, len(flat), PIECE):
                grad[a : a + PIECE].add_((flat[a : a + PIECE] - start[a : a + PIECE]).sign_(), alpha=self.l1)
            for piece in applied.pieces if applied is not None else ():
                if piece.parameter == name:
                    places = piece.places.long()
                    now = flat[places]
                    grad.index_add_(0, places, (now - piece.found).sign_() - (now - start[places]).sign_(), alpha=self.l1)
        self._penalise_others()


class SparsePhase(_Phase):
    """The values of the selected entries move. Gradients of whole parameters live until they have been read at the
    selected places: during the backward pass, one parameter at a time."""

    @contextmanager
    def opened(self) -> Iterator["SparsePhase"]:
        """Gradients reach the entries; afterwards nothing of the base asks for gradients."""
        encoder, handles, touched = self.engine.base.encoder, [], []
        self.unit.values.grad = torch.zeros_like(self.unit.values)
        try:
            for name, a, b, offset in self.unit.space.split(self.unit.indices):
                parameter = encoder.get_parameter(name).requires_grad_(True)
                touched.append(parameter)
                places = (self.unit.indices[a:b] - offset).long()
                handles.append(parameter.register_post_accumulate_grad_hook(self._reader(a, b, places)))
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for parameter in touched:
                parameter.requires_grad_(False)
                parameter.grad = None
            self.unit.values.grad = None

    def _reader(self, a: int, b: int, places: Tensor):
        def read(parameter: nn.Parameter) -> None:
            self.unit.values.grad[a:b] += parameter.grad.reshape(-1).index_select(0, places)
            parameter.grad = None

        return read

    def state(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)
        self.moved()

    @torch.no_grad()
    def penalise(self) -> None:
        """+ lambda/n sign(delta)."""
        if self.l1:
            self.unit.values.grad.add_(self.unit.values.sign(), alpha=self.l1)
            self._penalise_others()

    def moved(self) -> None:
        applied = self._applied()
        if applied is not None:
            self.engine.differences.rewrite(applied)
