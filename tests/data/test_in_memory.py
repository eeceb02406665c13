"""Data in memory: every form gives what a file would give, and every item that is none is named with its index."""

import pytest

from madx.data.labelled.conll import read_conll, write_conll
from madx.data.labelled.memory import read_dataset, sentences_of
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.tags import Inventory
from madx.data.text.corpora import read_corpus
from madx.data.text.memory import texts_of
from madx.errors import ConfigError, DataError

ADA = Sentence(("Ada", "é"), ("B-PER", "I-PER"), 0)
BOB = Sentence(("Bob",), ("O",), 1)
PAIRS = [(["Ada", "e\u0301"], ["B-PER", "I-PER"]), (("Bob",), ("O",))]


@pytest.fixture(scope="module")
def data_set():
    """Two sentences with a row without words between them, and three columns of tags."""
    datasets = pytest.importorskip("datasets")
    names, numbers = ["O", "B-PER", "I-PER"], [[1, 2], [], [0]]
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
            "tags": datasets.Sequence(datasets.Value("string")),
            "numbers": datasets.Sequence(datasets.Value("int64")),
        }
    )
    rows = {"tokens": [["Ada", "e\u0301"], [], ["Bob"]], "ner_tags": numbers, "numbers": numbers}
    rows["tags"] = [[names[i] for i in row] for row in numbers]
    return datasets.Dataset.from_dict(rows, features=features)


def plain(sentences):
    return [(s.tokens, s.tags) for s in sentences]


# --- labelled sentences


@pytest.mark.parametrize(
    "data",
    [
        PAIRS,
        tuple(PAIRS),
        iter(PAIRS),
        [ADA, BOB],
        [{"tokens": tokens, "tags": tags} for tokens, tags in PAIRS],
        [{"tokens": tokens, "labels": tags, "tags_of_another_kind": 0} for tokens, tags in PAIRS],
        [ADA, PAIRS[1]],
    ],
    ids=["pairs", "tuple", "iterator", "sentences", "records with tags", "records with labels", "mixed"],
)
def test_each_form_gives_the_same_sentences(data):
    assert sentences_of(data) == [ADA, BOB]


@pytest.mark.parametrize("form", ["plain", "numpy", "streamed"])
def test_a_data_set_of_the_library(data_set, form):
    data = {"plain": data_set, "numpy": data_set.with_format("numpy"), "streamed": data_set.to_iterable_dataset()}[form]
    found = sentences_of(data)
    assert plain(found) == plain([ADA, BOB]) and [s.line for s in found] == [0, 2]
    assert plain(sentences_of(data, tag_columns=("none", "tags"))) == plain([ADA, BOB])


def test_a_sentence_keeps_the_line_of_its_file():
    assert sentences_of([Sentence(("a",), ("O",), 7)])[0].line == 7


def test_the_checks_are_those_of_files(tmp_path):
    """Schemes are detected and converted, tags are checked, in memory as in a file."""
    data = [(["Ada", "Lovelace", "met"], ["I-PER", "I-PER", "O"]), (["Bob", "Ann"], ["I-PER", "B-PER"])]
    file = tmp_path / "x.conll"
    write_conll(file, [Sentence(tuple(tokens), tuple(tags)) for tokens, tags in data])
    assert plain(sentences_of(data)) == plain(read_conll(file, scheme="none"))
    for settings in ({"scheme": "auto"}, {"scheme": "iob1"}, {"scheme": "iob2", "repair": True}):
        assert plain(sentences_of(data, **settings)) == plain(read_conll(file, **settings))
    upos = Inventory("UPOS", ("NOUN", "DET"))
    assert plain(sentences_of([(["a"], ["DET"])], inventory=upos)) == [(("a",), ("DET",))]
    with pytest.raises(DataError, match="index 1, word at index 1 'b'.*'Noun' is no UPOS tag; did you mean 'NOUN'"):
        sentences_of([(["a"], ["DET"]), (["a", "b"], ["DET", "Noun"])], inventory=upos)
    with pytest.raises(DataError, match="train, item at index 0, word at index 1 'Lovelace': I-PER after O.*repair"):
        sentences_of([(["Ada", "Lovelace"], ["O", "I-PER"])], scheme="iob2", name="train")
    with pytest.raises(ConfigError, match="scheme 'iob': did you mean 'iob2'"):
        sentences_of(data, scheme="iob")


