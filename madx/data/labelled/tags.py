"""Span tags: IOB1, IOB2 and BIOES told apart, checked, and brought to IOB2.

    words   Ada   Lovelace  met   Bob  Ann   (Bob and Ann: two persons side by side)
    IOB2    B-PER I-PER     O     B-PER B-PER
    IOB1    I-PER I-PER     O     I-PER B-PER
    BIOES   B-PER E-PER     O     S-PER S-PER

BILOU (L, U) and BMES (M) are BIOES under other letters. IOB1: Ramshaw and Marcus 1995, arXiv:cmp-lg/9505040.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from madx.errors import DataError, did_you_mean

SCHEMES = ("auto", "iob1", "iob2", "bioes", "none")
_FORM = re.compile(r"O|([BIESLUM])-(\S.*)")
_IOB = set("BI")


class TagFault(DataError):
    """The tag at `index` of a sentence is wrong; the reader adds file and line."""

    def __init__(self, index: int, text: str):
        super().__init__(text)
        self.index = index


class Inventory(NamedTuple):
    """The closed set of plain tags that a task knows; `renamed`: tags of older or other sets -> those of this one."""

    name: str
    tags: tuple[str, ...]
    renamed: dict[str, str] = {}

    def check(self, tags: Sequence[str]) -> None:
        """Raise TagFault for a tag that is not in the set, with the nearest one."""
        for index, tag in enumerate(tags):
            if tag not in self.tags:
                raise TagFault(
                    index,
                    f"tag {tag!r} is no {self.name} tag; {did_you_mean(self.renamed.get(tag, tag.upper()), self.tags)}. "
                    "Not the column of the tags? Set columns.tag (counted from 0), or columns.style=conllu for a file of CoNLL-U.",
                )


def split_tag(tag: str) -> tuple[str, str]:
    """`B-PER` -> ("B", "PER"), `O` -> ("O", "")."""
    return (tag[0], tag[2:]) if tag != "O" else ("O", "")


def check_forms(tags: Sequence[str]) -> None:
    """Raise TagFault for a tag that is neither O nor LETTER-TYPE."""
    for index, tag in enumerate(tags):
        if not _FORM.fullmatch(tag):
            near = {"0": "O", "o": "O"}.get(tag) or (tag[:1].upper() + "-" + tag[2:])
            hint = f"Did you mean {near!r}? " if _FORM.fullmatch(near) and tag[1:2] in ("", "-", "_") else ""
            raise TagFault(
                index,
                f"tag {tag!r} is neither O nor a letter of B I E S L U M, a hyphen and a type, as in B-PER. {hint}"
                "Not the column of the tags? Set columns.tag. Plain labels, such as parts of speech? Set columns.scheme=null, or the task to pos.",
            )


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme of a whole file, whose tags have the right form.

    Letters other than B and I mean BIOES. Entities that begin with I while B only parts neighbours of one type mean
    IOB1. All else is IOB2, if need be with faults: B and I both begin entities.
    """
    loose = proper = False  # entities that begin with I; with B where nothing of the type stands before
    for tags in sentences:
        before = ("O", "")
        for prefix, kind in map(split_tag, tags):
            if prefix != "O" and prefix not in _IOB:
                return "bioes"
            loose = loose or (prefix == "I" and before[1] != kind)
            proper = proper or (prefix == "B" and before[1] != kind)
            before = (prefix, kind)
    return "iob1" if loose and not proper else "iob2"


def to_iob2(tags: Sequence[str], scheme: str = "iob2", *, repair: bool = False) -> list[str]:
    """The tags in IOB2; TagFault for a tag that the scheme does not allow where it stands, unless `repair`.

    Repair reads an odd tag as the evaluation script of CoNLL does: B, S and U begin an entity, the other letters go on
    with one of the same type or else begin one.

    >>> to_iob2(["I-PER", "I-PER", "O", "I-PER", "B-PER"], "iob1")
    ['B-PER', 'I-PER', 'O', 'B-PER', 'B-PER']
    """
    if scheme not in SCHEMES or scheme == "auto":
        raise DataError(f"scheme {scheme!r}: {did_you_mean(scheme, [s for s in SCHEMES if s != 'auto'])}")
    if scheme == "none":
        return list(tags)
    check_forms(tags)
    if not repair:
        _check_order(tags, scheme)
    result, before = [], ("O", "")
    for prefix, kind in map(split_tag, tags):
        goes_on = prefix in "IMEL" and before[1] == kind and before[0] not in "ESLU"
        result.append("O" if prefix == "O" else f"{'I' if goes_on else 'B'}-{kind}")
        before = (prefix, kind)
    return result


def _check_order(tags: Sequence[str], scheme: str) -> None:
    parts = [("O", ""), *map(split_tag, tags), ("O", "")]
    for index, tag in enumerate(tags):
        (_, kind_before), (prefix, kind), (next_prefix, next_kind) = parts[index : index + 3]
        before = tags[index - 1] if index else "the start of the sentence"
        if scheme != "bioes" and prefix != "O" and prefix not in _IOB:
            fault = (
                f"tag {tag!r} is no tag of {scheme.upper()}, which knows O, B-TYPE and I-TYPE; is it scheme='bioes'?"
            )
        elif scheme == "iob2" and prefix == "I" and kind_before != kind:
            fault = f"{tag} after {before}: in IOB2 an entity begins with B-{kind}; is the file IOB1 (scheme='iob1')?"
        elif scheme == "iob1" and prefix == "B" and kind_before != kind:
            fault = (
                f"{tag} after {before}: in IOB1 B- only parts neighbours of one type; is the file IOB2 (scheme='iob2')?"
            )
        elif scheme == "bioes" and prefix in "IMEL" and (parts[index][0] not in "BIM" or kind_before != kind):
            fault = f"{tag} after {before}: in BIOES it can only follow B-{kind} or I-{kind}."
        elif scheme == "bioes" and prefix in "BIM" and (next_prefix not in "IMEL" or next_kind != kind):
            after = tags[index + 1] if index + 1 < len(tags) else "the end of the sentence"
            fault = f"{tag} before {after}: in BIOES an entity ends with E-{kind}, one of a single word is S-{kind}."
        else:
            continue
        raise TagFault(
            index, f"{fault} Correct the file, or set columns.repair=true (an odd tag then begins an entity)."
        )
