"""(IA)^3: the module type `ia3`.

    NAME.ia3_l (width, 1)           factors of the output of a map
    NAME.ia3_l (1, input width)     factors of its input, for the maps under `feedforward_modules`

Both are places of madx's (IA)^3: the settings `maps` and `inputs`.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from madx.base import Base
from madx.errors import StoreError
from madx.interop.peft.methods.method import (
    Method,
    Place,
    Reading,
    Writing,
    by_module,
    paths_of,
    product,
    require_shapes,
    require_targets,
    units_of,
    without_pooler,
)
from madx.interop.peft.schema import TargetSchema, checked
from madx.interop.peft.targets import matching, written_targets
from madx.module import Module
from madx.module.presets import make_components

FACTORS = "ia3_l"


class Ia3Schema(TargetSchema):
    """Their config of (IA)^3."""

    feedforward_modules: list[str] | str | None = None
    init_ia3_weights: bool = True


class Ia3Method(Method):
    """Factors of outputs and inputs of linear maps."""

    component: ClassVar = "ia3"
    tails: ClassVar = (FACTORS,)
    defaults: ClassVar = {
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "feedforward_modules": [],
        "init_ia3_weights": True,
        "target_modules": None,
    }

    def read(self, config: dict[str, Any], tensors: dict[str, Tensor], place: Place) -> Reading:
        """The component `ia3`."""
        theirs, reading = checked(Ia3Schema, config), Reading()
        groups = without_pooler(by_module(tensors, self.tails), reading)
        sites = require_targets(groups, theirs, place)
        if not sites:
            raise StoreError(f"{place.file} has no factor of a linear map that madx reads: it changes nothing.")
        inner = _inner(theirs, sites, place)
        for path, name in sites.items():
            site = place.base.sites[name]
            shape = (1, int(site.input_width or 0)) if path in inner else (site.width, 1)
            require_shapes({FACTORS: shape}, groups[path], path, place)
        inputs = {str(place.base.sites[sites[path]].map) for path in inner}
        outputs = {str(place.base.sites[sites[path]].map) for path in set(sites) - inner}
        if both := sorted(inputs & outputs):
            raise StoreError(
                f"{place.file} scales the input of the map {both[0]!r} in some layers and its output in others; "
                "a component of madx does one of them in all of its layers. Nothing was loaded."
            )
        maps, left_out, more = product(list(sites.values()), place.base)
        settings = {
            "maps": [m for m in maps if m in outputs],
            "inputs": [m for m in maps if m in inputs],
            "leave_out": left_out,
        }
        reading.components = make_components({"ia3": settings})
        for path, name in sites.items():
            reading.tensors[f"{name}.ia3.factors"] = groups[path][FACTORS].reshape(-1)
            reading.mapped.append((f"{path}.{FACTORS}", f"{name}.ia3.factors"))
        for name in more:
            here = place.base.sites[name]
            size = int(here.input_width or 0) if here.map in inputs else here.width
            reading.tensors[f"{name}.ia3.factors"] = torch.ones(size)
            reading.ignored.append((f"{name} (not in the files)", "factors of one stand there, which change nothing"))
        return reading

    def write(self, module: Module, base: Base) -> Writing:
        """Their config and tensors."""
        ours: Any = module.info.components["ia3"]
        paths, tensors, inner = paths_of(module, "ia3", base), {}, []
        for site, unit in units_of(module, "ia3").items():
            within = base.sites[site].map in ours.inputs
            inner += [paths[site]] if within else []
            tensors[f"{paths[site]}.{FACTORS}"] = unit.factors.reshape((1, -1) if within else (-1, 1))
        config = written_targets(base, list(paths.values()))
        if config.pop("layers_to_transform") is not None:  # which their (IA)^3 does not have
            config["target_modules"] = sorted(paths.values())
        if inner:
            config |= {"feedforward_modules": sorted(inner), "target_modules": sorted(paths.values())}
        return Writing(config, tensors)


def _inner(theirs: Ia3Schema, sites: dict[str, str], place: Place) -> set[str]:
    """The modules whose input is scaled."""
    if not theirs.feedforward_modules:
        return set()
    named = TargetSchema(peft_type="", target_modules=theirs.feedforward_modules)
    return matching(named, sites, place.prefix)
