"""Writing of files and folders so that a reader meets the old one or the new one, never half of one.

All is written beside its place under a name of `temporary_name`, flushed, and renamed. A killed process leaves such
names behind. They say which process made them, so that the next writer into the folder can remove those of dead
processes and never those of a running one.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from madx.errors import MadxError
from madx.files.places import user_path
from madx.files.reasons import explained

TEMPORARY = re.compile(r"\.madx-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.tmp")
#: seconds after which what a process of another machine wrote last counts as left behind
OLD = 2 * 24 * 3600.0
_swept: set[str] = set()


def temporary_name() -> str:
    """A new hidden name for something that is being written: `.madx-MACHINE-PROCESS-RANDOM.tmp`."""
    return f".madx-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; its folder is made. A link at its place is replaced, never followed.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def write_named(path: str | Path, content: bytes) -> None:
    """Write a file that the user named, whole or not at all; a link is followed, a device or pipe written to directly.

    Raises OSError.
    """
    path = user_path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # /dev/stdout, a pipe: it must not be replaced
        path.write_bytes(content)
    else:
        write_whole(Path(os.path.realpath(path)), content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` at the end of the block, unless the block fails. Raises OSError."""
    with placed(path) as temporary, open(temporary, "xb") as file:
        yield file


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """Give the path of a file to be written by the block; it takes the place of `path` unless the block fails.

    The folder must be there. Raises OSError.
    """
    sweep_once(path.parent)
    temporary = path.with_name(temporary_name())
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Make a folder beside a path, and delete what is left of it at the end of the block. Raises OSError."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    sweep_once(beside.parent)
    folder = beside.with_name(temporary_name())
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_folder(folder: str | Path, what: str, *, kind: type[MadxError] = MadxError) -> Path:
    """Return a folder that is there or can be made, and written to; a long job asks this before it starts.

    what: what will be kept there, for the error.
    """
    folder = user_path(folder)
    doing = f"keep {what} in {str(folder)[:300]!r}"
    with explained(doing, kind, advice="Give another folder."):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(folder)  # a path that no folder can have is refused here
        there = folder
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        is_folder = stat.S_ISDIR(os.stat(there).st_mode)
        longest = max(map(len, map(os.fsencode, folder.parts)), default=0)
    if not is_folder:
        raise kind(f"Cannot {doing}: {str(there)!r} is a file, not a folder. Give another folder.")
    if longest > 255:
        raise kind(f"Cannot {doing}: the path is too long; choose a shorter one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise kind(f"Cannot {doing}: {str(there)!r} may not be written to. Give another folder or its permissions.")
    return folder


# ---- what killed processes leave behind ------------------------------------------------------------------------------


def sweep_once(folder: Path) -> None:
    """Sweep a folder, unless this process did so before."""
    if (key := os.path.abspath(folder)) not in _swept:
        _swept.add(key)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove what dead processes were writing into a folder; what cannot be removed stays.

    On this machine a process that still runs keeps all that is its own. Of another machine nothing is known, so age
    decides.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            if (found := TEMPORARY.fullmatch(entry.name)) and _left(Path(entry.path), found[1], int(found[2])):
                remove(Path(entry.path))


def remove(path: Path) -> None:
    """Delete a link, file or folder as far as possible; of a link, only the link."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _left(path: Path, machine: str, process: int) -> bool:
    """Tell whether nobody will finish what lies at a path."""
    if machine == _machine() and (alive := is_running(process)) is not None:
        return not alive
    with suppress(OSError):
        newest = max(p.lstat().st_mtime for p in (path, *(path.rglob("*") if path.is_dir() else ())))
        return bool(time.time() - newest > OLD)
    return False


def is_running(process: int) -> bool | None:
    """Tell whether a process of this machine runs; None where that cannot be known."""
    if os.name != "posix" or not 0 < process < 2**31:
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


@lru_cache(maxsize=1)
def _machine() -> str:
    """Eight characters for the machine since it was started, and for the container: process numbers mean nothing
    elsewhere."""
    marks = [socket.gethostname()]
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        marks.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\n".join(marks).encode("utf-8", "replace")).hexdigest()[:8]
