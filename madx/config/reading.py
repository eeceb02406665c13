"""Reads and writes typed settings in YAML. All faults are reported at once, with file, line, key and allowed values.

Relative paths in a file stay as they are: they count from the current folder, not from the folder of the file.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from madx.config.faults import Faults, KeyPath, dotted, explained, place_of
from madx.config.settings import Settings, renamed
from madx.config.yaml_text import Dumper, override_value, read
from madx.errors import ConfigError
from madx.files.reasons import explained as explained_system
from madx.files.writing import write_named

S = TypeVar("S", bound=Settings)


def load(path: str | Path | None, schema: type[S], overrides: Iterable[str] = ()) -> S:
    """Read settings from a YAML file and apply overrides such as `a.b=c`, whose values are read as YAML too.

    Without a path the settings come from the overrides alone. Raises a ConfigError that lists all faults, for example
    `train.yaml:12: train.learning_rat: unknown key; did you mean ...`.
    """
    data: dict[str, Any] = {}
    lines: dict[KeyPath, str] = {}
    faults = Faults()
    what = "the settings" if path is None else str(path)
    if path is not None:
        data = read(Path(path), lines, faults)
    for override in overrides:
        _write_out(data, override, schema)
        override_value(data, override, lines, faults)
    data = renamed(schema, data)
    try:
        checked = schema.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for key, text in explained(error, schema, data):
            place = place_of(key, lines, what)
            faults.append((place, f"{dotted(key) or '(file)'}: {text}"))
        raise faults.error(what) from None
    faults.raise_if_any(what)
    return checked


def check(schema: type[S], values: dict[str, Any], *, what: str) -> S:
    """Return settings read from Python values, which may hold settings objects; `what` names them in the error.

    Raises a ConfigError that lists all faults, each with its key and what is allowed.
    """
    values = renamed(schema, values)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        faults = Faults((dotted(key) or "(all)", text) for key, text in explained(error, schema, values))
        raise faults.error(what) from None


def faults_of(schema: type[S], data: dict[str, Any]) -> tuple[S | None, list[str]]:
    """Return settings read from plain data (None if there is a fault), and each fault as `key.path: what is wrong`."""
    data = renamed(schema, data)
    try:
        return schema.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        return None, [f"{dotted(key) or '(all)'}: {text}" for key, text in explained(error, schema, data)]
    except (ValueError, TypeError, RecursionError) as error:  # of JSON: a number of thousands of digits
        return None, [f"(all): cannot be written as JSON ({error})"]


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return settings as plain data that YAML and JSON can hold."""
    return settings.model_dump(mode="json")


def dump(settings: Settings, path: str | Path) -> None:
    """Write settings as YAML in the order of their class; `load` reads equal settings from the file."""
    text = yaml.dump(to_dict(settings), Dumper=Dumper, sort_keys=False, allow_unicode=True)
    with explained_system(f"write the settings to {path}", ConfigError):
        write_named(path, text.encode())


def _write_out(data: dict[str, Any], override: str, schema: type[Settings]) -> None:
    """Turn the text of a setting in `SHORT`, given or by default, into its mapping when an override goes inside it."""
    key, _, deeper = override.partition("=")[0].strip().partition(".")
    if deeper and key in schema.SHORT:
        text = data.get(key, schema.model_fields[key].default)
        if isinstance(text, str):
            data[key] = {schema.SHORT[key]: text}
