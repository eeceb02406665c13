"""sparse_adapter: the scores against plain transcriptions, the sparse maps, and the stored form."""

import pytest
import tiny
import tiny_runs as runs
import torch
from by_hand import given, prepare, run, units

from madx.contract.module_type import MODULE_TYPES
from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.errors import ConfigError, StoreError
from madx.module import new_module
from madx.module.presets import make_components
from madx.module_types import sparse_adapter
from madx.store import Store
from madx.training import TrainSettings, fit


def made_for(rule, **config):
    """(units, a function that computes a loss, which hangs on the weights of all units)."""
    made = units("sparse_adapter", {"prune": rule, "reduction_factor": 3.0, **config})
    places = [given(unit.site, seed=k) for k, unit in enumerate(made)]

    def loss():
        total = sum((k + 1) * run(unit, at).sin().sum() for k, (unit, at) in enumerate(zip(made, places)))
        return (total / 10).square()  # so that the Hessian joins the units

    return made, loss


def dense_weights(made):
    return {(unit.site.name, name): m.weight.detach().clone() for unit in made for name, m in unit.maps.items()}


def transcribed(rule, made, loss):
    """Scores by map from plain autograd over the dense weights."""
    parameters = {(u.site.name, name): m.values for u in made for name, m in u.maps.items()}
    if rule == "magnitude":
        return {k: p.detach().abs() for k, p in parameters.items()}
    g = torch.autograd.grad(loss(), list(parameters.values()), create_graph=True)
    if rule == "snip":
        return {k: (p * own).abs().detach() for (k, p), own in zip(parameters.items(), g)}
    flow = sum((own * own.detach()).sum() for own in g)  # its gradient is H g
    products = torch.autograd.grad(flow, list(parameters.values()))
    return {k: (p * h).detach() for (k, p), h in zip(parameters.items(), products)}


@pytest.mark.parametrize("rule", ["magnitude", "snip", "grasp"])
def test_the_largest_scores_of_all_matrices_survive(rule, monkeypatch):
    monkeypatch.setattr(sparse_adapter, "STEP", 1e-6)  # in float64 the Hessian-gradient product is exact enough
    made, loss = made_for(rule)
    before = dense_weights(made)
    scores = transcribed(rule, made, loss)
    total = sum(s.numel() for s in scores.values())
    count = round(0.6 * total)
    border = torch.cat(list(scores.values())).sort(descending=True).values[count - 1]
    prepare(made, loss)
    for key, weight in dense_weights(made).items():
        score, kept = scores[key].view_as(weight), weight != 0
        assert kept[score > border].all() and not kept[score < border].any()  # of equal scores some survive
        assert torch.equal(weight[weight != 0], before[key][weight != 0]), "survivors keep their values"
    assert sum(len(m.values) for unit in made for m in unit.maps.values()) == count
    assert len({len(m.values) for unit in made for m in unit.maps.values()}) > 1, "matrices compete"
    assert not made[0].common.found and all(bool(unit.pruned) for unit in made)


def test_random_survivors_are_uniform_and_hang_on_the_seed():
    (one, _), (same, _), (other, _) = made_for("random"), made_for("random"), made_for("random", prune_seed=1)
    for made in (one, same, other):
        prepare(made)
    places = [[m.places.tolist() for u in made for m in u.maps.values()] for made in (one, same, other)]
    assert places[0] == places[1] != places[2]


def test_erdos_renyi_prunes_small_matrices_less():
    factors = {"0": 6.0, "1": 2.0, "default": 1.0}
    made, _ = made_for("erdos_renyi", reduction_factor=factors, sparsity=0.5)
    prepare(made)
    density = {(u.site.layer, n): len(m.values) / m.size for u in made for n, m in u.maps.items()}
    inner = {0: 2, 1: 6, 2: 12}
    kept, total = sum(len(m.values) for u in made for m in u.maps.values()), sum(2 * 12 * i for i in inner.values())
    assert abs(kept - 0.5 * total) <= 3 and {n for _, n in density} == {"network.down", "network.up"}
    # one factor c for all: c (in + out) / (in out), at most 1
    shares = {layer: (12 + i) / (12 * i) for layer, i in inner.items()}
    assert density[0, "network.up"] > density[1, "network.up"] > density[2, "network.up"]
    for layer in (0, 1):
        if density[layer, "network.up"] < 1:
            ratio = density[layer, "network.up"] / density[2, "network.up"]
            assert ratio == pytest.approx(shares[layer] / shares[2], rel=0.05)


