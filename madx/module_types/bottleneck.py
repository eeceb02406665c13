"""Bottleneck: a small two-layer network that changes the output of a sublayer.

    f(z) = scale * (U act(D z + b_D) + b_U),   D: width -> width/reduction,  U: back

With h the sublayer's output, x the residual stream and s = h + x, a component reads z and changes h by delta:

    reads "sum_norm"  z = LN(s), the base's own LN   Pfeiffer et al. 2020 (MAD-X, arXiv:2005.00052)
    reads "output"    z = h                          Houlsby et al. 2019 (arXiv:1902.00751)
    reads "input"     z = the block's input          parallel: He et al. 2022 (arXiv:2110.04366)

    residual "output" delta = f(z)                   the bottleneck's residual is h
    residual "sum"    delta = f(z) + x               ... is h + x
    residual "read"   delta = f(z) + z - h           ... is z itself

A stack repeats this with the changed h. `norm_before` puts a LayerNorm of its own on z (Bapna & Firat 2019,
arXiv:1909.08478), `norm_after` one on f(z). A gate (UniPELT, Mao et al. 2022, arXiv:2110.07577) multiplies f by the mean over the tokens
of sigmoid(w z + b), one number per sentence; that mean runs over padding too, as in the peer that defined it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Sublayer
from madx.errors import ConfigError, did_you_mean

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "relu_squared": lambda x: F.relu(x).square(),
    "identity": lambda x: x,
}


def check_activation(name: str) -> str:
    """The name, if such an activation exists; raises ValueError otherwise, which pydantic makes a fault of the setting."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; {did_you_mean(name, ACTIVATIONS)}")
    return name


