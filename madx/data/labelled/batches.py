"""Batches of rows of similar length, and predictions for rows brought back to their sentences."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from madx.data.labelled.sentences import HasTokens
from madx.data.labelled.windows import Row
from madx.data.text.masking import IGNORED
from madx.errors import ConfigError, DataError

POOL = 64  # batches whose rows are sorted together: there is little padding, and rows still meet by chance

Predicted = TypeVar("Predicted")


def batches(
    rows: Sequence[Row],
    *,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
) -> list[list[int]]:
    """Return the indices of the rows of each batch; every row is in one batch.

    batch_size: rows in a batch. tokens_per_batch: rows times the tokens of the longest row, with the padding; a row
    longer than that is a batch of its own. One of the two must be given, otherwise ConfigError is raised.
    seed, epoch: the order is a pure function of both. shuffle: False orders the rows by length.
    """
    given = [limit for limit in (batch_size, tokens_per_batch) if limit is not None]
    if len(given) != 1 or given[0] < 1:
        raise ConfigError(
            f"batch_size {batch_size}, tokens_per_batch {tokens_per_batch}: give one of them, at least 1."
        )
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if not shuffle:
        return list(_cut(np.argsort(lengths, kind="stable"), lengths, batch_size, tokens_per_batch))
    chance = np.random.default_rng([seed, epoch])
    order = chance.permutation(len(rows))
    size = POOL * (batch_size or max(1, int(given[0] // max(lengths.mean(), 1)))) if len(rows) else 1
    pools = [order[i : i + size] for i in range(0, len(order), size)]
    by_length = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    found = [batch for pool in by_length for batch in _cut(pool, lengths, batch_size, tokens_per_batch)]
    return [found[i] for i in chance.permutation(len(found))]


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Return the rows of a batch as int64 tensors.

    `input_ids` and `attention_mask`: `(batch, tokens)`, padded with `pad_id` and 0. `first`: `(batch, words)`, the
    position of the first piece of each word, padded with -1. `pieces`: `(batch, words)`, the number of pieces of each
    word, padded with 0. `labels`: `(batch, words)`, padded with -100; left out for rows without labels.
    """
    result = {
        "input_ids": _padded([row.input_ids for row in rows], pad_id),
        "attention_mask": _padded([(1,) * len(row) for row in rows], 0),
        "first": _padded([row.first for row in rows], -1),
        "pieces": _padded([row.pieces for row in rows], 0),
    }
    if any(row.labels for row in rows):
        result["labels"] = _padded([row.labels for row in rows], IGNORED)
    return result


def merge_predictions(
    rows: Sequence[Row], tags_of_rows: Sequence[Sequence[Predicted]], sentences: Sequence[HasTokens]
) -> list[list[Predicted]]:
    """Return the tags of each sentence, gathered from the tags that were predicted for the words of all rows.

    A tag may be anything that is predicted for a word, for example a tag with its probability.

    Raises DataError if a word got no tag, or two: rows or tags are then not those of these sentences.
    """
    merged: list[list[Predicted | None]] = [[None] * len(sentence.tokens) for sentence in sentences]
    for row, tags in zip(rows, tags_of_rows, strict=True):
        if len(row.words) != len(tags):
            raise DataError(
                f"sentence {row.sentence}: {len(tags)} predictions for {len(row.words)} words; give a tag for each."
            )
        for word, tag in zip(row.words, tags, strict=True):
            if merged[row.sentence][word] is not None:
                raise DataError(f"sentence {row.sentence}, word {word}: predicted twice; give each row once.")
            merged[row.sentence][word] = tag
    for number, found in enumerate(merged):
        if None in found:
            raise DataError(
                f"sentence {number}, word {found.index(None)}: no prediction; give the rows of all sentences."
            )
    return [[tag for tag in found if tag is not None] for found in merged]


def _cut(order: np.ndarray, lengths: np.ndarray, batch_size: int | None, tokens: int | None) -> Iterator[list[int]]:
    """Cut rows that are sorted by length into batches, so that the last row of a batch is its longest."""
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
