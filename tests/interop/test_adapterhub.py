"""AdapterHub folders: round trips, old spellings, heads, refusals by name, and a fuzz that ends in success or MadxError."""

import json
import os
import pickle
import random
import shutil

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from madx.engine import Engine
from madx.errors import BaseError, CompositionError, ConfigError, MadxError, StoreError
from madx.interop import export_adapterhub, import_adapterhub
from madx.interop.adapterhub.config import ACTIVATIONS, read_parts, write_config
from madx.interop.adapterhub.keys import LAYOUTS
from madx.module import new_module

LABELS = ("O", "B-PER", "I-PER")
BIN, SAFE = "pytorch_adapter.bin", "adapter.safetensors"

HOULSBY = {"places": ["attention", "ffn"], "reads": "output", "activation": "swish"}
#: the peer has one activation for both components
HOULSBY_INV = {"bottleneck": HOULSBY, "invertible": {"activation": "swish"}}


def module(base, components="madx", *, name="swa", labels=(), seed=0):
    role = "task" if labels else "language"
    return tiny.wake(
        new_module(name, base, role=role, components=components, labels=labels, task="ner" if labels else None),
        seed=seed,
    )


@pytest.fixture
def folder(base, tmp_path):
    """A folder with a MAD-X language module, as .bin."""
    return export_adapterhub(module(base), tmp_path / "swa", base=base)


def load(folder, base, **kwargs):
    return import_adapterhub(folder, base, **({"name": "x", "role": "language"} | kwargs))


def edit(folder, change, file="adapter_config.json"):
    """Rewrite a JSON file; change: a function of the object, or keys to set in its `config`."""
    full = json.loads((folder / file).read_text())
    if callable(change):
        full = change(full) or full
    else:
        full["config"] |= change
    (folder / file).write_text(json.dumps(full))


def edit_tensors(folder, change):
    tensors = torch.load(folder / BIN, weights_only=True)
    torch.save(change(tensors) or tensors, folder / BIN)


def same(a, b):
    ours, theirs = a.tensors(), b.tensors()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


# ---- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", sorted(LAYOUTS))
@pytest.mark.parametrize("safetensors", [False, True])
def test_round_trip_on_every_family(model_type, safetensors, tmp_path):
    base = tiny.base(model_type)
    made = module(base, HOULSBY_INV, labels=LABELS)
    folder = export_adapterhub(made, tmp_path / "m", base=base, safetensors=safetensors)
    assert sorted(p.suffix for p in folder.iterdir()) == sorted(
        [".json", ".json"] + [".safetensors" if safetensors else ".bin"] * 2
    )
    again, report = load(folder, base, role="task", task="ner", language="swa")
    assert same(made, again) and again.info.labels == LABELS and again.info.components == made.info.components
    assert (again.info.role, again.info.task, again.info.language) == ("task", "ner", "swa")
    assert again.info.base == base.identity() and again.info.training["imported"]["format"] == "adapterhub"
    assert {ours for _, ours in report.mapped} == set(made.tensors())
    engine = Engine(base)
    engine.attach(made), engine.attach(again)
    ids = tiny.inputs()
    with torch.no_grad(), engine.using("swa"):
        expected = engine.label_logits(engine(*ids))
    with torch.no_grad(), engine.using("x"):
        assert torch.equal(engine.label_logits(engine(*ids)), expected)


