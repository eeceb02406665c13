"""Tags of spans: the schemes IOB1, IOB2 and BIOES are told apart, checked, and brought to IOB2.

    words   Ada   Lovelace  met   Bob   Ann   (Bob and Ann are two persons side by side)
    IOB2    B-PER I-PER     O     B-PER B-PER
    IOB1    I-PER I-PER     O     I-PER B-PER
    BIOES   B-PER E-PER     O     S-PER S-PER

BILOU (with L and U) and BMES (with M) are BIOES with other letters. IOB1: Ramshaw & Marcus 1995, arXiv:cmp-lg/9505040.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from madx.errors import ConfigError, DataError, did_you_mean

SCHEMES = ("auto", "iob1", "iob2", "bioes", "none")
#: a type may hold blanks, but none at its ends, and nothing that would break the columns of a file
_FORM = re.compile(r"O|([BIESLUM])-(\S(?:[^\t\r\n]*\S)?)")
_IOB = set("BI")
_OPEN, _CONTINUES = "BIM", "IMEL"  # letters of BIOES, BILOU and BMES after which an entity goes on; that continue one
_OUTSIDE = ("O", "")


class TagFault(DataError):
    """A wrong tag; `index` is its place in the sentence, and the reader adds the place of the sentence."""

    def __init__(self, index: int, text: str):
        super().__init__(text)
        self.index = index


class Inventory(NamedTuple):
    """The closed set of tags of a task that labels single words.

    renamed: tags of older or other sets, with the tag of this set that replaces each of them, for error messages.
    """

    name: str
    tags: tuple[str, ...]
    renamed: dict[str, str] = {}

    def check(self, tags: Sequence[str]) -> None:
        """Raise TagFault for the first tag that is not in the set; the message suggests the nearest one."""
        for index, tag in enumerate(tags):
            if tag not in self.tags:
                near = did_you_mean(self.renamed.get(tag, tag.upper()), self.tags)
                raise TagFault(
                    index,
                    f"tag {tag!r} is no {self.name} tag; {near}. If this is not the column of the tags, set "
                    "columns.tag (counted from 0); for a file in CoNLL-U, set columns.style=conllu.",
                )


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into its letter and its type.

    >>> split_tag("B-PER"), split_tag("O")
    (('B', 'PER'), ('O', ''))
    """
    return (tag[0], tag[2:]) if tag != "O" else _OUTSIDE


def is_iob2(tag: object) -> bool:
    """Return whether a tag is O, B-TYPE or I-TYPE. A type may hold blanks and hyphens, `Person name`, `PER-`, but not
    begin or end with a blank.

    >>> is_iob2("B-Person name"), is_iob2("S-PER"), is_iob2("B-")
    (True, False, False)
    """
    return isinstance(tag, str) and tag[:1] in ("O", "B", "I") and _FORM.fullmatch(tag) is not None


def is_span_tag(tag: str) -> bool:
    """Return whether a tag is O, or one of the letters B I E S L U M with a hyphen and a type."""
    return _FORM.fullmatch(tag) is not None


