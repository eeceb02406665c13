"""far: which nodes learn after the priming run, their deltas, and the stored form."""

import pytest
import tiny
import tiny_runs as runs
import torch
from by_hand import INNER, WIDTH, prepare, units

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.errors import ConfigError, StoreError
from madx.module import new_module
from madx.module.presets import make_components
from madx.module_types.far import Far
from madx.store import Store
from madx.training import TrainSettings, fit


def test_a_delta_changes_whole_rows_and_columns_of_the_learning_nodes():
    """In a gated block a node has two rows of `up`."""
    (unit,) = units("far", {"share": 0.1})
    unit._hold(torch.tensor([[3, 17], [0, 5], [18, 19]], dtype=torch.int32))
    with torch.no_grad():
        for p in unit.parameters():
            p.copy_(torch.arange(1.0, p.numel() + 1).view_as(p))
    shapes = {p.name: p.shape for p in unit.site.parameters}
    for delta in unit.deltas():
        layer, dense = int(delta.parameter.split(".")[1]), torch.zeros(shapes[delta.parameter], dtype=torch.float64)
        dense.view(-1)[delta.places()] = delta.values.double()
        nodes = unit.nodes[layer].tolist()
        rows = nodes + [n + INNER for n in nodes]
        wanted = torch.zeros_like(dense)
        if "down" in delta.parameter:
            wanted[:, nodes] = unit.down[layer].double()
        else:
            wanted[rows] = (unit.bias if "bias" in delta.parameter else unit.up)[layer].double()
        assert torch.equal(dense, wanted), delta.parameter


def test_the_nodes_that_the_priming_run_changes_most_learn():
    """AdamW moves each weight with a gradient of constant sign by the rate, so nodes with more such weights win."""
    (unit,) = units("far", {"share": 0.15, "priming_steps": 3}, awake=False)
    chosen = [{2, 9, 11}, {0, 1, 19}, {4, 7, 13}]

    def loss():
        terms = [unit.up[k, n + gate * INNER].sum() for k, some in enumerate(chosen) for n in some for gate in (0, 1)]
        return sum(terms) + 1e3 * unit.down[:, 0, 15].sum()  # one weight with a large gradient moves no farther

    prepare([unit], loss)
    assert [set(row) for row in unit.nodes.tolist()] == chosen and unit.describe() == "3 of 20 nodes in 3 layers"
    assert unit.up.shape == (3, 6, WIDTH) and unit.down.shape == (3, WIDTH, 3) and unit.bias.shape == (3, 6)
    assert all(not p.any() for p in unit.parameters()), "deltas start from zero again"
    before = unit.nodes.clone()
    prepare([unit])
    assert torch.equal(unit.nodes, before), "a training that goes on keeps its nodes"


@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
def test_it_trains_the_learning_nodes_alone_and_is_stored(family, tmp_path):
    made = Engine(tiny.base(family))
    before = tiny.snapshot(made.base)
    labels = LabelSet.from_sentences(runs.sentences()).tags
    parts = {"far": {"share": 0.25, "priming_steps": 2}}
    made.attach(new_module("ner", made.base, role="task", components=parts, labels=labels))
    made.activate("ner")
    fit(made, "ner", runs.ner(), TrainSettings(learning_rate=1e-2, progress=False), steps=4, seed=0)
    unit = made.module("ner").units["weights"]["far"]
    assert unit.learning == 16 and all(p.any() for p in unit.parameters())
    store = Store(tmp_path)
    store.save(made.module("ner"))
    again = Engine(tiny.base(family), store=store)
    again.load("ner")
    again.activate("ner")
    assert torch.equal(again(*tiny.inputs()), made(*tiny.inputs())) and store.verify() == []
    made.close()
    assert tiny.unchanged(made.base, before)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"far\.share is 0\.01, which freezes all 20 nodes.*0\.05"):
        units("far", {"share": 0.01})
    for values, words in (({"share": 0.0}, r"far\.share: .*0, got 0\.0"), ({"priming_steps": 0}, r"1, got 0")):
        with pytest.raises(ConfigError, match=words):
            make_components({"far": values})
    (unit,) = units("far")
    stored = unit.float().pack(torch.float32)
    for changed, words in (
        ({"nodes": stored["nodes"].flip(1)}, "not ascending numbers from 0 to 19"),
        ({"nodes": stored["nodes"] + 1}, "not ascending numbers"),
        ({"up": stored["up"][:, :-1]}, "do not fit this base, which has 3 blocks"),
    ):
        with pytest.raises(StoreError, match=words):
            unit.unpack({**stored, **changed})
    assert "nodes must be" in Far.stored_faults({**stored, "nodes": stored["up"]})[0]
