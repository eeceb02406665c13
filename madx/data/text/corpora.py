"""Texts of a corpus, one line or document at a time; no file is ever in memory as a whole.

A source is a path, a list of paths, a folder, or `datasets:NAME[:CONFIG][:SPLIT]`. Texts come out in Unicode NFC.
"""

import gzip
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import count, islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard
from unicodedata import normalize

from madx.errors import ConfigError, DataError

KINDS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
SPLITS = ("train", "validation", "test", "dev")
Source = str | PathLike[str] | list[Any] | tuple[Any, ...]


class CorpusFile(NamedTuple):
    """A source of text: its path, the sha256 of its content and its size; None for both if it is a data set's name."""

    path: str
    sha256: str | None
    bytes: int | None


class DatasetName(NamedTuple):
    """The parts of `datasets:NAME[:CONFIG][:SPLIT]`."""

    name: str
    config: str | None
    split: str


def parse_dataset_name(source: str) -> DatasetName:
    """Take `datasets:NAME[:CONFIG][:SPLIT]` apart; a second part that is the name of a split is taken as the split.

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


def load_dataset(source: str, *, streaming: bool) -> Any:
    """Load the data set of a `datasets` name. An error of the library becomes a DataError that names the source."""
    import datasets  # here, because it is slow to import and most users read files

    name, config, split = parse_dataset_name(source)
    try:
        return datasets.load_dataset(name, config, split=split, streaming=streaming)
    except Exception as error:  # the library raises a dozen kinds; each of them means that the name cannot be read
        raise DataError(
            f"{source}: cannot be loaded (data set {name!r}, config {config!r}, split {split!r}): "
            f"{type(error).__name__}: {error}. Check name, config and split, and that the machine is online."
        ) from error


def dataset_rows(data: Iterable[Mapping[str, Any]], source: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a loaded data set. Streamed rows are fetched here, so a lost connection is a DataError here."""
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


def is_dataset(source: object) -> TypeGuard[str]:
    """Return whether a source is the name of a data set (`datasets:NAME`) rather than files."""
    return isinstance(source, str) and source.startswith("datasets:")


def is_loaded_dataset(data: object) -> TypeGuard[Any]:
    """Return whether an object is a data set of the `datasets` library; the library is not imported for that."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(data, (library.Dataset, library.IterableDataset))


def read_corpus(source: Source, *, text_key: str = "text", limit: int | None = None) -> Iterator[str]:
    """Yield the lines of .txt files, the texts of .jsonl files, or the texts of a data set.

    text_key: the key of the text in the JSON objects, or its column in the data set. limit: texts at most.

    Texts are in NFC and without white space around them; blank ones are left out. A missing file raises DataError at
    once; a broken line, and a source without any text, raise it while the texts are read, with file and line.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; allowed: at least 1; without a limit the whole corpus is read.")
    if is_dataset(source):
        texts = _dataset_texts(source, text_key)
    else:
        texts = (text for path in find_files(source) for text in _file_texts(path, text_key))
    return never_empty(islice(texts, limit), str(source))


def corpus_files(source: Source) -> list[CorpusFile]:
    """Return every file of a source with the sha256 and the number of its bytes, for the record of a training run."""
    if is_dataset(source):
        return [CorpusFile(str(source), None, None)]
    return [CorpusFile(str(path), sha256_of(path), path.stat().st_size) for path in find_files(source)]


def find_files(source: Source) -> list[Path]:
    """Return the files of a source; those of a folder and of its sub-folders are sorted."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise DataError("The corpus is an empty list. Name at least one file, folder or data set.")
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
    files = (p for p in path.rglob("*") if p.name.endswith(KINDS) and p.is_file())
    found = sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not found:
        raise DataError(f"{path}: the folder holds no corpus file. Allowed: {', '.join(KINDS)}.")
    return found


def check_exists(path: Path) -> None:
    """Raise DataError for a missing file or folder; the message suggests the nearest name in the same place."""
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


def decode_line(raw: bytes, *, path: Path, line: int, offset: int) -> str:
    """Decode a line of a file, which has `offset` bytes before it. A byte order mark at the start is left out.

    Raises DataError, with file and line, for bytes that are not UTF-8 and for a zero byte.
    """
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
            f"{path}:{line}: a zero byte at offset {offset + raw.index(0)}: this is a binary file. Name a text file."
        )
    return text


def _file_texts(path: Path, text_key: str) -> Iterator[str]:
    line, offset, json_lines = 0, 0, path.name.endswith((".jsonl", ".jsonl.gz"))
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = decode_line(raw, path=path, line=line, offset=offset).strip()
                offset += len(raw)
                if text:
                    text = _json_text(text, text_key, f"{path}:{line}") if json_lines else normalize("NFC", text)
                if text:
                    yield text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}:{line + 1}: the compressed file is damaged or cut off after {offset} bytes of text ({error}). "
            "Copy or compress it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}. Name a file that can be.") from error


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
    return text_of_record(record, text_key, where)


def text_of_record(record: Mapping[str, Any], text_key: str, where: str) -> str:
    """Return the text of a JSON object or of a row of a data set, in NFC and without white space around it.

    where: the name of the place, for the DataError that is raised if there is no text.
    """
    if text_key not in record:
        raise DataError(
            f"{where}: no key {text_key!r}; the keys are {', '.join(map(repr, record)) or '(none)'}. Set text_key."
        )
    text = record[text_key]
    if not isinstance(text, str):
        raise DataError(
            f"{where}: {text_key!r} holds {type(text).__name__}, not text. Set text_key to a key that holds text."
        )
    return nfc(text.strip(), where)


def nfc(text: str, where: str) -> str:
    """Return a text in Unicode NFC. Raises DataError, at the place `where`, for half of a surrogate pair."""
    if half := re.search("[\ud800-\udfff]", text):
        raise DataError(
            f"{where}: half of a surrogate pair (\\u{ord(half[0]):04x}) is no character. Correct the text's escapes."
        )
    return normalize("NFC", text)


def _dataset_texts(source: str, text_key: str) -> Iterator[str]:
    data = load_dataset(source, streaming=True)
    for row, record in enumerate(dataset_rows(data, source), start=1):
        if text := text_of_record(record, text_key, f"{source}, row {row}"):
            yield text


def never_empty(texts: Iterable[str], name: str) -> Iterator[str]:
    """Yield the texts. Raises DataError if there is none; `name` is the name of the corpus in its message."""
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise DataError(f"{name}: the corpus is empty: nothing in it holds any text.")


def sha256_of(path: Path) -> str:
    """Return the sha256 of the bytes of a file, which is read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
