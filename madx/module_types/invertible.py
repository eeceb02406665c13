"""Invertible component: a map of the embeddings with an exact inverse, which is applied before the masked-LM decoder.

A module maps the embeddings x of its language to A(x) before the first layer. The decoder shares its weights with the
embeddings, so the state that it reads is mapped back by A^-1 (MAD-X, Pfeiffer et al. 2020, arXiv:2005.00052). With
x = [x1, x2] the two halves of a token's vector, `(..., width)`:

    nice   y1 = x1 + F(x2);                     y2 = x2 + G(y1)                     (Dinh et al. 2015, arXiv:1410.8516)
    glow   y1 = x1 * exp(a(S2(x2))) + T2(x2);   y2 = x2 * exp(a(S1(y1))) + T1(y1)   (affine: Kingma & Dhariwal 2018)

F, G, S, T are Linear(half -> half / reduction_factor), activation, Linear back. a(s) = 1.2 * atan(s) keeps the scales
between exp(-1.9) and exp(1.9), so that the inverse cannot overflow.
"""

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import MODULE_TYPES, ComponentConfig, MapType
from madx.contract.sites import Site


class InvertibleConfig(ComponentConfig):
    """Settings of an invertible component; the defaults are MAD-X's."""

    kind: Literal["nice", "glow"] = Field(default="nice", description="Additive (nice) or affine (glow) coupling.")
    reduction_factor: float = Field(default=2.0, gt=0, description="half width / inner width of the coupling networks.")
    activation: str = Field(default="relu", description="Nonlinearity of the coupling networks.")

    _activation = field_validator("activation")(check_activation)


class Coupling(nn.Module):
    """Linear, activation, Linear: `(..., inputs)` -> `(..., outputs)`. Its output starts near zero, so that the map it
    belongs to starts near the identity."""

    def __init__(self, inputs: int, outputs: int, *, inner: int, activation: str):
        super().__init__()
        self.down, self.up = nn.Linear(inputs, inner), nn.Linear(inner, outputs)
        self.act = ACTIVATIONS[activation]
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.up(self.act(self.down(x)))
        return result


@MODULE_TYPES.register("invertible")
class Invertible(MapType):
    """A map of `(..., width)` with its exact inverse; see the file's docstring for the formulas."""

    Config = InvertibleConfig
    config: InvertibleConfig

    def __init__(self, config: InvertibleConfig, site: Site):
        super().__init__(config, site)
        first = site.width // 2
        self.halves = [first, site.width - first]
        inner = max(1, int(first // config.reduction_factor))

        def net(inputs: int, outputs: int) -> Coupling:
            return Coupling(inputs, outputs, inner=inner, activation=config.activation)

        self.F, self.G = net(*self.halves[::-1]), net(*self.halves)
        if config.kind == "glow":
            self.scale_F, self.scale_G = net(*self.halves[::-1]), net(*self.halves)

    @classmethod
    def acts_at(cls, config: InvertibleConfig, site: Site) -> bool:
        return site.kind == "embeddings"

    def forward(self, x: Tensor) -> Tensor:
        """A(x), `(..., width)`."""
        x1, x2 = torch.split(x, self.halves, dim=-1)
        y1 = self._couple(x1, x2, "F")
        return torch.cat([y1, self._couple(x2, y1, "G")], dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        """A^-1(y), `(..., width)`."""
        y1, y2 = torch.split(y, self.halves, dim=-1)
        x2 = self._uncouple(y2, y1, "G")
        return torch.cat([self._uncouple(y1, x2, "F"), x2], dim=-1)

    def _couple(self, x: Tensor, other: Tensor, name: str) -> Tensor:
        """x * exp(a(S(other))) + T(other), or x + F(other) without a scale."""
        log_scale, shift = self._log_scale(name, other), self._net(name, other)
        return x + shift if log_scale is None else x * log_scale.exp() + shift

    def _uncouple(self, y: Tensor, other: Tensor, name: str) -> Tensor:
        """The inverse of `_couple` for the same other half."""
        log_scale = self._log_scale(name, other)
        rest = y - self._net(name, other)
        return rest if log_scale is None else rest * (-log_scale).exp()

    def _log_scale(self, name: str, x: Tensor) -> Tensor | None:
        """a(S(x)), the logarithm of the scale; None for `nice`."""
        return 1.2 * torch.atan(self._net(f"scale_{name}", x)) if self.config.kind == "glow" else None

    def _net(self, name: str, x: Tensor) -> Tensor:
        net: Coupling = getattr(self, name)
        result: Tensor = net(x)
        return result

    def describe(self) -> str:
        """For example `nice, halves 32+32`."""
        return f"{self.config.kind}, halves {self.halves[0]}+{self.halves[1]}"
