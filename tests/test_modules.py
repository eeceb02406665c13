"""The contract of module types, over the whole registry, and their formulas recomputed in plain torch."""

from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import madx.module_types
from madx.contract.module_type import BaseParameter, ComponentConfig, ModuleType, Site, Sublayer
from madx.errors import ConfigError, MadxError
from madx.module.presets import PRESETS, make_components, preset
from madx.module_types import MODULE_TYPES
from madx.module_types.bottleneck import ACTIVATIONS, Bottleneck, BottleneckConfig
from madx.module_types.invertible import Invertible, InvertibleConfig

WIDTH, DEPTH = 12, 3
SITES = [Site("embeddings", "embeddings", WIDTH, DEPTH)] + [
    Site(f"layer.{i}.{place}", "sublayer", WIDTH, DEPTH, i, place)
    for i in range(DEPTH)
    for place in ("attention", "ffn")
]
FFN = SITES[2]
PARAMETERS = tuple(
    BaseParameter(f"layer.{i}.{name}", shape, "layers", i, kind)
    for i in range(DEPTH)
    for name, shape, kind in (
        ("dense.bias", (40,), "bias"),
        ("dense.weight", (40, WIDTH), "weight"),
        ("norm.weight", (WIDTH,), "norm"),
    )
)
SITES.append(Site("weights", "weights", WIDTH, DEPTH, parameters=PARAMETERS))
READS, RESIDUALS = ("sum_norm", "output", "input"), ("output", "sum", "read")
CASES = [(f"type:{name}", {name: {}}) for name in MODULE_TYPES.names()] + [
    (name, parts) for name, (parts, _) in PRESETS.items() if parts
]


