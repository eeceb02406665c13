"""The lines of a file of columns as rows of cells, sentence by sentence."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from madx.data.labelled.words import BESIDE, are_running
from madx.data.text.files import Line
from madx.errors import DataError

Words = list[tuple[int, list[str]]]  # a sentence: the line number and the cells of each word

_DOCUMENT = re.compile(r"#(begin|end) document[^\t]*")  # the first and the last line of a document in CoNLL-2012
_ASIDE = re.compile(r"# |#$|-DOCSTART-|#(begin|end) document")  # lines that do not show how many columns others have
_CONLLU_COMMENT = re.compile(r"# \S+ = ")
_BLANKS = re.compile(r"[ \t]+")


def separator_of(lines: list[Line]) -> str:
    """Return what separates the columns: a tab if any line has one, otherwise an empty text for blanks."""
    return "\t" if any("\t" in line.text for line in lines if not _ASIDE.match(line.text)) else ""


def split(text: str, mark: str) -> list[str]:
    """Cut a line into cells. Only blanks and tabs separate them: a no-break space or U+2028 belongs to its word."""
    return text.split(mark) if mark else _BLANKS.split(text.strip(" \t"))


def plain_rows(path: Path, lines: list[Line], *, mark: str, detect: bool) -> tuple[list[Words], bool]:
    """Return the words of each sentence of a file with plain columns, and whether its first column counts them.

    In such a file any line that begins with `#` is a comment, and lines of multiword tokens (3-4) and empty nodes (3.1)
    are left out, as in CoNLL-U. detect: whether this is found out.
    """
    numbered = detect and _is_numbered(lines, mark)
    plain = [split(line.text, mark) for line in lines if line.text.strip() and not _ASIDE.match(line.text)]
    if numbered:
        plain = [cells for cells in plain if not cells[0].startswith("#")]
    width = len(plain[0]) if plain else 0
    tags = Counter(cells[-1] for cells in plain)
    rows = []
    for block in blocks(lines):
        words: Words = []
        for line in block:
            comment = _is_comment(line.text, mark=mark, width=width, tags=tags)
            if comment or (numbered and line.text.startswith("#")):
                continue
            cells = split(line.text, mark)
            _check_width(f"{path}:{line.number}", line.text, cells, width=width, mark=mark)
            if not (numbered and BESIDE.fullmatch(cells[0])):
                words.append((line.number, cells))
        if words:
            rows.append(words)
    return rows, numbered


def blocks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield the lines between blank lines, and between those that begin or end a document."""
    block: list[Line] = []
    for line in lines:
        if line.text.strip() and not line.text.startswith("-DOCSTART-") and not is_of_document(line.text):
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def is_of_document(text: str) -> bool:
    """Return whether a line begins or ends a document of CoNLL-2012: `#begin document (bc/cctv); part 000`."""
    return text[:1] == "#" and _DOCUMENT.fullmatch(text) is not None


def shown_line(text: str) -> str:
    """Return the beginning of a line, for a message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _is_numbered(lines: list[Line], mark: str) -> bool:
    """Return whether the first of at least three columns counts the words of each sentence."""
    column = []
    for block in blocks(lines):
        rows = [split(line.text, mark) for line in block if line.text[0] != "#"]
        if any(len(cells) < 3 or not cells[0][:1].isdigit() for cells in rows):
            return False
        column.append([cells[0] for cells in rows])
    return are_running(column)


def _is_comment(text: str, *, mark: str, width: int, tags: Counter[str]) -> bool:
    """Tell a comment such as `# text = ...` from a line whose word is `#`.

    Such a line has as many columns as the others, and, where white space separates them, a tag that others have, too.
    """
    if not _ASIDE.match(text):
        return False
    cells = split(text, mark)
    if mark:
        return len(cells) == 1 or (len(cells) != width and _CONLLU_COMMENT.match(text) is not None)
    return len(cells) != width or cells[-1] not in tags


def _check_width(where: str, text: str, cells: list[str], *, width: int, mark: str) -> None:
    by = "separated by tabs" if mark else "separated by blanks or tabs"
    if len(cells) != width:
        raise DataError(
            f"{where}: {len(cells)} columns {by}, but {width} on the file's first line with a word: "
            f"{shown_line(text)}. Give every line the same columns, or set columns.separator to whitespace or tab."
        )
    if width < 2:
        other = next((c for c in text if c in ",;|" or (c.isspace() and c not in " \t")), "")
        other = f" If {other!r} (U+{ord(other):04X}) separates them, write tabs instead." if other else ""
        raise DataError(
            f"{where}: one column only, {by}: {shown_line(text)}. A line needs a word and its tag, separated by a tab "
            f"or blanks.{other}"
        )
