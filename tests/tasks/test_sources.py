"""Turns of several sources: proportions, order, the composition of each step, and means over all of them."""

import numpy as np
import pytest
import tiny
import tiny_runs as runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.composition import Stack
from madx.engine import Engine
from madx.errors import ConfigError
from madx.module import new_module
from madx.tasks.sources import Source, Sources, turns


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.sampled_from([0.5, 1.0, 3.0, 1e6]), st.integers(0, 3))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_every_source_gives_its_batches_in_order_and_in_proportion(sizes, temperature, seed):
    which, before = turns(sizes, temperature=temperature, seed=seed)
    again = turns(sizes, temperature=temperature, seed=seed)
    assert np.array_equal(which, again[0]) and np.array_equal(before, again[1])
    counts = np.bincount(which, minlength=len(sizes))
    for source, count in enumerate(counts):
        assert before[which == source].tolist() == list(range(count)) and count >= 1
    share = np.array(sizes) ** (1 / temperature)
    wanted = share / share.sum() * sum(sizes)
    assert (np.abs(counts - wanted) < len(sizes) + 1).all()
    if temperature == 1.0:
        assert counts.tolist() == sizes


def test_turns_are_mixed_and_follow_the_seed():
    which, _ = turns([30, 30], seed=1)
    assert all(5 <= int(which[a : a + 20].sum()) <= 15 for a in range(0, 60, 20))
    assert len(set(np.diff(which).tolist())) == 3
    assert not np.array_equal(which, turns([30, 30], seed=2)[0])
    assert np.bincount(turns([90, 10], temperature=1e9)[0]).tolist() == [50, 50]


class Fake:
    """A task whose batches name it and their step, and whose score is fixed for each composition."""

    metric, higher_is_better = "f1", True

    def __init__(self, name, scores):
        self.name, self.scores = name, scores

    def batches(self, step, **_):
        return [(self.name, step)]

    def evaluate(self, engine):
        return {"f1": self.scores[str(engine.composition)], "loss": 1.0}


def engine_with(*names):
    engine = Engine(tiny.base())
    for name in names:
        engine.attach(tiny.wake(new_module(name, engine.base, components="pfeiffer")))
    return engine


def test_each_step_has_its_sources_data_and_composition_and_cycling_takes_turns():
    engine = engine_with("a", "b", "c")
    one = Source("one", Fake("one", {"a": 10.0, "c": 20.0}), (Stack("a"), Stack("c")), 4)
    two = Source("two", Fake("two", {"b": 60.0}), (Stack("b"),), 2)
    task, met = Sources([one, two], seed=3), []
    assert task.steps == 6 and task.swaps and not Sources([two]).swaps
    for step in range(2 * task.steps):  # the table repeats, batches go on
        task.activate(engine, step)
        (batch,) = task.batches(step)
        met.append((*batch, str(engine.composition)))
    assert sorted(met) == [*(("one", k, "ac"[k % 2]) for k in range(8)), *(("two", k, "b") for k in range(4))]
    engine.activate("b")
    of_each = {"f1 one under a": 10.0, "f1 one under c": 20.0, "f1 two": 60.0}
    assert task.evaluate(engine) == {"f1": 30.0, "loss": 1.0} | of_each
    assert str(engine.composition) == "b", "evaluation leaves the active composition as it was"


def test_sources_need_something():
    for sources in ([], [Source("a", Fake("a", {}), (), 3)], [Source("a", Fake("a", {}), (Stack("a"),), 0)]):
        with pytest.raises(ConfigError, match="at least one source"):
            Sources(sources)


def test_loss_and_scores_are_those_of_the_sources_under_their_compositions():
    engine = runs.engine("ner")
    engine.attach(tiny.wake(new_module("swa", engine.base, components="pfeiffer"), seed=2))
    tasks = [runs.ner(seed=k) for k in (1, 2)]
    under = {"eng": Stack("eng", "ner"), "swa": Stack("swa", "ner")}
    mixed = Sources([Source(name, task, (c,), 3) for task, (name, c) in zip(tasks, under.items())], seed=1)
    with torch.no_grad():
        for step in range(6):
            source, before = mixed.turn(step)
            mixed.activate(engine, step)
            (batch,), (own,) = mixed.batches(step), source.task.batches(before)
            assert all(torch.equal(batch[k], own[k]) for k in own) and mixed.count(batch) == source.task.count(own)
            loss, scores = mixed.loss(engine, batch), mixed.scores(engine, batch)
            engine.activate(under[source.name])
            assert torch.equal(loss, source.task.loss(engine, own))
            assert torch.equal(scores, source.task.scores(engine, own))
