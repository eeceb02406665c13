"""The number format of an evaluation: what it changes, what it leaves, and that every report says so."""

import errno
import os

import pytest
import tiny
import tiny_files
from store_tools import alter

from madx.base import load_base
from madx.errors import MadxError, StoreError
from madx.jobs import Evaluate, Predictor, evaluate
from madx.module import new_module
from madx.store import Store

LABELS = ("O", "B-PER", "B-LOC")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with modules of eng and swa, a difference of weights for deu, the task module ner, and a test set."""
    at = tmp_path_factory.mktemp("evaluate")
    base, store = load_base(tiny_files.save_base(at / "base")), Store(at / "modules")
    for seed, language in enumerate(("eng", "swa")):
        store.save(tiny.wake(new_module(language, base, language=language, components="madx"), seed=seed, std=0.1))
    store.save(new_module("deu", base, language="deu", components="lt_sft"))
    task = new_module("ner", base, role="task", language="eng", components="pfeiffer", task="ner", labels=LABELS)
    store.save(tiny.wake(task, seed=1, std=0.2))
    tiny_files.write_conll(at / "test.conll", sentences=30, seed=3)
    return at


def result(folder, **changes):
    given = {
        "base": str(folder / "base"),
        "store": str(folder / "modules"),
        "run": str(folder / "run"),
        "progress": False,
        "targets": {"swa": str(folder / "test.conll")},
        "task_module": "ner",
    }
    return evaluate(Evaluate(**(given | changes)))


def tags(found):
    return [
        line.split()
        for line in (found.folder / "predictions" / "swa.target.seed0.conll").read_text().splitlines()
        if line
    ]


def refusing(monkeypatch, name):
    """Let the disk be full when a file of that name takes its place."""
    real = os.replace

    def replace(a, b):
        if str(b).endswith(name):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)


def test_a_full_disk_loses_nothing_and_shows_scores_that_cannot_be_stored(folder, tmp_path, monkeypatch, caplog):
    run = tmp_path / "run"
    result(folder, run=str(run))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name in ("swa.target.seed0.conll", "matrix.json", "matrix.md", "modules.json", "report.html"):
        with monkeypatch.context() as patch:
            refusing(patch, name)
            with pytest.raises(MadxError, match="(?i)cannot write.*disk is full.*unchanged"):
                result(folder, run=str(run))
        assert {path for path in run.rglob("*") if path.is_file()} == before.keys()
        assert ("scores cannot be stored" in caplog.text and "| swa" in caplog.text) == name.startswith("matrix")
        caplog.clear()
    assert (run / "report.html").read_bytes() == before[run / "report.html"]


@pytest.mark.parametrize("place", ["file", "file/in", "a\0b"], ids=ascii)
def test_a_folder_that_cannot_be_is_found_before_the_base_is_loaded(place, folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MadxError, match="Cannot keep results in"):
        result(folder, run=f"{tmp_path}/{place}", base="no-such-base")


def test_predictions_that_a_link_would_take_elsewhere(folder, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir(), elsewhere.mkdir()
    (elsewhere / "mine.conll").touch()
    (run / "predictions").symlink_to(elsewhere)
    for predictions in (True, False):
        with pytest.raises(MadxError, match="leads out of the folder"):
            result(folder, run=str(run), predictions=predictions)
    assert [path.name for path in elsewhere.iterdir()] == ["mine.conll"]


def test_bf16_moves_few_tags_and_every_report_says_so(folder, tmp_path):
    exact, half = (
        result(folder, run=str(tmp_path / "fp32")),
        result(folder, run=str(tmp_path / "bf16"), precision="bf16"),
    )
    assert (exact.matrix.meta.base, half.matrix.meta.base) == (
        exact.matrix.meta.base,
        f"{exact.matrix.meta.base} in bfloat16",
    )
    assert "bfloat16" not in exact.matrix.meta.base
    for file in ("report.md", "report.html"):
        assert (
            "in bfloat16" in (half.folder / file).read_text() and "in bfloat16" not in (exact.folder / file).read_text()
        )
    one, other = tags(exact), tags(half)
    same = sum(a == b for a, b in zip(one, other)) / len(one)
    assert len(one) == len(other) > 50 and same > 0.9
    assert all(cell.inactive == () for cell in half.matrix.cells)


def test_with_differences_of_weights_the_base_stays_exact(folder, tmp_path):
    found = result(folder, run=str(tmp_path / "run"), precision="bf16", modules={"swa": "deu"})
    assert "bfloat16" not in found.matrix.meta.base


def test_predictions_of_a_run_before_are_not_shown_as_this_ones(folder, tmp_path):
    run = str(tmp_path / "run")
    found = result(folder, run=run)
    assert len(list((found.folder / "predictions").glob("*.conll"))) == len(found.matrix.cells) > 1
    result(folder, run=run, controls=["target"])
    assert [p.name for p in (found.folder / "predictions").iterdir()] == ["swa.target.seed0.conll"]
    again = result(folder, run=run, predictions=False)
    assert not list((found.folder / "predictions").iterdir())
    assert "B-PER" not in (again.folder / "report.md").read_text()


def test_a_task_module_that_records_no_source_is_evaluated_without_it(folder, tmp_path):
    """One that was imported."""
    base, store = load_base(folder / "base"), Store(folder / "modules")
    task = new_module("foreign", base, role="task", components="pfeiffer", task="ner", labels=LABELS)
    store.save(tiny.wake(task, seed=1, std=0.2))
    found = result(folder, run=str(tmp_path / "run"), task_module="foreign")
    (missing,) = [m for m in found.matrix.missing if m.control == "source"]
    assert "source=LANGUAGE" in missing.reason and {c.control for c in found.matrix.cells} >= {"none", "target"}
    found = result(folder, run=str(tmp_path / "given"), task_module="foreign", source="eng")
    assert "source" in {c.control for c in found.matrix.cells}


def test_the_seeds_that_were_asked_for(folder, tmp_path):
    base, store = load_base(folder / "base"), Store(folder / "modules")
    for seed in (1, 2, 3):
        module = new_module(
            f"pos@{seed}", base, role="task", language="eng", components="pfeiffer", task="ner", labels=LABELS
        )
        module.info.training["seed"] = seed
        store.save(tiny.wake(module, seed=seed, std=0.2))
    for seeds, expected in ((None, {1, 2, 3}), ([1, 3], {1, 3})):
        found = result(folder, run=str(tmp_path / str(seeds)), task_module="pos", seeds=seeds, controls=["target"])
        assert {c.seed for c in found.matrix.cells} == expected
    with pytest.raises(StoreError, match="pos@4"):
        result(folder, task_module="pos", seeds=[4])


def test_the_recorded_revision_of_the_base_is_the_one_that_is_loaded(folder, tmp_path, monkeypatch):
    store, asked = Store(folder / "modules"), []
    path = store.root / "ner" / "module.json"
    text = path.read_text()
    assert '"revision": null' in text
    monkeypatch.setattr(
        "madx.jobs.common.load_base", lambda name, *, revision: (asked.append((name, revision)), load_base(name))[1]
    )
    monkeypatch.setattr(
        "madx.jobs.predict.load_base",
        lambda name, *, revision=None: (asked.append((name, revision)), load_base(name))[1],
    )
    alter(path.parent, lambda content: content["base"].update(revision="0123abc"))
    try:
        name = str(folder / "base")
        result(folder, run=str(tmp_path / "a"), base=None)
        Predictor("swa + ner", store=str(store.root))
        result(folder, run=str(tmp_path / "b"), base=None, revision="main")
        result(folder, run=str(tmp_path / "c"), base=name)
        assert asked == [(name, "0123abc"), (name, "0123abc"), (name, "main"), (name, None)]
    finally:
        path.write_text(text)


def test_one_damaged_module_hides_no_score_of_the_others(folder, tmp_path, caplog):
    """A module that no setting names is left out with its reason; another one in the store is never looked at."""
    store = Store(folder / "modules")
    whole = result(folder, run=str(tmp_path / "whole")).matrix
    weights = store.root / "swa" / "weights.safetensors"
    kept, other = weights.read_bytes(), store.root / "zzz"
    other.mkdir()
    (other / "module.json").write_text("[" * 1000)
    targets = {"swa": str(folder / "test.conll"), "eng": str(folder / "test.conll")}
    card = store.root / "eng" / "README.md"
    text = card.read_text()
    card.unlink()  # a module without its card is whole enough
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        found = result(folder, run=str(tmp_path / "a"), targets=targets).matrix
        (why,) = [m.reason for m in found.missing if (m.target, m.control) == ("swa", "target")]
        assert "the module is damaged: swa: " in why and "sha256" in why
        assert found.group("swa", "none")[0].scores == whole.group("swa", "none")[0].scores
        assert found.group("swa", "source") and found.group("eng", "source")
        assert "The module swa: " in caplog.text and "it is left out" in caplog.text and "zzz" not in caplog.text
        with pytest.raises(StoreError, match="swa.*damaged or was altered: its sha256"):
            result(folder, run=str(tmp_path / "b"), modules={"swa": "swa"})
        assert [row.name for row in store.list() if row.fault] == ["zzz"] and len(store.list()) >= 5
        assert {fault.split(":")[0] for fault in store.verify()} == {"eng", "swa", "zzz"}
    finally:
        card.write_text(text)
        weights.write_bytes(kept)
        (other / "module.json").unlink()
        other.rmdir()
