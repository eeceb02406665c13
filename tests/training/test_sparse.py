"""LT-SFT against an independent transcription of the algorithm in plain torch; its phases, resumption and refusals."""

import copy
import math

import pytest
import tiny
import tiny_runs as runs
import torch
import torch.nn.functional as F
from tiny import dense, scatter, snapshot, sparse, unchanged

from madx.data.labelled.labels import LabelSet
from madx.data.text.masking import IGNORED
from madx.engine import Engine
from madx.errors import ConfigError, TrainingError
from madx.module import new_module
from madx.tasks.masked_lm import MaskedLM
from madx.training import SparseSettings, TrainSettings, fit
from madx.training.sparse.phases import Phase
from madx.training.sparse.selections import SELECTIONS

FAMILY = "xlm-roberta"


def settings(**changes):
    own = {k: changes.pop(k) for k in list(changes) if k in SparseSettings.model_fields}
    defaults = {"learning_rate": 1e-2, "progress": False, "warmup": 0.2, "sparse": SparseSettings(**own)}
    return TrainSettings(**(defaults | changes))


def language(entries=300, *, name="swa", family=FAMILY, base=None, **config):
    """(engine, task, unit) for a language's difference."""
    engine = Engine(base or tiny.base(family))
    parts = {"sparse_diff": {"entries": entries, "precision": "float32", **config}}
    engine.attach(new_module(name, engine.base, language="swa", components=parts))
    engine.activate(name)
    return engine, runs.masked_lm(seed=1), engine.modules[name].units["weights"]["sparse_diff"]


def ner(entries=300, *, under=True):
    """(engine, task, unit) for a task's difference over a source language's."""
    engine = Engine(tiny.base(FAMILY))
    if under:
        engine.attach(sparse(engine.base, "eng", 5, entries=0.2, std=0.05))
    torch.manual_seed(3)
    labels = LabelSet.from_sentences(runs.sentences()).tags
    parts = {"sparse_diff": {"entries": entries, "precision": "float32"}}
    engine.attach(new_module("ner", engine.base, role="task", components=parts, labels=labels))
    engine.activate("eng + ner" if under else "ner")
    return engine, runs.ner(seed=1), engine.modules["ner"].units["weights"]["sparse_diff"]


# ---- the transcription: dense masks, one optimiser over everything, nothing of madx but data and learning rates ---------


