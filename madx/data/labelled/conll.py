"""Labelled sentences: one word a line with its columns, a blank line between sentences."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from madx.data.labelled.conllu import conllu_rows
from madx.data.labelled.tags import SCHEMES, Inventory, TagFault, check_forms, detect_scheme, to_iob2
from madx.data.text.corpora import check_exists, dataset_rows, decode_line, load_dataset
from madx.errors import ConfigError, DataError, did_you_mean

SEPARATORS = {None: None, "tab": "\t", "\t": "\t", "whitespace": "", " ": ""}
STYLES = {"conll": (0, -1), "conllu": (1, 3)}  # columns of word and tag
_ASIDE = re.compile(r"# |#$|-DOCSTART-")  # lines that say nothing about the columns of the others
_CONLLU_COMMENT = re.compile(r"# \S+ = ")


@dataclass(frozen=True)
class Sentence:
    """Words and their tags, NFC; `line` is where its first word stands (the row of a data set)."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    line: int = 0


class _Line(NamedTuple):
    number: int
    text: str


def read_conll(
    path,
    *,
    token_column: int | None = None,
    tag_column: int | None = None,
    separator: str | None = None,
    scheme: str = "auto",
    repair: bool = False,
    style: str = "auto",
    inventory: Inventory | None = None,
) -> list[Sentence]:
    """The sentences of a file, spans in IOB2 (`scheme`: auto, iob1, iob2, bioes; none leaves the tags as they are).

    `separator`: tab or whitespace; none finds out: tab if any line has one. Columns count from 0, from the end when
    negative; style `conll` reads the first and the last, `conllu` form and UPOS (auto: by the ending `.conllu`). Lines
    `-DOCSTART-` and comments `#` without a tag are passed over. `inventory`: the tags that may occur (of plain labels).
    Raises DataError with file and line for whatever is broken.
    """
    style = style_of(path, style)
    for name, value, allowed in (
        ("scheme", scheme, SCHEMES),
        ("style", style, ("auto", *STYLES)),
        ("separator", separator, SEPARATORS),
    ):
        if value not in allowed:
            raise ConfigError(
                f"{name} {value!r}: {did_you_mean(value, [a for a in allowed if a not in (None, chr(9), ' ')])}"
            )
    token_column = STYLES[style][0] if token_column is None else token_column
    tag_column = STYLES[style][1] if tag_column is None else tag_column
    path = Path(path)
    lines = list(_lines(path))
    if style == "conllu":
        mark, rows = "\t", conllu_rows(path, lines)
    else:
        mark = SEPARATORS[separator]
        if mark is None:
            mark = "\t" if any("\t" in line.text for line in lines if not _ASIDE.match(line.text)) else ""
        rows = _rows(path, lines, mark=mark)
    sentences, numbers = _sentences(path, rows, mark=mark, columns=(token_column, tag_column))
    if not sentences:
        raise DataError(
            f"{path}: the file is empty: no line holds a word and a tag. Each needs both, as in 'Nairobi<TAB>B-LOC'."
        )

    def where(sentence: int, word: int) -> str:
        return f"{path}:{numbers[sentence][word]}"

    return _checked(sentences, scheme=scheme, repair=repair, inventory=inventory, where=where)


def style_of(path, style: str = "auto") -> str:
    """The style that a file is read in: auto is conllu for a name that ends in `.conllu`, else conll."""
    return style if style != "auto" else "conllu" if str(path).endswith(".conllu") else "conll"


def read_dataset(
    name: str,
    *,
    token_column: str = "tokens",
    tag_column: str = "ner_tags",
    scheme: str = "auto",
    repair: bool = False,
    inventory: Inventory | None = None,
) -> list[Sentence]:
    """The sentences of `datasets:NAME[:CONFIG][:SPLIT]`: a column of word lists and one of tag lists.

    Tags are names, or numbers whose names the column's ClassLabel holds. Raises DataError as `read_conll` does.
    """
    data = load_dataset(name, streaming=False)
    for setting, column in (("token_column", token_column), ("tag_column", tag_column)):
        if column not in data.column_names:
            raise DataError(f"{name}: no column {column!r} (set {setting}); {did_you_mean(column, data.column_names)}")
    names = getattr(getattr(data.features[tag_column], "feature", None), "names", None)
    sentences = []
    for row, record in enumerate(dataset_rows(data, name), start=1):
        tokens, tags = record[token_column], record[tag_column]
        if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
            raise DataError(f"{name}, row {row}: {token_column!r} and {tag_column!r} must be lists of one length.")
        tags = [_tag_name(tag, names, f"{name}, row {row}") for tag in tags]
        if tokens:
            sentences.append(Sentence(tuple(normalize("NFC", token) for token in tokens), tuple(tags), row))
    if not sentences:
        raise DataError(f"{name}: the data set is empty: no row holds a word.")
    return _checked(
        sentences,
        scheme=scheme,
        repair=repair,
        inventory=inventory,
        where=lambda s, w: f"{name}, row {sentences[s].line}, word {w + 1}",
    )


