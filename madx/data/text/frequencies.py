"""Frequencies of pieces in packed text: the level that a masked-LM head begins at, and that every base should beat."""

from collections.abc import Iterable

import numpy as np

from madx.data.text.blocks import BlockArray

ADDED = 0.1  # to the count of each piece, so that none has the probability 0
ROWS = 1 << 14  # blocks counted at once


def piece_probabilities(blocks: BlockArray, vocabulary: int, *, special_ids: Iterable[int] = ()) -> np.ndarray:
    """Return p(piece) = (count + 0.1) / (total + 0.1 vocabulary) over blocks, float64 `(vocabulary,)`.

    special_ids: pieces that are never to be predicted; their counts are taken as 0.

    >>> piece_probabilities(BlockArray(np.array([[0, 1, 1]])), 3, special_ids=[0]).round(2).tolist()
    [0.04, 0.91, 0.04]
    """
    counts = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(blocks), ROWS):
        counts += np.bincount(blocks[start : start + ROWS].ravel(), minlength=vocabulary)
    counts[[each for each in special_ids if 0 <= each < vocabulary]] = 0
    found: np.ndarray = (counts + ADDED) / (counts.sum() + ADDED * vocabulary)
    return found
