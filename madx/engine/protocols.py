"""A protocol for the engine, used by files that the engine imports and that therefore cannot import it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from madx.base import Base
from madx.composition import Composition, Item, Stack
from madx.engine.plan import Plan, Watch
from madx.engine.routing import Branches, RoutePlan
from madx.engine.weight_deltas import WeightDeltas
from madx.module import Module


class RunningEngine(Protocol):
    """The members of `madx.Engine` that explanations, merges and the activation cache use."""

    @property
    def base(self) -> Base:
        """The base."""

    @property
    def deltas(self) -> WeightDeltas:
        """The weight deltas on the base."""

    @property
    def modules(self) -> Mapping[str, Module]:
        """The attached modules by name."""

    @property
    def composition(self) -> Composition:
        """The active composition."""

    @property
    def plan(self) -> Plan:
        """The plan of the active composition."""

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, branches: Branches | None = None
    ) -> Tensor:
        """Compute the last layer's output."""

    def activate(self, composition: Composition | Item | None) -> Composition:
        """Make a composition act."""

    def compile(self, composition: Composition, watch: Watch | None = None) -> Plan | RoutePlan:
        """Compile a composition."""

    def under(self, plan: Plan | RoutePlan) -> AbstractContextManager[Any]:
        """Run under another plan."""

    def with_weights_of(self, stack: Stack) -> AbstractContextManager[Any]:
        """Have the weight deltas of a stack on the base."""

    def detach(self, name: str) -> nn.Module:
        """Forget a module."""

    def use_cache(self, cache: Any) -> None:
        """Skip layers whose output is cached."""
