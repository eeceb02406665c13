"""Labelled sentences in files of columns: one word a line, a blank line after each sentence."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from unicodedata import normalize

from madx.data.labelled.conllu import conllu_rows
from madx.data.labelled.lines import Line, lines_of
from madx.data.labelled.sentences import Sentence, checked_tags
from madx.data.labelled.tags import SCHEMES, Inventory
from madx.errors import ConfigError, DataError, did_you_mean
from madx.files.reasons import explained
from madx.files.writing import write_whole

SEPARATORS = {"tab": "\t", "\t": "\t", "whitespace": "", " ": ""}
STYLES = {"conll": (0, -1), "conllu": (1, 3)}  # the columns of word and tag
_ASIDE = re.compile(r"# |#$|-DOCSTART-")  # lines that do not show how many columns the others have
_CONLLU_COMMENT = re.compile(r"# \S+ = ")

Words = list[tuple[int, list[str]]]  # a sentence: the line number and the columns of each word


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
) -> list[Sentence]:
    """Read the sentences of a file. Spans come out in IOB2.

    token_column, tag_column: columns of the word and of its tag, counted from 0, or from the end when negative; by
        default the first and the last one, in CoNLL-U those of the form and of UPOS.
    separator: `tab` or `whitespace`; by default `tab` if any line has a tab.
    scheme: `auto` (detected), `iob1`, `iob2`, `bioes`, or `none` to leave the tags as they are.
    repair: whether tags in places that the scheme forbids are mended instead of refused (see `to_iob2`).
    style: `conll` for plain columns, `conllu`, or `auto`: CoNLL-U if the name of the file ends in `.conllu`.
    inventory: the tags that may occur, for a task without spans.

    Lines `-DOCSTART-`, and comments, which begin with `#` and have no tag, are left out. Raises ConfigError for an
    unknown setting, and DataError with file and line for anything that is broken.
    """
    style = style_of(path, style)
    _check_settings(scheme=scheme, style=style, separator=separator)
    token, tag = STYLES[style]
    columns = (token if token_column is None else token_column, tag if tag_column is None else tag_column)
    path = Path(path)
    lines = list(lines_of(path))
    if style == "conllu":
        mark, rows = "\t", conllu_rows(path, lines)
    else:
        mark = _separator_of(lines) if separator is None else SEPARATORS[separator]
        rows = _rows(path, lines, mark=mark)
    sentences, numbers = _sentences(path, rows, mark=mark, columns=columns)
    if not sentences:
        raise DataError(
            f"{path}: the file is empty: no line holds a word and a tag. Each needs both, as in 'Nairobi<TAB>B-LOC'."
        )

    def place(sentence: int, word: int) -> str:
        return f"{path}:{numbers[sentence][word]}"

    return checked_tags(sentences, scheme=scheme, repair=repair, inventory=inventory, place=place)


def style_of(path: str | PathLike[str], style: str = "auto") -> str:
    """Return the style in which a file is read: `auto` means `conllu` for a name that ends so, otherwise `conll`."""
    return style if style != "auto" else "conllu" if str(path).endswith(".conllu") else "conll"


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


def _separator_of(lines: list[Line]) -> str:
    """Return what separates the columns: a tab if any line has one, otherwise an empty text for white space."""
    return "\t" if any("\t" in line.text for line in lines if not _ASIDE.match(line.text)) else ""


def _split(text: str, mark: str) -> list[str]:
    return text.split(mark) if mark else text.split()


def _is_comment(text: str, *, mark: str, width: int, tags: Counter[str]) -> bool:
    """Tell a comment such as `# text = ...` from a line whose word is `#`.

    Such a line has as many columns as the others, and, where white space separates them, a tag that others have, too.
    """
    if not _ASIDE.match(text):
        return False
    cells = _split(text, mark)
    if mark:
        return len(cells) == 1 or (len(cells) != width and _CONLLU_COMMENT.match(text) is not None)
    return len(cells) != width or cells[-1] not in tags


def _rows(path: Path, lines: list[Line], *, mark: str) -> Iterator[Words]:
    """Yield the words of each sentence of a file with plain columns."""
    plain = [_split(line.text, mark) for line in lines if line.text.strip() and not _ASIDE.match(line.text)]
    width = len(plain[0]) if plain else 0
    tags = Counter(cells[-1] for cells in plain)
    words: Words = []
    for line in [*lines, Line(0, "")]:
        if not line.text.strip() or line.text.startswith("-DOCSTART-"):
            if words:
                yield words
            words = []
        elif not _is_comment(line.text, mark=mark, width=width, tags=tags):
            cells = _split(line.text, mark)
            _check_width(f"{path}:{line.number}", line.text, cells, width=width, mark=mark)
            words.append((line.number, cells))


def _sentences(
    path: Path, rows: Iterable[Words], *, mark: str, columns: tuple[int, int]
) -> tuple[list[Sentence], list[list[int]]]:
    """Return the sentences with their tags as in the file, and the line numbers of the words of each."""
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
    by = "separated by tabs" if mark else "separated by white space"
    if len(cells) != width:
        raise DataError(
            f"{where}: {len(cells)} columns {by}, but {width} on the file's first line with a word: {_shown(text)}. "
            "Give every line the same columns, or set columns.separator to whitespace or tab."
        )
    if width < 2:
        raise DataError(
            f"{where}: one column only, {by}: {_shown(text)}. A line needs a word and its tag; if they are separated "
            "otherwise, set columns.separator."
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
