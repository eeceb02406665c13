"""Names that become the names of files and folders: one rule for names from users, settings and stored records."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from madx.errors import ConfigError, MadxError

#: bytes in UTF-8: three such names and what stands between them fit into the 255 bytes of a file's name
LONGEST = 64
#: characters that have a meaning in paths, here or on other systems, or in shell patterns
SPECIAL = frozenset('/\\:*?"<>|')
#: control and format characters, half surrogate pairs, separators of lines and paragraphs
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: names of devices on Windows, with any ending. Elsewhere they are allowed, since `con`, `aux` and `prn` are codes of
#: languages (Cofán, Aurê, Prasuni)
DEVICES = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))])


def fault_of(name: object) -> str | None:
    """The reason why a name cannot be a part of a file's name; None if it can."""
    if not isinstance(name, str) or not name:
        return "it is empty" if name == "" else f"it is {type(name).__name__}, not text"
    if size := _too_long(name):
        return f"it has {size} bytes, {LONGEST} are allowed"
    wrong = [c for c in name if c in SPECIAL or unicodedata.category(c) in INVISIBLE]
    if wrong:
        return f"it contains {wrong[0]!a}"
    if name != name.strip() or name[0] == "." or name[-1] == ".":
        return "it begins or ends with a blank or a dot"
    if is_kept_by_system(name):
        return "Windows keeps this name for a device"
    return None


def is_kept_by_system(name: str) -> bool:
    """Tell whether the system at hand would take a name for a device, or drop the dot at its end."""
    return os.name == "nt" and (name.partition(".")[0].rstrip().lower() in DEVICES or name.endswith("."))


def check_file_name(name: str, what: str, *, kind: type[MadxError] = ConfigError) -> str:
    """Return a name if it may be a part of a file's name. what: the kind of name, for the error.

    >>> check_file_name("swa", "target")
    'swa'
    """
    if fault := fault_of(name):
        shown = f"{name!a:.80}"
        raise kind(
            f"The {what} {shown} would become the name of a file, which it cannot be: {fault}. Give a name of letters, "
            "digits, '-', '_', '.' or blanks between them."
        )
    return name


def check_file_names(names: Iterable[str], what: str, *, kind: type[MadxError] = ConfigError) -> None:
    """Check several names that become files in one folder: each by itself, and that no two mean one file.

    Letters that differ in case or in their Unicode normal form are one file on macOS and Windows, and in archives that
    are unpacked there.
    """
    seen: dict[str, str] = {}
    for name in names:
        check_file_name(name, what, kind=kind)
        other = seen.setdefault(folded(name), name)
        if other != name:
            raise kind(
                f"The {what}s {other!a} and {name!a} would be one file where the case of letters and the form of "
                "accents make no difference. Give one of them another name."
            )


def folded(name: str) -> str:
    """A name without what some file systems do not tell apart: the case of letters and the form of accents.

    >>> folded("SWA") == folded("swa"), folded("é") == folded("é")
    (True, True)
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def inside(folder: Path, *names: str, kind: type[MadxError] = MadxError) -> Path:
    """The path of a file in a folder, which must not lead out of it by `..` or a link."""
    path = folder.joinpath(*names)
    try:
        outside = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a link that leads to itself; a zero byte
        raise kind(f"{str(path)!a:.200} is no usable path ({error}). Remove it or name another folder.") from None
    if outside:
        raise kind(f"{path} leads out of the folder {folder} and is not used. Remove it, or name another folder.")
    return path


def _too_long(name: str) -> int:
    """The bytes of a name that has too many of them, or 0."""
    size = len(name.encode("utf-8", "surrogatepass"))
    return size if size > LONGEST else 0
