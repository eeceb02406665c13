"""Regrowth: entries that are replaced in training (SpIEL), against a transcription with dense tensors."""

from types import SimpleNamespace

import hypothesis
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sparse_runs import killed_after, language, settings, untied_model
from tiny import scatter, snapshot, unchanged

from madx.data.text.masking import IGNORED
from madx.errors import ConfigError
from madx.tasks.masked_lm import MaskedLM
from madx.training import SparseSettings, fit
from madx.training.sparse.regrowth import EntryAdamW
from madx.training.sparse.selections import drop_and_grow

QUICK = {
    "selection": "drop_and_grow",
    "accumulate": 2,
    "reselect_every": 4,
    "replaced": 0.4,
    "sparse_l1": 0.0,
    "keep_best": False,
}


def test_entries_of_one_age_take_the_steps_of_adamw():
    one, two = (torch.nn.Parameter(torch.arange(5.0)) for _ in range(2))
    ours, theirs = EntryAdamW([{"params": [one]}]), torch.optim.AdamW([two], lr=0.01, weight_decay=0.0)
    ours.param_groups[0]["lr"] = 0.01
    for step in range(6):
        one.grad = two.grad = torch.randn(5, generator=torch.Generator().manual_seed(step))
        ours.step(), theirs.step()
    assert torch.allclose(one, two, atol=1e-7) and not torch.equal(one, torch.arange(5.0))
    assert set(ours.state[one]) == {"age", "exp_avg", "exp_avg_sq"}


def transcription(task, unit, start, rate, steps, *, growth):
    """SpIEL over dense tensors of everything selectable, entry by entry; gives (values, which entries are held)."""
    model = untied_model()
    weights = [model.roberta.get_parameter(p.name).requires_grad_(True) for p in unit.space.parameters]
    theta, size, count = [w.detach().clone() for w in weights], unit.space.size, len(start)
    value, mean, square, age = (torch.zeros(size) for _ in range(4))
    held = torch.zeros(size, dtype=torch.bool)
    held[start] = True
    rows, columns = [torch.zeros(w.shape[0]) for w in weights], [torch.zeros(w[0].numel()) for w in weights]
    candidates = sums = squares = None
    for step in range(steps):
        for w, t, v in zip(weights, theta, value.split([w.numel() for w in weights])):
            w.data, w.grad = t + v.view_as(t), None
        (batch,) = task.batches(step)
        logits = model(input_ids=batch["input_ids"]).logits
        F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED).backward()
        dense = torch.cat([w.grad.flatten() if w.grad is not None else torch.zeros(w.numel()) for w in weights])
        place = step % 4
        if place == 0:
            candidates = dense.abs().argsort(descending=True, stable=True)[:count]
            sums, squares = torch.zeros(count), torch.zeros(count)
        elif place <= 2:
            sums, squares = sums + dense[candidates], squares + dense[candidates] ** 2
        for k, (part, where) in enumerate(
            zip(dense.split([w.numel() for w in weights]), held.split([w.numel() for w in weights]))
        ):
            grid = part.view(len(rows[k]), -1)
            estimate = torch.minimum(rows[k][:, None], columns[k][None, :]) + grid**2
            estimate = torch.where(where.view_as(grid), estimate, 0.0)
            rows[k] = torch.maximum(rows[k], estimate.max(1).values)
            columns[k] = torch.maximum(columns[k], estimate.max(0).values)
        gradient = torch.where(held, dense, 0.0)
        gradient = gradient * min(1.0, 1.0 / (gradient.norm().item() + 1e-6))
        mean = torch.where(held, 0.9 * mean + 0.1 * gradient, 0.0)
        square = torch.where(held, 0.999 * square + 0.001 * gradient**2, 0.0)
        age = age + held
        change = mean / (1 - 0.9**age) / ((square / (1 - 0.999**age)).sqrt() + 1e-8)
        value = torch.where(held, value - 1e-2 * rate(step, steps) * change, 0.0)
        if place != 2:
            continue
        leaving = count if step == 2 else int(0.4 * (1 - (step + 1) / steps) * count)
        entries = held.nonzero().squeeze(1)
        dropped = entries[value[entries].abs().argsort(stable=True)[:leaving]]
        kept = held.clone()
        kept[dropped] = False
        if growth == "gradients":
            order = [i for i in sums.abs().argsort(descending=True, stable=True).tolist() if not kept[candidates[i]]][
                :leaving
            ]
            grown = candidates[order]
        else:
            scores = torch.cat([torch.outer(r, c).flatten() for r, c in zip(rows, columns)])
            grown = torch.where(held, -1.0, scores).argsort(descending=True, stable=True)[:leaving]
        fresh = torch.zeros_like(held)
        fresh[grown] = True
        fresh &= ~held
        held = kept.clone()
        held[grown] = True
        seeds = {int(c): (s / 2 * (1 - 0.9**2), q / 2 * (1 - 0.999**2)) for c, s, q in zip(candidates, sums, squares)}
        for tensor in (value, mean, square, age):
            tensor[fresh | ~held] = 0.0
        if growth == "gradients":
            for entry in fresh.nonzero().squeeze(1).tolist():
                (mean[entry], square[entry]), age[entry] = seeds[entry], 2
    return value, held


