"""Layouts of columns: known ones are recognised and said, a column that holds no words is refused with the way out."""

import pytest

from madx.data.labelled.conll import read_conll
from madx.data.labelled.conll2012 import iob2_of_names
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.words import are_running, checked_words, fault_of
from madx.errors import DataError

WORDS = "Ada Lovelace met Charles Babbage in London in June .".split()
TAGS = "B-PER I-PER O B-PER I-PER O B-LOC O O O".split()
UPOS = "PROPN PROPN VERB PROPN PROPN ADP PROPN ADP PROPN PUNCT".split()


def file_of(tmp_path, *columns, name="x.conll", mark="\t", before="", sentences=3):
    """A file of the same sentence several times; a column is a list, or one cell for all lines."""
    cells = [column if isinstance(column, list) else [column] * len(WORDS) for column in columns]
    block = before + "".join(mark.join(map(str, row)) + "\n" for row in zip(*cells, strict=True))
    file = tmp_path / name
    file.write_text((block + "\n") * sentences)
    return file


def numbers(start=1):
    return list(range(start, start + len(WORDS)))


@pytest.mark.parametrize("mark", ["\t", " "])
@pytest.mark.parametrize("sentences", [1, 3])
@pytest.mark.parametrize("start", [0, 1])
def test_an_index_column(tmp_path, caplog, mark, sentences, start):
    """As in CoNLL-2009 and in the shared tasks: the words stand in the second column."""
    file = file_of(tmp_path, numbers(start), WORDS, "NNP", "I-NP", TAGS, mark=mark, sentences=sentences)
    for sentence in read_conll(file):
        assert (sentence.tokens, sentence.tags) == (tuple(WORDS), tuple(TAGS))
    assert "its first column counts the words" in caplog.text and "columns.detect=false" in caplog.text
    assert "read from column 1 ('Ada', 'Lovelace'" in caplog.text and "tags from column 4" in caplog.text


def test_numbers_that_run_through_the_file(tmp_path):
    file = tmp_path / "x.conll"
    lines = [f"{i}\t{WORDS[i % 10]}\t{TAGS[i % 10]}\n" + "\n" * (i % 10 == 9) for i in range(30)]
    file.write_text("".join(lines))
    assert [s.tokens for s in read_conll(file)] == [tuple(WORDS)] * 3


@pytest.mark.parametrize("header", ["id\tToken\ttag\n", "#\tWord\tNER_tags\n\n"])
def test_a_line_that_names_the_columns(tmp_path, caplog, header):
    for columns in ((numbers(), WORDS, TAGS), (WORDS, ["x"] * 10, TAGS)):
        file = file_of(tmp_path, *columns)
        file.write_text(header + file.read_text())
        assert [(s.tokens, s.tags) for s in read_conll(file)] == [(tuple(WORDS), tuple(TAGS))] * 3
        assert "line 1 names the columns" in caplog.text
        caplog.clear()
    (tmp_path / "x.conll").write_text("token\tO\nword\tO\n")
    assert read_conll(tmp_path / "x.conll")[0].tokens == ("token", "word")


def test_one_column_for_both(tmp_path):
    file = file_of(tmp_path, TAGS, WORDS)
    for tag in (1, -1):
        with pytest.raises(DataError, match=r"column 1.*words and tags.*columns\.token and columns\.tag"):
            read_conll(file, token_column=1, tag_column=tag, detect=False)
    assert read_conll(file, token_column=1)[0].tags == tuple(TAGS)


def test_universal_ner(tmp_path, caplog):
    """Comments, index, word, tag, a dash and the name of the annotator; multiword tokens have a line of their own."""
    file = file_of(tmp_path, numbers(), WORDS, TAGS, "-", "ada", before="# sent_id = 1\n# text = Ada ...\n")
    file.write_text(file.read_text().replace("3\tmet", "3-4\tmetCharles\tO\t-\tada\n3\tmet"))
    assert [(s.tokens, s.tags) for s in read_conll(file)] == [(tuple(WORDS), tuple(TAGS))] * 3
    assert "only column 2 holds tags of spans" in caplog.text


@pytest.mark.parametrize("inner", ["O", [*TAGS[1:], "B-LOC"]])
def test_germeval(tmp_path, caplog, inner):
    before = "#\thttp://example.org/1.html\t[2010-07-04]\t\n"
    inner = inner if isinstance(inner, str) else ["B-PERpart" if t == "I-PER" else t.replace("I-", "B-") for t in inner]
    file = file_of(tmp_path, numbers(), WORDS, TAGS, inner, before=before)
    assert [(s.tokens, s.tags) for s in read_conll(file)] == [(tuple(WORDS), tuple(TAGS))] * 3
    assert inner == "O" or "as in GermEval, of which the outer ones are read" in caplog.text


