"""Whether other programs take the cores that torch's threads count on.

On a CPU torch divides every operation among its threads, and all wait for the slowest. One that shares its core with another
program is late every time: with two threads on two cores, one of them busy, a small base's step takes twenty times as long.
"""

import os
import time
from dataclasses import dataclass

import torch

#: seconds over which the cores are watched before anything is said
WATCHED = 20.0
#: where Linux counts what each core has done, in ticks
COUNTS = "/proc/stat"


@dataclass(frozen=True)
class Reading:
    """Seconds: on the clock, of all computing on our cores, of this process's own; and the number of cores."""

    clock: float
    busy: float
    own: float
    cores: int


def reading() -> Reading | None:
    """The counts now; None on a system that does not tell, and with a GPU, where torch's threads matter little."""
    if torch.cuda.is_available():
        return None
    try:
        ours = {f"cpu{n}" for n in os.sched_getaffinity(0)}
        with open(COUNTS, encoding="ascii") as file:
            lines = [fields for line in file if (fields := line.split()) and fields[0] in ours]
        ticks = sum(
            int(n) for fields in lines for place, n in enumerate(fields[1:9]) if place not in (3, 4)
        )  # idle, waiting
    except (AttributeError, OSError, ValueError):
        return None
    if len(lines) != len(ours):  # a container that numbers its cores anew
        return None
    own = sum(os.times()[:4])  # user and system, children that have ended among them
    return Reading(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own, len(lines))


class Crowding:
    """Watches from its making on; `notice()` says it once."""

    def __init__(self) -> None:
        self.before = reading()

    def notice(self) -> str | None:
        """A text for the user, when in the last seconds other programs left fewer cores than torch has threads."""
        if self.before is None or time.monotonic() - self.before.clock < WATCHED:
            return None
        before, self.before = self.before, reading()
        if self.before is None:
            return None
        now, threads = self.before, torch.get_num_threads()
        others = (now.busy - before.busy - (now.own - before.own)) / (now.clock - before.clock)
        if threads < 2 or others < max(now.cores - threads, 0) + max(0.5, 0.05 * now.cores):
            return None
        self.before = None
        return (
            f"Other programs keep {others:.1f} of the {now.cores} cores busy, and torch's {threads} threads wait for each other at "
            f"every operation: that can take many times as long. OMP_NUM_THREADS={max(1, int(now.cores - others))} before the "
            "command avoids it."
        )
