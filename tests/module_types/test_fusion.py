"""fusion against a plain transcription of AdapterFusion, and its settings, start, temperature and explanation."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from by_hand import DEPTH, SITE, SITES, WIDTH, given, unit_at, wake

from madx.engine import Engine
from madx.errors import CompositionError, ConfigError
from madx.module import new_module
from madx.module.presets import make_components
from madx.module_types.fusion import Fusion

FFN = SITE["layer.0.ffn"]


def joined(z, changes, *, Q=None, b=None, K=None, V=None, T=1.0):
    """sum of p_i V f_i, p = softmax(q K f_i / T), as AdapterHub's BertFusion computes it, one child after the other."""
    q = z if Q is None else z @ Q.T + b
    keys = [f if K is None else f @ K.T for f in changes]
    values = [f if V is None else f @ V.T for f in changes]
    p = F.softmax(torch.stack([(q * k).sum(-1) for k in keys], -1) / T, -1)
    return sum(p[..., i : i + 1] * v for i, v in enumerate(values)), p


def drawn(count=3):
    torch.manual_seed(4)
    return [torch.randn(2, 5, WIDTH, dtype=torch.float64) for _ in range(count)]


@torch.no_grad()
@pytest.mark.parametrize("reads", ["sum_norm", "output", "input"])
def test_formula(reads):
    unit, at, changes = unit_at("fusion", FFN.name, {"reads": reads}), given(FFN), drawn()
    t = at.tensors
    z = {"sum_norm": at.fixed(t["output"] + t["residual"]), "output": t["output"], "input": t["input"]}[reads]
    Q, b, K, V = unit.query.weight, unit.query.bias, unit.key.weight, unit.value.weight
    expected, p = joined(z, changes, Q=Q, b=b, K=K, V=V)
    assert torch.allclose(unit(at.view(unit.reads), changes), expected, atol=1e-12)
    assert torch.allclose(unit.child_weights(at.view(), changes), p, atol=1e-12) and p.std() > 0.1
    unit.key = None
    assert torch.allclose(unit(at.view(), changes), joined(z, changes, Q=Q, b=b, V=V)[0], atol=1e-12)
    unit.query = unit.value = None
    assert torch.allclose(unit(at.view(), changes), joined(z, changes)[0], atol=1e-12)


@torch.no_grad()
def test_the_query_sees_the_changes_of_the_modules_before():
    unit, at, changes = unit_at("fusion", FFN.name), given(FFN), drawn()
    view, before = at.view(), drawn(4)[-1]
    view.add(before)
    z = at.fixed(at.tensors["output"] + at.tensors["residual"] + before)
    own = {"Q": unit.query.weight, "b": unit.query.bias, "K": unit.key.weight, "V": unit.value.weight}
    assert torch.allclose(unit(view, changes), joined(z, changes, **own)[0], atol=1e-12)


@torch.no_grad()
def test_a_fresh_unit_gives_nearly_the_mean_and_one_child_its_change():
    unit, at, changes = unit_at("fusion", FFN.name, awake=False), given(FFN), drawn()
    assert torch.allclose(unit(at.view(), changes), sum(changes) / 3, atol=0.1)
    assert torch.allclose(unit(at.view(), changes[:1]), changes[0], atol=1e-4)
    V = unit.value.weight
    assert (V.diagonal() == 1).all() and torch.allclose(V - torch.eye(WIDTH), (1 - torch.eye(WIDTH)).double() * 1e-6)


def test_the_penalty_is_the_distance_of_v_from_the_identity():
    unit = unit_at("fusion", FFN.name, {"regularization": 0.5})
    V = unit.value.weight.detach()
    expected = 0.5 * sum((float(V[i, j]) - (i == j)) ** 2 for i in range(WIDTH) for j in range(WIDTH))
    assert unit.penalty().item() == pytest.approx(expected) and unit.penalty().requires_grad
    for settings in ({"regularization": 0.0}, {"value": False}):
        assert unit_at("fusion", FFN.name, settings).penalty() is None


