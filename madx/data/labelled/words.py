"""Words that are none, found out by the column they come from: running numbers, one value, tags, a prefix on each.

Each test asks for more than chance gives, so that a text of numbers, a language of few words, or a file of one sentence
is read as it is.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from madx.data.labelled.sentences import Sentence
from madx.data.labelled.tags import is_span_tag
from madx.errors import DataError

#: the cells of a column, sentence by sentence
Column = Sequence[Sequence[str]]
UPOS = frozenset("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X _".split())
#: the way out of a wrong finding
ESCAPE = "set columns.detect=false"
#: multiword tokens (3-4) and empty nodes (3.1), which stand between the numbers of words
BESIDE = re.compile(r"[0-9]+[-.][0-9]+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_NAMED = re.compile(r"(.*?)([0-9]{1,9})[.:)]?", re.DOTALL)
_CODE = re.compile(r"(?:[A-Za-z]{2,3}|simple)(?:[-_][A-Za-z0-9]{1,8}){0,2}:(?=.)", re.DOTALL)
log = logging.getLogger(__name__)


def are_running(column: Column) -> bool:
    """Return whether the cells count the words: each is one more than the last, or the first of a sentence again.

    >>> are_running([["1", "2", "3"], ["1", "2"]]), are_running([["7", "8"], ["9"]]), are_running([["1", "3"]])
    (True, True, False)
    """
    sentences = [[cell for cell in cells if not BESIDE.fullmatch(cell)] for cells in column]
    cells = list(chain.from_iterable(sentences))
    if len(cells) < 2 or not all(_NUMBER.fullmatch(cell) for cell in cells):
        return False
    rows = [[int(cell) for cell in row] for row in sentences if row]
    within = all(b == a + 1 for row in rows for a, b in pairwise(row))
    starts = all(row[0] in (rows[0][0], before[-1] + 1) for before, row in pairwise(rows))
    return within and starts and any(len(row) > 1 for row in rows)


def fault_of(column: Column) -> str | None:
    """Return what a column holds instead of words, as its cells alone tell, or None."""
    cells = list(chain.from_iterable(column))
    counts = Counter(cells)
    if are_running(column) and (len(cells) >= 20 or sum(len(row) > 1 for row in column) > 2):
        return "running numbers"
    value, most = counts.most_common(1)[0] if cells else ("", 0)
    if len(cells) >= 20 and most >= 0.9 * len(cells):
        return f"one value, {value!r}, in {most:,} of {len(cells):,} lines"
    repeated = [row for row in column if len(row) > 1]
    if sum(map(len, repeated)) >= 10 and all(len(set(row)) == 1 for row in repeated):
        return "one value in all lines of a sentence"
    if len(cells) >= 5 and 0 < counts["O"] < len(cells):
        if sum(n for cell, n in counts.items() if is_span_tag(cell)) >= 0.95 * len(cells):
            return "tags of spans"
    if len(cells) >= (20 if len(counts) == 2 else 10) and len(counts) > 1 and UPOS.issuperset(counts):
        return "parts of speech"
    return None


def fault_beside(column: Column, others: Iterable[Column]) -> str | None:
    """Return what a column holds instead of words, as a comparison with columns that might be the words tells."""
    cells = list(chain.from_iterable(column))
    kinds = len(set(cells))
    counted = len(cells) >= 10 and _are_counted(column)
    bare = len(cells) >= 5 and not any(map(_has_letter, cells[:50])) and _share(cells, _has_letter) <= 0.05
    if not counted and not bare and (len(cells) < 200 or kinds > 60):
        return None
    rivals = [other for other in others if may_be_words(other, strict=True)]
    if counted and any(not _are_counted(rival) and _digits(rival) < 0.5 for rival in rivals):
        return "running numbers"
    if bare and rivals:
        return "numbers or signs without letters"
    if any(len(set(chain.from_iterable(rival))) > 5 * kinds for rival in rivals):
        return f"{kinds} different values only, as a column of tags does"
    return None


def _are_counted(column: Column) -> bool:
    """Return whether the words of each sentence are counted by names such as `s1-t1`, `s1-t2`."""
    for cells in column:
        found = [_NAMED.fullmatch(cell) for cell in cells]
        if not all(found) or len({match[1] for match in found if match}) > 1:
            return False
        if any(int(b[2]) != int(a[2]) + 1 for a, b in pairwise(found) if a and b):
            return False
    return any(len(cells) > 1 for cells in column)


def may_be_words(column: Column, *, strict: bool = False) -> bool:
    """Return whether a column looks like words; `strict`: whether capitals alone are taken for tags."""
    cells = list(chain.from_iterable(column))
    kinds = set(cells)
    if fault_of(column) or len(kinds) < 2 or _share(cells, _has_letter) < 0.5:
        return False
    return not strict or not all(kind.isascii() and kind.upper() == kind for kind in kinds)


def checked_words(
    sentences: Sequence[Sentence], *, name: str, prefix: str | None = None, detect: bool = True
) -> list[Sentence]:
    """Return sentences without a prefix that stands before each word, such as WikiANN's `en:`.

    name: the name of the data in messages. prefix: the text to be removed, empty for none; None: found out, and said in
    the log. detect: whether anything is found out. Raises DataError for words that hold something else.
    """
    if prefix:
        cut = [replace(s, tokens=tuple(_without(token, prefix) for token in s.tokens)) for s in sentences]
        if all(a.tokens == b.tokens for a, b in zip(cut, sentences)):
            log.warning("%s: no word begins with columns.prefix %r, so none is changed.", name, prefix)
        sentences = cut
    column = [s.tokens for s in sentences]
    if detect and (fault := fault_of(column)):
        raise DataError(
            f"{name}: the words hold {fault}: {shown(column)}. Give the words of the sentences; if these are the "
            f"words, {ESCAPE}."
        )
    return _without_codes(sentences, name=name) if detect and prefix is None else list(sentences)


def shown(column: Column) -> str:
    """Return the first cells of a column, for a message."""
    cells = list(chain.from_iterable(column))[:4]
    return ", ".join(repr(cell if len(cell) < 30 else cell[:27] + "...") for cell in cells)


def _without_codes(sentences: Sequence[Sentence], *, name: str) -> list[Sentence]:
    """Remove the code of a language before nearly every word; refuse any other text that stands there."""
    words = [token for s in sentences for token in s.tokens]
    codes = Counter(found[0] for word in words if (found := _CODE.match(word)))
    total = sum(codes.values())
    if total >= 3 and 2 * total >= len(words) and len(codes) <= 20:
        names = ", ".join(repr(code) for code, _ in codes.most_common(4))
        log.warning(
            "%s: %s of %s words begin with the code of a language, as in WikiANN (%s), which is removed. "
            "columns.prefix='' leaves it, columns.prefix sets another one.",
            *(name, f"{total:,}", f"{len(words):,}", names),
        )
        return [replace(s, tokens=tuple(map(_without_code, s.tokens))) for s in sentences]
    for place, text in (("begin", _common(words)), ("end", _common([word[::-1] for word in words])[::-1])):
        if text:
            way = f"Set columns.prefix={text!r}" if place == "begin" else "Remove it from the file"
            raise DataError(
                f"{name}: nearly all words {place} with {text!r}: {shown([words])}. {way}; if it belongs to the words, "
                f"{ESCAPE}."
            )
    return list(sentences)


def _common(words: Sequence[str]) -> str:
    """Return what nine words in ten begin with, if it ends with a sign: `w1 w2 w3` have nothing in common."""
    if len(words) < 20 or len(set(words)) < 5:
        return ""
    found = ""
    for size in range(1, 13):
        starts = Counter(word[:size] for word in words if len(word) > size)
        start, count = starts.most_common(1)[0] if starts else ("", 0)
        if count < 0.9 * len(words):
            break
        found = start if not start[-1].isalnum() else found
    return found


def _without(token: str, prefix: str) -> str:
    return token[len(prefix) :] if token.startswith(prefix) and token != prefix else token


def _without_code(token: str) -> str:
    found = _CODE.match(token)
    return token[found.end() :] if found else token


def _share(cells: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, cells)) / max(len(cells), 1)


def _digits(column: Column) -> float:
    """Return the share of the cells with a digit."""
    return _share(list(chain.from_iterable(column)), lambda cell: any(map(str.isdigit, cell)))


def _has_letter(cell: str) -> bool:
    return any(map(str.isalpha, cell))
