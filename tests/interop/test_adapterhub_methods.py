"""LoRA, DoRA, (IA)^3, prefixes, prompts and unions in AdapterHub folders: configs, keys and values, both ways."""

import json

import pytest
import tiny
import torch
from adapterhub_tools import BIN, edit, edit_tensors, load, module

from madx.engine import Engine
from madx.errors import ConfigError, StoreError
from madx.interop import export_adapterhub, export_adapterhub_setup
from madx.interop.adapterhub.config import read_config, write_config
from madx.interop.adapterhub.layouts import LAYOUTS

ALL_MAPS = ["query", "key", "value", "up", "down"]
COMPONENTS = {
    "lora": {"lora": {"rank": 4, "alpha": 2.0}},
    "lora of all maps": {"lora": {"maps": ALL_MAPS, "rank": 2, "leave_out": [1], "init": "normal", "dropout": 0.1}},
    "dora": {"lora": {"rank": 4, "dora": True, "dora_form": "adapterhub"}},
    "ia3": {"ia3": {}},
    "ia3 of all maps": {"ia3": {"maps": ALL_MAPS, "leave_out": [0, 2]}},
    "prefix": {"prefix": {"length": 3, "bottleneck": 8}},
    "prefix of two layers": {"prefix": {"length": 3, "bottleneck": 8, "leave_out": [1], "activation": "relu"}},
    "flat prefix": {"prefix": {"length": 3, "flat": True}},
    "flat prefix of two layers": {"prefix": {"length": 3, "flat": True, "leave_out": [0], "dropout": 0.1}},
    "prompt": {"prompt": {"length": 4}},
    "compacter": {"compacter": {"reduction_factor": 4.0}},
    "compacter of its own rules": {
        "compacter": {
            "reduction_factor": {"1": 8.0, "default": 4.0},
            "places": ["ffn"],
            "shared_rule": False,
            "rank": "full",
            "norm_before": True,
            "gate": True,
        },
        "invertible": {"activation": "gelu"},
    },
    "gated lora": {"lora": {"rank": 4, "gate": True, "maps": ALL_MAPS}},
    "flat prefix with two gates": {"prefix": {"length": 3, "flat": True, "leave_out": [0], "gate": "each"}},
    "unipelt": {
        "prefix": {"length": 3, "bottleneck": 8, "gate": True},
        "bottleneck": {"gate": True},
        "lora": {"rank": 4, "gate": True},
    },
    "loreft": {"reft": {"rank": 3, "dropout": 0.0}},
    "loreft of first and last": {"reft": {"rank": 2, "first": 2, "last": 1, "leave_out": [1], "activation": "relu"}},
    "loreft of last": {"reft": {"first": 0, "last": 2}},
    "tied noreft": {"reft": {"last": 2, "tied": True, "orthogonal": False}},
    "tied loreft of last": {"reft": {"first": 0, "last": 2, "tied": True}},
    "mix and match": {
        "prefix": {"length": 3, "bottleneck": 8},
        "bottleneck": {"reads": "input", "reduction_factor": 2.0, "scaling": 4.0, "init": "zero_up"},
    },
    "five at once": {"bottleneck": {}, "invertible": {}, "lora": {"rank": 2}, "prompt": {"length": 2}},
}


def exported(base, components, path):
    made = module(base, components)
    with torch.no_grad():
        for unit in (unit for units in made.units.values() for unit in units.values()):
            unit.settle()  # as training does: an orthonormal matrix is stored as such
    return made, export_adapterhub(made, path, base=base)


def outputs(base, *modules):
    """Hidden states with each of the modules."""
    engine, ids, found = Engine(base), tiny.inputs(), []
    for made in modules:
        engine.attach(made)
        with torch.no_grad(), engine.using(made.name):
            found.append(engine(*ids))
    with torch.no_grad():
        found.append(engine(*ids))
    engine.close()
    return found


