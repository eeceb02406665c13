"""The settings `columns` of all jobs, on each kind of labelled file; and a block size that a base cannot read."""

import gzip
import importlib
import json
import logging
from types import SimpleNamespace

import pytest

from madx.errors import ConfigError, DataError
from madx.jobs.labelled import Columns, read_labelled, task_type

NER, POS = task_type("ner"), task_type("pos")
FINE = "Ada\tB-Person name\nLovelace\tI-Person name\n.\tO\n\nParis\tB-PER-\nJune\tB-DATE\n"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / name)

    return write


def tags(source, task=NER, *, checked=True, **columns):
    return [list(s.tags) for s in read_labelled(source, Columns(**columns), task, checked=checked)]


def test_types_are_renamed_and_left_out(write):
    path = write("x.conll", FINE)
    assert tags(path) == [["B-Person name", "I-Person name", "O"], ["B-PER-", "B-DATE"]]
    for checked in (True, False):
        found = tags(path, checked=checked, map={"Person name": "PER", "PER-": "LOC"}, ignore=["DATE"])
        assert found == [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]


@pytest.mark.parametrize("new", ["", " PER", "a\tb", "B-PER", "O"])
def test_a_map_to_no_type(write, new):
    with pytest.raises(ConfigError, match=r"columns\.map reads 'DATE' as .*columns\.ignore"):
        tags(write("x.conll", FINE), map={"DATE": new})
    found = tags(write("x.conll", FINE), scheme=None, map={"B-DATE": "B-TIME"})
    assert found[1] == ["B-PER-", "B-TIME"]  # as they are, tags have no types


def test_plain_tags_are_renamed(write):
    path = write("x.conll", "Ada\tNE\nruns\tVERB\n")
    assert tags(path, POS, map={"NE": "PROPN"}) == [["PROPN", "VERB"]]
    assert tags(path, NER, scheme=None, map={"NE": "PROPN"}) == [["PROPN", "VERB"]]
    with pytest.raises(ConfigError, match=r"columns\.map reads 'NE' as 'PROPER'.*PROPN"):
        tags(path, POS, map={"NE": "PROPER"})
    with pytest.raises(DataError, match=r"x\.conll:1: tag 'NE' is no"):
        tags(path, POS)


@pytest.mark.parametrize("name", ["x.jsonl", "x.NDJSON", "x.json", "x.jsonl.gz"])
def test_json_lines_by_any_name(write, name):
    text = json.dumps({"tokens": ["en:Ada ", "en:.", "en:met"], "tags": ["B-PERSON", "O", "O"]}).encode()
    path = write(name, gzip.compress(text) if name.endswith(".gz") else text)
    (sentence,) = read_labelled(path, Columns(map={"PERSON": "PER"}), NER)
    assert sentence.tokens == ("Ada", ".", "met") and sentence.tags == ("B-PER", "O", "O")
    assert read_labelled(path, Columns(prefix=""), NER)[0].tokens == ("en:Ada", "en:.", "en:met")


def test_a_json_array_is_named(write):
    with pytest.raises(DataError, match=r"x\.json:1: not a JSON line.*jq"):
        tags(write("x.json", "[\n{}\n]"))


def test_inspect_and_training_read_the_same_columns(write):
    """Inspection leaves tags as they are, yet reads the columns that training reads."""
    rows = "".join(f"{i}\t{w}\tB-X\t-\tada\n" for i, w in enumerate("Ada Bob Eve".split(), start=1))
    path = write("x.iob2", rows)
    assert tags(path) == tags(path, checked=False) == [["B-X"] * 3]
    assert read_labelled(path, Columns(), NER, checked=False)[0].tokens == ("Ada", "Bob", "Eve")


def test_a_block_size_above_the_bases_is_said(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="madx")
    job = importlib.import_module("madx.jobs.train_language")  # the function has the same name
    blocks = SimpleNamespace(warnings=list)
    sizes = []
    monkeypatch.setattr(job, "pack_corpus", lambda *_, block_size, **__: sizes.append(block_size) or blocks)
    base = SimpleNamespace(max_tokens=62, tokenizer=None, label="tiny")
    for size in (62, 256):
        job.packed(job.TrainLanguage(base="b", language="swa", corpus="x.txt", block_size=size), base)
    assert sizes == [62, 62]
    (record,) = caplog.records
    assert record.getMessage().startswith("block_size 256 is cut to 62") and "block_size=62" in record.getMessage()