class BottleneckConfig(ComponentConfig):
    """Settings of a bottleneck component; the defaults are Pfeiffer's task module."""

    places: tuple[Literal["attention", "ffn"], ...] = Field(
        default=("ffn",), min_length=1, strict=False, description="Sublayers of each layer that get a bottleneck."
    )
    reduction_factor: float | dict[str, float] = Field(
        default=16.0,
        description="width / bottleneck width; by layer: {'3': 8, 'default': 16}. Below 1 it widens.",
    )
    reads: Literal["sum_norm", "output", "input"] = Field(
        default="sum_norm", description="What the bottleneck reads: LN(h + x), h, or the block's input (parallel)."
    )
    residual: Literal["output", "sum", "read"] = Field(default="output", description="What f is added to.")
    activation: str = Field(default="relu", description="Nonlinearity between the two layers.")
    norm_before: bool = Field(default=False, description="A LayerNorm of its own on what it reads.")
    norm_after: bool = Field(default=False, description="A LayerNorm of its own on f.")
    norm_after_residual: bool = Field(default=False, description="norm_after acts on f + residual, not on f alone.")
    final_norm: bool = Field(default=True, description="False: the sublayer gives h, without residual and LN.")
    scaling: float | Literal["learned", "channel"] = Field(
        default=1.0, description="Factor of f: a number, one learned number, or one learned per channel."
    )
    gate: bool = Field(default=False, description="Multiply f by a learned gate, one number per sentence.")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on f in training.")
    stochastic_depth: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Share of sentences for which f is 0 in a training step."
    )
    init: Literal["normal", "truncated", "zero_up"] = Field(
        default="normal",
        description="normal: N(0, 0.02); truncated: N(0, 0.01) cut at two deviations; zero_up: Kaiming D, zero U.",
    )

    _activation = field_validator("activation")(check_activation)

    @field_validator("reduction_factor")
    @classmethod
    def _positive(cls, value):
        factors = value.values() if isinstance(value, dict) else [value]
        if any(not f > 0 for f in factors):
            raise ValueError("every reduction factor must be above 0")
        if isinstance(value, dict) and any(not k.isdigit() and k != "default" for k in value):
            raise ValueError("keys are layer numbers counted from 0, as text, and 'default'")
        return value

    @model_validator(mode="after")
    def _norm_is_there(self):
        if self.norm_after_residual and not self.norm_after:
            raise ValueError("norm_after_residual needs norm_after: it says what that norm acts on")
        return self

    def bottleneck(self, site: Site) -> int:
        """Width of the bottleneck at a site: floor(width / reduction), at least 1.

        Raises ConfigError when the layer has no reduction factor of its own and there is no default.
        """
        factor = self.reduction_factor
        if isinstance(factor, dict):
            factor = factor.get(str(site.layer), factor.get("default"))
            if factor is None:
                raise ConfigError(
                    f"bottleneck.reduction_factor has no value for layer {site.layer}; "
                    f"given: {', '.join(self.reduction_factor)}. Add the layer or the key 'default'."
                )
        return max(1, int(site.width // factor))


@MODULE_TYPES.register("bottleneck")
class Bottleneck(ChangeType):
    """One bottleneck at one sublayer; see the file's docstring for the formula."""

    Config = BottleneckConfig

    def __init__(self, config: BottleneckConfig, site: Site):
        super().__init__(config, site)
        width, inner = site.width, config.bottleneck(site)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm_before = nn.LayerNorm(width) if config.norm_before else None
        self.norm_after = nn.LayerNorm(width) if config.norm_after else None
        self.gate = nn.Linear(width, 1) if config.gate else None
        self.scale = None
        if isinstance(config.scaling, str):
            self.scale = nn.Parameter(torch.ones(1 if config.scaling == "learned" else width))
        self.act = ACTIVATIONS[config.activation]
        self.reads = self._captures(config)
        self.scope = "batch" if config.gate else "row" if config.stochastic_depth else "token"
        self._init_weights(config.init)

    @staticmethod
    def _captures(config: BottleneckConfig) -> frozenset[str]:
        needs = {"sum_norm": set(), "output": {"output"}, "input": {"input"}}[config.reads]
        needs |= {"output": set(), "sum": {"residual"}, "read": {"output"}}[config.residual]
        if config.norm_after and config.norm_after_residual or not config.final_norm:
            needs |= {"output", "residual"}
        return frozenset(needs)

    def _init_weights(self, init: str) -> None:
        with torch.no_grad():
            for layer in [self.down, self.up] + ([self.gate] if self.gate is not None else []):
                layer.bias.zero_()
                if init == "truncated":
                    nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
                else:
                    layer.weight.normal_(std=0.02)
            if init == "zero_up":
                nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
                self.up.weight.zero_()

    @classmethod
    def acts_at(cls, config: BottleneckConfig, site: Site) -> bool:
        return site.kind == "sublayer" and site.place in config.places and site.layer in config.layers(site.depth)

    @property
    def final_norm(self) -> bool:
        return self.config.final_norm

    def _read(self, at: Sublayer) -> Tensor:
        if self.config.reads == "sum_norm":
            return at.norm(at.sum)
        return at.value if self.config.reads == "output" else at.read("input")

    def branch(self, z: Tensor, at: Sublayer | None = None) -> Tensor:
        """f(z), with scale, gate and dropout. (batch, tokens, width) -> (batch, tokens, width)"""
        config = self.config
        inner = z if self.norm_before is None else self.norm_before(z)
        f = self.up(self.act(self.down(inner)))
        if self.scale is not None:
            f = f * self.scale
        elif config.scaling != 1.0:
            f = f * config.scaling
        if self.gate is not None:
            f = f * at.mean(torch.sigmoid(self.gate(z)))
        if self.training and config.dropout:
            f = F.dropout(f, config.dropout)
        if (
            self.training and config.stochastic_depth
        ):  # f alone: with residual "read", a skipped component still gives z
            keep = 1 - config.stochastic_depth
            f = f * (torch.rand(f.shape[0], 1, 1, device=f.device) < keep) / keep
        return f

    def forward(self, at: Sublayer) -> Tensor:
        """The change delta of the sublayer's output h, `(batch, tokens, width)`."""
        config = self.config
        z = self._read(at)
        delta = self.branch(z, at)
        if self.norm_after is not None and config.norm_after_residual:
            residual = {"output": lambda: at.value, "sum": lambda: at.sum, "read": lambda: z}[config.residual]()
            delta = self.norm_after(delta + residual) - at.value
        else:
            if self.norm_after is not None:
                delta = self.norm_after(delta)
            if config.residual == "sum":
                delta = delta + at.read("residual")
            elif config.residual == "read":
                delta = delta + z - at.value
        return delta

    def describe(self) -> str:
        """For example `64->32->64 relu, reads sum_norm`."""
        width = self.site.width
        return f"{width}->{self.down.out_features}->{width} {self.config.activation}, reads {self.config.reads}"
