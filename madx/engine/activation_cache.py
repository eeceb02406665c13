"""The activation cache: layers below the lowest trained one give the same output for the same sentence in every epoch.

A task module in the upper layers alone (`leave_out`) trains over a base and a language module that do not change. The states
that enter its lowest layer are computed once for each sentence and kept: in memory up to a bound, then in a file up to
another bound, then not at all. No gradient flows below that layer in any case, since nothing there requires one.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from madx.contract.module_type import scope_of
from madx.engine.call import CurrentCall
from madx.engine.hooks import Hook
from madx.engine.plan import Plan
from madx.engine.protocols import RunningEngine

GB = 1 << 30
#: under which a call keeps the states that enter the lowest trained layer
CACHED = ("cache", "states")


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
    """The states that enter layer `below` of an engine's base, whose layers below that do not change while one plan is active.

    The engine asks `known` before each forward pass under that plan and hands new states to `put`. A state belongs to the
    ids of one sentence; rows of a batch are padded on the right, and padding is masked above.
    """

    def __init__(self, engine: RunningEngine, *, below: int, states: States):
        self.engine, self.base, self.below, self.states = engine, engine.base, below, states
        self.plan: Plan = engine.plan
        self.results: int | None = None  # how many things a layer returns; None: the tensor alone

    @contextmanager
    def opened(self) -> Iterator["ActivationCache"]:
        """For the length of a run the lower layers can be skipped."""
        self.engine.use_cache(self)
        try:
            yield self
        finally:
            self.engine.use_cache(None)
            self.states.close()

    def hooks(self, current: CurrentCall) -> list[tuple[nn.Module, Hook]]:
        """A hook for each of the lower layers."""
        layers = self.base.encoder.get_submodule(self.base.family.layers)[: self.below]
        return [(layer, SkippedLayer(current, self, last=n + 1 == self.below)) for n, layer in enumerate(layers)]

    def known(self, keys: Sequence[bytes], input_ids: Tensor) -> Tensor | None:
        """The states of a batch's rows, `(batch, tokens, width)`, zeros at padding; None unless all rows are known."""
        if not keys or any(key not in self.states for key in keys):
            return None
        known = [self.states.get(key, self.base.width) for key in keys]
        result = known[0].new_zeros(*input_ids.shape, self.base.width)
        for row, state in zip(result, known):
            row[: len(state)] = state
        return result.to(input_ids.device, non_blocking=True)

    def put(self, keys: Sequence[bytes], seen: Tensor, input_ids: Tensor) -> None:
        """Keep the states of a batch, `(batch, tokens, width)`."""
        for key, state in zip(keys, seen.detach()):
            self.states.put(key, state[: len(key) // input_ids.element_size()])


class SkippedLayer(Hook):
    """A layer below the lowest trained one: skipped where the call has cached states, else watched if it is the last."""

    def __init__(self, current: CurrentCall, cache: ActivationCache, *, last: bool):
        super().__init__(current)
        self.cache, self.last = cache, last

    def __call__(self, *args, **kwargs):
        call, cache = self.current.get(), self.cache
        if call is None or call.given is None:
            result = self.original(*args, **kwargs)
            if self.last and call is not None:
                cache.results = len(result) if isinstance(result, tuple) else None
                call.seen[CACHED] = result if cache.results is None else result[0]
            return result
        x = call.given if self.last else args[0] if args else next(iter(kwargs.values()))
        return x if cache.results is None else (x, *[None] * (cache.results - 1))


def keys_of(input_ids: Tensor, attention_mask: Tensor | None) -> list[bytes]:
    """For each row the bytes of its ids without padding; none for a batch that is not padded on the right alone."""
    ids = input_ids.cpu().numpy()
    if attention_mask is None:
        return [row.tobytes() for row in ids]
    mask = attention_mask.cpu().numpy()
    if (mask[:, 1:] > mask[:, :-1]).any():
        return []
    return [row[:length].tobytes() for row, length in zip(ids, mask.sum(1))]


def lowest_layer(units: dict[str, dict], depth: int) -> int:
    """The lowest layer where a module acts: 0 also for one that acts before the layers, `depth` for a head alone."""
    numbers = [
        unit.site.layer if unit.site.layer is not None else 0 for parts in units.values() for unit in parts.values()
    ]
    return min(numbers, default=depth)


def beyond_the_row(plan: Plan, below: int) -> list[str]:
    """Sites of the first layers with a step whose change depends on padding or on other rows: the state of a sentence would
    then depend on the batch that it stands in. Slots count as such, since states are kept for tokens alone."""
    found = [
        site
        for site, steps in plan.items()
        if site.startswith("layer.") and int(site.split(".")[1]) < below and scope_of(steps) == "batch"
    ]
    return found + (["slots"] if plan.slots.length else [])