@pytest.mark.parametrize(
    "item, expected",
    [
        ((["a", "b"], ["O"]), "2 words, but 1 tags. Give one tag"),
        (([], []), "without words. Leave it out"),
        (("a b", "O O"), "the words are 'a b' (str), not a list"),
        ((["a"], "O"), "the tags are 'O' (str), not a list"),
        ((["a", 5], ["O", "O"]), "word at index 1: 5 (int) is no text"),
        ((["a", " "], ["O", "O"]), "word at index 1: ' ' is an empty word"),
        ((["a", "\ud800"], ["O", "O"]), "word at index 1: half of a surrogate pair"),
        ((["a"], [1]), "word at index 0: tag 1 (int) is no text"),
        ((["a"], [None]), "word at index 0: tag None (NoneType) is no text"),
        ((["a"], ["PERSON"]), "word at index 0 'a': tag 'PERSON' is neither O nor"),
        ("a sentence", "'a sentence' (str) is no sentence. Give a pair (words, tags)"),
        (["a", "b", "c"], "is no sentence"),
        ({"words": ["a"], "tags": ["O"]}, "no column 'tokens'; Allowed: words, tags"),
        ({"tokens": ["a"], "ner_tag": ["O"]}, "or 'upos'; did you mean 'ner_tag'"),
    ],
)
def test_a_broken_item_is_named_with_its_index(item, expected):
    with pytest.raises(DataError) as error:
        sentences_of([*PAIRS, item], scheme="auto")
    assert "item at index 2" in str(error.value) and expected in str(error.value)


def test_numbers_need_names(data_set):
    with pytest.raises(DataError, match="index 0, word at index 0: tag 1 .int. is no text.*has 0 names"):
        sentences_of(data_set, tag_columns=("numbers",))


# --- named data sets


def test_a_named_data_set_counts_rows_from_1(data_set, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: data_set)
    assert [s.line for s in read_dataset("datasets:ner:sw:test")] == [1, 3]
    assert plain(read_dataset("datasets:ner:sw:test")) == plain([ADA, BOB])
    with pytest.raises(DataError, match="datasets:ner, row 1: no column 'tag'; did you mean 'tags'"):
        read_dataset("datasets:ner", tag_column="tag")
    with pytest.raises(DataError, match="datasets:ner, row 1, word 1: tag 1 .int. is no text"):
        read_dataset("datasets:ner", tag_column="numbers")
    with pytest.raises(DataError, match="datasets:ner, row 1, word 1 'Ada': B-PER after the start"):
        read_dataset("datasets:ner", scheme="iob1")


# --- texts


@pytest.mark.parametrize(
    "data",
    [
        ["e\u0301 one ", " ", "two\nlines"],
        iter(["e\u0301 one", "", "two\nlines"]),
        (text for text in ("e\u0301 one", "two\nlines")),
        [{"text": "e\u0301 one", "title": "x"}, {"text": "two\nlines", "title": "y"}],
        [{"body": "e\u0301 one", "number": 1}, {"body": "two\nlines", "number": 2}],
    ],
    ids=["list", "iterator", "generator", "records", "records with one column of strings"],
)
def test_texts_are_those_of_a_file(data, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "e\\u0301 one "}\n{"text": ""}\n{"text": "two\\nlines"}\n')
    assert list(texts_of(data)) == list(read_corpus(file)) == ["é one", "two\nlines"]


def test_texts_of_a_data_set():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"id": [1, 2], "body": ["one", "two"]})
    assert list(texts_of(data)) == list(texts_of(data.to_iterable_dataset())) == ["one", "two"]
    both = data.add_column("title", ["x", "y"])
    assert list(texts_of(both, text_key="body")) == ["one", "two"]
    with pytest.raises(DataError, match=r"2 keys of a string \(body, title\).*text_key"):
        list(texts_of(both))
    with pytest.raises(DataError, match="item at index 0: no key 'bdy'; the keys are 'id', 'body', 'title'"):
        list(texts_of(both, text_key="bdy"))


@pytest.mark.parametrize(
    "item, expected",
    [
        (5, "type int is no text"),
        (None, "type NoneType is no text"),
        ("\ud800", "half of a surrogate"),
        ({"text": 5}, "int"),
    ],
)
def test_what_is_no_text_is_named_with_its_index(item, expected):
    texts = texts_of(["fine", item], name="the corpus")
    assert next(texts) == "fine"
    with pytest.raises(DataError, match=f"the corpus, item at index 1: .*{expected}"):
        next(texts)


@pytest.mark.parametrize("read", [texts_of, sentences_of])
@pytest.mark.parametrize(
    "data, expected",
    [
        ("a single text", "type str where a list of"),
        (b"bytes", "type bytes where a list of"),
        ({"train": [], "test": []}, "with the keys 'train', 'test'.*Give one of its values"),
        ({"a", "b"}, "type set has no order"),
        (5, "type int is no list of"),
    ],
)
def test_what_is_no_list_is_refused_at_once(read, data, expected):
    with pytest.raises(DataError, match=expected):
        read(data)


def test_empty_data_is_refused():
    for texts in ([], ["", " "], iter(())):
        with pytest.raises(DataError, match="the texts: the corpus is empty"):
            list(texts_of(texts))
    with pytest.raises(DataError, match="the sentences: the data is empty"):
        sentences_of([])


def test_an_error_of_a_generator_is_its_own():
    def broken():
        yield "one"
        raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"):
        list(texts_of(broken()))