def write_conll(path, sentences: Sequence[Sentence], predictions: Sequence[Sequence[str]] | None = None) -> None:
    """Word TAB tag [TAB predicted tag], whole or not at all. White space in a word becomes a space, no word `_`."""
    path = Path(path)
    columns = [[s.tags for s in sentences]] + ([] if predictions is None else [predictions])
    for column in columns:
        if [len(s.tokens) for s in sentences] != [len(tags) for tags in column]:
            raise DataError(f"{path}: not written: sentences and tags differ in number or length.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for sentence, *tags in zip(sentences, *columns, strict=True):
                for token, *row in zip(sentence.tokens, *tags, strict=True):
                    token = re.sub(r"[\t\r\n\0]", " ", token)
                    file.write("\t".join([token if token.strip(" ") else "_", *row]) + "\n")
                file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner only
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _lines(path: Path) -> Iterator[_Line]:
    check_exists(path)
    offset = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):  # bytes: only \n ends a line, not U+2028 and its like
                yield _Line(number, decode_line(raw, path=path, line=number, offset=offset).rstrip("\r\n"))
                offset += len(raw)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Name a file, one word a line.") from error


def _split(text: str, mark: str) -> list[str]:
    return text.split(mark) if mark else text.split()


def _is_comment(text: str, *, mark: str, width: int, tags: Counter) -> bool:
    """`# text = ...`; but `#` can be a word, of a line with as many columns as the others and a tag that they have."""
    if not _ASIDE.match(text):
        return False
    cells = _split(text, mark)
    if mark:
        return len(cells) == 1 or (len(cells) != width and _CONLLU_COMMENT.match(text) is not None)
    return len(cells) != width or cells[-1] not in tags


def _rows(path: Path, lines: list[_Line], *, mark: str) -> Iterator[list[tuple[int, list[str]]]]:
    """Of each sentence the line number and the columns of its words."""
    plain = [_split(line.text, mark) for line in lines if line.text.strip() and not _ASIDE.match(line.text)]
    width = len(plain[0]) if plain else 0
    tags = Counter(cells[-1] for cells in plain)
    words: list[tuple[int, list[str]]] = []
    for line in [*lines, _Line(0, "")]:
        if not line.text.strip() or line.text.startswith("-DOCSTART-"):
            if words:
                yield words
            words = []
        elif not _is_comment(line.text, mark=mark, width=width, tags=tags):
            cells = _split(line.text, mark)
            _check_width(f"{path}:{line.number}", line.text, cells, width=width, mark=mark)
            words.append((line.number, cells))


def _sentences(path: Path, rows: Iterable, *, mark: str, columns: tuple[int, int]):
    """Sentences as they stand in the file, and the line number of each of their words."""
    sentences, numbers = [], []
    for words in rows:
        for number, cells in words:
            _check_columns(f"{path}:{number}", (mark or " ").join(cells), cells, columns=columns)
        tokens = tuple(normalize("NFC", cells[columns[0]]) for _, cells in words)
        tags = tuple(cells[columns[1]].strip() for _, cells in words)
        sentences.append(Sentence(tokens, tags, words[0][0]))
        numbers.append([number for number, _ in words])
    return sentences, numbers


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _check_width(where: str, text: str, cells: list[str], *, width: int, mark: str) -> None:
    apart = "tabs" if mark else "white space"
    if len(cells) != width:
        raise DataError(
            f"{where}: {len(cells)} columns, {width} on the file's first line of words, apart by {apart}: {_shown(text)}. "
            "Give every line the same columns; separator='whitespace' or 'tab' sets what parts them."
        )
    if width < 2:
        raise DataError(
            f"{where}: one column only, apart by {apart}: {_shown(text)}. A line needs a word and its tag; another separator?"
        )


def _check_columns(where: str, text: str, cells: list[str], *, columns: tuple[int, int]) -> None:
    width = len(cells)
    for name, column in zip(("token_column", "tag_column"), columns, strict=True):
        if not -width <= column < width:
            raise DataError(
                f"{where}: {name} {column}, but the line has {width} columns: {_shown(text)}. "
                f"Allowed: {-width} to {width - 1}."
            )
        if not cells[column].strip("\t "):
            raise DataError(
                f"{where}: column {column} ({name}) is empty: {_shown(text)}. Fill it in, or choose another column."
            )


def _tag_name(tag, names: list[str] | None, where: str) -> str:
    if isinstance(tag, str):
        return tag
    if names is None or not isinstance(tag, int) or not 0 <= tag < len(names):
        raise DataError(
            f"{where}: tag {tag!r} is a number without a name. Allowed: tags as text, or a ClassLabel, "
            f"which here has {len(names or [])} names."
        )
    return names[tag]


def _checked(
    sentences: list[Sentence], *, scheme: str, repair: bool, inventory: Inventory | None, where
) -> list[Sentence]:
    """All sentences with IOB2 tags, or tags of the inventory; `where(sentence, word)` names a place for an error."""
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
        raise DataError(f"{where(number, fault.index)}: {fault}") from None