@torch.no_grad()
def test_a_pruned_unit_computes_as_a_bottleneck_with_zeros():
    made, _ = made_for("random", norm_before=True, scaling="channel")
    prepare(made)
    unit, at = made[0], given(made[0].site)
    (twin, *_) = units("bottleneck", {"reduction_factor": 3.0, "norm_before": True, "scaling": "channel"})
    tensors = {k.removeprefix("network."): v for k, v in unit.state_dict().items() if k.startswith("network.")}
    for name, m in unit.maps.items():
        short = name.removeprefix("network.")
        tensors[f"{short}.weight"] = m.weight
        del tensors[f"{short}.values"], tensors[f"{short}.places"]
        assert (m.weight == 0).any() and 0 < len(m.values) < m.size
    twin.load_state_dict(tensors)
    assert torch.allclose(run(unit, at), run(twin, at))
    assert unit.describe().startswith(twin.describe()) and " weights" in unit.describe()


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.95])
def test_the_stored_form_holds_survivors_alone(sparsity):
    made, _ = made_for("random", sparsity=sparsity, reduction_factor=0.5)
    prepare(made)
    fresh, _ = made_for("random", sparsity=sparsity, reduction_factor=0.5)
    for unit, other in zip(made, fresh):
        unit.float(), other.float()
        stored = unit.pack(torch.float32)
        assert unit.stored_faults(stored) == []
        for name, m in unit.maps.items():
            form = "gaps" if sparsity == 0.95 else "bits"
            assert len(stored[f"{name}.values"]) == len(m.values) and f"{name}.{form}" in stored
            assert len(stored[f"{name}.{form}"]) <= -(-m.size // 8)
        other.load_state_dict(other.unpack(stored))
        assert all(torch.equal(v, unit.state_dict()[k]) for k, v in other.state_dict().items())
    broken = {k: v for k, v in stored.items() if not k.endswith((".bits", ".gaps"))}
    assert "needs one row of bytes" in MODULE_TYPES.get("sparse_adapter").stored_faults(broken)[0]
    short = {k: v[:-1] if k.endswith("values") else v for k, v in stored.items()}
    with pytest.raises(StoreError, match=r"values at .* places"):
        made[-1].unpack(short)


def test_training_prunes_trains_and_stores(tmp_path):
    made = Engine(tiny.base())
    labels = LabelSet.from_sentences(runs.sentences()).tags
    parts = {"sparse_adapter": {"prune": "grasp", "sparsity": 0.8, "reduction_factor": 2.0}}
    made.attach(new_module("ner", made.base, role="task", components=parts, labels=labels))
    made.activate("ner")
    fit(made, "ner", runs.ner(), TrainSettings(learning_rate=1e-2, progress=False), steps=4, seed=0)
    units_of = [u for site in made.module("ner").units.values() for u in site.values()]
    kept, size = (sum(n) for n in zip(*((len(m.values), m.size) for u in units_of for m in u.maps.values())))
    assert kept == round(0.2 * size)
    store = Store(tmp_path)
    store.save(made.module("ner"))
    again = Engine(tiny.base(), store=store)
    again.load("ner")
    again.activate("ner")
    assert torch.equal(again(*tiny.inputs()), made(*tiny.inputs())) and store.verify() == []
    places = [m.places.clone() for u in units_of for m in u.maps.values()]
    fit(made, "ner", runs.ner(), TrainSettings(learning_rate=1e-2, progress=False), steps=2, seed=1)
    assert all(torch.equal(a, m.places) for a, m in zip(places, (m for u in units_of for m in u.maps.values())))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity": 1.0}, r"sparse_adapter\.sparsity: .*1, got 1\.0"),
        ({"sparsity": -0.1}, r"sparse_adapter\.sparsity: .*0, got -0\.1"),
        ({"prune": "snap"}, r"sparse_adapter\.prune: .*'snip'.*\"snap\""),
        ({"init": "zero_up"}, r"'zero_up'.*prune 'snip'.*'random' or 'erdos_renyi'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make_components({"sparse_adapter": values})


def test_pruning_everything_is_refused():
    with pytest.raises(ConfigError, match=r"sparsity is 0\.999, which prunes all 72 weights"):
        units("sparse_adapter", {"sparsity": 0.999, "reduction_factor": 12.0})
    assert make_components({"sparse_adapter": {"init": "zero_up", "prune": "random"}})
