"""Run the campaign: `python -m campaign`, with the folder `tests` and the checkout on the path; see `make campaign`."""

import argparse
import itertools
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from campaign import hub, kills, limits, mutations, outside_text, processes
from campaign.commands import warm_up
from campaign.forks import Child
from campaign.jobs import write_settings
from campaign.outcome import FAULTS, Attempt, Tally
from campaign.table import as_json, table, write

PARTS = {part.PART: part for part in (kills, mutations, processes, limits, hub, outside_text)}
#: part -> its share of the time
SHARES = dict(zip(PARTS, (0.3, 0.4, 0.04, 0.1, 0.04, 0.12)))
#: part -> its subjects, in order
SUBJECTS: dict[str, list[str]] = {name: part.SUBJECTS for name, part in PARTS.items()}
#: a few of each kind, for the tests: they take seconds
SLICE = {
    "kills": ["train-language", "train-language, overwrite", "evaluate", "modules import"],
    "mutations": ["module.json", "weights.safetensors", "corpus swa.txt.gz", "compositions", "composable-sft"],
    "processes": ["one store"],
    "limits": ["train-language, overwrite"],
    "hub": ["pull"],
    "outside text": ["base", "composition"],
}


@dataclass(frozen=True)
class Plan:
    """The parts and subjects of a campaign.

    seconds: for all of it, at most. each: attempts of each subject, in place of a share of the time. numbers: the
    attempts that are repeated, if it is a repetition.
    """

    seed: int
    seconds: float
    workers: int
    subjects: dict[str, list[str]]
    each: int | None = None
    number: int | None = None

    def numbers(self, worker: int) -> Iterator[int]:
        """The numbers of the attempts of one worker at one subject."""
        if self.number is not None:
            return iter([self.number] if worker == 0 else [])
        return itertools.islice(itertools.count(worker, self.workers), self.each)

    def time_of(self, part: str) -> float:
        """The seconds that a part has at most."""
        if self.each or self.number is not None:
            return self.seconds
        return self.seconds * SHARES[part] / sum(SHARES[name] for name in self.subjects)


def run_part(part: str, plan: Plan, worker: int, *, ready: Path, folder: Path) -> Iterator[Attempt]:
    """Yield the attempts of one worker at a part.

    Each subject has an equal share of the time, and what those before it left of theirs.
    """
    names, began, seconds = plan.subjects[part], time.monotonic(), plan.time_of(part)
    for index, name in enumerate(names, start=1):
        until = began + (seconds if plan.each else seconds * index / len(names))
        yield from PARTS[part].attempts(
            name,
            seed=plan.seed,
            ready=ready,
            folder=folder,
            numbers=plan.numbers(worker),
            going=lambda until=until: time.monotonic() < until,
        )


def run_worker(send: Callable[[object], None], plan: Plan, worker: int, *, ready: Path, folder: Path) -> str:
    """Do all parts, and send every attempt."""
    for part in plan.subjects:
        folder.mkdir()
        os.chmod(folder, 0o755)
        for sent in run_part(part, plan, worker, ready=ready, folder=folder):
            send(sent)
        shutil.rmtree(folder)
        send(part)
    return "done"


def campaign(plan: Plan, folder: Path) -> Tally:
    """Run all workers side by side; give the counts. Raises RuntimeError if the campaign itself breaks."""
    warm_up(folder)
    ready = folder / "ready"
    write_settings(ready)
    tally = Tally()
    children = {}
    for worker in range(plan.workers):
        mine = folder / f"w{worker}"
        child = Child(lambda send, w=worker, f=mine: run_worker(send, plan, w, ready=ready, folder=f), folder=folder)
        children[child.connection] = child
    while children:
        for connection in wait(list(children)):
            child = children[connection]
            try:
                for sent in child.receive():
                    _count(tally, sent)
            except EOFError:
                del children[connection]
                end = child.end()
                if end.value != "done":
                    raise RuntimeError(
                        f"a worker ended with {end.error or end.signal}:\n{end.output[-3000:]}"
                    ) from None
    return tally


def _count(tally: Tally, sent: object) -> None:
    if isinstance(sent, Attempt):
        tally.add(sent)
        return
    total = tally.total(str(sent))
    faults = sum(count for outcome, count in total.items() if outcome in FAULTS)
    print(f"{sent}: {total.total():,} attempts so far, {faults:,} faults", flush=True)


def plan_of(arguments: Sequence[str]) -> tuple[Plan, Path]:
    """The plan that the command line asks for, and the folder of its results."""
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0, help="time for all of it (default: 1200)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices (default: 1)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--part", choices=list(SHARES), action="append", help="only this part; repeatable")
    parser.add_argument("--only", help="only the subject of this name")
    parser.add_argument("--each", type=int, help="so many attempts of each subject, in place of shares of the time")
    parser.add_argument("--number", type=int, help="repeat the attempt of this number; with --part and --only")
    parser.add_argument("--slice", action="store_true", help="a few subjects of each part, as the tests take")
    parser.add_argument("--out", type=Path, default=Path("runs/campaign"), help="folder of the results")
    given = parser.parse_args(arguments)
    chosen = SLICE if given.slice else SUBJECTS
    subjects = {part: names for part, names in chosen.items() if given.part is None or part in given.part}
    if given.only is not None:
        subjects = {part: [given.only] for part, names in subjects.items() if given.only in names}
    if not subjects:
        known = "\n".join(f"{part}: {'; '.join(names)}" for part, names in SUBJECTS.items())
        parser.error(f"no subject {given.only!r}; known:\n{known}")
    plan = Plan(given.seed, given.seconds, max(1, given.workers), subjects, given.each, given.number)
    return plan, given.out


def main(arguments: Sequence[str]) -> int:
    """Run a campaign, print its table, write its JSON; give 1 if there is any fault."""
    plan, out = plan_of(arguments)
    logging.disable(logging.INFO)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="madx-campaign-"))
    os.chmod(folder, 0o755)  # a job that runs as another user must reach its files
    os.environ["MADX_CACHE"] = str(folder / "cache")
    try:
        tally = campaign(plan, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    text = table(tally, seed=plan.seed, seconds=seconds)
    print(text)
    print(f"written: {write(as_json(tally, seed=plan.seed, seconds=seconds), text, out)}")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
