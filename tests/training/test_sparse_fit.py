"""Training of a sparse weight delta: the state of base and module after it, memory, resumption, refusals."""

import math

import pytest
import tiny
import tiny_runs as runs
import torch
from sparse_runs import killed_after, language, ner, settings
from tiny import snapshot, sparse, unchanged

from madx.errors import ConfigError, TrainingError
from madx.tasks.masked_lm import MaskedLM
from madx.training import fit
from madx.training.sparse.phases import Phase
from madx.training.sparse.selections import SELECTIONS


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_every_family_learns_and_gets_its_base_back(family):
    engine, task, unit = language(0.05, family=family)
    state = snapshot(engine.base)
    engine.activate(None)
    before = task.evaluate(engine)["perplexity"]
    engine.activate("swa")
    result = fit(engine, "swa", task, settings(evaluate_every=5), steps=15, seed=0)
    assert len(unit.indices) == round(0.05 * unit.space.size) and bool((unit.indices.diff() > 0).all())
    assert result.best["perplexity"] < 0.9 * before
    assert task.evaluate(engine)["perplexity"] == pytest.approx(result.best["perplexity"], rel=1e-4)
    assert [row["phase"] for row in result.history] == ["full 1"] * 3 + ["sparse 1"] * 3
    assert engine.explain(*tiny.inputs()).inactive == []
    assert all(p.grad is None and not p.requires_grad for p in engine.base.model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in engine.base.model.parameters())
    engine.activate(None)
    assert unchanged(engine.base, state)


def test_values_are_rounded_as_they_will_be_stored():
    engine, task, unit = language(300, precision="float16")
    fit(engine, "swa", task, settings(), steps=3, seed=0)
    assert unit.pack(torch.float32)["values"].dtype == torch.float16
    assert torch.equal(unit.unpack(unit.pack(torch.float32))["values"], unit.values)


def test_gradients_of_whole_parameters_do_not_stay(monkeypatch):
    """In the sparse phase at most one gradient of a whole parameter is alive, and the optimiser holds K numbers."""
    engine, task, unit = language(300)
    alive, handles, moments = [], [], []
    loss, step = MaskedLM.loss, torch.optim.AdamW.step

    def watched(self, engine, batch):
        parameters = [p for p in engine.base.model.parameters() if p.requires_grad]
        for p in parameters if unit.values.grad is not None else ():
            count = lambda _: alive.append(sum(q.grad is not None for q in parameters))  # noqa: E731
            handles.append(p.register_post_accumulate_grad_hook(count))
        return loss(self, engine, batch)

    def counted(self):
        step(self)
        moments.append(sum(v["exp_avg"].numel() for v in self.state.values()))

    monkeypatch.setattr(MaskedLM, "loss", watched)
    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    fit(engine, "swa", task, settings(), steps=2, seed=0)
    assert alive and max(alive) <= 1
    assert moments[0] == unit.space.size and moments[-1] == 300
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_a_stop_at_any_moment_leaves_the_base(stop):
    engine, task, _ = language(200)
    state = snapshot(engine.base)
    with killed_after(MaskedLM, stop):
        fit(engine, "swa", task, settings(), steps=5, seed=0)
    engine.close()
    assert unchanged(engine.base, state)
    assert all(p.grad is None and not p.requires_grad for p in engine.base.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4, 7, 11, 18])
def test_a_killed_run_goes_on_in_any_phase(stop, tmp_path):
    """Two rounds of 4 full and 6 sparse steps; killed after `stop` losses, then started again."""
    chosen = settings(iterations=2, full_share=4 / 6, checkpoint_every=1, evaluate_every=2)
    whole, task, unit = language(200)
    once = fit(whole, "swa", task, chosen, steps=6, seed=0, folder=tmp_path / "whole")
    engine, task, _ = language(200)
    with killed_after(MaskedLM, stop):
        fit(engine, "swa", task, chosen, steps=6, seed=0, folder=tmp_path / "killed")
    again, task, resumed = language(200)
    result = fit(again, "swa", task, chosen, steps=6, seed=0, folder=tmp_path / "killed")
    assert torch.equal(resumed.indices, unit.indices) and torch.equal(resumed.values, unit.values)
    assert result.history == once.history and result.best == once.best
    assert not list((tmp_path / "killed").rglob("full/*.safetensors")), "the full phase's weights are let go"
    other, task, _ = language(200)
    with pytest.raises(TrainingError, match="other settings"):
        fit(other, "swa", task, settings(iterations=1), steps=6, seed=0, folder=tmp_path / "killed")


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_weight_decay_is_refused():
    engine, task, _ = language(50)
    with pytest.raises(ConfigError, match="weight_decay is 0.1.*needs 0.*full_l1"):
        fit(engine, "swa", task, settings(weight_decay=0.1), steps=2, seed=0)


