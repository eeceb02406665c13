"""One toy module type of each of the five classes, as a user would write them: nothing but a class in a file."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from madx.contract.module_type import (
    MODULE_TYPES,
    ChangeType,
    ComponentConfig,
    Delta,
    FusionType,
    MapType,
    SlotsType,
    WeightsType,
)


class ToyChange(ChangeType):
    """A gain on the output of every layer: value * g."""

    Config = ComponentConfig
    scope = "token"

    def __init__(self, config, site):
        super().__init__(config, site)
        self.gain = nn.Parameter(torch.full((site.width,), 0.01))

    @classmethod
    def acts_at(cls, config, site):
        return site.kind == "layer" and site.layer in config.layers(site.depth)

    def forward(self, view):
        return view.value * self.gain

    def describe(self):
        return f"gain of {len(self.gain)}"


class ToyMap(MapType):
    """A diagonal map of the embeddings: x * exp(a)."""

    Config = ComponentConfig

    def __init__(self, config, site):
        super().__init__(config, site)
        self.a = nn.Parameter(torch.full((site.width,), 0.1))

    @classmethod
    def acts_at(cls, config, site):
        return site.kind == "embeddings"

    def forward(self, x):
        return x * self.a.exp()

    def inverse(self, y):
        return y * (-self.a).exp()

    def describe(self):
        return "diagonal"


class ToySlots(SlotsType):
    """Two vectors before the tokens."""

    Config = ComponentConfig
    length = 2

    def __init__(self, config, site):
        super().__init__(config, site)
        self.vectors = nn.Parameter(torch.ones(2, site.width))

    @classmethod
    def acts_at(cls, config, site):
        return site.name == "slots"

    def forward(self, view):
        return self.vectors

    def describe(self):
        return "2 vectors"


class ToyWeights(WeightsType):
    """A dense delta of rank one on one weight matrix: u v^T."""

    Config = ComponentConfig

    def __init__(self, config, site):
        super().__init__(config, site)
        chosen = next(p for p in site.parameters if p.layer == 0 and len(p.shape) == 2)
        self.parameter = chosen.name
        self.u = nn.Parameter(torch.full((chosen.shape[0],), 0.05))
        self.v = nn.Parameter(torch.full((chosen.shape[1],), 0.05))

    def deltas(self):
        return [Delta(self.parameter, torch.outer(self.u, self.v))]

    def describe(self):
        return "rank one"


class ToyFusion(FusionType):
    """A learned mean of the children's changes."""

    Config = ComponentConfig
    scope = "token"

    def __init__(self, config, site):
        super().__init__(config, site)
        self.weights = nn.Parameter(torch.tensor([0.3, 0.7]))

    @classmethod
    def acts_at(cls, config, site):
        return site.kind == "sublayer" and site.place == "ffn" and site.layer in config.layers(site.depth)

    def forward(self, view, changes):
        return sum(w * c for w, c in zip(self.weights, changes))

    def describe(self):
        return "learned mean"


TOYS = {
    "toy_change": ToyChange,
    "toy_map": ToyMap,
    "toy_slots": ToySlots,
    "toy_weights": ToyWeights,
    "toy_fusion": ToyFusion,
}


@contextmanager
def registered(**types: type) -> Iterator[None]:
    """Module types under their names, for the length of a `with` block; without types, the toys."""
    added = types or TOYS
    for name, each in added.items():
        MODULE_TYPES.register(name)(each)
    try:
        yield
    finally:
        for name in added:
            del MODULE_TYPES._classes[name]
