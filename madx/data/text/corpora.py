"""Texts of a corpus, one line or document at a time; no file is ever in memory as a whole.

A source is a path, a list of paths, a folder, or `datasets:NAME[:CONFIG][:SPLIT]`. Texts come out in Unicode NFC.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import count, islice
from os import PathLike, walk
from os.path import realpath
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard
from unicodedata import normalize

from madx.data.text.files import check_exists, check_file, lines_of, plain_name, sha256_of
from madx.errors import ConfigError, DataError

JSON_LINES = (".jsonl", ".ndjson")
#: the endings of corpus files, in small or capital letters; that of a packed file may follow
KINDS = (".txt", ".text", *JSON_LINES)
ALLOWED = ".txt, .text, .jsonl, .ndjson, each of them also with .gz, .bz2 or .xz after it"
SPLITS = ("train", "validation", "test", "dev")
log = logging.getLogger(__name__)
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
    """Return the files of a source; those of a folder and of its sub-folders are sorted.

    Files of a folder that are no corpus files are passed over, and a warning of the log names them; hidden ones, whose
    names begin with a dot, are passed over without a word.
    """
    if isinstance(source, (list, tuple)):
        if not source:
            raise DataError("The corpus is an empty list. Name at least one file, folder or data set.")
        if names := [part for part in source if is_dataset(part)]:
            raise DataError(f"{names[0]}: a data set cannot stand in a list. Give it alone, or give files.")
        return [path for part in source for path in find_files(part)]
    path = Path(source)
    check_exists(path)
    if path.is_dir():
        return _files_of_folder(path)
    if not is_corpus_name(path):
        raise DataError(f"{path}: files of this kind are not read as a corpus. Allowed: {ALLOWED}, a folder of them.")
    check_file(path)
    return [path]


def is_corpus_name(path: str | PathLike[str]) -> bool:
    """Return whether a file has the name of a corpus file.

    >>> is_corpus_name("swa.TXT"), is_corpus_name("swa.jsonl.xz"), is_corpus_name("swa.pdf")
    (True, True, False)
    """
    return plain_name(path).endswith(KINDS)


def _files_of_folder(folder: Path) -> list[Path]:
    found, other, seen = [], [], set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}. Make the folder readable.") from error

    for name, folders, files in walk(folder, onerror=refuse, followlinks=True):
        real = realpath(name)
        folders[:] = [] if real in seen else [part for part in folders if not part.startswith(".")]
        if real in seen:  # a link to a folder that was read before, perhaps to one above it
            continue
        seen.add(real)
        paths = [Path(name, file) for file in files if not file.startswith(".")]
        found += [path for path in paths if is_corpus_name(path) and path.is_file()]
        other += [path for path in paths if not (is_corpus_name(path) and path.is_file())]
    if not found:
        kinds = f" It holds {_kinds_of(other)}." if other else ""
        raise DataError(f"{folder}: the folder holds no corpus file. Allowed: {ALLOWED}.{kinds}")
    if other:
        _warn_once(
            f"{folder}: {len(other):,} of {len(found) + len(other):,} files are passed over, since they are no corpus "
            f"files: {_kinds_of(other)}. Allowed: {ALLOWED}."
        )
    return sorted(found)


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    """Warn of a folder's files: a job asks for them several times, to check, to read and to record them."""
    log.warning("%s", text)


def _kinds_of(paths: list[Path]) -> str:
    """Return the kinds of files that are passed over, each with a number and an example."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(paths):
        kind = path.suffix.lower() or "no ending"
        kinds.setdefault(kind if path.is_file() else "no regular file", []).append(path.name)
    shown = [f"{len(names):,} {kind} ({names[0]!r})" for kind, names in list(kinds.items())[:8]]
    return ", ".join(shown + ["..."] * (len(kinds) > 8))


def _file_texts(path: Path, text_key: str) -> Iterator[str]:
    json_lines = plain_name(path).endswith(JSON_LINES)
    for line in lines_of(path):
        if text := line.text.strip():
            text = _json_text(text, text_key, f"{path}:{line.number}") if json_lines else normalize("NFC", text)
        if text:
            yield text


def _json_text(line: str, text_key: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # the second for lists inside each other without end
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