@pytest.mark.parametrize("composition", ["0.5*swa", "ties(swa, b)", "average(swa, b)"])
def test_the_delta_must_stand_unscaled(composition):
    engine, task, _ = language(50)
    engine.attach(sparse(engine.base, "b"))
    engine.activate(composition)
    with pytest.raises(TrainingError, match="'swa' must stand unscaled.*eng [+] swa"):
        fit(engine, "swa", task, settings(), steps=2, seed=0)


def test_it_must_stand_unscaled_in_every_step():
    """The composition of a later step scales it: the gradients would not be those of the values."""
    engine, task, _ = language(50)
    task.activate = lambda engine, step: engine.activate("0.5*swa" if step == 2 else "swa")
    with pytest.raises(TrainingError, match="unscaled in the composition '0.5[*]swa'"):
        fit(engine, "swa", task, settings(selection="random"), steps=4, seed=0)


def test_a_base_in_half_precision_is_refused():
    engine, task, _ = language(50)
    engine.base.model.to(torch.bfloat16)
    with pytest.raises(TrainingError, match="bfloat16.*float32"):
        fit(engine, "swa", task, settings(), steps=2, seed=0)


def test_states_that_cannot_be_cached_are_told():
    engine, task, _ = language(50)
    with pytest.raises(ConfigError, match="cache_frozen is on.*layer 0"):
        fit(engine, "swa", task, settings(cache_frozen="on"), steps=2, seed=0)


def test_an_unknown_selection_is_refused():
    engine, task, _ = language(50)
    with pytest.raises(ConfigError, match="did you mean 'magnitude'"):
        fit(engine, "swa", task, settings(selection="magnitud"), steps=2, seed=0)
    assert {"magnitude", "fisher", "random", "everything", "svd"} <= set(SELECTIONS.names())


# ---- accidents ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_leaves_the_base(monkeypatch):
    engine, task, _ = language(50)
    state, loss = snapshot(engine.base), MaskedLM.loss
    monkeypatch.setattr(MaskedLM, "loss", lambda self, engine, batch: loss(self, engine, batch) * math.nan)
    with pytest.raises(TrainingError, match="Lower train.learning_rate"):
        fit(engine, "swa", task, settings(), steps=2, seed=0)
    engine.activate(None)
    assert unchanged(engine.base, state)


@pytest.mark.parametrize("entries", [300, "all"])
def test_after_an_accident_the_module_is_as_it_was_and_the_same_call_trains_it(entries, tmp_path):
    """In one session, without a fresh engine: in a notebook, say."""
    calm, calm_task, _ = ner(entries)
    fit(calm, "ner", calm_task, settings(), steps=4, seed=0)
    engine, task, _ = ner(entries)
    before = {k: v.clone() for k, v in engine.module("ner").state_dict().items()}
    for folder in (None, tmp_path):
        with killed_after(runs.NER, 0, KeyboardInterrupt):
            fit(engine, "ner", task, settings(), steps=4, seed=0, folder=folder)
        found = engine.module("ner").state_dict()
        assert found.keys() == before.keys() and all(torch.equal(found[k], v) for k, v in before.items())
    fit(engine, "ner", task, settings(), steps=4, seed=0, folder=tmp_path)
    assert all(torch.equal(v, calm.module("ner").state_dict()[k]) for k, v in engine.module("ner").state_dict().items())


def test_what_a_declined_run_left_does_not_block_the_new_one(tmp_path):
    """Declined, then killed in its full phase, then resumed."""
    engine, task, _ = language()
    fit(engine, "swa", task, settings(iterations=2), steps=4, seed=0, folder=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "checkpoint.safetensors").touch()
    other = settings(iterations=2, learning_rate=3e-2, checkpoint_every=1)
    calm, calm_task, _ = language()
    fit(calm, "swa", calm_task, other, steps=4, seed=0)
    with killed_after(MaskedLM, 2):
        fit(engine, "swa", task, other, steps=4, seed=0, folder=tmp_path, resume=False)
    result = fit(engine, "swa", task, other, steps=4, seed=0, folder=tmp_path)
    assert result.resumed_from is not None
    assert all(torch.equal(v, calm.module("swa").state_dict()[k]) for k, v in engine.module("swa").state_dict().items())
    assert (tmp_path / "elsewhere" / "checkpoint.safetensors").exists(), "not a file of this run"


def test_in_every_round_the_penalty_pulls_the_head_to_where_it_was_before_the_first(monkeypatch):
    engine, task, _ = ner()
    before, seen = [p.detach().clone() for p in engine.module("ner").head.parameters()], []
    penalise = Phase.add_penalty_of_others
    monkeypatch.setattr(
        Phase, "add_penalty_of_others", lambda self: (seen.append(self.others_start), penalise(self))[1]
    )
    fit(engine, "ner", task, settings(iterations=2, full_l1=0.1, sparse_l1=0.1), steps=3, seed=0)
    assert len(seen) >= 10
    assert all(torch.equal(a, b) for start in seen for a, b in zip(start, before, strict=True))
