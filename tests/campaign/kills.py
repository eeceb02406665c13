"""Kills: a job ends by SIGKILL at a random moment, and the same command again must end as if nothing had happened.

Half of the kills come after a random time, half before a random operation on files (an open for writing, a rename, a
removal, a new folder), where a moment matters.
"""

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from campaign import hub_process
from campaign.commands import run
from campaign.forks import Ended, fork
from campaign.jobs import JOBS, Job, Stored, differences, hidden, lost, results, stored
from campaign.outcome import Attempt

PART = "kills"
SUBJECTS = list(JOBS)
#: what a job says that cannot be done twice
DONE_BEFORE = ("already holds a module", "is in use")
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Undisturbed:
    """A job that nobody disturbed: its results, its time, and how many operations on files it has."""

    results: dict[str, str]
    stored: Stored
    before: Stored
    seconds: float
    operations: int


class FileOperations:
    """Counts the operations on files of this process, and kills it before the n-th.

    Python's audit events tell of them; a hook can never be taken away again, so only children make one.
    """

    def __init__(self, kill_before: int | None = None):
        self.count, self.kill_before = 0, kill_before
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple) -> None:
        if event in CHANGES or event == "open" and self._writes(arguments):
            self.count += 1
            if self.count == self.kill_before:
                os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _writes(arguments: tuple) -> bool:
        path, _, flags = arguments
        return isinstance(flags, int) and bool(flags & WRITES) and not str(path).startswith(("/dev", "/proc"))


def undisturbed(job: Job, ready: Path, folder: Path) -> Undisturbed:
    """Run a job to its end. Raises RuntimeError if it does not complete."""
    here = copied(ready, folder)
    with hub_process.serving(ready if job.hub else None) as address:
        before = fork(partial(stored, here), folder=here).value

        def work() -> tuple[int, int]:
            counted = FileOperations()
            return all_commands(job, address), counted.count

        end = fork(work, folder=here)
        if end.value is None or end.value[0] != 0:
            raise RuntimeError(f"The job {job.name!r} does not complete undisturbed: {end.error}\n{end.output}")
        found = _outcome(here, address)
        now = fork(partial(stored, here), folder=here).value
    shutil.rmtree(here)
    return Undisturbed(found, now, before, end.seconds, end.value[1])


def kill(job: Job, number: int, *, seed: int, ready: Path, folder: Path, known: Undisturbed) -> Attempt:
    """Kill a job once or several times, then let it end."""
    draw, kills, how = random.Random(f"{seed}/{PART}/{job.name}/{number}"), 0, []
    here = copied(ready, folder)
    said, outcome = "", "equal"
    began = time.monotonic()
    with hub_process.serving(ready if job.hub else None) as address:
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            killed, words = _kill_once(job, draw, here=here, known=known, address=address)
            how.append(words)
            kills += killed
            if draw.random() < 0.5:  # else the next run of the job is the first that meets what the kill left
                now = fork(partial(stored, here), folder=here).value
                said = said or lost(known.before, now or {}, job, new=known.stored)
        end = fork(partial(all_commands, job, address), folder=here)
        outcome, said = ("lost", said) if said else judged(job, end, here, known=known, address=address)
    shutil.rmtree(here)
    return Attempt(PART, job.name, number, outcome, "; ".join(how), said, time.monotonic() - began, kills)


def _kill_once(
    job: Job, draw: random.Random, *, here: Path, known: Undisturbed, address: str | None
) -> tuple[bool, str]:
    """Run the job and kill it; give whether it was still alive then, and the moment in words."""
    if known.operations and draw.random() < 0.5:
        at = draw.randint(1, known.operations)

        def work() -> int:
            FileOperations(kill_before=at)
            return all_commands(job, address)

        words = f"before operation {at} of {known.operations} on files"
    else:
        after = draw.uniform(0.0, known.seconds * 1.1)

        def work() -> int:
            _kill_later(after)
            return all_commands(job, address)

        words = f"after {after:.3f} of {known.seconds:.3f} s"
    end = fork(work, folder=here)
    return end.signal == signal.SIGKILL, words


def _kill_later(seconds: float) -> None:
    """Kill this process after some time, whatever it does then."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def strike() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=strike, daemon=True).start()


def all_commands(job: Job, address: str | None) -> int:
    """Run the commands of a job in this process; give the first exit code that is not 0."""
    for words in job.commands:
        if code := run(words, before=partial(hub_process.use, address)):
            return code
    return 0


def judged(job: Job, end: Ended, here: Path, *, known: Undisturbed, address: str | None) -> tuple[str, str]:
    """The outcome of a job that was killed and then ran to its end."""
    if end.late:
        return "slow", "the command after the kill does not end"
    if end.error is not None or end.signal:
        return "exception", f"{end.error or end.signal}"
    finished = any(words in end.output for words in DONE_BEFORE)  # the kill came after the end of the work
    if end.value != 0 and not (finished and not differences(_outcome(here, address), known.results)):
        return "lost", f"the same command ends with {end.value}: {end.output[-600:]}"
    now = fork(partial(stored, here), folder=here).value
    if wrong := lost(known.before, now or {}, job, new=known.stored):
        return "lost", wrong
    if wrong := differences(_outcome(here, address), known.results):
        return "silent", wrong
    remains = hidden(here)
    return ("left", ", ".join(remains[:5])) if remains else ("equal", "")


def _outcome(here: Path, address: str | None) -> dict[str, str]:
    """The results of a job: files, and what is on the hub."""
    return results(here) | hub_process.published(address)


def copied(ready: Path, folder: Path) -> Path:
    here = folder / "here"
    shutil.copytree(ready, here)
    return here


def attempts(
    name: str, *, seed: int, ready: Path, folder: Path, numbers: Iterator[int], going: Callable[[], bool]
) -> Iterator[Attempt]:
    """Kill a job again and again, as long as `going`."""
    job = JOBS[name]
    known: Undisturbed | None = None
    for number in numbers:
        if not going():
            return
        known = known or undisturbed(job, ready, folder)
        yield kill(job, number, seed=seed, ready=ready, folder=folder, known=known)
