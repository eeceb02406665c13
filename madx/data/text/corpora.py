"""Raw text, one line or document at a time, never a whole file in memory.

A source is a path, a list of paths, a folder, or `datasets:NAME[:CONFIG][:SPLIT]`. Text is brought to Unicode NFC.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import count, islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from madx.errors import ConfigError, DataError

KINDS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
SPLITS = ("train", "validation", "test", "dev")
Source = str | PathLike | list | tuple


class CorpusFile(NamedTuple):
    """Where text came from; hash and size are None for a `datasets` name."""

    path: str
    sha256: str | None
    bytes: int | None


class DatasetName(NamedTuple):
    """The parts of `datasets:NAME[:CONFIG][:SPLIT]`."""

    name: str
    config: str | None
    split: str


def parse_dataset_name(source: str) -> DatasetName:
    """`datasets:NAME[:CONFIG][:SPLIT]` taken apart; a second part that is the name of a split is the split.

    >>> parse_dataset_name("datasets:wikiann:sw:test")
    DatasetName(name='wikiann', config='sw', split='test')
    >>> parse_dataset_name("datasets:imdb:test")
    DatasetName(name='imdb', config=None, split='test')
    """
    name, *rest = source.removeprefix("datasets:").split(":", 2)
    if not name:
        raise DataError(
            f"{source!r} names no data set. Write datasets:NAME[:CONFIG][:SPLIT], as in datasets:wikiann:sw:train."
        )
    if len(rest) == 1 and rest[0].split("[")[0] in SPLITS:
        rest = ["", rest[0]]
    config, split = (rest + ["", ""])[:2]
    return DatasetName(name, config or None, split or "train")


def load_dataset(source: str, *, streaming: bool):
    """The data set behind a `datasets` name; the library's own complaint becomes a DataError that names the source."""
    import datasets  # slow to import, and most users read files

    name, config, split = parse_dataset_name(source)
    try:
        return datasets.load_dataset(name, config, split=split, streaming=streaming)
    except Exception as error:  # the library raises a dozen kinds; all of them mean: this name cannot be read
        raise DataError(
            f"{source}: cannot be loaded (data set {name!r}, config {config!r}, split {split!r}): "
            f"{type(error).__name__}: {error}. Check name, config and split, and that the machine is online."
        ) from error


def dataset_rows(data, source: str) -> Iterator[dict]:
    """The rows of a loaded data set. Streamed rows are fetched while reading, so a lost connection shows up here."""
    rows = iter(data)
    for number in count(1):
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(
                f"{source}, row {number}: reading failed: {type(error).__name__}: {error}. Try again later."
            ) from error
        yield row


def is_dataset(source) -> bool:
    """Whether a source names a data set of the `datasets` library rather than files."""
    return isinstance(source, str) and source.startswith("datasets:")


