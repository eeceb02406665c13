"""Makes the hooks of an engine at the sites where attached modules have units, and removes them."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from madx.base import Base
from madx.base.families import SublayerPlace, local_layers
from madx.contract.sites import Site
from madx.engine.call import CurrentCall
from madx.engine.hooks import (
    AtEmbeddings,
    AtEncoder,
    AtLayer,
    AtMaps,
    AtNorm,
    AtOutput,
    BeforeDecoder,
    Hook,
    Keep,
    LastLayer,
)
from madx.errors import MadxError
from madx.module import Module

#: Makes the call of a forward pass that bypasses the engine, from the pass's keyword arguments.
Enter = Callable[[dict[str, Any]], AbstractContextManager[None]]


def needs_of(modules: Iterable[Module], *, head: bool = False) -> dict[str, set[str]]:
    """Return for each site where some module has a unit the names of the tensors that its units read.

    A head needs no site, but the hooks that save time and memory; head: the base's masked-LM head is trained.
    """
    needs: dict[str, set[str]] = {"head": set()} if head else {}
    for module in modules:
        for site, units in module.units.items():
            needs.setdefault(site, set()).update(name for unit in units.values() for name in unit.reads)
            if any(not getattr(unit, "final_norm", True) for unit in units.values()):
                needs[site].update(("output", "residual"))
        needs.setdefault("head", set())
    return needs


class Hooks:
    """All hooks of one engine in its base: they exist for the sites that attached modules need, and for no others."""

    def __init__(self, base: Base, current: CurrentCall):
        self.base, self.current = base, current
        self._hooked: list[nn.Module] = []

    def reach(self, needs: dict[str, set[str]], *, enter: Enter, more: Sequence[tuple[nn.Module, Hook]]) -> None:
        """Hook the sites of `needs` and no others; without needs the base runs its own code.

        Raises MadxError for a place that the base's code does not have.

        Args:
            needs: site -> names of the tensors that units read there.
            enter: makes the call of a forward pass that bypasses the engine.
            more: further hooks with their modules; they are put outside of the others.
        """
        self.remove()
        if not needs:
            return
        try:
            self._reach(needs, enter)
            for module, hook in more:
                self._put(module, hook)
        except BaseException as error:
            self.remove()
            if not isinstance(error, AttributeError):
                raise
            raise MadxError(
                f"The base {self.base.name} is described as {self.base.family.title}, but its code has no such place: "
                f"{error}. This version of transformers moved it; correct the entry in madx/base/families.py."
            ) from error

    def _reach(self, needs: dict[str, set[str]], enter: Enter) -> None:
        family, encoder, sites = self.base.family, self.base.encoder, self.base.sites
        layers: Any = encoder.get_submodule(family.layers)
        kinds = {sites[name].kind for name in needs if name in sites}
        if kinds & {"embeddings", "slots"}:
            self._put(encoder.get_submodule(family.embeddings), AtEmbeddings(self.current))
        self._reach_maps(needs, layers)
        for name, reads in needs.items():
            if name in sites and sites[name].kind == "sublayer":
                self._reach_sublayer(sites[name], reads, layers[sites[name].layer])
        self._reach_layers(needs, layers, slots=any(n.endswith(".slots") for n in needs))
        self._put(encoder, AtEncoder(self.current, enter, states="states" in needs.get("encoder", ())))
        if family.attention.norm is not None:
            self._put(layers[-1].get_submodule(family.attention.norm), LastLayer(self.current))
        if "embeddings" in kinds and family.tied:
            self._put(self._last_before_decoder(), BeforeDecoder(self.current))

    def _reach_maps(self, needs: dict[str, set[str]], layers: nn.ModuleList) -> None:
        family = self.base.family
        for number, layer in enumerate(layers):
            slots = f"layer.{number}.slots"
            found: dict[str, list[tuple[int, str, str | None]]] = {}
            for key, place in family.maps.items():
                which = key.rpartition(".")[2] if key in ("attention.key", "attention.value") else None
                found.setdefault(place.path, []).append((place.share, f"layer.{number}.{key}", which))
            for path, shares in found.items():
                named = [(site, which) for _, site, which in sorted(shares)]
                if any(site in needs for site, _ in named) or slots in needs and any(which for _, which in named):
                    linear: Any = layer.get_submodule(path)
                    self._put(linear, AtMaps(self.current, linear, named, slots=slots))
            if slots in needs and family.rows_share:
                attention = layer.get_submodule(family.maps["attention.key"].path.rpartition(".")[0])
                self._put(attention, Keep(self.current, slots, "attention_input", output=False))

    def _reach_sublayer(self, site: Site, reads: set[str], layer: nn.Module) -> None:
        place: SublayerPlace = getattr(self.base.family, str(site.place))
        wanted = sorted(reads | ({"residual"} if place.norm is None else set()))
        for name in wanted:
            if name == "residual" or name == "input" and place.input is None:
                self._put(layer.get_submodule(place.residual), Keep(self.current, site.name, name, output=False))
            elif name == "input":
                self._put(layer.get_submodule(str(place.input)), Keep(self.current, site.name, name, output=True))
            elif name == "output" and place.norm is not None:
                self._put(layer.get_submodule(place.output), Keep(self.current, site.name, name, output=True))
        if place.norm is not None:
            self._put(layer.get_submodule(place.norm), AtNorm(self.current, site.name, wanted))
        else:
            self._put(layer.get_submodule(place.output), AtOutput(self.current, site.name, wanted))

    def _reach_layers(self, needs: dict[str, set[str]], layers: nn.ModuleList, *, slots: bool) -> None:
        local = local_layers(self.base.config)
        for number, layer in enumerate(layers):
            site = f"layer.{number}"
            keep = [name for name, reads in needs.items() if name.startswith(site + ".") and "layer_input" in reads]
            if site in needs or keep or slots:
                reads = sorted(needs.get(site, ()))
                self._put(layer, AtLayer(self.current, site, number, reads, local=number in local, keep=keep))

    def _last_before_decoder(self) -> nn.Module:
        for path in self.base.family.before_decoder:
            try:
                return self.base.model.get_submodule(path)
            except AttributeError:
                continue
        if self.base.has_mlm_head:
            raise AttributeError(" or ".join(self.base.family.before_decoder))
        return nn.Identity()

    def _put(self, module: nn.Module, hook: Hook) -> None:
        hook.original = module.forward
        module.forward = hook
        self._hooked.append(module)

    def remove(self) -> None:
        """Give the base its own code back everywhere."""
        for module in self._hooked:
            module.__dict__.pop("forward", None)
        self._hooked = []
