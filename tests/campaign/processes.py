"""Many processes on one store: they save, load, list and verify at once; afterwards every module is whole.

All weights of a module that one of them saves are one number, which tells whose it is; so a mixture of two is seen.
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import store_tools
import torch
from tiny_files import write_corpus

from campaign.forks import fork
from campaign.outcome import Attempt
from campaign.subjects.stored import small_base
from madx.data.text.blocks import pack_corpus
from madx.errors import MadxError
from madx.store import Store

PART = "processes"
SUBJECTS = ["one store", "one cache"]
NAMES = ("swa", "yor", "hau", "eng", "amh")
ACTIONS = 6  # of each process
COUNT = 64  # processes


def attempts(
    name: str, *, seed: int, ready: Path, folder: Path, numbers: Iterator[int], going: Callable[[], bool]
) -> Iterator[Attempt]:
    """Crowd a store or a cache again and again, as long as `going`."""
    crowd = CROWDS[name]
    for number in numbers:
        if not going():
            return
        began, here = time.monotonic(), folder / "here"
        here.mkdir()
        end = fork(partial(crowd, here, number, seed, COUNT), folder=here, timeout=300)
        outcome, said = ("exception", f"{end.error or end.signal}") if end.value is None else end.value
        shutil.rmtree(here)
        yield Attempt(PART, name, number, outcome, f"{COUNT} processes", said[-1500:], time.monotonic() - began)


def _together(work: Callable[[int], Any], count: int) -> list[Any]:
    """Do the work in many processes at once; give what each returned, or the text of its error."""
    children = []
    for index in range(count):
        here, there = Pipe(duplex=False)
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                try:
                    there.send(work(index))
                except BaseException as error:
                    there.send(f"{type(error).__name__}: {error}")
            os._exit(0)
        there.close()
        children.append((child, here))
    found = []
    for child, here in children:
        try:
            found.append(here.recv())
        except EOFError:
            found.append("died without a word")
        os.waitpid(child, 0)
    return found


def _filled(name: str, value: float) -> Any:
    module = store_tools.module(small_base(), name, "pfeiffer")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module


def _value(store: Store, name: str) -> float:
    """The number that a stored module is filled with. Raises RuntimeError for a mixture."""
    values = {float(v) for tensor in store.load(name, small_base()).tensors().values() for v in tensor.unique()}
    if len(values) != 1:
        raise RuntimeError(f"{name} is a mixture of {sorted(values)}")
    return values.pop()


def _crowd_store(here: Path, number: int, seed: int, count: int) -> tuple[str, str]:
    store = Store(here / "modules")
    for name in NAMES:
        store.save(_filled(name, -1.0))

    def work(index: int) -> list[tuple[str, float]] | str:
        draw, saved, mine = random.Random(f"{seed}/{PART}/{number}/{index}"), [], Store(here / "modules")
        for step in range(ACTIONS):
            name, value = draw.choice(NAMES), float(index * ACTIONS + step)
            action = draw.choice(("save", "save", "load", "load", "list", "verify"))
            if action == "save":
                mine.save(_filled(name, value), overwrite=True)
                saved.append((name, value))
            elif action == "load":
                _value(mine, name)
            elif action == "list":
                rows = mine.list()
                if [row.name for row in rows] != sorted(NAMES) or any(row.fault for row in rows):
                    return f"listed: {[(row.name, row.fault) for row in rows]}"
            elif faults := mine.verify(name):
                return f"verified: {faults}"
        return saved

    found = _together(work, count)
    if wrong := [each for each in found if isinstance(each, str)]:
        return _kind(wrong), "; ".join(wrong[:3])
    written = {name: {-1.0} | {v for saved in found for n, v in saved if n == name} for name in NAMES}
    faults = store.verify(base=small_base())
    faults += [name for name in NAMES if name not in store.names() or _value(store, name) not in written[name]]
    if faults:
        return "lost", "; ".join(faults)
    remains = store_tools.hidden(store.root)
    return ("left", ", ".join(remains)) if remains else ("equal", "")


def _crowd_cache(here: Path, number: int, seed: int, count: int) -> tuple[str, str]:
    """All processes pack one corpus at once; each gets the same blocks."""
    corpus, tokenizer = write_corpus(here / "swa.txt", lines=60, seed=seed + number), small_base().tokenizer

    def work(index: int) -> tuple[bytes, bytes] | str:
        try:
            blocks = pack_corpus(corpus, tokenizer, block_size=16, cache=here / "cache", refresh=index % 8 == 0)
        except MadxError as error:
            return f"MadxError: {error}"
        return blocks.train[:].tobytes(), blocks.held_out[:].tobytes()

    found = _together(work, count // 2)
    if wrong := [each for each in found if isinstance(each, str)]:
        return _kind(wrong), "; ".join(wrong[:3])
    if len(set(found)) != 1:
        return "silent", f"{len(set(found))} different sets of blocks"
    remains = [str(p) for p in (here / "cache").rglob(".*")]
    return ("left", ", ".join(remains)) if remains else ("equal", "")


def _kind(wrong: list[str]) -> str:
    """A refusal of one of the processes is a module or a cache that it could not have: lost to it."""
    return (
        "lost"
        if all("Error: " not in each or "StoreError" in each or "MadxError" in each for each in wrong)
        else ("exception")
    )


CROWDS = dict(zip(SUBJECTS, (_crowd_store, _crowd_cache)))
