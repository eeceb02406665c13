"""The quick start, small: all three jobs on the miniature world, and everything used again the second time."""

import json
import shutil

import pytest

from madx.base import load_base
from madx.data import world
from madx.errors import ConfigError
from madx.jobs import TrainLanguage
from madx.jobs.quickstart import Quickstart, language_job, quickstart
from madx.jobs.reuse import identity, stored
from madx.store import Store

pytestmark = pytest.mark.slow  # the quick start trains five modules

SMALL = dict(
    targets=["swa"],
    seeds=[1, 2],
    corpus_sentences=400,
    train_sentences=120,
    test_sentences=60,
    language_steps=4,
    epochs=1,
    progress=False,
)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    settings = Quickstart(out=str(tmp_path_factory.mktemp("quickstart")), **SMALL)
    return settings, quickstart(settings)


def test_the_matrix_has_the_four_controls_and_every_module_acts(first):
    settings, result = first
    cells = {(c.target, c.control, c.seed): c for c in result.matrix.cells}
    assert {k[:2] for k in cells} == {("swa", c) for c in ("none", "source", "target", "mean")} | {
        ("eng", c) for c in ("none", "source", "mean")
    }
    assert (
        cells["swa", "target", 2].composition == "swa + ner@2" and cells["swa", "mean", 1].composition == "eng + ner@1"
    )
    assert all(c.inactive == () and c.explanation["measured"] for c in result.matrix.cells)
    assert result.reused == [] and result.matrix.warnings() == []
    assert "synthetic" in result.matrix.meta.note
    for name in ("matrix.json", "matrix.csv", "matrix.md", "heatmap.png"):
        assert (result.folder / "results" / name).stat().st_size > 0
    predicted = (result.folder / "results" / "predictions" / "swa.target.seed1.conll").read_text()
    assert len(predicted.splitlines()[0].split("\t")) == 3  # word, gold, predicted


def test_a_second_run_uses_what_is_stored_and_gives_the_same_scores(first):
    settings, result = first
    again = quickstart(settings)
    assert again.reused == ["eng", "swa", "ner@1", "ner@2"]
    assert [c.scores for c in again.matrix.cells] == [c.scores for c in result.matrix.cells]


def test_other_settings_or_another_source_module_train_anew(first, tmp_path):
    settings, result = first
    shutil.copytree(result.folder, tmp_path / "copy")
    changed = quickstart(settings.model_copy(update={"out": str(tmp_path / "copy"), "language_steps": 5}))
    assert changed.reused == []  # the task modules were trained over the old English module
    store = Store(tmp_path / "copy" / "modules")
    info = json.loads((store.root / "ner@1" / "module.json").read_text())
    assert info["training"]["language_module"] == store.show("eng").weights.sha256


def test_modules_of_seeds_that_were_not_asked_for_are_not_scored(first, tmp_path):
    """Stored by a run before, and perhaps over another English module."""
    settings, result = first
    shutil.copytree(result.folder, tmp_path / "copy")
    found = quickstart(settings.model_copy(update={"out": str(tmp_path / "copy"), "seeds": [2]}))
    assert {c.seed for c in found.matrix.cells} == {2} and "ner@1" in Store(tmp_path / "copy" / "modules").names()


def test_other_text_is_another_module_and_the_same_text_elsewhere_is_not(first, tmp_path):
    settings, result = first
    base, store, job = load_base(world.BASE), Store(result.folder / "modules"), language_job(settings, "swa")
    for sentences, same in ((settings.corpus_sentences, True), (300, False)):
        text = world.write_corpus("swa", tmp_path / f"{sentences}.txt", sentences=sentences, seed=1)
        wanted = identity(job.model_copy(update={"corpus": str(text), "run": "elsewhere"}), base, seed=1)
        assert stored(store, "swa", wanted, TrainLanguage) is same
    assert not stored(store, "swa", identity(job, base, seed=2), TrainLanguage)
    base.fingerprint = "0" * 64
    assert not stored(store, "swa", identity(job, base, seed=1), TrainLanguage)


def test_unknown_target():
    with pytest.raises(ConfigError, match="No target language 'swh'"):
        quickstart(Quickstart(targets=["swh"]))


def test_sparse_differences_have_a_folder_of_their_own(tmp_path):
    settings = Quickstart(out=str(tmp_path), module_type="sparse_diff", **{**SMALL, "seeds": [1]})
    result = quickstart(settings)
    assert result.folder == tmp_path / "sparse_diff" and not (tmp_path / "modules").exists()
    assert {c.control for c in result.matrix.cells} == {"none", "source", "target", "mean"}
    assert all(c.inactive == () for c in result.matrix.cells)
    assert set(Store(result.folder / "modules").show("swa").info.components) == {"sparse_diff"}
    assert quickstart(settings).reused == ["eng", "swa", "ner@1"]
