"""The policy of the activation cache, `train.cache_frozen`: auto, on or off."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from madx.engine.activation_cache import GB, ActivationCache, States, batch_dependent_sites, lowest_layer
from madx.errors import ConfigError
from madx.tasks.base import Task
from madx.training.settings import TrainSettings
from madx.training.trainable import Trainee

log = logging.getLogger("madx")


@contextmanager
def activation_cache(
    trainee: Trainee, task: Task, settings: TrainSettings, *, folder: Path | None
) -> Iterator[ActivationCache | None]:
    """For the length of a run, keep the states that enter the lowest trained layer, where that gives the same results.

    Gives the cache, or None without one; folder: of the file for the states that memory does not hold. Raises
    ConfigError when `cache_frozen` is on and states cannot be kept.
    """
    obstacle = _obstacle(trainee, task, settings)
    if settings.cache_frozen == "on" and obstacle:
        raise ConfigError(f"train.cache_frozen is on, but no states can be cached: {obstacle} Set it to auto or off.")
    if settings.cache_frozen == "off" or obstacle:
        yield None
        return
    below = _lowest_layer(trainee)
    memory, disk = (int(size * GB) for size in (settings.cache_memory_gb, settings.cache_disk_gb))
    states = States(memory=memory, disk=disk, folder=folder)
    log.info("%s: layers 0 to %d are frozen; their output is cached for each sentence", trainee.name, below - 1)
    with ActivationCache(trainee.engine, below=below, states=states).opened() as cache:
        yield cache


def _lowest_layer(trainee: Trainee) -> int:
    return lowest_layer(trainee.module.units, trainee.engine.base.depth)


def _readers_of_states(trainee: Trainee) -> list[str]:
    """The modules of the active composition with a unit that reads the states of all layers, at the encoder."""
    engine = trainee.engine
    at_encoder = {name: engine.module(name).units.get("encoder", {}) for name in engine.composition.names()}
    return [name for name, units in at_encoder.items() if any("states" in unit.reads for unit in units.values())]


def _obstacle(trainee: Trainee, task: Task, settings: TrainSettings) -> str:
    """The reason why states cannot be cached, as a sentence; empty without one."""
    if readers := _readers_of_states(trainee):
        return f"{', '.join(readers)} reads the states of all layers, so every layer is computed."
    below = _lowest_layer(trainee)
    if below == 0:
        return (
            f"the module {trainee.name!r} acts in layer 0 or before it, so no layer below it is frozen (its setting "
            "leave_out moves it up)."
        )
    if not task.repeats:
        return f"{type(task).__name__} does not read the same ids under the same composition in every epoch."
    if settings.base_dropout:
        return "with train.base_dropout the lower layers give another result each time."
    if sites := batch_dependent_sites(trainee.engine.plan, below):
        return f"at {sites[0]} a change depends on padding or on other rows, so a state depends on the batch it is in."
    return ""
