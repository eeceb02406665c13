"""Tests of a difference between two scores: over test sentences (paired bootstrap) and over training seeds (paired t).

They answer different questions. The bootstrap tells whether other sentences of the same kind would show the difference,
the seeds whether another training run would. All values are percent points. `holm` corrects the p-values of many tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from madx.errors import DataError, MadxError
from madx.metrics.scores import Statistics

ALPHA = 0.05
SAMPLES = 10_000
#: drawn indices held at once: they stay in the processor's cache, which halves the time
_CHUNK = 100_000


@dataclass(frozen=True)
class Difference:
    """F1(a) - F1(b) on all sentences, its 95 % bootstrap interval and the two-sided p."""

    delta: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class SeedDifference:
    """The mean of a - b over n seeds.

    low, high: its 95 % t interval; None for one seed. noise: the interval contains 0, or there is none. p: two-sided,
    of the same t; None for one seed.
    """

    delta: float
    low: float | None
    high: float | None
    n: int
    noise: bool
    p: float | None = None


def paired_bootstrap(
    stats_a: Statistics, stats_b: Statistics, *, samples: int = SAMPLES, seed: int | Sequence[int]
) -> Difference:
    """The difference of two predictions of the same sentences, tested by resampling the sentences, the same ones for
    both.

    A resample draws as many sentences as there are, with replacement. The F1 = 2 Σtp / (Σgold + Σpred) of a and of b on
    it gives one delta; with one tag for each word F1 is the accuracy. `judged` gives interval and p (Koehn 2004; Efron
    & Tibshirani 1993).

    Raises DataError when a and b do not describe the same gold sentences; MadxError on fewer than 100 samples.
    """
    whole, drawn = resampled_f1([stats_a, stats_b], samples=samples, seed=seed)
    return judged(whole[0] - whole[1], drawn[:, 0] - drawn[:, 1])


def judged(delta: float, deltas: np.ndarray) -> Difference:
    """Interval and p of a delta by its resampled values `(samples,)`.

    The interval is their 2.5 % and 97.5 % quantile; p = 2 min(#(deltas <= 0) + 1, #(deltas >= 0) + 1) / (samples + 1),
    at most 1.
    """
    low, high = np.quantile(deltas, [0.025, 0.975])
    tail = min((deltas <= 0).sum(), (deltas >= 0).sum()) + 1
    return Difference(
        delta=float(delta), low=float(low), high=float(high), p=float(min(1.0, 2 * tail / (len(deltas) + 1)))
    )


def resampled_f1(
    systems: Sequence[Statistics], *, samples: int = SAMPLES, seed: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """F1 of several predictions of the same sentences: on all sentences `(systems,)`, and on resamples `(samples,
    systems)`.

    In each resample all systems are scored on the same drawn sentences. Raises DataError when the systems do not
    describe the same gold sentences, MadxError on fewer than 100 samples.
    """
    if samples < 100:
        raise MadxError(f"samples={samples} is too few for a 95 % interval; use 100 or more ({SAMPLES} is usual)")
    n = len(systems[0])
    for other in systems:
        if n == 0 or not np.array_equal(systems[0].n_gold, other.n_gold):
            raise DataError(
                f"cannot pair {n} with {len(other)} sentences: both predictions must be of the "
                "same sentences in the same order, at least one"
            )
    # columns: 2 tp of each system, then gold + pred of each: (sentences, 2 systems); F1 is a ratio of column sums
    columns = np.stack([2.0 * s.tp for s in systems] + [s.n_gold + s.n_pred for s in systems], axis=1)
    rng, drawn = np.random.default_rng(seed), []
    step = max(1, _CHUNK // n)
    offsets = n * np.arange(step)[:, None]
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        places = rng.integers(0, n, size=(rows, n)) + offsets[:rows]
        times = np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n)  # how often each sentence was drawn
        drawn.append(_f1(times.astype(float) @ columns))
    return _f1(columns.sum(axis=0)), np.concatenate(drawn)


def _f1(sums: np.ndarray) -> np.ndarray:
    """F1 in percent points from sums `(..., 2 systems)`; it is 0 where nothing was found and nothing is to be found."""
    twice_tp, both = np.split(sums, 2, axis=-1)
    return np.asarray(100.0 * twice_tp / np.maximum(both, 1.0))


def seed_difference(values_a: Sequence[float], values_b: Sequence[float]) -> SeedDifference:
    """The mean difference over seeds, with a paired t test; value i of both comes from the same seed.

    With d = a - b and sd with n - 1: interval = mean(d) ± t(0.975, n - 1) sd(d) / sqrt(n), and p is that of
    t = mean(d) sqrt(n) / sd(d) (Student 1908).

    >>> seed_difference([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])
    SeedDifference(delta=2.0, low=2.0, high=2.0, n=3, noise=False, p=0.0)

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
    error = float(d.std(ddof=1) / np.sqrt(n))
    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * error
    low, high = delta - half, delta + half
    p = 2 * float(stdtr(n - 1, -abs(delta) / error)) if error else float(delta == 0)
    return SeedDifference(delta=delta, low=low, high=high, n=n, noise=low <= 0.0 <= high, p=p)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number m: the i-th smallest becomes the largest of (m - j + 1) p_(j) over j <= i, at
    most 1.

    When all differences with a corrected p below alpha are called real, the chance that one or more of them is not is
    at most alpha, however the tests depend on each other (Holm 1979).

    >>> holm([0.04, 0.01, 0.02])
    [0.04, 0.03, 0.04]
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    result, worst = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[i]))
        result[i] = worst
    return result
