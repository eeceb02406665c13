"""Module types on a tiny base: they learn a language and a task, and act in stacks, averages, routes and the store."""

import pytest
import tiny
import tiny_runs as runs
import torch

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.module import new_module
from madx.store import Store
from madx.training import TrainSettings, fit

#: settings in sizes for a width of 32
TYPES = {
    "reft": {"reft": {"rank": 8, "first": 16, "dropout": 0.0}},
    "reft of first and last": {"reft": {"rank": 4, "first": 4, "last": 4, "orthogonal": False}},
    "pal": {"pal": {"size": 16, "heads": 4}},
    "ladder": {"ladder": {"reduction_factor": 2.0}},
    "adamix": {"adamix": {"reduction_factor": 2.0, "experts": 3}},
}
every_type = pytest.mark.parametrize("components", TYPES.values(), ids=list(TYPES))
LABELS = LabelSet.from_sentences(runs.sentences()).tags


@every_type
def test_a_language_module_lowers_the_perplexity_and_a_task_module_raises_the_score(components):
    made = Engine(tiny.base())
    untouched = tiny.snapshot(made.base)
    torch.manual_seed(0)
    made.attach(new_module("swa", made.base, language="swa", components=components))
    made.attach(new_module("ner", made.base, role="task", components=components, labels=LABELS))
    settings = TrainSettings(learning_rate=1e-2, progress=False, evaluate_every=10)
    for name, composition, task in (("swa", "swa", runs.masked_lm()), ("ner", "swa + ner", runs.ner())):
        made.activate(composition)
        before = task.evaluate(made)[task.metric]
        result = fit(made, name, task, settings, steps=20, seed=0)
        after = task.evaluate(made)[task.metric]
        assert task.better(after, before) and after == pytest.approx(result.best[task.metric], rel=1e-4)
    made.activate(None)
    assert tiny.unchanged(made.base, untouched)


@every_type
@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
@torch.no_grad()
def test_store_stack_average_and_route(components, family, tmp_path):
    made = Engine(tiny.base(family))
    for number, name in enumerate(("one", "two")):
        module = new_module(name, made.base, language="swa", components=components)
        made.attach(tiny.wake(module, seed=number, std=0.2))
    parts = {"bottleneck": {}, "prompt": {"length": 2}}
    made.attach(tiny.wake(new_module("other", made.base, components=parts), seed=3, std=0.1))
    ids, mask = tiny.inputs()
    bare = made(ids, mask)
    store = Store(tmp_path)
    store.save(made.module("one"))
    again = Engine(tiny.base(family), store=store)
    again.load("one")
    again.activate("one")
    with made.using("one"):
        alone = made(ids, mask)
    assert torch.equal(again(ids, mask), alone) and not torch.allclose(alone, bare, atol=1e-3)
    with made.using("average(one, one)"):
        assert torch.allclose(made(ids, mask), alone, atol=1e-5)
    made.activate("average(one, two) + other")
    assert made.explain(ids, mask).inactive == []
    branches = [0, 1, 2][: len(ids)]
    with made.using("route(one + other, two, other)"):
        together = made(ids, mask, branches=branches)
    for row, stack in enumerate(("one + other", "two", "other")):
        with made.using(stack):  # each row by itself, without padding
            length = int(mask[row].sum())
            here = made(ids[row : row + 1, :length], mask[row : row + 1, :length])[0]
        assert torch.allclose(together[row, :length], here, atol=1e-4)
    made.activate(None)
    assert torch.equal(made(ids, mask), bare)
