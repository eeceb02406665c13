"""Training of a documented `WeightsType` that is not the sparse delta: theta = theta_0 + scale * u v^T."""

import pytest
import tiny
import tiny_runs as runs
import torch
import torch.nn.functional as F
from sparse_runs import killed_after, settings, untied_model
from tiny import sparse, unchanged
from toy_types import UP, Outer, engine_with, registered, unit_of

from madx.composition import Stack
from madx.data.text.masking import IGNORED
from madx.engine import Engine
from madx.errors import ConfigError, TrainingError
from madx.module import new_module
from madx.tasks.sources import Source, Sources
from madx.training import fit
from madx.training.gradients import compute_gradients
from madx.training.trainable import Trainee
from madx.training.weights_trainable import WeightsTrainable

OUTER = {"outer": {}}


def several(components=OUTER):
    """(engine, task): English and Swahili data, each under a weight delta of its own."""
    made = engine_with(components, under=lambda base: sparse(base, "eng", 5, entries=0.2, std=0.05))
    made.attach(sparse(made.base, "swa", 6, entries=0.2, std=0.05))
    eng, swa = Stack("eng", "ner"), Stack("swa", "ner")
    task = Sources([Source("eng", runs.ner(seed=1), (eng,), 5), Source("swa", runs.ner(seed=2), (swa,), 3)], seed=1)
    return made, task


def weights(made):
    return {k: v.clone() for k, v in made.module("ner").state_dict().items()}


@pytest.mark.parametrize("micro", [None, 3])
def test_gradients_are_those_of_autograd_on_a_copy_of_the_base(micro):
    """Masked LM, with a delta in the embeddings too: the decoder keeps theta_0."""
    made = Engine(tiny.base())
    torch.manual_seed(0)
    with registered():
        made.attach(new_module("swa", made.base, components=OUTER))
    made.activate("swa")
    task, unit = runs.masked_lm(seed=1, **({"micro_batch": micro} if micro else {})), unit_of_language(made)
    trainable = WeightsTrainable(Trainee(made, "swa", None))
    with trainable.running():
        compute_gradients(trainable, task, step=0, seed=0, precision="fp32")
        assert all(p.grad is None for p in made.base.model.parameters())
    found = {name: p.grad.clone() for name, p in unit.named_parameters()}

    model, phi = untied_model(), {n: p.detach().clone().requires_grad_(True) for n, p in unit.named_parameters()}
    theta = {
        name: model.roberta.get_parameter(name) + phi["scale"] * torch.outer(phi[f"u.{k}"], phi[f"v.{k}"])
        for k, name in enumerate(unit.config.parameters)
    }
    (batch,) = runs.masked_lm(seed=1).batches(0)
    hidden = torch.func.functional_call(model.roberta, theta, kwargs={"input_ids": batch["input_ids"]})[0]
    chosen = batch["labels"] != IGNORED
    F.cross_entropy(model.lm_head(hidden[chosen]), batch["labels"][chosen]).backward()
    assert found.keys() == phi.keys()
    for name, parameter in phi.items():
        assert parameter.grad.any() and torch.allclose(found[name], parameter.grad, atol=1e-5), name


def unit_of_language(made):
    return made.module("swa").units["weights"]["outer"]


def test_it_learns_beside_an_adapter_and_a_head_and_the_base_is_restored():
    made = engine_with({"outer": {"drop": 0.2}, "bottleneck": {"reduction_factor": 4.0}})
    before = weights(made)
    result = fit(made, "ner", runs.ner(), settings(evaluate_every=10), steps=30, seed=0)
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert all(not torch.equal(v, before[k]) for k, v in weights(made).items() if "mask" not in k)
    assert made.explain(*tiny.inputs()).inactive == []
    assert runs.ner().evaluate(made)["f1"] == pytest.approx(result.best["f1"])
    assert all(p.grad is None and not p.requires_grad for p in made.base.model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in made.base.model.parameters())
    made.activate(None)
    assert unchanged(made.base, tiny.model().state_dict())


def test_at_most_one_gradient_of_a_whole_parameter_is_alive(monkeypatch):
    made, alive, pull = engine_with(OUTER), [], Outer.pull

    def counted(self, parameter, gradient):
        alive.append(sum(p.grad is not None for p in made.base.model.parameters()))
        pull(self, parameter, gradient)

    monkeypatch.setattr(Outer, "pull", counted)
    fit(made, "ner", runs.ner(), settings(), steps=2, seed=0)
    assert len(alive) == 4 and not any(alive)


