"""Hooks: how the engine reaches the sites of a base.

A hook replaces the `forward` of one of the base's modules on the instance; its class, its parameters and their names
are never touched. Hooks exist only for the sites where attached modules have units: they are made when a module is
attached and removed when the last module that needs them is detached, so an idle base runs its own code. A hook has no
state of its own: it reads the call that is current (`madx.engine.call`).

Hooks belong to one engine. A copy or a pickle of a hooked base would act under the original's compositions, so both are
refused; `copy.deepcopy(engine)` makes a new base with an engine of its own.
"""

from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from madx.contract.rules import undone
from madx.contract.views import LayerOutput, Projection, Sublayer
from madx.engine.call import Call, CurrentCall
from madx.engine.slots import masked
from madx.errors import CompositionError, MadxError

NOTHING: dict[str, Tensor] = {}


class Hook:
    """Replaces the `forward` of one module; `original` is the replaced function, which may be another hook."""

    def __init__(self, current: CurrentCall):
        self.current = current
        self.original: Callable[..., Any] = lambda: None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise MadxError(
            "This model carries an engine with modules attached, and a copy of it would act under the original's "
            "compositions. Copy the engine, copy.deepcopy(engine), or call engine.close() before copying the model."
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise MadxError(
            "This model carries an engine with modules attached and cannot be pickled. Save the modules with "
            "madx.save_module and the base by its own save_pretrained after engine.close()."
        )


class Keep(Hook):
    """Keeps the first input or the output of a module for the site that reads it."""

    def __init__(self, current: CurrentCall, site: str, name: str, *, output: bool):
        super().__init__(current)
        self.key, self.output = (site, name), output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.current.get()
        if call is None:
            return self.original(*args, **kwargs)
        if not self.output:
            # DistilBERT's attention in transformers 4 calls its input `query`
            call.seen[self.key] = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))  # type: ignore[assignment]
            return self.original(*args, **kwargs)
        result = self.original(*args, **kwargs)
        call.seen[self.key] = _tensor(result)
        return result


class AtEmbeddings(Hook):
    """The hook at the embedding block: maps its output, then puts the slots in front of it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.current.get() or Call(self.current.plan())
        if call.slots is None:
            x = self.original(*args, **kwargs)
        else:
            x = self._tokens(call, args, kwargs)
        for step in call.plan.get("embeddings", ()):
            x = step(x)
        return x if call.slots is None else call.slots.embed(x)

    def _tokens(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Embed the tokens alone. Those that stand s positions behind their own are embedded behind s slots, whose
        vectors are dropped."""
        mask: Any = call.tokens.mask  # with slots there is always one
        slots, total = call.slots.length, mask.shape[1]  # type: ignore[union-attr]
        rows = call.slots.shifts(len(mask))  # type: ignore[union-attr]
        found: dict[int, Tensor] = {}
        for shift in {shift for *_, shift in rows}:
            before = slots - shift
            some = tuple(_tokens_alone(a, before, total) for a in args)
            named = {k: _tokens_alone(a, before, total, at_end=k == "position_ids") for k, a in kwargs.items()}
            found[shift] = self.original(*some, **named)[:, shift:]
        if len(found) == 1:
            return next(iter(found.values()))
        return torch.cat([found[shift][first:last] for first, last, shift in rows])


def _tokens_alone(argument: Any, slots: int, total: int, *, at_end: bool = False) -> Any:
    """Return an argument of the embedding block without the slots; positions are counted from the first token."""
    if not isinstance(argument, Tensor) or argument.dim() < 2 or argument.shape[1] != total:
        return argument
    return argument[:, : total - slots] if at_end else argument[:, slots:]


