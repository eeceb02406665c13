"""Replace a whole folder in one step, so that a reader meets the old one or the new one and a failure changes nothing.

The new folder is written beside the target under a hidden name, flushed to disk, and renamed. Renaming onto a full
folder is impossible, so the old one is first renamed away; whoever finds it there, and none at its place, puts it back.
Writers of one parent folder wait for each other by a lock on the parent itself, which ends with the process.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from madx.files.writing import OLD


@contextmanager
def locked(parent: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder during a block; gives False where the system has none (Windows, some network disks)."""
    descriptor = None
    try:
        try:
            import fcntl

            descriptor = os.open(parent, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            held = True
        except (ImportError, OSError):
            held = False
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep writers away from a folder during a block; a folder that a killed writer left renamed is put back first, if
    the parent can be written."""
    if not os.path.lexists(folder) and remains(folder):
        with locked(folder.parent) as held:
            if held:
                with suppress(OSError):
                    mend(folder)
    with locked(folder.parent, shared=True):
        yield


def write_folder(folder: Path, files: dict[str, bytes], *, check: Callable[[], None]) -> None:
    """Make `folder` hold exactly these files, or change nothing and raise; `check` may refuse under the lock."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent) as held:
        if held:
            mend(folder)
            sweep(folder.parent)
        check()
        new, old = _beside(folder, "new"), _beside(folder, "old")
        placed = False
        try:
            _fill(new, files)
            if os.path.lexists(folder):
                os.replace(folder, old)
            os.replace(new, folder)
            placed = True
            _flush(folder.parent)
        except BaseException:  # Ctrl-C too
            if placed or os.path.lexists(old) and os.path.lexists(folder):
                os.replace(folder, new)
            if os.path.lexists(old):
                os.replace(old, folder)
            delete(new)
            raise
        delete(old)


def remove_folder(folder: Path) -> None:
    """Take the folder out of sight in one step, then delete it; of a link, only the link."""
    with locked(folder.parent):
        gone = _beside(folder, "gone")
        os.replace(folder, gone)
        delete(gone)
        _flush(folder.parent)


def delete(path: Path) -> None:
    """Delete a link, file or folder as far as possible; what stays is hidden and goes at the next save of that name."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def remains(folder: Path) -> list[Path]:
    """The folders that writers of a folder left beside it: killed writers, or one that is at work just now."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.(new|old|gone)")
    return [e for e in folder.parent.iterdir() if pattern.fullmatch(e.name)] if folder.parent.is_dir() else []


def renamed_away(parent: Path) -> list[str]:
    """The names of folders that a killed writer renamed away and did not replace."""
    found = (re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.old", entry.name) for entry in parent.iterdir())
    return [m[1] for m in found if m and not os.path.lexists(parent / m[1])]


def put_back(parent: Path) -> None:
    """Put every folder back that a killed writer renamed away and did not replace."""
    for name in renamed_away(parent):
        with reading(parent / name):
            pass


def mend(folder: Path) -> None:
    """Undo what a killed writer left; only under the lock, since a writer at work leaves the same."""
    for entry in remains(folder):
        if entry.suffix == ".old" and not os.path.lexists(folder):
            os.replace(entry, folder)
        else:
            delete(entry)


def sweep(parent: Path) -> None:
    """Delete what killed writers of any name left long ago; only under the lock. A folder that was renamed away and not
    replaced is kept, since it is the module itself."""
    for entry in parent.iterdir():
        found = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.(new|old|gone)", entry.name)
        if found and (found[2] != "old" or os.path.lexists(parent / found[1])):
            with suppress(OSError):
                if time.time() - entry.lstat().st_mtime > OLD:
                    delete(entry)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{what}")


def _fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        with open(folder / name, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _flush(folder)


def _flush(folder: Path) -> None:
    """Make the names in a folder durable; Windows has no way to do this and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
