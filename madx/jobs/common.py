"""Parts that the jobs share: the base on its device, names of modules in the store, run folders, versions."""

import ctypes
import logging
import os
import platform
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from madx.base import Base, load_base
from madx.contract.module_type import ComponentConfig, acts_on_weights
from madx.errors import ConfigError, MadxError, StoreError
from madx.files.places import user_path
from madx.files.writing import check_folder
from madx.jobs.settings import JobSettings
from madx.module import ModuleInfo
from madx.store import Store
from madx.training.precision import choose_precision, to_bf16
from madx.training.settings import TrainSettings
from madx.version import __version__

log = logging.getLogger("madx")

#: packages on which a result may depend
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """The versions of Python and of every package that a result depends on."""
    found = {"python": platform.python_version(), "madx": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


# ---- the base --------------------------------------------------------------------------------------------------------


def open_base(settings: JobSettings) -> Base:
    """Load the base of a job onto its device."""
    base = load_base(settings.base, revision=settings.revision)
    device = pick_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    base.to(device)
    return base


def open_training_base(
    settings: JobSettings, train: TrainSettings, *components: dict[str, ComponentConfig]
) -> tuple[Base, TrainSettings]:
    """Load the base of a training job in its number format; gives it with the loop's settings, precision chosen.

    components: those of all modules that will act. With weight deltas among them the base stays in float32.
    """
    base = open_base(settings)
    return base, train.model_copy(update={"precision": bring_to(train.precision, base, *components)})


def bring_to(wanted: str, base: Base, *components: dict[str, ComponentConfig]) -> str:
    """Bring the base to the number format of a setting `precision`; gives the format, `fp32` or `bf16`.

    components: those of all modules that will act. With weight deltas among them the base stays in float32.
    """
    precision, halved = precision_over(wanted, base, *components)
    if halved:
        to_bf16(base)
    return precision


def precision_over(wanted: str, base: Base, *components: dict[str, ComponentConfig]) -> tuple[str, bool]:
    """The format that `bring_to` chooses, and whether it puts the base into bfloat16."""
    weights = any(acts_on_weights(component) for each in components for component in each)
    precision = choose_precision(wanted, base.device, width=base.width, weights=weights)
    return precision, precision == "bf16" and not weights


def keep_freed_memory() -> bool:
    """Tell the C library to keep up to 512 MB of freed memory, blocks below 32 MB, for the next step; gives whether it
    did.

    By default glibc returns such blocks to the system and gets them anew, page by page, in every step: 6 % of the time
    of a small base's training. The user's own settings (MALLOC_..., another allocator) are left alone.
    """
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
    """The device of a setting; `auto` is what accelerate gives this process.

    Raises ConfigError for cuda without a GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but this machine shows no CUDA device; use device auto or cpu.")
    if wanted == "cpu":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            PartialState(cpu=True)  # before anybody asks without cpu=True: the processes then talk by gloo, not NCCL
        return torch.device("cpu")
    return PartialState().device


def is_main() -> bool:
    """True in the process that prints and writes, the first of several."""
    return PartialState().is_main_process


# ---- the store -------------------------------------------------------------------------------------------------------


def info_of(store: Store, name: str) -> ModuleInfo:
    """The record of a stored module. Raises StoreError for one that is missing (with the nearest name) or damaged."""
    info = store.show(name).info
    if info is None:
        raise StoreError(f"The module {name!r} in {store.root} cannot be read.")
    return info


def weights_of(store: Store, name: str) -> str:
    """The sha256 of a stored module's weights. Raises StoreError as `info_of` does."""
    weights = store.show(name).weights
    if weights is None:
        raise StoreError(f"The weights of the module {name!r} in {store.root} cannot be read.")
    return weights.sha256


def require_language_modules(store: Store, names: Iterable[str]) -> None:
    """Raise ConfigError for a stored module that is to lie under a task module and is no language module itself.

    Raises StoreError for one that is missing, with the nearest name, or damaged.
    """
    for name in dict.fromkeys(names):
        info = info_of(store, name)
        role = info.role
        if role != "language" and not (role == "fusion" and not info.labels):  # that fuses language modules
            raise ConfigError(
                f"The module {name!r} has the role {role} and cannot stand in a language's place, below the task "
                "module. Name a language module; `madx modules list` shows the roles."
            )


def module_names(store: Store, name: str, seeds: list[int] | None = None) -> dict[int, str]:
    """The stored modules that a task module's name stands for, by seed: `ner` itself, or `ner@1`, `ner@2`, ...

    seeds: these alone, each of which must be there. Raises StoreError with the nearest name where there is none.
    """
    stored = store.names()
    if seeds is not None:
        return {seed: store.show(f"{name}@{seed}").name for seed in seeds}
    if name in stored:
        return {info_of(store, name).training.get("seed", 0): name}
    found = {
        int(n.rpartition("@")[2]): n for n in stored if n.rpartition("@")[0] == name and n.rpartition("@")[2].isdigit()
    }
    if not found:
        store.show(name)  # raises with the nearest name
    return dict(sorted(found.items()))


# ---- settings, folders, failures -------------------------------------------------------------------------------------


def layered(*layers: dict[str, Any]) -> dict[str, Any]:
    """Merge layers of settings: a later layer replaces keys of earlier ones, but `train` and `train.sparse` key by key.

    >>> layered({"components": "madx", "train": {"warmup": 0.1}}, {"train": {"learning_rate": 0.01}})
    {'components': 'madx', 'train': {'warmup': 0.1, 'learning_rate': 0.01}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = key in ("train", "sparse") and isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = layered(merged[key], value) if both else value
    return merged


def run_folder(given: str | None, default: str) -> Path:
    """The folder of a run's checkpoint, caches and reports."""
    return user_path(given) if given else Path("runs") / default


def check_folders(*folders: Path) -> None:
    """Raise MadxError, before hours of work, for a folder of results that cannot be made or written to."""
    for folder in folders:
        check_folder(folder, "results")


@contextmanager
def kept_in_checkpoints() -> Iterator[None]:
    """Say, where a trained module cannot be stored, that the training itself is not lost."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{error} The training is kept in its run's folder: the same command stores it.") from error


def told_failure(what: str, error: Exception) -> str:
    """Log an error as the failure of `what`, with a traceback unless it is a MadxError; gives its text."""
    known = isinstance(error, MadxError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    log.error("%s failed: %s", what, text)
    if not known:
        log.error("%s", "".join(traceback.format_exception(error)))
    return text
