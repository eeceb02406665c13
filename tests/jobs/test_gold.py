"""Test sets and a task module's labels in an evaluation: what is refused, what is remarked, what is scored and how."""

import json
import logging
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import tiny
import tiny_files

from madx.base import load_base
from madx.data.labelled.conll import read_conll
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import renamed
from madx.engine import Engine
from madx.errors import BaseError, CompositionError, ConfigError, DataError, MadxError
from madx.jobs import Evaluate, Predictor, TrainTask, evaluate, train_task
from madx.jobs.gold import expected_labels, scored_tags
from madx.jobs.labelled import Columns
from madx.jobs.languages import canonical
from madx.jobs.train_task.data import task_over
from madx.metrics.scores import entity_scores
from madx.module import new_module
from madx.outside import markdown
from madx.report.page import write_report
from madx.report.page.confusion import INVENTED
from madx.report.page.record import read_run
from madx.report.page.sections.errors import errors
from madx.store import Store

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with modules of eng and swa and the task module ner, whose training data are train.conll; test sets."""
    at = tmp_path_factory.mktemp("gold")
    base, store = load_base(tiny_files.save_base(at / "base")), Store(at / "modules")
    for seed, language in enumerate(("eng", "swa")):
        store.save(tiny.wake(new_module(language, base, language=language, components="madx"), seed=seed, std=0.1))
    for number, name in enumerate(("train", "test", "other")):
        tiny_files.write_conll(at / f"{name}.conll", sentences=30, seed=number)
    task = new_module("ner", base, role="task", language="eng", components="pfeiffer", task="ner", labels=LABELS)
    marks = sha256((at / "train.conll").read_bytes()).hexdigest()
    task.info.training |= {"data": [{"path": "train.conll", "sha256": marks}]}
    store.save(tiny.wake(task, seed=3, std=0.2))
    return at


def settings(folder, run, **changes):
    given = {"base": str(folder / "base"), "store": str(folder / "modules"), "run": str(run), "progress": False}
    given |= {"targets": {"swa": str(folder / "test.conll")}, "task_module": "ner", "controls": ["target"]}
    return Evaluate(**(given | changes))


def changed(folder, tmp_path, names, name="changed.conll"):
    """The test set with other types: {PER: PERSON}; None removes a type."""
    gone = [kind for kind, new in names.items() if new is None]
    kept = {kind: new for kind, new in names.items() if new is not None}
    lines = []
    for sentence in read_conll(folder / "test.conll"):
        tags = renamed(sentence.tags, ignore=gone, names=kept)
        lines += [f"{token}\t{tag}" for token, tag in zip(sentence.tokens, tags, strict=True)] + [""]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / name)


def columns_of(folder, control="target", language="swa"):
    """The gold tags and the predicted ones that a run wrote."""
    path = Path(folder) / "predictions" / f"{language}.{control}.seed0.conll"
    read = [[list(s.tags) for s in read_conll(path, token_column=0, tag_column=n, scheme="none")] for n in (1, 2)]
    return read[0], read[1]


def cell(found, control="target"):
    return next(c for c in found.matrix.cells if c.control == control)


# ---- the reading of spans --------------------------------------------------------------------------------------------


def test_scores_predictions_confusion_and_reports_use_one_reading(folder, tmp_path):
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    arguments = {"strict": {"mode": "strict", "scheme": IOB2}, "lenient": {}}
    scores = {}
    for scoring, how in arguments.items():
        found = evaluate(settings(folder, tmp_path / scoring, scoring=scoring))
        scores[scoring] = cell(found).scores
        gold, predicted = columns_of(found.folder)
        assert any(tags[0].startswith("I-") for tags in predicted), "the module predicts an I- that continues nothing"
        assert scores[scoring].f1 == pytest.approx(100 * f1_score(gold, predicted, zero_division=0, **how))
        assert json.loads((found.folder / "matrix.json").read_text())["meta"]["scoring"] == scoring
        for name in ("matrix.md", "report.md", "report.html"):
            assert f"scoring {scoring}: an I- that continues nothing" in (found.folder / name).read_text()
        (wrong,) = errors(read_run(found.folder))
        counts = {row[0]: sum(map(int, row[1:])) for row in wrong.table.rows}
        invented = counts.pop(INVENTED)
        assert sum(counts.values()) == scores[scoring].gold and invented <= scores[scoring].predicted
        assert ("begin with I- and are not counted (strict)" in wrong.confusion.note) == (scoring == "strict")
        differ = [
            entity_scores([g], [p], scoring=scoring).f1 < 100 for g, p in zip(gold, predicted) if set(g + p) != {"O"}
        ]
        assert wrong.wrong == sum(differ)
    assert scores["lenient"].predicted > scores["strict"].predicted


def test_prediction_has_the_reading_that_it_is_asked_for(folder, monkeypatch):
    stray = lambda self, engine, some, **more: [[("I-PER", 0.9)] + [("O", 0.8)] * (len(s.tokens) - 1) for s in some]  # noqa: E731
    monkeypatch.setattr("madx.tasks.ner.NER.predict_scored", stray)
    text = " ".join(read_conll(folder / "test.conll")[0].tokens)
    found = {}
    for scoring in ("strict", "lenient"):
        predictor = Predictor("swa + ner", store=str(folder / "modules"), scoring=scoring)
        (found[scoring],) = predictor([text])
    strict, lenient = (len(found[scoring].entities) for scoring in ("strict", "lenient"))
    assert found["strict"].tags == found["lenient"].tags and strict < lenient
    with pytest.raises(ConfigError, match="'loose'.*lenient"):
        Predictor("swa + ner", store=str(folder / "modules"), scoring="loose")


def test_development_data_are_scored_in_the_reading_of_the_settings(folder):
    data = str(folder / "train.conll")
    gold = [Sentence(("a", "b"), ("B-PER", "O"))]
    found = {}
    for scoring in ("strict", "lenient"):
        job = TrainTask(base="x", language="eng", data=data, dev=data, scoring=scoring)
        task = task_over(job, load_base(folder / "base"), LabelSet(LABELS), (gold, gold), seed=1)
        found[scoring] = task.score(gold, [["I-PER", "O"]]).f1
    assert found == {"strict": 0.0, "lenient": 100.0}


def test_plain_tags_have_no_reading_of_spans(folder, tmp_path):
    job = {"base": "base", "language": "eng", "data": "x", "dev": "y", "task": "pos", "scoring": "lenient"}
    for name in ("x", "y"):
        (tmp_path / name).write_text("a\tNOUN\n", encoding="utf-8")
    job |= {"data": str(tmp_path / "x"), "dev": str(tmp_path / "y"), "store": str(folder / "modules")}
    with pytest.raises(ConfigError, match="scoring=lenient.*pos"):
        train_task(TrainTask(**job))


# ---- types that are left out or renamed ------------------------------------------------------------------------------


def test_ignored_types_are_left_out_on_both_sides(folder, tmp_path, caplog):
    plain = evaluate(settings(folder, tmp_path / "plain"))
    gold, predicted = columns_of(plain.folder)
    assert any("LOC" in tag for tags in predicted for tag in tags)
    found = evaluate(settings(folder, tmp_path / "ignored", columns={"ignore": ["LOC"]}))
    without = [[renamed(tags, ignore=["LOC"]) for tags in side] for side in (gold, predicted)]
    assert cell(found).scores == entity_scores(*without) and set(cell(found).scores.per_type) == {"PER"}
    assert columns_of(found.folder) == tuple(without)
    said = "predictions of LOC are left out of the scores by columns.ignore"
    for name in ("matrix.md", "report.html"):
        text = (found.folder / name).read_text()
        assert said in text and "swa: gold entities left out of the scores by columns.ignore: LOC 30" in text
    assert said in caplog.text


def test_a_type_that_is_renamed_is_scored_as_the_module_calls_it(folder, tmp_path):
    plain = evaluate(settings(folder, tmp_path / "plain"))
    other = changed(folder, tmp_path, {"PER": "PERSON"})
    with pytest.raises(DataError) as caught:
        evaluate(settings(folder, tmp_path / "run", targets={"swa": other}))
    assert all(text in str(caught.value) for text in ("B-PERSON", "columns.ignore", "columns.map={PERSON: PER}"))
    found = evaluate(settings(folder, tmp_path / "run", targets={"swa": other}, columns={"map": {"PERSON": "PER"}}))
    assert cell(found).scores == cell(plain).scores


@pytest.mark.parametrize("new", ["", "O", " PER", "a\tb"])
def test_a_type_is_renamed_to_a_type_alone(folder, tmp_path, new):
    with pytest.raises(ConfigError, match="columns.map reads 'PERSON'.*columns.ignore"):
        evaluate(settings(folder, tmp_path / "run", columns={"map": {"PERSON": new}}))


def test_predicted_types_are_renamed_unless_the_module_was_trained_on_renamed_data():
    labels, columns = LabelSet(LABELS), Columns(map={"PER": "PERSON"})
    assert scored_tags(["B-PER", "I-PER", "B-LOC"], columns) == ["B-PERSON", "I-PERSON", "B-LOC"]
    assert expected_labels(labels, columns).types == ("LOC", "PERSON")
    chain = Columns(map={"GPE": "LOC", "LOC": "FAC"})  # a LOC of the module is a GPE of the file
    assert scored_tags(["B-LOC", "B-GPE"], chain) == ["B-LOC", "B-LOC"]


# ---- remarks ---------------------------------------------------------------------------------------------------------


def remarks(folder, tmp_path, **changes):
    found = evaluate(settings(folder, tmp_path / "run", **changes))
    text = (found.folder / "matrix.md").read_text()
    assert all(markdown(remark) in text for remark in found.matrix.meta.remarks)
    return " ".join(found.matrix.meta.remarks)


def test_a_test_set_without_a_type_of_the_module_is_remarked(folder, tmp_path, caplog):
    said = remarks(folder, tmp_path, targets={"swa": changed(folder, tmp_path, {"LOC": None})})
    assert "no LOC in the gold tags of swa" in said and "columns.ignore=[LOC]" in said and said in caplog.text
    assert remarks(folder, tmp_path) == ""


def test_a_test_set_with_a_type_that_the_module_lacks_is_remarked_where_it_is_left_out(folder, tmp_path):
    other = changed(folder, tmp_path, {"LOC": "DATE"})
    said = remarks(folder, tmp_path, targets={"swa": other}, columns={"ignore": ["DATE"]})
    assert "DATE 30" in said and "the module does not predict DATE" in said and "no LOC" in said


def test_a_test_file_that_was_trained_on_or_that_two_languages_share_is_remarked(folder, tmp_path):
    copy = tmp_path / "copy.conll"
    copy.write_bytes((folder / "train.conll").read_bytes())
    said = remarks(folder, tmp_path, targets={"swa": str(copy), "hau": str(copy)})
    assert "swa: the test set" in said and "(train.conll)" in said
    assert "swa and hau have the same test set" in said


def test_a_macrolanguage_beside_its_member_is_remarked(folder, tmp_path):
    targets = {"swa": str(folder / "test.conll"), "swh": str(folder / "other.conll")}
    assert "swa and swh may be one language" in remarks(folder, tmp_path, targets=targets)


def test_development_data_that_are_the_training_data_are_warned_of(folder, tmp_path, caplog):
    data = str(folder / "train.conll")
    job = {"language": "eng", "data": data, "dev": data, "seeds": [1], "epochs": 1, "name": "equal"}
    job |= {"base": str(folder / "base"), "store": str(folder / "modules"), "run": str(tmp_path), "overwrite": True}
    with caplog.at_level(logging.WARNING, "madx"):
        train_task(TrainTask(**job, train={"progress": False}))
    assert "the development data" in caplog.text and "are the training data" in caplog.text
    Store(folder / "modules").remove("equal")


def test_a_module_that_may_be_of_the_language_is_remarked(folder, tmp_path):
    targets = {"swh": str(folder / "test.conll")}
    found = evaluate(settings(folder, tmp_path / "run", targets=targets))
    assert "modules.swh=swa" in " ".join(found.matrix.meta.remarks)
    found = evaluate(settings(folder, tmp_path / "run", targets=targets, modules={"swh": "swa"}))
    assert not found.matrix.meta.remarks and "target" in found.matrix.columns


def test_types_that_nothing_has_are_remarked(folder, tmp_path):
    said = remarks(folder, tmp_path, columns={"ignore": ["LOK"], "map": {"PERSN": "PER"}})
    assert "columns.ignore names LOK" in said and "columns.map names PERSN" in said and "did you mean" in said


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def none_tagged(tmp_path):
    (tmp_path / "none.conll").write_text("Anna\tO\nlives\tO\n\n", encoding="utf-8")
    return str(tmp_path / "none.conll")


def test_data_without_an_entity_are_refused(folder, tmp_path, none_tagged):
    with pytest.raises(DataError, match=r"none.conll.*not one entity.*columns.tag"):
        evaluate(settings(folder, tmp_path / "run", targets={"swa": none_tagged}))
    with pytest.raises(DataError, match="columns.ignore leaves LOC, PER out"):
        evaluate(settings(folder, tmp_path / "run", columns={"ignore": ["LOC", "PER"]}))
    good = str(folder / "train.conll")
    for data, dev in ((none_tagged, good), (good, none_tagged)):
        job = {"base": "x", "language": "eng", "data": data, "dev": dev, "store": str(folder / "modules")}
        with pytest.raises(DataError, match=r"none.conll.*not one entity"):
            train_task(TrainTask(**job, name="new"))


#: settings that are refused, with texts of the error
REFUSED = {
    "two codes of one language": ({"targets": {"swa": "A", "sw": "B"}}, ["'swa'", "'sw'", "codes of one language"]),
    "the source in another code": ({"targets": {"en": "A"}}, ["'eng'", "'en'"]),
    "two letters": ({"targets": {"sw": "A"}}, ["'sw'", "'swa'", "modules.sw=swa"]),
    "a bibliographic code": ({"targets": {"ger": "A", "deu": "B"}}, ["'ger'", "'deu'"]),
    "capitals": ({"targets": {"SWA": "A"}}, ["'SWA'", "'swa'"]),
    "a task module as a language's": ({"modules": {"swa": "ner"}}, ["'ner'", "role task"]),
    "a task module in the mean": ({"mean_of": ["ner"]}, ["'ner'", "role task"]),
    "a module of no target": ({"modules": {"swaa": "swa"}}, ["'swaa'", "did you mean 'swa'"]),
    "a language module as the task's": ({"task_module": "swa"}, ["'swa'", "no task module"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_modules_and_languages_that_cannot_be_meant_are_refused(folder, tmp_path, name):
    changes, texts = REFUSED[name]
    files = {"A": str(folder / "test.conll"), "B": str(folder / "other.conll")}
    if "targets" in changes:
        changes = {"targets": {language: files[file] for language, file in changes["targets"].items()}}
    with pytest.raises(MadxError) as caught:
        evaluate(settings(folder, tmp_path / "run", **changes))
    assert all(text in str(caught.value) for text in texts)


def test_a_language_may_be_evaluated_without_the_module_of_its_other_code(folder, tmp_path):
    targets = {"sw": str(folder / "test.conll")}
    found = evaluate(settings(folder, tmp_path / "run", targets=targets, modules={"sw": None}, controls=["none"]))
    assert {c.control for c in found.matrix.cells} == {"none"} and found.matrix.targets == ("sw",)


def test_codes():
    assert [canonical(c) for c in ("sw", "swa", "SW", "fre", "pt-BR", "xyz", "swh")] == [
        "swa",
        "swa",
        "swa",
        "fra",
        "por-BR",
        "xyz",
        "swh",
    ]


def test_seeds_of_different_tasks_are_refused(folder, tmp_path):
    base, store = load_base(folder / "base"), Store(folder / "modules")
    for seed, labels in ((1, LABELS), (2, LABELS[:3])):
        name = f"mixed@{seed}"
        store.save(
            new_module(name, base, role="task", language="eng", components="pfeiffer", task="ner", labels=labels)
        )
    with pytest.raises(ConfigError, match="mixed@1.*mixed@2.*one task"):
        evaluate(settings(folder, tmp_path / "run", task_module="mixed"))


def test_a_module_of_another_base_is_refused(folder, tmp_path):
    other = load_base(tiny_files.save_base(tmp_path / "other", seed=1))
    Store(folder / "modules").save(new_module("hau", other, language="hau", components="madx"))
    try:
        with pytest.raises(BaseError, match="hau"):
            evaluate(settings(folder, tmp_path / "run", targets={"hau": str(folder / "test.conll")}))
    finally:
        Store(folder / "modules").remove("hau")


def test_a_task_module_below_a_language_is_refused_in_prediction(folder):
    for stack in ("ner + swa", "ner + average(swa, eng)", "route(swa + ner, ner + eng)"):
        with pytest.raises(CompositionError, match="from left to right.*write '(swa|average|eng)"):
            Predictor(stack, store=str(folder / "modules"))
    with pytest.raises(ConfigError, match="'ner'.*role task"):
        train_task(
            TrainTask(base="x", language="eng", data="x", dev="x", store=str(folder / "modules"), language_module="ner")
        )


def test_the_engine_warns_of_a_task_module_below_a_language(folder, caplog):
    engine = Engine(load_base(folder / "base"), store=Store(folder / "modules"))
    for name in ("swa", "ner"):
        engine.load(name)
    with caplog.at_level(logging.WARNING, "madx"):
        engine.activate("swa + ner")
        assert not caplog.records
        engine.activate("ner + swa")
    assert "write 'swa + ner'" in caplog.text
    engine.close()


# ---- columns ---------------------------------------------------------------------------------------------------------


def test_columns_with_one_composition_are_one_column_computed_once(folder, tmp_path, monkeypatch):
    from madx.tasks.ner import NER

    counted, real = [], NER.predict
    monkeypatch.setattr(
        NER, "predict", lambda self, engine, *a, **k: (counted.append(1), real(self, engine, *a, **k))[1]
    )
    found = evaluate(settings(folder, tmp_path / "run", controls=["none", "source", "target", "mean"]))
    matrix = found.matrix
    assert len(counted) == 3 and matrix.columns == ("none", "source", "target")
    assert cell(found, "mean") == replace(cell(found, "source"), control="mean")
    assert {frozenset((c.control, c.minus)) for c in matrix.pairs(samples=100)} == {
        frozenset(pair) for pair in (("target", "none"), ("target", "source"), ("source", "none"))
    }
    write_report(found.folder)
    for name in ("matrix.md", "report.md", "report.html"):
        assert "no column mean: its compositions are those of source" in (found.folder / name).read_text()
