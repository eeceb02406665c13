"""The contract of module types, over the whole registry and all presets; tests/module_types has the formulas."""

from inspect import isabstract
from pathlib import Path

import pytest
import torch
from by_hand import POSITIONS, SITE, SITES, call, given, parameters, run, units

import madx.module_types
from madx.contract.module_type import (
    CLASSES,
    ChangeType,
    ComponentConfig,
    MapType,
    SlotsType,
    WeightsType,
    class_of,
)
from madx.contract.views import Sublayer, View
from madx.errors import ConfigError, MadxError
from madx.module import presets
from madx.module.presets import PRESETS, make_components, preset
from madx.module_types import MODULE_TYPES

#: settings whose scope or reading differs from that of all presets
MORE = {
    "gate": {"bottleneck": {"gate": True}},
    "stochastic_depth": {"bottleneck": {"stochastic_depth": 0.5}},
    "phm_full": {"compacter": {"rank": "full", "shared_rule": False}},
    "phm_without_matrix": {"compacter": {"dimension": 2}},
    "layer_norm_inside": {"bottleneck": {"norm_inside": "layer", "reduction_factor": 3.0}},
    "batch_norm_inside": {"bottleneck": {"norm_inside": "batch", "reduction_factor": 3.0}},
    "deeper": {"bottleneck": {"inner_layers": 2, "reduction_factor": 3.0, "activation": "tanh"}},
    "multiplied": {"bottleneck": {"interaction": "multiply", "reads": "input", "init": "zero_up"}},
    "no_final_norm": {"bottleneck": {"final_norm": False}},
    "norm_after_residual": {"bottleneck": {"norm_after": True, "norm_after_residual": True, "residual": "sum"}},
    "read_residual": {"bottleneck": {"residual": "read"}},
    "gate_of_lora": {"lora": {"gate": True}},
    "gates_of_prefix": {"prefix": {"gate": "each", "flat": True}},
    "glow": {"invertible": {"kind": "glow"}},
    "krona_factor": {"krona": {"factor": [4, 2], "maps": ["query", "up", "down"]}},
    "reft_first_and_last": {"reft": {"rank": 2, "first": 1, "last": 2, "activation": "tanh"}},
    "reft_tied": {"reft": {"rank": 2, "first": 2, "last": 1, "tied": True, "orthogonal": False}},
    "adamix_parallel": {"adamix": {"reads": "input", "experts": 2, "places": ["attention", "ffn"]}},
    "fusion_everywhere": {"fusion": {"places": ["attention", "up", "layer"], "reads": "output", "temperature": 2.0}},
    "fusion_key": {"fusion": {"query": False, "value": False, "reads": "input"}},
    "dora_adapterhub": {"lora": {"dora": True, "dora_form": "adapterhub", "alpha": 16.0}},
}
CASES = {f"type:{name}": {name: {}} for name in MODULE_TYPES} | {n: parts for n, (parts, _) in PRESETS.items()} | MORE
CASES = {name: parts for name, parts in CASES.items() if parts}
SMALL = {
    "compacter": {"reduction_factor": 3.0},
    "prefix": {"bottleneck": 6, "length": 3},
    "prompt": {"length": 3},
    "lora": {"rank": 3},
    "said": {"dimension": 20},
    "pal": {"size": 6, "heads": 2},
    "ladder": {"reduction_factor": 3.0, "heads": 2},
}
every_case = pytest.mark.parametrize("parts", CASES.values(), ids=list(CASES))


def small(parts):
    """The same settings with sizes that suit a width of 12."""
    return {name: settings | SMALL.get(name, {}) for name, settings in parts.items()}


def all_units(parts, **how):
    """The units of all components, the first and the last of each."""
    found = []
    for name, settings in small(parts).items():
        made = units(name, settings, **how)
        found += [made[0], made[-1]] if len(made) > 1 else made
    return found


# ---- the registry ----------------------------------------------------------------------------------------------------


def test_the_registry_is_the_folder():
    files = {p.stem for p in Path(madx.module_types.__file__).parent.glob("*.py")} - {"__init__"}
    assert {cls.__module__.rpartition(".")[2] for cls in map(MODULE_TYPES.get, MODULE_TYPES)} == files
    assert all(not f.startswith("_") for f in files), "a file of this folder that is never discovered"


