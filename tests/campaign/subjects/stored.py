"""Stored modules: record, weights, card."""

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import store_tools
import tiny

from campaign.subjects.subject import Subject, digest
from madx.base import Base
from madx.interop.hub.place import Place
from madx.interop.hub.upload import published_files
from madx.store import LAYOUT, Store

VERSION1 = Path(__file__).parents[2] / "fixtures" / "v1"


@lru_cache
def small_base() -> Base:
    """A base of one layer, on which a read takes milliseconds."""
    return tiny.base(num_hidden_layers=1)


def _make(folder: Path) -> None:
    store, base = Store(folder / "modules"), small_base()
    module, task = store_tools.module(base), store_tools.task(base)
    module.info.training = dict(store_tools.TRAINING)
    store.save(module)
    store.save(task)
    store.save(store_tools.module(base, "whole", "pfeiffer"))


def value_of(name: str, store: Store, base: Base) -> str:
    """All that a user gets from a stored module."""
    module, info = store.load(name, base), store.show(name).info
    fields = [module.name, module.info.role, module.info.language, module.info.task, list(module.info.labels)]
    components = {key: config.model_dump(mode="json") for key, config in module.info.components.items()}
    return digest(module.tensors(), fields, components, info.training, info.licence, info.base, module.info.tokenizer)


def _read(folder: Path) -> list[str]:
    """Both modules; the one beside them must be seen whole, whatever was done to them."""
    store, base = Store(folder / "modules"), small_base()
    beside = [row for row in store.list() if row.name == "whole"]
    if len(beside) != 1 or beside[0].fault:
        raise RuntimeError(f"a damaged module hides another one: {store.list()}")
    store.verify()
    return [value_of(name, store, base) for name in ("ner", "swa")]


def _mend(folder: Path) -> None:
    """Give each record that still is a JSON object the checksum of what it holds."""
    for file in folder.glob("modules/*/module.json"):
        try:
            file.write_text(json.dumps(store_tools.mended(json.loads(file.read_text()))))
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue


def _make_old(folder: Path) -> None:
    shutil.copytree(VERSION1, folder / "modules", ignore=shutil.ignore_patterns("outputs*"))


@lru_cache
def _fixed_base() -> Base:
    return tiny.fixed_base()


def _read_old(folder: Path) -> list[str]:
    store = Store(folder / "modules")
    store.list()
    return [value_of(name, store, _fixed_base()) for name in ("ner", "swa")]


def _read_card(folder: Path) -> Any:
    manifest, data, card = Store(folder / "modules").read("swa")
    files = published_files(manifest, data, card, place=Place.parse("juma/swa"), licence="MIT")
    return digest(files[LAYOUT.card])


SUBJECTS = (
    Subject("module.json", "records", _make, _read, ("modules/[ns]*/module.json",), checked=True),
    Subject("module.json, checksum mended", "records", _make, _read, ("modules/[ns]*/module.json",), mend=_mend),
    Subject("weights.safetensors", "records", _make, _read, ("modules/[ns]*/*.safetensors",), checked=True),
    Subject("README.md of a module", "records", _make, _read_card, ("modules/swa/README.md",)),
    Subject("module of 0.1.0", "records", _make_old, _read_old, ("modules/*/*.json", "modules/*/*.safetensors")),
)
