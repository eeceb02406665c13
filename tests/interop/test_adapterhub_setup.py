"""Compositions saved as an AdapterHub setup."""

import json

import pytest
import tiny
import torch

from madx.errors import CompositionError, ConfigError, MadxError, StoreError
from madx.interop import export_adapterhub_setup, import_adapterhub_setup
from madx.module import new_module

ROLES = {"swa": "language", "ner": "task"}


@pytest.fixture
def modules(base):
    ner = new_module("ner", base, role="task", task="ner", components="pfeiffer", labels=("O", "B-PER"))
    return {"swa": tiny.wake(new_module("swa", base, language="swa")), "ner": tiny.wake(ner, seed=1)}


def tree(kind, *children, **kwargs):
    made = {
        "type": kind,
        "children": [c if isinstance(c, dict) else {"type": "single", "children": [c]} for c in children],
    }
    return made | ({"kwargs": kwargs} if kwargs else {})


def write(folder, setup):
    (folder / "adapter_setup.json").write_text(
        json.dumps({"adapter_setup": setup, "head_setup": None, "version": "adapters.1.3.0"})
    )


@pytest.mark.parametrize("safetensors", [False, True])
def test_round_trip(base, modules, tmp_path, safetensors):
    folder = export_adapterhub_setup("swa + ner", modules, tmp_path / "s", base=base, safetensors=safetensors)
    composition, again, reports = import_adapterhub_setup(
        folder, base, roles=ROLES, languages={"swa": "swa"}, task="ner"
    )
    assert str(composition) == "swa + ner" and [r.name for r in reports] == ["swa", "ner"]
    assert (
        again["swa"].info.language == "swa"
        and again["ner"].info.labels == ("O", "B-PER")
        and again["swa"].info.task is None
    )
    for name, module in modules.items():
        assert all(
            torch.equal(a, b) for a, b in zip(module.tensors().values(), again[name].tensors().values(), strict=True)
        )


def test_average_is_read_as_a_mean(base, modules, tmp_path):
    folder = export_adapterhub_setup("swa + ner", modules, tmp_path / "s", base=base)
    write(folder, tree("Average", "swa", "ner", weights=[0.6, 1.4]))
    assert str(import_adapterhub_setup(folder, base, roles=ROLES)[0]) == "average(0.3*swa, 0.7*ner)"
    write(folder, tree("Stack", tree("Average", "swa"), "ner"))
    assert str(import_adapterhub_setup(folder, base, roles=ROLES)[0]) == "swa + ner"


def test_bad_setups_are_refused(base, modules, tmp_path):
    folder = export_adapterhub_setup("swa + ner", modules, tmp_path / "s", base=base)
    for setup, error, words in (
        (tree("Split", "swa", "ner"), ConfigError, "a block 'Split', which madx cannot read"),
        (tree("Fuse", "swa"), CompositionError, "at least two"),
        (tree("Fuse", "swa", "ner"), ConfigError, "names swa, ner, swa_ner; give each a role"),
        (tree("Parallel", "swa"), ConfigError, "'Parallel'"),
        (tree("Stack", "../swa"), CompositionError, "cannot name a module"),
        (tree("Stack", 3), CompositionError, "cannot name"),
        (tree("Stack"), StoreError, "is damaged"),
        (None, StoreError, "is damaged"),
        ([], StoreError, "is damaged"),
        (tree("Average", "swa", "ner", weights=["x", 1]), StoreError, "list of numbers"),
        (tree("Average", "swa", "ner", weights=[0, 0]), CompositionError, "finite"),
        (tree("Average", "swa", weights=[10**400]), StoreError, "list of numbers"),
        (tree("Stack", "swa", "hau"), ConfigError, "names swa, hau; give each a role"),
        (tree(["Stack"], "swa"), ConfigError, "a block"),
        (
            tree("Stack", tree("Stack", tree("Stack", tree("Stack", tree("Stack", tree("Stack", "swa")))))),
            StoreError,
            "at most 4 deep",
        ),
    ):
        write(folder, setup)
        with pytest.raises(error, match=words):
            import_adapterhub_setup(folder, base, roles=ROLES)
    (folder / "adapter_setup.json").unlink()
    with pytest.raises(StoreError, match="has no adapter_setup.json"):
        import_adapterhub_setup(folder, base, roles=ROLES)


def test_what_the_peer_computes_otherwise_is_not_written(base, modules, tmp_path):
    modules |= {"par": new_module("par", base, components="parallel"), "hau": new_module("hau", base)}
    for composition, words in (
        ("average(swa, ner)", "twice"),
        ("swa + par", "drops the changes"),
        ("swa + hau", "only the first"),
        ("base", "nothing to write"),
        ("swa + x", "No module"),
    ):
        with pytest.raises(ConfigError, match=words):
            export_adapterhub_setup(composition, modules, tmp_path / "s", base=base)
    with pytest.raises(MadxError, match="cannot be called 'to' there"):
        export_adapterhub_setup("to", {"to": new_module("to", base)}, tmp_path / "s", base=base)
    assert not list(tmp_path.iterdir())
    folder = export_adapterhub_setup("swa", modules, tmp_path / "s", base=base)
    with pytest.raises(StoreError, match="is in use"):
        export_adapterhub_setup("swa", modules, folder, base=base)
