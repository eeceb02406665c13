"""Masks follow the 80/10/10 rule and depend on nothing but the seed of their row."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madx.data.text.masking import mask_tokens, row_seed

SPECIAL, MASK, VOCAB = [0, 1, 2, 3, 49], 49, 50


def masked(ids, rows, **kwargs):
    return mask_tokens(ids, seeds=row_seed(7, 3, rows), mask_id=MASK, vocab_size=VOCAB, special_ids=SPECIAL, **kwargs)


def test_shares_of_the_rule():
    ids = torch.full((400, 256), 10)
    inputs, labels = masked(ids, np.arange(400))
    chosen = labels != -100
    assert inputs.dtype == labels.dtype == torch.int64
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.005)
    assert (labels[chosen] == 10).all() and (inputs[~chosen] == 10).all()
    hidden, kept = (inputs[chosen] == MASK).float().mean().item(), (inputs[chosen] == 10).float().mean().item()
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1 + 0.1 / 45, abs=0.015)  # a random token may be the same one
    drawn = inputs[chosen & (inputs != MASK) & (inputs != 10)]
    assert set(drawn.tolist()) == set(range(4, 49)) - {10}
    counts = torch.bincount(drawn, minlength=VOCAB)[4:49].float()
    assert counts[counts > 0].std() < 0.25 * counts.mean()  # about Poisson: a deviation near the root of 34
    assert chosen.float().mean(dim=0).std() < 0.03  # no position is preferred


def test_rows_do_not_depend_on_their_batch():
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (16, 40)))
    whole = masked(ids, np.arange(16))
    for process in range(4):
        rows = np.arange(process, 16, 4)
        for part, all_rows in zip(masked(ids[rows], rows), whole, strict=True):
            assert torch.equal(part, all_rows[rows])
    padded = torch.cat([ids, torch.ones(16, 5, dtype=torch.int64)], dim=1)
    assert torch.equal(masked(padded, np.arange(16))[0][:, :40], whole[0])


def test_seeds_differ_by_seed_step_and_row():
    seeds = [int(row_seed(s, t, r)[0]) for s in range(8) for t in range(8) for r in range(8)]
    assert len(set(seeds)) == 512
    assert row_seed(1, 2, np.arange(5)).tolist() == [int(row_seed(1, 2, r)[0]) for r in range(5)]


def test_equals_the_definition_in_plain_integers():
    """The hash is SplitMix64, written here without arrays, so that a resumed run goes on with any numpy."""
    wrap, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(x):
        x = (x + golden) & wrap
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & wrap
        return x ^ (x >> 31)

    inputs, labels = masked(torch.full((20, 30), 10), np.arange(20))
    for row in range(20):
        seed = mix((mix((mix(7) + 3) & wrap) + row) & wrap)
        assert row_seed(7, 3, row).tolist() == [seed]

        def number(stream, place, seed=seed):
            return (mix(((seed + (place + 1) * golden) & wrap) ^ mix(stream)) >> 11) * 2.0**-53

        chosen = [p for p in range(30) if number(1, p) < 0.15] or [min(range(30), key=lambda p: number(1, p))]
        assert chosen == torch.nonzero(labels[row] != -100).flatten().tolist()
        plain = [i for i in range(VOCAB) if i not in SPECIAL]
        fates = {
            p: MASK if number(2, p) < 0.8 else plain[int(number(3, p) * len(plain))] if number(2, p) >= 0.9 else 10
            for p in chosen
        }
        assert [fates[p] for p in chosen] == inputs[row, chosen].tolist()


@given(st.integers(1, 6), st.integers(0, 30), st.integers(0, 2**63), st.floats(0.0, 1.0))
def test_special_tokens_stay_and_each_row_has_a_choice(rows, width, seed, probability):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, (rows, width)))
    before = ids.clone()
    inputs, labels = mask_tokens(
        ids,
        seeds=row_seed(seed, 0, np.arange(rows)),
        mask_id=MASK,
        vocab_size=VOCAB,
        special_ids=SPECIAL,
        probability=probability,
    )
    special, chosen = torch.isin(ids, torch.tensor(SPECIAL)), labels != -100
    assert torch.equal(ids, before)
    assert not (special & chosen).any() and torch.equal(inputs[special], ids[special])
    assert torch.equal(chosen.any(dim=1), (~special).any(dim=1))
    assert torch.equal(labels[chosen], ids[chosen])
    assert not torch.isin(inputs[chosen & (inputs != MASK)], torch.tensor(SPECIAL)).any()


def test_fast_enough():
    ids = torch.randint(4, 250_000, (64, 256), generator=torch.Generator().manual_seed(0))
    times = []
    for step in range(7):
        start = time.perf_counter()
        mask_tokens(
            ids, seeds=row_seed(0, step, np.arange(64)), mask_id=4, vocab_size=250_002, special_ids=[0, 1, 2, 3, 4]
        )
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # 1 ms on an idle core