BOTTLENECKS = st.fixed_dictionaries(
    {
        "places": st.sampled_from([["ffn"], ["attention"], ["attention", "ffn"]]),
        "reduction_factor": st.one_of(
            st.sampled_from([0.5, 1.0, 2.0, 16.0, 100.0]),
            st.dictionaries(st.sampled_from("012"), st.sampled_from([1.5, 4.0])).map(lambda d: d | {"default": 8.0}),
        ),
        "activation": st.sampled_from(sorted(set(ACTIVATIONS.values()))),
        "norm_before": st.booleans(),
        "norm_after": st.booleans(),
        "final_norm": st.booleans(),
        "gate": st.booleans(),
        "scaling": st.sampled_from([1.0, 4.0, "learned", "channel"]),
        "init": st.sampled_from(["normal", "truncated", "zero_up"]),
        "dropout": st.sampled_from([0.0, 0.1]),
        "stochastic_depth": st.sampled_from([0.0, 0.2]),
        "leave_out": st.lists(st.integers(0, 2), unique=True, max_size=2).map(sorted),
    }
)
FLOW = st.sampled_from(
    [
        ("sum_norm", "output"),
        ("sum_norm", "sum"),
        ("sum_norm", "read"),
        ("output", "output"),
        ("output", "read"),
        ("input", "output"),
    ]
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    bottleneck=st.none() | BOTTLENECKS,
    flow=FLOW,
    after=st.booleans(),
    inverse=st.none() | st.sampled_from([1.0, 2.0, 4.0]),
    safe=st.booleans(),
)
def test_any_setting_that_the_format_can_say_comes_back(tmp_path_factory, base, bottleneck, flow, after, inverse, safe):
    parts = {}
    if bottleneck is not None:
        after = after and bottleneck["norm_after"] and flow[0] != "input"
        parts["bottleneck"] = bottleneck | {"reads": flow[0], "residual": flow[1], "norm_after_residual": after}
    if inverse is not None or not parts:
        parts["invertible"] = {
            "reduction_factor": inverse or 2.0,
            "activation": (bottleneck or {"activation": "relu"})["activation"],
        }
    made = module(base, parts)
    folder = export_adapterhub(made, tmp_path_factory.mktemp("x") / "m", base=base, safetensors=safe)
    again, _ = load(folder, base)
    assert again.info.components == made.info.components and same(made, again)


def test_negative_layers_are_written_as_numbers(base, tmp_path):
    folder = export_adapterhub(module(base, "madx2"), tmp_path / "m", base=base)
    assert json.loads((folder / "adapter_config.json").read_text())["config"]["leave_out"] == [2]
    again, _ = load(folder, base)
    assert "layer.2.ffn" not in again.units and "layer.1.ffn" in again.units


# ---- old spellings -------------------------------------------------------------------------------------------------

VERSION_1 = {
    "LN_after": False,
    "LN_before": False,
    "MH_Adapter": False,
    "Output_Adapter": True,
    "adapter_residual_before_ln": False,
    "attention_type": "sent-lvl-dynamic",
    "new_attention_norm": False,
    "non_linearity": "relu",
    "original_ln_after": True,
    "original_ln_before": True,
    "reduction_factor": 2,
    "residual_before_ln": True,
    "invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2},
}


def to_version_1(folder, *, kind="text_lang", config=VERSION_1):
    """Rewrite a folder as the first releases wrote it."""
    word = kind.split("_")[1]
    edit(
        folder,
        lambda full: {
            "type": kind,
            "model_type": full["model_type"],
            "hidden_size": 32,
            "name": full["name"],
            "config": config,
        },
    )

    def rename(tensors):
        renamed = {}
        for key, value in tensors.items():
            key = key.replace("attention.output.adapters", f"attention.output.attention_text_{word}_adapters")
            key = key.replace(".output.adapters", f".output.layer_text_{word}_adapters")
            renamed[key.replace("invertible_adapters", "invertible_lang_adapters").removeprefix("roberta.")] = value
        return renamed

    edit_tensors(folder, rename)


def test_a_language_module_of_the_first_version(base, folder):
    made = module(base)
    to_version_1(folder)
    again, report = load(folder, base)
    assert same(made, again)
    assert "attention_type: a setting of fusion" in str(report) and "'swa' (before 1.0)" in str(report)
    assert "encoder.layer.{0-2}.output.layer_text_lang_adapters.swa.adapter_down.0.weight -> layer.{0-2}.ffn" in str(
        report
    )


def test_a_task_module_of_the_first_version_names_an_invertible_part_that_it_lacks(base, tmp_path):
    made = module(base, {"bottleneck": {"reduction_factor": 2.0}})
    folder = export_adapterhub(made, tmp_path / "m", base=base)
    to_version_1(folder, kind="text_task")
    again, report = load(folder, base, role="task")
    assert same(made, again) and "the file has no such weights" in str(report)
    edit(folder, lambda full: full | {"type": "text_lang"})
    with pytest.raises(StoreError, match="missing: embeddings.invertible.F"):
        load(folder, base)