@pytest.mark.parametrize("components", COMPONENTS.values(), ids=COMPONENTS)
def test_every_setting_and_value_comes_back(base, tmp_path, components):
    made, folder = exported(base, components, tmp_path / "m")
    again, report = load(folder, base)
    assert again.info.components == made.info.components
    assert {ours for _, ours in report.mapped} == set(made.tensors())
    for name, tensor in made.tensors().items():  # rounded: norms of magnitudes, bases of orthonormal rows
        assert torch.allclose(again.tensors()[name], tensor, rtol=1e-6, atol=1e-6), name
    ours, theirs, bare = outputs(base, made, again)
    assert torch.allclose(ours, theirs, atol=1e-5) and (ours - bare).abs().max() > 0.01


@pytest.mark.parametrize("family", sorted(LAYOUTS))
def test_every_family_has_its_own_keys(family, tmp_path):
    base, made = tiny.base(family), {}
    for name in ("lora of all maps", "ia3 of all maps", "flat prefix", "prompt"):
        if (family, name) == ("deberta-v2", "flat prefix"):
            with pytest.raises(ConfigError, match="no relative positions.*Take a base of another type, or a prompt"):
                exported(base, COMPONENTS[name], tmp_path / name)
            continue
        made[name], folder = exported(base, COMPONENTS[name], tmp_path / name)
        assert load(folder, base)[0].info.components == made[name].info.components
    keys = {name: set(torch.load(tmp_path / name / BIN)) for name in made}
    prefix = LAYOUTS[family].prefix
    layer = f"{prefix}.{LAYOUTS[family].layer}"
    maps = {
        "distilbert": "attention.q_lin attention.k_lin attention.v_lin ffn.lin1 ffn.lin2",
        "deberta-v2": "attention.self.query_proj attention.self.key_proj attention.self.value_proj "
        "intermediate.dense output.dense",
    }.get(family, "attention.self.query attention.self.key attention.self.value intermediate.dense output.dense")
    attention = "self" if family == "distilbert" else "self_prefix"
    low_rank = {f"{layer}.{i}.{m}.loras.swa.lora_{x}" for i in (0, 2) for m in maps.split() for x in "AB"}
    assert keys["lora of all maps"] == low_rank
    assert keys["ia3 of all maps"] == {f"{layer}.1.{m}.loras.swa.lora_B" for m in maps.split()}
    flat = keys.get("flat prefix")
    assert flat is None or flat == {f"{prefix}.prefix_tuning.prefix_tunings.swa.{attention}.control_trans"}
    assert keys["prompt"] == {f"{prefix}.prompt_tuning.prompt_tunings.swa.prompt_embedding.weight"}


def test_low_rank_tensors_are_the_same_and_magnitudes_count_from_the_base(base, tmp_path):
    made, folder = exported(base, COMPONENTS["dora"], tmp_path / "m")
    stored, ours = torch.load(folder / BIN), made.tensors()
    start = "roberta.encoder.layer.1.attention.self.query.loras.swa."
    assert torch.equal(stored[start + "lora_A"], ours["layer.1.attention.query.lora.A"])
    weight = base.encoder.get_parameter("encoder.layer.1.attention.self.query.weight")
    m = (ours["layer.1.attention.query.lora.ratio"] * weight.norm(dim=1)).view(-1, 1)
    assert torch.allclose(stored[start + "m.weight"], m, rtol=1e-6)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_from_the_base_is_written_as_a_lora_of_twice_the_rank(base, tmp_path, init):
    made, folder = exported(base, {"lora": {"rank": 4, "alpha": 2.0, "init": init}}, tmp_path / "m")
    weight = base.encoder.get_parameter("encoder.layer.1.attention.self.query.weight")
    start = [made.tensors()[f"layer.1.attention.query.lora.start_{x}"] for x in "BA"]
    assert start[0].any() and (weight - 0.5 * start[0] @ start[1]).norm() < weight.norm(), "of the base's own matrix"
    again, _ = load(folder, base)
    assert again.info.components["lora"].rank == 8 and again.info.components["lora"].init == "kaiming"
    ours, theirs, bare = outputs(base, made, again)
    assert torch.allclose(ours, theirs, atol=1e-5) and (ours - bare).abs().max() > 0.01


