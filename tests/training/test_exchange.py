"""Entries that are exchanged in training (SpIEL), against a transcription with dense tensors; gates of diff pruning."""

from types import SimpleNamespace

import hypothesis
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_sparse import FAMILY, language, settings
from tiny import scatter, snapshot, unchanged

from madx.data.text.masking import IGNORED
from madx.errors import CompositionError, ConfigError
from madx.tasks.masked_lm import MaskedLM
from madx.training import SparseSettings, fit
from madx.training.loop import run
from madx.training.sparse.dense_delta import DenseDeltaPhase
from madx.training.sparse.phases import FullPhase
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
    model = tiny.model(FAMILY).eval().requires_grad_(False)
    model.lm_head.decoder.weight = torch.nn.Parameter(
        model.lm_head.decoder.weight.detach().clone(), requires_grad=False
    )
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
    """Random places, all exchanged at first and a falling share later; moments and ages of the entries that come in."""
    monkeypatch.setattr(drop_and_grow, "RUN", 500)  # many runs a parameter
    chosen, start = settings(growth=growth, **QUICK), []
    take = drop_and_grow.Growth.change

    def first(self, indices, values):
        start.append(indices.clone())
        return take(self, indices, values)

    monkeypatch.setattr(drop_and_grow.Growth, "change", first)
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
def test_an_exchanging_run_keeps_its_budget_and_gives_the_base_back(growth, monkeypatch):
    """State in proportion to K: nothing dense in the optimiser or the checkpoint; theta_0 bit for bit at the end."""
    engine, task, unit = language(100)
    state = snapshot(engine.base)
    sizes = []
    step = EntryAdamW.step
    monkeypatch.setattr(
        EntryAdamW,
        "step",
        lambda self: (step(self), sizes.append(max(t.numel() for s in self.state.values() for t in s.values())))[0],
    )
    fit(engine, "swa", task, settings(growth=growth, **QUICK), steps=9, seed=0)
    assert set(sizes) == {100}
    assert engine.explain(*tiny.inputs()).inactive == []
    engine.activate(None)
    assert unchanged(engine.base, state)
    assert not any(p._post_accumulate_grad_hooks for p in engine.base.model.parameters())


