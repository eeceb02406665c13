"""The activation cache: keeps the output of frozen lower layers, which is the same for a sentence in every epoch.

A task module in the upper layers alone (`leave_out`) trains over a base and a language module that do not change. The
input of its lowest layer is computed once for each sentence and kept: in memory up to a limit, then in a file up to
another limit, then not at all. No gradient flows below that layer in any case, since nothing there requires one.
"""

import logging
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor, nn

from madx.contract.module_type import ModuleType, scope_of
from madx.engine.call import CurrentCall
from madx.engine.hooks import Hook
from madx.engine.plan import Plan
from madx.engine.protocols import RunningEngine

log = logging.getLogger("madx")

GB = 1 << 30
#: The key under which a call keeps the input of the lowest trained layer.
CACHED = ("cache", "states")


class Filed(NamedTuple):
    """A state in the file: its place and size in bytes, its number format, and the CRC-32 of its bytes.

    CRC-32 finds every single flipped bit and every damaged stretch of 32 bits; at 4 GB a second it costs less than to
    read the bytes.
    """

    place: int
    size: int
    dtype: torch.dtype
    sum: int


class States:
    """Tensors `(tokens, width)` by key, in memory and then in a temporary file; those that fit neither are not kept.

    Args:
        memory: the limit in memory, in bytes.
        disk: the limit of the file, in bytes.
        folder: of the file, which is deleted with the process; None: the system's folder for temporary files.
    """

    def __init__(self, *, memory: int, disk: int, folder: Path | None = None):
        self.room, self.file_room, self.folder = memory, disk, folder
        self._kept: dict[bytes, Tensor] = {}
        self._filed: dict[bytes, Filed] = {}
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._kept) + len(self._filed)

    def __contains__(self, key: bytes) -> bool:
        return key in self._kept or key in self._filed

    def put(self, key: bytes, state: Tensor) -> None:
        """Keep a copy of a state if there is room."""
        size = state.numel() * state.element_size()
        if key in self:
            return
        if size <= self.room:
            self._kept[key], self.room = state.to("cpu", copy=True), self.room - size
        elif size <= self.file_room:
            try:
                self._write(key, state.cpu().contiguous().view(torch.uint8).numpy().tobytes(), state.dtype)
                self.file_room -= size
            except OSError as error:
                self.file_room = 0  # the disk is full: what is filed already stays of use
                log.warning("The activation cache on disk is given up, and training goes on without it: %s", error)

    def get(self, key: bytes, width: int) -> Tensor | None:
        """Return a state that is kept, `(tokens, width)`; None for one that was damaged in the file.

        Such a state is forgotten, with a notice, so that it is computed and kept anew. Raises KeyError for another key.
        """
        if key in self._kept or self._file is None:
            return self._kept[key]
        filed = self._filed[key]
        try:
            self._file.seek(filed.place)
            data = bytearray(self._file.read(filed.size))
            why = "" if len(data) == filed.size and zlib.crc32(data) == filed.sum else "it is not as it was written"
        except OSError as error:
            why = str(error)
        if why:
            del self._filed[key]
            log.warning("A state of the activation cache on disk is damaged (%s); it is computed anew.", why)
            return None
        return torch.frombuffer(data, dtype=filed.dtype).view(-1, width)

    def _write(self, key: bytes, data: bytes, dtype: torch.dtype) -> None:
        """Append the bytes of a state to the file. Raises OSError."""
        if self._file is None:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            # without a buffer, whose content a full disk would refuse at some later call
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 - lives as long as this
        place = self._file.seek(0, 2)
        if (written := self._file.write(data)) != len(data):
            raise OSError(f"{written} of {len(data)} bytes could be written")
        self._filed[key] = Filed(place, len(data), dtype, zlib.crc32(data))

    def close(self) -> None:
        """Release all states and the file."""
        self._kept, self._filed = {}, {}
        if self._file is not None:
            self._file.close()


class ActivationCache:
    """The inputs of layer `below`, whose lower layers do not change while one plan is active.

    The engine calls `known` before each forward pass under that plan and passes new states to `put`. A state belongs to
    the ids of one sentence; rows of a batch are padded on the right, and the upper layers mask padding.
    """

    def __init__(self, engine: RunningEngine, *, below: int, states: States):
        self.engine, self.base, self.below, self.states = engine, engine.base, below, states
        self.plan: Plan = engine.plan
        self.results: int | None = None  # the length of the tuple that a layer returns; None: it returns a tensor

    @contextmanager
    def opened(self) -> Iterator["ActivationCache"]:
        """Skip the lower layers, where possible, inside a `with` block; afterwards the states are released."""
        self.engine.use_cache(self)
        try:
            yield self
        finally:
            self.engine.use_cache(None)
            self.states.close()

    def hooks(self, current: CurrentCall) -> list[tuple[nn.Module, Hook]]:
        """Make a hook for each of the lower layers."""
        layers: Any = self.base.encoder.get_submodule(self.base.family.layers)
        layers = layers[: self.below]
        return [(layer, SkippedLayer(current, self, last=n + 1 == self.below)) for n, layer in enumerate(layers)]

    def known(self, keys: Sequence[bytes], input_ids: Tensor) -> Tensor | None:
        """Return the states of a batch, `(batch, tokens, width)`, with zeros at padding; None if a row is unknown.

        keys: those of `keys_of`. input_ids: `(batch, tokens)`.
        """
        if not keys or any(key not in self.states for key in keys):
            return None
        found = [self.states.get(key, self.base.width) for key in keys]
        known = [state for state in found if state is not None]
        if len(known) < len(found):
            return None
        result = known[0].new_zeros(*input_ids.shape, self.base.width)
        for row, state in zip(result, known):
            row[: len(state)] = state
        return result.to(input_ids.device, non_blocking=True)

    def put(self, keys: Sequence[bytes], seen: Tensor, input_ids: Tensor) -> None:
        """Keep the states of a batch, `(batch, tokens, width)`."""
        for key, state in zip(keys, seen.detach()):
            self.states.put(key, state[: len(key) // input_ids.element_size()])


class SkippedLayer(Hook):
    """The hook at a layer below the lowest trained one: skips the layer if the call has cached states.

    last: it is the highest such layer, whose output is kept in a call without cached states.
    """

    def __init__(self, current: CurrentCall, cache: ActivationCache, *, last: bool):
        super().__init__(current)
        self.cache, self.last = cache, last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
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
    """Return the bytes of each row's ids without padding; empty for a batch that is not padded on the right alone."""
    ids = input_ids.cpu().numpy()
    if attention_mask is None:
        return [row.tobytes() for row in ids]
    mask = attention_mask.cpu().numpy()
    if (mask[:, 1:] > mask[:, :-1]).any():
        return []
    return [row[:length].tobytes() for row, length in zip(ids, mask.sum(1))]


def lowest_layer(units: Mapping[str, Mapping[str, ModuleType]], depth: int) -> int:
    """Return the lowest layer where a module acts: 0 also before the layers, `depth` for a head alone."""
    numbers = [unit.site.layer or 0 for at_site in units.values() for unit in at_site.values()]
    return min(numbers, default=depth)


def batch_dependent_sites(plan: Plan, below: int) -> list[str]:
    """Return the sites below layer `below` with a step whose change depends on padding or on other rows.

    There the state of a sentence would depend on the rest of its batch, so it cannot be cached. Slots count as such a
    site, since states are kept for tokens alone.
    """
    found = [
        site
        for site, steps in plan.items()
        if site.startswith("layer.") and int(site.split(".")[1]) < below and scope_of(steps) == "batch"
    ]
    return found + (["slots"] if plan.slots.length else [])
