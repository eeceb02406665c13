"""Fusion layers in AdapterHub folders and in setups, both ways; bad ones are refused or their differences named."""

import json

import pytest
import tiny
import torch
from adapterhub_tools import edit, module
from cli_tools import failed, run
from tiny_files import save_base

from madx.engine import Engine
from madx.errors import BaseError, ConfigError, StoreError
from madx.interop import (
    export_adapterhub,
    export_adapterhub_fusion,
    export_adapterhub_setup,
    export_modules,
    import_adapterhub,
    import_adapterhub_setup,
)
from madx.interop.adapterhub.layouts import LAYOUTS
from madx.module import new_module

CONFIG, BIN = "adapter_fusion_config.json", "pytorch_model_adapter_fusion.bin"
HOULSBY = {"bottleneck": {"places": ["attention", "ffn"], "reads": "output"}}
ROLES = {"swa": "language", "a": "language", "b": "language", "a_b": "fusion"}


def fusion(base, *, labels=(), **settings):
    made = new_module("f", base, role="fusion", components={"fusion": settings}, labels=labels, task="ner")
    return tiny.wake(made, seed=7)


def four(base, parts="pfeiffer", **settings):
    """Modules of the composition `swa + fuse(a, b; f)`."""
    made = {name: module(base, parts, name=name, seed=seed) for seed, name in enumerate(("a", "b"), start=1)}
    return {"swa": module(base, name="swa")} | made | {"f": fusion(base, **settings)}


@torch.no_grad()
def hidden(base, modules, composition):
    engine = Engine(base)
    for each in modules.values():
        engine.attach(each)
    with engine.using(composition):
        found = engine(*tiny.inputs())
    engine.close()
    return found


def equal(ours, theirs):
    assert list(ours.tensors()) == list(theirs.tensors())
    assert all(torch.equal(tensor, theirs.tensors()[name]) for name, tensor in ours.tensors().items())


@pytest.mark.parametrize("safetensors", [False, True])
@pytest.mark.parametrize("family", sorted(LAYOUTS))
def test_a_fusion_layer_comes_back(family, safetensors, tmp_path):
    base = tiny.base(family)
    settings = {"places": ["attention", "ffn"], "reads": "output", "leave_out": [1], "dropout": 0.1, "value": False}
    made = fusion(base, **(settings if safetensors else {}))
    folder = export_adapterhub_fusion(made, tmp_path / "f", base=base, joined=["a", "b"], safetensors=safetensors)
    again, report = import_adapterhub(folder, base, name="f", role="fusion")
    equal(made, again)
    assert again.info.components == made.info.components and again.info.training["joins"] == ["a", "b"]
    assert ("query_before_ln false" in str(report)) == (not safetensors) and "key.bias" in str(report)
    twice = export_adapterhub(again, tmp_path / "again", base=base)
    assert json.loads((twice / CONFIG).read_text())["adapter_names"] == ["a", "b"]
    if not safetensors:
        keys = {key for key in torch.load(folder / BIN) if f"{LAYOUTS[family].layer}.0." in key}
        place = f"{LAYOUTS[family].prefix}.{LAYOUTS[family].at('layer.0.ffn')}.adapter_fusion_layer.a,b."
        assert keys == {place + end for end in ("query.weight", "query.bias", "key.weight", "key.bias", "value.weight")}


@pytest.mark.parametrize(("parts", "reads"), [("pfeiffer", "sum_norm"), (HOULSBY, "output")])
def test_a_setup_with_a_fusion_comes_back(base, parts, reads, tmp_path):
    places = ["ffn"] if parts == "pfeiffer" else ["attention", "ffn"]
    modules = four(base, parts, places=places, reads=reads)
    folder = export_modules("swa + fuse(a, b; f)", modules, "adapterhub", tmp_path / "s", base=base)
    assert sorted(p.name for p in folder.iterdir()) == ["a", "a,b", "adapter_setup.json", "b", "swa"]
    composition, again, reports = import_adapterhub_setup(folder, base, roles=ROLES)
    assert str(composition) == "swa + fuse(a, b; a_b)" and "acts otherwise" not in str(reports[-1])
    assert again["a_b"].info.components["fusion"].reads == reads
    for ours, theirs in zip(("swa", "a", "b", "f"), ("swa", "a", "b", "a_b")):
        equal(modules[ours], again[theirs])
    there = hidden(base, again, str(composition))
    assert torch.equal(hidden(base, modules, "swa + fuse(a, b; f)"), there)


