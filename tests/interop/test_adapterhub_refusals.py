"""AdapterHub folders and modules that are refused, each by name and with nothing made."""

import os
import pickle
import shutil

import pytest
import tiny
import torch
from adapterhub_tools import BIN, SAFE, edit, edit_tensors, load, module, same
from safetensors.torch import load_file, save_file

from madx.errors import BaseError, CompositionError, ConfigError, StoreError
from madx.interop import export_adapterhub
from madx.interop.adapterhub.config import read_config, write_config


@pytest.mark.parametrize(
    "config, words",
    [
        ({"architecture": "lora", "vera_d": 0.1}, "method 'vera'.*Read are: bottleneck, compacter, lora"),
        ({"architecture": "mtl_lora"}, "method 'mtl_lora'"),
        ({"architecture": ["x"]}, "method .'x'.,"),
        ({"architecture": "union", "configs": [{"architecture": "mtl_lora"}]}, "method 'mtl_lora'"),
        ({"architecture": "union", "configs": []}, "list of `configs`"),
        ({"architecture": "union", "configs": [{"architecture": "union"}]}, "must be a table of settings"),
        ({"architecture": "union", "configs": [{}], "r": 8}, "list of `configs`"),
        ("seq_bn|vera", "method 'vera'"),
        ("pfeifer", "did you mean 'pfeiffer'"),
        ("/etc/passwd", "is named '/etc/passwd'"),
        ("seq_bn[reduction_factor=open('x')]", "Cannot read the config"),
        ("seq_bn[**{}]", "Cannot read"),
        (None, "config is None"),
        (7, "config is 7"),
    ],
)
def test_other_methods_are_refused_by_name(base, folder, config, words):
    edit(folder, lambda full: full | {"config": config})
    with pytest.raises(ConfigError, match=words):
        load(folder, base)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"phm_layer": True, "phm_bias": False}, "phm_bias=false.*Nothing was loaded"),
        ({"phm_layer": True, "shared_W_phm": True}, "shared_W_phm=true.*Nothing was loaded"),
        ({"phm_layer": True, "factorized_phm_rule": True}, "factorized_phm_rule=true.*Nothing was loaded"),
        ({"phm_layer": True, "phm_dim": 3}, "dimension is 3.*maps 32 numbers"),
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
    with pytest.raises(
        StoreError, match=r"file \(16, 32\), base and config \(\d{7}, 32\)|file \(8, 16\), base and config"
    ):
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
    with pytest.raises(StoreError, match="(?s)file: layers 0-2; base: 0-3.*missing: encoder.layer.3.output"):
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
    broken(lambda t: {k: v for k, v in t.items() if k != one}, "missing: encoder.layer.1.output.*up.bias")
    broken(
        lambda t: t | {"roberta.extra": torch.ones(1)}, "1 tensors that its config does not explain:\n  roberta.extra"
    )
    broken(lambda t: t | {one.replace("roberta", "bert"): torch.ones(1)}, "does not explain:\n  bert.encoder")
    broken(lambda t: t | {one.removeprefix("roberta."): torch.ones(32)}, "differs from ")
    broken(
        lambda t: t | {one.replace("up.bias", "norm_after.bias"): torch.ones(32)},
        "does not explain:\n  .*adapter_norm_after",
    )
    broken(lambda t: t | {one.replace(".swa.", ".hau."): torch.ones(32)}, "tensors of 'hau', 'swa'|differs")
    broken(lambda t: t | {one: torch.full((32,), torch.nan)}, "not finite")
    broken(lambda t: t | {one: torch.ones(32, dtype=torch.int32)}, "not a dense tensor of real numbers")
    broken(lambda t: t | {one: torch.ones(1).expand(1 << 40)}, "claims 1099511627776 values")
    broken(lambda t: t | {one: torch.ones(32).to_sparse()}, "not a dense tensor")
    broken(lambda t: t | {one: [torch.ones(32)]}, "not a dense tensor")
    broken(lambda t: t | {5: torch.ones(32)}, "is no name")
    broken(lambda t: [1], "no named tensors")


def test_tensors_stored_twice_are_known(base, tmp_path):
    made = module(base, "bapna")
    folder = export_adapterhub(made, tmp_path / "m", base=base, safetensors=True)
    again, report = load(folder, base)
    assert same(made, again) and "adapter_norm_before.weight, stored twice" in str(report)
    tensors = load_file(folder / SAFE)
    key = "roberta.encoder.layer.0.output.adapters.swa.adapter_down.0.weight"
    save_file(tensors | {key: torch.zeros(32)}, folder / SAFE)
    with pytest.raises(StoreError, match="adapter_down.0.weight .differs from .*adapter_norm_before.weight"):
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
        ({"bottleneck": {"norm_inside": "batch", "inner_layers": 1}}, "(?s)norm_inside 'batch' of.*inner_layers 1 of"),
        ({"bottleneck": {"interaction": "multiply"}}, "interaction 'multiply' of a bottleneck"),
        ({"bottleneck": {}, "compacter": {"reduction_factor": 4.0}}, "'bottleneck' and 'compacter' at one place"),
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
    full = write_config(parts, depth=3, width=32)
    assert {
        "mh_adapter",
        "output_adapter",
        "reduction_factor",
        "non_linearity",
        "leave_out",
        "ln_before",
        "inv_adapter",
    } <= set(full)
    assert read_config({"config": full, "version": "adapters.1.3.0"}, depth=3, has_invertible=True).components == parts