def test_magnitudes_count_from_the_base_without_weight_deltas(base, tmp_path):
    made, folder = exported(base, COMPONENTS["dora"], tmp_path / "m")
    engine = Engine(base)
    engine.attach(tiny.sparse(base, "weights", entries=base.encoder.num_parameters() // 2))
    with engine.using("weights"):
        again, _ = load(folder, base)
        export_adapterhub(made, tmp_path / "n", base=base)
    engine.close()
    for name, tensor in made.tensors().items():
        assert torch.allclose(again.tensors()[name], tensor, rtol=1e-6, atol=0), name
    one, other = (torch.load(tmp_path / folder / BIN) for folder in ("m", "n"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_flat_prefixes_lie_as_length_then_layers_then_width(base, tmp_path):
    made, folder = exported(base, COMPONENTS["flat prefix of two layers"], tmp_path / "m")
    ((_, vector),) = torch.load(folder / BIN).items()
    table = vector.view(3, 4, base.width)  # keys at 2i, values at 2i + 1 of the i-th layer that is not left out
    for i, layer in enumerate((1, 2)):
        for k, which in enumerate(("keys", "values")):
            assert torch.equal(table[:, 2 * i + k], made.tensors()[f"layer.{layer}.slots.prefix.{which}"])


@pytest.mark.parametrize("components", ["prefix", "flat prefix"])
def test_copies_of_a_prefix_under_the_layers_are_known(base, tmp_path, components):
    _, folder = exported(base, COMPONENTS[components], tmp_path / "m")
    start = "roberta.encoder.layer.{}.attention.self.prefix_tuning.pool.prefix_tunings"
    here = "roberta.prefix_tuning.prefix_tunings"
    edit_tensors(folder, lambda t: t | {k.replace(here, start.format(i)): v for i in range(3) for k, v in t.items()})
    _, report = load(folder, base)
    assert "attention.self.prefix_tuning.pool.prefix_tunings.swa" in str(report) and "stored twice" in str(report)
    edit_tensors(folder, lambda t: {k: v + 1 if "layer.2" in k else v for k, v in t.items()})
    with pytest.raises(StoreError, match="layer.2.*differs from roberta.prefix_tuning"):
        load(folder, base)


def test_lora_of_releases_that_trained_without_the_scale(base, tmp_path):
    _, folder = exported(base, {"lora": {"rank": 4, "alpha": 8.0}}, tmp_path / "m")
    for version, alpha in (("adapters.1.1.0", 8.0), ("adapters.1.0.1", 4.0), ("adapters.0.2.2", 4.0), ("3.2.1", 8.0)):
        edit(folder, lambda full, version=version: full | {"version": version})
        again, report = load(folder, base)
        assert again.info.components["lora"].alpha == alpha
        assert ("alpha 8: adapters before 1.1.0" in str(report)) == (alpha == 4.0)


def test_rank_stabilised_scale_is_written_as_alpha(base, tmp_path):
    made, folder = exported(base, {"lora": {"rank": 4, "alpha": 3.0, "rslora": True}}, tmp_path / "m")
    again, _ = load(folder, base)
    assert again.info.components["lora"].alpha == 6.0 and not again.info.components["lora"].rslora
    ours, theirs, _ = outputs(base, made, again)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "name, components",
    [
        ("lora[r=4, alpha=8, attn_matrices=['k']]", {"lora": {"rank": 4, "alpha": 8.0, "maps": ["key"]}}),
        ("dora", {"lora": {"dora": True, "dora_form": "adapterhub"}}),
        ("ia3", {"ia3": {}}),
        ("prefix_tuning_flat[prefix_length=5]", {"prefix": {"length": 5, "flat": True}}),
        ("prompt_tuning", {"prompt": {}}),
        ("loreft[r=2]", {"reft": {"rank": 2}}),
        ("noreft", {"reft": {"orthogonal": False}}),
        ("direft", {"reft": {"orthogonal": False, "subtract": False}}),
        ("mam", {"prefix": {"bottleneck": 800}, "bottleneck": COMPONENTS["mix and match"]["bottleneck"]}),
        ("prompt_tuning|seq_bn[reduction_factor=8]", {"prompt": {}, "bottleneck": {"reduction_factor": 8.0}}),
    ],
)
def test_configs_by_name(base, name, components):
    made = module(base, components)
    assert read_config({"config": name}, depth=3, has_invertible=False).components == made.info.components


def test_settings_that_do_not_matter_here_are_reported(base, tmp_path):
    for components, changes, line in (
        ("lora", {"init_weights": "ia3", "dtype": "float16", "leave_out": [7]}, "dtype 'float16': weights are read"),
        ("lora", {"init_weights_seed": 3}, "init_weights_seed: the weights are here"),
        ("prefix", {"encoder_prefix": False, "cross_prefix": False}, "encoder_prefix: "),
        ("loreft", {"layers": [0, 1, 2, 7]}, "layers [7]: no layer has that number"),
        ("tied noreft", {}, "subtract_projection (absent): adapters never saves it"),
        ("prompt", {"prompt_init": "from_string", "prompt_init_text": "Hi"}, "prompt_init_text: the weights are here"),
    ):
        _, folder = exported(base, COMPONENTS[components], tmp_path / line[:9])
        edit(folder, changes)
        assert line in str(load(folder, base)[1])


@pytest.mark.parametrize(
    "components, changes, words",
    [
        ("ia3", {"use_gating": True}, "use_gating=true.*Nothing was loaded"),
        ("dora", {"use_gating": True}, "no gate of DoRA"),
        ("lora", {"selfattn_lora": False}, "changes no linear map"),
        ("lora", {"leave_out": [0, 1, 2]}, "leave_out names every layer"),
        ("lora", {"r": 0}, "r: .*greater than or equal to 1, got 0"),
        ("lora", {"attn_matrices": ["q", "o"]}, "attn_matrices.1: .*got 'o'"),
        ("lora", {"rank": 4}, "rank: "),
        ("lora", {"alpha": -1}, "alpha"),
        ("lora", {"dropout": 2.0}, "dropout"),
        ("ia3", {"alpha": 2}, "alpha=2; .*Multiply its tensors by 2"),
        ("ia3", {"r": 2}, "needs r=1"),
        ("prefix", {"non_linearity": "quick_gelu"}, "'quick_gelu' is not known"),
        ("prefix", {"prefix_length": 10**9}, "prefix_length"),
        ("prefix", {"prefix_length": 300}, "300"),
        ("loreft", {"layers": [3, 7]}, "layers names no layer of the base"),
        ("loreft", {"prefix_positions": 0}, "first and last are both 0"),
        ("loreft", {"output_reft": False}, "output_reft"),
        ("loreft", {"r": 33}, "reft.rank is 33"),
        ("prompt", {"combine": "prefix_after_bos"}, "combine='prefix'"),
    ],
)
def test_settings_that_are_refused(base, tmp_path, components, changes, words):
    _, folder = exported(base, COMPONENTS[components], tmp_path / "m")
    edit(folder, changes)
    with pytest.raises(ConfigError, match=words):
        load(folder, base)


@pytest.mark.parametrize(
    "components, change, words",
    [
        ("lora", {"r": 8}, r"lora_A: file \(4, 32\), base and config \(8, 32\)"),
        ("lora", {"intermediate_lora": True}, "missing: encoder.layer.0.intermediate.dense.loras.swa.lora_A"),
        ("lora", {"attn_matrices": ["q"]}, "does not explain:\n  roberta.encoder.layer.0.attention.self.value"),
        ("lora", {"use_dora": True}, "missing: .*m.weight"),
        ("dora", {"use_dora": False}, "does not explain:\n  .*m.weight"),
        ("prefix", {"flat": True}, "does not explain:\n  .*wte.weight"),
        ("prefix", {"bottleneck_size": 9}, r"control_trans.0.weight: file \(8, 32\), base and config \(9, 32\)"),
        ("flat prefix", {"leave_out": [1]}, r"file \(576,\), base and config \(384,\)"),
        ("loreft", {"tied_weights": True}, "does not explain:\n  .*units.1."),
        ("loreft", {"orthogonality": False}, "does not explain:\n  .*parametrizations.weight"),
        ("loreft", {"r": 2}, r"original: file \(3, 32\), base and config \(2, 32\)"),
        ("prompt", {"prompt_length": 5}, r"file \(4, 32\), base and config \(5, 32\)"),
    ],
)
def test_files_that_do_not_fit_their_config(base, tmp_path, components, change, words):
    _, folder = exported(base, COMPONENTS[components], tmp_path / "m")
    edit(folder, change)
    with pytest.raises(StoreError, match=words):
        load(folder, base)


def test_orthonormal_rows_lie_in_the_basis_of_torchs_parametrization(base, tmp_path):
    """Files that torch's own parametrization reads; and one whose signs weight decay has moved, which is refused."""
    made, folder = exported(base, COMPONENTS["loreft"], tmp_path / "m")
    start, stored = "roberta.encoder.layer.1.reft_layer.refts.swa.units.", torch.load(folder / BIN)
    linear = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(32, 3, bias=False))
    for unit, wanted in ((0, made.units["layer.1"]["reft"].front.rows()), (1, torch.eye(32)[:3])):
        own = f"{start}{unit}.projection."
        linear.load_state_dict({k.removeprefix(own): v for k, v in stored.items() if k.startswith(own)})
        assert torch.allclose(linear.weight, wanted, atol=1e-6)
    assert "units.1.learned_source.bias: a unit for positions" in str(load(folder, base)[1])
    edit_tensors(folder, lambda t: {k: v * 0.99 if k.endswith("original") else v for k, v in t.items()})
    with pytest.raises(StoreError, match="orthonormal rows.*Weight decay"):
        load(folder, base)


def test_a_union_holds_each_component_once(base, tmp_path):
    _, folder = exported(base, COMPONENTS["lora"], tmp_path / "m")
    config = json.loads((folder / "adapter_config.json").read_text())["config"]
    two = [config | {"leave_out": [0]}, config | {"leave_out": [1, 2]}]
    edit(folder, lambda full: full | {"config": {"architecture": "union", "configs": two}})
    with pytest.raises(ConfigError, match="two configs for the component 'lora'"):
        load(folder, base)


@pytest.mark.parametrize(
    "components, words",
    [
        ({"lora": {"maps": ["query", "output"]}}, "the map 'output'"),
        ({"lora": {"dora": True}}, "dora_form: adapterhub"),
        ({"lora": {}, "ia3": {}}, "'lora' and 'ia3' in one module"),
        ({"prefix": {"activation": "selu"}}, "activation 'selu' has no name there"),
        ({"reft": {"subtract": False}}, "subtract: false"),
        ({"sparse_diff": {"entries": 10}}, "'sparse_diff' has no counterpart"),
    ],
)
def test_what_the_format_cannot_express_is_not_written(base, components, words):
    with pytest.raises(ConfigError, match=words):
        write_config(module(base, components).info.components, depth=3, width=32)


def test_stacks_that_the_peer_multiplies_are_not_written(base, tmp_path):
    parts = {"a": {"lora": {}}, "b": {"lora": {"maps": ["value", "up"]}}, "c": {"ia3": {}}, "d": {"prompt": {}}}
    parts |= {"r": {"reft": {}}}
    modules = {name: module(base, components, name=name) for name, components in parts.items()}
    modules["e"] = module(base, {"ia3": {}}, name="e")
    for stack, words in (
        ("a + b", "lora of a and lora of b at layer.0.attention.value"),
        ("b + c", "lora of b and ia3 of c at layer.0.attention.value"),
        ("a + d", "prompt component of d"),
        ("a + r", "reft component of r"),
    ):
        with pytest.raises(ConfigError, match=words):
            export_adapterhub_setup(stack, modules, tmp_path / "s", base=base)
    assert export_adapterhub_setup("d + c + e", modules, tmp_path / "s", base=base)
