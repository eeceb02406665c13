"""Texts -> blocks of token ids on disk, in two passes, with memory for one batch of texts only.

Pass 1 tokenises. It writes all ids to one flat file, and for each line of the corpus its length and its bucket, which
is a hash of its text. Pass 2 writes the lines of the held-out buckets to one file and all others to another, both cut
into blocks. The side of a line depends on its text alone, so a copy of a held-out line is never trained on.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from madx.data.text.tokenizing import Frame, frame_of, text_ids
from madx.data.words import count_words
from madx.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUCKETS = 1 << 20
LINES_AT_ONCE, CHARACTERS_AT_ONCE = 1000, 1 << 20  # that the tokenizer is given in one call
#: fewer tokens than the first, and a larger share of unknown tokens than the second, are worth a warning
TINY, MANY_UNKNOWN = 100_000, 0.01
REPORT_EVERY = 10  # seconds between two lines of the log
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusStats:
    """Counts over a corpus. tokens: pieces, without the separators between lines; unknown: those that are unknown."""

    tokens: int
    words: int
    lines: int
    unknown: int

    @property
    def unknown_rate(self) -> float:
        """The share (0..1) of the tokens that the vocabulary does not hold."""
        return self.unknown / max(self.tokens, 1)

    @property
    def pieces_per_word(self) -> float:
        """The mean number of tokens of a word, see `count_words`."""
        return self.tokens / max(self.words, 1)


@dataclass(frozen=True)
class Flat:
    """The result of pass 1, on disk: all ids `(tokens,)`, and the length and bucket of each line `(lines,)`."""

    ids: np.ndarray
    lengths: np.ndarray
    buckets: np.ndarray
    stats: CorpusStats


def ids_dtype(tokenizer: PreTrainedTokenizerBase) -> np.dtype:
    """Return the type of stored ids: two bytes where they are enough, otherwise four."""
    return np.dtype(np.uint16 if len(tokenizer) < 65536 else np.int32)


def tokenise(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, folder: Path) -> Flat:
    """Run pass 1: write `ids`, `lengths` and `buckets` to a folder. Each line ends with the separator: `a b </s>`."""
    frame, dtype = frame_of(tokenizer), ids_dtype(tokenizer)
    names = {"ids": dtype, "lengths": np.dtype(np.int32), "buckets": np.dtype(np.int32)}
    tokens = words = lines = unknown = 0
    reported = time.monotonic()
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
            words += sum(map(count_words, batch))
            unknown += 0 if frame.unknown is None else int((flat == frame.unknown).sum())
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                log.info("tokenising: %s lines, %s tokens so far", f"{lines:,}", f"{tokens:,}")
    stored = {name: np.memmap(folder / name, dtype=kind, mode="r") for name, kind in names.items()}
    return Flat(**stored, stats=CorpusStats(tokens=tokens, words=words, lines=lines, unknown=unknown))


def pack(flat: Flat, folder: Path, *, frame: Frame, block_size: int, share: float, most: int) -> None:
    """Run pass 2: write `train.npy` and `held_out.npy`, `(blocks, block_size)`, without a last block that is not full.

    share: the share of the tokens that is held out, but at least one block and at most `most` blocks.

    Raises DataError if the corpus is too small for one block on each side.
    """
    payload = block_size - 2
    held = held_out_lines(flat, target=int(min(max(share * len(flat.ids), payload), most * payload)))
    sizes = [int(flat.lengths[side].sum(dtype=np.int64)) // payload for side in (~held, held)]
    if not all(sizes):
        raise DataError(
            f"the corpus is too small: {flat.stats.lines:,} lines with {flat.stats.tokens:,} tokens do not give one "
            f"block of {block_size} tokens to train on and one to hold out (a line goes to one side as a whole, with "
            "its copies). Add text, put one sentence on a line, or set a smaller block_size."
        )
    for name, side, blocks in (("train", ~held, sizes[0]), ("held_out", held, min(sizes[1], most))):
        with (folder / f"{name}.npy").open("wb") as file:
            header = {"descr": flat.ids.dtype.str, "fortran_order": False, "shape": (blocks, block_size)}
            np.lib.format.write_array_header_1_0(file, header)
            for rows in _blocks(_ids_of(flat, side), payload, blocks):
                framed = np.empty((len(rows), block_size), dtype=flat.ids.dtype)
                framed[:, 0], framed[:, 1:-1], framed[:, -1] = frame.start, rows, frame.end
                file.write(framed.tobytes())  # not into a memory map: there a full disk is a crash, not an error


def held_out_lines(flat: Flat, *, target: int) -> np.ndarray:
    """Choose the lines that are held out: bool `(lines,)`.

    Whole buckets are taken in the order of their hashes until there are `target` tokens, except those that would make
    more than twice as many. These are taken only if the others are not enough, the shortest ones first.
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
    """Yield the ids of the lines of one side in order, from `lines` lines of the corpus at a time."""
    place = 0
    for first in range(0, len(side), lines):
        lengths = flat.lengths[first : first + lines]
        end = place + int(lengths.sum(dtype=np.int64))
        yield flat.ids[place:end][np.repeat(side[first : first + lines], lengths)]
        place = end


def _blocks(chunks: Iterable[np.ndarray], payload: int, most: int) -> Iterator[np.ndarray]:
    """Cut a stream of ids into arrays `(blocks, payload)`, with `most` blocks in all of them together."""
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
    """Yield texts in batches of a thousand, or of fewer where they are long."""
    batch: list[str] = []
    characters = 0
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
