"""AdaMix: several bottlenecks in training, one of them at random in each step, and their mean afterwards.

M experts of a bottleneck stand at one place (Wang et al. 2022, arXiv:2205.12410). A training step draws i and j from
1 .. M, independently for each layer, and reads z as a `bottleneck` does (`madx.module_types.bottleneck`):

    f(z) = U_j act(D_i z + b_D_i) + b_U_j        D_i: width -> width / reduction_factor, U_j: back
    h   <- h + f(z)

Each batch is computed twice, with two such draws, and the predictions are drawn to each other: see
`madx.training.consistency`, with `consistency` as the weight of the symmetric KL divergence. In evaluation the mean of
the experts acts, D = mean of D_i and so on:

    f(z) = U act(D z + b_D) + b_U

At the end of training the mean takes the experts' place. So one bottleneck is stored, and inference costs one. Draws
are functions of seed, step and site; training costs two forward and backward passes a step.
"""

import random
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Sublayer
from madx.errors import StoreError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "adamix": ({}, "four bottlenecks that take turns at random, then their mean (Wang et al. 2022)"),
}
TENSORS = ("down.bias", "down.weight", "up.bias", "up.weight")


class AdamixConfig(ComponentConfig):
    """Settings of an AdaMix component; the defaults are the paper's experts at the place of Pfeiffer's bottleneck."""

    experts: int = Field(default=4, description="M, how many bottlenecks are trained; at least 2.")
    consistency: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of the KL divergence between two draws; 0: one draw.",
    )
    places: tuple[Literal["attention", "ffn"], ...] = Field(
        default=("ffn",), min_length=1, strict=False, description="Sublayers of each layer that get the bottlenecks."
    )
    reduction_factor: float = Field(
        default=16.0, gt=0, allow_inf_nan=False, description="width / width of a bottleneck. Below 1 it widens."
    )
    reads: Literal["sum_norm", "output", "input"] = Field(
        default="sum_norm", description="Input z: LN(h + x), the sublayer's output h, or the block's input."
    )
    activation: str = Field(default="relu", description="Nonlinearity between the two layers.")

    _activation = field_validator("activation")(check_activation)

    @field_validator("experts")
    @classmethod
    def _several(cls, value: int) -> int:
        if value < 2:
            raise ValueError(f"{value} experts leave nothing to draw; give at least 2, or take the type bottleneck")
        return value


class Experts(nn.Module):
    """Several linear maps of one shape, or their mean alone.

    Attributes:
        weight: `(experts, outputs, inputs)`.
        bias: `(experts, outputs)`.
    """

    def __init__(self, experts: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(experts, outputs))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, number: int | None) -> Tensor:
        """Apply the expert of that number, or the mean of all: `(..., inputs)` -> `(..., outputs)`."""
        number = 0 if len(self.weight) == 1 else number
        weight, bias = (t.mean(0) if number is None else t[number] for t in (self.weight, self.bias))
        return F.linear(x, weight, bias)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the mean in place of the experts."""
        for name, own in list(self.named_parameters()):
            setattr(self, name, nn.Parameter(own.mean(0, keepdim=True), requires_grad=own.requires_grad))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take as many experts as a state holds: one after training."""
        for name, own in list(self.named_parameters()):
            given = state_dict.get(prefix + name)
            if given is not None and given.shape[1:] == own.shape[1:] and len(given) != len(own):
                setattr(self, name, nn.Parameter(own.new_empty(given.shape), requires_grad=own.requires_grad))
        super()._load_from_state_dict(state_dict, prefix, *rest)


@MODULE_TYPES.register("adamix")
class Adamix(ChangeType):
    """The experts at one sublayer, `down` and `up`; see the file's docstring."""

    Config = AdamixConfig
    config: AdamixConfig
    scope = "token"
    packed = True  # one expert or all of them are stored

    def __init__(self, config: AdamixConfig, site: Site):
        super().__init__(config, site)
        inner = max(1, int(site.width // config.reduction_factor))
        self.down, self.up = Experts(config.experts, site.width, inner), Experts(config.experts, inner, site.width)
        self.act = ACTIVATIONS[config.activation]
        self.reads = frozenset() if config.reads == "sum_norm" else frozenset({config.reads})
        self.draws, self.number = ((0, 0), (0, 0)), 0  # (i, j) of the first and of the second pass

    @classmethod
    def acts_at(cls, config: AdamixConfig, site: Site) -> bool:
        return site.kind == "sublayer" and site.place in config.places and site.layer in config.layers(site.depth)

    def begin(self, step: int, seed: int) -> None:
        """Draw experts for two passes."""
        chance, experts = random.Random(f"{seed} {step} {self.site.name}"), self.config.experts
        first, second = ((chance.randrange(experts), chance.randrange(experts)) for _ in range(2))
        self.draws, self.number = (first, second), 0

    def consistency(self) -> float:
        """`config.consistency`, unless one expert is left."""
        return self.config.consistency if len(self.down.weight) > 1 else 0.0

    def use_draw(self, number: int) -> None:
        """Choose the experts of the first or of the second pass."""
        self.number = number

    def settle(self) -> None:
        """Merge the experts."""
        self.down.merge()
        self.up.merge()

    def forward(self, view: Sublayer) -> Tensor:
        """The change of the sublayer's output h, `(batch, tokens, width)`."""
        reads = self.config.reads
        z = view.norm(view.sum) if reads == "sum_norm" else view.value if reads == "output" else view.read("input")
        i, j = self.draws[self.number] if self.training else (None, None)
        changed: Tensor = self.up(self.act(self.down(z, i)), j)
        return changed

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        if faults := self.stored_faults(stored):
            raise StoreError("; ".join(faults))
        experts = len(stored["up.bias"])
        if experts not in (1, self.config.experts):
            raise StoreError(f"it holds {experts} experts; its settings allow one, or all {self.config.experts}")
        for name, own in self.state_dict().items():
            if stored[name].shape[1:] != own.shape[1:]:
                raise StoreError(f"{name} has experts of shape {_of_one(stored[name])}, expected {_of_one(own)}")
        return {name: t.float() for name, t in stored.items()}

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        if sorted(stored) != list(TENSORS):
            there = ", ".join(sorted(stored)) or "nothing"
            return [f"AdaMix is stored as {', '.join(TENSORS)}, not as {there}"]
        if any(not t.is_floating_point() or t.dim() != 2 + name.endswith("weight") for name, t in stored.items()):
            return ["a weight of AdaMix has the dimensions experts, outputs, inputs, and a bias experts, outputs"]
        if len({len(t) for t in stored.values()}) > 1:
            return [f"the tensors have different numbers of experts: {', '.join(str(len(stored[n])) for n in TENSORS)}"]
        return []

    def describe(self) -> str:
        """For example `4 experts 64->32->64 relu, reads sum_norm`; `merged` after training."""
        config, width, experts = self.config, self.site.width, len(self.down.weight)
        kind = f"{experts} experts" if experts > 1 else "merged"
        return f"{kind} {width}->{self.up.weight.shape[2]}->{width} {config.activation}, reads {config.reads}"


def _of_one(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape[1:])
