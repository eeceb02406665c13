"""Pulls from a hub that lies: each ends with the module as it was published, or with a refusal that changes nothing.

Nothing may be written outside the store and the library's cache.
"""

import random
import resource
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import store_tools

from campaign import hub_process
from campaign.forks import GIGABYTE, fork, limit_memory, of_memory
from campaign.hostile_hub import HostileHub
from campaign.outcome import Attempt
from campaign.subjects.stored import small_base
from madx.errors import MadxError
from madx.interop.hub.hub import Hub
from madx.store import Store

PART = "hub"
SUBJECTS = ["pull"]
MUCH = 100 << 20  # bytes that are fetched of a module of a few kilobytes
HANGS = 60.0


def attempts(
    name: str, *, seed: int, ready: Path, folder: Path, numbers: Iterator[int], going: Callable[[], bool]
) -> Iterator[Attempt]:
    """Pull from a hostile hub again and again, as long as `going`."""
    published = _published(folder)
    for number in numbers:
        if not going():
            return
        draw, here, began = random.Random(f"{seed}/{PART}/{number}"), folder / "a" / "b" / "here", time.monotonic()
        shutil.rmtree(folder / "a", ignore_errors=True)
        shutil.copytree(published, here / "modules")
        (here / "modules" / "swa").rename(here / "published")
        end = fork(lambda draw=draw: _pull(draw), folder=here, timeout=HANGS)
        how, outcome, said = end.value or ("", "exception", f"{end.error or end.signal} {end.output[-500:]}")
        if end.late:
            outcome, said = "slow", "no end"
        outside = [str(p) for p in folder.rglob("*") if not p.is_relative_to(here) and here not in (p, *p.parents)]
        outside = [p for p in outside if Path(p) not in here.parents and not p.startswith(str(published))]
        outside += [str(p) for p in here.iterdir() if p.name not in ("modules", "published", "original", "hub-cache")]
        if outside:
            outcome, said = "lost", f"written outside: {outside[:5]}"
        yield Attempt(PART, name, number, outcome, how, said[-1500:], time.monotonic() - began)


def _published(folder: Path) -> Path:
    """A store with the module that is published, and another one."""

    def make() -> bool:
        store = Store("published")
        store.save(store_tools.module(small_base(), "swa", "pfeiffer"))
        store.save(store_tools.module(small_base(), "whole", "pfeiffer", seed=1))
        return True

    if not (folder / "published").exists() and not fork(make, folder=folder).value:
        raise RuntimeError("the module to publish cannot be made")
    return folder / "published"


def _pull(draw: random.Random) -> tuple[str, str, str]:
    """Publish, pull and judge, in a child; give what was wrong with the hub, the outcome, and what was said."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (GIGABYTE, GIGABYTE))
    time.sleep = lambda seconds: None  # the library waits half a minute between its trials
    hub = HostileHub(draw)
    hub.put(hub_process.THERE, {p.name: p.read_bytes() for p in sorted(Path("published").iterdir())})
    hub.thread.start()
    hub_process.use(hub.url)
    client, store = Hub(endpoint=hub.url), Store("modules")
    if draw.random() < 0.5:  # the true files are in the cache already
        hub.traits, kept = {}, hub.traits
        client.pull(hub_process.THERE, store, name="first")
        hub.traits = kept
        store.remove("first")
    before = _content(store)
    limit_memory()
    try:
        client.pull(hub_process.THERE, store)
    except MadxError as error:
        outcome, said = ("big", str(error)) if of_memory(error) else ("refused", "")
        if _content(store) != before:
            outcome, said = "lost", f"refused, but the store is changed: {error}"
    except BaseException as error:
        outcome, said = "big" if of_memory(error) else "exception", traceback.format_exc()
    else:
        shutil.copytree("published", "original/swa")
        same = _acts(store) == _acts(Store("original"))
        outcome, said = ("equal", "") if same else ("silent", "other weights than those that were published")
    if hub.sent > MUCH:
        outcome, said = "big", f"{hub.sent:,} bytes were taken of an endless body"
    return hub.how, outcome, said


def _acts(store: Store) -> tuple:
    """All of the stored module swa that decides what it does."""
    module = store.load("swa", small_base())
    return {name: tensor.tolist() for name, tensor in module.tensors().items()}, module.info.role, module.info.labels


def _content(store: Store) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(store.root.rglob("*")) if p.is_file()}