def wake(unit, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(unit.named_parameters()):
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
    return unit


def sublayer(seed=0, dtype=torch.float32):
    """(what a module sees, h, x, input, LN) at a post-norm sublayer with its own random LN."""
    torch.manual_seed(seed)
    h, x, read = torch.randn(3, 2, 5, WIDTH, dtype=dtype)
    norm = torch.nn.LayerNorm(WIDTH, dtype=dtype)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    norm.requires_grad_(False)
    return Sublayer(h + x, norm, {"output": h, "residual": x, "input": read}), h, x, read, norm


def bottleneck(seed=0, **config):
    return wake(Bottleneck(BottleneckConfig(reduction_factor=3.0, **config), FFN), seed).eval()


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_the_registry_is_the_folder():
    files = {p.stem for p in Path(madx.module_types.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert {cls.__module__.rpartition(".")[2] for cls in map(MODULE_TYPES.get, MODULE_TYPES.names())} == files
    assert all(not f.startswith("_") for f in files), "a file of this folder that is never discovered"


@pytest.mark.parametrize("name", MODULE_TYPES.names())
def test_a_type_is_registered_whole(name):
    kind = MODULE_TYPES.get(name)
    assert (
        issubclass(kind, ModuleType) and issubclass(kind.Config, ComponentConfig) and kind.Config is not ComponentConfig
    )
    module = __import__(kind.__module__, fromlist=["x"])
    assert "arXiv" in module.__doc__ and kind.__doc__ and kind.Config.__doc__
    assert all(field.description for field in kind.Config.model_fields.values())


@pytest.mark.parametrize(("name", "settings_of"), CASES, ids=[c[0] for c in CASES])
def test_every_type_and_preset_keeps_the_contract(name, settings_of):
    for part, config in make_components(settings_of).items():
        kind = MODULE_TYPES.get(part)
        again = make_components({part: config.model_dump()})[part]
        assert again == config and type(again) is kind.Config
        assert make_components({part: config.model_dump(mode="json")})[part] == config
        sites = [s for s in SITES if kind.acts_at(config, s)]
        assert sites, "acts nowhere"
        for site in sites:
            unit = wake(kind(config, site))
            assert 0 < len(unit.describe()) < 80 and "\n" not in unit.describe()
            assert (site.kind == "weights") == (kind.family == "weights")
            if kind.family == "weights":
                keeps_the_contract_of_weights(unit, site)
                continue
            if site.kind == "embeddings":
                at = torch.randn(2, 5, WIDTH)
                result = unit(at)
                assert torch.allclose(unit.inverse(result), at, atol=1e-4)
            else:
                at, *_ = sublayer()
                before = at.sum.clone()
                result = unit(at)
                assert torch.equal(at.sum, before) and at.change is None, (
                    "a module gives its change; the engine adds it"
                )
            assert result.shape == (2, 5, WIDTH) and result.isfinite().all()
            result.square().sum().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in unit.parameters())
            assert sum(bool(p.grad.abs().sum()) for p in unit.parameters()) == len(list(unit.parameters()))


def keeps_the_contract_of_weights(unit, site):
    shapes = {p.name: p.numel for p in site.parameters}
    found = unit.deltas()
    assert found and len({d.parameter for d in found}) == len(found)
    for d in found:
        places = d.places()
        assert (
            places.shape == d.values.shape == (len(places),) and not d.values.requires_grad and d.values.count_nonzero()
        )
        assert 0 <= int(places[0]) and int(places[-1]) < shapes[d.parameter] and (places.diff() > 0).all()
    before = [(t, t._version) for t in unit.state()]
    with torch.no_grad():
        next(unit.parameters()).add_(1.0)
    assert any(t is not u or v != u._version for (t, v), u in zip(before, unit.state())), (
        "a change must show in state()"
    )
    state = {k: v.clone() for k, v in unit.state_dict().items()}
    back = unit.unpack(unit.pack(torch.float32))
    assert back.keys() == state.keys() and all(
        torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in state.items()
    )


@pytest.mark.parametrize("name", MODULE_TYPES.names())
def test_reads_only_what_it_says(name):
    """A tensor that is not in `reads` is not captured by the engine, so a module may not touch it."""
    kind = MODULE_TYPES.get(name)
    config = kind.Config()
    site = next(s for s in SITES if kind.acts_at(config, s))
    if site.kind != "sublayer":
        assert kind(config, site).reads == frozenset()
        return
    unit = kind(config, site)
    at, *_ = sublayer()
    at._captured = {k: v for k, v in at._captured.items() if k in unit.reads}
    assert unit(at).shape == (2, 5, WIDTH)


@pytest.mark.parametrize("name", MODULE_TYPES.names())
def test_unknown_and_ill_typed_settings_are_refused(name):
    with pytest.raises(ConfigError, match=rf"{name}\.no_such_key.*Allowed: .*leave_out"):
        make_components({name: {"no_such_key": 1}})
    if "activation" in MODULE_TYPES.get(name).Config.model_fields:
        with pytest.raises(ConfigError, match=rf"(?s){name}\.activation: .*did you mean 'relu'.*{name}\.no_such_key"):
            make_components({name: {"no_such_key": 1, "activation": "rellu"}})
    with pytest.raises(ConfigError, match="leave_out"):
        make_components({name: {"leave_out": ["last"]}})


def test_unknown_type_and_preset_are_refused():
    with pytest.raises((MadxError, KeyError)):
        make_components({"bottelneck": {}})
    with pytest.raises(ConfigError, match="did you mean 'madx'"):
        preset("madxx")


@given(
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
def test_any_bottleneck_settings_go_round_and_run(values):
    config = make_components({"bottleneck": values})["bottleneck"]
    assert make_components({"bottleneck": config.model_dump()})["bottleneck"] == config
    left_out = {i % DEPTH for i in values.get("leave_out", [])}
    sites = [s for s in SITES if Bottleneck.acts_at(config, s)]
    assert {s.layer for s in sites} == set(range(DEPTH)) - left_out
    assert {s.place for s in sites} <= set(config.places)
    for site in sites[:1]:
        unit = Bottleneck(config, site)
        at, *_ = sublayer()
        at._captured = {k: v for k, v in at._captured.items() if k in unit.reads}
        result = unit(at)
        assert result.isfinite().all() and result.shape == (2, 5, WIDTH)
        assert at.final_norm == config.final_norm
        assert at.final_norm or at.output.shape == (2, 5, WIDTH)  # the engine reads h for such a part


# ---- the bottleneck's formulas ---------------------------------------------------------------------------------------


def by_hand(unit, z):
    """scale * (U act(D z + b_D) + b_U) from the raw weights."""
    inner = F.relu(z @ unit.down.weight.T + unit.down.bias)
    return inner @ unit.up.weight.T + unit.up.bias


@pytest.mark.parametrize(("reads", "residual"), list(product(READS, RESIDUALS)))
@torch.no_grad()
def test_formula_of_every_reading_and_residual(reads, residual):
    unit = bottleneck(reads=reads, residual=residual)
    at, h, x, read, norm = sublayer()
    z = {"sum_norm": norm(h + x), "output": h, "input": read}[reads]
    f = by_hand(unit, z)
    expected = {"output": f, "sum": f + x, "read": f + z - h}[residual]
    first = unit(at)
    assert torch.allclose(first, expected, atol=1e-5)
    at.add(first)  # a second part sees h after the first
    h = h + expected
    z = {"sum_norm": norm(h + x), "output": h, "input": read}[reads]
    f = by_hand(unit, z)
    assert torch.allclose(unit(at), {"output": f, "sum": f + x, "read": f + z - h}[residual], atol=1e-5)


@pytest.mark.parametrize(("reads", "residual"), list(product(READS, RESIDUALS)))
@torch.no_grad()
def test_norms_of_its_own(reads, residual):
    at, h, x, read, norm = sublayer()
    z = {"sum_norm": norm(h + x), "output": h, "input": read}[reads]
    own = bottleneck(reads=reads, residual=residual, norm_before=True, norm_after=True)

    def layer_norm(y, layer):
        return F.layer_norm(y, (WIDTH,), layer.weight, layer.bias)

    f = layer_norm(by_hand(own, layer_norm(z, own.norm_before)), own.norm_after)
    assert torch.allclose(own(at), {"output": f, "sum": f + x, "read": f + z - h}[residual], atol=1e-5)
    after = bottleneck(reads=reads, residual=residual, norm_after=True, norm_after_residual=True)
    f = by_hand(after, z) + {"output": h, "sum": h + x, "read": z}[residual]
    assert torch.allclose(h + after(at), layer_norm(f, after.norm_after), atol=1e-5)


@torch.no_grad()
def test_scaling_and_gate():
    at, h, x, _, norm = sublayer()
    z = norm(h + x)
    assert torch.allclose(bottleneck(scaling=4.0)(at), 4 * bottleneck()(at), atol=1e-5)
    learned, channel, gated = (
        bottleneck(**c) for c in ({"scaling": "learned"}, {"scaling": "channel"}, {"gate": True})
    )
    assert learned.scale.shape == (1,) and channel.scale.shape == (WIDTH,)
    for unit in (learned, channel):
        assert torch.allclose(unit(at), by_hand(unit, z) * unit.scale, atol=1e-5)
    gate = torch.sigmoid((z * gated.gate.weight[0]).sum(-1) + gated.gate.bias).mean(1)  # (batch,)
    assert torch.allclose(gated(at), by_hand(gated, z) * gate[:, None, None], atol=1e-5)
    fresh = Bottleneck(BottleneckConfig(scaling="channel"), FFN)
    assert torch.equal(fresh.scale, torch.ones(WIDTH))


@pytest.mark.parametrize(("name", "function"), list(ACTIVATIONS.items()))
@torch.no_grad()
def test_activations(name, function):
    x = torch.linspace(-3, 3, 31)
    reference = {
        "relu": x.clamp_min(0),
        "relu_squared": x.clamp_min(0) ** 2,
        "identity": x,
        "silu": x * x.sigmoid(),
        "swish": x * x.sigmoid(),
        "gelu": x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        "relu6": x.clamp(0, 6),
        "gelu_tanh": 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "tanh": 2 * (2 * x).sigmoid() - 1,
        "sigmoid": 1 / (1 + (-x).exp()),
        "leaky_relu": torch.where(x > 0, x, 0.01 * x),
        "softplus": (1 + x.exp()).log(),
        "elu": torch.where(x > 0, x, x.exp() - 1),
        "mish": x * torch.tanh((1 + x.exp()).log()),
        "hardswish": x * (x + 3).clamp(0, 6) / 6,
        "selu": 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1)),
    }
    assert torch.allclose(function(x), reference[name], atol=1e-6)
    assert torch.allclose(bottleneck(activation=name).act(x), reference[name], atol=1e-6)


def test_dropout_acts_in_training_only():
    at, *_ = sublayer()
    unit = bottleneck(dropout=0.5)
    plain = bottleneck()(at)
    assert torch.equal(unit(at), plain)
    torch.manual_seed(0)
    dropped = unit.train()(at)
    zero = dropped == 0
    assert 0.3 < zero.float().mean() < 0.7
    assert torch.allclose(dropped[~zero], 2 * plain[~zero], atol=1e-5)


@torch.no_grad()
def test_stochastic_depth_skips_whole_sentences_and_keeps_the_mean():
    rows, share = 4000, 0.25
    h, x = torch.randn(2, 1, 2, WIDTH)
    h, x = h.expand(rows, 2, WIDTH), x.expand(rows, 2, WIDTH)
    unit = bottleneck(stochastic_depth=share)
    at = Sublayer(h + x, lambda s: s, {"output": h, "residual": x})
    plain = unit(at)
    torch.manual_seed(0)
    change = unit.train()(at)
    skipped = (change == 0).flatten(1).all(1)
    assert torch.allclose(change[~skipped], plain[~skipped] / (1 - share), atol=1e-5)
    assert abs(skipped.float().mean() - share) < 4 * (share * (1 - share) / rows) ** 0.5
    assert torch.allclose(change.mean(0), plain[0], rtol=0.05, atol=1e-3)


def test_reduction_by_layer():
    config = BottleneckConfig(reduction_factor={"0": 2.0, "2": 0.5, "default": 100.0})
    inner = [Bottleneck(config, s).down.out_features for s in SITES if s.place == "ffn"]
    assert inner == [6, 1, 24]  # floor(12 / 2), at least 1, and 0.5 widens
    with pytest.raises(ConfigError, match="no value for layer 1; given: 0, 2. Add the layer or the key 'default'"):
        Bottleneck(BottleneckConfig(reduction_factor={"0": 2.0, "2": 4.0}), SITES[4])
    for wrong in (0.0, -2.0, float("nan"), {"0": 0.0}, {"first": 2.0}, "16"):
        with pytest.raises(ConfigError, match="reduction_factor"):
            make_components({"bottleneck": {"reduction_factor": wrong}})


def test_leave_out_counts_from_the_end_too():
    config = BottleneckConfig(leave_out=(-1, 0), places=("attention", "ffn"))
    assert [s.name for s in SITES if Bottleneck.acts_at(config, s)] == ["layer.1.attention", "layer.1.ffn"]
    assert [config.layers(n) for n in (2, 4)] == [set(), {1, 2}]


@pytest.mark.parametrize("layer", [3, -4, 12])
def test_leaving_out_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(ConfigError, match=rf"leave_out names layer {layer}.*3 layers.*0 to 2.*-3 to -1"):
        Bottleneck.acts_at(BottleneckConfig(leave_out=(layer,)), FFN)


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
    assert torch.equal(zero.branch(torch.randn(1, 2, 256)), torch.zeros(1, 2, 256))


# ---- the sublayer ----------------------------------------------------------------------------------------------------


def test_branches_of_a_sublayer_do_not_see_each_other():
    at, h, *_ = sublayer()
    at.add(torch.ones_like(h))
    twin = at.fork()
    twin.add(torch.ones_like(h))
    twin.final_norm = False
    assert torch.allclose(at.output, h + 1) and torch.allclose(twin.output, h + 2) and at.final_norm
    assert (
        torch.allclose(twin.sum - at.sum, torch.ones_like(h))
        and twin.residual is at.residual
        and twin.input is at.input
    )


# ---- the invertible component ----------------------------------------------------------------------------------------


@given(
    st.sampled_from(["nice", "glow"]),
    st.integers(2, 17),
    st.integers(0, 10_000),
    st.floats(0.01, 0.3),
    st.sampled_from([(torch.float32, 1e-4), (torch.float64, 1e-10)]),
    st.sampled_from(["relu", "gelu", "tanh"]),
)
@settings(derandomize=True, max_examples=80, deadline=None)
def test_the_inverse_undoes_it(kind, width, seed, std, precision, activation):
    """Weights are up to 15 times their initial size; far beyond, exp(a) up to 6.6 eats the digits of float32."""
    dtype, tolerance = precision
    torch.manual_seed(seed)
    unit = Invertible(
        InvertibleConfig(kind=kind, activation=activation), Site("embeddings", "embeddings", width, 1)
    ).to(dtype)
    with torch.no_grad():
        for p in unit.parameters():
            p.normal_(std=std)
        x = torch.randn(3, width, dtype=dtype)
        y = unit(x)
        assert torch.allclose(unit.inverse(y), x, atol=tolerance, rtol=tolerance)
        assert torch.allclose(unit(unit.inverse(x)), x, atol=tolerance, rtol=tolerance)
        assert not torch.allclose(y, x, atol=1e-7)


@pytest.mark.parametrize("kind", ["nice", "glow"])
@torch.no_grad()
def test_formula_of_the_invertible_part(kind):
    unit = wake(Invertible(InvertibleConfig(kind=kind, reduction_factor=3.0), SITES[0]))
    assert unit.F.down.out_features == 2  # half the width, 6, by 3
    x1, x2 = torch.randn(2, 4, 6)

    def net(coupling, z):
        return F.relu(z @ coupling.down.weight.T + coupling.down.bias) @ coupling.up.weight.T + coupling.up.bias

    def scale(coupling, z):
        return torch.exp(1.2 * torch.atan(net(coupling, z))) if kind == "glow" else 1.0

    glow = kind == "glow"
    y1 = x1 * scale(glow and unit.scale_F, x2) + net(unit.F, x2)
    y2 = x2 * scale(glow and unit.scale_G, y1) + net(unit.G, y1)
    assert torch.allclose(unit(torch.cat([x1, x2], -1)), torch.cat([y1, y2], -1), atol=1e-5)


def test_a_fresh_invertible_part_is_nearly_the_identity_and_its_scale_cannot_overflow():
    x = torch.randn(4, WIDTH)
    for kind in ("nice", "glow"):
        fresh = Invertible(InvertibleConfig(kind=kind), SITES[0])
        assert (fresh(x) - x).abs().max() < 0.05
    wild = wake(Invertible(InvertibleConfig(kind="glow"), SITES[0]))
    with torch.no_grad():
        for p in wild.scale_F.parameters():
            p.fill_(1e6)
        assert wild(x).isfinite().all() and wild.inverse(x).isfinite().all()