class AtNorm(Hook):
    """The hook at a sublayer of a post-norm base: replaces the LN whose input is h + x."""

    def __init__(self, current: CurrentCall, site: str, reads: Sequence[str]):
        super().__init__(current)
        self.site, self.keys = site, [(name, (site, name)) for name in reads]

    def __call__(self, summed: Tensor) -> Any:
        call, steps = self.current.at(self.site)
        if call is None or steps is None:
            if call is not None and self.keys:
                _take(call, self.keys)
            return self.original(summed)
        view = Sublayer(summed, self.original, _take(call, self.keys), call.tokens)
        for step in steps:
            view.add(step(view))
        flag = call.plan.without_norm.get(self.site)
        if flag is None:
            return self.original(view.sum)
        if flag is True:
            return view.value
        return torch.where(flag.rows(view.sum.device)[:, None, None], view.value, self.original(view.sum))


class AtOutput(Hook):
    """The hook at a sublayer of a pre-norm base: replaces the module whose output is h."""

    def __init__(self, current: CurrentCall, site: str, reads: Sequence[str]):
        super().__init__(current)
        self.site, self.keys = site, [(name, (site, name)) for name in reads if name != "output"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.original(*args, **kwargs)
        call, steps = self.current.at(self.site)
        if call is None or steps is None:
            if call is not None:
                _take(call, self.keys)
            return result
        h = _tensor(result)
        captured = {**_take(call, self.keys), "output": h}
        view = Sublayer(h + captured["residual"], _identity, captured, call.tokens)
        for step in steps:
            view.add(step(view))
        return _replaced(result, view.value)


def _identity(x: Tensor) -> Tensor:
    return x


class AtMaps(Hook):
    """The hook at the linear maps that one module computes: a single map, or ModernBERT's query, key and value.

    sites: for each share of the output its site, and `key` or `value` if prefixes write to it. slots: the site of the
    layer's prefixes.
    """

    def __init__(self, current: CurrentCall, linear: nn.Linear, sites: Sequence[tuple[str, str | None]], *, slots: str):
        super().__init__(current)
        self.linear, self.sites, self.slots = linear, sites, slots

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.original(x)
        call = self.current.get()
        if call is None:
            for site, _ in self.sites:
                self.current.at(site)
            return y
        # DeBERTa also maps relative positions (1, 2 * span, width), which have no rows and no slots
        writes = call.slots is not None and self._of_tokens(call, x)
        if not writes and not any(site in call.plan for site, _ in self.sites):
            return y
        if len(self.sites) == 1:
            return self._one(call, 0, x, y, writes)
        shares = y.chunk(len(self.sites), dim=-1)
        return torch.cat([self._one(call, k, x, share, writes) for k, share in enumerate(shares)], dim=-1)

    def _one(self, call: Call, number: int, x: Tensor, y: Tensor, writes: bool) -> Tensor:
        site, which = self.sites[number]
        steps = call.plan.get(site)
        if steps:
            rows = self.linear.out_features // len(self.sites)
            part = slice(number * rows, (number + 1) * rows)
            bias = None if self.linear.bias is None else self.linear.bias[part]
            view = Projection(y, {"input": x}, call.tokens, self.linear.weight[part], bias)
            for step in steps:
                view.add(step(view))
            y = view.value
        if writes and which is not None and call.slots is not None and call.slots.acts_at(self.slots):
            kind: Literal["key", "value"] = "key" if which == "key" else "value"
            y = call.slots.write(self.slots, kind, y, given=x, tokens=call.tokens)
        return y

    def _of_tokens(self, call: Call, x: Tensor) -> bool:
        tokens = call.seen.get((self.slots, "attention_input"))
        return tokens is None or x is tokens


class AtLayer(Hook):
    """The hook at a layer: adapts the attention mask if this layer shows or hides slots, and changes the output."""

    def __init__(
        self, current: CurrentCall, site: str, number: int, reads: Sequence[str], *, local: bool, keep: Sequence[str]
    ):
        super().__init__(current)
        self.site, self.number, self.local = site, number, local
        self.reads, self.keep = reads, keep

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call, steps = self.current.at(self.site)
        if call is None:
            return self.original(*args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()))
        for site in self.keep:
            call.seen[site, "layer_input"] = x
        if call.slots is not None:
            args, kwargs = self._mask(call, x, args, kwargs)
        result = self.original(*args, **kwargs)
        if steps is None:
            return result
        captured = {"layer_input": x} if "layer_input" in self.reads else NOTHING
        view = LayerOutput(_tensor(result), captured, call.tokens)
        for step in steps:
            view.add(step(view))
        return _replaced(result, view.value)

    def _mask(
        self, call: Call, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        shown = call.slots.shown(self.number, call.tokens.mask, local=self.local)  # type: ignore[union-attr, arg-type]
        if shown is None:
            return args, kwargs
        name = "sliding_window_mask" if self.local and "sliding_window_mask" in kwargs else None
        if name is None:
            name = next((k for k in ("attention_mask", "attn_mask") if k in kwargs), None)
        if name is not None:
            return args, {**kwargs, name: masked(kwargs[name], shown, x)}
        for place, argument in enumerate(args[1:], start=1):
            if argument is None or isinstance(argument, Tensor) and argument.dim() == 4:
                return (*args[:place], masked(argument, shown, x), *args[place + 1 :]), kwargs
        raise MadxError(
            f"Layer {self.number} of this base takes its attention mask in a way that madx does not know, so a prefix "
            "cannot be hidden there. Use a prefix in all layers, or another base."
        )


class AtEncoder(Hook):
    """The hook at the encoder: makes the call of a pass that bypasses the engine, and changes the last state."""

    def __init__(self, current: CurrentCall, enter: Callable[[dict[str, Any]], Any], *, states: bool):
        super().__init__(current)
        self.enter, self.states = enter, states

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.current.get() is not None:
            return self._run(*args, **kwargs)
        # a caller may give the attention mask by position, so the arguments go in under their names
        named = signature(self.original).bind(*args, **kwargs).arguments if args else kwargs
        with self.enter(named):
            return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        call = self.current.get()
        steps = call.plan.get("encoder") if call is not None else None
        if call is None or steps is None:
            return self.original(*args, **kwargs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and call.backward):
            result = self.original(*args, **{**kwargs, "output_hidden_states": True} if self.states else kwargs)
        last = result.last_hidden_state if hasattr(result, "last_hidden_state") else result[0]
        captured: dict[str, Any] = {"states": tuple(result.hidden_states)} if self.states else {}
        view = LayerOutput(last, captured, call.tokens)
        for step in steps:
            view.add(step(view))
        if hasattr(result, "last_hidden_state"):
            result.last_hidden_state = view.value
            return result
        return (view.value, *result[1:])


class BeforeDecoder(Hook):
    """The hook before the masked-LM decoder: inverts the maps of the embeddings, the last one first."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.original(*args, **kwargs)
        call = self.current.get()
        plan = self.current.plan() if call is None else call.plan
        if plan.refusal is not None:
            raise CompositionError(plan.refusal)
        steps = plan.get("embeddings", ())
        if not steps:
            return y
        if call is None or call.sort is None or call.unsort is None:
            return undone(y, steps)
        return undone(y.index_select(0, call.sort), steps).index_select(0, call.unsort)


class LastLayer(Hook):
    """The hook past the last layer's attention: continues with the needed positions alone; see `last_layer.py`."""

    def __call__(self, summed: Tensor) -> Tensor:
        result: Tensor = self.original(summed)
        call = self.current.get()
        return result if call is None or call.at is None else result[call.at][None]


def _take(call: Call, keys: Iterable[tuple[str, tuple[str, str]]]) -> dict[str, Tensor]:
    """Return the tensors kept for a site and release them from the call.

    The input of a layer stays, because a backward pass that recomputes a sublayer does not run the layer's hook again.
    """
    found = {}
    for name, key in keys:
        value = call.seen.get(key) if name == "layer_input" else call.seen.pop(key, None)
        if value is not None:
            found[name] = value
    return found


def _tensor(result: Any) -> Tensor:
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor


def _replaced(result: Any, tensor: Tensor) -> Any:
    return (tensor, *result[1:]) if isinstance(result, tuple) else tensor
