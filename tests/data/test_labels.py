"""Label sets: order, round trips, and the error when data and module do not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.data.labelled.labels import LabelSet, require
from madx.data.labelled.sentences import Sentence
from madx.errors import DataError


def sentences(*rows):
    return [Sentence(("w",) * len(tags), tuple(tags), line) for line, tags in enumerate(rows, start=10)]


def test_span_labels_are_complete_and_ordered():
    labels = LabelSet.from_sentences(sentences(["B-PER", "O"], ["B-LOC"]), source="x.conll")
    assert labels.tags == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert labels.types == ("LOC", "PER") and labels.are_spans and len(labels) == 5
    assert labels.seen == {"B-PER": "x.conll:10", "O": "x.conll:10", "B-LOC": "x.conll:11"}
    assert labels == LabelSet(labels.tags) and hash(labels) == hash(LabelSet(labels.tags))
    assert labels != LabelSet(labels.tags[::-1])


def test_plain_labels_stay():
    labels = LabelSet.from_sentences(sentences(["VERB", "NOUN"], ["NOUN"]))
    assert labels.tags == ("NOUN", "VERB") and labels.types == () and not labels.are_spans


@given(st.lists(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-b-c", "I-b-c"]), min_size=1), min_size=1))
def test_ids_round_trip(rows):
    labels = LabelSet.from_sentences(sentences(*rows))
    assert [labels.decode(labels.encode(row)) for row in rows] == rows
    assert sorted(labels.ids.values()) == list(range(len(labels)))
    require(labels, LabelSet.from_sentences(sentences(*rows)))


@pytest.mark.parametrize(
    "lacking, way_out",
    [
        (["B-DATE"], ["columns.ignore=[DATE]", "columns.map={DATE: LOC}"]),
        (["B-PERSON", "I-PERSON"], ["columns.ignore=[PERSON]", "columns.map={PERSON: PER}"]),
        (["B-Person name"], ["columns.ignore=[Person name]", "columns.map={Person name: PER}"]),
    ],
)
def test_labels_that_a_module_lacks_are_refused_with_the_settings_that_mend_it(lacking, way_out):
    labels = LabelSet(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
    with pytest.raises(DataError) as caught:
        require(labels, LabelSet(("O", "B-PER", *lacking)))
    assert all(text in str(caught.value) for text in (*lacking, *way_out))


def test_plain_labels_that_a_module_lacks_name_no_setting_of_spans():
    with pytest.raises(DataError, match="VERB") as caught:
        require(LabelSet(("NOUN",)), LabelSet(("NOUN", "VERB")))
    assert "columns" not in str(caught.value)


def test_a_mismatch_names_both_sides_and_the_place():
    module = LabelSet(("O", "B-PER", "I-PER"))
    data = LabelSet.from_sentences(sentences(["O", "B-PER"], ["B-DATE"]), source="sw/test.conll")
    with pytest.raises(DataError) as error:
        require(module, data)
    text = str(error.value)
    assert "B-DATE (first in sw/test.conll:11)" in text and "I-DATE" not in text
    assert "Labels of the module: O, B-PER, I-PER" in text and "of the data: O, B-PER, B-DATE" in text
    require(LabelSet(("O", "B-DATE", "I-DATE", "B-PER", "I-PER")), data)
    with pytest.raises(DataError, match="B-X"):
        require(module, LabelSet(("O", "B-X")))


def test_wrong_labels():
    with pytest.raises(DataError, match="'B-LOC' is not in the label set.*Allowed: O, B-PER"):
        LabelSet(("O", "B-PER")).encode(["O", "B-LOC"])
    for tags in ((), ("O", "O")):
        with pytest.raises(DataError, match="each of them once"):
            LabelSet(tags)
