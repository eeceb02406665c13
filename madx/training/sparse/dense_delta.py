"""A dense delta: all selectable weights are trained as a delta w of their own, over whatever composition is active.

    theta = start + z * w

start is the base with the composition of the step. It may be another one in the next step (several source languages),
which is why w is kept apart. z is 1, or in diff pruning (Guo et al. 2021, arXiv:2012.07463) the product of two
hard-concrete gates (Louizos et al. 2018, arXiv:1712.01312), that of the entry and, if structured, that of its
parameter as a whole:

    s = sigmoid(log u - log(1 - u) + a),  u ~ U(0, 1)        (without u in evaluation)
    z = min(1, max(0, s (r - l) + l)),  l = -1.5, r = 1.5
    E||delta||_0 = sum of sigmoid(a - log(-l/r)), times the group's     (log(-l/r) = 0 here)

The loss is that of the task plus `gate_penalty` times E||delta||_0. Memory beyond full fine-tuning: w (and a) with
gradients and moments, and the start.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from madx.module_types.sparse_diff import SparseDiff
from madx.training.base_gradients import gradient_of, reading_gradients
from madx.training.settings import SparseSettings, TrainSettings
from madx.training.sparse.phases import DensePhase, FullPhase
from madx.training.trainable import Trainee

LEFT, RIGHT = -1.5, 1.5
Parameters = dict[str, nn.Parameter]


def full_phase(trainee: Trainee[SparseDiff], *, l1: float, swaps: bool) -> DensePhase:
    """A phase in which all weights are trained: in place, or over compositions that are swapped between steps."""
    return DenseDeltaPhase(trainee, l1=l1) if swaps else FullPhase(trainee, l1=l1)


def hard_concrete(a: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """A gate z and its derivative dz/da, each of the shape of the log-odds a.

    noise: uniform numbers u; None: s is taken at its median, without u.
    """
    s = torch.sigmoid(a if noise is None else a + torch.logit(noise, eps=1e-6))
    wide = s * (RIGHT - LEFT) + LEFT
    slope = s * (1 - s) * (RIGHT - LEFT)
    return wide.clamp(0, 1), slope.masked_fill_((wide <= 0) | (wide >= 1), 0.0)


class DenseDeltaPhase(DensePhase):
    """Trains w, and with `gates` the gates' log-odds a: one for each entry, and with `gate_groups` one for each
    parameter.

    The engine knows it as `deltas.trained`: when another composition is activated, `lift` is called before the swap and
    `lay` after it.

    Attributes:
        w, gates, group_gates: by parameter name; the gates are empty without `gates`.
    """

    def __init__(self, trainee: Trainee[SparseDiff], *, l1: float = 0.0, gates: SparseSettings | None = None):
        super().__init__(trainee, l1=l1)
        self._draw: tuple[int, int] | None = None  # (seed, step) by which the gates are drawn; None: no noise
        self._known: set[str] = set()  # parameters whose start is that of the composition on the base
        self.w: Parameters = {n: nn.Parameter(torch.zeros_like(p)) for n, p in self.weights.items()}
        self.gates: Parameters = {}
        self.group_gates: Parameters = {}
        self.gate_penalty, self.gate_learning_rate = 0.0, 0.0
        if gates is not None:
            self.gate_penalty, self.gate_learning_rate = gates.gate_penalty, gates.gate_learning_rate
            odds = gates.gate_start
            self.gates = {n: nn.Parameter(torch.full_like(p, odds)) for n, p in self.weights.items()}
            if gates.gate_groups:
                self.group_gates = {n: nn.Parameter(p.new_full((), odds)) for n, p in self.weights.items()}
        self.parameters = [*self.w.values(), *self.gates.values(), *self.group_gates.values(), *self.others]

    def parameter_groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        gates = [*self.gates.values(), *self.group_gates.values()]
        names = {id(p) for p in gates}
        groups = [
            group | {"params": [p for p in group["params"] if id(p) not in names]}
            for group in super().parameter_groups(settings)
        ]
        return [*groups, {"params": gates, "peak": self.gate_learning_rate}] if gates else groups

    @contextmanager
    def running(self) -> Iterator["DenseDeltaPhase"]:
        """Gradients of whole parameters live until they have been read, one parameter at a time."""
        with super().running():
            self._known = set(self.weights)
            self.engine.deltas.trained = self
            try:
                for parameter in self.parameters:
                    parameter.grad = torch.zeros_like(parameter)
                with reading_gradients(self.weights, self._read):
                    yield self
            finally:
                self.engine.deltas.trained = None

    # ---- theta = start + z * w -----------------------------------------------------------------------------------

    def lift(self) -> None:
        """Take w off the base: the weights are those of the composition alone."""
        self.restore_weights()
        self._known = set()

    @torch.no_grad()
    def lay(self) -> None:
        """Put w over the composition that is active now."""
        for name, parameter in self.weights.items():
            self.start[name].copy_(parameter)
            self._known.add(name)
        self._write()

    @torch.no_grad()
    def restore_weights(self) -> None:
        """The weights are those of the composition; where `lay` did not get to (a second Ctrl-C), they still are."""
        for name in self._known:
            self.weights[name].copy_(self.start[name])

    @torch.no_grad()
    def _write(self) -> None:
        for name, parameter in self.weights.items():
            delta = self.w[name] * self._gate(name)[0] if self.gates else self.w[name]
            parameter.copy_(self.start[name] + delta)

    def _gate(self, name: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """(z, dz/da, dz/d(group's a) or None) of a parameter."""
        z, slope = hard_concrete(self.gates[name].detach(), self._noise(name, self.gates[name]))
        group = self.group_gates.get(name)
        if group is None:
            return z, slope, None
        whole, whole_slope = hard_concrete(group.detach(), self._noise(f"{name} as a whole", group))
        return z * whole, slope * whole, z * whole_slope

    def _noise(self, name: str, like: Tensor) -> Tensor | None:
        """Uniform numbers of a tensor's shape: the same whenever they are asked for within a step, in every process."""
        if self._draw is None:
            return None
        seed = int.from_bytes(hashlib.sha256(f"{self._draw} {name}".encode()).digest()[:8], "little") >> 1
        return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device)

    def _read(self, name: str, gradient: Tensor) -> None:
        """Add what follows from the gradient of a weight theta to the gradients of its w and its gates."""
        if not self.gates:
            gradient_of(self.w[name]).add_(gradient)
            return
        z, slope, group_slope = self._gate(name)
        of_z = gradient * self.w[name].detach()
        gradient_of(self.w[name]).add_(gradient * z)
        gradient_of(self.gates[name]).add_(of_z * slope)
        if group_slope is not None:
            gradient_of(self.group_gates[name]).add_((of_z * group_slope).sum())

    # ---- the loop calls these --------------------------------------------------------------------------------------

    def set_mode(self, *, training: bool, base_dropout: bool = False) -> None:
        super().set_mode(training=training, base_dropout=base_dropout)
        if self.gates and not training and self.start:
            self._draw = None
            self._write()

    def begin_step(self, step: int, seed: int) -> None:
        super().begin_step(step, seed)
        if self.gates:
            self._draw = seed, step
            self._write()

    def end_step(self, step: int) -> None:
        if not self.gates:  # gates are drawn in the next step, or read without noise in an evaluation
            self._write()

    def apply_parameters(self) -> None:
        self._write()

    @torch.no_grad()
    def add_own_penalty(self) -> None:
        """+ lambda/n sign(delta), in which entries of the rounds before count; + lambda dE||delta||_0 / da."""
        if self.l1:
            self._add_l1()
        for name, a in self.gates.items():
            is_open = torch.sigmoid(a)
            group = self.group_gates.get(name)
            whole = torch.sigmoid(group) if group is not None else 1.0
            gradient_of(a).add_(is_open * (1 - is_open) * whole, alpha=self.gate_penalty)
            if group is not None:
                gradient_of(group).add_(whole * (1 - whole) * is_open.sum(), alpha=self.gate_penalty)
        self.add_penalty_of_others()

    def _add_l1(self) -> None:
        for w in self.w.values():
            gradient_of(w).add_(w.sign(), alpha=self.l1)
        applied = self.applied()
        for piece in applied.pieces if applied is not None else ():
            w, places = self.w[piece.parameter], piece.places()
            flat = w.detach().view(-1)[places]
            correction = (flat + piece.values).sign_() - flat.sign()
            gradient_of(w).view(-1).index_add_(0, places, correction, alpha=self.l1)

    def _own_state(self) -> dict[str, Tensor]:
        own = {"w": self.w, "gate": self.gates, "group": self.group_gates}
        return {f"{kind}.{name}": p.detach() for kind, ps in own.items() for name, p in ps.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return self.others_state() | self._own_state()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for key, value in self._own_state().items():
            value.copy_(state[key])
        others = self.others_state()
        self.module.load_state_dict({k: v for k, v in state.items() if k in others}, strict=False)
        self._draw = None
        self._write()
