"""The bottleneck's formulas, recomputed in plain torch."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from by_hand import DEPTH, SITE, SITES, WIDTH, given, layer_norm, run, unit_at
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from madx.contract.activations import ACTIVATIONS
from madx.contract.sites import Site
from madx.contract.views import Tokens
from madx.errors import ConfigError
from madx.module.presets import make_components
from madx.module_types.bottleneck import Bottleneck, BottleneckConfig

READS, RESIDUALS = ("sum_norm", "output", "input"), ("output", "sum", "read")
FFN = SITE["layer.0.ffn"]
every_form = pytest.mark.parametrize(("reads", "residual"), list(product(READS, RESIDUALS)))


def bottleneck(**config):
    return unit_at("bottleneck", FFN.name, {"reduction_factor": 3.0, **config})


def sublayer():
    """A view, and what it is made of: h, x, the block's input and the LN."""
    at = given(FFN)
    return at.view(), *(at.tensors[name] for name in ("output", "residual", "input")), at.fixed


def by_hand(unit, z):
    """scale * (U act(D z + b_D) + b_U) from the raw weights."""
    inner = F.relu(z @ unit.down.weight.T + unit.down.bias)
    return inner @ unit.up.weight.T + unit.up.bias


@every_form
@torch.no_grad()
def test_formula_of_every_reading_and_residual(reads, residual):
    unit = bottleneck(reads=reads, residual=residual)
    view, h, x, read, norm = sublayer()
    for _ in range(2):  # the second time as a second unit of a stack, which sees h after the first
        z = {"sum_norm": norm(h + x), "output": h, "input": read}[reads]
        f = by_hand(unit, z)
        expected = {"output": f, "sum": f + x, "read": f + z - h}[residual]
        change = unit(view)
        assert torch.allclose(change, expected)
        view.add(change)
        h = h + expected


@every_form
@torch.no_grad()
def test_norms_of_its_own(reads, residual):
    view, h, x, read, norm = sublayer()
    z = {"sum_norm": norm(h + x), "output": h, "input": read}[reads]
    own = bottleneck(reads=reads, residual=residual, norm_before=True, norm_after=True)
    f = layer_norm(by_hand(own, layer_norm(z, own.norm_before)), own.norm_after)
    assert torch.allclose(own(view), {"output": f, "sum": f + x, "read": f + z - h}[residual])
    after = bottleneck(reads=reads, residual=residual, norm_after=True, norm_after_residual=True)
    f = by_hand(after, z) + {"output": h, "sum": h + x, "read": z}[residual]
    assert torch.allclose(h + after(view), layer_norm(f, after.norm_after))


@torch.no_grad()
def test_scaling():
    view, h, x, _, norm = sublayer()
    z = norm(h + x)
    assert torch.allclose(bottleneck(scaling=4.0)(view), 4 * bottleneck()(view))
    learned, channel = bottleneck(scaling="learned"), bottleneck(scaling="channel")
    assert learned.scale.shape == (1,) and channel.scale.shape == (WIDTH,)
    for unit in (learned, channel):
        assert torch.allclose(unit(view), by_hand(unit, z) * unit.scale)
    fresh = Bottleneck(BottleneckConfig(scaling="channel"), FFN)
    assert torch.equal(fresh.scale, torch.ones(WIDTH))


