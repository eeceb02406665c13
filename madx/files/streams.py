"""The streams of a process: messages that never end the work, characters that stdout lacks, closed streams."""

import codecs
import logging
import os
import sys
from contextlib import suppress
from typing import IO, cast

#: name of the rule by which a character that the encoding of stdout lacks is written
ESCAPED = "madx-escaped"
log = logging.getLogger("madx")


class _Messages:
    """Whatever `sys.stderr` is at the time of writing; a write that fails is dropped.

    A training must not end because the terminal or the pipe that shows its progress is gone.
    """

    @property
    def stream(self) -> IO[str] | None:
        """The stream itself, also while rich shows a bar on it; None where the process has none."""
        return cast("IO[str] | None", getattr(sys.stderr, "rich_proxied_file", sys.stderr))

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: the stream was closed
            if self.stream is not None:
                self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            if self.stream is not None:
                self.stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    def fileno(self) -> int:
        if self.stream is None:
            raise OSError("this process has no stderr")
        return self.stream.fileno()


#: stderr for messages and progress
MESSAGES = cast("IO[str]", _Messages())


def prepare_streams() -> None:
    """Make the streams of a command safe to use: called once, at the start of the process.

    Where stdin, stdout or stderr is closed, the next file that is opened would get its number, and a library's message
    would go into that file: such a number is given to the empty device. Text that stdout cannot encode is escaped.
    """
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # the lowest free number
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - it lives as long as the process
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        MESSAGES.write("stdout is closed: what the command prints is lost; what it stores is not.\n")
    codecs.register_error(ESCAPED, _escaped)
    if sys.stdout is not None and getattr(sys.stdout, "errors", "") in ("strict", "surrogateescape"):
        with suppress(AttributeError, ValueError):
            sys.stdout.reconfigure(errors=ESCAPED)  # type: ignore[union-attr]


def silence_stdout() -> None:
    """Let all that is still to be written to stdout vanish; the interpreter would complain when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, sys.stdout.fileno())
        os.close(empty)
        sys.stdout.flush()


def stdout_error() -> OSError | None:
    """The error of writing what stdout still holds back; None if it is written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return error
    except ValueError:  # it was closed on purpose
        return None
    return None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write characters as JSON does, `\\u1ecc`, so that JSON lines stay right; says so once."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    _tell_once(error.encoding)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2)), error.end


_told: list[str] = []


def _tell_once(encoding: str) -> None:
    if not _told:
        _told.append(encoding)
        log.warning(
            "stdout is written as %s, which lacks some characters: they are printed as \\uXXXX. Set "
            "PYTHONIOENCODING=utf-8 to print them.",
            encoding,
        )
