"""An explanation says what the forward pass does: no layer, no decoder, no module that is not really so."""

import json

import pytest
import tiny

from madx.engine import Engine
from madx.engine.explanation import Action, Explanation, RouteExplanation
from madx.errors import CompositionError
from madx.module import new_module


def engine(family="xlm-roberta", **modules):
    made = Engine(tiny.base(family))
    for seed, (name, parts) in enumerate(modules.items()):
        made.attach(tiny.wake(new_module(name, made.base, components=parts), seed=seed))
    return made


def sites(explanation):
    return [line.split()[0] for line in str(explanation).splitlines() if line.startswith(("  layer.", "  embeddings"))]


def test_a_layer_that_was_left_out_is_not_in_the_run_of_layers():
    made = engine(
        a={"bottleneck": {"leave_out": [1]}}, b={"bottleneck": {"leave_out": [0], "places": ["attention", "ffn"]}}
    )
    made.activate("a")
    assert sites(made.explain()) == ["layer.0.ffn", "layer.2.ffn"]
    made.activate("b")
    assert sites(made.explain()) == ["layer.1-2.attention", "layer.1-2.ffn"]
    made.activate("a + b")
    assert sites(made.explain()) == ["layer.0.ffn", "layer.1-2.attention", "layer.1.ffn", "layer.2.ffn"]


def test_the_decoder_of_a_mean_is_said_to_have_no_inverse_and_has_none():
    made = engine(a="madx", b="madx", c="pfeiffer")
    ids, mask = tiny.inputs()
    for composition in ("average(a, b)", "average(a, c)", "average(a, b) + c"):
        made.activate(composition)
        assert made.explain().decoder == "none: a mean of invertible components has no inverse"
        with pytest.raises(CompositionError, match="no inverse in closed form"):
            made.mlm_logits(made(ids, mask))
    made.activate("a + b")
    assert made.explain().decoder == "after undoing b, then a"
    made.activate("c")
    assert made.explain().decoder == "the base's own"


@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
def test_measuring_changes_nothing(family):
    made = engine(family, a="madx", b="pfeiffer")
    ids, mask = tiny.inputs()
    made.activate("a + b")
    made.train_only("b")
    before, plan = made(ids, mask), made.plan
    explanation = made.explain(ids, mask)
    assert made.plan is plan and made.module("b").training and not made.module("a").training
    assert (made(ids, mask) == before).all()
    assert explanation.measured and all(action.calls == 1 and action.change > 0 for action in explanation.actions)
    assert all(p.grad is None for p in made.module("b").parameters())


def test_measured_changes_are_shares_of_what_was_changed():
    made = engine(a={"bottleneck": {}})
    ids, mask = tiny.inputs()
    made.activate("a")
    (first, *_), seen = made.explain(ids, mask).actions, []
    unit = made.module("a").units["layer.0.ffn"]["bottleneck"]
    hook = unit.register_forward_hook(lambda _unit, at, change: seen.append((change.norm() / at[0].sum.norm()).item()))
    made(ids, mask)
    hook.remove()
    assert first.site == "layer.0.ffn" and first.change == pytest.approx(seen[0], rel=1e-5)


def test_a_module_of_weight_zero_is_left_out_and_not_said_to_act():
    made = engine(a="pfeiffer", b="pfeiffer")
    made.activate("average(1.0*a, 0.0*b)")
    assert str(made.composition) == "a" and {action.module for action in made.explain().actions} == {"a"}


def explanation(*sites, **changes):
    actions = [Action(site, "a", "bottleneck", "2->1->2", 0.1, 1) for site in sites]
    return Explanation("a + b", "tiny", actions, "the base's own", "none", **changes)


@pytest.mark.parametrize(
    "sites, shown",
    [
        (["layer.0.ffn", "layer.1.ffn", "layer.3.ffn"], ["layer.0-1.ffn", "layer.3.ffn"]),
        (["layer.0.ffn.up", "layer.0.ffn", "layer.1.ffn.up"], ["layer.0-1.ffn.up", "layer.0.ffn"]),
        (["layer.0", "layer.1", "encoder"], ["layer.0-1", "encoder"]),
        (["weights", "embeddings", "slots"], ["weights", "embeddings", "slots"]),
    ],
)
def test_neighbouring_layers_of_one_place_are_joined(sites, shown):
    assert [site for site, _ in explanation(*sites).by_site()] == shown


def test_explanations_are_read_from_json_in_this_version_and_from_0_1_0():
    stack = explanation("layer.0.ffn", inactive=["b"], measured=True)
    route = RouteExplanation("route(a, b)", "tiny", [stack, explanation("weights")], ["a"], [[0], [1]], ["b"])
    for made in (stack, route):
        text = json.dumps(made.as_dict())
        old = text.replace('"inactive"', '"silent"').replace('"component"', '"part"')
        assert old != text
        for plain in (text, old):
            assert type(made).from_dict(json.loads(plain)) == made
    assert "INACTIVE: b does not act (measured" in str(stack) and "separate forward passes: 0; 1" in str(route)
    assert "INACTIVE: b, c do not act" in str(explanation(inactive=["b", "c"]))
