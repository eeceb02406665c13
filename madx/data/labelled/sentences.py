"""Labelled sentences, and the checks of their tags that all readers share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from madx.data.labelled.tags import Inventory, TagFault, check_forms, detect_scheme, to_iob2
from madx.errors import DataError


@dataclass(frozen=True)
class Sentence:
    """The words of a sentence in Unicode NFC, and one tag for each of them.

    line: where the sentence stood: the line of its first word in a file, the row of a named data set (counted from 1),
    or the index of an item in memory (counted from 0).
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    line: int = 0


class HasTokens(Protocol):
    """A sentence of which only the words matter, with or without tags."""

    @property
    def tokens(self) -> Sequence[str]:
        """The words."""


def checked_tags(
    sentences: Sequence[Sentence],
    *,
    scheme: str,
    repair: bool,
    inventory: Inventory | None,
    place: Callable[[int, int], str],
) -> list[Sentence]:
    """Return the sentences with their spans in IOB2, or with tags that were found in an inventory.

    scheme: the scheme of the tags, `auto` to detect it, or `none` to leave the tags as they are.
    repair: whether a tag in a place that the scheme forbids is mended (see `to_iob2`); otherwise it raises DataError.
    inventory: the tags that may occur, for a task without spans.
    place: gives the name of a place for an error, from the index of a sentence and the index of a word in it.
    """
    number = 0
    try:
        if inventory is not None:
            for number, sentence in enumerate(sentences):
                inventory.check(sentence.tags)
        if scheme == "auto":
            for number, sentence in enumerate(sentences):
                check_forms(sentence.tags)
            scheme = detect_scheme(sentence.tags for sentence in sentences)
        result = []
        for number, sentence in enumerate(sentences):
            result.append(replace(sentence, tags=tuple(to_iob2(sentence.tags, scheme, repair=repair))))
        return result
    except TagFault as fault:
        raise DataError(f"{place(number, fault.index)}: {fault}") from None
