"""Limits: jobs that may not write, open or allocate as much as they need, and whose output goes nowhere.

A job under a limit ends with a message or completes. What was stored before is whole, and the same command without the
limit ends as if nothing had happened.
"""

import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from campaign import hub_process
from campaign.forks import fork, limit_memory
from campaign.jobs import JOBS, Job, lost, stored
from campaign.kills import Undisturbed, all_commands, copied, judged, undisturbed
from campaign.outcome import Attempt

PART = "limits"
SUBJECTS = list(JOBS)
NOBODY = 65534
MEGABYTE = 1 << 20
#: folders of the campaign that a job may be kept from writing to
FOLDERS = ("modules", "runs", "cache", "results", ".")


def attempts(
    name: str, *, seed: int, ready: Path, folder: Path, numbers: Iterator[int], going: Callable[[], bool]
) -> Iterator[Attempt]:
    """Starve a job again and again, as long as `going`."""
    job = JOBS[name]
    known: Undisturbed | None = None
    for number in numbers:
        if not going():
            return
        known = known or undisturbed(job, ready, folder)
        yield starve(job, number, seed=seed, ready=ready, folder=folder, known=known)


def starve(job: Job, number: int, *, seed: int, ready: Path, folder: Path, known: Undisturbed) -> Attempt:
    """Run a job under a limit, then without it."""
    draw, began = random.Random(f"{seed}/{PART}/{job.name}/{number}"), time.monotonic()
    here = copied(ready, folder)
    how, limit = draw.choice(LIMITS)(draw, here)
    with hub_process.serving(ready if job.hub else None) as address:

        def work() -> int:
            limit()
            return all_commands(job, address)

        end = fork(work, folder=here, timeout=60)
        _writable(here)
        now = fork(partial(stored, here), folder=here).value or {}
        outcome, said = "equal", ""
        if end.late:
            outcome, said = "slow", "no end under the limit"
        elif end.error is not None or end.signal or "Traceback (most recent" in end.output:
            outcome, said = "exception", f"{end.error or end.signal or end.output}"
        elif wrong := lost(known.before, now, job, new=known.stored):
            outcome, said = "lost", wrong
        if outcome == "equal":
            again = fork(partial(all_commands, job, address), folder=here)
            outcome, said = judged(job, again, here, known=known, address=address)
            if outcome == "equal" and end.value != 0:
                outcome = "refused"
    shutil.rmtree(here)
    return Attempt(PART, job.name, number, outcome, how, said[-1500:], time.monotonic() - began)


# ---- limits: (description, what a child does before the job) ---------------------------------------------------------


def _file_size(draw: random.Random, here: Path) -> tuple[str, Callable[[], object]]:
    size = draw.choice((0, draw.randrange(2_000), draw.randrange(60_000), draw.randrange(400_000)))
    return f"files of {size} bytes at most", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _open_files(draw: random.Random, here: Path) -> tuple[str, Callable[[], object]]:
    more = draw.randrange(8)

    def limit() -> None:
        count = max(map(int, os.listdir("/proc/self/fd"))) + 1 + more
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    return f"{more} more open files at most", limit


def _memory(draw: random.Random, here: Path) -> tuple[str, Callable[[], object]]:
    room = draw.choice((0, 1, 4, 16, 40, 80, 150)) * MEGABYTE + draw.randrange(MEGABYTE)
    return f"{room:,} more bytes of memory at most", partial(limit_memory, room)


def _read_only(draw: random.Random, here: Path) -> tuple[str, Callable[[], object]]:
    """A folder that may not be written, for a user who is not root."""
    name = draw.choice(FOLDERS)
    (here / name).mkdir(exist_ok=True)
    for path in (here, *here.rglob("*")):
        os.chmod(path, 0o777)
    inside = (here / name, *(p for p in (here / name).rglob("*") if name != "." and p.is_dir()))
    for path in inside:
        os.chmod(path, 0o555)

    def limit() -> None:
        os.environ["HOME"] = str(here)
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    return f"the folder {name!r} is read-only", limit


def _output(draw: random.Random, here: Path) -> tuple[str, Callable[[], object]]:
    way = draw.choice(("/dev/full", "closed", "broken pipe"))

    def limit() -> None:
        if way == "closed":
            os.close(1)
            sys.stdout = None  # as Python itself does when it starts so
            return
        if way == "broken pipe":
            out, into = os.pipe()
            os.close(out)
        else:
            into = os.open(way, os.O_WRONLY)
        os.dup2(into, 1)

    return f"stdout is {way}", limit


def _no_folder(draw: random.Random, here: Path) -> tuple[str, Callable[[], object]]:
    """The current folder is gone, as after `rm -r` in another window."""

    def limit() -> None:
        gone = here / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    return "the current folder is deleted", limit


LIMITS = (_file_size, _file_size, _open_files, _memory, _read_only, _read_only, _output, _no_folder)


def _writable(here: Path) -> None:
    for path in (here, *here.rglob("*")):
        if not path.is_symlink():
            os.chmod(path, 0o777 if path.is_dir() else 0o666)
