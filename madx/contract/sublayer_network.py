"""Networks at a sublayer: the frame of the module types that add f(z), the output of a small network, to a sublayer.

A type of this kind gives the network alone, z `(batch, tokens, width)` -> the same shape. The frame decides what the
network reads, and how its output changes the sublayer. With h the sublayer's output, x the residual stream, s = h + x,
and f(z) = scale * network(z), a unit changes h by delta. All are `(batch, tokens, width)`.

    reads "sum_norm"  z = LN(s), the base's own LN   Pfeiffer et al. 2020 (MAD-X, arXiv:2005.00052)
    reads "output"    z = h                          Houlsby et al. 2019 (arXiv:1902.00751)
    reads "input"     z = the block's input          parallel: He et al. 2022 (arXiv:2110.04366)

    residual "output" delta = f(z)                   the residual connection of the network is h
    residual "sum"    delta = f(z) + x               it is h + x
    residual "read"   delta = f(z) + z - h           it is z

In a stack each unit sees h with the changes of the units before it. `norm_before` applies a LayerNorm of the unit's own
to z (Bapna & Firat 2019, arXiv:1909.08478), `norm_after` one to f(z). A gate (UniPELT, Mao et al. 2022,
arXiv:2110.07577) multiplies f by the mean over all positions of sigmoid(w z + b), one number per sentence; the mean
includes padding, as it does in AdapterHub, whose modules can be imported.
"""

from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Sublayer
from madx.errors import ConfigError


class SublayerNetworkConfig(ComponentConfig):
    """Settings that all networks at a sublayer have; the defaults are Pfeiffer's task module."""

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
    def _norm_is_there(self) -> "SublayerNetworkConfig":
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
                    f"reduction_factor has no value for layer {site.layer}; given: {given}. "
                    "Add the layer or the key 'default'."
                )
            factor = by_layer
        return max(1, int(site.width // factor))


class SublayerNetwork(ChangeType):
    """The frame of one network at one sublayer; see the file's docstring for the formulas.

    A subclass gives `network`, and calls `make_frame` once its own parameters are made.

    Attributes:
        norm_before, norm_after: LayerNorms of the unit's own, or None.
        gate: a linear map to one number, or None.
        scale: a learned factor, `(1,)` or `(width,)`, or None.
    """

    config: Any

    def make_frame(self) -> None:
        """Make the parameters of the frame; set `reads` and `scope`."""
        config, width = self.config, self.site.width
        self.norm_before = nn.LayerNorm(width) if config.norm_before else None
        self.norm_after = nn.LayerNorm(width) if config.norm_after else None
        self.gate = nn.Linear(width, 1) if config.gate else None
        self.scale = None
        if isinstance(config.scaling, str):
            self.scale = nn.Parameter(torch.ones(1 if config.scaling == "learned" else width))
        self.act = ACTIVATIONS[config.activation]
        self.reads = _reads(config)
        # the gate's mean runs over padding; stochastic depth skips whole rows, so it has to see which tokens form one
        self.scope = "batch" if config.gate else "row" if config.stochastic_depth else "token"
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=0.02)
            nn.init.zeros_(self.gate.bias)

    @classmethod
    def acts_at(cls, config: SublayerNetworkConfig, site: Site) -> bool:
        return site.kind == "sublayer" and site.place in config.places and site.layer in config.layers(site.depth)

    @property
    def final_norm(self) -> bool:
        """True if the sublayer ends with residual and LN: `config.final_norm`."""
        return bool(self.config.final_norm)

    @abstractmethod
    def network(self, z: Tensor, view: Sublayer) -> Tensor:
        """Return the output of the network, `(batch, tokens, width)` -> `(batch, tokens, width)`."""

    def branch(self, z: Tensor, view: Sublayer) -> Tensor:
        """f(z) with scale, gate and dropout: `(batch, tokens, width)` -> `(batch, tokens, width)`."""
        config = self.config
        f = self.network(z if self.norm_before is None else self.norm_before(z), view)
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


def _reads(config: SublayerNetworkConfig) -> frozenset[str]:
    """Tensors of the base that `forward` reads, or the engine after it where the final norm is left out."""
    found: set[str] = set() if config.reads == "sum_norm" else {config.reads}
    if config.norm_after_residual or config.residual == "read" or not config.final_norm:
        found.add("output")
    if config.residual == "sum" and not config.norm_after_residual:
        found.add("residual")
    return frozenset(found)
