"""The layout of a file of columns: which column holds the words and which the tags, as set or as found out.

Found out are CoNLL-2012 by its line `#begin document`, CoNLL-U by its ten numbered columns, a first column that counts
the words (CoNLL-2009, Universal NER, GermEval), and which column holds tags of spans. A column of words that holds
none is refused. `detect=False` turns all of this off.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from madx.data.labelled.conll2012 import NAMES, document_rows, hold_names
from madx.data.labelled.conllu import COLUMNS, conllu_rows
from madx.data.labelled.rows import Words, blocks, is_of_document, plain_rows, separator_of, split
from madx.data.labelled.tags import is_span_tag, split_tag
from madx.data.labelled.words import ESCAPE, fault_beside, fault_of, may_be_words, shown
from madx.data.text.files import Line, plain_name
from madx.errors import DataError

SEPARATORS = {"tab": "\t", "\t": "\t", "whitespace": "", " ": ""}
#: the columns of word and tag in each style
STYLES = {"conll": (0, -1), "conllu": (1, 3), "conll2012": (3, NAMES)}
#: the types of phrases, which files of CoNLL-2000 and CoNLL-2003 hold beside those of names
_PHRASES = frozenset("ADJP ADVP CONJP INTJ LST NC NP PC PP PRT SBAR UCP VC VP".split())
#: names of the columns of words and of tags in the first line of a file
_OF_WORDS = frozenset("form token tokens word words".split())
_OF_TAGS = frozenset("entity iob label labels ne ner ner_tag ner_tags pos tag tags upos".split())


@dataclass(frozen=True)
class Asked:
    """The settings of a file's columns; None: found out. spans: whether the tags are those of spans."""

    token: int | None = None
    tag: int | None = None
    separator: str | None = None
    style: str = "auto"
    detect: bool = True
    spans: bool = True


@dataclass
class Table:
    """The rows of a file, its columns of words and tags, and remarks on what was found out. mark: the separator."""

    rows: list[Words]
    mark: str
    style: str
    token: int = 0
    tag: int = -1
    numbered: bool = False
    found: list[str] = field(default_factory=list)

    @cached_property
    def width(self) -> int:
        """The columns that all lines have."""
        return min((len(cells) for words in self.rows for _, cells in words), default=0)

    def column(self, index: int) -> list[list[str]]:
        """Return the cells of a column without blanks around them, sentence by sentence."""
        return [[cells[index].strip() for _, cells in words] for words in self.rows]

    def counts(self, index: int) -> Counter[str]:
        """Return how often each cell of a column occurs."""
        return Counter(cells[index].strip() for words in self.rows for _, cells in words)


def style_of(path: Path, style: str = "auto") -> str:
    """Return the style in which a file is read: `auto` means `conllu` for a name that ends so, otherwise `conll`."""
    return style if style != "auto" else "conllu" if plain_name(path).endswith(".conllu") else "conll"


def table_of(path: Path, lines: list[Line], asked: Asked) -> Table:
    """Return the rows of a file with the columns of its words and tags.

    Raises DataError, with file and line, for lines of another form, and for columns that hold something else.
    """
    table = _read(path, lines, asked)
    if not table.rows:
        return table
    token, tag = STYLES[table.style]
    if asked.token is None and table.numbered and table.style == "conll" and may_be_words(table.column(1)):
        token = 1
        table.found.append("its first column counts the words")
    table.token = token if asked.token is None else asked.token
    table.tag = tag if asked.tag is None else asked.tag
    if not all(-table.width <= column < table.width for column in (table.token, table.tag)):
        return table  # the reader names the line that lacks a column
    if asked.detect and asked.tag is None:
        _choose_tag(path, table, spans=asked.spans)
    if table.token % table.width == table.tag % table.width:
        raise DataError(
            f"{path}: column {table.tag % table.width}, counted from 0, would hold words and tags. Set columns.token "
            "and columns.tag to two columns."
        )
    if asked.detect:
        _check_words(path, table)
    return table


def remark(table: Table, path: Path) -> str | None:
    """Return the remark on what was found out about a file, or None."""
    if not table.found:
        return None
    token, tag = (column % table.width for column in (table.token, table.tag))
    words = shown(table.column(table.token))
    return (
        f"{path}: {', '.join(table.found)}. Words are read from column {token} ({words}), tags from column {tag}, "
        "counted from 0. columns.token, columns.tag and columns.style set this, and columns.detect=false reads the "
        "first and the last column."
    )


def _read(path: Path, lines: list[Line], asked: Asked) -> Table:
    mark = separator_of(lines) if asked.separator is None else SEPARATORS[asked.separator]
    style, auto = style_of(path, asked.style), asked.detect and asked.style == "auto"
    if style == "conllu":
        return Table(list(conllu_rows(path, lines)), "\t", style)
    if style == "conll2012" or (auto and any(is_of_document(line.text) for line in lines)):
        found = [] if style == "conll2012" else ["it has the columns of CoNLL-2012 and OntoNotes (#begin document)"]
        return Table(document_rows(path, lines, mark=mark), mark, "conll2012", found=found)
    header = _header(lines, mark) if asked.detect else None
    lines = [line for line in lines if line is not header]
    rows, numbered = plain_rows(path, lines, mark=mark, detect=asked.detect)
    found = [] if header is None else [f"line {header.number} names the columns"]
    table = Table(rows, mark, "conll", numbered=numbered, found=found)
    if auto and mark and numbered and table.width == COLUMNS and not (asked.spans and _is_of_spans(table, -1)):
        try:
            rows = list(conllu_rows(path, lines))
        except DataError:  # numbered otherwise, so other columns
            return table
        return Table(rows, mark, "conllu", found=["it has the ten columns of CoNLL-U"])
    return table