@pytest.mark.parametrize("growth", ["gradients", "momentum"])
@pytest.mark.parametrize("stop", [1, 4])
def test_killed_between_exchanges_it_ends_the_same(growth, stop, tmp_path):
    chosen = settings(growth=growth, checkpoint_every=1, **QUICK)
    whole, task, unit = language(80)
    fit(whole, "swa", task, chosen, steps=9, seed=0, folder=tmp_path / "whole")
    killed, calls = language(80), []

    def failing(self, engine, batch, loss=MaskedLM.loss):
        calls.append(1)
        if len(calls) == stop + 1:
            raise RuntimeError("killed")
        return loss(self, engine, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(MaskedLM, "loss", failing)
        fit(killed[0], "swa", killed[1], chosen, steps=9, seed=0, folder=tmp_path / "killed")
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
    by = drop_and_grow.ByGradients(unit, SparseSettings(accumulate=2, reselect_every=5), 100)
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
    with pytest.raises(ConfigError, match="2 steps with selection drop_and_grow would never exchange.*after 3 steps"):
        fit(engine, "swa", task, settings(**QUICK), steps=2, seed=0)
    with pytest.raises(ValueError, match="accumulate 5 needs fewer steps than reselect_every 5"):
        SparseSettings(accumulate=5, reselect_every=5)


def test_entries_that_change_have_no_mean():
    engine, task, _ = language(50)
    with pytest.raises(ConfigError, match="average_last is 3, but .*drop_and_grow exchanges entries"):
        fit(engine, "swa", task, settings(average_last=3, **QUICK), steps=9, seed=0)


# ---- gates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [False, True])
def test_gradients_of_gates_are_those_of_the_formula(groups):
    """theta = start + z w with drawn gates; loss + price * E||delta||_0, by autograd over the formula."""
    engine, task, unit = language(100)
    gates = SparseSettings(gate_penalty=1e-3, gate_start=0.3, gate_groups=groups)
    phase = DenseDeltaPhase(engine, "swa", unit, gates=gates)
    phase.groups(settings())
    generator = torch.Generator().manual_seed(1)
    with phase.opened(), torch.no_grad():
        for w in phase.w.values():
            w.copy_(torch.randn(w.shape, generator=generator) * 0.1)
        phase.begins(3, 0)
        written = {n: p.detach().clone() for n, p in phase.weights.items()}
        with torch.enable_grad():
            (batch,) = task.batches(0)
            task.loss(engine, batch).backward()
        phase.penalise()
        found = {
            k: {n: p.grad.clone() for n, p in ps.items()}
            for k, ps in (("w", phase.w), ("a", phase.gates), ("g", phase.groups_of))
        }
        noise = {n: phase._noise(n, w) for n, w in phase.w.items()}
        whole_noise = {n: phase._noise(f"{n} as a whole", a) for n, a in phase.groups_of.items()}
        begun = {n: s.clone() for n, s in phase.start.items()}

    model = tiny.model(FAMILY).eval().requires_grad_(False)
    decoder = model.lm_head.decoder.weight.detach().clone()
    w, a, g = (
        {n: p.detach().clone().requires_grad_(True) for n, p in ps.items()}
        for ps in (phase.w, phase.gates, phase.groups_of)
    )

    def gate(odds, u):
        return (torch.sigmoid(odds + torch.log(u) - torch.log(1 - u)) * 3 - 1.5).clamp(0, 1)

    theta, price = {}, 0.0
    for name in w:
        z = gate(a[name], noise[name].clamp(1e-6, 1 - 1e-6))
        theta[name] = begun[name] + z * w[name] * (gate(g[name], whole_noise[name]) if groups else 1.0)
        price = price + (torch.sigmoid(a[name]) * (torch.sigmoid(g[name]) if groups else 1.0)).sum()
        assert torch.allclose(theta[name], written[name], atol=1e-6)
    hidden = torch.func.functional_call(
        model.roberta, theta, kwargs={"input_ids": batch["input_ids"]}
    ).last_hidden_state
    chosen = batch["labels"] != IGNORED
    head = model.lm_head
    x = head.layer_norm(F.gelu(head.dense(hidden[chosen])))
    loss = F.cross_entropy(F.linear(x, decoder, head.bias), batch["labels"][chosen], reduction="sum")
    (loss + 1e-3 * price).backward()
    for kind, expected in (("w", w), ("a", a), ("g", g)):
        for name, parameter in expected.items():
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            assert torch.allclose(found[kind][name], gradient, rtol=1e-3, atol=2e-4), (kind, name)
    assert any(0 < float((gate(a[n], noise[n]) == 0).float().mean()) < 1 for n in a), "some gates are shut"


@pytest.mark.parametrize("groups", [False, True])
def test_a_high_price_shuts_gates_and_fewer_entries_differ(groups):
    shares = {}
    for price in (0.0, 3e-2):
        engine, task, unit = language(200)
        state = snapshot(engine.base)
        chosen = settings(
            gate_penalty=price, gate_groups=groups, gate_start=1.0, gate_learning_rate=0.5, keep_best=False
        )
        phase = DenseDeltaPhase(engine, "swa", unit, gates=chosen.sparse)
        with engine.on_top(unit), phase.opened():
            run(engine, phase, task, chosen, steps=14, seed=0)
            moved = phase.values()
        shares[price] = float((moved != 0).float().mean())
        engine.activate(None)
        assert unchanged(engine.base, state)
        assert engine.deltas.overlay is None and engine.deltas.dense == {}
    assert shares[3e-2] < 0.5 * shares[0.0]


def test_no_composition_is_swapped_while_all_weights_move_in_place():
    engine, _, unit = language(50)
    phase = FullPhase(engine, "swa", unit, l1=0.0)
    with phase.opened(), pytest.raises(CompositionError, match="All weights of the base move in place now"):
        engine.activate(None)
    engine.activate(None)
