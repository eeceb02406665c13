"""Reads and writes typed settings in YAML. All faults are reported at once, with file, line, key and allowed values.

Words without quotes are read as in YAML 1.2: `no`, `on` and `nor` are text (they are language codes), `1e-4` a number.
Relative paths in a file stay as they are: they count from the current folder, not from the folder of the file.
"""

import json
import logging
import re
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from madx.errors import ConfigError, did_you_mean

log = logging.getLogger("madx")

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
Path_ = tuple[str | int, ...]
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """The parent of every settings class: unknown keys are refused and values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    #: key of an earlier version -> its name today; such a key is still read, with a notice
    RENAMED: typing.ClassVar[dict[str, str]] = {}
    #: setting whose text is short for a mapping -> the key of that text: an override such as
    #: `components.bottleneck.reduction_factor=2` turns `components: madx` into `components: {preset: madx, ...}`
    SHORT: typing.ClassVar[dict[str, str]] = {}


def renamed(schema: type[Settings], data: dict[str, Any], *, notice: bool = True) -> dict[str, Any]:
    """Return plain settings in which keys of earlier versions have their present names; `notice` logs each of them."""
    for old, new in schema.RENAMED.items():
        if old in data and new not in data:
            data = {new if key == old else key: value for key, value in data.items()}
            if notice:
                log.warning(
                    "The setting '%s' is called '%s' now; the old name is still read. Please rename it.", old, new
                )
    return data


class _Faults(list[tuple[str, str]]):
    """Faults found so far, as (place, text)."""

    def error(self, what: str) -> ConfigError:
        lines = [f"{place}: {text}" for place, text in self]
        count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
        return ConfigError(f"{count} in {what}:\n  " + "\n  ".join(lines))

    def raise_if_any(self, what: str) -> None:
        if self:
            raise self.error(what)


def load(path: str | Path | None, schema: type[S], overrides: Iterable[str] = ()) -> S:
    """Read settings from a YAML file and apply overrides such as `a.b=c`, whose values are read as YAML too.

    Without a path the settings come from the overrides alone. Raises a ConfigError that lists all faults, for example
    `train.yaml:12: train.learning_rat: unknown key; did you mean ...`.
    """
    data: dict[str, Any] = {}
    lines: dict[Path_, str] = {}
    faults = _Faults()
    what = "the settings" if path is None else str(path)
    if path is not None:
        data = _read(Path(path), lines, faults)
    for override in overrides:
        _write_out(data, override, schema)
        _override(data, override, lines, faults)
    data = renamed(schema, data)
    try:
        checked = schema.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for key, text in _explained(error, schema, data):
            place = _place(key, lines, what)
            faults.append((place, f"{'.'.join(map(str, key)) or '(file)'}: {text}"))
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
        explained = _explained(error, schema, values)
        faults = _Faults((".".join(map(str, key)) or "(all)", text) for key, text in explained)
        raise faults.error(what) from None


def faults_of(schema: type[S], data: dict[str, Any]) -> tuple[S | None, list[str]]:
    """Return settings read from plain data (None if there is a fault), and each fault as `key.path: what is wrong`."""
    data = renamed(schema, data)
    try:
        return schema.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, key)) or '(all)'}: {text}" for key, text in _explained(error, schema, data)]


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return settings as plain data that YAML and JSON can hold."""
    return settings.model_dump(mode="json")


