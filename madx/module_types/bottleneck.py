"""Bottleneck: a small two-layer network that changes the output of a sublayer.

    f(z) = scale * (U act(D z + b_D) + b_U),   D: width -> width / reduction_factor,  U: back

With h the sublayer's output, x the residual stream and s = h + x, a unit reads z and changes h by delta. All are
`(batch, tokens, width)`.

    reads "sum_norm"  z = LN(s), the base's own LN   Pfeiffer et al. 2020 (MAD-X, arXiv:2005.00052)
    reads "output"    z = h                          Houlsby et al. 2019 (arXiv:1902.00751)
    reads "input"     z = the block's input          parallel: He et al. 2022 (arXiv:2110.04366)

    residual "output" delta = f(z)                   the residual connection of the bottleneck is h
    residual "sum"    delta = f(z) + x               it is h + x
    residual "read"   delta = f(z) + z - h           it is z

In a stack each unit sees h with the changes of the units before it. `norm_before` applies a LayerNorm of the unit's own
to z (Bapna & Firat 2019, arXiv:1909.08478), `norm_after` one to f(z). A gate (UniPELT, Mao et al. 2022,
arXiv:2110.07577) multiplies f by the mean over all positions of sigmoid(w z + b), one number per sentence; the mean
includes padding, as it does in AdapterHub, whose modules can be imported.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Sublayer
from madx.errors import ConfigError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "pfeiffer": ({}, "bottleneck after the feed-forward block, reduction 16: MAD-X task module"),
    "pfeiffer2": (
        {"leave_out": [-1], "activation": "gelu"},
        "MAD-X 2.0 task module: GELU, none in the last layer",
    ),
    "houlsby": (
        {"places": ["attention", "ffn"], "reads": "output", "activation": "swish"},
        "bottlenecks after attention and feed-forward block (Houlsby et al. 2019)",
    ),
    "bapna": (
        {"norm_before": True},
        "bottleneck with a layer norm of its own (Bapna & Firat 2019); the choice for pre-norm bases",
    ),
    "parallel": (
        {"reads": "input", "reduction_factor": 2.0, "scaling": 4.0, "init": "zero_up"},
        "bottleneck beside the feed-forward block, scale 4 (He et al. 2022)",
    ),
    "scaled_parallel": (
        {"reads": "input", "reduction_factor": 2.0, "scaling": "learned", "init": "zero_up"},
        "parallel with one learned scale a layer",
    ),
}


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
        default="sum_norm",
        description="Input z of the bottleneck: LN(h + x), the sublayer's output h, or the block's input (parallel).",
    )
    residual: Literal["output", "sum", "read"] = Field(
        default="output", description="Residual connection that f is added to: h, h + x, or the input z."
    )
    activation: str = Field(default="relu", description="Nonlinearity between the two layers.")
    norm_before: bool = Field(default=False, description="A LayerNorm of its own on the input z.")
    norm_after: bool = Field(default=False, description="A LayerNorm of its own on f.")
    norm_after_residual: bool = Field(default=False, description="norm_after acts on f + residual, not on f alone.")
    final_norm: bool = Field(default=True, description="False: the sublayer gives h itself, without residual and LN.")
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
    def _positive(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        factors = value.values() if isinstance(value, dict) else [value]
        if any(not f > 0 for f in factors):
            raise ValueError("every reduction factor must be above 0")
        if isinstance(value, dict) and any(not k.isdigit() and k != "default" for k in value):
            raise ValueError("keys are layer numbers counted from 0, as text, and 'default'")
        return value

    @model_validator(mode="after")
    def _norm_is_there(self) -> "BottleneckConfig":
        if self.norm_after_residual and not self.norm_after:
            raise ValueError("norm_after_residual needs norm_after: it says what that norm acts on")
        return self

    def bottleneck(self, site: Site) -> int:
        """Width of the bottleneck at a site: floor(width / reduction_factor), at least 1.

        Raises ConfigError when the layer has no reduction factor of its own and there is no default.
        """
        factor = self.reduction_factor
        if isinstance(factor, dict):
            given = ", ".join(factor)
            by_layer = factor.get(str(site.layer), factor.get("default"))
            if by_layer is None:
                raise ConfigError(
                    f"bottleneck.reduction_factor has no value for layer {site.layer}; given: {given}. "
                    "Add the layer or the key 'default'."
                )
            factor = by_layer
        return max(1, int(site.width // factor))


@MODULE_TYPES.register("bottleneck")
class Bottleneck(ChangeType):
    """One bottleneck at one sublayer; see the file's docstring for the formula."""

    Config = BottleneckConfig
    config: BottleneckConfig

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
        self.reads = self._reads(config)
        # the gate's mean runs over padding; stochastic depth skips whole rows, so it has to see which tokens form one
        self.scope = "batch" if config.gate else "row" if config.stochastic_depth else "token"
        self._init_weights(config.init)

    @staticmethod
    def _reads(config: BottleneckConfig) -> frozenset[str]:
        """Tensors of the base that `forward` reads, or the engine after it where the final norm is left out."""
        found: set[str] = set() if config.reads == "sum_norm" else {config.reads}
        if config.norm_after_residual or config.residual == "read" or not config.final_norm:
            found.add("output")
        if config.residual == "sum" and not config.norm_after_residual:
            found.add("residual")
        return frozenset(found)

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
        """True if the sublayer ends with residual and LN: `config.final_norm`."""
        return self.config.final_norm

    def branch(self, z: Tensor, view: Sublayer) -> Tensor:
        """f(z) with scale, gate and dropout: `(batch, tokens, width)` -> `(batch, tokens, width)`."""
        config = self.config
        inner = z if self.norm_before is None else self.norm_before(z)
        f: Tensor = self.up(self.act(self.down(inner)))
        if self.scale is not None:
            f = f * self.scale
        elif isinstance(config.scaling, float) and config.scaling != 1.0:
            f = f * config.scaling
        if self.gate is not None:
            f = f * view.mean(torch.sigmoid(self.gate(z)))
        if self.training and config.dropout:
            f = F.dropout(f, config.dropout)
        if self.training and config.stochastic_depth:  # on f alone: with residual "read" a skipped row still gives z
            keep = 1 - config.stochastic_depth
            f = f * (torch.rand(f.shape[0], 1, 1, device=f.device) < keep) / keep
        return f

    def forward(self, view: Sublayer) -> Tensor:
        """The change of the sublayer's output h, `(batch, tokens, width)`."""
        config = self.config
        z = {
            "sum_norm": lambda: view.norm(view.sum),
            "output": lambda: view.value,
            "input": lambda: view.read("input"),
        }[config.reads]()
        delta = self.branch(z, view)
        if self.norm_after is not None and config.norm_after_residual:
            residual = {"output": lambda: view.value, "sum": lambda: view.sum, "read": lambda: z}[config.residual]()
            changed: Tensor = self.norm_after(delta + residual)
            return changed - view.value
        if self.norm_after is not None:
            delta = self.norm_after(delta)
        if config.residual == "sum":
            return delta + view.read("residual")
        if config.residual == "read":
            return delta + z - view.value
        return delta

    def describe(self) -> str:
        """For example `64->32->64 relu, reads sum_norm`."""
        width = self.site.width
        return f"{width}->{self.down.out_features}->{width} {self.config.activation}, reads {self.config.reads}"