def test_over_several_compositions_it_is_plain_torch():
    made, task = several({"outer": {"parameters": [UP]}})
    state, unit, module = tiny.model().state_dict(), unit_of(made, "outer"), made.module("ner")
    head = torch.nn.Linear(32, module.head.out_features)
    head.load_state_dict(module.head.state_dict())
    phi = [p.detach().clone().requires_grad_(True) for p in (unit.scale, unit.u[0], unit.v[0])]
    chosen = settings(keep_best=False, evaluate_every=3, weight_decay=0.01)
    fit(made, "ner", task, chosen, steps=8, seed=0)

    model = tiny.model().eval().requires_grad_(False).roberta
    under = {f"{n} + ner": tiny.dense(made.modules[n]) for n in ("eng", "swa")}
    optimizer = torch.optim.AdamW([*phi, *head.parameters()], weight_decay=0.01)
    for step in range(8):
        (batch,) = task.batches(step)
        optimizer.zero_grad()
        here = {n: p + under[str(task.composition(step))].get(n, 0.0) for n, p in model.named_parameters()}
        here[UP] = here[UP] + phi[0] * torch.outer(phi[1], phi[2])
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        hidden = torch.func.functional_call(model, here, kwargs=inputs).last_hidden_state
        rows, words = (batch["first"] >= 0).nonzero(as_tuple=True)
        F.cross_entropy(head(hidden[rows, batch["first"][rows, words]]), batch["labels"][rows, words]).backward()
        torch.nn.utils.clip_grad_norm_([*phi, *head.parameters()], 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * chosen.rate(step, 8)
        optimizer.step()
    for found, wanted in zip((unit.scale, unit.u[0], unit.v[0], module.head.weight), (*phi, head.weight)):
        assert torch.allclose(found, wanted, atol=1e-5)
    made.activate(None)
    assert unchanged(made.base, state)


def test_killed_it_ends_the_same_and_the_base_is_restored(tmp_path):
    drop = {"outer": {"drop": 0.3}}
    chosen = settings(checkpoint_every=1, evaluate_every=2, average_last=2)
    whole, task = several(drop)
    once = fit(whole, "ner", task, chosen, steps=6, seed=0, folder=tmp_path / "whole")
    made, task = several(drop)
    with killed_after(runs.NER, 4):
        fit(made, "ner", task, chosen, steps=6, seed=0, folder=tmp_path / "killed")
    made.activate(None)
    assert unchanged(made.base, tiny.model().state_dict())
    assert all(p.grad is None and not p.requires_grad for p in made.base.model.parameters())
    again, task = several(drop)
    result = fit(again, "ner", task, chosen, steps=6, seed=0, folder=tmp_path / "killed")
    assert result.history == once.history and result.resumed_from == 4
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(again).items())


def test_an_evaluation_reads_the_delta_of_evaluation(monkeypatch):
    """In training rows of the delta are left out; its tensors do not tell that an evaluation leaves none out."""
    made, evaluate, seen = engine_with({"outer": {"drop": 0.5, "parameters": [UP]}}), runs.NER.evaluate, []
    start = made.base.encoder.get_parameter(UP).detach() - unit_of(made, "outer").deltas()[0].values.detach()

    def look(self, engine):
        unit = unit_of(engine, "outer")
        assert not unit.training and 0 < unit.mask0.mean() < 1
        wanted = start + unit.scale * torch.outer(unit.u[0], unit.v[0])
        seen.append((engine.base.encoder.get_parameter(UP) - wanted).abs().max().item())
        return evaluate(self, engine)

    monkeypatch.setattr(runs.NER, "evaluate", look)
    fit(made, "ner", runs.ner(), settings(evaluate_every=2), steps=4, seed=0)
    assert len(seen) == 2 and max(seen) < 1e-6


@pytest.mark.parametrize("composition", ["0.5*ner", "average(ner, b)"])
def test_it_must_stand_unscaled(composition):
    made = engine_with(OUTER)
    made.attach(sparse(made.base, "b"))
    made.activate(composition)
    with pytest.raises(TrainingError, match="'ner' must stand unscaled"):
        fit(made, "ner", runs.ner(), settings(), steps=2, seed=0)


def test_what_else_is_refused():
    both = engine_with({"outer": {}, "sparse_diff": {"entries": 50}})
    with pytest.raises(ConfigError, match="'ner'.*two modules"):
        fit(both, "ner", runs.ner(), settings(), steps=2, seed=0)
    half = engine_with(OUTER)
    half.activate(None)
    half.base.model.to(torch.bfloat16)
    half.activate("ner")
    with pytest.raises(TrainingError, match="bfloat16.*float32"):
        fit(half, "ner", runs.ner(), settings(), steps=2, seed=0)
    steep = engine_with(OUTER)
    with pytest.raises(TrainingError, match="Lower train.learning_rate"):
        fit(steep, "ner", runs.ner(), settings(learning_rate=1e30, clip_norm=None), steps=3, seed=0)
    steep.activate(None)
    assert unchanged(steep.base, tiny.model().state_dict())
