"""The facade `madx.Transfer`: from texts to tags in four lines, and never the base's answer in silence."""

import unicodedata

import pytest
import torch
from tiny_files import fill

import madx
from madx.data.labelled.batches import collate
from madx.data.labelled.conll import read_conll
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.errors import CompositionError, ConfigError, DataError, MadxError, StoreError
from madx.jobs import Predictor
from madx.store import Store
from madx.tasks.ner import NER
from madx.tasks.token_classification import word_logits

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


def test_entities_have_their_place_in_the_text_as_given_and_a_confidence(t):
    """Offsets count characters of the text itself: decomposed letters, joiners and doubled spaces are not mended."""
    text = "the  Juma\u0301 Anna lives\u00a0in O\u0323\u0300yo\u0323\u0301-Ile\u0301, Anna."
    found = t.predict(text, language="swa")
    assert (
        found.text == text
        and found.tokens[1] == "Juma\u0301"
        and found.tokens[5] == "O\u0323\u0300yo\u0323\u0301-Ile\u0301"
    )
    assert found.offsets[1] == (5, 10) and len(found.offsets) == len(found.tags) == len(found.scores) == 9
    composed = t.predict(unicodedata.normalize("NFC", text), language="swa")
    assert composed.tags == found.tags and composed.scores == pytest.approx(found.scores), "the base reads NFC"
    assert found.entities
    for entity in found.entities:
        assert text[entity.start : entity.end] == entity.text
        inside = slice(entity.first_word, entity.end_word)
        assert entity.score == pytest.approx(sum(found.scores[inside]) / len(found.scores[inside]))
        assert entity.to_dict() == {
            "entity_group": entity.type,
            "score": round(entity.score, 6),
            "word": entity.text,
            "start": entity.start,
            "end": entity.end,
        }


def test_scores_are_the_probabilities_of_the_tags(t):
    found = t.predict(LINE, language="swa")
    engine = t.engine
    job = NER(engine.base.tokenizer, LabelSet(engine.module("ner@1").info.labels), max_length=32)
    with engine.using("swa + ner@1"), torch.no_grad():
        logits = word_logits(
            engine, collate(job.rows_of([Sentence(found.tokens, ())]), engine.base.tokenizer.pad_token_id)
        )
    chances = logits.softmax(-1)
    assert found.scores == pytest.approx(chances.max(-1).values.tolist(), rel=1e-4)
    assert 1 / len(job.labels) <= min(found.scores) <= max(found.scores) <= 1


def test_words_given_as_a_list_have_their_places_in_the_joined_text(t):
    (found,) = t.predict([["the", "New York", "Anna"]], language="swa")
    assert found.text == "the New York Anna" and found.offsets == ((0, 3), (4, 12), (13, 17))
    assert found.tokens == ("the", "New York", "Anna")


def test_half_a_surrogate_pair_is_refused_with_its_place(t):
    with pytest.raises(DataError, match=r"index 1, character 3: \\ud83d is half"):
        t.predict(["Anna", "is\ud83d"], language="swa")


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
        found = t.predict(LINE, language="swa", task="pos")
        assert found.tags == ("NOUN",) * 6 and found.scores == (1,) * 6 and found.entities == []
        assert found.to_dict()["words"][1] == {"entity": "NOUN", "score": 1, "word": "Juma", "start": 4, "end": 8}
    finally:
        t.store.remove("pos")


def test_a_base_of_another_kind_is_refused(t):
    other = madx.Transfer("other", store="modules")
    with pytest.raises(MadxError, match="was made for the base"):
        other.predict(LINE, language="swa")
    other.close()


@pytest.mark.parametrize("line", [5, None, ("swa",), ("swa", 5), b"Juma"])
def test_a_line_that_is_no_text_is_refused(t, line):
    predictor = Predictor("swa + ner@1", store="modules", base="base")
    with pytest.raises(DataError, match="Line 2 is .*give text, or a pair of language and text"):
        list(predictor(["Juma", line]))
