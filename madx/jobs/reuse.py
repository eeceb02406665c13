"""What decides which weights a training job ends with; whether a store holds them already; a run folder of their own.

Two modules are the same when these agree: settings (not paths, names or switches that change nothing learnt), the sha256
of the data, the base's and the tokenizer's fingerprint, the seed, the module under it, and madx's version.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

import madx.training
from madx.base import Base
from madx.config import renamed
from madx.contract.module_type import ComponentConfig
from madx.data.text.corpora import check_exists, find_files, is_dataset, sha256_of
from madx.errors import StoreError
from madx.jobs.common import JobSettings, check_components, is_main, versions
from madx.jobs.train_language import TrainLanguage, train_language
from madx.jobs.train_task import TrainTask, train_task
from madx.module import ModuleInfo
from madx.store import Store
from madx.training.run import UNIMPORTANT

#: settings that do not change what is learnt, or (base, data, seed, module under it) are compared by content
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
    "*.py",
    "jobs/train_*.py",
)


def identity(job: TrainLanguage | TrainTask, base: Base, *, seed: int, under: str | None = None) -> dict:
    """Everything that decides what the job learns with this seed; `under`: sha256 of the weights of the language module
    that a task module is trained over. Where others take turns with it: | `taking_turns(...)`. Raises DataError for a file
    that is not there."""
    corpus = isinstance(job, TrainLanguage)
    sources = [job.corpus] if corpus else [job.data, job.dev]
    return {
        "settings": _learnt(job.model_dump(mode="json"), _components(check_components(job.components))),
        "seed": seed,
        "under": under,
        "data": [mark for source in sources for mark in file_marks(source, corpus=corpus)],
        "madx": versions()["madx"],
        "base": base.fingerprint,
        "tokenizer": base.tokenizer_fingerprint,
    }


def taking_turns(store: Store, job: TrainLanguage | TrainTask) -> dict[str, dict[str, str | None]]:
    """What an identity says of the modules that take turns in a job, if any do: cycle, by name the sha256 of the weights;
    None for one that is not stored."""
    names = store.names()
    cycle = {m: store.show(m).weights.sha256 if m in names else None for m in getattr(job, "cycle", [])}
    return {"cycle": cycle} if cycle else {}


def digest(*what) -> str:
    """Eight characters that stand for some plain data."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def stored(store: Store, name: str, wanted: dict, schema: type[JobSettings]) -> bool:
    """Whether the store holds a whole module of this name whose own record says the same as `wanted`."""
    try:
        return _recorded(store.show(name).info, schema) == wanted
    except StoreError:
        return False


def train_if_missing(store: Store, job: TrainLanguage | TrainTask, name: str, wanted: dict) -> bool:
    """Have the store hold the module of this name; gives whether it had to be trained for that.

    The run folder is one for what is learnt, so that the checkpoint of another run is no hindrance. Once the module is
    stored, the checkpoints go: they are as large as all that moved, three times over."""
    if stored(store, name, wanted, type(job)):
        return False
    job = job.model_copy(update={"run": f"{job.run}-{digest(wanted)}"})
    train_language(job) if isinstance(job, TrainLanguage) else train_task(job)
    if is_main():
        for file in Path(job.run).rglob("*.safetensors"):
            with suppress(OSError):
                file.unlink()
    return True


def content_name(kind: str, wanted: dict, *, seed: int, under: str | None = None, code: str = "") -> str:
    """`swa-1a2b3c4d@1`: a name by all that decides what is learnt; `under`: the name of the module under it. (The names of those
    that take turns are settings.)"""
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


def _recorded(info: ModuleInfo, schema: type[JobSettings]) -> dict | None:
    """The identity that a stored module records of itself; None when it was not made by such a job of this madx."""
    training = info.training
    try:  # through the schema: a setting that came later has its default
        recorded = renamed(schema, training["settings"], notice=False)
        settings = schema.model_validate_json(json.dumps(recorded)).model_dump(mode="json")
        data = [entry["sha256"] or entry["path"] for entry in training["data"]]
        cycle = {name: training["language_modules"].get(name) for name in settings.get("cycle", [])}
        return {
            "settings": _learnt(settings, _components(info.components)),
            "seed": training["seed"],
            "under": training.get("language_module"),
            "data": data,
            "madx": training["versions"]["madx"],
            "base": info.base["fingerprint"],
            "tokenizer": info.tokenizer,
        } | ({"cycle": cycle} if cycle else {})
    except (KeyError, TypeError, ValidationError):
        return None


def _learnt(settings: dict, components: list) -> dict:
    kept = {key: value for key, value in settings.items() if key not in NOT_LEARNT} | {"components": components}
    return kept | {"train": {key: value for key, value in kept["train"].items() if key not in UNIMPORTANT}}


def _components(components: dict[str, ComponentConfig]) -> list:
    """Components in their order, settings written out: a preset and its spelled-out form are the same, a preset that changed is
    not."""
    return [[name, config.model_dump(mode="json")] for name, config in components.items()]


def file_marks(source: str | Sequence[str], *, corpus: bool = False) -> list[str]:
    """sha256 of each file of a source, a corpus or one file; a data set's name, since its content is elsewhere."""
    if is_dataset(source):
        return [source]
    files = find_files(source) if corpus else [Path(source)]
    for path in files:
        check_exists(path)
    return [_sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Of the bytes of a file, read once: many modules of a plan share a corpus."""
    return sha256_of(path)
