"""Data in memory: the same module as from a file, used again by content, and every wrong form refused in words."""

import json
from pathlib import Path

import datasets
import pytest
from tiny_files import fill

import madx
from madx.data.labelled.conll import read_conll
from madx.data.labelled.sentences import Sentence
from madx.errors import ConfigError, DataError
from madx.jobs.common import weights_of
from madx.jobs.compare import measure
from madx.jobs.labelled import Columns, read_labelled, task_type
from madx.jobs.memory import as_files, sentences_as_file, texts_as_file
from madx.store import Store

LANGUAGE = {
    "base": "base",
    "language": "swa",
    "steps": 3,
    "block_size": 16,
    "batch_size": 4,
    "held_out_blocks": 4,
    "cache": "cache",
    "train": {"progress": False},
}
TASK = {
    "base": "base",
    "language": "eng",
    "language_module": None,
    "epochs": 1,
    "seeds": [1],
    "train": {"progress": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("memory"))


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MADX_CACHE", str(folder / "kept"))
    return folder


@pytest.mark.slow
def test_a_language_module_of_texts_is_the_one_of_their_file(here):
    texts = Path("swa.txt").read_text().splitlines()
    forms = {
        "file": "swa.txt",
        "list": texts,
        "iterator": iter(texts),
        "data": datasets.Dataset.from_dict({"text": texts}),
    }
    for name, corpus in forms.items():
        madx.train_language(**LANGUAGE, corpus=corpus, name=f"swa-{name}", run=f"runs/{name}")
    store = Store("modules")
    assert len({weights_of(store, f"swa-{name}") for name in forms}) == 1
    records = [store.show(f"swa-{name}").info.training["data"][0] for name in ("list", "iterator", "data")]
    assert records[0] == records[1] == records[2]
    assert records[0]["sha256"] == store.show("swa-file").info.training["data"][0]["sha256"]
    assert (
        Path(records[0]["path"]).parent == here / "kept" / "memory" and records[0]["sha256"][:16] in records[0]["path"]
    )


@pytest.mark.slow
def test_a_task_module_of_sentences_is_the_one_of_their_file_and_is_evaluated_on_others(here):
    files = {"data": "train.conll", "dev": "dev.conll"}
    read = {key: read_conll(path) for key, path in files.items()}
    pairs = {key: [(list(s.tokens), list(s.tags)) for s in sentences] for key, sentences in read.items()}
    for name, data in {"file": files, "sentences": read, "pairs": pairs}.items():
        madx.train_task(**TASK, **data, name=f"ner-{name}")
    store = Store("modules")
    assert len({weights_of(store, f"ner-{name}") for name in ("file", "sentences", "pairs")}) == 1
    test = read_conll("swa-test.conll")
    scores = []
    for targets in ({"swa": "swa-test.conll"}, {"swa": test}):
        found = madx.evaluate(task_module="ner-pairs", targets=targets, progress=False, controls=["none"])
        scores.append([cell.scores for cell in found.matrix.cells])
    assert scores[0] == scores[1]


def test_what_was_made_of_data_in_memory_is_used_again(here, monkeypatch):
    monkeypatch.setattr(measure, "training_memory", lambda job, steps: 0)
    data = {key: read_conll(f"{key}.conll") for key in ("train", "dev")}

    def compared():
        return madx.compare(
            base="base",
            language="eng",
            data=list(data["train"]),
            dev=iter(data["dev"]),
            candidates={"head": {"components": "head_only"}},
            training={"epochs": 1},
            seeds=[1],
            rounds=3,
            measured_steps=1,
            progress=False,
            run="compared",
        )

    assert (len(compared().trained), len(compared().trained)) == (1, 0)


def test_inspect_takes_both_kinds(here):
    found = madx.inspect(base="base", corpus=iter(["Anna works", "Juma lives"]), data={"dev": [(["Anna"], ["B-PER"])]})
    assert found.corpus.lines == 2 and found.data["dev"].labels == {"PER": 1}
    assert set(found.files) == {*map(str, (here / "kept" / "memory").glob("*"))} & set(found.files)


def test_the_text_of_records_has_a_key(here):
    rows = datasets.Dataset.from_dict({"title": ["a"], "body": ["the city"]})
    assert Path(madx.TrainLanguage(**LANGUAGE, corpus=rows, text_key="body").corpus).read_text() == "the city\n"


def test_an_iterator_is_read_once_and_no_further_than_the_limit(here):
    def endless():
        while True:
            yield "the city"

    job = madx.TrainLanguage(base="base", language="swa", corpus=endless(), limit=5)
    assert Path(job.corpus).read_text() == "the city\n" * 5


def test_the_columns_of_files_do_not_matter_to_sentences_in_memory(here):
    path = sentences_as_file([(["a\tb", "#"], ["O", "I-PER"]), (["Dar"], ["I-LOC"])])
    columns = Columns(token=3, tag=7, separator="tab", style="conllu")
    assert read_labelled(path, columns, task_type("ner")) == [
        Sentence(("a\tb", "#"), ("O", "B-PER"), 1),  # from IOB1, as a file would be read
        Sentence(("Dar",), ("B-LOC",), 2),
    ]


def test_names_of_a_class_label_are_used(here):
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    data = datasets.Dataset.from_dict({"tokens": [["Juma", "is"]], "ner_tags": [[1, 0]]}, features=features)
    job = madx.Evaluate(targets={"swa": data})
    assert json.loads(Path(job.targets["swa"]).read_text()) == {"tokens": ["Juma", "is"], "tags": ["B-PER", "O"]}


@pytest.mark.parametrize(
    ("corpus", "wanted"),
    [
        (["swa.txt", "no file at all"], ["2 items", "1 name files ('swa.txt')", "iter(texts)"]),
        (["a text", 3], ["corpus", "index 1", "int"]),
        ("a text\nof two lines", ["'a text", "corpus=[text]"]),
        ([], ["empty list"]),
        (iter([]), ["corpus is empty"]),
        (17, ["int"]),
        (["half \ud800"], ["index 0", "surrogate"]),
        (datasets.Dataset.from_dict({"a": ["x"], "b": ["y"]}), ["a, b", "text_key"]),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused(here, corpus, wanted):
    with pytest.raises(DataError) as error:
        madx.train_language(**LANGUAGE, corpus=corpus)
    assert all(text in str(error.value) for text in wanted), error.value


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ([(["a", "b"], ["O"])], ["labelled data", "index 0", "2 words", "1 tags"]),
        ([(["a"], ["O"]), "b"], ["index 1", "'b'"]),
        ([({"a"}, ["O"])], ["index 0", "set"]),
        ([], ["empty"]),
        (3, ["int"]),
    ],
)
def test_labelled_data_that_cannot_be_read_are_refused(here, data, wanted):
    with pytest.raises(DataError) as error:
        madx.train_task(**TASK, data=data, dev="dev.conll")
    assert all(text in str(error.value) for text in wanted), error.value


def test_a_cache_that_cannot_be_written_is_told_with_the_way_out(here, monkeypatch):
    monkeypatch.setenv("MADX_CACHE", str(here / "swa.txt"))
    with pytest.raises(DataError, match="swa.txt.*MADX_CACHE"):
        texts_as_file(["a"])


def test_files_are_left_as_they_are(here):
    paths = {"corpus": ["swa.txt", Path("eng.txt")], "data": {"a": "x.conll"}, "seeds": (1, 2)}
    assert as_files(paths, texts=["corpus"], labelled=["data"]) == {
        "corpus": ["swa.txt", "eng.txt"],
        "data": {"a": "x.conll"},
        "seeds": [1, 2],
    }
    assert not list((here / "kept").glob("*/.writing*"))


def test_json_lines_are_read_as_a_file_and_faults_have_their_line(here):
    Path("x.jsonl").write_text('{"tokens": ["a"], "tags": ["O"]}\n\n[1]\n')
    with pytest.raises(DataError, match=r"x.jsonl:3: a JSON list"):
        read_labelled("x.jsonl", Columns(), task_type("ner"))
    Path("x.jsonl").write_text('{"tokens": ["a"], "tags": ["Q-"]}\n')
    with pytest.raises(DataError, match=r"x.jsonl:1, word 1"):
        read_labelled("x.jsonl", Columns(), task_type("ner"))
    with pytest.raises(ConfigError, match="'pos'|universal|UPOS"):
        read_labelled("x.jsonl", Columns(scheme="iob2"), task_type("pos"))
