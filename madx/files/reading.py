"""Reading of regular files alone: a pipe without a writer, a device or a folder is refused, not waited for."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from madx.files.reasons import is_no_path, reason

KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "a folder"),
    (stat.S_ISFIFO, errno.EINVAL, "a named pipe"),
    (stat.S_ISSOCK, errno.EINVAL, "a socket"),
    (stat.S_ISCHR, errno.EINVAL, "a device"),
    (stat.S_ISBLK, errno.EINVAL, "a device"),
)


def why_no_file(path: str | os.PathLike[str]) -> str | None:
    """The reason why a path, links followed, leads to no regular file; None if it leads to one. Nothing is opened."""
    try:
        found = wrong_kind(os.stat(path).st_mode)
    except OSError as error:
        return reason(error)
    except ValueError as error:
        if not is_no_path(error):
            raise
        return "such a text is no path"
    return found and f"it is {found[1]}, not a regular file"


def wrong_kind(mode: int) -> tuple[int, str] | None:
    """The number of an error and the kind of what is no regular file; None for one."""
    if stat.S_ISREG(mode):
        return None
    return next(((number, words) for test, number, words in KINDS if test(mode)), (errno.EINVAL, "no file"))


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """Open a regular file to be read in bytes; raises OSError, in bounded time, for anything else.

    The kind is asked of the open file, so nobody can put something else in its place in between.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        if found := wrong_kind(os.fstat(handle).st_mode):
            raise OSError(found[0], f"{_last(path)} is {found[1]}, not a regular file", os.fspath(path))
        yield file


def read_bytes(path: str | os.PathLike[str], *, most: int | None = None) -> bytes:
    """The bytes of a regular file. Raises OSError, also for a file of more than `most` bytes."""
    with opened(path) as file:
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise OSError(
            errno.EINVAL, f"{_last(path)} has more than {most:,} bytes, which no such file needs", os.fspath(path)
        )
    return data


def _last(path: str | os.PathLike[str]) -> str:
    return os.path.basename(os.fspath(path))


def read_text(path: Path, *, most: int | None = None) -> str:
    """The UTF-8 text of a regular file. Raises OSError and UnicodeDecodeError."""
    return read_bytes(path, most=most).decode("utf-8")