@pytest.mark.parametrize("growth", ["gradients", "momentum"])
def test_spiel_equals_the_transcription(growth, monkeypatch):
    """Random places, all replaced at first and a falling share later; moments and ages of the entries that come in."""
    monkeypatch.setattr(drop_and_grow, "RUN", 500)  # many runs a parameter
    chosen, start = settings(growth=growth, **QUICK), []
    take = drop_and_grow.ScheduledRegrowth.regrow

    def first(self, indices, values):
        start.append(indices.clone())
        return take(self, indices, values)

    monkeypatch.setattr(drop_and_grow.ScheduledRegrowth, "regrow", first)
    engine, task, unit = language(120)
    fit(engine, "swa", task, chosen, steps=12, seed=0)
    value, held = transcription(task, unit, start[0].long(), chosen.rate, 12, growth=growth)
    assert torch.equal(unit.indices.long(), held.nonzero().squeeze(1))
    assert (
        not torch.equal(unit.indices, start[0]) and len(unit.indices) == 120 and bool((unit.indices.diff() > 0).all())
    )
    ours = torch.cat([d.flatten() for d in scatter(unit).values()])
    assert torch.allclose(ours, value, atol=2e-5) and value.count_nonzero() > 100


@pytest.mark.parametrize("growth", ["gradients", "momentum"])
def test_a_run_with_regrowth_keeps_its_budget_and_restores_the_base(growth, monkeypatch):
    """State in proportion to K: nothing dense in the optimiser or the checkpoint; theta_0 is restored exactly."""
    engine, task, unit = language(100)
    state = snapshot(engine.base)
    sizes, step = [], EntryAdamW.step

    def measured(self):
        step(self)
        sizes.append(max(t.numel() for s in self.state.values() for t in s.values()))

    monkeypatch.setattr(EntryAdamW, "step", measured)
    fit(engine, "swa", task, settings(growth=growth, **QUICK), steps=9, seed=0)
    assert set(sizes) == {100}
    assert engine.explain(*tiny.inputs()).inactive == []
    engine.activate(None)
    assert unchanged(engine.base, state)
    assert not any(p._post_accumulate_grad_hooks for p in engine.base.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("growth", ["gradients", "momentum"])
@pytest.mark.parametrize("stop", [1, 4])
def test_killed_between_regrowths_it_ends_the_same(growth, stop, tmp_path):
    chosen = settings(growth=growth, checkpoint_every=1, **QUICK)
    whole, task, unit = language(80)
    fit(whole, "swa", task, chosen, steps=9, seed=0, folder=tmp_path / "whole")
    engine, task, _ = language(80)
    with killed_after(MaskedLM, stop):
        fit(engine, "swa", task, chosen, steps=9, seed=0, folder=tmp_path / "killed")
    engine, task, again = language(80)
    fit(engine, "swa", task, chosen, steps=9, seed=0, folder=tmp_path / "killed")
    assert torch.equal(again.indices, unit.indices) and torch.equal(again.values, unit.values)


@given(
    st.integers(1, 30),
    st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, float("inf")]), min_size=1, max_size=40),
        min_size=1,
        max_size=6,
    ),
)
@hypothesis.settings(derandomize=True, max_examples=200, deadline=None)
def test_candidates_are_the_largest_and_of_equals_the_first_met(limit, runs):
    unit = SimpleNamespace(values=torch.zeros(limit), space=SimpleNamespace(dtype=torch.int32))
    by = drop_and_grow.GradientRegrowth(unit, SparseSettings(accumulate=2, reselect_every=5), 100)
    sizes = torch.tensor(sum(runs, []))
    place = 0
    for run_ in runs:
        by._merge(place, torch.tensor(run_))
        place += len(run_)
    assert by._places.dtype == torch.int32
    assert (
        by._places.sort().values.tolist() == sizes.argsort(descending=True, stable=True)[:limit].sort().values.tolist()
    )
    assert torch.equal(by._sizes, sizes[by._places.long()])
    smallest = drop_and_grow._smallest
    assert all(smallest(sizes, k) == sizes.sort().values[k - 1] for k in (1, len(sizes)))


def test_fewer_candidates_than_entries_and_too_few_steps():
    """Nearly all entries are held: what cannot grow is not dropped."""
    engine, task, unit = language(0.97)
    fit(engine, "swa", task, settings(**QUICK), steps=8, seed=0)
    assert len(unit.indices) == round(0.97 * unit.space.size) and bool((unit.indices.diff() > 0).all())
    with pytest.raises(ConfigError, match="2 steps with selection drop_and_grow.*after 3 steps"):
        fit(engine, "swa", task, settings(**QUICK), steps=2, seed=0)
    with pytest.raises(ValueError, match="accumulate 5 needs fewer steps than reselect_every 5"):
        SparseSettings(accumulate=5, reselect_every=5)


def test_entries_that_change_have_no_mean():
    engine, task, _ = language(50)
    with pytest.raises(ConfigError, match="average_last is 3.*drop_and_grow.*Set it to 1"):
        fit(engine, "swa", task, settings(average_last=3, **QUICK), steps=9, seed=0)
