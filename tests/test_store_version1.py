"""Modules that madx 0.1.0 stored (format 1) are read whole, act as they did there, and are written as format 2."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from cli_tools import run
from safetensors.torch import load_file
from store_tools import alter, forge, same

from madx.engine import Engine
from madx.errors import StoreError
from madx.module_types import MODULE_TYPES
from madx.store import LAYOUT, Store, load_module, read_info, read_stored, write_stored
from madx.store.module_json import from_text, to_text
from madx.store.version1 import current_keys, current_names

FIXTURES = Path(__file__).parent / "fixtures" / "v1"  # made by fixtures/make_v1.py
NAMES = ["ner", "swa"]


@pytest.fixture(scope="module")
def base():
    return tiny.fixed_base()


@pytest.fixture
def old(tmp_path):
    """A store of both modules that may be altered."""
    shutil.copytree(FIXTURES, tmp_path / "old")
    return Store(tmp_path / "old")


def content(folder) -> dict:
    return json.loads((folder / LAYOUT.manifest).read_text())


def test_they_act_as_they_did(base):
    expected = load_file(FIXTURES / "outputs.safetensors")
    engine = Engine(base)
    for name in NAMES:
        engine.attach(load_module(FIXTURES / name, base))  # the fingerprint of the base is compared
    with torch.no_grad():
        for composition in ("swa", "swa + ner"):
            engine.activate(composition)
            hidden = engine(*tiny.inputs())
            torch.testing.assert_close(hidden, expected[f"hidden.{composition}"], rtol=0, atol=1e-5)
        torch.testing.assert_close(engine.label_logits(hidden), expected["logits.swa + ner"], rtol=0, atol=1e-5)
        engine.activate(None)
        assert (engine(*tiny.inputs()) - expected["hidden.swa"]).abs().max() > 0.01, "the delta matters"
        engine.activate("ner")
        assert (engine(*tiny.inputs()) - expected["hidden.swa + ner"]).abs().max() > 0.01


def test_the_whole_record_is_read():
    info = read_info(FIXTURES / "ner")
    assert (info.name, info.role, info.language, info.task) == ("ner", "task", "eng", "ner")
    assert info.labels == ("O", "B-PER", "I-PER") and list(info.components) == ["bottleneck"]
    assert info.components["bottleneck"].reduction_factor == 16.0 and info.components["bottleneck"].leave_out == (1,)
    assert info.training == content(FIXTURES / "ner")["training"] and info.training["scores"]["dev"]["loss"] == "inf"
    swa = read_info(FIXTURES / "swa")
    assert swa.licence == "CC-BY-4.0" and swa.components["sparse_diff"].entries == 40


def test_they_are_whole_in_a_store(base, old):
    assert [(row.name, row.fault) for row in old.list()] == [("ner", None), ("swa", None)]
    assert old.verify() == [] and old.verify(base=base) == []


def test_verifying_says_that_their_records_have_no_checksum(base, old, caplog):
    """Swapped labels load: nothing can tell. So whoever verifies such a module is told what was not compared."""
    alter(old.root / "ner", lambda c: c.update(labels=["O", "I-PER", "B-PER"]))
    assert old.verify() == [] and old.unguarded() == ["ner", "swa"]
    assert "ner, swa: stored in format 1" in caplog.text and "no checksum" in caplog.text
    assert "store.save(store.load(name, base), overwrite=True)" in caplog.text
    shown = run("modules", "verify", "--store", old.root)
    assert shown.exit_code == 0 and "no checksum" in shown.output + shown.stderr
    old.save(old.load("ner", base), overwrite=True)
    caplog.clear()
    assert old.verify("ner") == [] and caplog.text == "" and old.unguarded() == ["swa"]
    alter(old.root / "ner", lambda c: c.update(labels=["O", "B-PER", "I-PER"]), mend=False)
    assert "checksum" in old.verify("ner")[0]


@pytest.mark.parametrize("name", NAMES)
def test_saving_writes_the_current_format(name, base, old, tmp_path):
    loaded, new = old.load(name, base), Store(tmp_path / "new")
    folder = new.save(loaded)
    assert content(folder)["format"] == 2 and {"components", "checksum"} <= content(folder).keys()
    assert not any(tensor.startswith("parameters.") for tensor in load_file(folder / LAYOUT.weights))
    again = new.load(name, base)
    assert same(again, loaded) and again.info == loaded.info and new.verify(base=base) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_without_a_base_becomes_current_and_equal_to_what_is_saved(name, base, old, tmp_path):
    manifest, data, card = read_stored(old.root / name)
    copied = write_stored(tmp_path / "copied" / name, manifest, data, card=card)
    saved = Store(tmp_path / "saved").save(old.load(name, base))
    assert (copied / LAYOUT.weights).read_bytes() == (saved / LAYOUT.weights).read_bytes()
    assert _without_new_defaults(copied) == _without_new_defaults(saved)
    assert Store(tmp_path / "copied").verify(base=base) == []
    unchanged = (copied / LAYOUT.weights).read_bytes() == (FIXTURES / name / LAYOUT.weights).read_bytes()
    assert unchanged == (name == "ner"), "only tensors of weight deltas have other names"


def _without_new_defaults(folder):
    """A record without its checksum and without settings of components that are the default: a type may have got
    settings since the record was written, which a record that is only copied does not name."""
    content = json.loads((folder / LAYOUT.manifest).read_text())
    del content["checksum"]
    for component in content["components"]:
        default = MODULE_TYPES.get(component["type"]).Config().model_dump(mode="json")
        component["settings"] = {k: v for k, v in component["settings"].items() if v != default.get(k)}
    return content


def test_a_record_alone_is_not_written_in_another_format():
    manifest = from_text((FIXTURES / "swa" / LAYOUT.manifest).read_bytes(), "module.json")
    with pytest.raises(StoreError, match="'swa' has format 1 .*read_stored"):
        to_text(manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["parts"][0].update(type="sparse_dif"), "parts: .*'sparse_dif'; did you mean 'sparse_diff'"),
        (lambda c: c["parts"][0].pop("type"), "parts.0.type: missing"),
        (lambda c: c.update(components=[]), "parts: unknown key"),
        (lambda c: c.pop("parts"), "parts: missing"),
        (lambda c: c.update(checksum="0" * 64), "checksum: unknown key"),
        (lambda c: c["training"].update(seed="x"), "training.seed: "),
        (lambda c: c["weights"].update(sha256="0" * 64), "module.json records 000000000000"),
        (lambda c: c.update(format=2), "(?s)components: missing.*parts: unknown key.*checksum: missing"),
    ],
)
def test_damage_is_told_in_the_words_of_the_file(change, message, base, old):
    alter(old.root / "swa", change)
    with pytest.raises(StoreError, match=message):
        old.load("swa", base)
    assert [row.name for row in old.list()] == NAMES and old.list()[0].fault is None


def test_damaged_tensors_are_told(base, old):
    forge(old.root / "swa", lambda t: t["parameters.sparse_diff.values"].__setitem__(3, float("nan")))
    with pytest.raises(StoreError, match="weights.sparse_diff.*not a number"):
        old.load("swa", base)


def test_names():
    assert current_keys({"format": 1, "parts": [], "name": "parts"}) == {"format": 1, "components": [], "name": "parts"}
    assert list(current_keys({"parts": 1, "components": 2})) == ["parts", "components"]
    tensors = {"parameters.sparse_diff.parameters": torch.zeros(1), "layer.0.ffn.parameters.w": torch.zeros(1)}
    assert list(current_names(tensors)) == ["weights.sparse_diff.parameters", "layer.0.ffn.parameters.w"]
