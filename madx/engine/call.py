"""One forward pass as a value: everything that holds in it, and nothing that outlives it.

The hooks in the base read the call that is current in their context (a `ContextVar`), so two threads that use one engine
never see each other's state, and a backward pass that recomputes a layer (gradient checkpointing) does so in the call of
its own forward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor

from madx.contract.rules import ROW_OFFSETS, Steps
from madx.contract.views import Tokens
from madx.engine.plan import Plan
from madx.engine.slots import SlotBatch
from madx.errors import CompositionError

#: numbers of rows and of positions in them, `(n,)` each
Positions = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """What holds in one forward pass.

    Args:
        plan: what runs at each site.
        tokens: which positions hold tokens.
        slots: how the reserved positions are filled; None: there are none.
        at: the positions that somebody will read, past the last layer's attention; None: all.
        targets: in a masked-LM loss the pieces to predict, `(n,)`; None: the decoder gives scores.
        sort, unsort: orders of the decoder's positions under a route, `(n,)`; None: they lie as they are.
        offsets: under a route where the rows of each branch begin; see `madx.contract.rules`.
        given: cached states that enter the first layer to be computed, `(batch, tokens, width)`; None: none are known.
        backward: False: the base runs without gradients, since nothing that is trained needs them.
        weights: raises when the weight deltas of the pass are no longer on the base; None: there were none.
        seen: tensors that hooks keep on the way, by (site, name); they are let go when the site has been computed.
    """

    plan: Plan
    tokens: Tokens = Tokens()
    slots: SlotBatch | None = None
    at: Positions | None = None
    targets: Tensor | None = None
    sort: Tensor | None = None
    unsort: Tensor | None = None
    offsets: Sequence[int] = ()
    given: Tensor | None = None
    backward: bool = True
    weights: Callable[[], None] | None = None
    seen: dict[tuple[str, str], Tensor] = field(default_factory=dict)


class CurrentCall:
    """The call that is current in this thread or task, if one is. plan: gives the active plan."""

    def __init__(self, plan: Callable[[], Plan]) -> None:
        self.plan = plan
        self._current: ContextVar[Call | None] = ContextVar("call", default=None)

    def get(self) -> Call | None:
        """The current call."""
        return self._current.get()

    def at(self, site: str) -> tuple[Call | None, Steps | None]:
        """The current call and its steps at a site. Raises CompositionError where there is no call although the active
        composition acts at the site: somebody calls a piece of the base by itself."""
        call = self._current.get()
        if call is not None:
            return call, call.plan.get(site)
        if self.plan().get(site):
            raise CompositionError(
                f"A piece of the base was called by itself at {site}, where the active composition acts. Call the engine or the "
                "whole encoder, or activate None for the base's own computation."
            )
        return None, None

    @contextmanager
    def running(self, call: Call) -> Iterator[Call]:
        """Make a call current for the length of a `with` block."""
        token, offsets = self._current.set(call), ROW_OFFSETS.set(call.offsets)
        try:
            yield call
        finally:
            ROW_OFFSETS.reset(offsets)
            self._current.reset(token)
