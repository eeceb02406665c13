"""Damaged files: every kind of file that madx reads is damaged, then read in a child with limits.

A child reads many of them, one after the other; it is replaced when it dies or hangs.
"""

import itertools
import logging
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from campaign.damage import damaged
from campaign.forks import GIGABYTE, limit_memory, messages, of_memory
from campaign.outcome import Attempt
from campaign.subjects import SUBJECTS as KNOWN
from campaign.subjects.subject import Subject, kind_of
from madx.errors import MadxError

PART = "mutations"
SUBJECTS = list(KNOWN)
SLOW = 10.0  # seconds of computing
HANGS = 60.0  # seconds of waiting, on a machine that others use too
LONG = 20_000  # characters of a message


class Slow(BaseException):
    """Raised by the alarm in a read that takes too long; no `except Exception` catches it."""


class _Messages(logging.Handler):
    """Collects the warnings of madx."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


class Reader:
    """Reads damaged copies of one subject, in a child."""

    def __init__(self, subject: Subject, folder: Path, *, seed: int):
        self.subject, self.folder, self.seed = subject, folder, seed
        self.intact, self.here = folder / "intact", folder / "here"
        self.messages = _Messages()
        self.value: Any = None
        self.usual: list[str] = []

    def prepare(self) -> None:
        """Make the subject and read it as it is. Raises MadxError for a format that this version does not read."""
        logger = logging.getLogger("madx")
        logger.setLevel(logging.WARNING)
        logger.handlers, logger.propagate = [self.messages], False
        shutil.rmtree(self.folder, ignore_errors=True)
        self.intact.mkdir(parents=True)
        self.subject.make(self.intact)
        for _ in range(2):  # the second time everything is imported and cached, as in the reads that are timed
            self._fresh_copy()
            self.value = self.subject.read(self.here)
        self.usual = list(self.messages.found)

    def attempt(self, number: int) -> Attempt:
        """Damage a file in a fresh copy, and read the copy."""
        name = self.subject.name
        draw = random.Random(f"{self.seed}/{PART}/{name}/{number}")
        self._fresh_copy()
        file = draw.choice(self.subject.damageable(self.here))
        data, how = damaged(file.read_bytes(), draw, kind_of(file))
        file.write_bytes(data)
        if self.subject.mend is not None:
            self.subject.mend(self.here)
        self.messages.found.clear()
        began = time.process_time()
        outcome, said = self._outcome()
        seconds = time.process_time() - began
        if outcome in ("equal", "refused", "other") and seconds > SLOW:
            outcome, said = "slow", f"{seconds:.1f} s"
        how = f"{file.relative_to(self.here)}: {how}"[:300]
        return Attempt(PART, name, number, outcome, how, said[-1500:], seconds)

    def _outcome(self) -> tuple[str, str]:
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        try:
            value = self.subject.read(self.here)
        except MadxError as error:
            if of_memory(error):
                return "big", str(error)
            return (
                ("long", f"a message of {len(str(error)):,} characters") if len(str(error)) > LONG else ("refused", "")
            )
        except Slow:
            return "slow", traceback.format_exc()
        except BaseException as error:  # KeyboardInterrupt and SystemExit are no answers either
            return "big" if of_memory(error) else "exception", traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        told = [text for text in self.messages.found if text not in self.usual]
        if value == self.value:
            return ("anew" if told else "equal"), ""
        if told:
            return "told", ""
        return ("silent", f"{value} for {self.value}"[:300]) if self.subject.checked else ("other", "")

    def _fresh_copy(self) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.intact, self.here)


def _too_slow(*_: object) -> None:
    raise Slow


def attempts(
    name: str, *, seed: int, ready: Path, folder: Path, numbers: Iterator[int], going: Callable[[], bool]
) -> Iterator[Attempt]:
    """Damage a subject again and again, as long as `going`."""
    subject = KNOWN[name]
    waiting = itertools.chain(numbers)
    while going():
        started: list[int] = []
        first = next(waiting, None)
        if first is None:
            return
        rest = itertools.chain([first], waiting)

        def work(send: Callable[[Any], None], rest: Iterator[int] = rest) -> str:
            signal.signal(signal.SIGPROF, _too_slow)
            resource.setrlimit(resource.RLIMIT_FSIZE, (GIGABYTE, GIGABYTE))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            reader = Reader(subject, folder / "reader", seed=seed)
            try:
                reader.prepare()
            except MadxError as error:
                return f"not read by this version: {error}"
            limit_memory()
            for number in rest:
                if not going():
                    return ""
                send(number)
                send(reader.attempt(number))
            return ""

        for kind, value in messages(work, folder=folder, timeout=HANGS):
            if kind == "ended" and isinstance(value.value, str) and value.value:
                logging.getLogger("campaign").warning("%s: %s", subject.name, value.value)
            if kind == "sent" and isinstance(value, int):
                started.append(value)
            elif kind == "sent":
                started.pop()
                yield value
            elif value.value is None or value.late:
                if not started:
                    raise RuntimeError(f"{subject.name}: {value.error or value.signal}\n{value.output[-3000:]}")
                said = f"signal {value.signal} {value.error or ''} {value.output[-500:]}"
                yield Attempt(PART, subject.name, started[-1], "slow" if value.late else "exception", "", said)
            else:
                return
        last = started[-1] if started else first
        waiting = (number for number in waiting if number > last)
