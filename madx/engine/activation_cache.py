"""Frozen layers: what lies below the lowest layer in training gives the same output for the same sentence in every epoch.

A task module in the upper layers alone (`leave_out`) trains over a base and a language module that stand still. The states
that enter its lowest layer are then computed once for each sentence and kept: in memory up to a bound, then in a file up to
another, then not at all. No gradient goes below that layer in any case: nothing there asks for one.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from madx.contract.module_type import all_tokenwise

Plan = dict[str, list]
GB = 1 << 30


class States:
    """Tensors `(tokens, width)` by key: in memory up to `memory` bytes, then in a file that vanishes with the process, up to
    `disk` bytes; what fits neither is not kept."""

    def __init__(self, *, memory: int, disk: int, folder: Path | None = None):
        self.room, self.file_room, self.folder = memory, disk, folder
        self._kept: dict[bytes, Tensor] = {}
        self._filed: dict[bytes, tuple[int, int, torch.dtype]] = {}  # key -> (place, bytes, number format)
        self._file = None

    def __len__(self) -> int:
        return len(self._kept) + len(self._filed)

    def __contains__(self, key: bytes) -> bool:
        return key in self._kept or key in self._filed

    def put(self, key: bytes, state: Tensor) -> None:
        """Keep a state, a copy of it, if there is room."""
        size = state.numel() * state.element_size()
        if key in self:
            return
        if size <= self.room:
            self._kept[key], self.room = state.to("cpu", copy=True), self.room - size
        elif size <= self.file_room:
            if self._file is None:
                if self.folder is not None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - lives as long as this object
            self._filed[key], self.file_room = (self._file.seek(0, 2), size, state.dtype), self.file_room - size
            self._file.write(state.cpu().contiguous().view(torch.uint8).numpy().tobytes())

    def get(self, key: bytes, width: int) -> Tensor:
        """A state that is there."""
        if key in self._kept:
            return self._kept[key]
        place, size, dtype = self._filed[key]
        self._file.seek(place)
        return torch.frombuffer(bytearray(self._file.read(size)), dtype=dtype).view(-1, width)

    def close(self) -> None:
        """Let go of everything."""
        self._kept, self._filed = {}, {}
        if self._file is not None:
            self._file.close()


class ActivationCache:
    """The first `below` layers of an engine's base, which stand still while its present plan is active.

    The engine goes through `feeding` in each forward pass under that plan. A state belongs to a sentence's ids; rows of a batch are
    padded on the right, and padding is masked above.
    """

    def __init__(self, engine, *, below: int, states: States):
        self.engine, self.base, self.plan, self.below, self.states = engine, engine.base, engine._plan, below, states
        self._given: Tensor | None = None  # enters layer `below` in the forward pass at hand
        self._seen: Tensor | None = None
        self._results: int | None = None  # how many things a layer returns; None: the tensor alone

    @contextmanager
    def opened(self) -> Iterator["ActivationCache"]:
        """For the length of a run the lower layers can be passed by."""
        layers = self.base.encoder.get_submodule(self.base.family.layers)[: self.below]
        with ExitStack() as stack:
            stack.callback(self.states.close)
            stack.callback(setattr, self.engine, "frozen", None)
            for number, layer in enumerate(layers):
                before = layer.__dict__.get("forward")
                layer.forward = self._pass_by(layer.forward, last=number + 1 == self.below)
                stack.callback(_put_back, layer, before)
            self.engine.frozen = self
            yield self

    def _pass_by(self, original, *, last: bool):
        def forward(*args, **kwargs):
            if self._given is None:
                result = original(*args, **kwargs)
                if last:
                    self._results = len(result) if isinstance(result, tuple) else None
                    self._seen = result if self._results is None else result[0]
                return result
            x = self._given if last else args[0] if args else next(iter(kwargs.values()))
            return x if self._results is None else (x, *[None] * (self._results - 1))

        return forward

    @contextmanager
    def feeding(self, input_ids: Tensor, attention_mask: Tensor | None) -> Iterator[None]:
        """One forward pass: fed with known states if all rows of the batch are known, else watched."""
        keys = _keys(input_ids, attention_mask)
        if keys and all(key in self.states for key in keys):
            self._given = self._padded(keys, input_ids)
        try:
            yield
            if self._given is None and self._seen is not None:
                for key, state in zip(keys, self._seen.detach()):
                    self.states.put(key, state[: len(key) // input_ids.element_size()])
        finally:
            self._given = self._seen = None

    def _padded(self, keys: Sequence[bytes], input_ids: Tensor) -> Tensor:
        """The states of a batch's rows, `(batch, tokens, width)`, zeros at padding."""
        known = [self.states.get(key, self.base.width) for key in keys]
        result = known[0].new_zeros(*input_ids.shape, self.base.width)
        for row, state in zip(result, known):
            row[: len(state)] = state
        return result.to(input_ids.device, non_blocking=True)


def _keys(input_ids: Tensor, attention_mask: Tensor | None) -> list[bytes]:
    """For each row the bytes of its ids without padding; none for a batch that is not padded on the right alone."""
    ids = input_ids.cpu().numpy()
    if attention_mask is None:
        return [row.tobytes() for row in ids]
    mask = attention_mask.cpu().numpy()
    if (mask[:, 1:] > mask[:, :-1]).any():
        return []
    return [row[:length].tobytes() for row, length in zip(ids, mask.sum(1))]


def _put_back(layer: nn.Module, before) -> None:
    if before is None:
        layer.__dict__.pop("forward", None)
    else:
        layer.forward = before


def lowest_layer(units: dict[str, dict], depth: int) -> int:
    """The lowest layer where a module acts: 0 also for one that acts before the layers, `depth` for a head alone."""
    numbers = [
        unit.site.layer if unit.site.layer is not None else 0 for parts in units.values() for unit in parts.values()
    ]
    return min(numbers, default=depth)


def looks_around(plan: Plan, below: int) -> list[str]:
    """Sites of the first layers with a step that reads other tokens than its own, padding among them: the state of a sentence
    then hangs on the batch that it stands in."""
    return [
        site
        for site, steps in plan.items()
        if site.startswith("layer.") and int(site.split(".")[1]) < below and not all_tokenwise(steps)
    ]