def check_forms(tags: Sequence[str]) -> None:
    """Raise TagFault for the first tag that is neither O nor a letter with a type."""
    for index, tag in enumerate(tags):
        if not is_span_tag(tag):
            near = {"0": "O", "o": "O"}.get(tag) or (tag[:1].upper() + "-" + tag[2:])
            hint = f"Did you mean {near!r}? " if is_span_tag(near) and tag[1:2] in ("", "-", "_") else ""
            raise TagFault(
                index,
                f"tag {tag!r} is neither O nor one of the letters B I E S L U M with a hyphen and a type, as in B-PER. "
                f"{hint}If this is not the column of the tags, set columns.tag. If the tags are plain labels, such as "
                "parts of speech, set columns.scheme=null, or the task to pos.",
            )


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Return the scheme of a set of sentences: `iob1`, `iob2` or `bioes`. Their tags must have the right form.

    Letters other than B and I mean BIOES. Entities that begin with I, while B occurs only between neighbours of one
    type, mean IOB1. Anything else is IOB2, perhaps with faults.
    """
    loose = proper = False  # an entity begins with I; an entity begins with B after something that is not of its type
    for tags in sentences:
        before = _OUTSIDE
        for prefix, kind in map(split_tag, tags):
            if prefix != "O" and prefix not in _IOB:
                return "bioes"
            loose = loose or (prefix == "I" and before[1] != kind)
            proper = proper or (prefix == "B" and before[1] != kind)
            before = (prefix, kind)
    return "iob1" if loose and not proper else "iob2"


def to_iob2(tags: Sequence[str], scheme: str = "iob2", *, repair: bool = False) -> list[str]:
    """Return the tags of a sentence in IOB2.

    A tag in a place that the scheme forbids raises TagFault. With `repair` it is read as the evaluation script of CoNLL
    reads it: B, S and U begin an entity; the other letters continue an entity of the same type, or else begin one.
    An unknown scheme raises ConfigError.

    >>> to_iob2(["I-PER", "I-PER", "O", "I-PER", "B-PER"], "iob1")
    ['B-PER', 'I-PER', 'O', 'B-PER', 'B-PER']
    """
    if scheme not in SCHEMES or scheme == "auto":
        raise ConfigError(f"scheme {scheme!r}: {did_you_mean(scheme, [s for s in SCHEMES if s != 'auto'])}")
    if scheme == "none":
        return list(tags)
    check_forms(tags)
    if not repair:
        _check_order(tags, scheme)
    result, before = [], _OUTSIDE
    for prefix, kind in map(split_tag, tags):
        continues = prefix in _CONTINUES and before[1] == kind and before[0] not in "ESLU"
        result.append("O" if prefix == "O" else f"{'I' if continues else 'B'}-{kind}")
        before = (prefix, kind)
    return result


def _check_order(tags: Sequence[str], scheme: str) -> None:
    for index in range(len(tags)):
        fault = _fault_of_bioes(tags, index) if scheme == "bioes" else _fault_of_iob(tags, index, scheme)
        if fault:
            raise TagFault(
                index, f"{fault} Correct the data, or set columns.repair=true (such a tag then begins an entity)."
            )


def _fault_of_iob(tags: Sequence[str], index: int, scheme: str) -> str | None:
    """Describe what is wrong with the tag at `index` in IOB1 or IOB2."""
    prefix, kind = split_tag(tags[index])
    before = tags[index - 1] if index else "the start of the sentence"
    begins = index == 0 or split_tag(tags[index - 1])[1] != kind
    if prefix != "O" and prefix not in _IOB:
        return (
            f"tag {tags[index]!r} is not a tag of {scheme.upper()}, which has O, B-TYPE and I-TYPE; is it scheme=bioes?"
        )
    if scheme == "iob2" and prefix == "I" and begins:
        return f"{tags[index]} after {before}: in IOB2 an entity begins with B-{kind}; is the file IOB1 (scheme=iob1)?"
    if scheme == "iob1" and prefix == "B" and begins:
        return f"{tags[index]} after {before}: in IOB1 a B- only separates neighbours of one type; is it scheme=iob2?"
    return None


def _fault_of_bioes(tags: Sequence[str], index: int) -> str | None:
    """Describe what is wrong with the tag at `index` in BIOES."""
    prefix, kind = split_tag(tags[index])
    before = split_tag(tags[index - 1]) if index else _OUTSIDE
    after = split_tag(tags[index + 1]) if index + 1 < len(tags) else _OUTSIDE
    if prefix in _CONTINUES and (before[0] not in _OPEN or before[1] != kind):
        place = tags[index - 1] if index else "the start of the sentence"
        return f"{tags[index]} after {place}: in BIOES it can only follow B-{kind} or I-{kind}."
    if prefix in _OPEN and (after[0] not in _CONTINUES or after[1] != kind):
        place = tags[index + 1] if index + 1 < len(tags) else "the end of the sentence"
        return (
            f"{tags[index]} before {place}: in BIOES an entity ends with E-{kind}, or is S-{kind} if it has one word."
        )
    return None
