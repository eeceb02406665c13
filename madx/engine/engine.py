"""The engine: makes a composition of modules act on a base, and swaps it.

A composition is compiled once into a plan: the steps at each site. A swap selects another plan, so a forward pass does
not walk through the composition. Hooks exist at the sites that attached modules need (`madx.engine.hooks`); a base
without modules runs its own code. Weight deltas (the site `weights`) are added in place when a composition is
activated, and theta_0 is restored exactly (`madx.engine.weight_deltas`). A route gives each row of a batch its own
stack (`madx.engine.routing`).

Threads: a forward pass carries its own state. `activate` holds for the thread (more exactly, the context) that calls it
and for threads that never called it; `using` holds for its `with` block alone. Where modules with weight deltas are
attached, forward passes take turns, since the base's parameters are the same for all threads.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.composition import Composition, Item, Stack, as_composition, require_stack
from madx.contract.module_type import WeightsType
from madx.engine import routing
from madx.engine.activation_cache import ActivationCache
from madx.engine.active import ActiveComposition
from madx.engine.call import Call, CurrentCall, Positions
from madx.engine.decoder import decoder_hooks, decoder_of
from madx.engine.explain import explain
from madx.engine.explanation import Explanation, RouteExplanation
from madx.engine.forward import Forward, forget_replays, one_group, precision, without_the_engine
from madx.engine.heads import head_call, pooling_of, routed_labels, routed_poolings, task_module
from madx.engine.merge import merge
from madx.engine.mlm_head import require_mlm_head
from madx.engine.mlm_loss import loss_of
from madx.engine.plan import Plan, Watch
from madx.engine.protocols import ModuleStore, require_store
from madx.engine.reach import Hooks, needs_of
from madx.engine.routing import Branches, RoutePlan
from madx.engine.weight_deltas import WeightDeltas
from madx.errors import CompositionError, MadxError
from madx.module import Module, require_base, require_parameters, require_task_head
from madx.module.pooling import Pooling


class Engine:
    """A base with modules attached and one composition active.

    Args:
        base: the base; it carries one engine at a time.
        store: where `load` and `save` find and put modules; no other method needs it.

    >>> engine = Engine(base)                             # doctest: +SKIP
    >>> engine.attach(swa); engine.attach(ner)            # doctest: +SKIP
    >>> engine.activate("swa + ner")                      # doctest: +SKIP
    >>> hidden = engine(input_ids, attention_mask)        # doctest: +SKIP
    """

    def __init__(self, base: Base, *, store: ModuleStore | None = None):
        if getattr(base, "engine", None) is not None:
            raise MadxError("This base already carries an engine; close() that one first, or use it.")
        self.base, self.store = base, store
        self.modules: dict[str, Module] = {}
        self.cache: ActivationCache | None = None  # of a training run whose lower layers do not change
        self._needs: dict[str, set[str]] = {}  # hooked site -> names of the tensors that are read there
        self._active = ActiveComposition(base, self.modules, lambda: self._needs)
        self._current = CurrentCall(lambda: self.plan)
        self._hooks = Hooks(base, self._current)
        self._backward = True  # whether gradients have to flow through the base
        self._head_trained = False
        base.engine = self

    @property
    def deltas(self) -> WeightDeltas:
        """The weight deltas that are on the base."""
        return self._active.deltas

    # ---- modules -------------------------------------------------------------------------------------------------

    def attach(self, module: Module, *, allow_base_mismatch: bool = False) -> Module:
        """Make a module available to compositions; it does not act yet. An attached module of that name is replaced.

        Raises BaseError when the module was made for another base.
        """
        require_base(module.info, self.base, allow_base_mismatch=allow_base_mismatch)
        require_parameters(module, self.base)
        module.to(self.base.device).requires_grad_(False).eval()
        if module.name in self.modules:
            self.detach(module.name)
        self.modules[module.name] = module
        try:
            self._reach_sites()
        except BaseException:
            del self.modules[module.name]
            raise
        return module

    def detach(self, name: str) -> Module:
        """Forget a module and remove the hooks that no other module needs.

        Raises CompositionError while the active composition names it.
        """
        module = self.module(name)
        if name in self.composition.names():
            raise CompositionError(f"The module {name!r} acts in '{self.composition}': activate another one first.")
        with self._active.lock:
            self._active.forget(name)
            del self.modules[name]
            self._reach_sites()
        return module

    def module(self, name: str) -> Module:
        """Return an attached module. Raises CompositionError, with the nearest name, if it is not attached."""
        return self._active.module(name)

    def load(self, name: str, *, store: ModuleStore | None = None, allow_base_mismatch: bool = False) -> Module:
        """Load a module by name from a store and attach it.

        store: by default the store that the engine was made with. Raises MadxError without any store, StoreError for a
        module that is missing or damaged, BaseError for a module that was made for another base.
        """
        found = require_store(self.store if store is None else store, f"load({name!r}")
        module = found.load(name, self.base, allow_base_mismatch=allow_base_mismatch)
        return self.attach(module, allow_base_mismatch=allow_base_mismatch)

    def save(self, name: str, *, store: ModuleStore | None = None, overwrite: bool = False) -> Path:
        """Store an attached module under its name; returns its folder. store: as in `load`.

        Raises CompositionError for a name that is not attached, and StoreError if a module of that name is stored
        already and `overwrite` is not set.
        """
        found = require_store(self.store if store is None else store, f"save({name!r}")
        return found.save(self.module(name), overwrite=overwrite)

    # ---- compositions --------------------------------------------------------------------------------------------

    @property
    def composition(self) -> Composition:
        """The composition that is active in this thread."""
        return self._active.composition

    @property
    def plan(self) -> Plan:
        """The plan of the next forward pass; under a route, a plan that refuses calls without the engine."""
        plan = self._active.plan()
        return plan if isinstance(plan, Plan) else Plan(refusal=plan.refusal)

    @property
    def _route(self) -> RoutePlan | None:
        return self._active.route()

    def activate(self, composition: Composition | Item | None) -> Composition:
        """Make a composition act from the next forward pass on; None or 'base' is the bare base.

        It holds for the thread that calls, and for threads that never activated a composition. Raises CompositionError
        for a name that is not attached, for modules that cannot act together, and for a weight delta that leaves the
        base's number format; then the composition from before stays active.
        """
        return self._active.activate(composition)

    @contextmanager
    def using(self, composition: Composition | Item | None) -> Iterator["Engine"]:
        """Activate a composition inside a `with` block, in this thread alone; then the previous one acts again."""
        with self._active.using(composition):
            yield self

    @contextmanager
    def under(self, plan: Plan | RoutePlan) -> Iterator["Engine"]:
        """Run the forward passes of this thread under another plan than the active composition's."""
        with self._active.under(plan):
            yield self

    @contextmanager
    def on_top(self, unit: WeightsType) -> Iterator["Engine"]:
        """Add one weight delta after all others, so that it can be written again when its values have changed."""
        with self._active.on_top(unit):
            yield self

    def with_weights_of(self, stack: Stack) -> AbstractContextManager[None]:
        """Have the weight deltas of a stack on the base, whatever composition is active."""
        return self._active.with_weights_of(stack)

    def refresh(self) -> None:
        """Activate the active composition again, after the values of one of its weight deltas have changed."""
        self.activate(self.composition)

    def merge(self) -> nn.Linear | None:
        """Make the active weight deltas part of the base's own weights, permanently; see `madx.engine.merge`."""
        return merge(self)

    def compile(self, composition: Composition, watch: Watch | None = None) -> Plan | RoutePlan:
        """Compile a composition. watch: wraps each unit, see `madx.engine.plan`.

        Raises CompositionError for modules that are not attached or cannot act together, and for a site without a hook.
        """
        return self._active.compile(composition, watch)

    # ---- forward -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        at: Positions | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """Compute the last layer's output of the base under the active composition.

        Args:
            input_ids: `(batch, tokens)`.
            attention_mask: `(batch, tokens)`, 1 at tokens and 0 at padding; None: no padding.
            at: rows and positions in them, `(n,)` each, if only these are needed: the last layer then computes less.
            branches: `(batch,)`, under a route: the number or the text of each row's branch.

        Returns:
            `(batch, tokens, width)`, or `(n, width)` with `at`.
        """
        active = self._active
        with active.turn(), precision(self.base):
            plan = active.plan()
            weights = active.require_the_same_weights() if torch.is_grad_enabled() else None
            forward = Forward(
                self.base, self._current, backward=self._backward, hooked=bool(self._needs), weights=weights
            )
            if isinstance(plan, RoutePlan) or branches is not None:
                route = routing.required(plan if isinstance(plan, RoutePlan) else None)
                rows = route.rows(branches, len(input_ids), input_ids.device)
                return forward.routed(route, rows, input_ids, attention_mask, at=at, add_weights=active.add_weights)
            cache = self.cache if self.cache is not None and self.cache.plan is plan else None
            groups = one_group(plan, len(input_ids))
            return forward.run(plan, input_ids, attention_mask, at=at, groups=groups, cache=cache)

    def mlm_logits(self, hidden: Tensor, *, branches: Branches | None = None) -> Tensor:
        """Compute scores over the vocabulary by the base's head: `(n, width)` -> `(n, vocabulary)`.

        The maps of the embeddings are inverted before the decoder. branches: under a route, those of the positions.
        """
        with self._active.turn(), precision(self.base), self._current.running(self._head_call(hidden, branches)):
            return self.base.mlm_logits(hidden)

    def mlm_loss(self, hidden: Tensor, targets: Tensor, *, branches: Branches | None = None) -> Tensor:
        """Compute the sum of -log p(target), a scalar in float32: hidden `(n, width)`, targets `(n,)`.

        It equals the cross entropy of `mlm_logits` and needs a third of its memory (`madx.engine.mlm_loss`). branches:
        as in `mlm_logits`.
        """
        fused = decoder_of(self.base) is not None and bool(self._needs)
        call = replace(self._head_call(hidden, branches), targets=targets if fused else None)
        with self._active.turn(), precision(self.base), self._current.running(call):
            found = self.base.mlm_logits(hidden)
            return found if fused else loss_of(found, targets)

    def _head_call(self, hidden: Tensor, branches: Branches | None) -> Call:
        require_mlm_head(self.base, [self.modules[name] for name in self.composition.names()], self.store)
        return head_call(self.plan, self._route, hidden, branches)

    def task_module(self, stack: Stack | Item | None = None) -> Module:
        """Return the last module with a head in a stack (None: the active composition).

        Raises CompositionError if there is none.
        """
        composition = as_composition(self.composition if stack is None else stack)
        return task_module(require_stack(composition, "asked for one task module"), self.modules)

    def label_logits(self, hidden: Tensor, *, branches: Branches | None = None) -> Tensor:
        """Compute the scores of the task module's head: `(..., width)` -> `(..., labels)`.

        branches: under a route, those of the entries of the first dimension. Their task modules must have the same
        labels, because the result is one tensor.
        """
        route = self._route
        rows = routing.sort(route, branches, hidden)
        with precision(self.base):
            if route is None or rows is None:
                scores: Tensor = require_task_head(self.task_module())(hidden)
                return scores
            return routed_labels(route, rows, hidden, self.modules)

    def poolings(self, rows: int, *, branches: Branches | None = None) -> list[Pooling]:
        """Return the pooling of the task module of each row of a batch: it makes the vector of a word, which the head
        reads, from the states of the word's pieces. branches: under a route, those of the rows."""
        if self._route is None and branches is None:
            return [pooling_of(self.task_module())] * rows
        return routed_poolings(routing.required(self._route), branches, rows, self.modules)

    def groups(self, branches: Branches) -> list[list[int]]:
        """Group the rows of a batch under a route by the forward passes that they can share (`madx.engine.routing`)."""
        return routing.groups(self._route, branches)

    # ---- training ------------------------------------------------------------------------------------------------

    def train_only(self, *names: str) -> list[nn.Parameter]:
        """Open some modules and their heads to gradients and close all others; returns their parameters.

        Under a route a module learns from the rows of the branches that name it. Raises CompositionError for a module
        that the active composition does not name: it would be trained without acting.
        """
        chosen = [self.module(name) for name in names]
        for name in names:
            if name not in self.composition.names():
                raise CompositionError(
                    f"The module {name!r} is to be trained but does not act in the active composition "
                    f"'{self.composition}'. Activate a composition with it, e.g. 'eng + {name}'."
                )
        self.base.model.requires_grad_(False)
        self._head_trained = False
        for other in self.modules.values():
            other.requires_grad_(other in chosen).train(other in chosen)
        units = [unit for module in chosen for at in module.units.values() for unit in at.values()]
        self._backward = not units or any(type(unit).backward for unit in units)
        self._reach_sites()
        return [parameter for module in chosen for parameter in module.parameters()]

    def train_head(self) -> dict[str, nn.Parameter]:
        """Open the base's masked-LM head to gradients and close all else; returns its parameters by name.

        Until `freeze` or `train_only` the encoder runs without gradients.
        """
        self.train_only()
        self._backward, self._head_trained = False, True
        self._reach_sites()
        return self.base.mlm_head.open()

    def freeze(self) -> None:
        """Close every module and the base to gradients and put the modules into inference mode (no dropout)."""
        self.train_only()

    def use_cache(self, cache: ActivationCache | None) -> None:
        """Skip the lower layers if their output is cached; None: compute them. See `ActivationCache.opened`."""
        self.cache = cache
        self._reach_sites(anew=True)

    # ---- looking inside ------------------------------------------------------------------------------------------

    def explain(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *, branches: Branches | None = None
    ) -> Explanation | RouteExplanation:
        """List the modules that act at each site, in order.

        With an input it also measures how often each unit ran in one forward pass, and |change| / |changed tensor|. See
        `madx.engine.explain`.
        """
        return explain(self, input_ids, attention_mask, branches)

    # ---- reaching into the base ----------------------------------------------------------------------------------

    def _reach_sites(self, *, anew: bool = False) -> None:
        """Hook the sites that the attached modules need."""
        needs = needs_of(self.modules.values(), head=self._head_trained)
        if needs != self._needs or anew:
            more = decoder_hooks(self.deltas, self._current, weights="weights" in needs) if needs else []
            more += self.cache.hooks(self._current) if self.cache is not None else []
            self._hooks.reach(needs, enter=self._enter, more=more)
            self._needs = needs

    @contextmanager
    def _enter(self, arguments: dict[str, Any]) -> Iterator[None]:
        """Run a forward pass that was started on the base itself, without the engine."""
        with self._active.turn(), without_the_engine(self._current, self.plan, arguments):
            yield

    def close(self) -> None:
        """Restore the base exactly: no hook, no weight delta, no module attached."""
        with self._active.lock:
            self._active.close()
            self._hooks.remove()
            forget_replays(self.base.encoder)
            self.modules.clear()
            self._needs, self.cache = {}, None
            self.base.engine = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        """Make a new engine on a new base with copies of all modules and the same composition; the store is shared."""
        with self._active.with_weights_of(Stack()):
            self._hooks.remove()
            forget_replays(self.base.encoder)
            self.base.engine = None
            try:
                twin = Engine(copy.deepcopy(self.base, memo), store=self.store)
            finally:
                self.base.engine = self
                self._reach_sites(anew=True)
        memo[id(self)] = twin
        for module in self.modules.values():
            made = twin.attach(copy.deepcopy(module, memo), allow_base_mismatch=True).train(module.training)
            for parameter, original in zip(made.parameters(), module.parameters()):
                parameter.requires_grad_(original.requires_grad)
        twin.activate(self.composition)
        return twin

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise MadxError(
            "An engine cannot be pickled: it holds hooks in a base. Save its modules with madx.save_module, and make a "
            "new engine with madx.load_base and madx.Engine; copy.deepcopy(engine) copies it within a process."
        )
