"""Errors of the system and of libraries in words: what happened, and what the user can do about it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from madx.errors import MadxError

REASONS = {
    errno.ENOENT: "no such file or folder",
    errno.ENOSPC: "No space left on device: the disk is full; make room and repeat",
    errno.EDQUOT: "your quota on this disk is used up; make room and repeat",
    errno.EFBIG: "the file would be larger than allowed here; raise the limit (ulimit -f) or choose another folder",
    errno.EACCES: "permission denied; choose a folder of your own or change its permissions",
    errno.EPERM: "permission denied; choose a folder of your own or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another path",
    errno.EEXIST: "a part of that path is a file, not a folder; choose another path",
    errno.ENAMETOOLONG: "the path is too long; choose a shorter one",
    errno.ELOOP: "the path is a link that leads back to itself; remove the link or choose another path",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) and repeat",
    errno.ENFILE: "too many files are open on this machine; close other programs and repeat",
    errno.ENOMEM: "there is not enough memory; close other programs or take a machine with more",
    errno.EIO: "Input/output error: the disk or the network under it failed; check them and repeat",
    errno.ESTALE: "the network disk has lost the file; mount it anew and repeat",
}
#: errors of writing to an open stream; where madx writes files, it says which
UNNAMED = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EPIPE)
#: parts of the texts by which torch and the C++ library tell that memory is used up
NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "not enough memory",
    "failed to map segment",
)
#: libraries that read files; other than on purpose, they raise errors of their own only for damaged ones
READERS = ("safetensors", "safetensors_rust", "json", "yaml", "zipfile", "zlib", "gzip", "lzma", "_pickle", "pickle")
SOURCES_OF_READERS = "files from elsewhere are fetched again, `madx modules verify` tells which module is damaged"


def reason(error: BaseException) -> str:
    """The reason of an error of the system, with the way out where there is one, without a full stop at the end."""
    number = getattr(error, "errno", None) or 0
    text = REASONS.get(number) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{text}{lost_folder()}"


def lost_folder() -> str:
    """A remark if the working directory was deleted, since relative paths then lead nowhere; empty otherwise."""
    try:
        os.getcwd()
    except OSError:
        return "; the working directory was deleted: change into one that exists (cd ~) and repeat"
    return ""


def is_no_path(error: BaseException) -> bool:
    """Tell whether an error says that a text cannot be a path: a zero byte, or half of a surrogate pair."""
    return isinstance(error, UnicodeEncodeError) or isinstance(error, ValueError) and "null byte" in str(error)


@contextmanager
def explained(doing: str, kind: type[MadxError] = MadxError, *, advice: str = "") -> Iterator[None]:
    """Turn OSErrors of a block into `kind`: `Cannot <doing>: the disk is full; make room and repeat. <advice>`.

    A text that cannot be a path becomes the same. Every other error passes.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) and not is_no_path(error):
            raise
        text = reason(error) if isinstance(error, OSError) else f"{error}; such a text is no path, choose another"
        raise kind(f"Cannot {doing}: {text}.{advice and ' '}{advice}") from error


def in_words(error: BaseException) -> str | None:
    """An error as a user should read it; None for one that only a fault of the program can explain."""
    if isinstance(error, MadxError):
        return str(error)
    if isinstance(error, MemoryError) or any(part in str(error).lower() for part in NO_MEMORY):
        return (
            "There is not enough memory. Lower batch_size, micro_batch or max_length, close other programs, or take a "
            "machine with more; a training goes on from its last checkpoint."
        )
    if isinstance(error, RecursionError):
        return f"Something that was read is nested too deeply ({error}): simplify the settings, file or composition."
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[error.start : error.end][:20]
        return f"The characters {shown!a} cannot be written as {error.encoding}: set PYTHONIOENCODING=utf-8."
    if isinstance(error, UnicodeDecodeError):
        return f"A file or an input is not {error.encoding} text ({error.reason}): save it as UTF-8."
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        if not place and error.errno in UNNAMED:
            place = "Cannot write the output: "
        return f"{place}{reason(error)}."
    if is_no_path(error):
        return f"A text cannot be a path ({error}): choose another."
    kind = type(error)
    if kind.__module__.partition(".")[0] in READERS or kind in (EOFError,) or kind.__name__ == "PanicException":
        return f"A file is damaged ({kind.__name__}: {str(error)[:200]}): {SOURCES_OF_READERS}."
    return None


@contextmanager
def as_madx_errors() -> Iterator[None]:
    """Turn errors of a block that come from the system, not from a fault of the program, into a MadxError."""
    try:
        yield
    except MadxError:
        raise
    except (Exception, MemoryError) as error:
        text = in_words(error)
        if text is None:
            raise
        raise MadxError(text) from error
