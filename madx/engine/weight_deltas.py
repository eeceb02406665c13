"""Weight deltas on a base: added in place, and removed so that theta_0 is restored exactly.

theta <- theta + lambda * delta at the touched places alone, one term of a composition after the other. Each term keeps the
values that it found; removing it writes those back, the last term first. So theta_0 returns bit for bit in any precision,
and with sparse deltas nothing is ever as large as the base. Places are ascending and are processed in runs that fit a
processor's cache, so that a value that was read is still there when it is written.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.contract.module_type import Delta, WeightsType
from madx.errors import CompositionError

RUN = 32_768  # places worked on at once; with more of them torch would start threads for such a small piece
PIECE = 500_000  # places at most that go to one thread together


@dataclass(frozen=True)
class Share:
    """What one module gives to a term: for `explain()`. kept: |its values that count| (None: all of them do)."""

    module: str
    component: str
    unit: WeightsType
    scale: float
    kept: float | None = None


@dataclass(frozen=True)
class Term:
    """One summand of a composition's difference: `scale * differences`. election: the text of the election that made it, for
    the same modules grouped otherwise elect otherwise."""

    shares: tuple[Share, ...]
    scale: float
    deltas: Callable[[], list[Delta]]
    election: str | None = None

    def state(self) -> list[tuple]:
        """What the written values depend on: factors, and tensors with the number of their last change."""
        found: list[tuple] = [(self.scale, len(self.shares)), (self.election, None)]
        for share in self.shares:
            found += [(share.scale, None), *((t, t._version) for t in share.unit.state())]
        return found


@dataclass
class _Piece:
    """Places of one parameter: the values found there (as far as `done`), and what is added. A dense delta has no indices:
    its places are all those from `start` on."""

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

    def runs(self, device: torch.device, *more: Tensor) -> Iterator[tuple]:
        """Run by run the places (a slice, for a dense delta), the values found there and what else is given of them; without
        more, as far as `done`. Few operations for each run: threads pass Python's lock to each other at every one."""
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
    """A term that is on the base."""

    term: Term
    state: list[tuple]
    pieces: list[_Piece] = field(default_factory=list)


class WeightDeltas:
    """The differences that are on a base now, in the order in which they were put on."""

    def __init__(self, base: Base):
        self.base = base
        self.applied: list[Applied] = []
        #: dense copies, kept by a training that moves whole parameters, of what those were when it began
        self.dense: dict[str, Tensor] = {}
        #: a training that moves them over several compositions: `lift()` takes off what has moved, `lay()` puts it over another composition
        self.overlay: Any = None
        self._copies: dict[str, Tensor] = {}

    def activate(self, terms: list[Term]) -> None:
        """Make exactly these terms act. Raises CompositionError when a sum leaves the base's number format; whatever
        goes wrong, what acted before acts again, with the entries that its modules have now."""
        states = [term.state() for term in terms]
        same = 0
        while same < min(len(states), len(self.applied)) and same_state(self.applied[same].state, states[same]):
            same += 1
        if same == len(self.applied) == len(terms):
            return
        before = [applied.term for applied in self.applied[same:]]
        if self.overlay is not None:
            self.overlay.lift()
        elif self.dense:
            raise CompositionError(
                "All weights of the base move in place now: no other composition can act until they are back."
            )
        try:
            self._take_off(same)
            for term in terms[same:]:
                self._put_on(term)
        except BaseException:
            self._take_off(same)
            for term in before:
                self._put_on(term)
            raise
        finally:
            if self.overlay is not None:
                self.overlay.lay()
            torch.clear_autocast_cache()  # its casts of weights that ask for gradients do not see that they have changed
        touched = {piece.parameter for applied in self.applied for piece in applied.pieces}
        self._copies = {name: copy for name, copy in self._copies.items() if name in touched}

    @torch.no_grad()
    def original(self, name: str) -> Tensor:
        """theta_0 of a parameter of the encoder, whatever is on the base now: the parameter itself if it is untouched, else
        a copy that is made at the first call and kept for as long as something touches the parameter."""
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
        """Whether some delta on the base touches this parameter."""
        touched = {piece.parameter for applied in self.applied for piece in applied.pieces}
        return any(self.base.encoder.get_parameter(name) is parameter for name in touched)

    def keep(self) -> None:
        """Make what is on the base now its own: it can no longer be taken off."""
        self.applied, self._copies = [], {}

    # ---- a difference in training ----------------------------------------------------------------------------------

    @torch.no_grad()
    def rewrite(self, applied: Applied) -> None:
        """Write the last term again, after its values have moved: found + scale * values."""
        for piece, values in zip(applied.pieces, self._values(applied)):
            piece.values = values
        _each(lambda piece: self._run(piece, applied.term.scale, fresh=False), applied.pieces)
        torch.clear_autocast_cache()

    def _values(self, applied: Applied) -> Iterator[Tensor]:
        for delta in applied.term.deltas():
            yield from delta.values.detach().reshape(-1).split(PIECE)

    # ---- on and off --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _put_on(self, term: Term) -> None:
        applied = Applied(term, term.state())
        self.applied.append(applied)
        try:
            for delta in term.deltas():
                parameter = self.base.encoder.get_parameter(delta.parameter)
                if not parameter.is_contiguous():
                    parameter.data = parameter.data.contiguous()
                values, start = delta.values.detach().reshape(-1), 0
                if delta.indices is None and delta.values.shape != parameter.shape:
                    raise CompositionError(
                        f"A dense delta of {delta.parameter} has the shape {tuple(delta.values.shape)}, the parameter "
                        f"{tuple(parameter.shape)}: give one value for each weight, or indices."
                    )
                found = torch.empty(len(values), dtype=parameter.dtype, device=parameter.device)
                indices = delta.indices.split(PIECE) if delta.indices is not None else repeat(None)
                for some, values_here, place in zip(indices, values.split(PIECE), found.split(PIECE)):
                    applied.pieces.append(_Piece(delta.parameter, some, values_here, delta.offset, place, start))
                    start += len(place)
            fits = _each(lambda piece: self._run(piece, term.scale, fresh=True), applied.pieces)
            if not all(fits):
                worst = next(p.parameter for p, fit in zip(applied.pieces, fits) if not fit)
                names = ", ".join(dict.fromkeys(s.module for s in term.shares))
                raise CompositionError(
                    f"With the difference of {names}, {worst} leaves the range of {str(self.base.model.dtype)[6:]}: "
                    "the base is as before. Use a smaller factor, or a base in float32."
                )
        except BaseException:
            self._take_off(len(self.applied) - 1)
            raise

    def _run(self, piece: _Piece, scale: float, *, fresh: bool) -> bool:
        """found <- theta (if fresh), theta <- found + scale * values, run by run; if fresh, whether all of it is finite."""
        flat = self.base.encoder.get_parameter(piece.parameter).detach().view(-1)
        for places, found, values in piece.runs(flat.device, piece.values):
            if fresh:
                _read(flat, places, found)
                piece.done += len(found)
            _put(flat, places, torch.add(found, values, alpha=scale).to(flat.dtype))
        return not fresh or _cannot_overflow(piece, scale, flat.dtype) or bool(flat[piece.places()].isfinite().all())

    @torch.no_grad()
    def _take_off(self, keep: int) -> None:
        while len(self.applied) > keep:
            pieces = self.applied[-1].pieces  # of one term: no place is there twice, so their order does not matter
            _each(lambda p: _write(self.base.encoder.get_parameter(p.parameter).detach().view(-1), p), pieces)
            self.applied.pop()