def test_activations_meant_something_else_before_versions(base, folder):
    to_version_1(folder, config=VERSION_1 | {"non_linearity": "gelu"})
    assert load(folder, base)[0].info.components["bottleneck"].activation == "gelu_tanh"
    edit(folder, {"non_linearity": "GELU_orig"})
    with pytest.raises(ConfigError, match="'GELU_orig' is not known"):
        load(folder, base)
    edit(folder, {"non_linearity": "gelu_orig"})
    assert load(folder, base)[0].info.components["bottleneck"].activation == "gelu"
    edit(folder, lambda full: full | {"version": "3.1.0", "config": full["config"] | {"non_linearity": "gelu"}})
    parts = load(folder, base)[0].info.components
    assert (parts["bottleneck"].activation, parts["invertible"].activation) == ("gelu", "relu")


@pytest.mark.parametrize(
    "name, parts",
    [
        ("pfeiffer", "pfeiffer"),
        ("seq_bn", "pfeiffer"),
        ("houlsby", "houlsby"),
        ("double_seq_bn", "houlsby"),
        ("double_seq_bn_inv", HOULSBY_INV),
        ("houlsby+inv", HOULSBY_INV),
        ("parallel", "parallel"),
        ("par_bn", "parallel"),
        ("scaled_par_bn", "scaled_parallel"),
        ("seq_bn_inv[reduction_factor=2]", "madx"),
        ("pfeiffer+inv[reduction_factor=2]", "madx"),
        (
            "seq_bn[ln_before=True, leave_out=[2], reduction_factor={'0': 2, 'default': 4}]",
            {"bottleneck": {"norm_before": True, "leave_out": [2], "reduction_factor": {"0": 2.0, "default": 4.0}}},
        ),
    ],
)
def test_configs_by_name_are_our_presets(base, tmp_path, name, parts):
    made = module(base, parts)
    folder = export_adapterhub(made, tmp_path / "m", base=base)
    edit(folder, lambda full: full | {"config": name})
    assert load(folder, base)[0].info.components == made.info.components


def test_pfeiffer_meant_an_invertible_part_for_languages_before_version_2(base, folder):
    edit(folder, lambda full: {"type": "text_lang", "name": "swa", "version": "1.1.1", "config": "pfeiffer"})
    with pytest.raises(StoreError, match="bottleneck.down.weight: file .16, 32., base and config .2, 32."):
        load(folder, base)
    full = {"type": "text_lang", "version": "1.1.1", "config": "pfeiffer"}
    assert set(read_parts(full, depth=3, has_invertible=True).components) == {"bottleneck", "invertible"}
    assert set(read_parts(full, depth=3, has_invertible=False).components) == {"bottleneck"}
    assert set(read_parts(full | {"version": "2.0.0"}, depth=3, has_invertible=True).components) == {"bottleneck"}


def test_every_ignored_setting_is_named(base, folder):
    edit(folder, {"init_weights_seed": 42, "cross_adapter": True, "leave_out": [-1, 7]})
    (folder / "README.md").write_text("hello")
    _, report = load(folder, base)
    for line in (
        "init_weights_seed: ",
        "cross_adapter: an encoder",
        "leave_out [-1, 7]: no layer",
        "file README.md: not part",
    ):
        assert line in str(report)


# ---- heads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tagged(base, tmp_path):
    return export_adapterhub(module(base, "pfeiffer", labels=LABELS), tmp_path / "ner", base=base)


def test_labels_are_ordered_by_their_numbers(base, tagged):
    made = module(base, "pfeiffer", labels=LABELS)
    edit(tagged, {"label2id": {"I-PER": 2, "O": 0, "B-PER": "1"}}, "head_config.json")
    again, _ = load(tagged, base, role="task")
    assert again.info.labels == LABELS and torch.equal(again.head.weight, made.head.weight)
    edit(tagged, {"label2id": None}, "head_config.json")
    again, report = load(tagged, base, role="task")
    assert again.info.labels == ("LABEL_0", "LABEL_1", "LABEL_2") and "labels are called LABEL_0" in str(report)
    for table in (
        {"O": 0, "B": 1},
        {"O": 0, "B": 1, "I": 3},
        {"O": 0, "B": 1, "I": 1},
        {"O": 0, "B": 1, "I": None},
        [],
        {},
    ):
        edit(tagged, {"label2id": table}, "head_config.json")
        with pytest.raises(ConfigError, match="does not number its labels"):
            load(tagged, base, role="task")


