"""Is a difference more than noise: over test sentences (paired bootstrap) and over training seeds (paired t).

The two ask different things. The bootstrap asks whether other sentences of the same kind would show it; the seeds
ask whether another training run would. All values are percent points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from madx.errors import DataError, MadxError
from madx.scores import Statistics

_CHUNK = 4_000_000  # drawn indices held at once: 32 MB


@dataclass(frozen=True)
class Difference:
    """F1(a) - F1(b) on all sentences, its 95 % bootstrap interval and the two-sided p."""

    delta: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class SeedDifference:
    """Mean of a - b over n seeds and its 95 % t interval; `low`, `high` are None for one seed.

    `noise`: the interval contains 0, or there is no interval.
    """

    delta: float
    low: float | None
    high: float | None
    n: int
    noise: bool


def paired_bootstrap(stats_a: Statistics, stats_b: Statistics, *, samples: int = 1000, seed: int) -> Difference:
    """Compare two predictions of the same sentences by resampling the sentences, the same ones for both.

    A resample draws as many sentences as there are, with replacement; its F1 = 2 Σtp / (Σgold + Σpred) for a and b
    gives one delta (with a tag for each word F1 is the accuracy). The interval is the 2.5 % and 97.5 % quantile of the deltas, and
    p = 2 min(#(delta <= 0) + 1, #(delta >= 0) + 1) / (samples + 1), at most 1 (Koehn 2004; Efron & Tibshirani 1993).

    Raises DataError when a and b do not describe the same gold sentences; MadxError on fewer than 100 samples.
    """
    if samples < 100:
        raise MadxError(f"samples={samples} is too few for a 95 % interval; use 100 or more (1000 is usual)")
    if len(stats_a) == 0 or not np.array_equal(stats_a.n_gold, stats_b.n_gold):
        raise DataError(f"cannot pair {len(stats_a)} with {len(stats_b)} sentences: both predictions must be of the "
                        "same sentences in the same order, at least one")
    n = len(stats_a)
    # Columns: 2 tp and gold + pred of a, then of b: (sentences, 4). F1 is a ratio of column sums.
    columns = np.stack([part for s in (stats_a, stats_b) for part in (2.0 * s.tp, s.n_gold + s.n_pred)], axis=1)
    whole = float(_delta(columns.sum(axis=0)))
    rng, deltas = np.random.default_rng(seed), []
    step = max(1, _CHUNK // n)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)  # how often each sentence was drawn
        deltas.append(_delta(times.astype(float) @ columns))
    deltas = np.concatenate(deltas)
    low, high = np.quantile(deltas, [0.025, 0.975])
    tail = min((deltas <= 0).sum(), (deltas >= 0).sum()) + 1
    return Difference(delta=whole, low=float(low), high=float(high), p=float(min(1.0, 2 * tail / (samples + 1))))


def _delta(sums: np.ndarray) -> np.ndarray:
    """F1(a) - F1(b) in percent points from sums `(..., 4)`; F1 of nothing found and nothing to find is 0."""
    f1 = 100.0 * sums[..., 0::2] / np.maximum(sums[..., 1::2], 1.0)
    return f1[..., 0] - f1[..., 1]


def seed_difference(values_a: Sequence[float], values_b: Sequence[float]) -> SeedDifference:
    """Mean difference over seeds; value i of both comes from the same seed.

    With d = a - b: interval = mean(d) ± t(0.975, n - 1) sd(d) / sqrt(n), sd with n - 1 (Student 1908).

    >>> seed_difference([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])
    SeedDifference(delta=2.0, low=2.0, high=2.0, n=3, noise=False)

    Raises DataError on different lengths, no values, or values that are not finite.
    """
    a, b = np.asarray(values_a, dtype=float), np.asarray(values_b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise DataError(f"cannot pair {a.size} with {b.size} values over seeds; give one value per seed for both")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError(f"scores over seeds must be finite numbers, got {a.tolist()} and {b.tolist()}")
    d, n = a - b, len(a)
    delta = float(d.mean())
    if n < 2:
        return SeedDifference(delta=delta, low=None, high=None, n=n, noise=True)
    half = float(stdtrit(n - 1, 0.975) * d.std(ddof=1) / np.sqrt(n))
    low, high = delta - half, delta + half
    return SeedDifference(delta=delta, low=low, high=high, n=n, noise=low <= 0.0 <= high)
