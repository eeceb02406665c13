"""Writing files so that whoever looks sees the old file or the new one, never half of one."""

from collections.abc import Mapping
from pathlib import Path

from madx.errors import MadxError
from madx.files.reasons import reason
from madx.files.writing import write_whole


def write_files(contents: Mapping[str, bytes], folder: str | Path, *, what: str) -> list[Path]:
    """Write files into a folder, each whole or not at all, and give their paths.

    contents: name -> bytes. what: the files in a few words, for the error. Raises MadxError when they cannot be
    written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise MadxError(
            f"cannot write {what} to {folder}: {reason(error)}; files that were there are unchanged or whole. "
            "Free space or choose another folder"
        ) from error
    return [folder / name for name in contents]