def test_the_head_of_a_plain_token_classifier(base, tagged):
    made = module(base, "pfeiffer", labels=LABELS)
    table = {"O": 0, "B-PER": 1, "I-PER": 2}
    edit(
        tagged,
        lambda full: {
            "config": None,
            "model_class": "XLMRobertaForTokenClassification",
            "name": None,
            "num_labels": 3,
            "label2id": table,
        },
        "head_config.json",
    )
    torch.save({f"classifier.{k}": v for k, v in made.head.state_dict().items()}, tagged / "pytorch_model_head.bin")
    again, _ = load(tagged, base, role="task")
    assert same(again, made) and again.info.labels == LABELS


def test_heads_that_do_not_come_along_are_named_or_refused(base, tagged):
    again, report = load(tagged, base, role="task", task="ner", with_head=False)
    assert again.head is None and again.info.task is None and "head 'swa' (tagging): with_head=False" in str(report)
    again, report = load(tagged, base)
    assert again.head is None and "the module made is a language module" in str(report)
    edit(tagged, {"layers": 2}, "head_config.json")
    with pytest.raises(ConfigError, match="has 2 layers.*with_head=False"):
        load(tagged, base, role="task")
    edit(tagged, {"head_type": "classification"}, "head_config.json")
    assert "(classification): madx has no task" in str(load(tagged, base, role="task")[1])
    edit(tagged, {"head_type": "tagging", "layers": 1}, "head_config.json")
    torch.save(
        {"heads.swa.1.weight": torch.zeros(3, 30), "heads.swa.1.bias": torch.zeros(3)},
        tagged / "pytorch_model_head.bin",
    )
    with pytest.raises(StoreError, match="head.weight: file .3, 30., base and labels .3, 32."):
        load(tagged, base, role="task")
    torch.save({"heads.swa.4.weight": torch.zeros(3, 32)}, tagged / "pytorch_model_head.bin")
    with pytest.raises(StoreError, match="does not explain: heads.swa.4.weight"):
        load(tagged, base, role="task")
    (tagged / "head_config.json").unlink()
    assert "without head_config.json" in str(load(tagged, base)[1])


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, words",
    [
        ({"architecture": "lora", "r": 8}, "module type 'lora'"),
        ({"architecture": "lora", "composition_mode": "scale"}, "module type 'ia3'"),
        ({"architecture": "union", "configs": [{"architecture": "lora"}, {}]}, "union of lora, bottleneck"),
        ({"architecture": ["x"]}, "module type"),
        ("compacter", "module type 'compacter'"),
        ("mam", "module type 'mam'"),
        ("prefix_tuning|par_bn", "module type 'union'"),
        ("pfeifer", "did you mean 'pfeiffer'"),
        ("/etc/passwd", "is named '/etc/passwd'"),
        ("seq_bn[reduction_factor=open('x')]", "Cannot read the config"),
        ("seq_bn[**{}]", "Cannot read"),
        (None, "config is None"),
        (7, "config is 7"),
    ],
)
def test_other_module_types_are_refused_by_name(base, folder, config, words):
    edit(folder, lambda full: full | {"config": config})
    with pytest.raises(ConfigError, match=words):
        load(folder, base)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"phm_layer": True}, "module type 'compacter'"),
        ({"inv_adapter": "glow"}, "kind 'glow'"),
        ({"reduction_facto": 2}, "reduction_facto: .*did you mean 'reduction_factor'"),
        ({"mh_adapter": "yes"}, "mh_adapter: .*got 'yes'"),
        ({"residual_before_ln": "post_add", "original_ln_before": False}, "nothing was added"),
        ({"non_linearity": "quick_gelu"}, "'quick_gelu' is not known"),
        ({"mh_adapter": False, "output_adapter": False, "inv_adapter": None}, "neither bottlenecks"),
        ({"new_attention_norm": True}, "new_attention_norm"),
        ({"reduction_factor": {"0": 2}}, "no value for layer 1"),
        ({"reduction_factor": -1}, "greater than"),
        ({"reduction_factor": 1e-300}, "greater than"),
        ({"inv_adapter_reduction_factor": None}, "is missing"),
        ({"invertible_adapter": {"x": 1}}, "known: block_type"),
        ({"dropout": 7.0}, "dropout"),
    ],
)
def test_settings_that_make_no_sense_are_refused(base, folder, change, words):
    edit(folder, change)
    with pytest.raises(ConfigError, match=words):
        load(folder, base)