def read_corpus(source: Source, *, text_key: str = "text", limit: int | None = None) -> Iterator[str]:
    """Lines of .txt files, `text_key` of .jsonl lines, rows of a data set; NFC, stripped, blank ones left out.

    `limit` ends after that many. A missing file is reported at once; broken lines, and a source that turns out to be
    empty, as DataError while reading, with file and line.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; allowed: at least 1, or none for the whole corpus.")
    if is_dataset(source):
        texts = _dataset_texts(source, text_key)
    else:
        texts = (text for path in find_files(source) for text in _file_texts(path, text_key))
    return _never_empty(islice(texts, limit), source)


def corpus_files(source: Source) -> list[CorpusFile]:
    """Every file of the source with its sha256 (of the bytes on disk) and size, for the record of a training run."""
    if is_dataset(source):
        return [CorpusFile(str(source), None, None)]
    return [CorpusFile(str(path), sha256_of(path), path.stat().st_size) for path in find_files(source)]


def find_files(source: Source) -> list[Path]:
    """The files that a source stands for; those of a folder (and of its sub-folders) in sorted order."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise DataError("the corpus is an empty list. Name at least one file, folder or data set.")
        if names := [part for part in source if is_dataset(part)]:
            raise DataError(f"{names[0]}: a data set cannot stand in a list. Give it alone, or give files.")
        return [path for part in source for path in find_files(part)]
    path = Path(source)
    check_exists(path)
    if not path.is_dir():
        if not path.name.endswith(KINDS):
            raise DataError(
                f"{path}: files of this kind are not read as a corpus. Allowed: {', '.join(KINDS)}, a folder of them."
            )
        return [path]
    hidden = (p for p in path.rglob("*") if p.name.endswith(KINDS) and p.is_file())
    found = sorted(p for p in hidden if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not found:
        raise DataError(f"{path}: the folder holds no corpus file. Allowed: {', '.join(KINDS)}.")
    return found


def check_exists(path: Path) -> None:
    """Raise DataError for a missing file or folder, with the nearest name that is there."""
    if path.exists():
        return
    there = path.parent
    while not there.is_dir():  # a relative path ends at ".", an absolute one at "/"
        there = there.parent
    wanted = path.relative_to(there).parts[0] if there != path.parent else path.name
    near = get_close_matches(wanted, sorted(p.name for p in there.iterdir()), n=1)
    hint = (
        f"did you mean {str(there / near[0])!r}?" if near else f"nothing in {str(there)!r} has a name like {wanted!r}."
    )
    raise DataError(f"{path}: no such file or folder; {hint}")


def decode_line(raw: bytes, *, path, line: int, offset: int) -> str:
    """One line of a file as text; `offset` counts the bytes before it. A mark of byte order at the start is dropped."""
    if offset == 0:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{line}: not UTF-8 text: byte 0x{raw[error.start]:02x} at offset {offset + error.start}. "
            "Save the file as UTF-8 (iconv -f OLD -t UTF-8), or name a text file."
        ) from None
    if "\0" in text:
        raise DataError(
            f"{path}:{line}: a zero byte at offset {offset + raw.index(0)}: this is a binary file, not text."
        )
    return text


def _file_texts(path: Path, text_key: str) -> Iterator[str]:
    line, offset, json_lines = 0, 0, path.name.endswith((".jsonl", ".jsonl.gz"))
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = decode_line(raw, path=path, line=line, offset=offset).strip()
                offset += len(raw)
                if text and json_lines:
                    text = _json_text(text, text_key, f"{path}:{line}")
                if text:
                    yield normalize("NFC", text)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}:{line + 1}: the compressed file is damaged or cut off after {offset} bytes of text ({error}). "
            "Copy or compress it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _json_text(line: str, text_key: str, where: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            f'{where}: not a JSON line: {error}. Each line must be one object such as {{"{text_key}": "..."}}.'
        ) from None
    if not isinstance(record, dict):
        raise DataError(
            f'{where}: a JSON {type(record).__name__}, not an object. Each line must look like {{"{text_key}": "..."}}.'
        )
    return _text_of(record, text_key, where)


def _text_of(record: dict, text_key: str, where: str) -> str:
    if text_key not in record:
        raise DataError(
            f"{where}: no key {text_key!r}; the keys are {', '.join(map(repr, record)) or '(none)'}. Set text_key."
        )
    text = record[text_key]
    if not isinstance(text, str):
        raise DataError(
            f"{where}: {text_key!r} holds {type(text).__name__}, not text. Set text_key to a key that holds text."
        )
    if half := re.search("[\ud800-\udfff]", text):
        raise DataError(
            f"{where}: half of a surrogate pair (\\u{ord(half[0]):04x}) is no character. Repair the file's escapes."
        )
    return text.strip()


def _dataset_texts(source: str, text_key: str) -> Iterator[str]:
    data = load_dataset(source, streaming=True)
    for row, record in enumerate(dataset_rows(data, source), start=1):
        if text := _text_of(record, text_key, f"{source}, row {row}"):
            yield normalize("NFC", text)


def _never_empty(texts: Iterator[str], source) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise DataError(f"{source}: the corpus is empty: no line holds any text.")


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