def same_state(one: list[tuple], other: list[tuple]) -> bool:
    """Equal numbers, and the very same tensors at the same version."""
    return len(one) == len(other) and all(
        (a is c or not isinstance(a, Tensor) and a == c) and b == d for (a, b), (c, d) in zip(one, other)
    )


def _write(flat: Tensor, piece: _Piece) -> None:
    """The values that were found, back into a flattened parameter."""
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
    """Whether max |found| + |scale| max |values| is a number of that format: cheaper than to look at every sum."""
    if not len(piece):
        return True
    largest, change = (torch.stack(ends).abs().max().item() for ends in (piece.found.aminmax(), piece.values.aminmax()))
    return largest + abs(scale) * change <= torch.finfo(dtype).max  # False for what is no number, too


def _each(work: Callable, pieces: list[_Piece]) -> list:
    """The results of `work` for each piece; in threads where the machine has them and there is enough to do. A thread takes
    neighbouring pieces: memory that lies far apart for the threads is a sixth faster than memory that they share."""
    threads, places = min(torch.get_num_threads(), len(pieces)), sum(len(p) for p in pieces)
    if threads < 2 or places < PIECE:
        return [work(piece) for piece in pieces]
    shares: list[list[_Piece]] = [[] for _ in range(threads)]
    before = 0
    for piece in pieces:
        shares[min(before * threads // places, threads - 1)].append(piece)
        before += len(piece)

    @torch.no_grad()
    def each(share: list[_Piece]) -> list:
        return [work(piece) for piece in share]

    with ThreadPoolExecutor(threads) as pool:
        return [result for results in pool.map(each, shares) for result in results]


def changes(applied: Applied) -> dict[tuple[str, str], float]:
    """(module, part) -> |its change| / |what was there at its places|, as far as the base's number format shows it."""
    before = sum(p.found.float().square().sum(dtype=torch.float64).item() for p in applied.pieces)
    result = {}
    for share in applied.term.shares:
        change = 0.0 if share.kept is None else share.kept**2
        for piece in applied.pieces if share.kept is None else ():
            new = torch.add(piece.found, piece.values, alpha=applied.term.scale).to(piece.found.dtype)
            change += (new.float() - piece.found.float()).square().sum(dtype=torch.float64).item()
        result[share.module, share.component] = (change / max(before, 1e-60)) ** 0.5
    return result