def test_a_head_beside_a_fusion_layer(base, tmp_path):
    made = fusion(base, labels=("O", "B-PER"))
    folder = export_adapterhub_fusion(made, tmp_path / "f", base=base, joined=["a", "b"])
    again, _ = import_adapterhub(folder, base, name="f", role="fusion", task="ner")
    equal(made, again)
    assert again.info.labels == ("O", "B-PER") and again.info.task == "ner"
    assert import_adapterhub(folder, base, name="f", role="fusion")[0].head is None


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"residual_before": True}, ConfigError, "residual_before=true.*Nothing was loaded"),
        ({"querry": True}, ConfigError, "querry.*did you mean 'query'"),
        ({"key": "yes"}, ConfigError, "key.*'yes'"),
        ({"key": False, "query": False, "value": False}, ConfigError, "nothing is learnt"),
        ({"value": False}, StoreError, "tensors that its config does not explain"),
        (lambda full: full | {"config": 3}, ConfigError, "config is 3"),
        (lambda full: full | {"adapter_names": [1, 2]}, StoreError, "adapter_names"),
        (lambda full: full | {"hidden_size": 64}, BaseError, "width: adapter 64, base 32"),
        (lambda full: full | {"name": "x,y"}, StoreError, "'a,b'.*'x,y'"),
    ],
)
def test_bad_fusion_files_are_refused(base, tmp_path, change, error, words):
    folder = export_adapterhub_fusion(fusion(base), tmp_path / "f", base=base, joined=["a", "b"])
    edit(folder, change, file=CONFIG)
    with pytest.raises(error, match=f"(?s){words}"):
        import_adapterhub(folder, base, name="f", role="fusion")


def test_a_layer_that_is_not_there_is_left_out_and_half_a_layer_refused(base, tmp_path):
    folder = export_adapterhub_fusion(fusion(base), tmp_path / "f", base=base, joined=["a", "b"])
    tensors = torch.load(folder / BIN)
    torch.save({key: value for key, value in tensors.items() if ".layer.1." not in key}, folder / BIN)
    assert import_adapterhub(folder, base, name="f", role="fusion")[0].info.components["fusion"].leave_out == (1,)
    torch.save({key: value for key, value in tensors.items() if "key.weight" not in key}, folder / BIN)
    with pytest.raises(StoreError, match="missing: .*key.weight"):
        import_adapterhub(folder, base, name="f", role="fusion")
    torch.save({"x": torch.ones(2)}, folder / BIN)
    with pytest.raises(StoreError, match="no fusion layer"):
        import_adapterhub(folder, base, name="f", role="fusion")


def test_a_fusion_is_no_adapter_and_an_adapter_no_fusion(base, tmp_path):
    folder = export_adapterhub_fusion(fusion(base), tmp_path / "f", base=base, joined=["a", "b"])
    with pytest.raises(StoreError, match="role fusion"):
        import_adapterhub(folder, base, name="f", role="task")
    adapter = export_adapterhub(module(base, "pfeiffer"), tmp_path / "swa", base=base)
    with pytest.raises(StoreError, match="not a fusion.*role language or task"):
        import_adapterhub(adapter, base, name="f", role="fusion")
    with pytest.raises(ConfigError, match="does not record.*fuse\\(a, b; f\\)"):
        export_adapterhub(fusion(base), tmp_path / "g", base=base)
    for settings, words in (({"places": ["layer"]}, "at layer"), ({"regularization": 0.5}, "0.5")):
        with pytest.raises(ConfigError, match=words):
            export_adapterhub_fusion(fusion(base, **settings), tmp_path / "g", base=base, joined=["a", "b"])


@pytest.mark.parametrize(
    ("composition", "parts", "words"),
    [
        ("fuse(a, b; f)", "lora", "lora of a"),
        ("fuse(a, b; f)", "madx", "invertible of a"),
        ("fuse(a, b; f)", {"bottleneck": {"residual": "sum"}}, r"f\(z\)"),
        ("fuse(a, b; f)", "parallel", r"f\(z\)"),
        ("fuse(a, b; f)", {"bottleneck": {"reads": "output"}}, "query of f"),
        ("fuse(swa + a, b; f)", "pfeiffer", r"swa \+ a"),
        ("average(fuse(a, b; f), swa)", "pfeiffer", "twice"),
    ],
)
def test_a_fusion_that_the_peer_computes_otherwise_is_not_written(base, composition, parts, words, tmp_path):
    with pytest.raises(ConfigError, match=f"(?s)would act otherwise.*{words}"):
        export_adapterhub_setup(composition, four(base, parts), tmp_path / "s", base=base)
    assert not (tmp_path / "s").exists()


def test_on_the_command_line(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_base(tmp_path / "base")
    export_adapterhub_fusion(fusion(base), "f", base=base, joined=["a", "b"])
    flags = ("modules", "import", "f", "--from", "adapterhub", "--name", "f", "--base", "base")
    assert "role fusion" in failed(run(*flags, "--role", "language", "--language", "swa"))
    done = run(*flags, "--role", "fusion", "--allow-base-mismatch")
    assert done.exit_code == 0 and "fusion: defaults" in done.stdout, (done.output, done.exception)
    done = run("modules", "export", "f", "--to", "adapterhub", "--out", "again", "--base", "base")
    assert done.exit_code == 0 and (tmp_path / "again" / CONFIG).is_file(), (done.output, done.exception)
