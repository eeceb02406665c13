"""KronA: a change of the base's linear maps by a Kronecker product, which has full rank with few numbers.

For a linear map y = W x + b of the base, W `(width, input width)`, a unit holds A `(a1, a2)` and B `(b1, b2)` with
a1 b1 = width and a2 b2 = input width (Edalati et al. 2022, arXiv:2212.10650):

    y <- y + s (A kron B) x        (A kron B)[i b1 + k, j b2 + l] = A[i, j] B[k, l]

The product is never built. With x read row by row as a matrix X `(a2, b2)`, (A kron B) x is A X B^T `(a1, b1)`, read
row by row; whichever of A X and X B^T costs less is computed first.

`place: ffn` is the paper's KronA_B: a branch beside the feed-forward block, with x the block's input and h its output,
and a nonlinearity between the factors (`activation: identity` for the plain product). `residual_scale` makes it
KronA_Bres, which learns how much of x it adds as well:

    h <- h + s A act(X B^T) + c x        c one number, 0 at first

A is zero at first, so a fresh unit changes nothing. The shape of A is `factor`, or as balanced as the widths allow: a1
is the largest divisor of the width up to its root, and b2 that of the input width, so that A and B are nearly equal in
size; widths of 768 give A `(24, 32)` and B `(32, 24)`. In a stack the changes of several units add up.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Projection, Sublayer
from madx.errors import ConfigError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "krona": ({}, "Kronecker product on query and value (Edalati et al. 2022)"),
    "krona_b": (
        {"place": "ffn", "activation": "gelu"},
        "Kronecker branch with a nonlinearity beside the feed-forward block (KronA_B, Edalati et al. 2022)",
    ),
    "krona_b_res": (
        {"place": "ffn", "activation": "gelu", "residual_scale": True},
        "KronA_B that also learns how much of its input it adds (KronA_Bres, Edalati et al. 2022)",
    ),
}


class KronaConfig(ComponentConfig):
    """Settings of a KronA component; the defaults are the paper's places."""

    place: Literal["maps", "ffn"] = Field(
        default="maps", description="maps: changes linear maps; ffn: a branch beside the feed-forward block (KronA_B)."
    )
    maps: tuple[Literal["query", "key", "value", "output", "up", "down"], ...] = Field(
        default=("query", "value"),
        min_length=1,
        strict=False,
        description="Linear maps of each layer that are changed, with place: maps.",
    )
    factor: Literal["balanced"] | tuple[int, int] = Field(
        default="balanced",
        union_mode="left_to_right",
        description="Rows and columns of A, which divide output and input width; balanced: A and B nearly equal in "
        "size.",
    )
    scaling: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Factor s of the product.")
    activation: str = Field(
        default="identity", description="Nonlinearity between the two factors, with place: ffn alone."
    )
    residual_scale: bool = Field(
        default=False, description="Learn one number by which the input is added, with place: ffn alone (KronA_Bres)."
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on the input in training.")

    _activation = field_validator("activation")(check_activation)

    @field_validator("factor", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if len(value) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in value):
                raise ValueError(f"{list(value)} is not the shape of A: give [rows, columns], whole numbers from 1")
            return tuple(value)
        if value != "balanced":
            raise ValueError(f"{value!r} is not the shape of A: give 'balanced', or [rows, columns]")
        return value

    @model_validator(mode="after")
    def _branch_alone(self) -> "KronaConfig":
        if self.place == "maps" and (self.activation != "identity" or self.residual_scale):
            name = "residual_scale" if self.residual_scale else "activation"
            raise ValueError(f"{name} needs place: ffn: a change of a linear map is linear")
        return self

    def shapes(self, site: Site) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of A and B at a site. Raises ConfigError for a factor that does not divide the widths."""
        inputs = site.width if site.input_width is None else site.input_width
        if self.factor == "balanced":
            rows, columns = _divisor_near_root(site.width), inputs // _divisor_near_root(inputs)
        else:
            rows, columns = self.factor
        if site.width % rows or inputs % columns:
            raise ConfigError(
                f"krona.factor is [{rows}, {columns}], but {site.name} maps {inputs} numbers to {site.width}: the rows "
                f"of A must divide {site.width}, and its columns {inputs}. Give such numbers, or 'balanced'."
            )
        return (rows, columns), (site.width // rows, inputs // columns)


def _divisor_near_root(n: int) -> int:
    """The largest divisor of n that is at most its square root.

    >>> [_divisor_near_root(n) for n in (768, 3072, 13)]
    [24, 48, 1]
    """
    return next(d for d in range(int(n**0.5), 0, -1) if n % d == 0)


@MODULE_TYPES.register("krona")
class Krona(ChangeType):
    """A Kronecker product at one linear map or beside one block; see the file's docstring for the formulas.

    Attributes:
        A: `(a1, a2)`.
        B: `(b1, b2)`.
        residual_scale: c, `(1,)`; None without it.
    """

    Config = KronaConfig
    config: KronaConfig
    scope = "token"
    reads = frozenset({"input"})
    affine = True

    def __init__(self, config: KronaConfig, site: Site):
        super().__init__(config, site)
        a, b = config.shapes(site)
        self.A = nn.Parameter(torch.zeros(a))
        self.B = nn.Parameter(torch.empty(b))
        nn.init.kaiming_uniform_(self.B, a=5**0.5)
        self.residual_scale = nn.Parameter(torch.zeros(1)) if config.residual_scale else None
        self.act = ACTIVATIONS[config.activation]

    @classmethod
    def acts_at(cls, config: KronaConfig, site: Site) -> bool:
        if config.place == "ffn":
            here = site.kind == "sublayer" and site.place == "ffn"
        else:
            here = site.kind == "linear" and site.map in config.maps
        return here and site.layer in config.layers(site.depth)

    def forward(self, view: Projection | Sublayer) -> Tensor:
        """The change of y or h, `(..., width)`."""
        x = view.read("input")
        inputs = F.dropout(x, self.config.dropout) if self.training and self.config.dropout else x
        change = self._product(inputs) * self.config.scaling
        if self.residual_scale is not None:
            change = change + self.residual_scale * x
        return change

    def _product(self, x: Tensor) -> Tensor:
        """A act(X B^T) read row by row: `(..., input width)` -> `(..., width)`."""
        (a1, a2), (b1, b2) = self.A.shape, self.B.shape
        X = x.reshape(*x.shape[:-1], a2, b2)
        first_b = a2 * b1 * b2 + a1 * a2 * b1 <= a1 * a2 * b2 + a1 * b1 * b2
        if first_b or self.config.activation != "identity":
            changed = torch.matmul(self.A, self.act(F.linear(X, self.B)))
        else:
            changed = F.linear(torch.matmul(self.A, X), self.B)
        return changed.reshape(*x.shape[:-1], a1 * b1)

    def describe(self) -> str:
        """For example `24x32 kron 32x24`."""
        (a1, a2), (b1, b2) = self.A.shape, self.B.shape
        more = [] if self.config.activation == "identity" else [self.config.activation]
        more += ["residual"] if self.residual_scale is not None else []
        return ", ".join([f"{a1}x{a2} kron {b1}x{b2}", *more])
