"""Part-of-speech tagging, through the same jobs as NER and over the same language modules."""

import json
import random

import pytest
from cli_tools import failed, run
from sklearn.metrics import accuracy_score, f1_score
from tiny_files import fill

from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.errors import ConfigError, DataError
from madx.jobs.labelled import Columns, read_labelled
from madx.metrics.scores import word_scores
from madx.results import from_json, read_matrix, to_json
from madx.store import Store
from madx.tasks import TASKS
from madx.tasks.pos import POS, UPOS

WORDS = {"PROPN": "Anna Juma Maria", "NOUN": "city river", "DET": "the a", "VERB": "lives works", "ADP": "in"}
TAG = {word: tag for tag, words in WORDS.items() for word in words.split()}


def conllu(path, *, sentences=20, seed=0):
    draw = random.Random(seed)
    rows = []
    for _ in range(sentences):
        rows.append("# text = x")
        for number, word in enumerate(draw.choices(sorted(TAG), k=6), start=1):
            rows.append("\t".join([str(number), word, "_", TAG[word], *"______"]))
        rows.append("")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_the_score_is_scikit_learns():
    draw = random.Random(1)
    gold = [draw.choices(["NOUN", "VERB", "X"], k=5) for _ in range(40)]
    found = [[t if draw.random() < 0.7 else draw.choice(["NOUN", "VERB", "ADJ"]) for t in s] for s in gold]
    scores = word_scores(gold, found)
    flat = [[t for s in side for t in s] for side in (gold, found)]
    assert scores.accuracy == pytest.approx(100 * accuracy_score(*flat))
    assert scores.macro_f1 == pytest.approx(100 * f1_score(*flat, average="macro", zero_division=0))
    per_type = dict(zip(sorted({*flat[0], *flat[1]}), f1_score(*flat, average=None, zero_division=0)))
    assert {t: f["f1"] / 100 for t, f in scores.per_type.items()} == pytest.approx(per_type)
    assert scores.statistics.tp.sum() == scores.correct and scores.statistics.n_gold.tolist() == [5] * 40
    with pytest.raises(DataError, match="no words"):
        word_scores([[]], [[]])


def test_all_of_upos_are_labels_whatever_the_training_data_holds():
    assert TASKS.get("pos") is POS and len(UPOS.tags) == 17
    sentences = [Sentence(("a",), ("DET",), 1)]
    assert POS.label_set(sentences, source="x") == LabelSet(UPOS.tags)


@pytest.mark.parametrize(
    "tag, hint", [("noun", "'NOUN'"), ("CONJ", "'CCONJ'"), (".", "'PUNCT'"), ("PRON.", "'PRON'"), ("_", "columns.tag")]
)
def test_a_tag_outside_upos_is_named_with_line_and_suggestion(tag, hint, tmp_path):
    (tmp_path / "x.conll").write_text(f"a\tDET\nb\tNOUN\n\nc\tX\nd\t{tag}\n")
    with pytest.raises(DataError, match=f"x.conll:5: tag '{tag}' is no UPOS tag.*{hint}"):
        read_labelled(str(tmp_path / "x.conll"), Columns(), POS)


def test_settings_of_spans_are_refused():
    for columns in (Columns(scheme="iob1"), Columns(ignore=["DATE"]), Columns(repair=True)):
        with pytest.raises(ConfigError, match="its tags are UPOS"):
            read_labelled("x.conll", columns, POS)


