"""The training hooks of module types: begin, penalty, prepare, settle."""

import math
from pathlib import Path

import pytest
import tiny_runs as runs
import torch
from safetensors.torch import load_file
from sparse_runs import killed_after, settings
from test_processes import close, port
from tiny import sparse, wake
from toy_types import Shift, engine_with, together, unit_of

from madx.errors import TrainingError
from madx.module import new_module
from madx.training import fit
from madx.training.gradients import compute_gradients
from madx.training.trainable import ModuleTrainable, Trainee

SHIFT = {"shift": {"price": 0.1, "drop": 0.3}}


def train(made, *, steps=6, folder=None, task=None, **more):
    return fit(made, "ner", runs.ner(**(task or {})), settings(**more), steps=steps, seed=7, folder=folder)


def weights(made):
    return {k: v.clone() for k, v in made.module("ner").state_dict().items()}


def test_every_unit_of_the_module_is_called_in_order():
    made = engine_with(SHIFT, under=lambda base: wake(new_module("eng", base, components="madx"), std=0.05))
    train(made)
    units = [u for at in made.module("ner").units.values() for u in at.values()]
    assert len(units) == 3
    for unit in units:
        names = [name for name, *_ in unit.calls]
        assert names == ["begin", "prepare", *["begin"] * 6, "settle"]  # the first batch is that of step 0
        assert [call[1:] for call in unit.calls if call[0] == "begin"] == [(0, 7), *((step, 7) for step in range(6))]


def test_prepare_gets_the_gradients_of_the_first_batch_and_costs_nothing_without(monkeypatch):
    made, task = engine_with(SHIFT), runs.ner(seed=0)
    unit = unit_of(made, "shift")
    trainable = ModuleTrainable(Trainee(made, "ner", None))
    trainable.set_mode(training=True)
    (batch,) = task.batches(0)
    unit.begin(0, 7)
    (task.loss(made, batch) / task.count(batch)).backward()
    wanted = {name: p.grad.clone() for name, p in unit.named_parameters()}
    made, losses = engine_with(SHIFT), []
    loss = runs.NER.loss
    monkeypatch.setattr(runs.NER, "loss", lambda self, *given: (losses.append(1), loss(self, *given))[1])
    train(made, steps=2)
    ((_, found),) = [call for call in unit_of(made, "shift").calls if call[0] == "prepare"]
    assert found.keys() == wanted.keys() and len(losses) == 3
    assert all(torch.allclose(found[k], wanted[k], atol=1e-6) and found[k].any() for k in wanted)
    monkeypatch.delattr(Shift, "prepare")
    losses.clear()
    train(engine_with(SHIFT), steps=2)
    assert len(losses) == 2


def test_prepare_may_ask_for_the_same_batch_or_the_next_one(monkeypatch):
    """While one unit asks for the same batch all get it; a unit that asks for nothing is not called any more."""
    made = engine_with(SHIFT)
    units = [u for at in made.module("ner").units.values() for u in at.values()]
    answers = {
        0: ["next batch", "next batch", "same batch", None],
        1: ["same batch", None],
        2: [None],
    }

    def prepare(self, gradients):
        self.calls.append(("prepare", {name: g.clone() for name, g in gradients.items()}))
        return answers[units.index(self)].pop(0)

    monkeypatch.setattr(Shift, "prepare", prepare)
    train(made, steps=1)
    called = [[call[1]["shift"] for call in unit.calls if call[0] == "prepare"] for unit in units]
    assert [len(found) for found in called] == [4, 2, 1] and not any(map(len, answers.values()))
    begun = [step for name, step, *_ in units[0].calls[:-1] if name == "begin"]
    assert begun == [0, 0, 1, 1, 0], "the batches of the four calls, and of the training's own step"
    first, again, second, second_again = called[0]
    assert torch.equal(first, again) and torch.equal(second, second_again) and not torch.equal(first, second)


