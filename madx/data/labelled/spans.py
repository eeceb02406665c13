"""The reading of IOB2 tags as spans: one rule for scores, predictions, confusion and lists of errors.

A span begins with B-; an I- of the same type right behind it continues it. Two readings differ in an I- that continues
nothing, because it follows O, the start of the sentence, or a word of another type:

    words      Ada    Lovelace  met   Bob    in   Paris
    tags       B-PER  I-LOC     O     I-PER  O    B-LOC
    strict     PER                                LOC
    lenient    PER    LOC             PER         LOC

strict: such an I- is no span, and no span can go on from it (seqeval with `mode="strict", scheme=IOB2`; Nakayama 2018).
lenient: it begins a span (the evaluation script of CoNLL 2000, conlleval; seqeval's default).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

from madx.data.labelled.tags import split_tag
from madx.errors import ConfigError, did_you_mean

#: the two readings of an I- that continues nothing
Scoring = Literal["strict", "lenient"]
SCORINGS: tuple[str, ...] = get_args(Scoring)
#: type, first word, word after the last
Span = tuple[str, int, int]


def check_scoring(scoring: str) -> None:
    """Raise ConfigError for a reading that is neither `strict` nor `lenient`."""
    if scoring not in SCORINGS:
        raise ConfigError(f"scoring {scoring!r}: {did_you_mean(scoring, SCORINGS)}")


def spans(tags: Sequence[str], scoring: Scoring = "strict") -> list[Span]:
    """Return (type, start, end) of each span of IOB2 tags, `end` exclusive.

    >>> spans(["B-PER", "I-PER", "O", "I-LOC"])
    [('PER', 0, 2)]
    >>> spans(["B-PER", "I-PER", "O", "I-LOC"], "lenient")
    [('PER', 0, 2), ('LOC', 3, 4)]

    Raises ConfigError for an unknown reading.
    """
    check_scoring(scoring)
    found: list[Span] = []
    for i, (prefix, kind) in enumerate(map(split_tag, tags)):
        if prefix == "I" and found and found[-1][0] == kind and found[-1][2] == i:
            found[-1] = (kind, found[-1][1], i + 1)
        elif prefix == "B" or (prefix == "I" and scoring == "lenient"):
            found.append((kind, i, i + 1))
    return found


def stray(tags: Sequence[str]) -> int:
    """Return the number of spans that the lenient reading has and the strict one has not: they begin with I-.

    >>> stray(["I-PER", "I-PER", "O", "B-LOC", "I-PER"])
    2
    """
    return len(spans(tags, "lenient")) - len(spans(tags))


def renamed(tags: Sequence[str], *, ignore: Collection[str] = (), names: Mapping[str, str] | None = None) -> list[str]:
    """Return the tags with spans of the types `ignore` read as O, and with types renamed by `names`.

    >>> renamed(["B-PERSON", "I-PERSON", "B-DATE"], ignore=["DATE"], names={"PERSON": "PER"})
    ['B-PER', 'I-PER', 'O']
    """
    names = names or {}
    result = []
    for tag in tags:
        kind = tag[2:] if tag[1:2] == "-" else ""  # a plain tag, which has no type, stays as it is
        new = names.get(kind, kind)
        result.append("O" if kind and (kind in ignore or new in ignore) else tag if new == kind else tag[:2] + new)
    return result
