"""Labelled sentences in files of columns: one word a line, a blank line after each sentence."""

import logging
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from unicodedata import normalize

from madx.data.labelled.conll2012 import iob2_of_names
from madx.data.labelled.layouts import SEPARATORS, STYLES, Asked, Table, remark, table_of
from madx.data.labelled.lines import labelled_lines
from madx.data.labelled.rows import shown_line
from madx.data.labelled.sentences import Sentence, checked_tags
from madx.data.labelled.tags import SCHEMES, Inventory
from madx.errors import ConfigError, DataError, did_you_mean
from madx.files.reasons import explained
from madx.files.writing import write_whole

#: words of a file without a blank line above which one seems to be missing
LONG = 1000
#: sentences of one word above which there seem to be too many blank lines
SHORT = 20
log = logging.getLogger(__name__)


def read_conll(
    path: str | PathLike[str],
    *,
    token_column: int | None = None,
    tag_column: int | None = None,
    separator: str | None = None,
    scheme: str = "auto",
    repair: bool = False,
    style: str = "auto",
    inventory: Inventory | None = None,
    detect: bool = True,
    spans: bool | None = None,
) -> list[Sentence]:
    """Read the sentences of a file. Spans come out in IOB2.

    token_column, tag_column: columns of the word and of its tag, counted from 0, or from the end when negative; by
        default the first and the last one, in CoNLL-U those of the form and of UPOS, in CoNLL-2012 those of the word
        and of the names, and in other known layouts those that hold words and tags (see `layouts`).
    separator: `tab` or `whitespace`; by default `tab` if any line has a tab.
    scheme: `auto` (detected), `iob1`, `iob2`, `bioes`, or `none` to leave the tags as they are.
    repair: whether tags in places that the scheme forbids are mended instead of refused (see `to_iob2`).
    style: `conll` for plain columns, `conllu`, `conll2012`, or `auto`: CoNLL-U if the name of the file ends in
        `.conllu`, otherwise found out.
    inventory: the tags that may occur, for a task without spans.
    detect: whether known layouts are found out, and a column refused that holds no words.
    spans: whether the tags are those of spans; by default if a scheme and no inventory is given.

    Lines `-DOCSTART-`, and comments, which begin with `#` and have no tag, are left out. Blanks around words and tags
    are, too. A file may be packed (.gz, .bz2, .xz). Raises ConfigError for an unknown setting, and DataError with file
    and line for anything that is broken.
    """
    _check_settings(scheme=scheme, style=style, separator=separator)
    spans = (scheme != "none" and inventory is None) if spans is None else spans
    path = Path(path)
    table = table_of(path, labelled_lines(path), Asked(token_column, tag_column, separator, style, detect, spans))
    sentences, numbers = _sentences(path, table, spans=spans)
    if not sentences:
        raise DataError(
            f"{path}: the file is empty: no line holds a word and a tag. Each needs both, as in 'Nairobi<TAB>B-LOC'."
        )
    for text in filter(None, (remark(table, path), _odd_lengths(path, sentences))):
        log.warning("%s", text)

    def place(sentence: int, word: int) -> str:
        return f"{path}:{numbers[sentence][word]}"

    return checked_tags(sentences, scheme=scheme, repair=repair, inventory=inventory, place=place)


def write_conll(
    path: str | PathLike[str], sentences: Sequence[Sentence], predictions: Sequence[Sequence[str]] | None = None
) -> None:
    """Write lines `word TAB tag`, or `word TAB tag TAB predicted tag`: the whole file, or nothing if anything fails.

    White space inside a word that would break the columns becomes a space, and a word without any character `_`.
    """
    path = Path(path)
    columns: list[Sequence[Sequence[str]]] = [[s.tags for s in sentences]]
    columns += [] if predictions is None else [predictions]
    for column in columns:
        if [len(s.tokens) for s in sentences] != [len(tags) for tags in column]:
            raise DataError(
                f"{path}: not written: sentences and tags differ in number or length; give one tag for each word."
            )
    lines: list[str] = []
    for sentence, *tags in zip(sentences, *columns, strict=True):
        for token, *row in zip(sentence.tokens, *tags, strict=True):
            token = re.sub(r"[\t\r\n\0]", " ", token)
            lines.append("\t".join([token if token.strip(" ") else "_", *row]) + "\n")
        lines.append("\n")
    content = "".join(lines).encode()
    with explained(f"write {path}", DataError, advice="What was there before is unchanged."):
        write_whole(path, content)


def _check_settings(*, scheme: str, style: str, separator: str | None) -> None:
    if scheme not in SCHEMES:
        raise ConfigError(f"scheme {scheme!r}: {did_you_mean(scheme, SCHEMES)}")
    if style not in ("auto", *STYLES):
        raise ConfigError(f"style {style!r}: {did_you_mean(style, ('auto', *STYLES))}")
    if separator is not None and separator not in SEPARATORS:
        raise ConfigError(f"separator {separator!r}: {did_you_mean(separator, ('tab', 'whitespace'))}")


def _sentences(path: Path, table: Table, *, spans: bool) -> tuple[list[Sentence], list[list[int]]]:
    """Return the sentences with their tags as in the file, and the line numbers of the words of each."""
    columns = (table.token, table.tag)
    sentences, numbers = [], []
    for words in table.rows:
        for number, cells in words:
            _check_columns(f"{path}:{number}", (table.mark or " ").join(cells), cells, columns=columns)
        tokens = tuple(_word(cells[table.token]) for _, cells in words)
        tags: Sequence[str] = [cells[table.tag].strip() for _, cells in words]
        if table.style == "conll2012" and spans and any(tag[0] in "(*" for tag in tags):
            found = iob2_of_names(tags)
            if isinstance(found, int):
                raise DataError(
                    f"{path}:{words[found][0]}: name {tags[found]!r} in column {table.tag}: a name opens as (PERSON*, "
                    "ends at *), or is (PERSON) alone; none stands in another. Correct the file, or set columns.tag."
                )
            tags = found
        sentences.append(Sentence(tokens, tuple(tags), words[0][0]))
        numbers.append([number for number, _ in words])
    return sentences, numbers


def _word(cell: str) -> str:
    """Return a word in NFC without white space around it, unless it is nothing else."""
    return normalize("NFC", cell.strip() or cell)


def _odd_lengths(path: Path, sentences: Sequence[Sentence]) -> str | None:
    """Return a remark on a file whose blank lines seem to be missing, or to stand between words."""
    if len(sentences) == 1 and len(sentences[0].tokens) > LONG:
        return (
            f"{path}: no blank line ends a sentence, so all {len(sentences[0].tokens):,} words are one. Put a blank "
            "line after each sentence."
        )
    if len(sentences) > SHORT and all(len(s.tokens) == 1 for s in sentences):
        return (
            f"{path}: each of the {len(sentences):,} sentences has one word. If blank lines stand between the words, "
            "as doubled line ends make them, remove them."
        )
    return None


def _check_columns(where: str, text: str, cells: list[str], *, columns: tuple[int, int]) -> None:
    width = len(cells)
    for name, column in zip(("token_column", "tag_column"), columns, strict=True):
        if not -width <= column < width:
            raise DataError(
                f"{where}: {name} {column}, but the line has {width} columns: {shown_line(text)}. "
                f"Allowed: {-width} to {width - 1}."
            )
        if not cells[column].strip("\t "):
            raise DataError(
                f"{where}: column {column} ({name}) is empty: {shown_line(text)}. Fill it in, or choose another column."
            )