def _header(lines: list[Line], mark: str) -> Line | None:
    """Return the first line if its cells are names of columns, such as `token` and `ner_tags`."""
    first = next((block[0] for block in blocks(lines)), None)
    names = set(split(first.text.lower(), mark)) if first else set()
    return first if names & _OF_WORDS and names & _OF_TAGS else None


def _choose_tag(path: Path, table: Table, *, spans: bool) -> None:
    """Set the column of the tags of a file for which none was asked for."""
    if table.style == "conll2012":
        _choose_names(path, table, spans=spans)
        return
    if table.style == "conll":
        table.tag = _last_filled(table)
    if not spans:
        return
    tags = [c for c in range(table.width) if c != table.token % table.width and _is_of_spans(table, c)]
    names = [c for c in tags if not _types(table, c) <= _PHRASES]
    counts = table.counts(table.tag)
    if 2 * sum(n for cell, n in counts.items() if is_span_tag(cell)) >= counts.total():
        _check_layers(path, table, names)
    elif len(names) == 1:
        table.tag = names[0]
        table.found.append(f"only column {names[0]} holds tags of spans")
    elif names:
        raise DataError(f"{path}: columns {_listed(names)} hold tags of spans. Choose one: set columns.tag={names[0]}.")


def _choose_names(path: Path, table: Table, *, spans: bool) -> None:
    """Set the column of the tags of a file in CoNLL-2012: that of the names, or that of the parts of speech."""
    if not spans:
        table.tag = 4
    elif not hold_names(table.counts(NAMES)):
        if not _is_of_spans(table, -1):
            raise DataError(
                f"{path}: column {NAMES}, that of the names in CoNLL-2012, holds {shown(table.column(NAMES))}, not "
                "names in brackets such as (PERSON*: this file has no names. Name another file, or set columns.tag."
            )
        table.tag = -1


def _check_layers(path: Path, table: Table, names: Sequence[int]) -> None:
    """Refuse a file with several columns of tags of the same types, unless it is GermEval's, with outer and inner."""
    tag = table.tag % table.width
    types, column = _types(table, tag), table.column(tag)
    others = [c for c in names if c != tag and table.column(c) != column and (not types or types & _types(table, c))]
    if not others:
        return
    if table.numbered and table.width == 4 and others == [2]:
        table.tag = 2
        table.found.append(
            "columns 2 and 3 hold outer and inner names, as in GermEval, of which the outer ones are read"
        )
        return
    raise DataError(
        f"{path}: columns {_listed(sorted([*others, tag]))} hold tags of the same types: nested names, the tags of "
        f"several people, or predictions. Choose one: set columns.tag={others[0]} or columns.tag={tag}."
    )


def _check_words(path: Path, table: Table) -> None:
    """Refuse a column of words that holds something else; the message names the column that looks like words."""
    token, tag = table.token % table.width, table.tag % table.width
    column = table.column(token)
    others = [c for c in range(table.width) if c not in (token, tag)]
    fault = fault_of(column)
    if fault is None and table.style == "conll":  # the other styles say which column holds the words
        fault = fault_beside(column, map(table.column, others))
    if fault is None:
        return
    likely = [c for c in [*others, tag] if may_be_words(table.column(c), strict=True)]
    likely = likely or [c for c in others if may_be_words(table.column(c))]
    way = (
        f"Column {likely[0]} looks like words ({shown(table.column(likely[0]))}): set columns.token={likely[0]}"
        + (", and columns.tag to the column of the tags." if likely[0] == tag else ".")
        if likely
        else "No other column looks like words either: name a file with the words of the sentences."
    )
    raise DataError(
        f"{path}:{table.rows[0][0][0]}: column {token}, counted from 0, is to hold the words, but holds {fault}: "
        f"{shown(column)}. {way} If these are the words, {ESCAPE}."
    )


def _last_filled(table: Table) -> int:
    """Return the last column that is not blank on all lines: a line may end with a tab."""
    filled = (c for c in range(-1, -table.width - 1, -1) if any(table.counts(c)))
    return next(filled, -1)


def _is_of_spans(table: Table, column: int) -> bool:
    """Return whether a column holds tags of spans alone, and at least one span."""
    if not is_span_tag(table.rows[0][0][1][column].strip()):
        return False
    kinds = set(table.counts(column))
    return kinds != {"O"} and all(map(is_span_tag, kinds))


def _types(table: Table, column: int) -> set[str]:
    return {split_tag(cell)[1] for cell in table.counts(column) if cell != "O" and is_span_tag(cell)}


def _listed(columns: Sequence[int]) -> str:
    return ", ".join(map(str, columns))
