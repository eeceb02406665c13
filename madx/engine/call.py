"""One forward pass as a value: all its state, and nothing that outlives it.

The hooks in the base read the call that is current in their context (a `ContextVar`). So two threads that use one
engine never see each other's state, and a backward pass that recomputes a layer (gradient checkpointing) does so in the
call of its own forward pass.
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

#: The rows and the positions in them, `(n,)` each.
Positions = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """The state of one forward pass.

    Args:
        plan: the steps at each site.
        tokens: the positions that hold tokens.
        slots: the contents of the reserved positions; None: there are no such positions.
        at: the positions to compute past the last layer's attention; None: all.
        targets: in a masked-LM loss the pieces to predict, `(n,)`; None: the decoder returns scores.
        sort, unsort: under a route, the order of the decoder's positions by branch and its inverse, `(n,)`; None: they
            are in order.
        offsets: under a route, the first row of each branch; see `madx.contract.rules`.
        given: cached inputs of the first layer to be computed, `(batch, tokens, width)`; None: there are none.
        backward: False: the base runs without gradients, since no trained parameter needs them.
        weights: raises if the weight deltas of the pass are no longer on the base; None: there were none.
        seen: tensors that hooks keep for each other, by (site, name), until the site has been computed.
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
        """Return the current call and its steps at a site.

        Raises CompositionError if there is no call although the active composition acts at the site: then a piece of
        the base was called by itself.
        """
        call = self._current.get()
        if call is not None:
            return call, call.plan.get(site)
        if self.plan().get(site):
            raise CompositionError(
                f"A piece of the base was called by itself at {site}, where the active composition acts. Call the "
                "engine or the whole encoder, or activate None for the base's own computation."
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
