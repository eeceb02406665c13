"""Sites and views made by hand on random tensors, so that module types are tested without a base, in milliseconds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madx.contract.module_type import FusionType, MapType, ModuleType, SlotsType, WeightsType
from madx.contract.rules import whole
from madx.contract.sites import MAPS, BaseParameter, Site
from madx.contract.views import LayerOutput, Projection, Slots, Sublayer, Tokens
from madx.module.presets import make_components
from madx.module_types import MODULE_TYPES

WIDTH, INNER, DEPTH, POSITIONS = 12, 20, 3, 40


def sites(
    *, width: int = WIDTH, inner: int = INNER, depth: int = DEPTH, positions: int = POSITIONS, glu: bool = True
) -> list[Site]:
    """All sites of a base of that shape, of every kind; its parameters are a few for each layer."""
    found = [
        Site("embeddings", "embeddings", width, depth),
        Site("slots", "slots", width, depth, positions=positions),
    ]
    for layer in range(depth):
        found.append(Site(f"layer.{layer}.slots", "slots", width, depth, layer, positions=positions))
        for place, maps in MAPS.items():
            for name in maps:
                widths = {"up": (width, inner), "down": (inner, width)}.get(name, (width, width))
                found.append(
                    Site(
                        f"layer.{layer}.{place}.{name}",
                        "linear",
                        widths[1],
                        depth,
                        layer,
                        place,
                        map=name,
                        input_width=widths[0],
                    )
                )
            found.append(Site(f"layer.{layer}.{place}", "sublayer", width, depth, layer, place))
        found.append(Site(f"layer.{layer}", "layer", width, depth, layer))
    found.append(Site("encoder", "encoder", width, depth))
    up = inner * (2 if glu else 1)
    parameters = tuple(
        BaseParameter(f"layer.{layer}.{name}", shape, "layers", layer, kind, place)
        for layer in range(depth)
        for name, shape, kind, place in (
            ("dense.bias", (up,), "bias", "ffn.up"),
            ("dense.weight", (up, width), "weight", "ffn.up"),
            ("down.weight", (width, inner), "weight", "ffn.down"),
            ("norm.weight", (width,), "norm", None),
        )
    )
    return [*found, Site("weights", "weights", width, depth, parameters=parameters)]


SITES = sites()
SITE = {site.name: site for site in SITES}


@dataclass(frozen=True)
class Given:
    """Random tensors of a base at a site.

    tensors: by name, `(rows, tokens, width)`; fixed: the base's own layer there; mask: `(rows, tokens)`.
    """

    site: Site
    tensors: dict[str, Tensor]
    fixed: nn.Module | None = None
    mask: Tensor | None = None

    def changed(self, change: Callable[[Tensor], Tensor], *, mask: Tensor | None = None) -> "Given":
        """The same with every tensor changed, and another mask if one is given."""
        tensors = {name: change(t) for name, t in self.tensors.items()}
        return replace(self, tensors=tensors, mask=self.mask if mask is None else mask)

    def view(self, reads: frozenset[str] | None = None):
        """What a unit gets that lists these `reads` (None: all that there is)."""
        t, tokens = self.tensors, Tokens(self.mask)
        kept = {name: x for name, x in self._readable().items() if reads is None or name in reads}
        if self.site.kind == "linear":
            return Projection(self.fixed(t["input"]), kept, tokens, self.fixed.weight, self.fixed.bias)
        if self.site.kind == "sublayer":
            return Sublayer(t["output"] + t["residual"], self.fixed, kept, tokens)
        if self.site.kind == "slots":
            return Slots(t["like"], t["like"], tokens)
        return t["value"] if self.site.kind == "embeddings" else LayerOutput(t["value"], kept, tokens)

    def _readable(self) -> dict:
        if self.site.kind == "encoder":
            return {"states": tuple(self.tensors[name] for name in ("embedded", "first", "second", "value"))}
        return self.tensors


NAMES = {
    "embeddings": ("value",),
    "slots": ("like",),
    "linear": ("input",),
    "sublayer": ("output", "residual", "input", "layer_input"),
    "layer": ("value", "layer_input"),
    "encoder": ("value", "embedded", "first", "second"),
}


def given(site: Site, *, rows: int = 2, tokens: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Given:
    """Random tensors at a site of a post-norm base."""
    torch.manual_seed(seed)
    width = site.input_width or site.width
    tensors = {name: torch.randn(rows, tokens, width, dtype=dtype) for name in NAMES[site.kind]}
    fixed = None
    if site.kind == "sublayer":
        fixed = nn.LayerNorm(width, dtype=dtype)
        nn.init.normal_(fixed.weight), nn.init.normal_(fixed.bias)
    elif site.kind == "linear":
        fixed = nn.Linear(width, site.width, dtype=dtype)
        nn.init.normal_(fixed.weight, std=0.5), nn.init.normal_(fixed.bias)
    return Given(site, tensors, None if fixed is None else fixed.requires_grad_(False))


def wake(module: nn.Module, *, seed: int = 0, std: float = 0.4) -> nn.Module:
    """Random weights large enough that every tensor changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(module.named_parameters()):
            p.copy_(torch.randn(p.shape, generator=generator) * std)
    return module


