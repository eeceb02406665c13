"""Differences of weights on a base: put on in place, taken off bit for bit.

theta <- theta + lambda * delta at the touched places alone, one term of a composition after the other. Each term keeps the
values that it found; taking off writes those back, the last term first. So theta_0 returns exactly, in any precision, and
nothing is ever as large as the base. Places are ascending, and are worked on in runs that fit a processor's cache: what is
read is still there when it is written.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
    """Places of one parameter: what was found there (as far as `done`), and what is added."""

    parameter: str
    indices: Tensor
    values: Tensor
    offset: int
    found: Tensor
    done: int = 0

    def places(self) -> Tensor:
        """Indices into the flattened parameter, in int64."""
        return self.indices.long().sub_(self.offset)

    def runs(self, device: torch.device, *more: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Run by run the places, what was found there and what else is given of them; without more, as far as `done`. Few
        operations for each run: threads pass Python's lock to each other at every one."""
        whole = (self.indices, self.found, *more)
        if not more:
            whole = tuple(t[: self.done] for t in whole)
        for indices, *others in zip(*(t.split(RUN if device.type == "cpu" else PIECE) for t in whole)):
            places = indices.to(device).long()
            yield (places.sub_(self.offset) if self.offset else places, *others)


@dataclass
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

    def moved(self, parameter: nn.Parameter) -> bool:
        """Whether some difference on the base touches this parameter."""
        touched = {piece.parameter for applied in self.applied for piece in applied.pieces}
        return any(self.base.encoder.get_parameter(name) is parameter for name in touched)

    def decoder_weights(self) -> dict[str, Tensor]:
        """Name in the masked-LM model -> theta_0, for the decoders whose embeddings carry a difference now.

        Raises CompositionError for a base whose head reads the embeddings themselves.
        """
        names = {id(p): name for name, p in self.base.encoder.named_parameters()}
        paths = {module: path for path, module in self.base.model.named_modules()}
        found = {}
        for module, _ in list(untied(self.base, self)):
            if module is given_decoder(self.base):
                if self.moved(self.base.model.get_input_embeddings().weight):
                    raise CompositionError(
                        "The masked-LM head of this base reads the embeddings themselves, so it cannot keep theta_0 beside a "
                        "difference in them. Train with groups [layers], or keep it as a module."
                    )
            elif (weight := self.original(names[id(module.weight)])) is not module.weight:
                found[f"{paths[module]}.weight"] = weight
        return found

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
        for difference in applied.term.deltas():
            yield from difference.values.split(PIECE)

    # ---- on and off --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _put_on(self, term: Term) -> None:
        applied = Applied(term, term.state())
        self.applied.append(applied)
        try:
            for difference in term.deltas():
                parameter = self.base.encoder.get_parameter(difference.parameter)
                if not parameter.is_contiguous():
                    parameter.data = parameter.data.contiguous()
                found = torch.empty(len(difference.indices), dtype=parameter.dtype, device=parameter.device)
                parts = (t.split(PIECE) for t in (difference.indices, difference.values, found))
                for indices, values, place in zip(*parts):
                    applied.pieces.append(_Piece(difference.parameter, indices, values, difference.offset, place))
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
                torch.index_select(flat, 0, places, out=found)
                piece.done += len(places)
            flat.scatter_(0, places, torch.add(found, values, alpha=scale).to(flat.dtype))
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
        flat.scatter_(0, places, found.to(flat.device, flat.dtype))


def _cannot_overflow(piece: _Piece, scale: float, dtype: torch.dtype) -> bool:
    """Whether max |found| + |scale| max |values| is a number of that format: cheaper than to look at every sum."""
    if not len(piece.indices):
        return True
    largest, change = (torch.stack(ends).abs().max().item() for ends in (piece.found.aminmax(), piece.values.aminmax()))
    return largest + abs(scale) * change <= torch.finfo(dtype).max  # False for what is no number, too


def _each(work: Callable, pieces: list[_Piece]) -> list:
    """The results of `work` for each piece; in threads where the machine has them and there is enough to do. A thread takes
    neighbouring pieces: memory that lies far apart for the threads is a sixth faster than memory that they share."""
    threads, places = min(torch.get_num_threads(), len(pieces)), sum(len(p.indices) for p in pieces)
    if threads < 2 or places < PIECE:
        return [work(piece) for piece in pieces]
    shares: list[list[_Piece]] = [[] for _ in range(threads)]
    before = 0
    for piece in pieces:
        shares[min(before * threads // places, threads - 1)].append(piece)
        before += len(piece.indices)

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


# ---- the decoder ------------------------------------------------------------------------------------------------------


def untied(base: Base, deltas: WeightDeltas) -> Iterator[tuple[nn.Module, Callable]]:
    """(module, wrapper of its forward) for all modules outside the encoder that share a weight with it: the masked-LM
    decoder goes on with theta_0 while the embeddings carry a difference (Ansell et al. untie and freeze it)."""
    names = {id(p): name for name, p in base.encoder.named_parameters()}
    inside = set(base.encoder.modules())
    for module in base.model.modules():
        shared = names.get(id(module._parameters.get("weight")))
        if module not in inside and shared is not None:
            yield module, _decoding(module, shared, deltas)
    if (head := given_decoder(base)) is not None:
        yield head, _given(names, deltas)


def given_decoder(base: Base) -> nn.Module | None:
    """The masked-LM head that is handed the embedding module instead of sharing its weight, if this base has one."""
    path = base.family.decoder_is_given
    return base.model.get_submodule(path) if path is not None and hasattr(base.model, path.split(".")[0]) else None


def decoder_of(base: Base) -> nn.Linear | None:
    """The linear map from the masked-LM head to the vocabulary; None where the head is of another make."""
    decoder = base.model.get_output_embeddings()
    return decoder if isinstance(decoder, nn.Linear) and given_decoder(base) is None else None


def _decoding(module: nn.Linear, name: str, deltas: WeightDeltas) -> Callable:
    def wrap(original: Callable) -> Callable:
        def forward(x: Tensor) -> Tensor:
            shared = deltas.base.encoder.get_parameter(name)
            if module.weight is not shared:  # after a merge: its own
                return original(x)
            weight = deltas.original(name)
            if weight is shared and not weight.requires_grad:
                return original(x)
            return nn.functional.linear(
                x, weight.detach(), module.bias
            )  # no decoder trains: the embeddings are no output there

        return forward

    return wrap


class _Weight:
    """Stands in for an embedding module whose weight alone is read."""

    def __init__(self, weight: Tensor):
        self.weight = weight


def _given(names: dict[int, str], deltas: WeightDeltas) -> Callable:
    def wrap(original: Callable) -> Callable:
        def forward(hidden: Tensor, embeddings: nn.Module) -> Tensor:
            return original(hidden, _Weight(deltas.original(names[id(embeddings.weight)]).detach()))

        return forward

    return wrap
