"""The part of a config that says where files come from: their name and version, and the base that they name."""

from pathlib import Path
from typing import Any

from madx.base import Base
from madx.errors import StoreError
from madx.interop.matching import require_same_base, same_base_name


def check_texts(full: dict[str, Any], path: Path) -> None:
    """Raise StoreError for a key that shall hold a text and does not."""
    for key in ("name", "type", "model_name", "model_type", "model_class"):
        if not isinstance(full.get(key), str | None):
            raise StoreError(f"{path}: {key!r} is a {type(full[key]).__name__}; a text is expected.")


def compare_base(full: dict[str, Any], base: Base, allow_mismatch: bool) -> list[tuple[str, str]]:
    """Notes on what could not be compared. Raises BaseError if the config names another base."""
    shape, other = [], []
    if full.get("hidden_size") is not None and full["hidden_size"] != base.width:
        shape.append(f"width: adapter {str(full['hidden_size'])[:40]}, base {base.width}")
    if full.get("model_type") is not None and full["model_type"] != base.config.model_type:
        other.append(f"model type: adapter {full['model_type'][:40]}, base {base.config.model_type}")
    made_for = full.get("model_name")
    if made_for and not same_base_name(made_for, base.name):
        other.append(f"name: adapter {made_for[:120]}, base {base.name}")
    require_same_base(shape, other, base=base, allow_mismatch=allow_mismatch)
    if made_for:
        return [(f"model_name {made_for[:120]!r}", "compared by name only: the format has no fingerprint of its base")]
    return [("model_name (empty)", "the files do not name the base they were made for; only shapes were compared")]


def origin(full: dict[str, Any]) -> dict[str, str]:
    """The record of where a module came from."""
    keys = ("name", "version", "model_name", "model_class", "model_type")
    return {"format": "adapterhub"} | {k: full[k][:200] for k in keys if isinstance(full.get(k), str)}


def source_of(full: dict[str, Any]) -> str:
    """Name and version that the files give themselves, for a report."""
    version = full.get("version") or "before 1.0"
    made_for = f", made for {full['model_name']}" if full.get("model_name") else ""
    return f"{str(full.get('name'))[:60]!r} ({version}{made_for})"


def settings_of(config: Any) -> str:
    """The settings of a component that are not defaults, for a report."""
    changed = config.model_dump(exclude_defaults=True)
    return ", ".join(f"{k}={v!r}" for k, v in changed.items()) or "defaults"
