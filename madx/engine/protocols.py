"""Protocols: the engine, for files that it imports and that therefore cannot import it, and the store of modules."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from madx.base import Base
from madx.composition import Composition, Item, Stack
from madx.engine.plan import Plan, Watch
from madx.engine.routing import Branches, RoutePlan
from madx.engine.weight_deltas import WeightDeltas
from madx.errors import MadxError
from madx.module import Module


class ModuleStore(Protocol):
    """Finds and puts modules for `Engine.load` and `Engine.save`; `madx.Store` is one."""

    def load(self, name: str, base: Base, *, allow_base_mismatch: bool = False) -> Module:
        """Load the module of that name."""

    def save(self, module: Module, *, overwrite: bool = False) -> Path:
        """Store a module under its name; returns its folder."""

    def put_head(self, base: Base) -> str | None:
        """Put the masked-LM head that was trained for a base on it; returns its name, None where there is none."""


def require_store(store: ModuleStore | None, call: str) -> ModuleStore:
    """Return the store. Raises MadxError if there is none. call: the user's call up to its closing bracket."""
    if store is None or not hasattr(store, "load"):
        fault = "this engine was made without one" if store is None else f"{store!r} is none"
        raise MadxError(
            f"engine.{call}) needs a store, and {fault}: write Engine(base, store=Store('modules')), or "
            f"engine.{call}, store=Store('modules'))."
        )
    return store


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
