"""The engine: makes a composition of modules act on a base, and swaps it.

A composition is compiled once into a plan: for each site, the steps to take there. Swapping points at another plan; no tree
is walked in the forward pass. Hooks reach the sites that attached modules need (`madx.engine.hooks`); an idle base runs
its own code. Weight deltas (the site `weights`) are added in place when a composition is activated and removed exactly
(`madx.engine.weight_deltas`). A route gives each row of a batch a stack of its own (`madx.engine.routing`).

Threads: a forward pass carries its own state. `activate` holds for the thread (more exactly, the context) that calls it and
for those that never called it; `using` holds for its `with` block alone. Where modules with weight deltas are attached,
forward passes take turns, since the base's parameters are the same for all threads.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.composition import Composition, Item, Stack, as_composition, require_stack
from madx.contract.module_type import WeightsType
from madx.engine import routing
from madx.engine.activation_cache import ActivationCache
from madx.engine.active import ActiveComposition
from madx.engine.call import Call, CurrentCall, Positions
from madx.engine.decoder import decoder_of, frozen_output_embeddings
from madx.engine.explain import explain
from madx.engine.explanation import Explanation, RouteExplanation
from madx.engine.forward import Forward, forget_replays, one_group, past_the_engine
from madx.engine.heads import pooling_of, routed_labels, routed_poolings, task_module
from madx.engine.hooks import Hook
from madx.engine.merge import merge
from madx.engine.mlm_loss import LossAtDecoder, loss_of
from madx.engine.plan import Plan, Watch
from madx.engine.reach import Hooks
from madx.engine.routing import Branches, RoutePlan
from madx.engine.weight_deltas import WeightDeltas
from madx.errors import CompositionError, MadxError
from madx.module import Module, require_base, require_parameters, require_task_head
from madx.module.pooling import Pooling


class ModuleStore(Protocol):
    """Where `Engine.load` and `Engine.save` find and put modules; `madx.Store` is one."""

    def load(self, name: str, base: Base, *, allow_base_mismatch: bool = False) -> Module:
        """Give the module of that name."""

    def save(self, module: Module, *, overwrite: bool = False) -> Path:
        """Store a module under its name; give its folder."""


class Engine:
    """A base with modules attached and one composition active.

    Args:
        base: the base; it carries one engine at a time.
        store: where `load` and `save` find and put modules; needed for these alone.

    >>> engine = Engine(base)                             # doctest: +SKIP
    >>> engine.attach(swa); engine.attach(ner)            # doctest: +SKIP
    >>> engine.activate("swa + ner")                      # doctest: +SKIP
    >>> hidden = engine(input_ids, attention_mask)        # doctest: +SKIP
    """

    def __init__(self, base: Base, *, store: ModuleStore | None = None):
        if getattr(base, "_engine", None) is not None:
            raise MadxError("This base already carries an engine; close() that one first, or use it.")
        self.base, self.store = base, store
        self.modules: dict[str, Module] = {}
        self.cache: ActivationCache | None = None  # of a training run whose lower layers do not change
        self._needs: dict[str, set[str]] = {}  # hooked site -> tensors that are read there
        self._active = ActiveComposition(base, self.modules, lambda: self._needs)
        self._current = CurrentCall(lambda: self.plan)
        self._hooks = Hooks(base, self._current)
        self._backward = True  # whether gradients have to flow through the base
        base._engine = self

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
        """Forget a module and remove the hooks that it alone needed. Raises CompositionError while the active composition
        names it."""
        module = self.module(name)
        if name in self.composition.names():
            raise CompositionError(f"The module {name!r} acts in '{self.composition}': activate another one first.")
        with self._active.lock:
            self._active.forget(name)
            del self.modules[name]
            self._reach_sites()
        return module

    def module(self, name: str) -> Module:
        """An attached module; raises CompositionError with the nearest name."""
        return self._active.module(name)

    def load(self, name: str, *, store: ModuleStore | None = None, allow_base_mismatch: bool = False) -> Module:
        """Read a module by name from a store and attach it.

        store: where to look; by default the store that the engine was made with. Raises MadxError without any store, StoreError
        for a module that is missing or damaged, BaseError for one that was made for another base.
        """
        module = self._store(store, f"load({name!r}").load(name, self.base, allow_base_mismatch=allow_base_mismatch)
        return self.attach(module, allow_base_mismatch=allow_base_mismatch)

    def save(self, name: str, *, store: ModuleStore | None = None, overwrite: bool = False) -> Path:
        """Store an attached module under its name; gives its folder. store: as in `load`.

        Raises CompositionError for a name that is not attached, StoreError where a module of that name is stored and `overwrite`
        is not set.
        """
        return self._store(store, f"save({name!r}").save(self.module(name), overwrite=overwrite)

    def _store(self, given: ModuleStore | None, call: str) -> ModuleStore:
        store = given if given is not None else self.store
        if store is None or not hasattr(store, "load"):
            raise MadxError(
                f"engine.{call}) needs a store, and {'this engine was made without one' if store is None else f'{store!r} is none'}: "
                f"write Engine(base, store=Store('modules')), or engine.{call}, store=Store('modules'))."
            )
        return store

    # ---- compositions --------------------------------------------------------------------------------------------

    @property
    def composition(self) -> Composition:
        """The composition that is active in this thread."""
        return self._active.composition

    @property
    def plan(self) -> Plan:
        """What the next forward pass runs; of a route the plan that refuses calls past the engine."""
        plan = self._active.plan()
        return plan if isinstance(plan, Plan) else Plan(refusal=plan.refusal)

    @property
    def _route(self) -> RoutePlan | None:
        return self._active.route()

    def activate(self, composition: Composition | Item | None) -> Composition:
        """Make a composition act from the next forward pass on; None or 'base' is the bare base.

        It holds for the thread that calls, and for threads that never activated anything themselves. Raises CompositionError
        for a name that is not attached, for modules that cannot act together, and for a weight delta that leaves the base's
        number format; the composition before stays active then.
        """
        return self._active.activate(composition)

    @contextmanager
    def using(self, composition: Composition | Item | None) -> Iterator["Engine"]:
        """A composition for the length of a `with` block, in this thread alone; afterwards the one before is active again."""
        with self._active.using(composition):
            yield self

    @contextmanager
    def under(self, plan: Plan | RoutePlan) -> Iterator["Engine"]:
        """Run forward passes of this thread under a plan of one's own in place of the active composition's."""
        with self._active.under(plan):
            yield self

    @contextmanager
    def on_top(self, unit: WeightsType) -> Iterator["Engine"]:
        """Keep one weight delta above all others, where it can be written again after its values have changed."""
        with self._active.on_top(unit):
            yield self

    def with_weights_of(self, stack: Stack) -> AbstractContextManager[None]:
        """Have the weight deltas of a stack on the base, whatever composition is active."""
        return self._active.with_weights_of(stack)

    def refresh(self) -> None:
        """Put the active composition on again, after the entries of one of its weight deltas were changed."""
        self.activate(self.composition)

    def merge(self) -> nn.Linear | None:
        """Make the active composition of weight deltas the base's own, for good; see `madx.engine.merge`."""
        return merge(self)

    def compile(self, composition: Composition, watch: Watch | None = None) -> Plan | RoutePlan:
        """The plan of a composition; `watch` may wrap each unit, see `madx.engine.plan`.

        Raises CompositionError for modules that are not attached or cannot act together, and for a site that nothing reaches.
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
        """The last layer's output of the base under the active composition.

        Args:
            input_ids: `(batch, tokens)`.
            attention_mask: `(batch, tokens)`, 1 at tokens and 0 at padding; None: no padding.
            at: rows and positions in them, `(n,)` each, if only these are needed; the last layer then does less.
            branches: `(batch,)`, under a route: the number or the text of each row's branch.

        Returns:
            `(batch, tokens, width)`, or `(n, width)` with `at`.
        """
        active = self._active
        with active.turn(), self._precision():
            plan = active.plan()
            weights = active.require_the_same_weights() if torch.is_grad_enabled() else None
            forward = Forward(
                self.base, self._current, backward=self._backward, hooked=bool(self._needs), weights=weights
            )
            if isinstance(plan, RoutePlan) or branches is not None:
                route = routing.required(active.route())
                rows = route.rows(branches, len(input_ids), input_ids.device)
                return forward.routed(route, rows, input_ids, attention_mask, at=at, put_on=active.put_on)
            cache = self.cache if self.cache is not None and self.cache.plan is plan else None
            groups = one_group(plan, len(input_ids))
            return forward.run(plan, input_ids, attention_mask, at=at, groups=groups, cache=cache)

    def mlm_logits(self, hidden: Tensor, *, branches: Branches | None = None) -> Tensor:
        """Scores over the vocabulary: `(n, width)` -> `(n, vocabulary)`, by the base's head, with the map of the embeddings
        undone before the decoder. branches `(n,)`: under a route, those of the positions."""
        with self._active.turn(), self._precision(), self._current.running(self._head_call(hidden, branches)):
            return self.base.mlm_logits(hidden)

    def mlm_loss(self, hidden: Tensor, targets: Tensor, *, branches: Branches | None = None) -> Tensor:
        """The sum of -log p(target), a scalar in float32: hidden `(n, width)`, targets `(n,)`. Equal to cross entropy of
        `mlm_logits`, in a third of its memory (`madx.engine.mlm_loss`); branches as there."""
        fused = decoder_of(self.base) is not None and bool(self._needs)
        call = replace(self._head_call(hidden, branches), targets=targets if fused else None)
        with self._active.turn(), self._precision(), self._current.running(call):
            found = self.base.mlm_logits(hidden)
            return found if fused else loss_of(found, targets)

    def _head_call(self, hidden: Tensor, branches: Branches | None) -> Call:
        route = self._route
        rows = routing.sort(route, branches, hidden)
        if route is None or rows is None:
            return Call(self.plan)
        return Call(route.plan(rows.present), offsets=rows.offsets, sort=rows.order, unsort=rows.back)

    def task_module(self, stack: Stack | Item | None = None) -> Module:
        """The last module with a head in a stack (None: the active composition); raises CompositionError without one."""
        composition = as_composition(self.composition if stack is None else stack)
        return task_module(require_stack(composition, "asked for one task module"), self.modules)

    def label_logits(self, hidden: Tensor, *, branches: Branches | None = None) -> Tensor:
        """Scores of the task module's head: `(..., width)` -> `(..., labels)`. branches: under a route, those of the entries
        of the first dimension; their task modules must have the same labels, for the result is one tensor."""
        route = self._route
        rows = routing.sort(route, branches, hidden)
        with self._precision():
            if route is None or rows is None:
                return require_task_head(self.task_module())(hidden)
            return routed_labels(route, rows, hidden, self.modules)

    def poolings(self, rows: int, *, branches: Branches | None = None) -> list[Pooling]:
        """Return the pooling of the task module of each row of a batch: it makes the vector of a word, which the head
        reads, from the states of the word's pieces. branches: under a route, those of the rows."""
        if self._route is None and branches is None:
            return [pooling_of(self.task_module())] * rows
        return routed_poolings(routing.required(self._route), branches, rows, self.modules)

    def groups(self, branches: Branches) -> list[list[int]]:
        """Under a route: the places of the rows that can share a forward pass; one group, but for branches with different
        weight deltas (and other reasons, see `madx.engine.routing`)."""
        return routing.groups(self._route, branches)

    def _precision(self) -> Any:
        """Modules are kept in float32; on a base in half precision their products run in the base's precision."""
        dtype = self.base.model.dtype
        if dtype not in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled(self.base.device.type):
            return nullcontext()
        return torch.autocast(self.base.device.type, dtype=dtype)

    # ---- training ------------------------------------------------------------------------------------------------

    def train_only(self, *names: str) -> list[nn.Parameter]:
        """Open one module, or several (with their heads), to gradients and close all others; returns their parameters.

        Under a route a module learns from the rows of the branches that name it. Raises CompositionError unless the active
        composition names each: it would train without acting.
        """
        chosen = [self.module(name) for name in names]
        for name in names:
            if name not in self.composition.names():
                raise CompositionError(
                    f"The module {name!r} is to be trained but does not act in the active composition '{self.composition}'. "
                    f"Activate a composition with it, e.g. 'eng + {name}'."
                )
        self.base.model.requires_grad_(False)
        for other in self.modules.values():
            other.requires_grad_(other in chosen).train(other in chosen)
        units = [unit for module in chosen for at in module.units.values() for unit in at.values()]
        self._backward = not units or any(type(unit).backward for unit in units)
        return [parameter for module in chosen for parameter in module.parameters()]

    def freeze(self) -> None:
        """Close every module to gradients and put it into inference mode (no dropout)."""
        self._backward = True
        for module in self.modules.values():
            module.requires_grad_(False).eval()

    def use_cache(self, cache: ActivationCache | None) -> None:
        """Skip the lower layers where their states are cached; None: compute them again. See `ActivationCache.opened`."""
        self.cache = cache
        self._reach_sites(anew=True)

    # ---- looking inside ------------------------------------------------------------------------------------------

    def explain(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *, branches: Branches | None = None
    ) -> Explanation | RouteExplanation:
        """Which modules act at which site, in which order. With an input, also measured: how often each unit ran in one
        forward pass and how much it changed, as |change| / |what it changed|. See `madx.engine.explain`."""
        return explain(self, input_ids, attention_mask, branches)

    # ---- reaching into the base ----------------------------------------------------------------------------------

    def _reach_sites(self, *, anew: bool = False) -> None:
        """Hook the sites that the attached modules need."""
        needs: dict[str, set[str]] = {}
        for module in self.modules.values():
            for site, units in module.units.items():
                needs.setdefault(site, set()).update(name for unit in units.values() for name in unit.reads)
                if any(not getattr(unit, "final_norm", True) for unit in units.values()):
                    needs[site].update(("output", "residual"))
            needs.setdefault("head", set())  # a head alone needs no site, but the hooks of speed
        if needs == self._needs and not anew:
            return
        try:
            self._hooks.reach(needs, enter=self._enter, more=self._more(needs))
        except AttributeError as error:
            raise MadxError(
                f"The base {self.base.name} is described as {self.base.family.title}, but its code has no such place: {error}. "
                "This version of transformers moved it; mend its entry in madx/base/families.py."
            ) from error
        self._needs = needs

    def _more(self, needs: dict[str, set[str]]) -> list[tuple[nn.Module, Hook]]:
        found: list[tuple[nn.Module, Hook]] = []
        if "weights" in needs:
            found += frozen_output_embeddings(self.deltas, self._current)
        if needs and (decoder := decoder_of(self.base)) is not None:
            found.append((decoder, LossAtDecoder(self._current, self.base.config.vocab_size)))
        if self.cache is not None:
            found += self.cache.hooks(self._current)
        return found

    @contextmanager
    def _enter(self, arguments: dict) -> Iterator[None]:
        """A forward pass that somebody makes on the base itself."""
        with self._active.turn(), past_the_engine(self._current, self.plan, arguments):
            yield

    def close(self) -> None:
        """Give the base back as it came: its own code everywhere, no hook, nothing attached."""
        with self._active.lock:
            self._active.close()
            self._hooks.remove()
            forget_replays(self.base.encoder)
            self.modules.clear()
            self._needs, self.cache = {}, None
            self.base._engine = None

    def __deepcopy__(self, memo: dict) -> "Engine":
        """A new engine on a new base with copies of all modules, under the same composition; the store is shared."""
        with self._active.nothing_on():
            self._hooks.remove()
            forget_replays(self.base.encoder)
            self.base._engine = None
            try:
                twin = Engine(copy.deepcopy(self.base, memo), store=self.store)
            finally:
                self.base._engine = self
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
            "An engine cannot be pickled: it holds hooks in a base. Save its modules with madx.save_module, and make a new engine "
            "with madx.load_base and madx.Engine where you need it; copy.deepcopy(engine) copies it within a process."
        )