@pytest.mark.parametrize("name", MODULE_TYPES.names())
def test_a_type_is_registered_whole(name):
    kind = MODULE_TYPES.get(name)
    assert issubclass(kind.Config, ComponentConfig) and kind.Config is not ComponentConfig
    (parent,) = kind.__bases__  # one of the five classes, or a frame of the contract that is never registered itself
    assert class_of(kind) in CLASSES and parent.__module__.startswith("madx.contract.") and isabstract(parent), (
        "a module type is never sub-classed further"
    )
    module = __import__(kind.__module__, fromlist=["x"])
    assert "arXiv" in module.__doc__ and kind.__doc__ and kind.Config.__doc__
    assert all(field.description for field in kind.Config.model_fields.values())


def test_a_type_offers_presets_beside_it(monkeypatch):
    assert PRESETS["lora"][0] == {"lora": {}} and PRESETS["lt_sft"][0] == {"sparse_diff": {"entries": "language"}}
    assert set(PRESETS["mam"][0]) == {"prefix", "bottleneck"} and PRESETS["head_only"][0] == {}
    assert {kind for parts, _ in PRESETS.values() for kind in parts} == set(MODULE_TYPES), "a type without a preset"
    monkeypatch.setitem(presets.SEVERAL, "lora", ({}, "taken"))
    with pytest.raises(ConfigError, match="'lora'.*module_types.lora.*rename"):
        presets._gathered()


# ---- settings --------------------------------------------------------------------------------------------------------


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
    with pytest.raises(MadxError, match="did you mean 'bottleneck'"):
        make_components({"bottelneck": {}})
    with pytest.raises(ConfigError, match="did you mean 'madx'"):
        preset("madxx")


def test_faults_of_all_components_are_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)lora\.rank: .*1, got 0.*ia3\.maps\.0: .*'up'.*\"keys\"") as error:
        make_components({"lora": {"rank": 0}, "ia3": {"maps": ["keys"]}, "bottleneck": {}})
    assert "bottleneck" not in str(error.value)


@every_case
def test_settings_go_round(parts):
    for name, config in make_components(parts).items():
        assert type(config) is MODULE_TYPES.get(name).Config
        for plain in (config.model_dump(), config.model_dump(mode="json"), config):
            assert make_components({name: plain}) == {name: config}


# ---- where units act -------------------------------------------------------------------------------------------------


@every_case
def test_units_stand_only_at_sites_of_their_class(parts):
    for name, config in make_components(parts).items():
        kind = MODULE_TYPES.get(name)
        acting = [site for site in SITES if kind.acts_at(config, site)]
        assert acting, "acts nowhere"
        assert {site.kind for site in acting} <= kind.kinds
        if "leave_out" in parts[name]:
            continue
        layers = {site.layer for site in acting} - {None}
        if name != "sparse_diff" and layers:
            left_out = kind.Config(**parts[name], leave_out=(0, -1))
            assert {s.layer for s in SITES if kind.acts_at(left_out, s)} == layers - {0, 2}
            with pytest.raises(ConfigError, match=r"leave_out names layer 3.*3 layers.*0 to 2.*-3 to -1"):
                [kind.acts_at(kind.Config(**parts[name], leave_out=(3,)), site) for site in SITES]


# ---- what units give -------------------------------------------------------------------------------------------------


@every_case
def test_a_unit_gives_what_its_class_promises_and_writes_nothing(parts):
    for unit in all_units(parts):
        assert 0 < len(unit.describe()) < 80 and "\n" not in unit.describe()
        if isinstance(unit, WeightsType):
            continue
        at = given(unit.site)
        before, untouched = at.changed(torch.clone), at.view()
        view = at.view(unit.reads)
        result = call(unit, view)
        assert all(torch.equal(t, before.tensors[name]) for name, t in at.tensors.items())
        if isinstance(view, Sublayer):
            assert view.change is None and torch.equal(view.sum, untouched.sum), (
                "a unit gives its change and adds nothing"
            )
        elif isinstance(view, View):
            assert torch.equal(view.value, untouched.value), "a unit gives its change and adds nothing"
        if isinstance(unit, SlotsType):
            found = result if isinstance(result, tuple) else (result,)
            assert len(found) == (1 if unit.site.layer is None else 2)
            rows = (2,) if unit.scope == "batch" else ()  # one that reads the tokens gives each row its own
            assert all(t.shape == (*rows, unit.length, unit.site.width) and t.isfinite().all() for t in found)
        else:
            assert result.shape == (2, 5, unit.site.width) and result.isfinite().all()
        if isinstance(unit, MapType) and (back := unit.inverse(result)) is not None:
            assert torch.allclose(back, view, atol=1e-9)


