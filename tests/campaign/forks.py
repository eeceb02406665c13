"""Children of this process, which has torch, transformers and madx imported already: a start costs milliseconds.

A child is forked while this process has one thread, so whatever starts threads (a server, a tokenizer) belongs into
children.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

GIGABYTE = 1 << 30


@dataclass(frozen=True)
class Ended:
    """The end of a child.

    value: what its work returned. error: (class, text, traceback) of an exception that ended it, MadxErrors among them.
    signal: the signal that ended it, or 0. late: it was stopped because its time was up. output: what it printed.
    """

    value: Any = None
    error: tuple[str, str, str] | None = None
    signal: int = 0
    late: bool = False
    output: str = ""
    seconds: float = 0.0


class Child:
    """A child at work. connection: where its messages arrive, ("sent", value) each, as long as it lives."""

    def __init__(self, work: Callable[[Callable[[Any], None]], Any], *, folder: Path):
        self.connection, there = Pipe(duplex=False)
        self.log = folder.parent / f".output-{os.getpid()}-{time.monotonic_ns()}"
        self.began = time.monotonic()
        self.value: Any = None
        self.error: tuple[str, str, str] | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            self.connection.close()
            _be_child(work, there, folder, self.log)
        there.close()

    def receive(self) -> Iterator[Any]:
        """Wait for a message; yield what was sent, if it was that. Raises EOFError when the child is at its end."""
        kind, got = self.connection.recv()
        if kind == "sent":
            yield got
        elif kind == "value":
            self.value = got
        else:
            self.error = got

    def end(self, *, late: bool = False) -> Ended:
        """End the child, if it is still there, and all that it started; give its end. late: it took too long."""
        with suppress(OSError):
            os.killpg(self.process, signal.SIGKILL)
        if late:
            with suppress(OSError):
                os.kill(self.process, signal.SIGKILL)
        self.connection.close()
        status = os.waitpid(self.process, 0)[1]
        silent = self.value is None and self.error is None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) and (late or silent) else 0
        text = self.log.read_bytes().decode(errors="surrogateescape") if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return Ended(self.value, self.error, number, late, text, time.monotonic() - self.began)


def fork(work: Callable[[], Any], *, folder: Path, timeout: float = 120.0) -> Ended:
    """Run `work` in a child whose current folder is `folder`, and wait for its end, at most `timeout` seconds."""
    *_, (_, end) = messages(lambda _: work(), folder=folder, timeout=timeout)
    return end


def messages(
    work: Callable[[Callable[[Any], None]], Any], *, folder: Path, timeout: float
) -> Iterator[tuple[str, Any]]:
    """Run `work(send)` in a child; yield ("sent", value) for all that it sends, and ("ended", Ended) at last.

    timeout: seconds that the child may be without a message.
    """
    child, late, ended = Child(work, folder=folder), False, None
    try:
        while not late:
            late = not child.connection.poll(timeout)
            if not late:
                yield from (("sent", value) for value in child.receive())
    except EOFError:
        late = False
    finally:
        ended = child.end(late=late)
    yield "ended", ended


def _be_child(work: Callable[[Callable[[Any], None]], Any], to: Connection, folder: Path, log: Path) -> None:
    """Do the work in the child, and leave it without the parent's clean-up."""
    code = 1
    try:
        with suppress(OSError):
            os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        to.send(("value", work(lambda value: to.send(("sent", value)))))
        code = 0
    except BaseException as error:  # SystemExit and KeyboardInterrupt are ends of a job, too
        with suppress(Exception):
            to.send(("error", (type(error).__name__, str(error)[:4000], traceback.format_exc()[-6000:])))
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def limit_memory(room: int = GIGABYTE) -> None:
    """Let this process take so many bytes of address space beyond what it has now."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, size + room))


def of_memory(error: BaseException | None) -> bool:
    """True if an error, or one that it was made from, is a refusal of the system to give memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or any(
            words in str(error) for words in ("can't allocate memory", "Cannot allocate memory", "Unable to allocate")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
