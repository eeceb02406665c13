"""Random bits that are the same on every version and device: the raw words of numpy's Philox generator.

numpy guarantees the stream of a bit generator, but not what its distributions make of it; torch guarantees neither over
versions and devices. So whatever a stored module hangs on is made of these words in whole numbers.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor


class RandomWords:
    """A stream of random words of 64 bits, chosen by a text."""

    def __init__(self, key: str):
        digest = hashlib.sha256(key.encode()).digest()
        self._stream = np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64))

    def rows(self, count: int, words: int) -> Tensor:
        """The next count * words words as bytes `(count, 8 * words)`, the lowest byte of each word first."""
        raw = self._stream.random_raw(count * words).astype("<u8").view(np.uint8)
        return torch.from_numpy(raw.reshape(count, 8 * words))

    def permutation(self, count: int) -> Tensor:
        """The order `(count,)` of the next words by their size, of equal ones the first."""
        return torch.from_numpy(np.argsort(self._stream.random_raw(count), kind="stable"))
