"""Training over several compositions: against plain torch, killed and resumed; averaged weights."""

import pytest
import tiny
import tiny_runs as runs
import torch
import torch.nn.functional as F
from sparse_runs import FAMILY, killed_after, settings
from tiny import dense, sparse, unchanged

from madx.composition import Stack
from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.module import new_module
from madx.tasks.sources import Source, Sources
from madx.tasks.token_classification import TokenClassification
from madx.training import fit
from madx.training.sparse.dense_delta import DenseDeltaPhase

PARTS = {
    "adapter": {"bottleneck": {"reduction_factor": 2.0}},
    "lt-sft": {"sparse_diff": {"entries": 150, "precision": "float32"}},
    "everything": {"sparse_diff": {"entries": "all", "precision": "float32", "groups": ["layers"]}},
}


def several(components, *, adapter=False, cycle=False):
    """(engine, task): English under a weight delta, Swahili under one or under an adapter; or the same data."""
    engine = Engine(tiny.base(FAMILY))
    engine.attach(sparse(engine.base, "eng", 5, entries=0.2, std=0.05))
    engine.attach(
        tiny.wake(new_module("swa", engine.base, components="pfeiffer"), std=0.05)
        if adapter
        else sparse(engine.base, "swa", 6, entries=0.2, std=0.05)
    )
    torch.manual_seed(3)
    labels = LabelSet.from_sentences(runs.sentences()).tags
    engine.attach(
        new_module("ner", engine.base, role="task", components=PARTS.get(components, components), labels=labels)
    )
    eng, swa = Stack("eng", "ner"), Stack("swa", "ner")
    engine.activate(eng)
    if cycle:
        return engine, Sources([Source("eng", runs.ner(seed=1), (eng, swa), 8)])
    return engine, Sources(
        [Source("eng", runs.ner(seed=1), (eng,), 5), Source("swa", runs.ner(seed=2), (swa,), 3)], seed=1
    )


def steps_of(task, count):
    """(composition, batch) of each step."""
    return [(str(task.composition(step)), task.batches(step)[0]) for step in range(count)]


