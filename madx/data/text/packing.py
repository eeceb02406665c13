"""A corpus -> blocks of token ids on disk, in two passes, with memory for one batch of lines only.

Pass 1 tokenises: all ids in one flat file, and for each line its length and its bucket (a hash of its text).
Pass 2 deals the lines out, held-out buckets to one file and the rest to the other, and cuts both into blocks.
A line's side depends on its text alone, so a duplicate of a held-out line is never trained on.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madx.data.text.tokenizing import Frame, frame_of, text_ids
from madx.errors import DataError

BUCKETS = 1 << 20
LINES_AT_ONCE, CHARACTERS_AT_ONCE = 1000, 1 << 20
#: a corpus of fewer tokens, and a larger share of unknown ones, are worth a warning
TINY, MANY_UNKNOWN = 100_000, 0.01
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusStats:
    """Counts over the whole corpus; `tokens` are pieces, without the separators between lines."""

    tokens: int
    words: int
    lines: int
    unknown: int

    @property
    def unknown_rate(self) -> float:
        """The share of pieces that the vocabulary does not know."""
        return self.unknown / max(self.tokens, 1)

    @property
    def pieces_per_word(self) -> float:
        return self.tokens / max(self.words, 1)


@dataclass(frozen=True)
class Flat:
    """The outcome of pass 1, on disk: `ids` (all tokens), `lengths` and `buckets` (lines,)."""

    ids: np.ndarray
    lengths: np.ndarray
    buckets: np.ndarray
    stats: CorpusStats


def ids_dtype(tokenizer) -> np.dtype:
    """Two bytes an id where they are enough."""
    return np.dtype(np.uint16 if len(tokenizer) < 65536 else np.int32)


def tokenise(texts: Iterable[str], tokenizer, folder: Path) -> Flat:
    """Pass 1. Each line's ids end with the separator: `a b </s> c d </s>`."""
    frame, dtype = frame_of(tokenizer), ids_dtype(tokenizer)
    names = {"ids": dtype, "lengths": np.dtype(np.int32), "buckets": np.dtype(np.int32)}
    tokens = words = lines = unknown = 0
    said = time.monotonic()
    with (
        (folder / "ids").open("wb") as ids,
        (folder / "lengths").open("wb") as lengths,
        (folder / "buckets").open("wb") as buckets,
    ):
        for batch in in_batches(texts):
            rows = text_ids(tokenizer, batch)
            sizes = np.array([len(row) + 1 for row in rows], dtype=np.int32)
            flat = np.fromiter((i for row in rows for i in (*row, frame.end)), dtype=dtype, count=int(sizes.sum()))
            ids.write(flat.tobytes())
            lengths.write(sizes.tobytes())
            buckets.write(np.array([_bucket(text) for text in batch], dtype=np.int32).tobytes())
            tokens, lines = tokens + len(flat) - len(rows), lines + len(rows)
            words += sum(len(text.split()) for text in batch)
            unknown += 0 if frame.unknown is None else int((flat == frame.unknown).sum())
            if time.monotonic() - said > 10:
                said = time.monotonic()
                log.info("tokenising: %s lines, %s tokens so far", f"{lines:,}", f"{tokens:,}")
    arrays = {name: np.memmap(folder / name, dtype=kind, mode="r") for name, kind in names.items()}
    return Flat(**arrays, stats=CorpusStats(tokens=tokens, words=words, lines=lines, unknown=unknown))


def pack(flat: Flat, folder: Path, *, frame: Frame, block_size: int, share: float, most: int) -> None:
    """Pass 2: writes `train.npy` and `held_out.npy`, (blocks, block_size). A tail shorter than a block is left out.

    Held out: `share` of the tokens, at least one block and at most `most` blocks. Raises DataError when the corpus is
    too small for one block on each side.
    """
    payload = block_size - 2
    held = held_out_lines(flat, target=int(min(max(share * len(flat.ids), payload), most * payload)))
    sizes = [int(flat.lengths[side].sum(dtype=np.int64)) // payload for side in (~held, held)]
    if not all(sizes):
        raise DataError(
            f"the corpus is too small: {flat.stats.lines:,} lines with {flat.stats.tokens:,} tokens do not give one "
            f"block of {block_size} tokens to train on and one to hold out (a line goes whole to one side, with its "
            "copies). Add text, put one sentence a line, or set a smaller block_size."
        )
    for name, side, blocks in (("train", ~held, sizes[0]), ("held_out", held, min(sizes[1], most))):
        with (folder / f"{name}.npy").open("wb") as file:
            header = {"descr": flat.ids.dtype.str, "fortran_order": False, "shape": (blocks, block_size)}
            np.lib.format.write_array_header_1_0(file, header)
            for rows in _blocks(_ids_of(flat, side), payload, blocks):
                framed = np.empty((len(rows), block_size), dtype=flat.ids.dtype)
                framed[:, 0], framed[:, 1:-1], framed[:, -1] = frame.start, rows, frame.end
                file.write(framed.tobytes())  # not a memory map: a full disk must be an error, not a crash


def held_out_lines(flat: Flat, *, target: int) -> np.ndarray:
    """(lines,) bool: whole buckets in order of their hash until `target` tokens, passing over oversized ones.

    A document far longer than the target is taken only when nothing else is left, shortest first.
    """
    sizes = np.zeros(BUCKETS, dtype=np.int64)
    np.add.at(sizes, flat.buckets, flat.lengths)
    chosen, total = np.zeros(BUCKETS, dtype=bool), 0
    in_order = np.flatnonzero(sizes)
    for limit, order in ((2 * target, in_order), (None, in_order[np.argsort(sizes[in_order], kind="stable")])):
        for bucket in order:
            if total >= target:
                break
            if not chosen[bucket] and (limit is None or total + sizes[bucket] <= limit):
                chosen[bucket], total = True, total + int(sizes[bucket])
    return chosen[flat.buckets]


def _ids_of(flat: Flat, side: np.ndarray, lines: int = 1 << 16) -> Iterator[np.ndarray]:
    """The ids of the lines of one side, in order, some ten thousand lines at a time."""
    place = 0
    for first in range(0, len(side), lines):
        lengths = flat.lengths[first : first + lines]
        end = place + int(lengths.sum(dtype=np.int64))
        yield flat.ids[place:end][np.repeat(side[first : first + lines], lengths)]
        place = end


def _blocks(chunks: Iterable[np.ndarray], payload: int, most: int) -> Iterator[np.ndarray]:
    """A stream of ids -> (blocks, payload) arrays, `most` blocks in all."""
    rest = np.empty(0, dtype=np.int64)
    for chunk in chunks:
        rest = np.concatenate([rest.astype(chunk.dtype), chunk])
        count = min(len(rest) // payload, most)
        if count:
            yield rest[: count * payload].reshape(count, payload)
        rest, most = rest[count * payload :], most - count
        if not most:
            return


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lines in runs of about a thousand, fewer where they are long."""
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == LINES_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _bucket(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little") % BUCKETS
