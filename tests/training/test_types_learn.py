"""Types as language and as task modules: training lowers perplexity, raises the dev score and moves every tensor."""

import pytest
import tiny
import tiny_runs as runs
import torch

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.module import new_module
from madx.training import TrainSettings, fit

#: components, in the sizes of a tiny base; further types join here
LEARNERS = {
    "compacter": {"compacter": {"reduction_factor": 4.0}},
    "unipelt": {
        "prefix": {"length": 3, "bottleneck": 8, "gate": True},
        "bottleneck": {"gate": True},
        "lora": {"rank": 4, "gate": True},
    },
    "adapter_plus": {"preset": "adapter_plus", "bottleneck": {"reduction_factor": 4.0}},
    "batch norm inside": {"bottleneck": {"norm_inside": "batch", "inner_layers": 1, "interaction": "multiply"}},
    "pissa": {"lora": {"rank": 4, "init": "pissa"}},
}
LABELS = LabelSet.from_sentences(runs.sentences()).tags


@pytest.mark.parametrize("kind", ["language", "task"])
@pytest.mark.parametrize("components", LEARNERS.values(), ids=LEARNERS)
def test_a_module_of_this_type_learns(components, kind):
    made = Engine(tiny.base())
    before, role = tiny.snapshot(made.base), {"labels": LABELS} if kind == "task" else {}
    torch.manual_seed(0)
    made.attach(new_module("m", made.base, role=kind, components=components, **role))
    fresh = {name: value.clone() for name, value in made.module("m").tensors().items()}
    made.activate("m")
    task, metric = (runs.ner(), "f1") if kind == "task" else (runs.masked_lm(), "perplexity")
    first = task.evaluate(made)[metric]
    settings = TrainSettings(learning_rate=1e-2, progress=False, evaluate_every=8)
    result = fit(made, "m", task, settings, steps=24, seed=0)
    gain = result.best[metric] - first
    assert gain > 10 if kind == "task" else gain < -0.05 * first
    own = {name for name, _ in made.module("m").named_parameters()}
    assert all(not torch.equal(value, fresh[name]) for name, value in made.module("m").tensors().items() if name in own)
    made.activate(None)
    assert tiny.unchanged(made.base, before)
