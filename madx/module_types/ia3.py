"""(IA)^3: one learned factor for each number that a linear map of the base gives.

For a linear map y = W x + b, a unit holds l `(width,)` (Liu et al. 2022, arXiv:2205.05638):

    y <- l * y        so the change of y is (l - 1) * y

For a map under `inputs` a unit holds l `(input width,)` and scales what the map reads:

    y <- W (l * x) + b          so the change of y is W ((l - 1) * x)

l is one at first, so a fresh unit changes nothing. The paper scales keys, values, and the inner numbers of the
feed-forward block after their activation, which are the input of `down`: `maps: [key, value]`, `inputs: [down]`, as in
peft. By default, as in AdapterHub, the factors at `up` stand before the activation instead. In a stack the factors of
several units on outputs multiply; factors on inputs are applied each to the base's own input, so their changes add up.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Projection

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "ia3": (
        {},
        "(IA)^3: learned factors of keys, values and inner numbers of the feed-forward block (Liu et al. 2022)",
    ),
    "ia3_peft": (
        {"maps": ["key", "value"], "inputs": ["output", "down"]},
        "(IA)^3 as peft places it on encoders: keys, values, and the inputs of both output maps",
    ),
}


class Ia3Config(ComponentConfig):
    """Settings of an (IA)^3 component; the defaults are the paper's places."""

    maps: tuple[Literal["query", "key", "value", "output", "up", "down"], ...] = Field(
        default=("key", "value", "up"),
        strict=False,
        description="Linear maps of each layer whose output is scaled.",
    )
    inputs: tuple[Literal["query", "key", "value", "output", "up", "down"], ...] = Field(
        default=(),
        strict=False,
        description="Linear maps of each layer whose input is scaled instead (down: as in peft).",
    )

    @model_validator(mode="after")
    def _one_end_each(self) -> "Ia3Config":
        if both := [name for name in self.inputs if name in self.maps]:
            raise ValueError(f"the map {both[0]!r} is under maps and under inputs: its output is scaled, or its input")
        if not self.maps and not self.inputs:
            raise ValueError("maps and inputs are both empty, so nothing is scaled: name a map in one of them")
        return self


@MODULE_TYPES.register("ia3")
class Ia3(ChangeType):
    """Factors of one linear map: `factors` l, `(width,)` of its output or `(input width,)` of its input."""

    Config = Ia3Config
    config: Ia3Config
    scope = "token"
    affine = True

    def __init__(self, config: Ia3Config, site: Site):
        super().__init__(config, site)
        self.inner = site.map in config.inputs
        if self.inner:
            self.reads = frozenset({"input"})
        self.factors = nn.Parameter(torch.ones((site.input_width or site.width) if self.inner else site.width))

    @classmethod
    def acts_at(cls, config: Ia3Config, site: Site) -> bool:
        scaled = site.map in config.maps or site.map in config.inputs
        return site.kind == "linear" and scaled and site.layer in config.layers(site.depth)

    def forward(self, view: Projection) -> Tensor:
        """The change of y, `(..., width)`."""
        y = view.value
        if self.inner:
            x = view.read("input")
            return F.linear(x * (self.factors - 1).to(x.dtype), view.weight)
        return y * (self.factors - 1).to(y.dtype)  # under autocast y has fewer bits than the factors

    def describe(self) -> str:
        """For example `64 factors`."""
        return f"{len(self.factors)} factors" + (" of its input" if self.inner else "")
