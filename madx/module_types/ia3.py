"""(IA)^3: one learned factor for each number that a linear map of the base gives.

For a linear map y = W x + b, a unit holds l `(width,)` (Liu et al. 2022, arXiv:2205.05638):

    y <- l * y        so the change of y is (l - 1) * y

l is one at first, so a fresh unit changes nothing. The paper scales keys, values, and the inner numbers of the
feed-forward block after their activation. Here, as in AdapterHub, the factors at `up` stand before the activation. In a
stack the factors of several units multiply.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Projection

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "ia3": (
        {},
        "(IA)^3: learned factors of keys, values and inner numbers of the feed-forward block (Liu et al. 2022)",
    ),
}


class Ia3Config(ComponentConfig):
    """Settings of an (IA)^3 component; the defaults are the paper's places."""

    maps: tuple[Literal["query", "key", "value", "output", "up", "down"], ...] = Field(
        default=("key", "value", "up"),
        min_length=1,
        strict=False,
        description="Linear maps of each layer whose output is scaled.",
    )


@MODULE_TYPES.register("ia3")
class Ia3(ChangeType):
    """Factors of the output of one linear map: `factors` l, `(width,)`."""

    Config = Ia3Config
    config: Ia3Config
    scope = "token"
    affine = True

    def __init__(self, config: Ia3Config, site: Site):
        super().__init__(config, site)
        self.factors = nn.Parameter(torch.ones(site.width))

    @classmethod
    def acts_at(cls, config: Ia3Config, site: Site) -> bool:
        return site.kind == "linear" and site.map in config.maps and site.layer in config.layers(site.depth)

    def forward(self, view: Projection) -> Tensor:
        """The change of y, `(..., width)`."""
        y = view.value
        return y * (self.factors - 1).to(y.dtype)  # under autocast y has fewer bits than the factors

    def describe(self) -> str:
        """For example `64 factors`."""
        return f"{self.site.width} factors"
