"""What the jobs share: the machine they run on, how they identify themselves, how they speak."""

import ctypes
import logging
import os
import platform
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from pydantic import Field

from madx.base import Base, load_base
from madx.config import Settings
from madx.contract.module_type import ComponentConfig, acts_on_weights
from madx.errors import ConfigError, MadxError
from madx.module.presets import make_components, preset
from madx.store import Store, check_language
from madx.training.precision import choose_precision, to_bf16
from madx.training.settings import TrainSettings

log = logging.getLogger("madx")


class JobSettings(Settings):
    """Settings of every job."""

    base: str = Field(description="Folder or id of the frozen base, e.g. xlm-roberta-base.")
    revision: str | None = Field(default=None, description="Commit, tag or branch of a downloaded base.")
    store: str = Field(default="modules", description="Folder of modules.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to compute.")


def versions() -> dict[str, str]:
    """The versions of everything that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("madx", "torch", "transformers", "accelerate", "tokenizers", "seqeval", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def open_base(settings: JobSettings) -> Base:
    """The base of a job, on its device."""
    base = load_base(settings.base, revision=settings.revision)
    device = pick_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    base.model.to(device)
    return base


def open_training_base(
    settings: JobSettings, train: TrainSettings, *components: dict[str, ComponentConfig]
) -> tuple[Base, TrainSettings]:
    """The base of a training job in its number format, and the loop's settings with the precision that was chosen.

    components: of all modules that will act. With differences of weights among them the base stays in float32.
    """
    base = open_base(settings)
    return base, train.model_copy(update={"precision": bring_to(train.precision, base, *components)})


def bring_to(wanted: str, base: Base, *components: dict[str, ComponentConfig]) -> str:
    """The number format, `fp32` or `bf16`, for a wish and all modules that will act; the base is brought to it, except that
    with differences of weights among them it stays in float32."""
    precision, halved = precision_over(wanted, base, *components)
    if halved:
        to_bf16(base)
    return precision


def precision_over(wanted: str, base: Base, *components: dict[str, ComponentConfig]) -> tuple[str, bool]:
    """What `bring_to` chooses, and whether the base is in bfloat16 then."""
    weights = any(acts_on_weights(component) for each in components for component in each)
    precision = choose_precision(wanted, base.device, width=base.width, weights=weights)
    return precision, precision == "bf16" and not weights


def keep_freed_memory() -> bool:
    """Tell the C library to keep up to 512 MB that were freed, blocks below 32 MB among them, for the next step; whether it
    took it. By default glibc hands such blocks back to the system and gets them anew, page by page, in every step: 6 % of
    a small base's training. Settings of the user's own (MALLOC_..., another allocator) stand."""
    if not sys.platform.startswith("linux") or any(
        k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for k in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3
    return bool(mallopt(m_mmap_threshold, 32 << 20) and mallopt(m_trim_threshold, 512 << 20))


def pick_device(wanted: str) -> torch.device:
    """`auto`: what accelerate gives this process; raises ConfigError when cuda is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but this machine shows no CUDA device; use device auto or cpu.")
    if wanted == "cpu":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            PartialState(cpu=True)  # before anybody asks without cpu=True: the processes then talk by gloo, not NCCL
        return torch.device("cpu")
    return PartialState().device


def check_components(components: str | dict) -> dict[str, ComponentConfig]:
    """The components; raises ConfigError for an unknown preset, module type or setting: before corpora are read, not after."""
    return preset(components) if isinstance(components, str) else make_components(components)


def layered(*layers: dict) -> dict:
    """Settings of several layers as one: a later layer replaces keys of earlier ones, but `train` and `train.sparse` are
    merged key by key.

    >>> layered({"components": "madx", "train": {"warmup": 0.1}}, {"train": {"learning_rate": 0.01}})
    {'components': 'madx', 'train': {'warmup': 0.1, 'learning_rate': 0.01}}
    """
    merged: dict = {}
    for layer in layers:
        for key, value in layer.items():
            both = key in ("train", "sparse") and isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = layered(merged[key], value) if both else value
    return merged


def told_failure(what: str, error: Exception) -> str:
    """Log an error as the failure of `what`, a bug with its traceback; gives its text."""
    known = isinstance(error, MadxError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    log.error("%s failed: %s", what, text)
    if not known:
        log.error("%s", "".join(traceback.format_exception(error)))
    return text


def module_names(store: Store, name: str, seeds: list[int] | None = None) -> dict[int, str]:
    """The stored modules that a task module's name stands for, by seed: `ner` itself, or `ner@1`, `ner@2`, ...; those of the
    given seeds, each of which must be there."""
    stored = store.names()
    if seeds is not None:
        return {seed: store.show(f"{name}@{seed}").name for seed in seeds}  # raises with the nearest name
    if name in stored:
        return {store.show(name).info.training.get("seed", 0): name}
    found = {
        int(n.rpartition("@")[2]): n for n in stored if n.rpartition("@")[0] == name and n.rpartition("@")[2].isdigit()
    }
    if not found:
        store.show(name)  # raises with the nearest name
    return dict(sorted(found.items()))


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return PartialState().is_main_process


def run_folder(given: str | None, default: str) -> Path:
    """The folder of a run's checkpoint, caches and reports."""
    return Path(given) if given else Path("runs") / default


__all__ = [
    "JobSettings",
    "bring_to",
    "check_language",
    "check_components",
    "is_main",
    "layered",
    "module_names",
    "open_base",
    "open_training_base",
    "pick_device",
    "precision_over",
    "run_folder",
    "told_failure",
    "versions",
]
