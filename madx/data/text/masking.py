"""The choice of the tokens that masked language modelling hides: a pure function of (seed, step, row).

BERT (Devlin et al. 2019, arXiv:1810.04805): 15 % of the tokens are to be predicted; of these 80 % become the mask
token, 10 % become a random token, 10 % stay. What happens to a token follows from a hash of the seed of its row and its
position. There is no state: a row gets the same masks in any batch, on any number of processes, before and after a
resume.
"""

from collections.abc import Iterable

import numpy as np
import torch

IGNORED = -100  # the label that cross entropy leaves out
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def row_seed(seed: int, step: int | np.ndarray, row: int | np.ndarray) -> np.ndarray:
    """Return the seeds of rows, uint64, in the common shape of `step` and `row` (a single one has shape `(1,)`)."""
    mixed = _mix(np.array(seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))
    return _mix(_mix(mixed + np.asarray(step).astype(np.uint64)) + np.asarray(row).astype(np.uint64))


def mask_tokens(
    ids: torch.Tensor,
    *,
    seeds: np.ndarray,
    mask_id: int,
    vocab_size: int,
    special_ids: Iterable[int],
    probability: float = 0.15,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (inputs, labels), int64 `(batch, tokens)`; labels are -100 where nothing is to be predicted.

    ids: `(batch, tokens)`. seeds: `(batch,)`, from `row_seed`; fixed seeds give a held-out set fixed masks.
    special_ids: ids that are never chosen and never put in. probability: the share of tokens to predict; each row that
    has a token which is not special gets at least one.
    """
    tokens = ids.cpu().numpy().astype(np.int64, copy=False)
    special = np.unique(np.asarray(list(special_ids), dtype=np.int64))
    # three streams of numbers in [0, 1), (batch, tokens) each: is it chosen? what becomes of it? which random token?
    position = np.arange(1, tokens.shape[1] + 1, dtype=np.uint64) * _GOLDEN
    base = np.asarray(seeds, dtype=np.uint64)[:, None] + position
    chance, fate, draw = (_uniform(base ^ _mix(np.array(stream, dtype=np.uint64))) for stream in (1, 2, 3))

    chance[np.isin(tokens, special)] = np.inf
    lowest = chance.min(axis=1, keepdims=True, initial=np.inf)
    chosen = ((chance < probability) | (chance == lowest)) & (chance < np.inf)
    inputs = np.where(chosen & (fate < 0.8), mask_id, tokens)
    inputs = np.where(chosen & (fate >= 0.9), _plain_tokens(draw, vocab_size, special), inputs)
    return torch.from_numpy(inputs), torch.from_numpy(np.where(chosen, tokens, IGNORED))


def _plain_tokens(draw: np.ndarray, vocab_size: int, special: np.ndarray) -> np.ndarray:
    """Turn numbers in [0, 1) into ids that are not special, each of them equally likely.

    With S = vocab_size - #special, r = floor(draw * S) counts the plain ids only; each special id up to it adds one.
    """
    special = special[(special >= 0) & (special < vocab_size)]
    rank = (draw * (vocab_size - len(special))).astype(np.int64)
    return rank + np.searchsorted(special - np.arange(len(special)), rank, side="right")


def _mix(x: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 numbers: a step of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    x = np.atleast_1d(x) + _GOLDEN  # an array wraps round without a warning, a scalar of numpy warns
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(x: np.ndarray) -> np.ndarray:
    return (_mix(x) >> np.uint64(11)).astype(np.float64) * 2.0**-53
