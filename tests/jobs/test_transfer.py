"""The facade `madx.Transfer`: from texts to tags in four lines, and never the base's answer in silence."""

import pytest
from tiny_files import fill

import madx
from madx.data.labelled.conll import read_conll
from madx.data.labelled.sentences import Sentence
from madx.errors import CompositionError, ConfigError, MadxError, StoreError
from madx.jobs import Predictor
from madx.store import Store

SMALL = {"block_size": 16, "batch_size": 4, "held_out_blocks": 4, "cache": "cache", "progress": False}
LINE = "the Juma lives in city ."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a facade whose language modules eng, swa and task modules ner@1, ner@2 were trained by it."""
    folder = fill(tmp_path_factory.mktemp("transfer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MADX_CACHE", str(folder / "kept"))
        t = madx.Transfer("base", store="modules")
        for language in ("eng", "swa"):
            t.train_language(language, f"{language}.txt", steps=4, learning_rate=1e-2, **SMALL)
        data = {key: read_conll(f"{key}.conll") for key in ("train", "dev")}
        t.train_task("ner", language="eng", **data, seeds=[1, 2], epochs=2, learning_rate=1e-2, progress=False)
    return folder, t


@pytest.fixture
def t(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[1]


def test_the_jobs_get_their_settings(t):
    store = Store("modules")
    assert store.names() == ["eng", "ner@1", "ner@2", "swa"] and "eng, ner@1" in repr(t)
    settings = store.show("swa").info.training["settings"]
    assert (settings["steps"], settings["batch_size"], settings["train"]["learning_rate"]) == (4, 4, 1e-2)
    task = store.show("ner@2").info
    assert task.training["composition"] == "eng + ner@2" and task.training["settings"]["train"]["progress"] is False


def test_predict_is_what_the_stack_predicts(t):
    found = t.predict(LINE, language="swa")
    (wanted,) = Predictor("swa + ner@1", store="modules", base="base")([LINE])
    assert found == wanted and len(found.tags) == 6  # of several seeds the smallest
    assert t.predict([LINE, "", "the market"], language="swa", seed=2) == list(
        Predictor("swa + ner@2", store="modules", base="base")([LINE, "", "the market"])
    )
    (bare,) = Predictor("ner@1", store="modules", base="base")([LINE])
    assert t.predict(LINE, language="base").tags == bare.tags
    (mean,) = Predictor("average(eng, swa) + ner@1", store="modules", base="base")([LINE])
    assert t.predict(LINE, language="average(eng, swa)").tags == mean.tags
    assert t.engine.composition.names() == (), "nothing stays active"


def test_predict_takes_words_and_labelled_sentences(t):
    tokens = LINE.split()
    wanted = t.predict([LINE], language="swa")
    for form in (
        [tokens],
        [(tokens, ["O"] * 6)],
        [Sentence(tuple(tokens), ())],
        [{"tokens": tokens}],
    ):
        assert t.predict(form, language="swa") == wanted
    assert t.predict([], language="swa") == [] and t.predict("", language="swa").tags == ()


@pytest.mark.parametrize(
    ("call", "error", "wanted"),
    [
        (dict(language="yor"), StoreError, ["'yor'", "eng, swa", "train_language('yor'", "language='base'"]),
        (dict(language="ner@1"), StoreError, ["No language module 'ner@1'"]),
        (dict(language="average(swa, yor)"), StoreError, ["'yor'"]),
        (dict(language="route(swa, eng)"), CompositionError, ["route"]),
        (dict(language="swa", task="pos"), StoreError, ["pos"]),
        (dict(language="swa", task="eng"), CompositionError, ["'eng' predicts no labels"]),
        (dict(language="swa", seed=7), StoreError, ["seed 7", "stored seeds: 1, 2"]),
    ],
)
def test_a_prediction_that_cannot_be_is_refused(t, call, error, wanted):
    with pytest.raises(error) as caught:
        t.predict(LINE, **call)
    assert all(text in str(caught.value) for text in wanted), caught.value


def test_a_language_whose_module_has_another_name_is_pointed_to_it(t):
    module = madx.new_module("lt-kin", t.engine.base, language="kin", components="madx")
    t.save(module)
    try:
        with pytest.raises(StoreError, match="'kin'.*did you mean 'lt-kin'"):
            t.predict(LINE, language="kin")
        assert t.predict(LINE, language="lt-kin").tokens
    finally:
        t.store.remove("lt-kin")


def test_evaluate_takes_all_seeds(t):
    found = t.evaluate({"swa": read_conll("swa-test.conll")}, progress=False, run="results")
    assert {(c.control, c.seed) for c in found.matrix.cells} == {
        (control, seed) for control in ("none", "source", "target", "mean") for seed in (1, 2)
    }


def test_a_module_trained_anew_is_the_one_that_predicts(t):
    before = t.engine.base
    t.predict(LINE, language="swa")
    t.train_language("tmp", "swa.txt", steps=1, **SMALL)
    assert t.engine.base is not before, "one base in memory: the engine was closed while the job had its own"
    t.store.remove("tmp")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (dict(learning_rat=1), ["'learning_rat'", "did you mean 'learning_rate'"]),
        (dict(base="other"), ["'base'"]),
        (dict(train={"warmup": 0.1}, learning_rate=1e-3), ["learning_rate", "both given"]),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_read(t, settings, wanted):
    with pytest.raises(ConfigError) as error:
        t.train_language("swa", "none.txt", **settings)
    assert all(text in str(error.value) for text in wanted), error.value


@pytest.mark.parametrize("train", [madx.TrainSettings(), {"learning_rate": 1e-3}])
def test_train_is_the_labelled_data(t, train):
    with pytest.raises(ConfigError, match=r"labelled training data.*learning_rate=1e-3"):
        t.train_task("ner", language="eng", train=train, dev="dev.conll")


def test_a_store_without_or_with_several_task_modules(t, tmp_path):
    with pytest.raises(StoreError, match=r"no task module.*train_task"):
        madx.Transfer("base", store=tmp_path / "empty").predict("a", language="base")
    other = madx.new_module("pos", t.engine.base, role="task", components="head_only", task="pos", labels=("NOUN",))
    t.save(other)
    try:
        with pytest.raises(StoreError, match="several task modules, ner, pos.*task='ner'"):
            t.predict(LINE, language="swa")
        assert t.predict(LINE, language="swa", task="pos").tags == ("NOUN",) * 6
    finally:
        t.store.remove("pos")


def test_a_base_of_another_kind_is_refused(t):
    other = madx.Transfer("other", store="modules")
    with pytest.raises(MadxError, match="was made for the base"):
        other.predict(LINE, language="swa")
    other.close()
