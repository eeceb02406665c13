"""CoNLL-U, the format of Universal Dependencies: ten columns separated by tabs, one syntactic word a line.

    # text = vámonos al mar
    1-2   vámonos  _     _     ...   a multiword token: the written form of words 1 to 2, without a tag; left out
    1     vamos    ir    VERB  ...
    2     nos      yo    PRON  ...
    2.1   ...                        an empty node of an enhanced analysis, which is not in the text; left out

The words that are read are the syntactic ones, which carry the tags (de Marneffe et al. 2021, Universal Dependencies).
"""

import re
from collections.abc import Iterable, Iterator
from os import PathLike

from madx.data.text.files import Line
from madx.errors import DataError

COLUMNS = 10
_WORD = re.compile(r"[1-9]\d*")
_RANGE = re.compile(r"([1-9]\d*)-([1-9]\d*)")
_EMPTY = re.compile(r"(0|[1-9]\d*)\.[1-9]\d*")


def conllu_rows(path: str | PathLike[str], lines: Iterable[Line]) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield for each sentence the line number and the ten columns of its words.

    Raises DataError, naming file and line, for a line without ten columns, and for an ID that is invalid or out of
    order: words count from 1 in each sentence, a range begins at the next word, an empty node follows its word.
    """
    words: list[tuple[int, list[str]]] = []
    covered, covered_at = 0, 0  # the end of the last range, and its line
    for number, text, _ in [*lines, Line(0, "")]:
        if not text.strip():
            if covered > len(words):
                raise DataError(
                    f"{path}:{covered_at}: a multiword token up to word {covered}, but the sentence has {len(words)} "
                    "words. Add the missing words, or correct the range."
                )
            if words:
                yield words
            words, covered = [], 0
        elif not text.startswith("#"):
            where, cells = f"{path}:{number}", text.split("\t")
            if len(cells) != COLUMNS:
                raise DataError(
                    f"{where}: {len(cells)} columns separated by tabs, but CoNLL-U has {COLUMNS}: {text[:80]!r}. For a "
                    "plain file of columns set columns.style=conll, and columns.tag if the tag is not in the last one."
                )
            if _checked_id(where, cells[0], count=len(words), covered=covered):
                words.append((number, cells))
            elif found := _RANGE.fullmatch(cells[0]):
                covered, covered_at = int(found[2]), number


def _checked_id(where: str, text: str, *, count: int, covered: int) -> bool:
    """Return whether a line is a word. It stands after `count` words and after a range up to word `covered`."""
    if _WORD.fullmatch(text):
        if int(text) != count + 1:
            missing = " Is the blank line between two sentences missing?" if text == "1" else ""
            raise DataError(f"{where}: ID {text}, expected {count + 1}: words count from 1 in each sentence.{missing}")
        return True
    if found := _RANGE.fullmatch(text):
        first, end = int(found[1]), int(found[2])
        if first != count + 1 or end < first or first <= covered:
            raise DataError(
                f"{where}: ID {text}: a multiword token stands before its first word, here "
                f"{max(count, covered) + 1}, and ends at a later one."
            )
    elif found := _EMPTY.fullmatch(text):
        if int(found[1]) != count:
            raise DataError(
                f"{where}: ID {text}: an empty node stands after its word; here that is {count}.1 or later."
            )
    else:
        raise DataError(
            f"{where}: ID {text!r}. Allowed: a word (3), a multiword token (3-4), an empty node (3.1). "
            "Is the file CoNLL-U? For plain columns set columns.style=conll."
        )
    return False