@every_case
def test_a_unit_that_leaves_out_the_final_norm_keeps_h(parts):
    for unit in all_units(parts):
        if isinstance(unit, ChangeType) and not unit.final_norm:
            assert "output" in unit.reads, "the engine reads h after such a unit"


@every_case
def test_gradients_agree_with_finite_differences(parts):
    """Along one random direction of all parameters and all tensors of the base at once."""
    for unit in all_units(parts):
        if isinstance(unit, WeightsType):
            continue
        at = given(unit.site).changed(lambda t: t.clone().requires_grad_())
        moved = [*parameters(unit), *at.tensors.values()]
        generator = torch.Generator().manual_seed(1)
        steps = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in moved]
        seen = torch.randn(run(unit, at).shape, generator=generator, dtype=torch.float64)

        gradients = torch.autograd.grad((run(unit, at) * seen).sum(), moved, allow_unused=True)
        assert all(g is not None and g.abs().sum() for g, _ in zip(gradients, parameters(unit))), (
            "a parameter without use"
        )
        slope = sum((g * step).sum() for g, step in zip(gradients, steps) if g is not None)
        values = []
        with torch.no_grad():
            for h in (1e-6, -1e-6):
                for t, step in zip(moved, steps):
                    t.add_(step, alpha=h)
                values.append((run(unit, at) * seen).sum())
                for t, step in zip(moved, steps):
                    t.sub_(step, alpha=h)
        assert torch.allclose((values[0] - values[1]) / 2e-6, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in MODULE_TYPES if issubclass(MODULE_TYPES.get(n), WeightsType)])
def test_weight_deltas_and_their_gradients(name):
    (unit,) = units(name, ({"sparse_diff": {"entries": 100}} | SMALL).get(name))
    shapes = {p.name: p.shape for p in unit.site.parameters}
    found = unit.deltas()
    assert found and [d.parameter for d in found] == unit.touches() and len(set(unit.touches())) == len(found)
    for d in found:
        places, size = d.places(), torch.Size(shapes[d.parameter]).numel()
        assert places.shape == (d.values.numel(),) and d.values.count_nonzero()
        assert d.values.shape == (shapes[d.parameter] if d.indices is None else (len(places),))
        assert 0 <= int(places[0]) and int(places[-1]) < size and (places.diff() > 0).all()

    # pull is the adjoint of the derivative of deltas: <gradient, d deltas(step)> = <pull(gradient), step>
    gradients = {n: torch.randn(s, dtype=torch.float64) for n, s in shapes.items()}

    def seen():
        return sum((gradients[d.parameter].reshape(-1)[d.places()] * d.values.reshape(-1)).sum() for d in unit.deltas())

    for parameter in dict.fromkeys([*unit.touches(), "layer.0.norm.weight"]):  # of the last some types have no entry
        unit.pull(parameter, gradients[parameter])
    own = list(unit.parameters())
    steps = [torch.randn_like(p) for p in own]
    pulled = sum((p.grad * step).sum() for p, step in zip(own, steps))
    values = []
    with torch.no_grad():
        for h in (1e-6, -2e-6):
            for p, step in zip(own, steps):
                p.add_(step, alpha=h)
            values.append(seen())
    assert torch.allclose((values[0] - values[1]) / 2e-6, pulled, rtol=1e-5, atol=1e-6)
    unit.pull(unit.touches()[0], gradients[unit.touches()[0]])
    more = sum((p.grad * step).sum() for p, step in zip(own, steps))
    assert not torch.allclose(more, pulled), "gradients of several batches add up"


@pytest.mark.parametrize("name", [n for n in MODULE_TYPES if issubclass(MODULE_TYPES.get(n), WeightsType)])
def test_a_change_of_the_weights_shows_in_their_state(name):
    (unit,) = units(name, SMALL.get(name))
    before = [(t, t._version) for t in unit.state()]
    with torch.no_grad():
        next(unit.parameters()).add_(1.0)
    assert any(t is not u or v != u._version for (t, v), u in zip(before, unit.state()))


# ---- the start -------------------------------------------------------------------------------------------------------

