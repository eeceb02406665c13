"""All selectable weights move as a difference of their own, laid over whatever composition acts: theta = start + z * w.

start is the base with the composition of the step; it may be another one in the next step (several source languages), which
is why w is kept apart. z is 1, or in diff pruning (Guo et al. 2021, arXiv:2012.07463) the product of hard-concrete gates
(Louizos et al. 2018, arXiv:1712.01312), an entry's own and, structured, its whole parameter's:

    s = sigmoid(log u - log(1 - u) + a),  u ~ U(0, 1)        (without u when nothing is left to chance)
    z = min(1, max(0, s (r - l) + l)),  l = -1.5, r = 1.5
    E||delta||_0 = sum of sigmoid(a - log(-l/r)), times the group's     (log(-l/r) = 0 here)

The loss is that of the task plus `gate_penalty` times E||delta||_0. Memory beyond full fine-tuning: w (and a) with gradients
and moments, and the start.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from madx.engine import Engine
from madx.module_types.sparse_diff import SparseDiff
from madx.training.settings import SparseSettings, TrainSettings
from madx.training.sparse.phases import DensePhase, FullPhase

LEFT, RIGHT = -1.5, 1.5


def full_phase(engine: Engine, name: str, unit: SparseDiff, *, l1: float, swaps: bool) -> DensePhase:
    """All weights move: in place, or over compositions that are swapped."""
    return (DenseDeltaPhase if swaps else FullPhase)(engine, name, unit, l1=l1)


def stretched(a: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """A hard-concrete gate and its derivative by a, each of a's shape; noise: uniform numbers, or None for the expected s."""
    s = torch.sigmoid(a if noise is None else a + torch.logit(noise, eps=1e-6))
    wide = s * (RIGHT - LEFT) + LEFT
    slope = s * (1 - s) * (RIGHT - LEFT)
    return wide.clamp(0, 1), slope.masked_fill_((wide <= 0) | (wide >= 1), 0.0)