def transcription(
    maskable,
    dense,
    loss_at,
    score,
    rate,
    *,
    entries,
    rounds,
    full_steps,
    steps,
    learning_rate,
    l1,
    number_of_all,
    every,
):
    """Lottery ticket sparse fine-tuning as composable-sft does it; returns the differences of the maskable parameters."""
    everything = [*maskable.values(), *dense]
    original = [p.detach().clone() for p in everything]
    mask = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in maskable.items()}

    def train(count, lam, masking):
        optimizer = torch.optim.AdamW(everything, lr=learning_rate, weight_decay=0.0)
        best, best_weights = None, None
        for step in range(count):
            optimizer.zero_grad()
            loss = loss_at(step)
            if lam:
                loss = loss + lam * sum((p - o).abs().sum() for p, o in zip(everything, original)) / number_of_all
            loss.backward()
            if masking:
                for name, p in maskable.items():
                    p.grad = p.grad * mask[name]
            torch.nn.utils.clip_grad_norm_([p for p in everything if p.grad is not None], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate(step, count)
            optimizer.step()
            if (step + 1) % every == 0 or step + 1 == count:
                now = score()
                if best is None or now > best:
                    best, best_weights = now, [p.detach().clone() for p in everything]
        with torch.no_grad():
            for p, w in zip(everything, best_weights):
                p.copy_(w)

    for number in range(rounds):
        previous = [p.detach().clone() for p in everything]
        train(full_steps, l1[0], masking=False)
        k = entries // rounds if number + 1 < rounds else entries - int(sum(m.sum() for m in mask.values()))
        deltas = {n: (p.detach() - o).abs() for (n, p), o in zip(maskable.items(), original)}
        threshold = torch.cat([deltas[n][~mask[n]] for n in maskable]).sort(descending=True).values[k - 1]
        for n in maskable:
            mask[n] |= (deltas[n] >= threshold) & ~mask[n]
        with torch.no_grad():
            for p, w in zip(everything, previous):
                p.copy_(w)
        train(steps, l1[1], masking=True)
    return {n: p.detach() - o for (n, p), o in zip(maskable.items(), original)}, mask


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_language_equals_the_transcription(rounds):
    """Masked LM, decoder untied and frozen, layer norms frozen, L1 in both phases, the best evaluation kept."""
    engine, task, unit = language(300)
    l1 = (30.0, 20.0)
    chosen = settings(iterations=rounds, full_share=0.75, full_l1=l1[0], sparse_l1=l1[1], evaluate_every=3)
    fit(engine, "swa", task, chosen, steps=8, seed=0)

    model = tiny.model(FAMILY).eval().requires_grad_(False)
    model.lm_head.decoder.weight = torch.nn.Parameter(
        model.lm_head.decoder.weight.detach().clone(), requires_grad=False
    )
    number = sum(p.numel() for p in model.parameters())
    maskable = {n: p.requires_grad_(True) for n, p in sorted(model.roberta.named_parameters()) if "LayerNorm" not in n}

    def loss_of(batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)

    held_out = runs.blocks().held_out
    from madx.data.text.masking import row_seed
    from madx.tasks.masked_lm import HELD_OUT_SEED

    ids, labels = task._mask(held_out[: len(held_out)], row_seed(HELD_OUT_SEED, 0, torch.arange(len(held_out)).numpy()))
    differences, mask = transcription(
        maskable,
        [],
        lambda step: loss_of(task.batches(step)[0]),
        lambda: -loss_of({"input_ids": ids, "labels": labels}).item(),
        chosen.rate,
        entries=300,
        rounds=rounds,
        full_steps=6,
        steps=8,
        learning_rate=1e-2,
        l1=l1,
        number_of_all=number,
        every=3,
    )
    ours = scatter(unit)
    assert sum(int(m.sum()) for m in mask.values()) == 300 == len(unit.indices)
    selected = torch.zeros(unit.space.size, dtype=torch.bool)
    selected[unit.indices.long()] = True
    assert torch.equal(selected, torch.cat([mask[p.name].flatten() for p in unit.space.parameters]))
    for name, difference in differences.items():
        assert torch.allclose(ours[name], difference, atol=1e-6), name
    assert max(d.abs().max() for d in differences.values()) > 1e-2


def test_a_task_equals_the_transcription():
    """NER over base + source language; the head moves in both phases and is reset between them."""
    engine, task, unit = ner(250)
    head_before = copy.deepcopy(engine.modules["ner"].head).requires_grad_(True)
    chosen = settings(evaluate_every=3, keep_best=False, head_learning_rate=None)
    fit(engine, "ner", task, chosen, steps=7, seed=0)
    model = tiny.model(FAMILY).eval().requires_grad_(False)
    with torch.no_grad():
        for name, difference in dense(engine.modules["eng"]).items():
            model.roberta.get_parameter(name).add_(difference)
    maskable = {n: p.requires_grad_(True) for n, p in sorted(model.roberta.named_parameters()) if "LayerNorm" not in n}

    def loss_at(step):
        (batch,) = task.batches(step)
        hidden = model.roberta(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        rows, words = (batch["first"] >= 0).nonzero(as_tuple=True)
        return F.cross_entropy(head_before(hidden[rows, batch["first"][rows, words]]), batch["labels"][rows, words])

    steps = iter(range(1000))  # the last evaluation wins, as with keep_best=False
    differences, _ = transcription(
        maskable,
        list(head_before.parameters()),
        loss_at,
        lambda: next(steps),
        chosen.rate,
        entries=250,
        rounds=1,
        full_steps=7,
        steps=7,
        learning_rate=1e-2,
        l1=(0, 0),
        number_of_all=1,
        every=7,
    )
    ours = scatter(unit)
    for name, difference in differences.items():
        assert torch.allclose(ours[name], difference, atol=1e-6), name
    head = engine.modules["ner"].head
    assert torch.allclose(head.weight, head_before.weight, atol=1e-6) and torch.allclose(
        head.bias, head_before.bias, atol=1e-6
    )


# ---- what training leaves ----------------------------------------------------------------------------------------------


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
    """While the sparse phase computes, at most one whole parameter's gradient is alive, and the optimiser holds K numbers."""
    engine, task, unit = language(300)
    alive, held = [], []
    loss = MaskedLM.loss

    def watched(self, engine, batch):
        value = loss(self, engine, batch)
        parameters = [p for p in engine.base.model.parameters() if p.requires_grad]
        if unit.values.grad is not None:
            value.register_hook(lambda g: g)
            for p in parameters:
                handle = p.register_post_accumulate_grad_hook(
                    lambda p: alive.append(sum(q.grad is not None for q in parameters))
                )
                held.append(handle)
        return value

    monkeypatch.setattr(MaskedLM, "loss", watched)
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self: (step(self), steps.append(sum(v["exp_avg"].numel() for v in self.state.values())))[0],
    )
    fit(engine, "swa", task, settings(), steps=2, seed=0)
    assert alive and max(alive) <= 1
    assert steps[-1] == 300 and steps[0] == unit.space.size
    for handle in held:
        handle.remove()


def test_a_stop_at_any_moment_leaves_the_base(monkeypatch):
    for stop in (0, 3, 7):
        engine, task, _ = language(200)
        state = snapshot(engine.base)
        calls = []

        def failing(self, engine, batch, loss=MaskedLM.loss, calls=calls, stop=stop):
            calls.append(1)
            if len(calls) == stop + 1:
                raise RuntimeError("stop here")
            return loss(self, engine, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MaskedLM, "loss", failing)
            with pytest.raises(RuntimeError, match="stop here"):
                fit(engine, "swa", task, settings(), steps=5, seed=0)
        engine.close()
        assert unchanged(engine.base, state), stop
        assert all(p.grad is None and not p.requires_grad for p in engine.base.model.parameters())


@pytest.mark.parametrize("stop", [2, 5, 8, 12, 19])
def test_a_killed_run_goes_on_in_any_phase(stop, tmp_path):
    """Two rounds of 4 full and 6 sparse steps; killed after `stop` losses, then started again."""
    chosen = settings(iterations=2, full_share=4 / 6, checkpoint_every=1, evaluate_every=2)
    whole, task, unit = language(200)
    once = fit(whole, "swa", task, chosen, steps=6, seed=0, folder=tmp_path / "whole")
    engine, task, _ = language(200)
    calls = []

    def failing(self, engine, batch, loss=MaskedLM.loss):
        calls.append(1)
        if len(calls) == stop:
            raise RuntimeError("killed")
        return loss(self, engine, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedLM, "loss", failing)
        with pytest.raises(RuntimeError, match="killed"):
            fit(engine, "swa", task, chosen, steps=6, seed=0, folder=tmp_path / "killed")
    again, task, resumed = language(200)
    result = fit(again, "swa", task, chosen, steps=6, seed=0, folder=tmp_path / "killed")
    assert torch.equal(resumed.indices, unit.indices) and torch.equal(resumed.values, unit.values)
    assert result.history == once.history and result.best == once.best
    assert not list((tmp_path / "killed").rglob("full/*.safetensors")), "the full phase's weights are let go"
    with pytest.raises(TrainingError, match="belongs to a run with other settings"):
        other, task, _ = language(200)
        fit(other, "swa", task, settings(iterations=1), steps=6, seed=0, folder=tmp_path / "killed")


# ---- what it refuses -----------------------------------------------------------------------------------------------------


def test_weight_decay_half_precision_and_the_wrong_place_are_refused():
    engine, task, _ = language(50)
    with pytest.raises(ConfigError, match="weight_decay is 0.1, but a sparse difference needs 0: decay pulls"):
        fit(engine, "swa", task, settings(weight_decay=0.1), steps=2, seed=0)
    engine.attach(sparse(engine.base, "b"))
    for composition in ("0.5*swa", "ties(swa, b)", "average(swa, b)"):
        engine.activate(composition)
        with pytest.raises(TrainingError, match="must stand unscaled in the composition"):
            fit(engine, "swa", task, settings(), steps=2, seed=0)
    engine.activate("swa")
    engine.base.model.to(torch.bfloat16)
    with pytest.raises(TrainingError, match="base is in bfloat16"):
        fit(engine, "swa", task, settings(), steps=2, seed=0)


def test_an_unknown_selection_is_refused():
    engine, task, _ = language(50)
    with pytest.raises(ConfigError, match="did you mean 'magnitude'"):
        fit(engine, "swa", task, settings(selection="magnitud"), steps=2, seed=0)
    assert {"magnitude", "fisher", "random", "everything", "svd"} <= set(SELECTIONS.names())


def test_a_loss_that_is_no_number_leaves_the_base():
    engine, task, _ = language(50)
    state = snapshot(engine.base)
    with pytest.raises(TrainingError, match="Lower train.learning_rate"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            MaskedLM, "loss", lambda self, engine, batch, loss=MaskedLM.loss: loss(self, engine, batch) * math.nan
        )
        fit(engine, "swa", task, settings(), steps=2, seed=0)
    engine.activate(None)
    assert unchanged(engine.base, state)


@pytest.mark.parametrize("entries", [300, "all"])
def test_after_an_accident_the_module_is_as_it_was_and_the_same_call_trains_it(entries, tmp_path):
    """In one session, without a fresh engine: in a notebook, say."""

    def failing(self, engine, batch):
        raise KeyboardInterrupt

    calm, calm_task, _ = ner(entries)
    fit(calm, "ner", calm_task, settings(), steps=4, seed=0)
    engine, task, unit = ner(entries)
    before = {k: v.clone() for k, v in engine.module("ner").state_dict().items()}
    for folder in (None, tmp_path):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(runs.NER, "loss", failing)
            fit(engine, "ner", task, settings(), steps=4, seed=0, folder=folder)
        found = engine.module("ner").state_dict()
        assert found.keys() == before.keys() and all(torch.equal(found[k], v) for k, v in before.items())
    fit(engine, "ner", task, settings(), steps=4, seed=0, folder=tmp_path)
    assert all(torch.equal(v, calm.module("ner").state_dict()[k]) for k, v in engine.module("ner").state_dict().items())


def test_what_a_declined_run_left_does_not_block_the_new_one(tmp_path):
    """Declined, then killed in its full phase, then taken up."""
    engine, task, _ = language()
    fit(engine, "swa", task, settings(iterations=2), steps=4, seed=0, folder=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "checkpoint.safetensors").touch()
    other = settings(iterations=2, learning_rate=3e-2, checkpoint_every=1)
    calm, calm_task, _ = language()
    fit(calm, "swa", calm_task, other, steps=4, seed=0)
    calls = []

    def failing(self, engine, batch, loss=MaskedLM.loss):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("killed")
        return loss(self, engine, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(MaskedLM, "loss", failing)
        fit(engine, "swa", task, other, steps=4, seed=0, folder=tmp_path, resume=False)
    result = fit(engine, "swa", task, other, steps=4, seed=0, folder=tmp_path)
    assert result.resumed_from is not None
    assert all(torch.equal(v, calm.module("swa").state_dict()[k]) for k, v in engine.module("swa").state_dict().items())
    assert (tmp_path / "elsewhere" / "checkpoint.safetensors").exists(), "not a file of this run"


def test_in_every_round_the_penalty_pulls_the_head_to_where_it_was_before_the_first(monkeypatch):
    engine, task, _ = ner()
    before, seen = [p.detach().clone() for p in engine.module("ner").head.parameters()], []
    penalise = Phase.penalise_others
    monkeypatch.setattr(Phase, "penalise_others", lambda self: (seen.append(self.others_start), penalise(self))[1])
    fit(engine, "ner", task, settings(iterations=2, full_l1=0.1, sparse_l1=0.1), steps=3, seed=0)
    assert len(seen) >= 10
    assert all(torch.equal(a, b) for start in seen for a, b in zip(start, before, strict=True))
