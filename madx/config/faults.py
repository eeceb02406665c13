"""Faults of settings in words: where each is, what came, and what is allowed."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from madx.config.settings import Settings, settings_of
from madx.errors import ConfigError, did_you_mean

#: the keys that lead to a setting, with the places in lists
KeyPath = tuple[str | int, ...]
#: faults that are listed, and faults of which none is listed: only a foreign or hostile file has so many, and the text
#: of them all would take minutes
LISTED, TOO_MANY = 100, 10_000
#: characters of a key that are shown
SHOWN = 80


def dotted(key: KeyPath) -> str:
    """Return a key path as a user writes it, for example `train.learning_rate`."""
    return ".".join(step if len(step) <= SHOWN else f"{step[:SHOWN]}..." for step in map(str, key))


class Faults(list[tuple[str, str]]):
    """The faults found so far, as (place, text)."""

    def error(self, what: str) -> ConfigError:
        """Return the error that lists all faults of `what`, a file or settings."""
        lines = [f"{place}: {text}" for place, text in self[:LISTED]]
        count = "1 fault" if len(self) == 1 else f"{len(self)} faults"
        if len(self) > LISTED:
            lines.append(f"and {len(self) - LISTED} more")
        return ConfigError(f"{count} in {what}:\n  " + "\n  ".join(lines))

    def raise_if_any(self, what: str) -> None:
        """Raise the error if there is a fault."""
        if self:
            raise self.error(what)


def explained(error: ValidationError, schema: type[Settings], data: dict[str, Any]) -> list[tuple[KeyPath, str]]:
    """Return (key path, text) of each fault. A union reports one fault for each of its members; they are joined."""
    if (count := error.error_count()) > TOO_MANY:
        return [
            ((), f"{count:,} values that are unknown or of another type, too many to list; is this the right file?")
        ]
    found: dict[KeyPath, list[str]] = {}
    for fault in error.errors(include_url=False):
        if len(found) >= LISTED - 1:
            found[()] = [f"{count:,} values are unknown or of another type in all; the others are not listed"]
            break
        key = _existing(fault["loc"], data, add=fault["type"] == "missing")
        if fault["type"] == "extra_forbidden":
            name = str(key[-1])[:SHOWN]
            inner = _inside(schema, name) if len(key) == 1 else []
            hint = f"did you mean {' or '.join(inner)}?" if inner else did_you_mean(name, _keys_at(schema, key[:-1]))
            text = f"unknown key; {hint}"
        elif fault["type"] == "missing":
            text = "missing, and it has no default"
        else:
            got = _shown(fault["input"])
            message = (
                fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
            )
            own = fault["type"] == "value_error"  # the message of a validator of madx is complete
            text = message if own else f"expected {message}, got {got}"
        found.setdefault(key, []).append(text)
    return [(key, " - or ".join(dict.fromkeys(texts))) for key, texts in found.items()]


def _shown(value: Any) -> str:
    """The beginning of a value as JSON; a large one is not written out for it."""
    if isinstance(value, (dict, list)) and len(value) > SHOWN:
        value = list(value)[:SHOWN] if isinstance(value, list) else dict(list(value.items())[:SHOWN])
    try:
        return json.dumps(value, ensure_ascii=False, default=str)[:SHOWN]
    except (ValueError, RecursionError):  # a number of thousands of digits, a value inside itself
        return f"a {type(value).__name__}"


def _existing(loc: Iterable[str | int], data: Any, *, add: bool) -> KeyPath:
    """The steps of an error's location that exist in the data; pydantic also puts names of union members there.

    `add`: the last step is kept although it does not exist, for it names the key that is missing.
    """
    key: list[str | int] = []
    steps = list(loc)
    for i, step in enumerate(steps):
        if isinstance(data, dict) and step in data:
            data = data[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        elif not (add and i == len(steps) - 1):
            continue
        key.append(step)
    return tuple(key)


def place_of(key: KeyPath, lines: dict[KeyPath, str], what: str) -> str:
    """Return the file and line of a key, or of the nearest key around it that has a line; else `what`."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, what)


def _keys_at(schema: type[Settings], key: KeyPath) -> list[str]:
    """Return the allowed keys of the settings at a key path; none if no settings class stands there."""
    for step in key:
        field = schema.model_fields.get(str(step))
        inner = settings_of(field.annotation) if field else None
        if inner is None:
            return []
        schema = inner
    return list(schema.model_fields)


def _inside(schema: type[Settings], name: str) -> list[str]:
    """Return where a key of this name lies one level deeper, for example `train.learning_rate`."""
    inner = {key: settings_of(field.annotation) for key, field in schema.model_fields.items()}
    return [f"{key}.{name}" for key, settings in inner.items() if settings and name in settings.model_fields]