class DenseDeltaPhase(DensePhase):
    """w, and with `gates` their log-odds a: one for each entry, and one more for each parameter with `gate_groups`."""

    def __init__(
        self, engine: Engine, name: str, unit: SparseDiff, *, l1: float = 0.0, gates: SparseSettings | None = None
    ):
        super().__init__(engine, name, unit, l1=l1)
        self.settings, self._draw = gates, None  # (seed, step) that the gates are drawn for; None: nothing is drawn
        self._known: set[str] = set()  # parameters whose start is that of the composition on the base
        self.w = {n: nn.Parameter(torch.zeros_like(p)) for n, p in self.weights.items()}
        odds = gates.gate_start if gates is not None else 0.0
        self.gates = (
            {n: nn.Parameter(torch.full_like(p, odds)) for n, p in self.weights.items()} if gates is not None else {}
        )
        grouped = gates is not None and gates.gate_groups
        self.groups_of = {n: nn.Parameter(p.new_full((), odds)) for n, p in self.weights.items()} if grouped else {}
        self.parameters = [*self.w.values(), *self.gates.values(), *self.groups_of.values(), *self.others]

    def groups(self, settings: TrainSettings) -> list[dict]:
        gates = {id(p) for p in (*self.gates.values(), *self.groups_of.values())}
        found = [g | {"params": [p for p in g["params"] if id(p) not in gates]} for g in super().groups(settings)]
        if gates:
            found.append(
                {"params": [*self.gates.values(), *self.groups_of.values()], "peak": self.settings.gate_learning_rate}
            )
        return found

    @contextmanager
    def opened(self) -> Iterator["DenseDeltaPhase"]:
        """Gradients of whole parameters live until they have been read, one parameter at a time."""
        handles = []
        with super().opened():
            self._known = set(self.weights)
            self.engine.deltas.overlay = self
            try:
                for parameter in self.parameters:
                    parameter.grad = torch.zeros_like(parameter)
                for name, parameter in self.weights.items():
                    handles.append(parameter.register_post_accumulate_grad_hook(self._reader(name)))
                yield self
            finally:
                self.engine.deltas.overlay = None
                for handle in handles:
                    handle.remove()

    # ---- theta = start + z * w -----------------------------------------------------------------------------------

    def lift(self) -> None:
        """Take off what has moved: the weights are those of the composition alone."""
        self.back()
        self._known = set()

    @torch.no_grad()
    def lay(self) -> None:
        """Put it over the composition that acts now."""
        for name, parameter in self.weights.items():
            self.start[name].copy_(parameter)
            self._known.add(name)
        self._write()

    @torch.no_grad()
    def back(self) -> None:
        """The weights are those of the composition; where `lay` did not get to (a second Ctrl-C), they still are."""
        for name in self._known:
            self.weights[name].copy_(self.start[name])

    @torch.no_grad()
    def _write(self) -> None:
        for name, parameter in self.weights.items():
            parameter.copy_(self.start[name] + (self.w[name] * self._gate(name)[0] if self.gates else self.w[name]))

    def _gate(self, name: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """(z, dz/da, dz/d(group's a) or None) of a parameter."""
        z, slope = stretched(self.gates[name].detach(), self._noise(name, self.gates[name]))
        if not self.groups_of:
            return z, slope, None
        whole, its_slope = stretched(
            self.groups_of[name].detach(), self._noise(f"{name} as a whole", self.groups_of[name])
        )
        return z * whole, slope * whole, z * its_slope

    def _noise(self, name: str, like: Tensor) -> Tensor | None:
        """The same numbers whenever they are asked for, in every process."""
        if self._draw is None:
            return None
        seed = int.from_bytes(hashlib.sha256(f"{self._draw} {name}".encode()).digest()[:8], "little") >> 1
        return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device)

    def _reader(self, name: str):
        def read(parameter: nn.Parameter) -> None:
            gradient, parameter.grad = parameter.grad, None
            if not self.gates:
                self.w[name].grad += gradient
                return
            z, slope, whole = self._gate(name)
            of_z = gradient * self.w[name].detach()
            self.w[name].grad += gradient * z
            self.gates[name].grad += of_z * slope
            if whole is not None:
                self.groups_of[name].grad += (of_z * whole).sum()

        return read

    # ---- what the loop asks ----------------------------------------------------------------------------------------

    def mode(self, *, training: bool) -> None:
        super().mode(training=training)
        if self.gates and not training and self.start:
            self._draw = None
            self._write()

    def begins(self, step: int, seed: int) -> None:
        if self.gates:
            self._draw = seed, step
            self._write()

    def ends(self, step: int) -> None:
        if not self.gates:  # gates are drawn at the next step, or not at all when they are looked at
            self._write()

    def moved(self) -> None:
        self._write()

    @torch.no_grad()
    def penalise(self) -> None:
        """+ lambda/n sign(delta), in which entries of the rounds before count; + lambda dE||delta||_0 / da."""
        if self.l1:
            for name, w in self.w.items():
                w.grad.add_(w.sign(), alpha=self.l1)
            applied = self.applied()
            for piece in applied.pieces if applied is not None else ():
                flat, places = self.w[piece.parameter].detach().view(-1), piece.places()
                signs = (flat[places] + piece.values).sign_() - flat[places].sign()
                self.w[piece.parameter].grad.view(-1).index_add_(0, places, signs, alpha=self.l1)
        for name, a in self.gates.items():
            open_ = torch.sigmoid(a)
            whole = torch.sigmoid(self.groups_of[name]) if self.groups_of else torch.ones_like(a[..., :1].sum())
            a.grad.add_(open_ * (1 - open_) * whole, alpha=self.settings.gate_penalty)
            if self.groups_of:
                self.groups_of[name].grad.add_(whole * (1 - whole) * open_.sum(), alpha=self.settings.gate_penalty)
        self.penalise_others()

    def state(self) -> dict[str, Tensor]:
        own = {"w": self.w, "gate": self.gates, "group": self.groups_of}
        return self.others_state() | {f"{kind}.{n}": p.detach() for kind, ps in own.items() for n, p in ps.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        own, others = self.state(), self.others_state()
        for key in own.keys() - others.keys():
            own[key].copy_(state[key])
        self.module.load_state_dict({k: v for k, v in state.items() if k in others}, strict=False)
        self._draw = None
        self._write()