@torch.no_grad()
def test_the_temperature_falls_to_one_and_settles_into_the_matrices():
    for settings in ({}, {"query": False}):
        unit, at, changes = unit_at("fusion", FFN.name, {"temperature": 50.0} | settings), given(FFN), drawn()
        for step, T in ((0, 50.0), (500, 25.0), (980, 1.0), (5000, 1.0), (940, 3.0)):
            unit.begin(step, 0)
            assert unit.heat.item() == pytest.approx(T)
        before = unit(at.view(), changes)
        unit.settle()
        assert unit.heat == 1 and torch.allclose(unit(at.view(), changes), before, atol=1e-12)
        unit.heat.fill_(3.0)
        assert not torch.allclose(unit(at.view(), changes), before, atol=1e-3)


def test_dropout_acts_in_training_alone():
    unit, at, changes = unit_at("fusion", FFN.name, {"dropout": 0.5}), given(FFN), drawn()
    still = unit(at.view(), changes)
    assert torch.equal(still, unit(at.view(), changes))
    unit.train()
    assert not torch.equal(still, unit(at.view(), changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query": False, "key": False, "value": False}, "nothing is learnt"),
        ({"query": False, "key": False, "temperature": 50.0}, "temperature.*query or key"),
        ({"temperature": 0.5}, r"fusion\.temperature: .*1, got 0\.5"),
        ({"regularization": -1.0}, r"fusion\.regularization: .*0, got -1"),
        ({"places": []}, r"fusion\.places"),
        ({"places": ["embeddings"]}, r"fusion\.places\.0: .*'layer', got \"embeddings\""),
        ({"dropout": 1.0}, r"fusion\.dropout"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_components({"fusion": settings})


def test_a_component_is_fitted_to_the_modules_that_it_joins():
    def fitted(names, **given):
        return Fusion.fitted(make_components({"fusion": given})["fusion"], [SITE[name] for name in names])

    assert fitted([s.name for s in SITES if s.kind == "sublayer"]).places == ("attention", "ffn")
    some = fitted(["embeddings", "layer.0.ffn", "layer.1.attention.query"])
    assert (some.places, some.leave_out) == (("ffn", "query"), (DEPTH - 1,))
    assert fitted(["layer.0.ffn"], places=["layer"], leave_out=[0]).places == ("layer",)
    assert fitted(["embeddings"]).places == ("ffn",)


# ---- in an engine ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    made = Engine(tiny.base())
    for number, name in enumerate(("a", "b", "last")):
        parts = {"bottleneck": {"leave_out": [0, 1] if name == "last" else [-1]}}
        made.attach(tiny.wake(new_module(name, made.base, language="swa", components=parts), seed=number))
    made.attach(wake(new_module("f", made.base, role="fusion", components="fusion"), std=0.2))
    yield made
    made.close()


@torch.no_grad()
def test_explanation_shows_the_weights_by_child_and_layer(engine):
    ids, mask = tiny.inputs()
    engine.activate("fuse(a, b + last; f)")
    found = engine.explain(ids, mask)
    weights = {a.site: a.weights for a in found.actions if a.module == "f"}
    assert list(weights["layer.0.ffn"]) == ["a", "b + last"] and list(weights["layer.2.ffn"]) == ["b + last"]
    assert all(sum(each.values()) == pytest.approx(1.0, abs=1e-5) for each in weights.values())
    assert weights["layer.0.ffn"] != weights["layer.1.ffn"] and "[weights a " in str(found) and found.inactive == []
    assert all(a.weights is None for a in found.actions if a.module != "f")
    assert engine.explain().actions[0].weights is None
    engine.activate("route(fuse(a, b; f), fuse(a, last; f), a)")
    first, second, third = engine.explain(ids, mask, branches=[0, 1, 2]).branches
    own = [[list(a.weights) for a in each.actions if a.weights] for each in (first, second, third)]
    assert own == [[["a", "b"]] * 2, [["a"]] * 2 + [["last"]], []]


def test_where_no_child_acts_nothing_is_joined_but_somewhere_one_must(engine):
    ids, mask = tiny.inputs()
    engine.activate("fuse(a, b; f)")
    assert {a.site for a in engine.explain(ids, mask).actions} == {"layer.0.ffn", "layer.1.ffn"}
    only = new_module("only", engine.base, role="fusion", components={"fusion": {"places": ["attention"]}})
    engine.attach(only)
    with pytest.raises(CompositionError, match=r"only\).*acts at layer.0.attention.*none of the modules.*setting fuse"):
        engine.activate("fuse(a, b; only)")
