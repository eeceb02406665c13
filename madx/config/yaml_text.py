"""YAML with positions: values and the line of each, single values in their place, and text that YAML 1.1 reads alike.

Words without quotes are read as in YAML 1.2: `no`, `on` and `nor` are text (they are language codes), `1e-4` a number.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from madx.config.faults import Faults, KeyPath, dotted
from madx.errors import ConfigError, did_you_mean

INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*)?\.?[0-9]+([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"
)
WORDS = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}


def read(path: Path, lines: dict[KeyPath, str], faults: Faults) -> dict[str, Any]:
    """Read a YAML file as plain data; enter `file:line` of each key into `lines`, and keys given twice into `faults`.

    Raises ConfigError for a file that cannot be read, is not YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = (
            did_you_mean(path.name, near)
            if near
            else "give the path of a YAML file; `madx config JOB` prints one to start from."
        )
        raise ConfigError(f"There is no settings file {path}; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the settings file {path}: {error}. It must be YAML in UTF-8.") from None
    return _compose(text, str(path), lines, faults)


def _compose(text: str, name: str, lines: dict[KeyPath, str], faults: Faults) -> dict[str, Any]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(
            f"{where}: this is not YAML: {problem}. Check indentation, quotes and colons there."
        ) from None
    if node is None:
        return {}
    data = _value(node, (), name, lines, faults)
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: expected keys with values (`key: value` lines), found {_kind(data)}.")
    return data


def _value(node: yaml.Node, at: KeyPath, name: str, lines: dict[KeyPath, str], faults: Faults) -> Any:
    lines.setdefault(at, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*at, i), name, lines, faults) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, place = str(key_node.value), f"{name}:{key_node.start_mark.line + 1}"
            here = (*at, key)
            if key in result:
                faults.append((place, f"{dotted(here)}: given twice; keep one"))
            lines[here] = place
            result[key] = _value(value_node, here, name, lines, faults)
        return result
    quoted = isinstance(node, yaml.ScalarNode) and node.style
    return node.value if quoted else _scalar(node.value)


def _scalar(text: str) -> Any:
    """Read a word without quotes as null, bool, int, float or text."""
    if text in WORDS:
        return WORDS[text]
    if INT.fullmatch(text):
        return int(text.replace("_", ""))
    if FLOAT.fullmatch(text):
        return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    return text


def override_value(data: dict[str, Any], override: str, lines: dict[KeyPath, str], faults: Faults) -> None:
    """Put the value of an override such as `a.b=c` into plain data, in place, and enter where it came from.

    A wrong override changes nothing and is entered into `faults`.
    """
    key, equals, text = override.partition("=")
    steps: KeyPath = tuple(int(s) if s.isdigit() else s for s in key.strip().split("."))
    place = f"override {override!r}"
    if not equals or not key.strip():
        faults.append((place, "expected KEY=VALUE, e.g. train.learning_rate=1e-3"))
        return
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        faults.append((place, f"the value {text!r} is not YAML; quote it"))
        return
    value = None if node is None else _value(node, steps, place, {}, faults)
    fault = _put(data, steps, value, lines, place)
    if fault:
        faults.append((place, f"{key}: {fault}"))
        return
    for known in [k for k in lines if k[: len(steps)] == steps]:
        del lines[known]
    lines[steps] = place


def _put(data: dict[str, Any], steps: KeyPath, value: Any, lines: dict[KeyPath, str], place: str) -> str | None:
    """Put a value at the end of some steps, making mappings on the way; return what stands in the way, if anything."""
    target: Any = data
    for depth, (step, following) in enumerate(zip(steps, (*steps[1:], None)), start=1):
        if isinstance(target, list):
            if not isinstance(step, int) or step >= len(target):
                return f"the list has {len(target)} items, counted from 0"
        elif isinstance(target, dict):
            step = str(step)
        else:
            return f"{step!r} lies inside {_kind(target)}, which has no keys"
        if following is None:
            target[step] = value
        elif isinstance(target, list) or target.get(step) is not None:
            target = target[step]
        else:
            target[step] = {}
            target = target[step]
            lines[steps[:depth]] = place
    return None


def _kind(value: Any) -> str:
    return {list: "a list", dict: "a mapping", str: "text", type(None): "nothing"}.get(type(value), f"{value!r}")


class Dumper(yaml.SafeDumper):
    """A YAML writer that quotes text which this reader, or a reader of YAML 1.1, would take for another type."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    plain = isinstance(_scalar(text), str) and tag == "tag:yaml.org,2002:str"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


Dumper.add_representer(str, _text)
Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", _number(value)))


def _number(value: float) -> str:
    """Write a float so that every YAML reader takes it for one: with a point, also before an exponent."""
    mantissa, e, exponent = repr(value).partition("e")
    return (mantissa if "." in mantissa or "n" in mantissa else mantissa + ".0") + e + exponent