@pytest.mark.parametrize("name", ["yor-ytb", "sna-masakhapos"])  # UD has four columns, MasakhaPOS two
def test_real_files(name, shared):
    sentences = read_labelled(str(shared / "data" / "pos" / name / "test.conll"), Columns(tag=1), POS)
    assert len(sentences) > 100 and {t for s in sentences for t in s.tags} <= set(UPOS.tags)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """English and Swahili language modules, and over the English one a NER module and a POS module."""
    folder = fill(tmp_path_factory.mktemp("pos"))
    for number, name in enumerate(("train", "dev", "eng-test", "swa-test")):
        conllu(folder / f"{name}.conllu", seed=number)
    sizes = "block_size=16 batch_size=4 held_out_blocks=4 cache=cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language in ("eng", "swa"):
            train(f"train-language --language {language} --corpus {language}.txt --steps 4", sizes)
        for task, ending in (("ner", "conll"), ("pos", "conllu")):
            data = f"--data train.{ending} --dev dev.{ending}"
            said = train(f"train-task --task {task} --language eng {data} --epochs 8 --seeds 1", "batch_size=4")
            (folder / f"{task}.txt").write_text(said)
            said = done(f"evaluate --task-module {task} --target swa=swa-test.{ending} --out results-{task}")
            (folder / f"{task}-matrix.txt").write_text(said)
    return folder


def train(command, settings):
    """Run a training job on the tiny base with settings KEY=VALUE, separated by spaces; return its output."""
    common = "train.learning_rate=0.01 train.progress=false train.evaluate_every=1000"
    return done(" ".join([command, "--base base", *(f"--set {s}" for s in f"{settings} {common}".split())]))


def done(command):
    """Run a command, which must not fail, and return its output."""
    result = run(*command.split())
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_one_language_module_serves_two_tasks(trained):
    assert Store(trained / "modules").names() == ["eng", "ner", "pos", "swa"]
    for task, kind in (("ner", "entities"), ("pos", "words")):
        matrix = json.loads((trained / f"results-{task}" / "matrix.json").read_text())
        assert {c["composition"] for c in matrix["cells"]} == {task, f"eng + {task}", f"swa + {task}"}
        assert all(c["inactive"] == [] and c["scores"]["kind"] == kind for c in matrix["cells"])


def test_training_and_matrix_speak_of_accuracy(trained):
    assert "accuracy" in (trained / "pos.txt").read_text()
    training = Store(trained / "modules").show("pos").info.training
    assert training["scores"]["dev"].keys() == {"accuracy", "macro_f1"}
    assert training["scores"]["dev"]["accuracy"] > 60, "it learns"
    text = (trained / "results-pos" / "matrix.md").read_text()
    for words in ("Accuracy in percent points", "## Macro F1", "PROPN", "gold words"):
        assert words in text
    assert "F1 under" not in text and "entity" not in text.lower()
    assert "pos: accuracy per language and control" in (trained / "pos-matrix.txt").read_text()
    header = (trained / "results-pos" / "matrix.csv").read_text().splitlines()[0]
    assert "accuracy,macro_f1,gold" in header and "NOUN_f1" in header
    matrix = read_matrix(trained / "results-pos" / "matrix.json")
    assert from_json(to_json(matrix)) == matrix
    assert [c.minus for c in matrix.differences() if c.target == "swa" and c.sentences.p <= 1] == [
        "none",
        "source",
    ]


def test_predict_prints_a_tag_for_each_word(trained, monkeypatch):
    monkeypatch.chdir(trained)
    words = "Anna lives in the city"
    shown = run("predict", "--stack", "swa + pos", words)
    assert shown.exit_code == 0, (shown.output, shown.exception)
    tags = [part.rpartition("/")[2] for part in shown.stdout.split()]
    assert len(tags) == 5 and set(tags) <= set(UPOS.tags)
    record = json.loads(run("predict", "--stack", "swa + pos", "--format", "json", words).stdout)
    assert record["tags"] == tags and "entities" not in record


def test_a_task_module_is_not_evaluated_on_data_of_another_task(trained, monkeypatch):
    monkeypatch.chdir(trained)
    said = failed(run("evaluate", "--task-module", "pos", "--target", "swa=swa-test.conll"))
    assert "swa-test.conll:1: tag 'O' is no UPOS tag" in said
    said = failed(run("evaluate", "--task-module", "ner", "--target", "swa=swa-test.conllu"))
    assert "swa-test.conllu:2: tag" in said and "neither O nor" in said
