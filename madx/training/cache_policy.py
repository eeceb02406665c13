"""Whether a run keeps the states of its frozen layers, `cache_frozen`: auto, on or off."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from madx.engine import Engine
from madx.engine.activation_cache import GB, ActivationCache, States, beyond_the_row, lowest_layer
from madx.errors import ConfigError
from madx.tasks.base import Task
from madx.training.settings import TrainSettings

log = logging.getLogger("madx")


@contextmanager
def activation_cache(
    engine: Engine, name: str, task: Task, settings: TrainSettings, *, folder: Path | None
) -> Iterator[ActivationCache | None]:
    """Keep the states below the lowest layer in training for the length of a run, where that is right and worth it.

    Raises ConfigError when cache_frozen is on and it cannot be.
    """
    below = lowest_layer(engine.module(name).units, engine.base.depth)
    against = _against(engine, name, task, settings, below)
    if settings.cache_frozen == "on" and against:
        raise ConfigError(f"train.cache_frozen is on, but nothing can be kept: {against} Set it to auto or off.")
    if settings.cache_frozen == "off" or against:
        yield None
        return
    memory, disk = (int(size * GB) for size in (settings.cache_memory_gb, settings.cache_disk_gb))
    states = States(memory=memory, disk=disk, folder=folder)
    log.info("%s: layers 0 to %d stand still; their output is kept for each sentence", name, below - 1)
    with ActivationCache(engine, below=below, states=states).opened() as frozen:
        yield frozen


def _against(engine: Engine, name: str, task: Task, settings: TrainSettings, below: int) -> str:
    """Why states cannot be kept, or nothing."""
    if below == 0:
        return f"the module {name!r} acts in layer 0 or before it, so no layer stands still (its setting leave_out moves it up)."
    if not task.repeats:
        return f"{type(task).__name__} does not read the same ids under the same composition in every epoch."
    if settings.base_dropout:
        return "with train.base_dropout the lower layers give something else each time."
    if sites := beyond_the_row(engine.plan, below):
        return (
            f"at {sites[0]} a module reads other tokens than its own, so a state hangs on the batch it is computed in."
        )
    return ""
