"""Writing files so that whoever looks sees the old file or the new one, never half of one."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from madx.errors import MadxError


def write_files(contents: Mapping[str, bytes], folder: str | Path, *, what: str) -> list[Path]:
    """Write files into a folder, each whole or not at all, and give their paths.

    contents: name -> bytes. what: the files in a few words, for the error. Raises MadxError when they cannot be
    written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write_whole(folder / name, content)
    except OSError as error:
        raise MadxError(
            f"cannot write {what} to {folder}: {error}; files that were there are unchanged or whole. "
            "Free space or choose another folder"
        ) from error
    return [folder / name for name in contents]


def _write_whole(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide the report from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
