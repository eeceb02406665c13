"""Contention for CPU cores: a notice when other programs take the cores that torch's threads count on.

On a CPU torch divides every operation among its threads, and all of them wait for the slowest one. A thread that
shares its core with another program is late every time: with two threads on two cores, one of which is busy, a step
of a small base takes twenty times as long.
"""

import os
import time
from dataclasses import dataclass

import torch

#: seconds over which the cores are observed before a notice is given
WINDOW = 20.0
#: the file in which Linux counts what each core has done, in ticks
COUNTS = "/proc/stat"
#: columns of it that are no work: idle, and waiting for a disk
IDLE_COLUMNS = (3, 4)


@dataclass(frozen=True)
class CpuTimes:
    """Seconds on the clock, of all work on this process's cores, of this process itself; and the number of cores."""

    clock: float
    busy: float
    own: float
    cores: int


def read_cpu_times() -> CpuTimes | None:
    """The times now; None on a system that does not count them, and with a GPU, where torch's threads matter little."""
    if torch.cuda.is_available():
        return None
    try:
        ours = {f"cpu{n}" for n in os.sched_getaffinity(0)}
        with open(COUNTS, encoding="ascii") as file:
            lines = [fields for line in file if (fields := line.split()) and fields[0] in ours]
        columns = (enumerate(fields[1:9]) for fields in lines)
        ticks = sum(int(count) for row in columns for column, count in row if column not in IDLE_COLUMNS)
    except (AttributeError, OSError, ValueError):
        return None
    if len(lines) != len(ours):  # a container that numbers its cores anew
        return None
    own = sum(os.times()[:4])  # user and system, with those of child processes that have ended
    return CpuTimes(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own, len(lines))


class CpuContention:
    """Observes the cores from its creation on; `notice()` gives one notice at most."""

    def __init__(self) -> None:
        self.before = read_cpu_times()

    def notice(self) -> str | None:
        """A text for the user, when other programs left fewer cores in the last seconds than torch has threads."""
        if self.before is None or time.monotonic() - self.before.clock < WINDOW:
            return None
        before, self.before = self.before, read_cpu_times()
        if self.before is None:
            return None
        now, threads = self.before, torch.get_num_threads()
        others = (now.busy - before.busy - (now.own - before.own)) / (now.clock - before.clock)
        if threads < 2 or others < max(now.cores - threads, 0) + max(0.5, 0.05 * now.cores):
            return None
        self.before = None
        return (
            f"Other programs keep {others:.1f} of the {now.cores} cores busy, and torch's {threads} threads wait for "
            "each other at every operation: that can take many times as long. "
            f"OMP_NUM_THREADS={max(1, int(now.cores - others))} before the command avoids it."
        )
