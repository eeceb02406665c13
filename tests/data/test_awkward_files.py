"""Real files in the layouts that people have, and the small cases of the reports: read rightly, or refused in words."""

from unicodedata import normalize

import pytest

from madx.data.labelled.conll import read_conll
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.words import checked_words
from madx.errors import DataError
from madx.jobs.labelled import Columns, read_labelled, task_type
from madx.metrics.scores import entity_scores

NER = task_type("ner")


@pytest.fixture(scope="module")
def files(shared):
    """Folder of the awkward files."""
    folder = shared / "data" / "awkward"
    if not folder.is_dir():
        pytest.skip(f"There are no awkward files in {folder}.")
    return folder


def read(path, **columns):
    return read_labelled(str(path), Columns(**columns), NER)


@pytest.mark.parametrize("name, code, first", [("wikiann-deu.txt", "de:", "Anton"), ("wikiann-por.txt", "pt:", None)])
def test_wikiann(files, caplog, name, code, first):
    sentences, bare = read(files / name), read(files / name, prefix="")
    assert all(code + a == b for s, t in zip(sentences, bare, strict=True) for a, b in zip(s.tokens, t.tokens))
    assert first in (None, sentences[0].tokens[0]) and repr(code) in caplog.text
    assert LabelSet.from_sentences(sentences).types == ("LOC", "ORG", "PER")


def test_germeval(files, caplog):
    sentences = read(files / "germeval2014-deu.tsv")
    lines = (files / "germeval2014-deu.tsv").read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t") for line in lines if line[:1].isdigit()]
    assert [w for s in sentences for w in s.tokens] == [row[1] for row in rows]
    assert [t for s in sentences for t in s.tags] == [row[2] for row in rows]
    assert len(sentences) == 590 and "as in GermEval" in caplog.text
    renamed = read(files / "germeval2014-deu.tsv", ignore=["OTH"], map={"LOCderiv": "LOC", "ORGpart": "ORG"})
    assert "LOCderiv" not in LabelSet.from_sentences(renamed).types


@pytest.mark.parametrize("name, blocks", [("wnut17-dev-eng.conll", 1009), ("wnut17-test-eng.conll", 1287)])
def test_wnut(files, caplog, name, blocks):
    sentences = read(files / name)
    assert len(sentences) == blocks and not caplog.text
    assert "creative-work" in LabelSet.from_sentences(sentences).types


def test_litbank(files):
    with pytest.raises(DataError, match=r"column 10, that of the names in CoNLL-2012.*columns\.tag"):
        read(files / "litbank-coref-eng.conll")
    with pytest.raises(DataError, match=r"columns 1, 2, 3, 4 hold tags of the same types.*columns\.tag=1"):
        read(files / "litbank-entities-eng.tsv")
    (coref, entities) = (
        read(files / "litbank-coref-eng.conll", tag=-2, scheme=None),
        read(files / "litbank-entities-eng.tsv", tag=1),
    )
    assert [s.tokens for s in coref] == [s.tokens for s in entities] and len(entities) == 45


def test_conllu_under_its_name_and_another(files, tmp_path, caplog):
    for name, sentences in (("conllu-empty-nodes-fin.conllu", 39), ("conllu-multiword-eng.conllu", 99)):
        (tmp_path / "x.conll").write_bytes((files / name).read_bytes())
        by_name, found = read_conll(files / name, scheme="none"), read_conll(tmp_path / "x.conll", scheme="none")
        assert by_name == found and len(found) == sentences
    assert "the ten columns of CoNLL-U" in caplog.text


def test_latin1(files, tmp_path):
    source = files / "conll2002-latin1-por.txt"
    with pytest.raises(DataError, match=r"latin1-por\.txt:2: not UTF-8.*iconv -f ISO-8859-1 -t UTF-8"):
        read(source)
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "x.txt").write_text(source.read_text(encoding="latin-1"), encoding=encoding)
        assert len(read(tmp_path / "x.txt")) == 875


def test_the_small_cases(shared, caplog):
    cases = shared / "cases"
    if not cases.is_dir():
        pytest.skip(f"There are no cases in {cases}.")
    assert read(cases / "index_column" / "test.conll")[0].tokens[:2] == ("Konaka", "anazungumza")
    assert "its first column counts the words" in caplog.text
    assert len(read(cases / "carriage_return.conll")) == 400
    typed = [list(s.tags) for s in read(cases / "type_with_blank.tsv")]
    scores = entity_scores(typed, typed)
    assert scores.f1 == 100.0 and set(scores.per_type) == {"Person name", "Place"}


@pytest.mark.parametrize("folder, most", [("ner", 200_000), ("scripts", 10**9), ("pos", 200_000)])
def test_ordinary_files_are_read_as_they_are(shared, caplog, folder, most):
    """None of them has a layout to be found out, or words that could be taken for something else."""
    files = [f for f in sorted((shared / "data" / folder).glob("*/test.conll")) if f.stat().st_size < most]
    assert len(files) > 1
    for file in files:
        sentences = read_conll(file, **({"tag_column": 1, "scheme": "none"} if folder == "pos" else {}))
        lines = [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n") if line]
        assert [t for s in sentences for t in s.tags] == [line[1] for line in lines]
        assert [w for s in sentences for w in s.tokens] == [normalize("NFC", line[0]) for line in lines]
        assert checked_words(sentences, name=str(file)) == sentences
    assert not caplog.text