EXACT = (
    "type:lora",
    "lora_all",
    "rslora",
    "dora",
    "dora_adapterhub",
    "gate_of_lora",
    "pissa",
    "olora",
    "ia3",
    "krona",
    "krona_b",
    "krona_b_res",
    "type:ladder",
    "parallel",
    "scaled_parallel",
    "multiplied",
    "lt_sft",
    "full",
    "said",
    "far",
)
NEAR = (
    "sparse_adapter",
    "compacter",
    "compacterpp",
    "madx",
    "madx2",
    "pfeiffer",
    "houlsby",
    "bapna",
    "type:invertible",
    "glow",
    "type:pal",
    "type:adamix",
)


@pytest.mark.parametrize("case", [*EXACT, *NEAR])
def test_a_fresh_module_changes_nothing_where_its_paper_says_so(case):
    torch.manual_seed(0)
    for unit in all_units(CASES[case], awake=False):
        if isinstance(unit, WeightsType):
            assert all(d.values.count_nonzero() == 0 for d in unit.deltas())
            continue
        at = given(unit.site)
        change = run(unit, at) - (at.tensors["value"] if isinstance(unit, MapType) else 0)
        assert change.abs().max() <= (0.05 if case in NEAR else 0.0)


# ---- the stored form -------------------------------------------------------------------------------------------------


@every_case
def test_the_stored_form_gives_the_tensors_back(parts):
    for unit in all_units(parts):
        unit.float()
        state = {name: t.clone() for name, t in unit.state_dict().items()}
        packed = unit.pack(torch.float32)
        assert unit.stored_faults(packed) == [] and all(t.dtype != torch.float64 for t in packed.values())
        back = unit.unpack(packed)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[k], t) and back[k].dtype == t.dtype for k, t in state.items())
        halved = unit.unpack(unit.pack(torch.bfloat16))
        assert all(torch.allclose(halved[k].float(), t.float(), rtol=2**-7) for k, t in state.items())
        if unit.packed:
            assert unit.stored_faults({"strange": torch.zeros(1)}), "a form of its own is checked"


# ---- what a change depends on ----------------------------------------------------------------------------------------


def noise(keep):
    """Other tensors than before wherever `keep` `(rows, tokens)` is false."""

    def change(t):
        other = torch.randn(t.shape, generator=torch.Generator().manual_seed(9), dtype=t.dtype)
        return torch.where(keep[..., None], t, other)

    return change


@every_case
def test_a_change_depends_on_what_the_scope_says(parts):
    for unit in all_units(parts):
        if isinstance(unit, WeightsType):
            continue
        if any(True for _ in unit.buffers()):
            unit.train()  # statistics of a batch act in training alone
        at = given(unit.site, rows=3, tokens=6)
        mask = torch.ones(3, 6, dtype=torch.bool)
        mask[0, 4:] = False  # row 0 has four tokens and two positions of padding
        at = at.changed(torch.clone, mask=mask)
        own = torch.zeros(3, 6, dtype=torch.bool)
        own[0, 1] = True
        row = torch.zeros(3, 6, dtype=torch.bool)
        row[0, :4] = True
        token_alone = at.changed(noise(own), mask=torch.ones(3, 6, dtype=torch.bool))
        row_alone = at.changed(noise(row))
        longer = at.changed(lambda t: torch.cat([t, torch.ones_like(t)], 1), mask=torch.cat([mask, mask & False], 1))
        single = at.changed(lambda t: t[:1, :4], mask=mask[:1, :4])
        before = run(unit, at)
        if isinstance(unit, SlotsType):
            same = [
                before.shape == other.shape and torch.equal(before, other)
                for other in (run(unit, token_alone), run(unit, single))
            ]
            assert same == [unit.scope != "batch"] * 2
            continue
        same_token = torch.allclose(before[0, 1], run(unit, token_alone)[0, 1], atol=1e-12)
        same_row = all(
            torch.allclose(before[0, :4], run(unit, other)[0, :4], atol=1e-12) for other in (row_alone, longer, single)
        )
        assert same_token or unit.scope != "token"
        assert same_row or unit.scope == "batch"
        if unit.scope == "batch":
            assert not same_row, "the scope is wider than it needs to be, which costs speed"