@pytest.mark.parametrize("cycle", [False, True])
def test_full_fine_tuning_over_several_languages_is_plain_torch(cycle):
    """theta = theta_0 + delta of the step's language + w, AdamW on w and the head."""
    engine, task = several("everything", cycle=cycle)
    state = tiny.model(FAMILY).state_dict()
    unit, module = engine.modules["ner"].units["weights"]["sparse_diff"], engine.modules["ner"]
    head = torch.nn.Linear(32, module.head.out_features)
    head.load_state_dict(module.head.state_dict())
    chosen = settings(keep_best=False, evaluate_every=3)
    result = fit(engine, "ner", task, chosen, steps=8, seed=0)
    assert {c for c, _ in steps_of(task, 8)} == {"eng + ner", "swa + ner"}

    model = tiny.model(FAMILY).eval().requires_grad_(False).roberta
    under = {f"{n} + ner": dense(engine.modules[n]) for n in ("eng", "swa")}
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    w = {p.name: torch.zeros(p.shape, requires_grad=True) for p in unit.space.parameters}
    optimizer = torch.optim.AdamW([*w.values(), *head.parameters()], weight_decay=0.0)
    for step, (composition, batch) in enumerate(steps_of(task, 8)):
        optimizer.zero_grad()
        here = {n: t + under[composition].get(n, 0.0) + w.get(n, 0.0) for n, t in theta.items()}
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        hidden = torch.func.functional_call(model, here, kwargs=inputs).last_hidden_state
        rows, words = (batch["first"] >= 0).nonzero(as_tuple=True)
        F.cross_entropy(head(hidden[rows, batch["first"][rows, words]]), batch["labels"][rows, words]).backward()
        torch.nn.utils.clip_grad_norm_([*w.values(), *head.parameters()], 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * chosen.rate(step, 8)
        optimizer.step()
    ours = dense(module)
    for name, expected in w.items():
        if not name.endswith("key.bias"):  # softmax does not see it: its gradient is rounding, which Adam blows up
            assert torch.allclose(ours[name], expected, atol=3e-6), name
    assert torch.allclose(module.head.weight, head.weight, atol=1e-6)
    label = "f1 eng under swa + ner" if cycle else "f1 swa"
    assert label in result.best and result.best["f1"] == pytest.approx(
        sum(v for k, v in result.best.items() if k.startswith("f1 ")) / 2
    )
    engine.activate(None)
    assert unchanged(engine.base, state)


@pytest.mark.slow
@pytest.mark.parametrize("components", PARTS)
@pytest.mark.parametrize("cycle", [False, True])
def test_killed_anywhere_it_ends_the_same(components, cycle, tmp_path):
    """Killed in either phase; several sources over a weight delta and an adapter, cycling over two weight deltas."""
    adapter = not cycle
    chosen = settings(checkpoint_every=1, evaluate_every=2, average_last=2)
    engine, task = several(components, adapter=adapter, cycle=cycle)
    state = tiny.model(FAMILY).state_dict()
    once = fit(engine, "ner", task, chosen, steps=6, seed=0, folder=tmp_path / "whole")
    whole = {k: v.clone() for k, v in engine.modules["ner"].state_dict().items()}
    engine.activate(None)
    assert unchanged(engine.base, state)
    for stop in (4, 9) if components == "lt-sft" else (4,):
        folder = tmp_path / f"killed-{stop}"
        engine, _ = several(components, adapter=adapter, cycle=cycle)
        with killed_after(TokenClassification, stop):
            fit(engine, "ner", task, chosen, steps=6, seed=0, folder=folder)
        again, _ = several(components, adapter=adapter, cycle=cycle)
        result = fit(again, "ner", task, chosen, steps=6, seed=0, folder=folder)
        found = again.modules["ner"].state_dict()
        assert all(torch.equal(found[k], v) for k, v in whole.items()), stop
        assert result.history == once.history and result.best == once.best


@pytest.mark.parametrize("components", PARTS)
def test_a_batch_trains_under_its_own_language_alone(components):
    """A second language whose batches never come changes nothing: the steps are those of one language."""
    ends = []
    for turn in range(2):
        engine, _ = several(components)
        one = runs.ner(seed=1)
        task = Sources([Source("eng", one, (Stack("eng", "ner"),), 6)]) if turn else one
        fit(engine, "ner", task, settings(keep_best=False), steps=6, seed=0)
        ends.append(engine.modules["ner"].state_dict())
    assert all(torch.equal(ends[0][k], v) for k, v in ends[1].items())


# ---- averaging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", PARTS)
def test_the_mean_of_the_last_evaluations_weights(components):
    """Weights at the last three looks, by hand; its scores are the run's."""

    def run(**more):
        engine, task = several(components)[0], runs.ner(seed=1)
        kept, look = [], runs.NER.evaluate
        unit = engine.modules["ner"].units.get("weights", {}).get("sparse_diff")

        def looked(self, engine):
            found = {k: v.clone() for k, v in engine.modules["ner"].state_dict().items()}
            if components == "everything":
                found |= {
                    "base": torch.cat(
                        [engine.base.encoder.get_parameter(p.name).detach().flatten() for p in unit.space.parameters]
                    )
                }
            kept.append(found)
            return look(self, engine)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs.NER, "evaluate", looked)
            result = fit(engine, "ner", task, settings(evaluate_every=2, **more), steps=9, seed=0)
        return engine, result, kept

    engine, result, kept = run(average_last=3)
    looks = kept[-4:-1]  # the last look is at the mean itself
    assert result.history[-1]["averaged"] == 3 and result.best_step == 9
    assert [row["step"] for row in result.history][-4:] == [6, 8, 9, 9]
    for key, value in engine.modules["ner"].state_dict().items():
        if value.is_floating_point() and key in kept[-1] and not (components == "everything" and "sparse_diff" in key):
            assert torch.allclose(value, sum(look[key] for look in looks) / 3, atol=1e-6), key
    if components == "everything":
        engine.activate("eng")
        start = torch.cat(
            [
                engine.base.encoder.get_parameter(p.name).flatten()
                for p in engine.modules["ner"].units["weights"]["sparse_diff"].space.parameters
            ]
        )
        values = engine.modules["ner"].units["weights"]["sparse_diff"].values
        assert torch.allclose(start + values, sum(look["base"] for look in looks) / 3, atol=1e-6)
    assert "averaged" not in run()[1].history[-1]


def test_a_second_ctrl_c_while_the_delta_is_laid_over_loses_nothing_of_the_base():
    engine, task = several("everything")
    state = tiny.model(FAMILY).state_dict()
    lay, calls = DenseDeltaPhase.lay, []

    def interrupted(self):
        calls.append(1)
        if len(calls) < 3:
            return lay(self)
        weights = self.weights

        class Weights(dict):
            def items(self):
                for number, item in enumerate(weights.items()):
                    if number == 4:
                        raise KeyboardInterrupt
                    yield item

        self.weights = Weights()
        try:
            lay(self)
        finally:
            self.weights = weights

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DenseDeltaPhase, "lay", interrupted)
        fit(engine, "ner", task, settings(), steps=8, seed=0)
    assert len(calls) == 3
    engine.activate(None)
    assert unchanged(engine.base, state)
