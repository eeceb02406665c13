"""Weight deltas on a base: added in place, and removed so that theta_0 is restored exactly.

theta <- theta + lambda * delta at the touched places alone, one term of a composition after the other. Each term keeps
the values that it replaced; removing it writes these back, the last term first. So theta_0 is restored exactly in any
precision, and sparse deltas never need a copy of the base. Places are ascending and are processed in runs that fit a
processor's cache, so that a value that was read is still in the cache when its place is written.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.contract.module_type import Delta, WeightsType
from madx.errors import CompositionError

#: The number of places processed at once on a CPU: for more, torch would start threads, which cost more than the work.
RUN = 32_768
PIECE = 500_000  # the largest number of places that one thread gets together

T = TypeVar("T")
#: The state of a term: factors, and tensors with the number of their last change.
State = list[tuple[Any, Any]]


@dataclass(frozen=True)
class Share:
    """The contribution of one module to a term, for `explain()`.

    kept: the norm of its values that an election kept; None: there was no election.
    """

    module: str
    component: str
    unit: WeightsType
    scale: float
    kept: float | None = None


@dataclass(frozen=True)
class Term:
    """One summand of a composition's weight delta: `scale * deltas`.

    election: the text of the election that made it, because another grouping of the same modules elects other signs.
    """

    shares: tuple[Share, ...]
    scale: float
    deltas: Callable[[], list[Delta]]
    election: str | None = None

    def state(self) -> State:
        """Return all that the written values depend on."""
        found: State = [(self.scale, len(self.shares)), (self.election, None)]
        for share in self.shares:
            found += [(share.scale, None), *((t, t._version) for t in share.unit.state())]
        return found


@dataclass
class _Piece:
    """Places of one parameter.

    values: the values to add. found: the values that were there before, known for the first `done` places. start: of a
    dense delta, which has no indices: its first place.
    """

    parameter: str
    indices: Tensor | None
    values: Tensor
    offset: int
    found: Tensor
    start: int = 0
    done: int = 0

    def __len__(self) -> int:
        return len(self.found)

    def places(self) -> Tensor:
        """Indices into the flattened parameter, in int64."""
        if self.indices is None:
            return torch.arange(self.start, self.start + len(self.found), device=self.found.device)
        return self.indices.long().sub_(self.offset)

    def runs(self, device: torch.device, *more: Tensor) -> Iterator[tuple[Any, ...]]:
        """Yield run by run the places (a slice of a dense delta), the values found there and the entries of `more`.

        Without `more`, only the first `done` places. Each run needs few operations, because threads exchange Python's
        lock at every operation.
        """
        size = RUN if device.type == "cpu" else PIECE
        length = len(self.found) if more else self.done
        if self.indices is None:
            for a in range(0, length, size):
                b = min(a + size, length)
                yield (slice(self.start + a, self.start + b), *(t[a:b] for t in (self.found, *more)))
            return
        whole = (self.indices, self.found, *more)
        if not more:
            whole = tuple(t[:length] for t in whole)
        for indices, *others in zip(*(t.split(size) for t in whole)):
            places = indices.to(device).long()
            yield (places.sub_(self.offset) if self.offset else places, *others)


@dataclass(eq=False)
class Applied:
    """A term that has been added to the base."""

    term: Term
    state: State
    pieces: list[_Piece] = field(default_factory=list)


class TrainedDelta(Protocol):
    """A dense delta in training that is kept apart from the composition below it; see `madx.training.sparse`."""

    def lift(self) -> None:
        """Remove the delta, before another composition is activated."""

    def lay(self) -> None:
        """Add the delta to the composition that is active now."""


class WeightDeltas:
    """The weight deltas that are on a base now, in the order in which they were added."""

    def __init__(self, base: Base):
        self.base = base
        self.applied: list[Applied] = []
        #: While whole parameters are trained in place: copies of them from the beginning of the training.
        self.dense: dict[str, Tensor] = {}
        #: While a dense delta is trained over several compositions: the delta.
        self.trained: TrainedDelta | None = None
        self._copies: dict[str, Tensor] = {}

    def activate(self, terms: list[Term]) -> None:
        """Make exactly these terms act.

        Raises CompositionError when a sum leaves the base's number format. After any error the terms from before act
        again, with the entries that their modules have now.
        """
        states = [term.state() for term in terms]
        same = 0
        while same < min(len(states), len(self.applied)) and same_state(self.applied[same].state, states[same]):
            same += 1
        if same == len(self.applied) == len(terms):
            return
        before = [applied.term for applied in self.applied[same:]]
        if self.trained is not None:
            self.trained.lift()
        elif self.dense:
            raise CompositionError(
                "All weights of the base are trained in place now, so no other composition can act. Activate another "
                "one when the training has ended and the weights are restored."
            )
        try:
            self._remove(keep=same)
            for term in terms[same:]:
                self._add(term)
        except BaseException:
            self._remove(keep=same)
            for term in before:
                self._add(term)
            raise
        finally:
            if self.trained is not None:
                self.trained.lay()
            torch.clear_autocast_cache()  # it holds casts of trainable weights from before the change
        touched = {piece.parameter for applied in self.applied for piece in applied.pieces}
        self._copies = {name: copy for name, copy in self._copies.items() if name in touched}

    @torch.no_grad()
    def original(self, name: str) -> Tensor:
        """Return theta_0 of a parameter of the encoder, whatever is on the base now.

        It is the parameter itself if no delta touches it, and otherwise a copy. The copy is made at the first call and
        kept for as long as some delta touches the parameter.
        """
        parameter = self.base.encoder.get_parameter(name)
        start = self.dense.get(name, parameter)
        pieces = [p for applied in reversed(self.applied) for p in applied.pieces if p.parameter == name]
        if not pieces:
            return start
        copy = self._copies.get(name)
        if copy is None or copy.dtype != parameter.dtype or copy.device != parameter.device:
            copy = self._copies[name] = start.detach().clone()
            for piece in pieces:
                _write(copy.view(-1), piece)
        return copy

    def touched(self, parameter: nn.Parameter) -> bool:
        """Return true if some delta on the base touches this parameter."""
        touched = {piece.parameter for applied in self.applied for piece in applied.pieces}
        return any(self.base.encoder.get_parameter(name) is parameter for name in touched)

    def keep(self) -> None:
        """Make the deltas on the base part of its own weights: they can no longer be removed."""
        self.applied, self._copies = [], {}

    # ---- a weight delta in training --------------------------------------------------------------------------------

    @torch.no_grad()
    def rewrite(self, applied: Applied) -> None:
        """Write the last term again, after its values have changed: found + scale * values."""
        for piece, values in zip(applied.pieces, self._values(applied)):
            piece.values = values
        _each(lambda piece: self._run(piece, applied.term.scale, fresh=False), applied.pieces)
        torch.clear_autocast_cache()

    def _values(self, applied: Applied) -> Iterator[Tensor]:
        for delta in applied.term.deltas():
            yield from delta.values.detach().reshape(-1).split(PIECE)

    # ---- adding and removing ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def _add(self, term: Term) -> None:
        applied = Applied(term, term.state())
        self.applied.append(applied)
        try:
            for delta in term.deltas():
                applied.pieces += self._pieces(delta)
            fits = _each(lambda piece: self._run(piece, term.scale, fresh=True), applied.pieces)
            if not all(fits):
                worst = next(p.parameter for p, fit in zip(applied.pieces, fits) if not fit)
                names = ", ".join(dict.fromkeys(s.module for s in term.shares))
                raise CompositionError(
                    f"With the weight delta of {names}, {worst} leaves the range of {str(self.base.model.dtype)[6:]}: "
                    "the base is as before. Use a smaller factor, or a base in float32."
                )
        except BaseException:
            self._remove(keep=len(self.applied) - 1)
            raise

    def _pieces(self, delta: Delta) -> Iterator[_Piece]:
        parameter = self.base.encoder.get_parameter(delta.parameter)
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()
        if delta.indices is None and delta.values.shape != parameter.shape:
            raise CompositionError(
                f"A dense delta of {delta.parameter} has the shape {tuple(delta.values.shape)}, the parameter "
                f"{tuple(parameter.shape)}: give one value for each weight, or indices."
            )
        values, start = delta.values.detach().reshape(-1), 0
        found = torch.empty(len(values), dtype=parameter.dtype, device=parameter.device)
        indices = delta.indices.split(PIECE) if delta.indices is not None else repeat(None)
        for some, values_here, place in zip(indices, values.split(PIECE), found.split(PIECE)):
            yield _Piece(delta.parameter, some, values_here, delta.offset, place, start)
            start += len(place)

    def _run(self, piece: _Piece, scale: float, *, fresh: bool) -> bool:
        """Compute theta <- found + scale * values, run by run; if fresh, first found <- theta.

        If fresh, it returns true if all results are finite.
        """
        flat = self.base.encoder.get_parameter(piece.parameter).detach().view(-1)
        for places, found, values in piece.runs(flat.device, piece.values):
            if fresh:
                _read(flat, places, found)
                piece.done += len(found)
            _put(flat, places, torch.add(found, values, alpha=scale).to(flat.dtype))
        return not fresh or _cannot_overflow(piece, scale, flat.dtype) or bool(flat[piece.places()].isfinite().all())

    @torch.no_grad()
    def _remove(self, *, keep: int) -> None:
        while len(self.applied) > keep:
            pieces = self.applied[-1].pieces  # no place occurs twice in one term, so their order does not matter
            _each(lambda p: _write(self.base.encoder.get_parameter(p.parameter).detach().view(-1), p), pieces)
            self.applied.pop()


def same_state(one: State, other: State) -> bool:
    """Return true for equal numbers and identical tensors at the same version."""
    return len(one) == len(other) and all(
        (a is c or not isinstance(a, Tensor) and a == c) and b == d for (a, b), (c, d) in zip(one, other)
    )


def _write(flat: Tensor, piece: _Piece) -> None:
    """Write the values that were found back into a flattened parameter."""
    for places, found in piece.runs(flat.device):
        _put(flat, places, found.to(flat.device, flat.dtype))


def _read(flat: Tensor, places: Tensor | slice, out: Tensor) -> None:
    """out <- flat[places]."""
    if isinstance(places, slice):
        out.copy_(flat[places])
    else:
        torch.index_select(flat, 0, places, out=out)


def _put(flat: Tensor, places: Tensor | slice, values: Tensor) -> None:
    """flat[places] <- values."""
    if isinstance(places, slice):
        flat[places] = values
    else:
        flat.scatter_(0, places, values)


def _cannot_overflow(piece: _Piece, scale: float, dtype: torch.dtype) -> bool:
    """Return true if max |found| + |scale| max |values| is in the range of the format, which bounds all sums."""
    if not len(piece):
        return True
    largest, change = (torch.stack(ends).abs().max().item() for ends in (piece.found.aminmax(), piece.values.aminmax()))
    return bool(largest + abs(scale) * change <= torch.finfo(dtype).max)  # false for NaN too


def _each(work: Callable[[_Piece], T], pieces: Sequence[_Piece]) -> list[T]:
    """Return the results of `work` for all pieces; many places are distributed over threads.

    A thread takes neighbouring pieces: threads that work far apart in memory are a sixth faster than threads that share
    regions.
    """
    threads, places = min(torch.get_num_threads(), len(pieces)), sum(len(p) for p in pieces)
    if threads < 2 or places < PIECE:
        return [work(piece) for piece in pieces]
    shares: list[list[_Piece]] = [[] for _ in range(threads)]
    before = 0
    for piece in pieces:
        shares[min(before * threads // places, threads - 1)].append(piece)
        before += len(piece)

    @torch.no_grad()
    def each(share: list[_Piece]) -> list[T]:
        return [work(piece) for piece in share]

    with ThreadPoolExecutor(threads) as pool:
        return [result for results in pool.map(each, shares) for result in results]


def changes(applied: Applied) -> dict[tuple[str, str], float]:
    """Return by (module, component) |change| / |theta before it| at the places of the term, as the base rounds them."""
    before = sum(p.found.float().square().sum(dtype=torch.float64).item() for p in applied.pieces)
    result = {}
    for share in applied.term.shares:
        change = 0.0 if share.kept is None else share.kept**2
        for piece in applied.pieces if share.kept is None else ():
            new = torch.add(piece.found, piece.values, alpha=applied.term.scale).to(piece.found.dtype)
            change += (new.float() - piece.found.float()).square().sum(dtype=torch.float64).item()
        result[share.module, share.component] = (change / max(before, 1e-60)) ** 0.5
    return result
