"""Files of columns: every form is read, schemes are told apart, and each fault is named with file and line."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.data.labelled.conll import read_conll, write_conll
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import spans
from madx.data.labelled.tags import detect_scheme, to_iob2
from madx.errors import ConfigError, DataError

FINE = "Ada\tB-PER\nLovelace\tI-PER\nmet\tO\n\nBob\tB-PER\n"


def read(tmp_path, text, **settings):
    file = tmp_path / "x.conll"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_conll(file, **settings)


def write_tags(words, entities, scheme):
    """Tags of spans in a scheme, written independently of the reader."""
    tags = ["O"] * words
    for number, (kind, start, end) in enumerate(entities):
        for i in range(start, end):
            if scheme == "iob2":
                letter = "B" if i == start else "I"
            elif scheme == "iob1":
                touches = number and entities[number - 1][0] == kind and entities[number - 1][2] == start
                letter = "B" if i == start and touches else "I"
            else:
                letter = "S" if end - start == 1 else "B" if i == start else "E" if i == end - 1 else "I"
            tags[i] = f"{letter}-{kind}"
    return tags


@given(data=st.data(), scheme=st.sampled_from(["iob1", "iob2", "bioes"]))
def test_every_scheme_comes_back_as_its_spans(annotations, data, scheme):
    words, entities = data.draw(annotations)
    tags = write_tags(words, entities, scheme)
    result = to_iob2(tags, scheme)
    assert result == write_tags(words, entities, "iob2") and spans(result) == entities
    assert to_iob2(tags, scheme, repair=True) == result and to_iob2(result) == result


@given(data=st.data(), letters=st.sampled_from(["BILUO", "BMESO"]))
def test_bioes_under_other_letters(annotations, data, letters):
    words, entities = data.draw(annotations)
    tags = write_tags(words, entities, "bioes")
    other = [dict(zip("BIESO", letters if "U" not in letters else "BILUO", strict=True))[t[0]] + t[1:] for t in tags]
    assert to_iob2(other, "bioes") == to_iob2(tags, "bioes")


@given(data=st.data(), scheme=st.sampled_from(["iob1", "iob2", "bioes"]))
def test_detection_reads_the_file_as_it_was_meant(annotations, data, scheme):
    files = data.draw(st.lists(annotations, min_size=1, max_size=4))
    tags = [write_tags(words, entities, scheme) for words, entities in files]
    found = detect_scheme(tags)
    assert [spans(to_iob2(row, found, repair=scheme == "bioes")) for row in tags] == [entities for _, entities in files]


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=12))
def test_repair_scores_as_seqeval_reads_it(tags):
    from seqeval.metrics.sequence_labeling import get_entities

    assert spans(tags, "lenient") == [(kind, start, end + 1) for kind, start, end in get_entities(tags)]
    assert spans(to_iob2(tags, "iob2", repair=True)) == spans(tags, "lenient")


def test_reads_sentences(tmp_path):
    first, second = read(tmp_path, FINE)
    assert first == Sentence(("Ada", "Lovelace", "met"), ("B-PER", "I-PER", "O"), 1)
    assert second == Sentence(("Bob",), ("B-PER",), 5)


@pytest.mark.parametrize(
    "text, settings",
    [
        ("\ufeff" + FINE.replace("\n", "\r\n"), {}),
        (FINE.replace("\t", " "), {}),
        (FINE.replace("\t", "   "), {"separator": "whitespace"}),
        ("-DOCSTART- -X- O\n\n" + FINE.replace("\t", " x "), {}),
        (FINE.replace("\t", "\t\t"), {}),
        ("# sent_id = 1\n# text = Ada\n" + FINE, {}),
        ("# sent_id = a 1\n#\n" + FINE.replace("\t", " "), {}),
        ("B-PER\tx\tAda\nI-PER\tx\tLovelace\nO\tx\tmet\n\n\n\nB-PER\tx\tBob", {"token_column": 2, "tag_column": 0}),
        ("Ada I-PER\nLovelace I-PER\nmet O\n\nBob I-PER\n", {}),
        ("Ada B-PER\nLovelace E-PER\nmet O\n\nBob S-PER\n", {}),
        ("Ada I-PER\nLovelace I-PER\nmet O\n\nBob B-PER\n", {"repair": True}),
    ],
)
def test_reads_each_form(tmp_path, text, settings):
    plain = [(s.tokens, s.tags) for s in read(tmp_path, text, **settings)]
    assert plain == [(("Ada", "Lovelace", "met"), ("B-PER", "I-PER", "O")), (("Bob",), ("B-PER",))]


def test_a_hash_can_be_a_word(tmp_path):
    assert read(tmp_path, "#\tO\n# 1\tO\n")[0].tokens == ("#", "# 1")
    assert read(tmp_path, "#tag O\nno B-PER\n# O\n# note\n")[0].tokens == ("#tag", "no", "#")


def test_white_space_inside_a_tab_separated_word(tmp_path):
    assert read(tmp_path, "10 000\tO\na\u2028b\tB-PER\n")[0].tokens == ("10 000", "a\u2028b")


def test_words_become_nfc(tmp_path):
    (sentence,) = read(tmp_path, "Is\u0323e\u0323\u0301\tO\n")
    assert sentence.tokens == (unicodedata.normalize("NFC", "Is\u0323e\u0323\u0301"),) != ("Is\u0323e\u0323\u0301",)


@pytest.mark.parametrize(
    "text, settings, expected",
    [
        (b"", {}, "x.conll: the file is empty"),
        ("\n\n# a comment\n", {}, "x.conll: the file is empty"),
        ("Ada\nLovelace\n", {}, "x.conll:1: one column only"),
        ("Ada\tO\n\nmet O\n", {}, "x.conll:3: 1 columns separated by tabs, but 2"),
        ("Ada\tO\nB\tx\tO\n", {}, "x.conll:2: 3 columns separated by tabs, but 2"),
        ("Ada\tO\n#tag\n", {}, "x.conll:2: 1 columns"),
        ("Ada\tO\nBob\t\n", {}, "x.conll:2: column -1 (tag_column) is empty"),
        ("Ada\tO\n\tO\n", {}, "x.conll:2: column 0 (token_column) is empty"),
        ("Ada\tO\n", {"tag_column": 2}, "2 columns: 'Ada\\tO'. Allowed: -2 to 1"),
        (b"Ada\tO\nJos\xe9\tO\n", {}, "x.conll:2: not UTF-8 text: byte 0xe9 at offset 9"),
        (b"Ada\tO\n\0\tO\n", {}, "x.conll:2: a zero byte"),
        ("Ada\tO\nBob\tPERSON\n", {}, "x.conll:2: tag 'PERSON' is neither O nor"),
        ("Ada\tO\nBob\t0\n", {}, "x.conll:2: tag '0' is neither O nor"),
        ("Ada\tO\nBob\tb-PER\n", {}, "Did you mean 'B-PER'?"),
        ("Ada\tO\nBob\tB_PER\n", {}, "Did you mean 'B-PER'?"),
        ("Ada\tO\nBob\tB-\n", {}, "x.conll:2: tag 'B-' is neither"),
        (
            "Ada\tB-PER\n\n# c\nmet\tO\nBob\tI-PER\n",
            {},
            "x.conll:5: I-PER after O: in IOB2 an entity begins with B-PER",
        ),
        ("Ada\tI-PER\n", {"scheme": "iob2"}, "x.conll:1: I-PER after the start of the sentence"),
        ("A\tB-PER\nB\tI-LOC\n", {"scheme": "iob2"}, "x.conll:2: I-LOC after B-PER"),
        ("Ada\tB-PER\n", {"scheme": "iob1"}, "x.conll:1: B-PER after the start of the sentence: in IOB1"),
        ("Ada\tS-PER\n", {"scheme": "iob2"}, "x.conll:1: tag 'S-PER' is not a tag of IOB2"),
        ("A\tB-PER\nB\tO\nC\tS-PER\n", {}, "x.conll:1: B-PER before O: in BIOES an entity ends with E-PER"),
        ("A\tO\nB\tE-PER\n", {}, "x.conll:2: E-PER after O: in BIOES it can only follow"),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, settings, expected):
    with pytest.raises(DataError) as error:
        read(tmp_path, text, **settings)
    assert expected in str(error.value)


def test_wrong_settings(tmp_path):
    with pytest.raises(ConfigError, match="scheme 'iob': did you mean 'iob2'"):
        read(tmp_path, FINE, scheme="iob")
    with pytest.raises(ConfigError, match="style 'connlu': did you mean 'conllu'"):
        read(tmp_path, FINE, style="connlu")
    with pytest.raises(ConfigError, match="separator ';'.*Allowed: tab, whitespace"):
        read(tmp_path, FINE, separator=";")


def test_missing_file(tmp_path):
    (tmp_path / "train.conll").write_text(FINE)
    with pytest.raises(DataError, match=r"trian\.conll: no such file or folder; did you mean '.*train\.conll'"):
        read_conll(tmp_path / "trian.conll")
    with pytest.raises(DataError, match="cannot be read"):
        read_conll(tmp_path)


WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=5)


@given(st.lists(st.lists(st.tuples(WORD, st.sampled_from(["O", "B-A", "B-B"])), min_size=1), min_size=1, max_size=4))
def test_writing_and_reading_again(tmp_path_factory, rows):
    rows = [[(unicodedata.normalize("NFC", word), tag) for word, tag in row] for row in rows]
    sentences = [Sentence(tuple(w for w, _ in row), tuple(t for _, t in row)) for row in rows]
    file = tmp_path_factory.mktemp("round") / "sub" / "x.conll"
    guesses = [["O"] * len(row) for row in rows]
    for predictions, column in ((None, -1), (guesses, 1)):
        write_conll(file, sentences, predictions)
        again = read_conll(file, tag_column=column)
        assert [(s.tokens, s.tags) for s in again] == [(s.tokens, s.tags) for s in sentences]
    assert [list(s.tags) for s in read_conll(file, tag_column=2)] == guesses


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "x.conll"
    sentences = [Sentence(("a b\tc", "", "d"), ("O", "O", "O"))]
    write_conll(file, sentences)
    assert file.read_text() == "a b c\tO\n_\tO\nd\tO\n\n"
    with pytest.raises(DataError, match="differ in number or length"):
        write_conll(file, sentences, [["O"]])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="x.conll.*disk is full.*unchanged"):
        write_conll(file, [Sentence(("new",), ("O",))])
    assert file.read_text().startswith("a b c") and list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_real_files(shared):
    """Yoruba is decomposed in the file and composed in memory; every file has the three types."""
    files = sorted((shared / "data" / "ner").glob("*/*.conll"))
    assert files
    for file in [f for f in files if f.name == "dev.conll"]:
        sentences = read_conll(file)
        assert LabelSet.from_sentences(sentences).types == ("LOC", "ORG", "PER"), file
        raw = [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n") if line]
        assert [token for s in sentences for token in s.tokens] == [unicodedata.normalize("NFC", row[0]) for row in raw]
        assert [tag for s in sentences for tag in s.tags] == [row[1] for row in raw]
    yoruba = (shared / "data/ner/yor-masakhaner2/dev.conll").read_text(encoding="utf-8")
    assert not unicodedata.is_normalized("NFC", yoruba)
