import time

import numpy as np
import pytest
from scipy import stats

from madx.errors import DataError, MadxError
from madx.metrics.scores import Statistics, _prf
from madx.metrics.significance import paired_bootstrap, seed_difference


def drawn(sentences, skill, seed, gold_seed=0):
    """A made-up prediction that finds each gold entity with probability `skill` and adds a few wrong ones."""
    gold = np.random.default_rng(gold_seed).poisson(1.5, sentences)
    rng = np.random.default_rng(seed)
    tp = rng.binomial(gold, skill)
    return Statistics(tp, gold, tp + rng.poisson(0.3, sentences))


def f1(s, rows=slice(None)):
    return _prf(int(s.tp[rows].sum()), int(s.n_gold[rows].sum()), int(s.n_pred[rows].sum()))[2]


def test_bootstrap_equals_a_plain_loop():
    a, b = drawn(40, 0.8, 1), drawn(40, 0.7, 2)
    rng = np.random.default_rng(7)
    rows = rng.integers(0, 40, size=(200, 40))
    deltas = [f1(a, r) - f1(b, r) for r in rows]
    found = paired_bootstrap(a, b, samples=200, seed=7)
    assert found.delta == pytest.approx(f1(a) - f1(b))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(deltas, [0.025, 0.975])))
    tail = min(sum(d <= 0 for d in deltas), sum(d >= 0 for d in deltas))
    assert found.p == pytest.approx(min(1, 2 * (1 + tail) / 201))


def test_bootstrap_sees_a_large_and_no_difference():
    good, bad = drawn(500, 0.9, 1), drawn(500, 0.6, 2)
    large = paired_bootstrap(good, bad, seed=0)
    assert large.low > 0 and large.p < 0.01
    turned = paired_bootstrap(bad, good, seed=0)
    assert (turned.delta, turned.low, turned.high) == pytest.approx((-large.delta, -large.high, -large.low))
    same = paired_bootstrap(good, good, seed=0)
    assert (same.delta, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_bootstrap_intervals_contain_zero_about_as_often_as_they_say():
    inside = 0
    for i in range(100):
        d = paired_bootstrap(drawn(150, 0.7, 2 * i + 1, i), drawn(150, 0.7, 2 * i + 2, i), samples=200, seed=i)
        inside += d.low <= 0 <= d.high
    assert 88 <= inside <= 100


def test_bootstrap_is_deterministic_also_in_chunks(monkeypatch):
    a, b = drawn(50, 0.8, 1), drawn(50, 0.75, 2)
    whole = paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) == whole != paired_bootstrap(a, b, seed=4)
    monkeypatch.setattr("madx.metrics.significance._CHUNK", 50 * 7)
    assert paired_bootstrap(a, b, seed=3) == whole


def test_bootstrap_is_fast():
    a, b = drawn(2000, 0.8, 1), drawn(2000, 0.75, 2)
    best = min(_seconds(a, b) for _ in range(3))
    assert best < 0.6  # 0.1 s on an idle core; the margin is for a busy one


def _seconds(a, b):
    start = time.process_time()
    paired_bootstrap(a, b, seed=0)
    return time.process_time() - start


def test_bootstrap_without_entities_is_zero():
    nothing = Statistics([0, 0], [0, 0], [0, 0])
    assert paired_bootstrap(nothing, nothing, seed=0).delta == 0


@pytest.mark.parametrize(
    "a, b, samples, error, text",
    [
        (
            Statistics([0], [1], [1]),
            Statistics([0, 0], [1, 1], [1, 1]),
            1000,
            DataError,
            "cannot pair 1 with 2 sentences",
        ),
        (Statistics([0], [1], [1]), Statistics([0], [2], [1]), 1000, DataError, "same sentences"),
        (Statistics([], [], []), Statistics([], [], []), 1000, DataError, "at least one"),
        (Statistics([0], [1], [1]), Statistics([0], [1], [1]), 10, MadxError, "samples=10 is too few"),
    ],
)
def test_bootstrap_bad_input(a, b, samples, error, text):
    with pytest.raises(error, match=text):
        paired_bootstrap(a, b, samples=samples, seed=0)


def test_seed_difference_equals_scipy():
    a, b = [80.0, 82.5, 81.0, 79.0], [78.0, 79.0, 80.5, 78.5]
    found = seed_difference(a, b)
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.delta, found.low, found.high) == pytest.approx((np.mean(a) - np.mean(b), interval.low, interval.high))
    assert found.n == 4 and found.noise is bool(interval.low <= 0 <= interval.high)


def test_noise():
    assert seed_difference([3, 4, 5], [1, 2.1, 2.9]).noise is False
    assert seed_difference([1, 2.1, 2.9], [3, 4, 5]).noise is False
    assert seed_difference([3, 1, 5], [1, 4, 3]).noise is True
    assert seed_difference([3, 4], [3, 4]).noise is True
    one = seed_difference([9], [1])
    assert (one.delta, one.low, one.high, one.n, one.noise) == (8, None, None, 1, True)


@pytest.mark.parametrize(
    "a, b, text", [([], [], "cannot pair 0"), ([1, 2], [1], "cannot pair 2 with 1"), ([float("nan")], [1], "finite")]
)
def test_seed_difference_bad_input(a, b, text):
    with pytest.raises(DataError, match=text):
        seed_difference(a, b)