def test_conllu_under_another_name(tmp_path, caplog):
    rows = (numbers(), WORDS, "_", UPOS, "_", "_", 0, "dep", "_", "_")
    file = file_of(tmp_path, *rows, before="# text = x\n", name="x.txt")
    file.write_text(file.read_text().replace("1\tAda\t", "1-2\tAdaLovelace" + "\t_" * 8 + "\n1\tAda\t"))
    assert [(s.tokens, s.tags) for s in read_conll(file, scheme="none")] == [(tuple(WORDS), tuple(UPOS))] * 3
    assert "the ten columns of CoNLL-U" in caplog.text
    tagged = file_of(tmp_path, *rows[:-1], TAGS)
    assert read_conll(tagged)[0].tags == tuple(TAGS)


def test_ontonotes(tmp_path, caplog):
    names = "(PERSON* *) * (PERSON* *) * (GPE) * (DATE) *".split()
    columns = ["bc/x", 0, numbers(0), WORDS, "NNP", "*", "-", "-", "-", "ada", names]
    expected = "B-PERSON I-PERSON O B-PERSON I-PERSON O B-GPE O B-DATE O".split()
    file = file_of(tmp_path, *columns, "-", mark="   ", before="#begin document (bc/x); part 000\n")
    with file.open("a") as more:  # a sentence with one more predicate has one more column
        more.write(file_of(tmp_path, *columns, "*", "-", mark=" ", name="y", sentences=1).read_text())
        more.write("#end document\n")
    assert [(s.tokens, list(s.tags)) for s in read_conll(file)] == [(tuple(WORDS), expected)] * 4
    assert "columns of CoNLL-2012 and OntoNotes" in caplog.text
    assert read_conll(file, tag_column=4, scheme="none")[0].tags == ("NNP",) * 10


@pytest.mark.parametrize(
    "cells, wrong", [("(A* (B)", 1), ("* *)", 1), ("(A* *", 1), ("(A", 0), ("(A* *) * (B)", None), ("(A*) *", None)]
)
def test_names_in_brackets(cells, wrong):
    found = iob2_of_names(cells.split())
    assert found == wrong if wrong is not None else isinstance(found, list)


def test_ontonotes_without_names_and_with_broken_ones(tmp_path):
    columns = ["bc/x", 0, numbers(0), WORDS, *["_"] * 6]
    with pytest.raises(DataError, match=r"column 10, that of the names.*holds '_'.*columns\.tag"):
        read_conll(file_of(tmp_path, *columns, "_", "_", before="#begin document (x); part 0\n"))
    file = file_of(tmp_path, *columns, ["(PERSON*", *["*"] * 9], "-", before="#begin document (x); part 0\n")
    with pytest.raises(DataError, match=r"x\.conll:11: name '\*' in column 10"):
        read_conll(file)


def test_several_columns_of_the_same_types_are_refused(tmp_path):
    file = file_of(tmp_path, WORDS, TAGS, ["O"] * 10, "")
    with pytest.raises(DataError, match=r"columns 1, 2 hold tags of the same types.*columns\.tag=1 or columns\.tag=2"):
        read_conll(file)
    assert read_conll(file, tag_column=1)[0].tags == tuple(TAGS)
    assert read_conll(file_of(tmp_path, WORDS, TAGS, TAGS))[0].tags == tuple(TAGS)
    chunks = ["B-NP", "I-NP", "B-VP", "B-NP", "I-NP", "B-PP", "B-NP", "B-PP", "B-NP", "O"]
    assert read_conll(file_of(tmp_path, WORDS, chunks, ["O"] * 10))[0].tags == ("O",) * 10  # as in CoNLL-2003
    with pytest.raises(DataError, match=r"columns 1, 2 hold tags of spans. Choose one: set columns\.tag=1"):
        read_conll(file_of(tmp_path, WORDS, TAGS, [t.replace("PER", "X") for t in TAGS], "ada"))


@pytest.mark.parametrize(
    "column, token, fault, way",
    [
        ("bc/cctv", None, "one value, 'bc/cctv'", "set columns.token=1"),
        (TAGS, None, "tags of spans", "set columns.token=1"),
        (UPOS, None, "parts of speech", "set columns.token=1"),
        (["NOUN", "VERB"] * 5, None, "parts of speech", "set columns.token=1"),
        (numbers(), 0, "running numbers", "set columns.token=1"),
        ([f"1-{i}" for i in range(10)], None, "running numbers", "set columns.token=1"),
        ([f"s1-t{i}" for i in range(10)], None, "running numbers", "set columns.token=1"),
        ([0, 4, 13, 17, 25, 33, 36, 43, 46, 51], None, "numbers or signs without letters", "set columns.token=1"),
    ],
)
def test_a_column_without_words_is_refused(tmp_path, column, token, fault, way):
    with pytest.raises(DataError) as error:
        read_conll(file_of(tmp_path, column, WORDS, TAGS), token_column=token)
    assert fault in str(error.value) and way in str(error.value) and "columns.detect=false" in str(error.value)
    cells = column if isinstance(column, list) else [column] * 10
    found = read_conll(file_of(tmp_path, column, WORDS, TAGS), token_column=token, detect=False)
    assert found[0].tokens == tuple(map(str, cells))


