"""The active composition of each thread, its compiled plan, and its weight deltas on the base.

`activate` holds for the thread (more exactly, the context) that calls it, and for threads that never called it; `using`
holds for its `with` block. Plans are the same for all threads, and so are the base's parameters: where modules with
weight deltas are attached, passes through the base take turns, and each first adds the deltas of its own composition.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock

from madx.base import Base
from madx.composition import Composition, Item, Route, Stack, as_composition, require_stack
from madx.contract.module_type import WeightsType
from madx.engine.plan import Compiler, Plan, Watch, require_reached
from madx.engine.routing import RoutePlan
from madx.engine.ties import Terms
from madx.engine.weight_deltas import WeightDeltas
from madx.errors import CompositionError, did_you_mean
from madx.module import Module
from madx.module.order import require_task_last

log = logging.getLogger("madx")


class ActiveComposition:
    """Compiles compositions and keeps which one is active.

    Args:
        base: the base.
        modules: the attached modules by name, kept by the engine.
        reached: gives the sites that are hooked.
    """

    def __init__(self, base: Base, modules: Mapping[str, Module], reached: Callable[[], Mapping[str, object]]):
        self.base, self.modules, self.reached = base, modules, reached
        self.deltas = WeightDeltas(base)
        self.lock = RLock()
        self._terms, self._on = Terms(), Stack()
        self._plans: dict[Composition, Plan | RoutePlan] = {}
        self._default: Composition = Stack()
        #: The composition of this context and, inside `under`, a plan that replaces its own.
        self._here: ContextVar[tuple[Composition, Plan | RoutePlan | None] | None] = ContextVar("active", default=None)
        self._trained: WeightsType | None = None  # a weight delta in training: it is added after all others

    @property
    def composition(self) -> Composition:
        """The composition that is active in this context."""
        here = self._here.get()
        return self._default if here is None else here[0]

    def plan(self) -> Plan | RoutePlan:
        """Return the plan of the next forward pass of this context."""
        here = self._here.get()
        if here is not None and here[1] is not None:
            return here[1]
        return self._compiled(self._default if here is None else here[0])

    def route(self) -> RoutePlan | None:
        """Return the plan if a route is active."""
        plan = self.plan()
        return plan if isinstance(plan, RoutePlan) else None

    def _compiled(self, composition: Composition) -> Plan | RoutePlan:
        plan = self._plans.get(composition)
        if plan is None:
            plan = self._plans[composition] = self.compile(composition)
            try:  # allowed here, where a composition is an experiment; jobs refuse it
                require_task_last(composition, {name: self.modules[name].info.role for name in composition.names()})
            except CompositionError as error:
                log.warning("%s", error)
        return plan

    def compile(self, composition: Composition, watch: Watch | None = None) -> Plan | RoutePlan:
        """Compile a composition; see `Engine.compile`."""
        for name in composition.names():
            self.module(name)
        if isinstance(composition, Route):
            route = RoutePlan(composition, self.base.sites, self.modules, watch)
            for each in route.plans:
                self._check(each)
            return route
        plan = Compiler(self.base.sites, self.modules, watch).stack(composition)
        self._check(plan)
        return plan

    def _check(self, plan: Plan) -> None:
        """Raise CompositionError for a plan that cannot act on this base."""
        require_reached(plan, self.reached())
        if plan.slots.length and getattr(self.base.config, "conv_kernel_size", 0):
            raise CompositionError(
                f"The base {self.base.label} mixes neighbouring positions by a convolution, so slots before the tokens "
                "would change the first tokens. Use module types without slots on this base."
            )

    def module(self, name: str) -> Module:
        """Return an attached module. Raises CompositionError, with the nearest name, if it is not attached."""
        if name not in self.modules:
            raise CompositionError(f"No module {name!r} is attached; {did_you_mean(name, self.modules)}")
        return self.modules[name]

    # ---- switching -------------------------------------------------------------------------------------------------

    def activate(self, composition: Composition | Item | None) -> Composition:
        """See `Engine.activate`."""
        self._default = self._switch(composition)
        return self._default

    def _switch(self, composition: Composition | Item | None) -> Composition:
        """Make a composition the one of this context."""
        composition = as_composition(composition)
        stack = self._first_stack(composition, self._compiled(composition))
        with self.lock:
            self.add_weights(stack)
        self._here.set((composition, None))
        return composition

    @staticmethod
    def _first_stack(composition: Composition, plan: Plan | RoutePlan) -> Stack:
        """Return the stack whose weight deltas a pass needs first."""
        return plan.stacks[0] if isinstance(plan, RoutePlan) else require_stack(composition, "put on the base")

    @contextmanager
    def using(self, composition: Composition | Item | None) -> Iterator[None]:
        """See `Engine.using`."""
        before = self._here.get()
        self._switch(composition)
        try:
            yield
        finally:
            self._here.set(before)
            self._own_weights()

    @contextmanager
    def under(self, plan: Plan | RoutePlan) -> Iterator[None]:
        """See `Engine.under`."""
        before = self._here.get()
        self._here.set((self.composition, plan))
        try:
            yield
        finally:
            self._here.set(before)

    # ---- weight deltas ---------------------------------------------------------------------------------------------

    def add_weights(self, stack: Stack) -> None:
        """Make the weight deltas of a stack act, and no others."""
        # the last module of a stack is added first: a task's delta stays on the base when the language's is swapped
        terms = self._terms.of(stack, self.modules)[::-1]
        self.deltas.activate(sorted(terms, key=lambda term: term.shares[0].unit is self._trained))
        self._on = stack

    @property
    def has_weights(self) -> bool:
        """True if a module with weight deltas is attached."""
        return "weights" in self.reached()

    def _own_weights(self) -> None:
        """Add the deltas of this context's composition to the base, if another context has added its own."""
        if not self.has_weights:
            return
        stack = self._first_stack(self.composition, self.plan())
        if stack != self._on:
            with self.lock:
                self.add_weights(stack)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Protect one pass through the base: with weight deltas attached, other threads wait for its end."""
        if not self.has_weights:
            yield
            return
        with self.lock:
            self._own_weights()
            yield

    @contextmanager
    def with_weights_of(self, stack: Stack) -> Iterator[None]:
        """Have the weight deltas of a stack on the base inside a `with` block, whatever composition is active."""
        with self.lock:
            before = self._on
            self.add_weights(stack)
            try:
                yield
            finally:
                self.add_weights(before)

    @contextmanager
    def on_top(self, unit: WeightsType) -> Iterator[None]:
        """See `Engine.on_top`."""
        if (route := self.route()) is not None and route.several_weights:
            require_stack(self.composition, "trained on as a weight delta")
        self._trained = unit
        try:
            self.activate(self.composition)
            yield
        finally:
            self._trained = None

    def require_the_same_weights(self) -> Callable[[], None] | None:
        """Return a check that raises if other deltas are on the base than now; None if there are none now."""
        if not self.deltas.applied:
            return None
        applied = list(self.deltas.applied)

        def check() -> None:
            if self.deltas.applied != applied:
                raise CompositionError(
                    "A layer is recomputed in the backward pass (gradient checkpointing), but other weight deltas are "
                    "on the base than in its forward pass. Call backward() before the next composition is activated."
                )

        return check

    # ---- attached modules change -----------------------------------------------------------------------------------

    def forget(self, name: str) -> None:
        """Drop the plans that name a module, which is detached, and remove its deltas from the base."""
        if name in self._on.names():  # another context left them there
            self.add_weights(Stack())
        self._plans = {c: plan for c, plan in self._plans.items() if name not in c.names()}
        self._terms.forget()

    def close(self) -> None:
        """Remove all deltas and forget everything."""
        self.deltas.activate([])
        self._plans, self._on, self._default = {}, Stack(), Stack()
        self._here.set(None)
