"""Settings as YAML text: files and single values with their places, and text that YAML 1.1 reads alike.

`madx.config.yaml_events` reads the text itself.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from madx.config.faults import SHOWN, Faults, KeyPath, dotted
from madx.config.yaml_events import MOST_BYTES, MOST_LEVELS, YamlFault, YamlReader, plain_scalar
from madx.errors import ConfigError, did_you_mean

#: a place in a list, as an override names it
PLACE = re.compile(r"[0-9]{1,9}", re.ASCII)


def read(path: Path, lines: dict[KeyPath, str], faults: Faults) -> dict[str, Any]:
    """Read a YAML file as plain data; enter `file:line` of each key into `lines`, and keys given twice into `faults`.

    Raises ConfigError for a file that cannot be read, is too long, is not YAML, or holds no mapping.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig") if len(data) <= MOST_BYTES else ""
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = (
            did_you_mean(path.name, near)
            if near
            else "give the path of a YAML file; `madx config JOB` prints one to start from."
        )
        raise ConfigError(f"There is no settings file {path}; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a zero byte in the path
        raise ConfigError(f"Cannot read the settings file {path}: {error}. It must be YAML in UTF-8.") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(
            f"The settings file {path} has more than {MOST_BYTES:,} bytes; settings have a few thousand. Is it the "
            "right file?"
        )
    return _mapping(text, str(path), lines, faults)


def _mapping(text: str, name: str, lines: dict[KeyPath, str], faults: Faults) -> dict[str, Any]:
    """The mapping that a file holds; name: of the file."""
    reader = YamlReader()
    try:
        data = reader.read(text)
    except YamlFault as fault:
        where = f"{name}:{fault.line}" + (f":{fault.column}" if fault.column else "")
        raise ConfigError(f"{where}: {fault.text}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: expected keys with values (`key: value` lines), found {_kind(data)}.")
    lines |= {key: f"{name}:{line}" for key, line in reader.lines.items()}
    faults += [(f"{name}:{line}", f"{dotted(key)}: given twice; keep one") for line, key in reader.twice]
    return data


def override_value(data: dict[str, Any], override: str, lines: dict[KeyPath, str], faults: Faults) -> None:
    """Put the value of an override such as `a.b=c` into plain data, in place, and enter where it came from.

    A wrong override changes nothing and is entered into `faults`.
    """
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    place = f"override {override[:SHOWN]!r}" + ("..." if len(override) > SHOWN else "")
    if not equals or not key.strip():
        faults.append((place, "expected KEY=VALUE, e.g. train.learning_rate=1e-3"))
        return
    if "" in steps or len(steps) > MOST_LEVELS:
        why = "an empty step" if "" in steps else f"more than {MOST_LEVELS} steps"
        faults.append((place, f"{why} in the key; keys are joined by single points, e.g. train.learning_rate=1e-3"))
        return
    reader = YamlReader()
    try:
        if len(text) > MOST_BYTES:
            raise YamlFault(1, f"more than {MOST_BYTES:,} characters")
        value = reader.read(text, at=tuple(steps))
    except YamlFault as wrong:
        faults.append((place, f"the value {text[:SHOWN]!r}: {wrong.text}"))
        return
    faults += [(place, f"{dotted(twice)}: given twice; keep one") for _, twice in reader.twice]
    path: list[str | int] = []
    if fault := _put(data, steps, value, path=path, lines=lines, place=place):
        faults.append((place, f"{dotted(tuple(steps))}: {fault}"))
        return
    found = tuple(path)
    for known in [k for k in lines if k[: len(found)] == found]:
        del lines[known]
    lines[found] = place


def _put(
    data: dict[str, Any],
    steps: list[str],
    value: Any,
    *,
    path: list[str | int],
    lines: dict[KeyPath, str],
    place: str,
) -> str | None:
    """Put a value at the end of some steps, making mappings on the way; return what stands in the way, if anything.

    path: is filled with the steps, those into lists as numbers.
    """
    target: Any = data
    for number, name in enumerate(steps, start=1):
        step: str | int = name
        if isinstance(target, list):
            step = int(name) if PLACE.fullmatch(name) else name
            if not isinstance(step, int) or step >= len(target):
                return f"the list has {len(target)} items, counted from 0"
        elif not isinstance(target, dict):
            return f"{step!r} lies inside {_kind(target)}, which has no keys"
        path.append(step)
        if number == len(steps):
            target[step] = value
        elif isinstance(target, list) or target.get(step) is not None:
            target = target[step]
        else:
            target[step] = {}
            target = target[step]
            lines[tuple(path)] = place
    return None


def _kind(value: Any) -> str:
    return {list: "a list", dict: "a mapping", str: "text", type(None): "nothing"}.get(type(value), f"{value!r}")


class Dumper(yaml.SafeDumper):
    """A YAML writer that quotes text which this reader, or a reader of YAML 1.1, would take for another type."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    plain = _is_text(text) and tag == "tag:yaml.org,2002:str"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def _is_text(text: str) -> bool:
    try:
        return isinstance(plain_scalar(text), str)
    except ValueError:  # a number beyond bounds
        return False


Dumper.add_representer(str, _text)
Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", _number(value)))


def _number(value: float) -> str:
    """Write a float so that every YAML reader takes it for one: with a point, also before an exponent."""
    mantissa, e, exponent = repr(value).partition("e")
    return (mantissa if "." in mantissa or "n" in mantissa else mantissa + ".0") + e + exponent