@pytest.mark.parametrize(
    "change",
    [
        {"reduction_factor": 1e-5},
        {"reduction_factor": {"2": 1e-5, "default": 2}},
        {"inv_adapter_reduction_factor": 1e-5},
    ],
)
def test_a_tiny_reduction_factor_builds_nothing(base, folder, change):
    edit(folder, change)
    with pytest.raises(StoreError, match="the widest tensor in the file has 32"):
        load(folder, base)


def test_an_import_leaves_the_random_state(base, folder):
    state = torch.random.get_rng_state()
    load(folder, base)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("version", ["adapters.2.0", "9.1", "adapters.", "x", "", 3, "1", ["1.0"]])
def test_unknown_versions_are_refused(base, folder, version):
    edit(folder, lambda full: full | {"version": version})
    with pytest.raises(StoreError, match="has the version .*Known: none"):
        load(folder, base)


def test_another_base_is_refused_with_both_sides_named(base, folder, tmp_path):
    with pytest.raises(BaseError, match="width: adapter 32, base 48"):
        load(folder, tiny.base(hidden_size=48), allow_base_mismatch=True)
    with pytest.raises(
        BaseError,
        match="(?s)model type: adapter xlm-roberta, base roberta.*name: adapter tiny-xlm-roberta, base tiny-roberta",
    ):
        load(folder, tiny.base("roberta"))
    assert same(load(folder, tiny.base("roberta"), allow_base_mismatch=True)[0], module(base))
    with pytest.raises(BaseError, match="layers 0-2; the base has only 2"):
        load(folder, tiny.base(num_hidden_layers=2))
    with pytest.raises(StoreError, match="(?s)file: layers 0-2; base: 0-3.*missing: layer.3.ffn"):
        load(folder, tiny.base(num_hidden_layers=4))
    with pytest.raises(BaseError, match="no model class for bases of type 'modernbert'"):
        load(folder, tiny.base("modernbert"))
    for name in ("/models/tiny-xlm-roberta", "Org/tiny-xlm-roberta", "/hub/models--Org--tiny-xlm-roberta/snapshots/0f"):
        sister = tiny.base()
        sister.name = name
        load(folder, sister)


def test_tensors_that_do_not_fit_are_named(base, folder):
    def broken(change, words):
        copy = folder.parent / "copy"
        shutil.copytree(folder, copy)
        edit_tensors(copy, change)
        with pytest.raises(StoreError, match=words):
            load(copy, base)
        shutil.rmtree(copy)

    one = "roberta.encoder.layer.1.output.adapters.swa.adapter_up.bias"
    broken(lambda t: {k: v for k, v in t.items() if k != one}, "missing: layer.1.ffn.bottleneck.up.bias")
    broken(
        lambda t: t | {"roberta.extra": torch.ones(1)}, "1 tensors that the config does not explain:\n  roberta.extra"
    )
    broken(lambda t: t | {one.replace("roberta", "bert"): torch.ones(1)}, "does not explain:\n  bert.encoder")
    broken(lambda t: t | {one.removeprefix("roberta."): torch.ones(32)}, "differs from the other tensor")
    broken(
        lambda t: t | {one.replace("up.bias", "norm_after.bias"): torch.ones(32)},
        "not asked for by the config: layer.1.ffn.bottleneck.norm_after",
    )
    broken(lambda t: t | {one.replace(".swa.", ".hau."): torch.ones(32)}, "tensors of 'hau', 'swa'|differs")
    broken(lambda t: t | {one: torch.full((32,), torch.nan)}, "not finite")
    broken(lambda t: t | {one: torch.ones(32, dtype=torch.int32)}, "no dense tensor of real numbers")
    broken(lambda t: t | {one: torch.ones(1).expand(1 << 40)}, "claims 1099511627776 values")
    broken(lambda t: t | {one: torch.ones(32).to_sparse()}, "no dense tensor")
    broken(lambda t: t | {one: [torch.ones(32)]}, "no dense tensor")
    broken(lambda t: t | {5: torch.ones(32)}, "is no name")
    broken(lambda t: [1], "no named tensors")


