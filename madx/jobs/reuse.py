"""Identity of a training job: all that decides which weights it ends with; whether a store holds them already.

Two modules are the same when these agree: settings (without paths, names and switches that change nothing learnt), the
sha256 of the data, the base's and the tokenizer's fingerprint, a masked-LM head of `madx train-head`, the seed, the
module under it, and madx's version.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import madx.training
from madx.base import Base
from madx.config import renamed
from madx.contract.module_type import ComponentConfig
from madx.data.text.corpora import find_files, is_dataset
from madx.data.text.files import check_exists, sha256_of
from madx.errors import StoreError
from madx.jobs.common import info_of, is_main, versions, weights_of
from madx.jobs.heads import head_to_use
from madx.jobs.memory import sha256_once
from madx.jobs.settings import JobSettings
from madx.jobs.train_language import TrainLanguage, train_language
from madx.jobs.train_task import TrainTask, train_task
from madx.module import ModuleInfo
from madx.module.components import components_of
from madx.store import Store
from madx.training.run import UNIMPORTANT

log = logging.getLogger("madx")

#: settings that do not change what is learnt, or that (base, data, seed, module under it) are compared by content
NOT_LEARNT = frozenset(
    "name store run cache device resume overwrite progress licence micro_batch base revision corpus data dev "
    "seed seeds language_module".split()
)
#: folders and files of madx whose code decides what is learnt
LEARNING_CODE = (
    "composition",
    "contract",
    "module_types",
    "base",
    "module",
    "engine",
    "training",
    "tasks",
    "data",
    "metrics",
    "*.py",
    "jobs/train_*.py",
    "jobs/train_task",
    "jobs/labelled.py",
    "jobs/memory.py",
    "jobs/heads.py",
)

TrainJob = TrainLanguage | TrainTask


def identity(job: TrainJob, base: Base, *, seed: int, under: str | None = None) -> dict[str, Any]:
    """All that decides what the job learns with this seed.

    under: sha256 of the weights of the language module that a task module is trained over. Where other modules take
    turns with it, add `taking_turns(...)`. Raises DataError for a file that is not there.
    """
    if isinstance(job, TrainLanguage):
        data = file_marks(job.corpus, corpus=True)
        head = head_to_use(base, Store(job.store), job.mlm_head)
    else:
        data = [mark for source in (job.data, job.dev) for mark in file_marks(str(source))]
        head = None
    return {
        "settings": _learnt(job.model_dump(mode="json"), _components(components_of(job.components))),
        "seed": seed,
        "under": under,
        "data": data,
        "madx": versions()["madx"],
        "base": base.fingerprint,
        "tokenizer": base.tokenizer_fingerprint,
    } | ({"mlm_head": head} if head else {})


def taking_turns(store: Store, job: TrainJob) -> dict[str, dict[str, str | None]]:
    """The part of an identity for modules that take turns or are fused in a job (`cycle`, `fuse`), empty if none are:
    `{"cycle": {name: sha256 of the weights, or None for one that is not stored}}`."""
    names = store.names()
    cycle = {m: weights_of(store, m) if m in names else None for m in [*getattr(job, "cycle", []), *job.fuse]}
    return {"cycle": cycle} if cycle else {}


def digest(*what: Any) -> str:
    """Eight characters that stand for some plain data."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def stored(store: Store, name: str, wanted: dict[str, Any], schema: type[JobSettings]) -> bool:
    """True if the store holds a whole module of this name whose own record agrees with the identity `wanted`."""
    try:
        return _recorded(info_of(store, name), schema) == wanted
    except StoreError:
        return False


def train_if_missing(store: Store, job: TrainJob, name: str, wanted: dict[str, Any]) -> bool:
    """Train the module of this name unless the store holds it; gives whether it was trained.

    The folder of the run is named by the identity, so that the checkpoint of another run is no hindrance. Once the
    module
    is stored, its checkpoints are removed: they are three times as large as all that was trained.
    """
    if name in store.names() and (faults := store.faults(name, card=False)):
        log.warning("%s. The module is trained anew.", "; ".join(faults).rstrip("."))
    elif stored(store, name, wanted, type(job)):
        return False
    run = f"{job.run}-{digest(wanted)}"
    if isinstance(job, TrainLanguage):
        train_language(job.model_copy(update={"run": run}))
    else:
        train_task(job.model_copy(update={"run": run}))
    if is_main():
        for file in Path(run).rglob("*.safetensors"):
            with suppress(OSError):
                file.unlink()
    return True


def content_name(kind: str, wanted: dict[str, Any], *, seed: int, under: str | None = None, code: str = "") -> str:
    """A module's name by all that decides what is learnt, as `swa-1a2b3c4d@1`.

    under: the name of the module under it. The names of modules that take turns are among the settings.
    """
    wanted = {key: value for key, value in wanted.items() if key != "cycle"}
    return f"{kind}-{digest(wanted | {'seed': None, 'under': under}, code)}@{seed}"


def source_digest() -> str:
    """Eight characters that stand for the code that decides what is learnt: every file of it, byte for byte."""
    root = Path(madx.training.__file__).parents[1]
    files = sorted(
        {p for part in LEARNING_CODE for p in (root / part).rglob("*.py") if (root / part).is_dir()}
        | {p for part in LEARNING_CODE for p in root.glob(part) if p.is_file()}
    )
    return digest(*(sha256_of(p) for p in files))


def _recorded(info: ModuleInfo, schema: type[JobSettings]) -> dict[str, Any] | None:
    """The identity that a stored module records; None when it was not made by such a job of this version."""
    training = info.training
    try:  # through the schema: a setting of a later version has its default
        recorded = renamed(schema, training["settings"], notice=False)
        settings = schema.model_validate_json(json.dumps(recorded)).model_dump(mode="json")
        data = [entry["sha256"] or entry["path"] for entry in training["data"]]
        cycle = {
            name: training["language_modules"].get(name) for name in [*settings.get("cycle", []), *settings["fuse"]]
        }
        # the component of a fusion was fitted to the modules that it joins, after the settings were given
        components = components_of(settings["components"]) if info.role == "fusion" else info.components
        return {
            "settings": _learnt(settings, _components(components)),
            "seed": training["seed"],
            "under": training.get("language_module"),
            "data": data,
            "madx": training["versions"]["madx"],
            "base": (info.base or {})["fingerprint"],
            "tokenizer": info.tokenizer,
            **({"mlm_head": training["mlm_head"]} if "mlm_head" in training else {}),
        } | ({"cycle": cycle} if cycle else {})
    except (KeyError, TypeError, ValidationError):
        return None


def _learnt(settings: dict[str, Any], components: list[list[Any]]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in NOT_LEARNT} | {"components": components}
    return kept | {"train": {key: value for key, value in kept["train"].items() if key not in UNIMPORTANT}}


def _components(components: dict[str, ComponentConfig]) -> list[list[Any]]:
    """Components in their order with all settings: a preset equals its spelled-out form, and a preset that another
    version changed does not."""
    return [[name, config.model_dump(mode="json")] for name, config in components.items()]


def file_marks(source: str | Sequence[str], *, corpus: bool = False) -> list[str]:
    """The sha256 of each file of a source, a corpus or one file; a data set's name, since its content is elsewhere."""
    if isinstance(source, str) and is_dataset(source):
        return [source]
    files = find_files(source if isinstance(source, str) else list(source)) if corpus else [Path(str(source))]
    for path in files:
        check_exists(path)
    return [sha256_once(path) for path in files]  # many modules of a plan share a corpus
