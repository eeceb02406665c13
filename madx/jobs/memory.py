"""Data in memory as files: texts, labelled sentences and data sets that a job is given instead of a path.

Such data is written once to `$MADX_CACHE/memory/` (default `~/.cache/madx/memory/`), under a name made of the sha256
of its content, and the job reads that file. So a job with data in memory is the same job as one with files: a stopped
run goes on, a stored module is used again, several processes read the same, and `module.json` records path and sha256.
An iterator is consumed for it, once, and never held in memory as a whole. The files may be removed when nothing reads
them. Whoever names such a file as data gets the content that its name stands for, or an error.

Texts are written as they would stand in a .txt file, so that a list of texts trains the very module that the file
would.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from madx.data.labelled.memory import sentences_of
from madx.data.text.corpora import is_corpus_name, is_dataset
from madx.data.text.files import sha256_of
from madx.data.text.memory import texts_of
from madx.errors import DataError
from madx.files.places import cache_root
from madx.files.reasons import reason
from madx.files.writing import sweep_once, temporary_name

log = logging.getLogger("madx")

#: the folder of these files below the cache, their endings, and their paths: a name is the beginning of the sha256
FOLDER, ENDINGS = "memory", (".txt", ".jsonl")
KEPT = re.compile(r"(?:^|[/\\])memory[/\\]([0-9a-f]{16})\.[a-z]+$")


def as_files(
    values: Mapping[str, Any],
    *,
    texts: Iterable[str],
    labelled: Iterable[str],
    text_key: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Settings from Python values: data in memory as the path of a file, paths as text, tuples as lists.

    texts, labelled: the keys of raw text and of labelled sentences; the data may stand in a mapping, by language.
    text_key: the key of the text in records; limit: texts taken of each corpus at most. Raises DataError for data that
    cannot be read.
    """
    require_whole(values, [*texts, *labelled])
    readers: dict[str, Callable[[Any], Any]] = dict.fromkeys(texts, partial(_texts, text_key=text_key, limit=limit))
    readers |= dict.fromkeys(labelled, _sentences)
    return {key: plain(_each(value, readers[key]) if key in readers else value) for key, value in values.items()}


def require_whole(values: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise DataError for a file of data in memory, under one of these keys, that is not what was written."""
    for value in [values[key] for key in keys if key in values]:
        for given in value.values() if isinstance(value, Mapping) else [value]:
            for path in given if isinstance(given, (list, tuple)) else [given]:
                if isinstance(path, (str, os.PathLike)):
                    _require_whole(str(os.fspath(path)))


def _require_whole(path: str) -> None:
    kept = KEPT.search(path) if path.endswith(ENDINGS) else None
    if kept is None:
        return
    try:
        if os.path.isfile(path) and not sha256_once(Path(path)).startswith(kept[1]):
            raise DataError(
                f"{path} is damaged or was altered: madx wrote it for data given in memory, and its content is not the "
                "one that its name stands for. Remove it and give the data again; if it was changed on purpose, give "
                "it another name."
            )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Remove it and give the data again.") from error


def sha256_once(path: Path) -> str:
    """The sha256 of a file's bytes, which are read once while size and time of the file stay the same."""
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def plain(value: Any) -> Any:
    """A value as settings take it: paths as text, tuples as lists, numbers of numpy as Python's.

    >>> plain({"run": Path("a/b"), "seeds": (1, 2)})
    {'run': 'a/b', 'seeds': [1, 2]}
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def texts_as_file(data: Any, *, text_key: str | None = None, limit: int | None = None) -> str:
    """Write texts in memory, `limit` of them at most, as a .txt file; gives its path.

    text_key: the key of the text, if they are records. Raises DataError for what is no text, and when there is none.
    """
    return _written(islice(texts_of(data, text_key=text_key, name="corpus"), limit), ".txt", "texts")


def sentences_as_file(data: Any) -> str:
    """Write labelled sentences in memory as JSON lines `{"tokens": [...], "tags": [...]}`; gives the file's path.

    Raises DataError for what is no labelled sentence, and when there is none.
    """
    rows = ({"tokens": s.tokens, "tags": s.tags} for s in sentences_of(data, name="labelled data"))
    return _written((json.dumps(row, ensure_ascii=False) for row in rows), ".jsonl", "sentences")


def _each(value: Any, read: Callable[[Any], Any]) -> Any:
    return {key: read(each) for key, each in value.items()} if isinstance(value, Mapping) else read(value)


def _texts(value: Any, *, text_key: str | None, limit: int | None) -> Any:
    if value is None or isinstance(value, (str, os.PathLike)):
        return _no_text_itself(value)
    if isinstance(value, (list, tuple)) and _are_files(value):
        return value
    return texts_as_file(value, text_key=text_key, limit=limit)


def _no_text_itself(value: Any) -> Any:
    if isinstance(value, str) and "\n" in value:
        raise DataError(f"the corpus is a text, not a path: {value[:40]!r}... Give texts in a list: corpus=[text].")
    return value


def _sentences(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, os.PathLike)) else sentences_as_file(value)


def _are_files(items: list | tuple) -> bool:
    """True for a list that names files, False for one that holds texts. Raises DataError for a mixture of both."""
    files = [item for item in items if _is_file(item)]
    if not files or len(files) == len(items):
        return bool(files) or not items
    text = next(item for item in items if not _is_file(item))
    raise DataError(
        f"the corpus is a list of {len(items):,} items, of which {len(files):,} name files ({str(files[0])[:60]!r}) "
        f"and the others do not ({str(text)[:60]!r}). Give files or texts; texts that look like files as iter(texts)."
    )


def _is_file(item: Any) -> bool:
    if not isinstance(item, str):
        return isinstance(item, os.PathLike)
    if len(item) > 4096 or "\n" in item or "\0" in item:
        return False
    return is_dataset(item) or is_corpus_name(item) or os.path.exists(item)


def _written(lines: Iterable[str], ending: str, what: str) -> str:
    """Write lines to a file named by their content, whole or not at all; gives its path."""
    folder = cache_root() / FOLDER
    temporary = folder / temporary_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_once(folder)
        handle = open(temporary, "xb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(
            f"{folder}: {what} in memory cannot be kept there: {reason(error)}. Set MADX_CACHE to another folder."
        ) from error
    digest, count = hashlib.sha256(), 0
    try:
        with handle as file:
            for line in lines:
                raw = line.encode() + b"\n"
                digest.update(raw)
                file.write(raw)
                count += 1
        path = folder / f"{digest.hexdigest()[:16]}{ending}"
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{folder}: {what} in memory cannot be written: {reason(error)}. Free disk space, or set MADX_CACHE to "
            "another folder."
        ) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    log.info("%s %s given in memory are kept in %s", f"{count:,}", what, path)
    return str(path)