def test_tensors_stored_twice_are_known(base, tmp_path):
    made = module(base, "bapna")
    folder = export_adapterhub(made, tmp_path / "m", base=base, safetensors=True)
    again, report = load(folder, base)
    assert same(
        made, again
    ) and "the same tensor as layer.{0-2}.ffn.bottleneck.norm_before.weight, stored twice" in str(report)
    tensors = load_file(folder / SAFE)
    key = "roberta.encoder.layer.0.output.adapters.swa.adapter_down.0.weight"
    save_file(tensors | {key: torch.zeros(32)}, folder / SAFE)
    with pytest.raises(StoreError, match="differs from the other tensor for layer.0.ffn.bottleneck.norm_before.weight"):
        load(folder, base)


class Run:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_executes_is_refused_and_does_not_run(base, folder, tmp_path):
    target = str(tmp_path / "pwned")
    for write in (lambda o: torch.save(o, folder / BIN), lambda o: (folder / BIN).write_bytes(pickle.dumps(o))):
        write({"x": Run(target)})
        with pytest.raises(StoreError, match="weights_only"):
            load(folder, base)
    assert not os.path.exists(target)


def test_missing_files_archives_and_names(base, folder, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        load(tmp_path / "nothing", base)
    with pytest.raises(StoreError, match="unpack an archive first"):
        load(folder / BIN, base)
    with pytest.raises(CompositionError, match="'../x' cannot name a module"):
        load(folder, base, name="../x")
    with pytest.raises(ConfigError, match="role is 'lang'"):
        load(folder, base, role="lang")
    edit(folder, lambda full: full | {"name": "../../etc"})
    with pytest.raises(StoreError, match="holds tensors of 'swa', its config is of '../../etc'"):
        load(folder, base)
    (folder / BIN).unlink()
    with pytest.raises(StoreError, match="neither adapter.safetensors nor pytorch_adapter.bin"):
        load(folder, base)
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(StoreError, match="holds a list"):
        load(folder, base)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(StoreError, match="has no adapter_config.json"):
        load(folder, base)


@pytest.mark.parametrize(
    "parts, words",
    [
        ({"bottleneck": {"reads": "output", "residual": "sum"}}, "reads 'output' with the residual 'sum'"),
        ({"bottleneck": {"reads": "input", "residual": "read"}}, "reads 'input' with the residual 'read'"),
        ({"bottleneck": {"reads": "input", "norm_after": True, "norm_after_residual": True}}, "norm_after_residual"),
        ({"bottleneck": {"activation": "selu"}}, "activation 'selu' has no name there"),
        (
            {"bottleneck": {"activation": "gelu"}, "invertible": {}},
            "one activation serves both components there, here are gelu and relu",
        ),
        ({"invertible": {"kind": "glow"}}, "kind 'glow' does not work there"),
        ({"invertible": {"reduction_factor": 100.0}}, "16->0"),
    ],
)
def test_what_the_format_cannot_say_is_not_written(base, tmp_path, parts, words):
    with pytest.raises(ConfigError, match=words):
        export_adapterhub(module(base, parts), tmp_path / "m", base=base)
    assert not list(tmp_path.iterdir())


def test_names_and_folders_of_an_export(base, tmp_path):
    for name in ("to", "type", "a.b"):
        with pytest.raises(ConfigError, match=f"cannot be called '{name}' there"):
            export_adapterhub(module(base, name=name), tmp_path / "m", base=base)
    folder = export_adapterhub(module(base, name="to"), tmp_path / "m", base=base, as_name="tongan")
    assert same(load(folder, base, name="to")[0], module(base, name="to"))
    with pytest.raises(StoreError, match="is in use"):
        export_adapterhub(module(base), folder, base=base)
    with pytest.raises(BaseError, match="was made for the base"):
        export_adapterhub(module(base), tmp_path / "n", base=tiny.base(seed=1))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_failed_export_leaves_nothing(base, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(StoreError, match="No space left.*Nothing was written"):
        export_adapterhub(module(base), tmp_path / "m", base=base)
    assert not list(tmp_path.iterdir())


def test_written_configs_have_all_keys_that_every_version_requires(base):
    parts = module(base).info.components
    full = write_config(parts, depth=3)
    assert {
        "mh_adapter",
        "output_adapter",
        "reduction_factor",
        "non_linearity",
        "leave_out",
        "ln_before",
        "inv_adapter",
    } <= set(full)
    assert read_parts({"config": full, "version": "adapters.1.3.0"}, depth=3, has_invertible=True).components == parts


# ---- fuzz ----------------------------------------------------------------------------------------------------------

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2.5,
    1e308,
    -1e-300,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "../../x",
    "a" * 5000,
    [],
    {},
    [[]],
    {"a": {}},
    "gelu",
    "nice",
]


@pytest.fixture(scope="module")
def small():
    """A base of one layer: a read takes milliseconds."""
    return tiny.base(num_hidden_layers=1)


def outcome(folder, base):
    """Whether the folder was read; anything but success or MadxError fails the test."""
    try:
        made, _ = load(folder, base, role="task")
        return all(bool(torch.isfinite(v).all()) for v in made.tensors().values()) or pytest.fail(
            "weights that are not finite"
        )
    except MadxError as error:
        assert len(str(error)) < 6000
        return False


@pytest.mark.slow
@pytest.mark.parametrize("safetensors", [False, True])
def test_fuzz_bytes(small, tmp_path, safetensors):
    """Flipped bytes, cut ends and inserted bytes in every file."""
    folder = export_adapterhub(
        module(small, "pfeiffer", labels=LABELS), tmp_path / "m", base=small, safetensors=safetensors
    )
    rng, read = random.Random(safetensors), 0
    files = {p: p.read_bytes() for p in sorted(folder.iterdir())}
    for path, intact in files.items():
        for _ in range(200):
            data = bytearray(intact)
            kind = rng.random()
            if kind < 0.6:
                for _ in range(rng.choice([1, 1, 4])):
                    data[rng.randrange(min(len(data), rng.choice([64, 1000, len(data)])))] = rng.randrange(256)
            elif kind < 0.8:
                del data[rng.randrange(len(data)) :]
            else:
                at = rng.randrange(len(data))
                data[at:at] = rng.randbytes(rng.choice([1, 8, 50]))
            path.write_bytes(data)
            read += outcome(folder, small)
        path.write_bytes(intact)
    assert outcome(folder, small) and 0 < read < 800


@pytest.mark.slow
def test_fuzz_json(small, tmp_path):
    """Values replaced, keys dropped, renamed and added, in both configs."""
    folder = export_adapterhub(module(small, "madx", labels=LABELS), tmp_path / "m", base=small)
    rng, read = random.Random(2), 0
    for file in ("adapter_config.json", "head_config.json"):
        intact = (folder / file).read_text()
        for _ in range(300):
            full = json.loads(intact)
            for _ in range(rng.choice([1, 1, 2])):
                table = full if rng.random() < 0.3 or not isinstance(full.get("config"), dict) else full["config"]
                key = rng.choice(sorted(table))
                kind = rng.random()
                if kind < 0.7:
                    table[key] = rng.choice(VALUES)
                elif kind < 0.8:
                    del table[key]
                elif kind < 0.9:
                    table[key + "x"] = table.pop(key)
                else:
                    table[rng.choice(["LN_before", "invertible_adapter", "architecture", "type", "x"])] = rng.choice(
                        VALUES
                    )
                if not full:
                    break
            (folder / file).write_text(json.dumps(full))
            read += outcome(folder, small)
        (folder / file).write_text(intact)
    assert outcome(folder, small) and 0 < read < 600


@pytest.mark.slow
def test_fuzz_tensors(small, tmp_path):
    """Keys renamed, dropped, doubled; tensors reshaped, cut, of other kinds."""
    folder = export_adapterhub(module(small, "madx", labels=LABELS), tmp_path / "m", base=small)
    rng, read = random.Random(3), 0
    for file in (BIN, "pytorch_model_head.bin"):
        intact = torch.load(folder / file, weights_only=True)
        for _ in range(100):
            tensors = dict(intact)
            key = rng.choice(sorted(tensors))
            value = tensors.pop(key)
            piece = rng.choice(key.split("."))
            changed = [
                value,
                value[:-1],
                value.t() if value.ndim == 2 else value[None],
                value.double(),
                value.half(),
                value.long(),
                None,
            ]
            renamed = [
                key,
                key,
                key + ".x",
                key.replace(piece, ""),
                key.replace(piece, rng.choice(["9", "99999", "..", "G"])),
                "",
            ]
            if rng.random() < 0.9:
                tensors[rng.choice(renamed)] = rng.choice(changed)
            torch.save(tensors, folder / file)
            read += outcome(folder, small)
        torch.save(intact, folder / file)
    assert outcome(folder, small) and 0 < read < 200
