"""AdapterFusion: attention over the changes that several frozen modules would make (Pfeiffer et al. 2021,
arXiv:2005.00247).

In `fuse(a, b; f)` the module f has a unit at each place where a and b act. At one token, with f_i the change that child
i would make (of a bottleneck: f(z), without its residual), `(width,)` each:

    q = Q z + b_Q                z = LN(h + x) at a sublayer, with LN the base's own
    p = softmax_i(q . K f_i)     one weight for each child; not scaled by the width
    h <- h + V sum_i p_i f_i     V starts near I: ones on the diagonal, 1e-6 elsewhere

Q, K and V are `(width, width)`. A bias of K would add the same number to all scores, so the softmax would not depend on
it, and it is left out. Since q . K f = K^T q . f, and V is linear, each matrix is applied once a token, however many
children there are. The loss gets `regularization` * ||I - V||^2 (sum over the entries), 0.01 in the paper's code.

A fresh unit gives nearly the mean of the changes: its weights begin nearly equal.

With `temperature` T_0 above 1 the scores are divided by T = max(1, T_0 (1 - n / 1000)) in step n, as in AdapterHub's
`adapters`. `settle` divides Q (without it K) by the last T, so that a stored unit has T = 1.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ComponentConfig, FusionType
from madx.contract.sites import MAP_NAMES, MAPS, Site
from madx.contract.views import Sublayer, View

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "fusion": ({}, "AdapterFusion with query, key and value (Pfeiffer et al. 2021); joins modules in fuse(a, b; f)"),
    "fusion_static": ({"value": False}, "AdapterFusion without a value matrix: the weighted mean of the changes"),
}

#: the smallest number beside the diagonal of a fresh V
NOISE = 1e-6
#: steps in which the temperature would fall from T_0 to 0; it stays at 1 once it is there
COOLING = 1000


class FusionConfig(ComponentConfig):
    """Settings of a fusion component."""

    places: tuple[Literal["attention", "ffn", "query", "key", "value", "output", "up", "down", "layer"], ...] = Field(
        default=("ffn",),
        min_length=1,
        strict=False,
        description="Sublayers, linear maps or outputs of each layer where changes are joined. In training, unless it "
        "is given: where the joined modules act.",
    )
    query: bool = Field(default=True, description="A matrix Q for the query; false: the query is z itself.")
    key: bool = Field(default=True, description="A matrix K for the keys; false: the keys are the changes themselves.")
    value: bool = Field(default=True, description="A matrix V for the values; false: the changes' weighted mean.")
    reads: Literal["sum_norm", "output", "input"] = Field(
        default="sum_norm",
        description="z at a sublayer: LN(h + x), the sublayer's output h, or its input. Elsewhere z is the place's "
        "value.",
    )
    regularization: float = Field(
        default=0.01, ge=0.0, allow_inf_nan=False, description="Factor of ||I - V||^2 in the loss; 0: none."
    )
    temperature: float = Field(
        default=1.0,
        ge=1.0,
        allow_inf_nan=False,
        description="Divisor of the scores in the first step of training, which falls to 1; AdapterHub's is 50.",
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on the scores in training.")

    @model_validator(mode="after")
    def _something_is_learnt(self) -> "FusionConfig":
        if not (self.query or self.key or self.value):
            raise ValueError("query, key and value are all false, so nothing is learnt: set one to true")
        if self.temperature > 1 and not (self.query or self.key):
            raise ValueError("a temperature above 1 needs query or key: true, which take it up when training ends")
        return self


@MODULE_TYPES.register("fusion")
class Fusion(FusionType):
    """Attention over the children's changes at one place; see the file's docstring for the formulas.

    Attributes:
        query: Q and b_Q, or None.
        key, value: K and V, `(width, width)` in `weight`, or None.
        heat: T, a scalar; None without a temperature.
    """

    Config = FusionConfig
    config: FusionConfig
    scope = "token"

    def __init__(self, config: FusionConfig, site: Site):
        super().__init__(config, site)
        self.query = nn.Linear(site.width, site.width) if config.query else None
        self.key = nn.Linear(site.width, site.width, bias=False) if config.key else None
        self.value = nn.Linear(site.width, site.width, bias=False) if config.value else None
        for linear in (self.query, self.key):
            if linear is not None:
                nn.init.normal_(linear.weight, std=0.02)
        if self.query is not None:
            nn.init.zeros_(self.query.bias)
        if self.value is not None:
            with torch.no_grad():
                self.value.weight.fill_(NOISE).fill_diagonal_(1.0)
        self.heat: Tensor | None
        self.register_buffer("heat", torch.ones(()) if config.temperature > 1 else None)
        self.reads = frozenset({config.reads} - {"sum_norm"} if site.kind == "sublayer" else ())

    @classmethod
    def acts_at(cls, config: FusionConfig, site: Site) -> bool:
        return _place(site) in config.places and site.layer in config.layers(site.depth)

    @classmethod
    def fitted(cls, config: FusionConfig, sites: Sequence[Site]) -> FusionConfig:
        """Place units where the joined modules act, for those of `places` and `leave_out` that are not given."""
        here = [site for site in sites if _place(site) is not None]
        if not here:
            return config
        given = config.model_fields_set
        layers = {site.layer for site in here}
        found: dict[str, Any] = {
            "places": tuple(place for place in (*MAPS, *MAP_NAMES, "layer") if place in map(_place, here)),
            "leave_out": tuple(layer for layer in range(here[0].depth) if layer not in layers),
        }
        return config.model_copy(update={key: value for key, value in found.items() if key not in given})

    def child_weights(self, view: View, changes: Sequence[Tensor]) -> Tensor:
        """p, the weights of the children, `(batch, positions, children)`; they sum to one."""
        q = self._z(view)
        if self.query is not None:
            q = self.query(q)
        if self.key is not None:
            q = F.linear(q, self.key.weight.t())
        scores = torch.stack([(q * change).sum(-1) for change in changes], dim=-1)
        if self.training and self.config.dropout:
            scores = F.dropout(scores, self.config.dropout)
        return torch.softmax(scores if self.heat is None else scores / self.heat, dim=-1)

    def forward(self, view: View, changes: Sequence[Tensor]) -> Tensor:
        """The change of the place's value, `(batch, positions, width)`."""
        p = self.child_weights(view, changes).to(changes[0].dtype).unbind(-1)
        joined = p[0].unsqueeze(-1) * changes[0]
        for weight, change in zip(p[1:], changes[1:]):
            joined = torch.addcmul(joined, weight.unsqueeze(-1), change)
        return joined if self.value is None else self.value(joined)

    def _z(self, view: View) -> Tensor:
        if not isinstance(view, Sublayer) or self.config.reads == "output":
            return view.value
        return view.read("input") if self.config.reads == "input" else view.norm(view.sum)

    def begin(self, step: int, seed: int) -> None:
        if self.heat is not None:
            self.heat.fill_(max(1.0, self.config.temperature * (1 - step / COOLING)))

    def penalty(self) -> Tensor | None:
        if self.value is None or not self.config.regularization:
            return None
        V = self.value.weight
        return self.config.regularization * (torch.eye(len(V), dtype=V.dtype, device=V.device) - V).square().sum()

    def settle(self) -> None:
        if self.heat is None:
            return
        for tensor in self.query.parameters() if self.query is not None else [self.key.weight]:  # type: ignore[union-attr]
            tensor.div_(self.heat)
        self.heat.fill_(1.0)

    def describe(self) -> str:
        """For example `query, key, value, 0.01 |I - V|^2`."""
        config = self.config
        parts = [name for name in ("query", "key", "value") if getattr(config, name)]
        if config.reads != "sum_norm":
            parts.append(f"reads {config.reads}")
        if config.value and config.regularization:
            parts.append(f"{config.regularization:g} |I - V|^2")
        return ", ".join(parts)


def _place(site: Site) -> str | None:
    """The name of a site among `places`; None for a site where no changes are joined."""
    if site.kind == "sublayer":
        return site.place
    return site.map if site.kind == "linear" else "layer" if site.kind == "layer" else None