@pytest.mark.parametrize("micro", [None, 2])
def test_the_penalty_is_added_once_a_step(micro):
    """Whatever the number of predictions and of batches: its gradient is 2 price (shift - 1)."""
    made, task = engine_with({"shift": {"price": 0.1}}), runs.ner(micro_batch=micro) if micro else runs.ner()
    unit = unit_of(made, "shift")
    trainable = ModuleTrainable(Trainee(made, "ner", None))
    with torch.no_grad():
        unit.shift.fill_(0.25)
    compute_gradients(trainable, task, step=0, seed=0, precision="fp32")
    plain = unit.shift.grad.clone()
    total = trainable.add_penalty()
    assert total == pytest.approx(0.1 * 32 * (0.75**2 + 1 + 1), rel=1e-5)  # of the three layers
    assert torch.allclose(unit.shift.grad - plain, torch.full((32,), 0.2 * -0.75), atol=1e-6)


def test_micro_batches_and_a_penalty_equal_the_whole_batch():
    whole, cut, free = engine_with(SHIFT), engine_with(SHIFT), engine_with({"shift": {"drop": 0.3}})
    train(whole, keep_best=False)
    train(cut, keep_best=False, task={"micro_batch": 2})
    train(free, keep_best=False)
    close(weights(whole), weights(cut))
    assert (weights(whole)["layer.0.ffn.shift.shift"] - weights(free)["layer.0.ffn.shift.shift"]).abs().max() > 1e-3


def test_a_penalty_that_is_no_number_stops_in_words(monkeypatch):
    monkeypatch.setattr(Shift, "penalty", lambda self: torch.tensor(math.nan))
    with pytest.raises(TrainingError, match="step 0.*penalty of nan"):
        train(engine_with(SHIFT))


def test_settle_sees_the_best_weights_and_what_it_does_stays(monkeypatch):
    made, scores, seen = engine_with(SHIFT), iter([0.1, 0.9, 0.3]), []

    def evaluate(self, engine):
        seen.append(unit_of(engine, "shift").shift.detach().clone())
        return {"f1": next(scores)}

    monkeypatch.setattr(runs.NER, "evaluate", evaluate)
    train(made, evaluate_every=2)
    unit = unit_of(made, "shift")
    assert unit.calls[-1][0] == "settle" and torch.equal(unit.calls[-1][1], seen[1])
    assert torch.equal(unit.shift, 2 * seen[1]) and not torch.equal(seen[1], seen[2])


def test_killed_it_ends_the_same(tmp_path):
    whole, chosen = engine_with(SHIFT), {"checkpoint_every": 1, "evaluate_every": 2}
    train(whole, folder=tmp_path / "a", **chosen)
    with killed_after(runs.NER, 4):  # the first loss is that of the preparation
        train(engine_with(SHIFT), folder=tmp_path / "b", **chosen)
    again = engine_with(SHIFT)
    assert train(again, folder=tmp_path / "b", **chosen).resumed_from == 3
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(again).items())


def test_beside_a_sparse_delta_it_is_prepared_and_settled_once():
    made = engine_with({**SHIFT, "sparse_diff": {"entries": 60}}, under=lambda base: sparse(base, "eng", std=0.05))
    train(made, steps=3, iterations=2, sparse_l1=0.1)
    names = [name for name, *_ in unit_of(made, "shift").calls]
    assert names == ["begin", "prepare", *["begin"] * 12, "settle"]  # two rounds of two phases
    assert unit_of(made, "sparse_diff").values.count_nonzero() > 40


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(spawn, tmp_path):
    """Whose caller forgot to seed: parameters and buffers are those of the first."""
    out, at, options = str(tmp_path / "w"), port(), {"steps": 4, "learning_rate": 1e-3, "keep_best": False}
    processes = [spawn(together, rank, 2, at, out, SHIFT, dict(options)) for rank in range(2)]
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0], [p.read_text() for p in Path(tmp_path).glob("*.txt")]
    alone, _ = runs.train("ner", made=engine_with(SHIFT, seed=100), **options)
    for rank in range(2):
        close(load_file(f"{out}-0-{rank}.safetensors"), alone.module("ner").tensors())