def units(component: str, settings: dict | None = None, *, awake: bool = True, at: list[Site] | None = None) -> list:
    """All units of a component in float64, in evaluation, with the parameters that they share."""
    kind = MODULE_TYPES.get(component)
    config = make_components({component: settings or {}})[component]
    acting = [site for site in (SITES if at is None else at) if kind.acts_at(config, site)]
    common = kind.shared(config, acting) if acting else None
    made = [kind(config, site) for site in acting]
    for number, unit in enumerate(made):
        unit.take_common(common)
        if unit.site.kind == "linear":
            unit.start(partial(torch.randn, unit.site.width, unit.site.input_width))
        unit.double().eval()
        if awake:
            wake(unit, seed=number)
    if common is not None:
        common.double().eval()
        if awake:
            wake(common)
    return made


def unit_at(component: str, site: str, settings: dict | None = None, *, awake: bool = True) -> ModuleType:
    """The unit of a component at a site."""
    return next(unit for unit in units(component, settings, awake=awake) if unit.site.name == site)


def parameters(unit: ModuleType) -> list[nn.Parameter]:
    """Those of the unit and those that it shares."""
    return [*unit.parameters(), *(unit.common.parameters() if unit.common is not None else ())]


def prepare(made: list[ModuleType], gradients: Callable[[], Tensor] | None = None) -> None:
    """Prepare units as training does; gradients: gives the loss of a batch, without it all gradients are zero."""
    left = [unit for unit in made if type(unit).prepare is not ModuleType.prepare]
    while left:
        if gradients is not None:
            gradients().backward()
        with torch.no_grad():
            left = [
                unit
                for unit in left
                if unit.prepare(
                    {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in unit.named_parameters()}
                )
            ]
        for unit in made:
            unit.zero_grad()


def run(unit: ModuleType, at: Given) -> Tensor:
    """All that a unit gives, as one tensor. It sees the tensors that it lists in `reads` and no others."""
    if isinstance(unit, WeightsType):
        raise TypeError("a unit of weights does not run")
    result = call(unit, at.view(unit.reads) if not isinstance(unit, MapType | SlotsType) else at.view())
    return torch.cat(result, dim=-1) if isinstance(result, tuple) else result


def call(unit: ModuleType, view):
    """All that a unit gives for a view; a fusion unit joins three functions of the value that it changes."""
    if isinstance(unit, FusionType):
        return unit(view, [whole(view).tanh(), whole(view).sin(), 0.5 * whole(view).flip(-1)])
    return unit(view)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LN(x) from the raw weights."""
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