@torch.no_grad()
def test_the_gate_is_one_number_per_row_and_leaves_out_slots_without_a_state():
    unit, at = bottleneck(gate=True), given(FFN)
    z = at.fixed(at.tensors["output"] + at.tensors["residual"])
    gates = torch.sigmoid((z * unit.gate.weight[0]).sum(-1) + unit.gate.bias)  # (rows, tokens)
    assert torch.allclose(run(unit, at), by_hand(unit, z) * gates.mean(1)[:, None, None])
    padded = replace(at, mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    assert torch.allclose(run(unit, padded), run(unit, at)), "the mean runs over padding too"
    view = at.view()
    view.tokens = Tokens(None, slots=2, held=torch.tensor([[True, False], [False, False]]))
    counts = [[0, 2, 3, 4], [2, 3, 4]]
    wanted = torch.stack([gates[row, places].mean() for row, places in enumerate(counts)])
    assert torch.allclose(unit(view), by_hand(unit, z) * wanted[:, None, None])


@torch.no_grad()
def test_norm_and_further_layers_inside():
    view, h, x, _, norm = sublayer()
    z = norm(h + x)
    unit = bottleneck(norm_inside="layer", inner_layers=2)
    a = F.relu(layer_norm(z @ unit.down.weight.T + unit.down.bias, unit.norm_inside))
    for layer in unit.deeper:
        a = F.relu(a @ layer.weight.T + layer.bias)
    assert torch.allclose(unit(view), a @ unit.up.weight.T + unit.up.bias)


@torch.no_grad()
def test_batch_norm_inside_is_that_of_the_tokens_without_padding():
    unit, at = bottleneck(norm_inside="batch"), given(FFN)
    at = replace(at, mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    own, tokens = unit.norm_inside, at.mask.bool()
    a = unit.down(at.fixed(at.tensors["output"] + at.tensors["residual"]))
    torchs = torch.nn.BatchNorm1d(a.shape[-1], dtype=a.dtype)
    torchs.load_state_dict({"weight": own.weight, "bias": own.bias}, strict=False)
    wanted = F.relu(torchs(a[tokens])) @ unit.up.weight.T + unit.up.bias
    assert torch.allclose(run(unit.train(), at)[tokens], wanted)
    assert torch.allclose(own.mean, torchs.running_mean) and (own.variance != 1).all()
    torchs.eval().running_var.copy_(own.variance)
    wanted = F.relu(torchs(a[tokens])) @ unit.up.weight.T + unit.up.bias
    assert torch.allclose(run(unit.eval(), at)[tokens], wanted), "outside training the running means act"
    assert {"norm_inside.mean", "norm_inside.variance"} < set(unit.state_dict()), "they are stored"


@torch.no_grad()
def test_a_product_scales_the_output_of_the_sublayer():
    view, h, _, read, _ = sublayer()
    unit = bottleneck(interaction="multiply", reads="input", scaling=2.0)
    assert torch.allclose(h + unit(view), h * (1 + 2 * by_hand(unit, read)))


REFERENCE = {
    "relu": lambda x: x.clamp_min(0),
    "relu_squared": lambda x: x.clamp_min(0) ** 2,
    "identity": lambda x: x,
    "silu": lambda x: x * x.sigmoid(),
    "swish": lambda x: x * x.sigmoid(),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "relu6": lambda x: x.clamp(0, 6),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "tanh": lambda x: 2 * (2 * x).sigmoid() - 1,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "softplus": lambda x: (1 + x.exp()).log(),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "mish": lambda x: x * torch.tanh((1 + x.exp()).log()),
    "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "selu": lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1)),
}


def test_activations():
    x = torch.linspace(-3, 3, 31)
    assert REFERENCE.keys() == ACTIVATIONS.keys()
    for name, reference in REFERENCE.items():
        assert torch.allclose(ACTIVATIONS[name](x), reference(x), atol=1e-6), name
        assert bottleneck(activation=name).act is ACTIVATIONS[name]


def test_dropout_acts_in_training_only():
    view, *_ = sublayer()
    unit = bottleneck(dropout=0.5)
    plain = bottleneck()(view)
    assert torch.equal(unit(view), plain)
    torch.manual_seed(0)
    dropped = unit.train()(view)
    zero = dropped == 0
    assert 0.3 < zero.float().mean() < 0.7
    assert torch.allclose(dropped[~zero], 2 * plain[~zero])


@torch.no_grad()
def test_stochastic_depth_skips_whole_sentences_and_keeps_the_mean():
    rows, share = 4000, 0.25
    at = given(FFN, rows=1, tokens=2)
    at = at.changed(lambda t: t.expand(rows, 2, WIDTH))
    unit = bottleneck(stochastic_depth=share)
    plain = run(unit, at)
    torch.manual_seed(0)
    change = run(unit.train(), at)
    skipped = (change == 0).flatten(1).all(1)
    assert torch.allclose(change[~skipped], plain[~skipped] / (1 - share))
    assert abs(skipped.float().mean() - share) < 4 * (share * (1 - share) / rows) ** 0.5
    assert torch.allclose(change.mean(0), plain[0], rtol=0.05, atol=1e-3)
    assert unit.scope == "row", "all tokens of a row are skipped together, so the unit has to see whole rows"


@torch.no_grad()
def test_a_skipped_row_keeps_its_residual():
    unit = bottleneck(stochastic_depth=0.999999, residual="read", reads="input").train()
    view, h, _, read, _ = sublayer()
    assert torch.allclose(unit(view), read - h), "f alone is skipped"


def test_reduction_by_layer():
    config = BottleneckConfig(reduction_factor={"0": 2.0, "2": 0.5, "default": 100.0})
    inner = [Bottleneck(config, s).down.out_features for s in SITES if s.kind == "sublayer" and s.place == "ffn"]
    assert inner == [6, 1, 24]  # floor(12 / 2), at least 1, and 0.5 widens
    with pytest.raises(ConfigError, match="no value for layer 1; given: 0, 2. Add the layer or the key 'default'"):
        Bottleneck(BottleneckConfig(reduction_factor={"0": 2.0, "2": 4.0}), SITE["layer.1.ffn"])
    for wrong in (0.0, -2.0, float("nan"), {"0": 0.0}, {"first": 2.0}, "16"):
        with pytest.raises(ConfigError, match="reduction_factor"):
            make_components({"bottleneck": {"reduction_factor": wrong}})


def test_leave_out_counts_from_the_end_too():
    config = BottleneckConfig(leave_out=(-1, 0), places=("attention", "ffn"))
    assert [s.name for s in SITES if Bottleneck.acts_at(config, s)] == ["layer.1.attention", "layer.1.ffn"]
    assert [config.layers(n) for n in (2, 4)] == [set(), {1, 2}]


def test_a_norm_that_would_not_be_there_is_refused():
    with pytest.raises(ConfigError, match="norm_after_residual needs norm_after"):
        make_components({"bottleneck": {"norm_after_residual": True}})


def test_initial_weights():
    torch.manual_seed(0)
    wide = Site("layer.0.ffn", "sublayer", 256, 1, 0, "ffn")
    normal, cut, zero = (
        Bottleneck(BottleneckConfig(init=i, reduction_factor=2.0), wide) for i in ("normal", "truncated", "zero_up")
    )
    assert abs(normal.down.weight.std() - 0.02) < 1e-3 and normal.down.weight.abs().max() > 0.05
    assert abs(normal.up.weight.std() - 0.02) < 1e-3
    assert 0.008 < cut.down.weight.std() < 0.01 and cut.down.weight.abs().max() <= 0.02
    assert zero.up.weight.count_nonzero() == 0 and zero.down.weight.abs().max() <= 1 / 16  # Kaiming: sqrt(1 / fan in)
    assert abs(zero.down.weight.std() - 1 / 16 / 3**0.5) < 2e-3
    assert all(u.down.bias.count_nonzero() == 0 and u.up.bias.count_nonzero() == 0 for u in (normal, cut, zero))


@drawn(
    st.fixed_dictionaries(
        {},
        optional={
            "places": st.lists(st.sampled_from(["attention", "ffn"]), min_size=1, max_size=2, unique=True),
            "reduction_factor": st.one_of(st.floats(0.5, 64), st.just({"1": 2.0, "default": 8.0})),
            "reads": st.sampled_from(READS),
            "residual": st.sampled_from(RESIDUALS),
            "activation": st.sampled_from(list(ACTIVATIONS)),
            "norm_before": st.booleans(),
            "gate": st.booleans(),
            "norm_after": st.booleans(),
            "final_norm": st.booleans(),
            "scaling": st.sampled_from([1.0, 0.5, "learned", "channel"]),
            "dropout": st.floats(0, 0.9),
            "init": st.sampled_from(["normal", "truncated", "zero_up"]),
            "leave_out": st.lists(st.integers(-3, 2), max_size=2),
        },
    )
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_any_settings_go_round_and_run(values):
    config = make_components({"bottleneck": values})["bottleneck"]
    assert make_components({"bottleneck": config.model_dump()})["bottleneck"] == config
    sites = [s for s in SITES if Bottleneck.acts_at(config, s)]
    assert {s.layer for s in sites} == set(range(DEPTH)) - {i % DEPTH for i in values.get("leave_out", [])}
    assert {s.place for s in sites} <= set(config.places)
    for site in sites[:1]:
        unit = Bottleneck(config, site).double()
        result = run(unit, given(site))
        assert result.isfinite().all() and result.shape == (2, 5, WIDTH)
        assert unit.final_norm == config.final_norm