def test_a_column_of_few_values_beside_one_of_many(tmp_path):
    words = [[f"{a}{b}" for b in "abcdefghij"] for a in "abcdefghijklmnopqrstuvwxyz"]
    file = tmp_path / "x.conll"
    file.write_text("".join("".join(f"{'nva'[i % 3]}s\t{w}\tO\n" for i, w in enumerate(row)) + "\n" for row in words))
    with pytest.raises(DataError, match=r"holds 3 different values only.*columns\.token=1"):
        read_conll(file)


def test_no_other_column_and_words_in_the_column_of_tags(tmp_path):
    with pytest.raises(DataError, match="No other column looks like words"):
        read_conll(file_of(tmp_path, numbers(), TAGS))
    with pytest.raises(DataError, match=r"columns\.token=1, and columns\.tag to the column of the tags"):
        read_conll(file_of(tmp_path, TAGS, WORDS), scheme="none")


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("1\tO\n2\tO\n3\tO\n\n1945\tO\n12\tO\n", ("1", "2", "3")),  # counting aloud
        ("1\tCD\tO\n2\tCD\tO\n3\tCD\tO\n", ("1", "2", "3")),
        ("1945 CD B-X\n- : O\n1950 CD B-X\n, , O\n12 CD O\n30 CD O\n", ("1945", "-", "1950", ",", "12", "30")),
        ("ha\tO\n" * 9, ("ha",) * 9),
        ("B-52\tB-X\nO\tO\n", ("B-52", "O")),
        ("X\tO\nSYM\tO\n_\tO\n", ("X", "SYM", "_")),
        ("".join(f"w{i}\tNOUN\tO\n" for i in range(1, 30)), tuple(f"w{i}" for i in range(1, 30))),
        ("".join(f"w{i}\tw{i}\tlemma{i}\tO\n" for i in range(1, 30)), tuple(f"w{i}" for i in range(1, 30))),
        ("to:\tO\nre:x\tO\nhi\tO\nyou\tO\n", ("to:", "re:x", "hi", "you")),
        ("EU\tO\nREJECTS\tO\nGERMAN\tB-X\nCALL\tO\n" * 10, ("EU", "REJECTS", "GERMAN", "CALL") * 10),
    ],
)
def test_odd_texts_are_left_as_they_are(tmp_path, caplog, text, tokens):
    (tmp_path / "x.conll").write_text(text)
    assert read_conll(tmp_path / "x.conll")[0].tokens == tokens
    assert not caplog.text and checked_words([Sentence(tokens, ("O",) * len(tokens))], name="x")[0].tokens == tokens


def sentences_of(words):
    return [Sentence(tuple(words), ("O",) * len(words))] * 3


@pytest.mark.parametrize("codes", [["de:"], ["de:", "en:"], ["zh-min-nan:"], ["simple:", "be-x-old:"]])
def test_codes_before_words_are_removed_and_said(caplog, codes):
    words = [codes[i % len(codes)] + word for i, word in enumerate([*WORDS, ":", "x:y"])]
    assert checked_words(sentences_of([*words, "bare"]), name="x")[0].tokens == (*WORDS, ":", "x:y", "bare")
    assert repr(codes[0]) in caplog.text and "columns.prefix=''" in caplog.text
    for off in ({"prefix": ""}, {"detect": False}):
        assert checked_words(sentences_of(words), name="x", **off)[0].tokens == tuple(words)


def test_other_signs_around_words_are_refused(caplog):
    """The way out that the message names works."""
    for sign in ("▁", "word=", '"', "en_"):
        with pytest.raises(DataError) as error:
            checked_words(sentences_of([sign + word for word in WORDS]), name="x.conll")
        assert f"begin with {sign!r}" in str(error.value) and f"columns.prefix={sign!r}" in str(error.value)
        assert checked_words(sentences_of([sign + w for w in WORDS]), name="x", prefix=sign)[0].tokens == tuple(WORDS)
    with pytest.raises(DataError, match=r"end with '</w>'.*columns\.detect=false"):
        checked_words(sentences_of([word + "</w>" for word in WORDS]), name="x.conll")
    assert checked_words(sentences_of(WORDS), name="x.conll", prefix="fr:")[0].tokens == tuple(WORDS)
    assert "x.conll: no word begins with columns.prefix 'fr:'" in caplog.text
    with pytest.raises(DataError, match=r"x\.jsonl: the words hold parts of speech.*columns\.detect=false"):
        checked_words(sentences_of(UPOS), name="x.jsonl")


def test_running_numbers():
    assert are_running([["1", "2", "3-4", "3", "4", "4.1"], ["1"]]) and are_running([["0", "1"], ["0"]])
    assert not are_running([["1"], ["1"]]) and not are_running([["1", "2"], ["7", "8"]])
    assert not are_running([["1", "x"]]) and not are_running([]) and not are_running([["²", "3"]])
    assert fault_of([]) is None