def test_a_map_is_applied_to_inputs_of_any_leading_shape():
    """DeBERTa calls its query and key maps once more, on relative positions `(1, 2 * span, width)`."""
    for settings in ({}, {"dora": True}):
        for unit in (*units("lora", {"rank": 3, "maps": ["query", "up"], **settings})[:2], units("ia3")[0]):
            at = given(unit.site, rows=2, tokens=4)
            whole = run(unit, at)
            assert torch.allclose(run(unit, at.changed(lambda t: t.reshape(1, 8, -1))), whole.reshape(1, 8, -1))
            assert torch.allclose(run(unit, at.changed(lambda t: t.reshape(8, -1))), whole.reshape(8, -1))


# ---- views -----------------------------------------------------------------------------------------------------------


def test_branches_of_a_sublayer_do_not_see_each_other():
    at = given(SITE["layer.0.ffn"])
    view, h = at.view(), at.tensors["output"]
    view.add(torch.ones_like(h))
    twin = view.fork()
    twin.add(torch.ones_like(h))
    assert torch.allclose(view.value, h + 1) and torch.allclose(twin.value, h + 2)
    assert torch.allclose(twin.sum - view.sum, torch.ones_like(h))
    assert twin.read("residual") is view.read("residual") and twin.read("input") is view.read("input")


# ---- sizes that make no sense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lora": {"rank": 0}}, r"lora\.rank: .*1, got 0"),
        ({"lora": {"rank": -2}}, r"lora\.rank: .*1, got -2"),
        ({"lora": {"alpha": 0.0}}, r"lora\.alpha: .*0, got 0\.0"),
        ({"lora": {"alpha": float("nan")}}, r"lora\.alpha: .*NaN"),
        ({"lora": {"maps": ["q"]}}, r"lora\.maps\.0: .*'query', 'key', 'value', 'output', 'up' or 'down', got \"q\""),
        ({"lora": {"maps": []}}, r"lora\.maps: "),
        ({"lora": {"dora_form": "adapterhub"}}, "lora: dora_form 'adapterhub' needs dora: true"),
        ({"lora": {"gate": True, "dora": True}}, "lora: gate takes the place of alpha.*dora cannot act.*leave one out"),
        ({"lora": {"gate": True, "alpha": 2.0}}, "lora: gate takes the place of alpha.*alpha 2 cannot act"),
        ({"prefix": {"gate": "both"}}, r"prefix\.gate.*'each'"),
        ({"ia3": {"maps": ["value", "gate"]}}, r"ia3\.maps\.1: .*\"gate\""),
        ({"bottleneck": {"norm_inside": "group"}}, r"bottleneck\.norm_inside: .*'none', 'layer' or 'batch'"),
        ({"bottleneck": {"inner_layers": -1}}, r"bottleneck\.inner_layers: .*0, got -1"),
        (
            {"bottleneck": {"interaction": "multiply", "residual": "sum"}},
            "multiply.*residual 'output'; got residual 'sum'",
        ),
        ({"compacter": {"rank": 0}}, r"compacter\.rank.*1, got 0"),
        ({"compacter": {"dimension": 1}}, r"compacter\.dimension: .*2, got 1"),
        ({"prefix": {"length": 0}}, r"prefix\.length: .*1, got 0"),
        ({"prefix": {"bottleneck": 0}}, r"prefix\.bottleneck: .*1, got 0"),
        ({"prompt": {"length": -1}}, r"prompt\.length: .*1, got -1"),
        ({"prompt": {"leave_out": [0, -1]}}, r"prompt\.leave_out: .*cannot leave out 0, -1.*prefix"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(parts, message):
    with pytest.raises(ConfigError, match=message):
        make_components(parts)


@pytest.mark.parametrize("length", [POSITIONS, POSITIONS + 5])
@pytest.mark.parametrize("component", ["prefix", "prompt"])
def test_slots_that_leave_no_room_for_text_are_refused(component, length):
    with pytest.raises(
        ConfigError, match=rf"{component}\.length is {length}.*{POSITIONS} positions.*below {POSITIONS}"
    ):
        units(component, {"length": length})
    assert units(component, {"length": POSITIONS - 1})[0].length == POSITIONS - 1


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(
        ConfigError, match=r"lora\.rank is 13.*layer\.0\.ffn\.up maps 12 numbers to 20.*above 12.*take up"
    ):
        units("lora", {"rank": 13, "maps": ["up"]})
    assert len(units("lora", {"rank": 12, "maps": ["up", "down"]})) == 6
