"""The engine: puts a composition onto a base, swaps it, takes it off.

A composition is compiled once into a plan: for each site, the steps to take there. Swapping is pointing at another
plan; no tree is walked in the forward pass. The engine reaches the sites by replacing the `forward` of a few of the base's
own modules on the instance; names of parameters are never touched, a base with nothing active runs its own code, and
`close()` takes every trace away. Differences of weights (the site `parameters`) are put on when a composition is
activated, in place and in O(entries), and taken off bit for bit (`madx.engine.weight_deltas`). A route gives each row of a batch a
stack of its own (`madx.engine.routing`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.composition import Composition, Item, Route, Stack, as_composition, require_stack
from madx.contract.module_type import Sublayer, WeightsType
from madx.engine import routing
from madx.engine.activation_cache import ActivationCache
from madx.engine.explain import explain
from madx.engine.explanation import Explanation, RouteExplanation
from madx.engine.last_layer import Narrowing, Positions
from madx.engine.merge import merge
from madx.engine.mlm_loss import LossAtDecoder
from madx.engine.plan import Terms, Watch, steps_at
from madx.engine.routing import Branches, Plan, RoutePlan, Rows
from madx.engine.weight_deltas import WeightDeltas, decoder_of, untied
from madx.errors import CompositionError, MadxError, did_you_mean
from madx.module import Module, require_base, require_parameters, require_task_head


class Engine:
    """A base with modules attached and one composition active.

    >>> engine = Engine(base)                             # doctest: +SKIP
    >>> engine.attach(swa); engine.attach(ner)            # doctest: +SKIP
    >>> engine.activate("swa + ner")                      # doctest: +SKIP
    >>> hidden = engine(input_ids, attention_mask)        # doctest: +SKIP
    """

    def __init__(self, base: Base):
        if getattr(base, "_engine", None) is not None:
            raise MadxError("This base already carries an engine; close() that one first, or use it.")
        self.base = base
        self.modules: dict[str, Module] = {}
        self.composition: Composition = Stack()
        self._plans: dict[Composition, Plan | RoutePlan] = {}
        self._plan: Plan = {}  # site -> steps of the active composition; empty: the bare base
        self._route: RoutePlan | None = None  # of the active composition, if it is a route
        self._rows: Rows | None = (
            None  # how the positions before the decoder are sorted, while a route scores masked words
        )
        self._captures: dict[tuple[str, str], object] = {}
        self._captured: dict[str, dict[str, Tensor]] = {}
        self._replaced: list[nn.Module] = []
        self.deltas = WeightDeltas(base)
        self._terms = Terms()
        self._narrowing = Narrowing(base)
        self.frozen: ActivationCache | None = None  # lower layers whose states are kept, in a training run
        self._loss = LossAtDecoder(decoder_of(base), base.config.vocab_size)
        self._moving: WeightsType | None = None  # a difference in training: it lies above all others
        base._engine = self
        try:
            self._reach_sites()
        except AttributeError as error:
            self.close()
            raise MadxError(
                f"The base {base.name} is described as {base.family.title}, but its code has no such place: {error}. "
                "This version of transformers moved it; mend its entry in madx/base/families.py."
            ) from error

    # ---- modules -------------------------------------------------------------------------------------------------

    def attach(self, module: Module, *, allow_base_mismatch: bool = False) -> Module:
        """Make a module available to compositions; it does not act yet. A module of that name is replaced.

        Raises BaseError when the module was made for another base.
        """
        require_base(module.info, self.base, allow_base_mismatch=allow_base_mismatch)
        require_parameters(module, self.base)
        module.to(self.base.device).requires_grad_(False).eval()
        if module.name in self.modules:
            self.detach(module.name)
        self.modules[module.name] = module
        for site, units in module.units.items():
            for unit in units.values():
                for what in unit.reads:
                    self._capture(site, what)
        return module

    def detach(self, name: str) -> Module:
        """Forget a module. Raises CompositionError while the active composition names it."""
        module = self.module(name)
        if name in self.composition.names():
            raise CompositionError(f"The module {name!r} acts in '{self.composition}': activate another one first.")
        del self.modules[name]
        self._plans = {c: plan for c, plan in self._plans.items() if name not in c.names()}
        self._terms.forget()
        return module

    def module(self, name: str) -> Module:
        """An attached module; raises CompositionError with the nearest name."""
        if name not in self.modules:
            raise CompositionError(f"No module {name!r} is attached; {did_you_mean(name, self.modules)}")
        return self.modules[name]

    # ---- compositions --------------------------------------------------------------------------------------------

    def activate(self, composition: Composition | Item | None) -> Composition:
        """Make a composition act from the next forward pass on; None or 'base' is the bare base.

        Raises CompositionError for a name that is not attached, and for a difference that leaves the base's number format;
        the composition before stays active then.
        """
        composition = as_composition(composition)
        plan = self._plans.get(composition)
        if plan is None:
            plan = self._plans[composition] = self.compile(composition)
        route = plan if isinstance(plan, RoutePlan) else None
        self._put_on(composition if route is None else route.stacks[0])
        self._route, self._plan, self.composition = route, plan if route is None else route.unbound, composition
        return composition

    def _put_on(self, stack: Stack) -> None:
        """Make the differences of weights of a stack act, and no others."""
        # the last module of a stack lies lowest: a task's difference stays where it is when the language's is swapped
        terms = self._terms.of(stack, self.modules)[::-1]
        self.deltas.activate(sorted(terms, key=lambda term: term.shares[0].unit is self._moving))

    def refresh(self) -> None:
        """Put the active composition on again, after the entries of one of its differences were changed."""
        self.activate(self.composition)

    @contextmanager
    def on_top(self, unit: WeightsType) -> Iterator["Engine"]:
        """Keep one difference above all others, where it can be written again after its values have moved."""
        if self._route is not None and self._route.several_weights:
            require_stack(self.composition, "trained on as a difference of weights")
        self._moving = unit
        try:
            self.refresh()
            yield self
        finally:
            self._moving = None

    def merge(self) -> nn.Linear | None:
        """Make the active composition of weight differences the base's own, for good; see `madx.engine.merge`."""
        return merge(self)

    @contextmanager
    def using(self, composition: Composition | Item | None) -> Iterator["Engine"]:
        """A composition for the length of a `with` block; what was active before is active again afterwards."""
        before = self.composition
        self.activate(composition)
        try:
            yield self
        finally:
            self.activate(before)

    def compile(self, composition: Composition, watch: Watch | None = None) -> Plan | RoutePlan:
        """The plan of a composition: site -> steps. `watch` may wrap each instance: (site, module, instance) -> step."""
        for name in composition.names():
            self.module(name)
        if isinstance(composition, Route):
            return RoutePlan(composition, self.base.sites, self.modules, watch)
        plan = {}
        for site in self.base.sites.values():
            steps = steps_at(site, composition, self.modules, watch) if site.kind != "weights" else []
            if steps:
                plan[site.name] = steps
        return plan

    # ---- forward -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        at: Positions | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """The last layer's output `(batch, tokens, width)` of the base under the active composition; at: at these positions
        alone, `(n, width)`, for which the last layer then does less (`madx.engine.last_layer`); branches `(batch,)`: under a route,
        the number or the text of each row's branch."""
        if (rows := routing.sort(self._route, branches, input_ids)) is not None:
            with self._precision():
                return routing.hidden(self, input_ids, attention_mask, rows=rows, at=at)
        kept = self.frozen if self.frozen is not None and self.frozen.plan is self._plan else None
        feeding = kept.feeding(input_ids, attention_mask) if kept is not None else nullcontext()
        with self._precision(), feeding, self._narrowing.to(at, self._plan) as chosen:
            return chosen(self.base.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state)

    def mlm_logits(self, hidden: Tensor, *, branches: Branches | None = None) -> Tensor:
        """Scores over the vocabulary: `(n, width)` -> `(n, vocabulary)`, by the base's head, with the invertible part
        of the active composition undone before the decoder. branches `(n,)`: under a route, those of the positions."""
        rows = routing.sort(self._route, branches, hidden)
        with self._precision(), nullcontext() if rows is None else routing.running(self, rows):
            return self.base.mlm_logits(hidden)

    def mlm_loss(self, hidden: Tensor, targets: Tensor, *, branches: Branches | None = None) -> Tensor:
        """The sum of -log p(target), a scalar in float32: hidden `(n, width)`, targets `(n,)`. As cross entropy of
        `mlm_logits`, in a third of its memory (`madx.engine.mlm_loss`); branches as there."""
        with self._loss.of(targets) as loss:
            return loss(self.mlm_logits(hidden, branches=branches))

    def task_module(self, stack: Stack | Item | None = None) -> Module:
        """The last module with a head in a stack (None: the active composition); raises CompositionError without one."""
        names = require_stack(
            as_composition(self.composition if stack is None else stack), "asked for one task module"
        ).names()
        with_head = [n for n in names if self.modules[n].head is not None]
        if not with_head:
            if not names:
                raise CompositionError(
                    "The bare base is active and predicts no labels; end a composition with a task module."
                )
            require_task_head(self.modules[names[-1]])
        return self.modules[with_head[-1]]

    def label_logits(self, hidden: Tensor, *, branches: Branches | None = None) -> Tensor:
        """Scores of the task module's head: `(..., width)` -> `(..., labels)`. branches: under a route, those of the entries
        of the first dimension; their task modules must have the same labels, for the result is one tensor."""
        rows = routing.sort(self._route, branches, hidden)
        with self._precision():
            return self.task_module().head(hidden) if rows is None else routing.label_logits(self, hidden, rows)

    def groups(self, branches: Branches) -> list[list[int]]:
        """Under a route: the places of the rows that can share a forward pass; one group, but for branches with different
        differences of weights."""
        return routing.groups(self._route, branches)

    def _precision(self):
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
        return [parameter for module in chosen for parameter in module.parameters()]

    def freeze(self) -> None:
        """Close every module to gradients and put it into inference mode (no dropout)."""
        for module in self.modules.values():
            module.requires_grad_(False).eval()

    # ---- looking inside ------------------------------------------------------------------------------------------

    def explain(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *, branches: Branches | None = None
    ) -> Explanation | RouteExplanation:
        """Which modules act at which site, in which order. With an input, also measured: how often each instance ran in
        one forward pass and how much it changed, as |change| / |what it changed|. See `madx.engine.explain`."""
        return explain(self, input_ids, attention_mask, branches)

    # ---- reaching into the base ----------------------------------------------------------------------------------

    def _reach_sites(self) -> None:
        family, encoder = self.base.family, self.base.encoder
        self._replace(encoder.get_submodule(family.embeddings), self._at_embeddings)
        for site in self.base.sites.values():
            if site.kind != "sublayer":
                continue
            layer = encoder.get_submodule(family.layers)[site.layer]
            place = getattr(family, site.place)
            captured = self._captured[site.name] = {}
            if place.norm is not None:
                self._replace(layer.get_submodule(place.norm), self._at_norm, site.name, captured)
            else:
                self._replace(layer.get_submodule(place.output), self._at_output, site.name, captured)
                self._capture(site.name, "residual")
        if (last := self._narrowing.place(self.base)) is not None:
            self._replace(last, self._narrowing.wrap)
        for module, wrapper in list(untied(self.base, self.deltas)):
            self._replace(module, wrapper)
        if self._loss.decoder is not None:
            self._replace(self._loss.decoder, self._loss.wrap)
        for path in family.before_decoder if family.tied else ():
            try:
                target = self.base.model.get_submodule(path)
            except AttributeError:
                continue
            self._replace(target, self._before_decoder)
            return
        if family.tied and self.base.has_mlm_head:
            raise AttributeError(" or ".join(family.before_decoder))

    def _replace(self, target: nn.Module, make: Callable, *arguments) -> None:
        target.forward = make(target.forward, *arguments)
        self._replaced.append(target)

    def _at_embeddings(self, original: Callable) -> Callable:
        def forward(*args, **kwargs):
            x = original(*args, **kwargs)
            for step in self._plan.get("embeddings", ()):
                x = step(x)
            return x

        return forward

    def _at_norm(self, original: Callable, site: str, captured: dict) -> Callable:
        def forward(summed: Tensor) -> Tensor:
            steps = self._plan.get(site)
            if steps is None:
                captured.clear()
                return original(summed)
            at = Sublayer(summed, original, captured)
            for step in steps:
                at.add(step(at))
            result = at.result()
            captured.clear()
            return result

        return forward

    def _at_output(self, original: Callable, site: str, captured: dict) -> Callable:
        def forward(*args, **kwargs):
            result = original(*args, **kwargs)
            steps = self._plan.get(site)
            if steps is None:
                captured.clear()
                return result
            h = result[0] if isinstance(result, tuple) else result
            captured["output"] = h
            at = Sublayer(h + captured["residual"], _identity, captured)
            for step in steps:
                at.add(step(at))
            h = at.output
            captured.clear()
            if at.final_norm is not True:
                raise CompositionError(
                    f"A bottleneck with final_norm=False stands at {site}, but this base is pre-norm: it has no norm after the "
                    "residual to leave out. Set final_norm to true."
                )
            return (h, *result[1:]) if isinstance(result, tuple) else h

        return forward

    def _before_decoder(self, original: Callable) -> Callable:
        def forward(*args, **kwargs):
            y, rows = original(*args, **kwargs), self._rows
            y = y if rows is None else rows.sorted(y)
            for step in reversed(self._plan.get("embeddings", ())):
                y = step.inverse(y)
            return y if rows is None else rows.unsorted(y)

        return forward

    def _capture(self, site: str, what: str) -> None:
        """Keep a tensor that some module reads at a site, from the next forward pass on."""
        if (site, what) in self._captures:
            return
        place = getattr(self.base.family, self.base.sites[site].place)
        layer = self.base.encoder.get_submodule(self.base.family.layers)[self.base.sites[site].layer]
        captured = self._captured[site]

        def keep_input(_, args, kwargs):
            # DistilBERT's attention in transformers 4 calls its input `query`
            captured[what] = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))

        def keep_output(_, args, result):
            captured[what] = result[0] if isinstance(result, tuple) else result

        if what == "output" and place.norm is None:
            return  # `_at_output` keeps it itself
        if what == "residual" or what == "input" and place.input is None:
            handle = layer.get_submodule(place.residual).register_forward_pre_hook(keep_input, with_kwargs=True)
        else:
            path = place.output if what == "output" else place.input
            handle = layer.get_submodule(path).register_forward_hook(keep_output)
        self._captures[site, what] = handle

    def close(self) -> None:
        """Give the base back as it came: own code everywhere, no hook, nothing attached."""
        self.deltas.activate([])
        for target in self._replaced:
            target.__dict__.pop("forward", None)
        for handle in self._captures.values():
            handle.remove()
        self._replaced, self._captures, self._captured = [], {}, {}
        self.modules, self._plans, self._plan, self.composition, self._route = {}, {}, {}, Stack(), None
        self.base._engine = None


def _identity(x: Tensor) -> Tensor:
    return x
