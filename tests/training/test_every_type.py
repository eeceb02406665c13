"""Every registered module type is a language module and a task module: training makes it better on held-out data."""

import pytest
import tiny
import tiny_runs as runs

from madx.contract.module_type import FusionType
from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.module import new_module
from madx.module_types import MODULE_TYPES
from madx.training import TrainSettings, fit

#: types that `tests/test_types_in_use.py` trains, with settings of their own
ELSEWHERE = ("reft", "pal", "adamix", "ladder")
NAMES = [n for n in MODULE_TYPES if not issubclass(MODULE_TYPES.get(n), FusionType) and n not in ELSEWHERE]
#: settings with which a few steps suffice
LIVELY = {
    "said": {"dimension": 200, "kinds": ["weight"]},
    "sparse_diff": {"entries": 2000},
    "prompt": {"length": 4},
    "compacter": {"reduction_factor": 4.0},
}
LABELS = LabelSet.from_sentences(runs.sentences()).tags


def trained(name, role, task, **labels):
    """(scores before, scores after, explanation) of a module of one type."""
    made = Engine(tiny.base())
    module = new_module("m", made.base, role=role, components={name: LIVELY.get(name, {})}, **labels)
    made.attach(module)
    made.activate("m")
    before = task.evaluate(made)
    settings = TrainSettings(learning_rate=2e-2, progress=False, evaluate_every=8)
    fit(made, "m", task, settings, steps=16, seed=0)
    return before, task.evaluate(made), made.explain(*tiny.inputs())


@pytest.mark.parametrize("name", NAMES)
def test_a_language_module_lowers_the_perplexity_of_held_out_text(name):
    before, after, found = trained(name, "language", runs.masked_lm())
    assert after["perplexity"] < 0.97 * before["perplexity"] and found.inactive == []


@pytest.mark.parametrize("name", NAMES)
def test_a_task_module_raises_the_score_of_the_development_set(name):
    before, after, found = trained(name, "task", runs.ner(), labels=LABELS)
    assert after["f1"] > before["f1"] + 0.05 and found.inactive == []
