"""The reading of tags as spans, strict and lenient, and the renaming of types."""

import pytest

from madx.data.labelled.spans import renamed, spans, stray
from madx.data.labelled.tags import is_iob2
from madx.errors import ConfigError

#: tags, strict spans, lenient spans
CASES = [
    ([], [], []),
    (["B-A", "B-A", "I-A"], [("A", 0, 1), ("A", 1, 3)], [("A", 0, 1), ("A", 1, 3)]),
    (["I-A", "I-A"], [], [("A", 0, 2)]),
    (["O", "I-A", "O"], [], [("A", 1, 2)]),
    (["B-A", "I-B", "I-B"], [("A", 0, 1)], [("A", 0, 1), ("B", 1, 3)]),
    (["B-A", "I-B", "I-A"], [("A", 0, 1)], [("A", 0, 1), ("B", 1, 2), ("A", 2, 3)]),
    (["B-A", "O", "I-A"], [("A", 0, 1)], [("A", 0, 1), ("A", 2, 3)]),
    (["I-A", "B-A", "I-A"], [("A", 1, 3)], [("A", 0, 1), ("A", 1, 3)]),
]


@pytest.mark.parametrize("tags, strict, lenient", CASES)
def test_an_inside_tag_that_continues_nothing_is_read_as_asked(tags, strict, lenient):
    assert (spans(tags), spans(tags, "strict"), spans(tags, "lenient")) == (strict, strict, lenient)
    assert stray(tags) == len(lenient) - len(strict)


def test_types_differ_by_every_character():
    tags = ["B-PER", "I-PER-", "B-PER-", "I-PER-", "B--PER", "B-Person name", "I-Person name", "B-Ọ̀yọ́", "B-per"]
    assert spans(tags) == [
        ("PER", 0, 1),
        ("PER-", 2, 4),
        ("-PER", 4, 5),
        ("Person name", 5, 7),
        ("Ọ̀yọ́", 7, 8),
        ("per", 8, 9),
    ]


@pytest.mark.parametrize("tag", ["B-", "B- PER", "B-PER ", "B-a\tb", "B-a\nb", "BPER", "", "S-PER", "b-PER", 3, None])
def test_no_tag_of_iob2(tag):
    assert not is_iob2(tag)


def test_an_unknown_reading_is_refused():
    with pytest.raises(ConfigError, match="'lenien'.*lenient"):
        spans(["O"], "lenien")


def test_types_are_left_out_and_renamed():
    tags = ["B-PERSON", "I-PERSON", "B-DATE", "O", "B-LOC"]
    assert renamed(tags, ignore=["DATE"], names={"PERSON": "PER"}) == ["B-PER", "I-PER", "O", "O", "B-LOC"]
    assert renamed(tags, ignore=["PER"], names={"PERSON": "PER"}) == ["O", "O", "B-DATE", "O", "B-LOC"]
    assert renamed(["S-PERSON", "PERSON", "O"], names={"PERSON": "PER", "RSON": "X"}) == ["S-PER", "PERSON", "O"]
