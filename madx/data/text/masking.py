"""Which tokens masked language modelling hides: a pure function of (seed, step, row).

BERT (Devlin et al. 2019, arXiv:1810.04805): 15 % of the tokens are to be predicted; of these 80 % become the mask
token, 10 % a random token, 10 % stay. A token's fate is a hash of its row's seed and its position, with no state to
carry: the same row gets the same masks in any batch, on any number of processes, before and after a resume.
"""

import numpy as np
import torch

IGNORED = -100  # the label that cross entropy leaves out
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def row_seed(seed: int, step, row):
    """Seeds of rows: uint64, of the shape of `step` and `row` together (each a number or an array of numbers)."""
    mixed = _mix(np.array(seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))
    return _mix(_mix(mixed + np.asarray(step).astype(np.uint64)) + np.asarray(row).astype(np.uint64))


def mask_tokens(
    ids: torch.Tensor, *, seeds, mask_id: int, vocab_size: int, special_ids, probability: float = 0.15
) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, labels), int64 (batch, tokens); labels are -100 where nothing is to be predicted.

    `seeds`: (batch,), from `row_seed`. `special_ids` are never chosen and never put in. Each row that has another
    token gets at least one. For a held-out set with fixed masks, take fixed seeds: `row_seed(0, 0, rows)`.
    """
    tokens = ids.cpu().numpy().astype(np.int64, copy=False)
    special = np.unique(np.asarray(list(special_ids), dtype=np.int64))
    # (3, batch, tokens) numbers in [0, 1): is it chosen? which of the three fates? which random token?
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
    """Numbers in [0, 1) -> ids, each id that is not special equally likely.

    With S = vocab_size - #special, r = floor(draw * S) counts the plain ids only; special ids up to it shift it.
    """
    special = special[(special >= 0) & (special < vocab_size)]
    rank = (draw * (vocab_size - len(special))).astype(np.int64)
    return rank + np.searchsorted(special - np.arange(len(special)), rank, side="right")


def _mix(x: np.ndarray) -> np.ndarray:
    """The step of SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195): one uint64 -> a well mixed one."""
    x = np.atleast_1d(x) + _GOLDEN  # arrays wrap round in silence, numpy's scalars warn
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(x: np.ndarray) -> np.ndarray:
    return (_mix(x) >> np.uint64(11)).astype(np.float64) * 2.0**-53