def dump(settings: Settings, path: str | Path) -> None:
    """Write settings as YAML in the order of their class; `load` reads equal settings from the file."""
    Path(path).write_text(
        yaml.dump(to_dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def describe(schema: type[Settings], *, indent: str = "") -> str:
    """Return all keys with meaning, type, range and default, as YAML that a user can fill in."""
    lines = []
    for name, field in schema.model_fields.items():
        limits = [
            f"{word} {getattr(m, key)}"
            for m in field.metadata
            for key, word in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
            if getattr(m, key, None) is not None
        ]
        kind = ", ".join([_type_text(field.annotation), *limits])
        lines.append(f"{indent}# {field.description or name.replace('_', ' ')} ({kind})")
        inner = _settings_of(field.annotation)
        if inner is not None:
            lines.append(f"{indent}{name}:")
            deeper = indent + "  "
            if typing.get_origin(field.annotation) is dict:
                lines.append(f"{deeper}NAME:   # one such block for each name")
                deeper += "  "
            lines.append(describe(inner, indent=deeper).rstrip("\n"))
        elif field.is_required():
            lines.append(f"{indent}{name}:   # required")
        else:
            default = json.loads(json.dumps(field.get_default(call_default_factory=True), default=list))
            text = yaml.dump(default, Dumper=_Dumper, default_flow_style=True, width=1000, allow_unicode=True)
            lines.append(f"{indent}{name}: {text.removesuffix(chr(10)).removesuffix('...').strip()}")
    return "\n".join(lines) + "\n"


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(path: Path, lines: dict[Path_, str], faults: _Faults) -> dict[str, Any]:
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


def _compose(text: str, name: str, lines: dict[Path_, str], faults: _Faults) -> dict[str, Any]:
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


def _value(node: yaml.Node, at: Path_, name: str, lines: dict[Path_, str], faults: _Faults) -> Any:
    lines.setdefault(at, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*at, i), name, lines, faults) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, place = str(key_node.value), f"{name}:{key_node.start_mark.line + 1}"
            here = (*at, key)
            if key in result:
                faults.append((place, f"{'.'.join(map(str, here))}: given twice; keep one"))
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


def _write_out(data: dict[str, Any], override: str, schema: type[Settings]) -> None:
    """Turn the text of a setting in `SHORT`, given or by default, into its mapping when an override goes inside it."""
    key, _, deeper = override.partition("=")[0].strip().partition(".")
    if deeper and key in schema.SHORT:
        text = data.get(key, schema.model_fields[key].default)
        if isinstance(text, str):
            data[key] = {schema.SHORT[key]: text}


def _override(data: dict[str, Any], override: str, lines: dict[Path_, str], faults: _Faults) -> None:
    key, equals, text = override.partition("=")
    steps: Path_ = tuple(int(s) if s.isdigit() else s for s in key.strip().split("."))
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
    target: Any = data
    for depth, (step, following) in enumerate(zip(steps, (*steps[1:], None)), start=1):
        if isinstance(target, list):
            if not isinstance(step, int) or step >= len(target):
                faults.append((place, f"{key}: the list has {len(target)} items, counted from 0"))
                return
        elif isinstance(target, dict):
            step = str(step)
        else:
            faults.append((place, f"{key}: {step!r} lies inside {_kind(target)}, which has no keys"))
            return
        if following is None:
            target[step] = value
        elif isinstance(target, list) or target.get(step) is not None:
            target = target[step]
        else:
            target[step] = {}
            target = target[step]
            lines[steps[:depth]] = place
    for known in [k for k in lines if k[: len(steps)] == steps]:
        del lines[known]
    lines[steps] = place


# ---- explaining ------------------------------------------------------------------------------------------------------


def _explained(error: ValidationError, schema: type[Settings], data: dict[str, Any]) -> list[tuple[Path_, str]]:
    """Return (key path, text) of each fault. A union reports one fault for each of its members; they are joined."""
    found: dict[Path_, list[str]] = {}
    for fault in error.errors():
        key = _existing(fault["loc"], data, add=fault["type"] == "missing")
        if fault["type"] == "extra_forbidden":
            name = str(key[-1])
            inner = _inside(schema, name) if len(key) == 1 else []
            hint = f"did you mean {' or '.join(inner)}?" if inner else did_you_mean(name, _keys_at(schema, key[:-1]))
            text = f"unknown key; {hint}"
        elif fault["type"] == "missing":
            text = "missing, and it has no default"
        else:
            got = json.dumps(fault["input"], ensure_ascii=False, default=str)
            message = (
                fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
            )
            own = fault["type"] == "value_error"  # the message of a validator of madx is complete
            text = message if own else f"expected {message}, got {got[:80]}"
        found.setdefault(key, []).append(text)
    return [(key, " - or ".join(dict.fromkeys(texts))) for key, texts in found.items()]


def _existing(loc: Iterable[str | int], data: Any, *, add: bool) -> Path_:
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


def _place(key: Path_, lines: dict[Path_, str], what: str) -> str:
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, what)


def _keys_at(schema: type[Settings], key: Path_) -> list[str]:
    for step in key:
        field = schema.model_fields.get(str(step))
        inner = _settings_of(field.annotation) if field else None
        if inner is None:
            return []
        schema = inner
    return list(schema.model_fields)


def _inside(schema: type[Settings], name: str) -> list[str]:
    """Return where a key of this name lies one level deeper, for example `train.learning_rate`."""
    inner = {key: _settings_of(field.annotation) for key, field in schema.model_fields.items()}
    return [f"{key}.{name}" for key, settings in inner.items() if settings and name in settings.model_fields]


def _settings_of(annotation: Any) -> type[Settings] | None:
    """Return the Settings class in the type of a field, also inside unions and generics."""
    if typing.get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for a in typing.get_args(annotation) if (found := _settings_of(a))), None)


def _type_text(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_text(a) for a in args)
    if origin is typing.Literal:
        return " | ".join(str(a) for a in args)
    if annotation is type(None):
        return "null"
    if origin in (list, tuple):
        return f"list of {_type_text(args[0])}" if args else "list"
    if origin is dict:
        return f"{_type_text(args[1])} by name"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true | false"}.get(
        getattr(annotation, "__name__", ""),
        getattr(annotation, "__name__", "anything").lower().replace("any", "anything"),
    )


def _kind(value: Any) -> str:
    return {list: "a list", dict: "a mapping", str: "text", type(None): "nothing"}.get(type(value), f"{value!r}")


class _Dumper(yaml.SafeDumper):
    """A YAML writer that quotes text which this reader, or a reader of YAML 1.1, would take for another type."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    plain = isinstance(_scalar(text), str) and tag == "tag:yaml.org,2002:str"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", _number(value)))


def _number(value: float) -> str:
    """Write a float so that every YAML reader takes it for one: with a point, also before an exponent."""
    mantissa, e, exponent = repr(value).partition("e")
    return (mantissa if "." in mantissa or "n" in mantissa else mantissa + ".0") + e + exponent
