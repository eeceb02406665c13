"""Runs forward passes: makes the call of each pass, with slots, needed positions, cached states and sorted rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.composition import Stack
from madx.contract.views import Tokens
from madx.engine.activation_cache import CACHED, ActivationCache, keys_of
from madx.engine.call import Call, CurrentCall, Positions
from madx.engine.last_layer import can_narrow, chosen
from madx.engine.plan import Plan
from madx.engine.routing import RoutePlan, Rows
from madx.engine.slots import SlotBatch, SlotPlan
from madx.errors import CompositionError

Groups = tuple[tuple[int, int, SlotPlan], ...]


def precision(base: Base) -> AbstractContextManager[object]:
    """Compute the products of modules, which are float32, in the precision of a base in half precision."""
    dtype = next(base.encoder.parameters()).dtype  # a head in training is float32
    if dtype not in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled(base.device.type):
        return nullcontext()
    return torch.autocast(base.device.type, dtype=dtype)


class Forward:
    """One forward pass of the encoder under a plan.

    Args:
        base: the base to run.
        current: holds the call for the hooks.
        backward: False: the base runs without gradients.
        hooked: True: the engine has hooks in the base; without them the last layer computes all positions.
        weights: raises unless the same weight deltas are on the base as now; called by a recomputation in the backward
            pass.
    """

    def __init__(
        self, base: Base, current: CurrentCall, *, backward: bool, hooked: bool, weights: Callable[[], None] | None
    ):
        self.base, self.current, self.backward, self.hooked, self.weights = base, current, backward, hooked, weights

    def run(
        self,
        plan: Plan,
        ids: Tensor,
        mask: Tensor | None,
        *,
        at: Positions | None = None,
        groups: Groups = (),
        offsets: Sequence[int] = (),
        cache: ActivationCache | None = None,
    ) -> Tensor:
        """Compute the last layer's output, `(batch, tokens, width)`, or `(n, width)` at the needed positions.

        Args:
            plan: the steps at each site.
            ids, mask: `(batch, tokens)`; None: no padding.
            at: the needed positions; None: all.
            groups: for a plan with slots: neighbouring rows with the slots that each group reserves.
            offsets: under a route, the first row of each branch.
            cache: of a training run whose lower layers do not change.
        """
        length = max((each.length for *_, each in groups), default=0)
        slots = SlotBatch(length, groups) if length else None
        tokens = Tokens(mask)
        more: dict[str, Tensor] = {}
        if slots is not None:
            cache = None  # states are kept for tokens alone
            tokens = slots.tokens(torch.ones_like(ids) if mask is None else mask)
            ids, at = self._with_slots(ids, length), None if at is None else (at[0], at[1] + length)
            more = self._token_types(ids)
        whole = cache is not None and cache.below == self.base.depth  # the last layer's states are kept, so all of them
        narrowed = at is not None and self.hooked and not whole and can_narrow(self.base, plan)
        keys = keys_of(ids, mask) if cache is not None else []
        given = cache.known(keys, ids) if cache is not None else None
        call = Call(
            plan,
            tokens,
            slots,
            at=at if narrowed else None,
            given=given,
            offsets=offsets,
            backward=self.backward,
            weights=self.weights,
        )
        hidden = self._encode(call, ids, tokens.mask, **more)
        if cache is not None and given is None and CACHED in call.seen:
            cache.put(keys, call.seen.pop(CACHED), ids)
        return hidden[:, length:] if at is None and length else chosen(hidden, at, narrowed=narrowed)

    def _with_slots(self, ids: Tensor, length: int) -> Tensor:
        """Put dummy ids for the slots before the tokens."""
        return torch.cat([ids.new_full((len(ids), length), self.base.config.pad_token_id or 0), ids], dim=1)

    def _token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """Return the token types, all zero, for a base that has such: transformers 4 has zeros of its own for as many
        positions as the base has, and slots and tokens may be more."""
        embeddings = self.base.encoder.get_submodule(self.base.family.embeddings)
        return {"token_type_ids": torch.zeros_like(ids)} if hasattr(embeddings, "token_type_ids") else {}

    def routed(
        self,
        route: RoutePlan,
        rows: Rows,
        ids: Tensor,
        mask: Tensor | None,
        *,
        at: Positions | None,
        add_weights: Callable[[Stack], None],
    ) -> Tensor:
        """Run one forward pass of sorted rows, or one for each group of rows that cannot share a pass.

        add_weights: makes the weight deltas of a stack act.
        """
        ids, mask = rows.sorted(ids), None if mask is None else rows.sorted(mask)
        passes = list(route.passes(rows))
        needed = rows.places(at) if at is not None and len(passes) == 1 else None
        found: list[Tensor] = []
        for each in passes:
            if route.several_weights:
                if found and found[-1].requires_grad:
                    raise CompositionError(
                        f"The branches of '{route.route}' have different weight deltas, and gradients cannot flow back "
                        "through weights that have changed since. Train on rows of one such branch at a time, or use "
                        "no_grad."
                    )
                add_weights(each.stack)
            here = None if mask is None else mask[each.rows]
            found.append(self.run(each.plan, ids[each.rows], here, at=needed, groups=each.slots, offsets=each.offsets))
        if needed is not None:
            return found[0]
        whole = rows.unsorted(found[0] if len(found) == 1 else torch.cat(found))
        return whole if at is None else whole[at]

    def _encode(self, call: Call, ids: Tensor, mask: Tensor | None, **more: Tensor) -> Tensor:
        replay_in_own_call(self.base.encoder, self.current)
        with (
            self.current.running(call),
            torch.set_grad_enabled(torch.is_grad_enabled() and (call.backward or "encoder" in call.plan)),
        ):
            hidden: Tensor = self.base.encoder(input_ids=ids, attention_mask=mask, **more).last_hidden_state
            return hidden


def one_group(plan: Plan, rows: int) -> Groups:
    """Return all rows of a batch as one group with the slots of one stack."""
    return ((0, rows, plan.slots),) if plan.slots.blocks else ()


# ---- gradient checkpointing ------------------------------------------------------------------------------------------


class Replay:
    """Replaces a layer's checkpointing function.

    The recomputation in the backward pass runs in the call of its own forward pass, whatever is active then.
    """

    def __init__(self, original: Any, current: CurrentCall):
        self.original, self.current = original, current

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        call = self.current.get()
        if call is None:
            return self.original(function, *args, **kwargs)

        def bound(*inner: Any, **more: Any) -> Any:
            if self.current.get() is call:
                return function(*inner, **more)
            if call.weights is not None:
                call.weights()
            with self.current.running(call):
                return function(*inner, **more)

        return self.original(bound, *args, **kwargs)


def replay_in_own_call(encoder: nn.Module, current: CurrentCall) -> None:
    """Wrap the checkpointing functions of all layers that have one, once gradient checkpointing is switched on."""
    if not (torch.is_grad_enabled() and encoder.training):
        return
    for module in encoder.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if function is not None and not isinstance(function, Replay):
            module.__dict__["_gradient_checkpointing_func"] = Replay(function, current)


def forget_replays(encoder: nn.Module) -> None:
    """Restore the layers' own checkpointing functions."""
    for module in encoder.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if isinstance(function, Replay):
            module.__dict__["_gradient_checkpointing_func"] = function.original


@contextmanager
def without_the_engine(current: CurrentCall, plan: Plan, arguments: dict[str, Any]) -> Iterator[None]:
    """Make the call of a forward pass that was started on the base itself while a composition is active.

    Raises CompositionError for a route and for slots, which need the engine.
    """
    if plan.refusal is not None:
        raise CompositionError(plan.refusal)
    if plan.slots.blocks:
        names = ", ".join(block.module for _, block in plan.slots.blocks)
        raise CompositionError(
            f"{names} reserves positions before the tokens, and a call of the base without the engine does not add "
            "them. Call engine(input_ids, attention_mask), or activate another composition."
        )
    mask = arguments.get("attention_mask")
    with current.running(Call(plan, Tokens(mask if isinstance(mask, Tensor) and mask.dim() == 2 else None))):
        yield
