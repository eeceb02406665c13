"""Toy module types for tests of training: a shift with every training hook, and a weight delta of rank one."""

import tiny
import tiny_runs as runs
import torch
import toys
from torch import nn

from madx.contract.module_type import ChangeType, ComponentConfig, Delta, WeightsType
from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.module import new_module

UP, WORDS = "encoder.layer.1.intermediate.dense.weight", "embeddings.word_embeddings.weight"


class ShiftConfig(ComponentConfig):
    """price: of the penalty; drop: share of the numbers that a step leaves out."""

    price: float = 0.0
    drop: float = 0.0


class Shift(ChangeType):
    """Adds one vector to all tokens at the feed-forward block of a layer; it notes how it was called."""

    name, Config, scope = "shift", ShiftConfig, "token"

    def __init__(self, config, site):
        super().__init__(config, site)
        self.shift = nn.Parameter(torch.zeros(site.width))
        self.register_buffer("mask", torch.ones(site.width))
        self.calls = []

    @classmethod
    def acts_at(cls, config, site):
        return site.kind == "sublayer" and site.place == "ffn" and site.layer in config.layers(site.depth)

    def forward(self, view):
        shift = self.shift * self.mask if self.training else self.shift
        return shift.expand_as(view.sum)

    def describe(self):
        return "a shift"

    def begin(self, step, seed):
        self.calls.append(("begin", step, seed))
        self.mask.copy_(draw(self.mask, self.config.drop, seed, step))

    def penalty(self):
        return self.config.price * (self.shift - 1).square().sum() if self.config.price else None

    def prepare(self, gradients):
        self.calls.append(("prepare", {name: g.clone() for name, g in gradients.items()}))
        self.shift.copy_(-gradients["shift"])

    def settle(self):
        self.calls.append(("settle", self.shift.detach().clone()))
        self.shift.mul_(2)


class OuterConfig(ComponentConfig):
    """parameters: names of weight matrices of the encoder; drop: share of the rows that a step leaves out."""

    parameters: tuple[str, ...] = (UP, WORDS)
    drop: float = 0.0


class Outer(WeightsType):
    """delta = scale * u v^T on each of some weight matrices."""

    name, Config = "outer", OuterConfig

    def __init__(self, config, site):
        super().__init__(config, site)
        shapes = {p.name: p.shape for p in site.parameters}
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.u = nn.ParameterList([torch.randn(shapes[n][0]) * 0.1 for n in config.parameters])
        self.v = nn.ParameterList([torch.randn(shapes[n][1]) * 0.1 for n in config.parameters])
        for k, u in enumerate(self.u):
            self.register_buffer(f"mask{k}", torch.ones_like(u.data))

    def begin(self, step, seed):
        for k in range(len(self.u)):
            mask = getattr(self, f"mask{k}")
            mask.copy_(draw(mask, self.config.drop, seed, step))

    def deltas(self):
        us = [u * getattr(self, f"mask{k}") if self.training else u for k, u in enumerate(self.u)]
        return [Delta(n, self.scale * torch.outer(u, v)) for n, u, v in zip(self.config.parameters, us, self.v)]

    def describe(self):
        return "rank one"


def draw(like, drop, seed, step):
    """Zeros and ones, a function of seed and step."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return (torch.rand(like.shape, generator=generator) >= drop).to(like.dtype)


def registered():
    """The toys are module types within the block."""
    return toys.registered(shift=Shift, outer=Outer)


def engine_with(components, *, under=None, seed=0):
    """An engine in which the task module `ner` has toy components; under: the weight delta or adapter of a language."""
    made = Engine(tiny.base())
    if under is not None:
        made.attach(under(made.base))
    torch.manual_seed(seed)
    labels = LabelSet.from_sentences(runs.sentences()).tags
    with registered():
        made.attach(new_module("ner", made.base, role="task", components=components, labels=labels))
    made.activate("ner" if under is None else "eng + ner")
    return made


def unit_of(made, component):
    """The first unit of a component of the module `ner`."""
    return next(units[component] for units in made.module("ner").units.values() if component in units)


def together(rank, count, port, out, components, options):
    """A run as process `rank` of `count`, whose caller forgot to seed."""
    runs.together(rank, count, port, out, [["ner", options | {"made": engine_with(components, seed=100 + rank)}]])
