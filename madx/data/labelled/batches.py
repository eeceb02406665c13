"""Which rows go together: length-bucketed batches for tasks, an endless stream of blocks for language modules.

Both are pure functions of seed and epoch or step. Several processes share each *global* batch: process p of n takes its
rows p, p + n, p + 2n ..., so n processes train on the same batches as one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from madx.data.labelled.windows import Row
from madx.data.text.masking import IGNORED
from madx.errors import ConfigError, DataError

POOL = 64  # batches whose rows are sorted together: little padding, and still chance in who meets whom


def batches(
    rows: Sequence[Row],
    *,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> list[list[int]]:
    """Indices of rows, batch by batch, every row in one batch; this process's share of each.

    Give one of `batch_size` (rows) and `tokens_per_batch` (rows times the longest one's tokens, padding included; a row
    longer than that stands alone). Shuffled batches differ by epoch; without shuffling rows go by length. The share
    of a process is empty where a batch, as the last one may, has fewer rows than there are processes.
    """
    given = [limit for limit in (batch_size, tokens_per_batch) if limit is not None]
    if len(given) != 1 or given[0] < 1:
        raise ConfigError(
            f"batch_size {batch_size}, tokens_per_batch {tokens_per_batch}: give one of them, at least 1."
        )
    _check_process(process_index, process_count)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if not shuffle:
        found = list(_cut(np.argsort(lengths, kind="stable"), lengths, batch_size, tokens_per_batch))
    else:
        chance = np.random.default_rng([seed, epoch])
        order = chance.permutation(len(rows))
        pool = POOL * (batch_size or max(1, int(tokens_per_batch // max(lengths.mean(), 1)))) if len(rows) else 1
        pools = [order[i : i + pool] for i in range(0, len(order), pool)]
        by_length = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
        found = [batch for pool in by_length for batch in _cut(pool, lengths, batch_size, tokens_per_batch)]
        found = [found[i] for i in chance.permutation(len(found))]
    return [batch[process_index::process_count] for batch in found]


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """int64 tensors: `input_ids`, `attention_mask` (batch, tokens); `first` (batch, words) padded with -1; `labels`
    (batch, words) padded with -100, left out for rows without labels.
    """
    result = {
        "input_ids": _padded([row.input_ids for row in rows], pad_id),
        "attention_mask": _padded([(1,) * len(row) for row in rows], 0),
        "first": _padded([row.first for row in rows], -1),
    }
    if any(row.labels for row in rows):
        result["labels"] = _padded([row.labels for row in rows], IGNORED)
    return result


def merge_predictions(
    rows: Sequence[Row], tags_of_rows: Sequence[Sequence[str]], sentences: Sequence
) -> list[list[str]]:
    """The tags predicted for each row's words -> a list of tags for each sentence, over all its windows.

    Raises DataError when a word got no tag, or two: rows or tags are then not those of these sentences.
    """
    merged: list[list[str | None]] = [[None] * len(sentence.tokens) for sentence in sentences]
    for row, tags in zip(rows, tags_of_rows, strict=True):
        if len(row.words) != len(tags):
            raise DataError(
                f"sentence {row.sentence}: {len(tags)} predictions for {len(row.words)} words; give a tag for each."
            )
        for word, tag in zip(row.words, tags, strict=True):
            if merged[row.sentence][word] is not None:
                raise DataError(f"sentence {row.sentence}, word {word}: predicted twice; give each row once.")
            merged[row.sentence][word] = tag
    for number, tags in enumerate(merged):
        if None in tags:
            raise DataError(
                f"sentence {number}, word {tags.index(None)}: no prediction; give the rows of all sentences."
            )
    return merged


class Share(NamedTuple):
    """A process's rows of one step: which blocks, and their `rows` in the global batch (for the seeds of masks)."""

    blocks: np.ndarray
    rows: np.ndarray


class BlockBatches:
    """An endless stream of blocks: permutation after permutation of 0 ... count-1, cut into global batches.

    Step s takes places s*batch_size ... of the stream; place p is entry p mod count of permutation p div count. So any
    step can be computed at once, and a resumed run replays nothing. Memory: two permutations, 4 bytes a block each.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int = 0, process_index: int = 0, process_count: int = 1):
        if count < 1 or batch_size < 1:
            raise ConfigError(f"{count} blocks in batches of {batch_size}: allowed is at least 1 of each.")
        if batch_size < process_count:
            raise ConfigError(
                f"batch_size {batch_size} for {process_count} processes: each needs a row at least; raise batch_size."
            )
        _check_process(process_index, process_count)
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.process_index, self.process_count = process_index, process_count
        self._permutations: dict[int, np.ndarray] = {}

    def share_of_step(self, step: int) -> Share:
        """This process's part of the global batch of a step; `blocks` may belong to two epochs."""
        rows = np.arange(self.process_index, self.batch_size, self.process_count)
        places = step * self.batch_size + rows
        return Share(
            np.array([self._epoch(p // self.count)[p % self.count] for p in places.tolist()], dtype=np.int64), rows
        )

    def indices_of_step(self, step: int) -> np.ndarray:
        """int64 (share,): the blocks alone."""
        return self.share_of_step(step).blocks

    def __iter__(self) -> Iterator[np.ndarray]:
        step = 0
        while True:
            yield self.indices_of_step(step)
            step += 1

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            self._permutations = {e: order for e, order in self._permutations.items() if e == epoch - 1}
            self._permutations[epoch] = (
                np.random.default_rng([self.seed, epoch]).permutation(self.count).astype(np.int32)
            )
        return self._permutations[epoch]


def _cut(order: np.ndarray, lengths: np.ndarray, batch_size: int | None, tokens: int | None) -> Iterator[list[int]]:
    """Rows in order of length -> batches; the last row of a batch is its longest."""
    batch: list[int] = []
    for row in order.tolist():
        full = len(batch) == batch_size if tokens is None else (len(batch) + 1) * lengths[row] > tokens
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    result = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for i, row in enumerate(rows):
        result[i, : len(row)] = row
    return torch.from_numpy(result)


def _check_process(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise ConfigError(f"process {index} of {count}: allowed are 0 to {count - 1}.")
