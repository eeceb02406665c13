"""AdapterHub folders of older versions: their spellings, their names, and what they meant."""

import pytest
from adapterhub_tools import HOULSBY_INV, edit, edit_tensors, load, module, same

from madx.errors import ConfigError, StoreError
from madx.interop import export_adapterhub
from madx.interop.adapterhub.config import read_config

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
    with pytest.raises(StoreError, match="missing: invertible_adapters.swa.F"):
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
    with pytest.raises(StoreError, match="adapter_down.0.weight: file .16, 32., base and config .2, 32."):
        load(folder, base)
    full = {"type": "text_lang", "version": "1.1.1", "config": "pfeiffer"}
    assert set(read_config(full, depth=3, has_invertible=True).components) == {"bottleneck", "invertible"}
    assert set(read_config(full, depth=3, has_invertible=False).components) == {"bottleneck"}
    assert set(read_config(full | {"version": "2.0.0"}, depth=3, has_invertible=True).components) == {"bottleneck"}


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
