"""`module.json`: what a stored module says of itself; its schema, written and read with all faults at once."""

import json
import math
import re
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from madx.composition import check_name
from madx.config import Settings
from madx.errors import ConfigError, MadxError, StoreError, did_you_mean
from madx.module import ModuleInfo
from madx.module.presets import make_components
from madx.module_types import MODULE_TYPES

#: of the whole folder; a reader refuses a newer one
FORMAT = 1


@dataclass(frozen=True)
class Layout:
    """The files of a stored module."""

    manifest: str = "module.json"
    weights: str = "weights.safetensors"
    card: str = "README.md"

    @property
    def files(self) -> tuple[str, str, str]:
        return (self.manifest, self.weights, self.card)


LAYOUT = Layout()

#: language[-Script][-REGION][-variant...][-x-private...] of BCP 47, in its usual letter case
LANGUAGE = re.compile(
    r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*(-x(-[a-z0-9]{1,8})+)?"
)


def check_language(code: str | None, *, role: str = "language") -> str | None:
    """The code, if a module of that role may carry it; raises ConfigError otherwise. Only the syntax is checked.

    >>> check_language("swa"), check_language("sr-Latn-RS"), check_language(None, role="task")
    ('swa', 'sr-Latn-RS', None)
    """
    if code is None and role != "language" or isinstance(code, str) and LANGUAGE.fullmatch(code):
        return code
    came = "A language module without a language" if code is None else f"{code!r} is no language code"
    raise ConfigError(
        f"{came}: give an ISO 639-3 code of three small letters (swa, eng), or a BCP 47 tag (pt, pt-BR, sr-Latn, "
        "zh-Hant-TW). Only a task module may have none."
    )


Sha256 = Field(pattern="^[0-9a-f]{64}$")


class ComponentRecord(Settings):
    """A component: its module type, with all settings written out, so that a later default changes no stored module."""

    type: str
    settings: dict[str, Any]


class BaseRecord(Settings):
    """`Base.identity()`."""

    name: str
    revision: str | None
    architecture: dict[str, str | int]
    fingerprint: str = Sha256


class WeightsRecord(Settings):
    """The weights file: its sha256 and size, the type of its floating-point numbers, how many numbers it holds."""

    sha256: str = Sha256
    bytes: int = Field(ge=0)
    dtype: Literal["float32", "float16", "bfloat16"]
    parameters: int = Field(ge=0)


class Manifest(Settings):
    """All of `module.json`. Components are a list, since they act in that order; every key must be there."""

    format: int
    name: str
    role: Literal["language", "task"]
    language: str | None
    components: tuple[ComponentRecord, ...] = Field(strict=False)
    base: BaseRecord | None
    tokenizer: str | None = Sha256
    task: str | None
    labels: tuple[str, ...] = Field(strict=False)
    training: dict[str, Any]
    licence: str | None
    weights: WeightsRecord

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return _as_value_error(check_name, value)

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({label for label in value if value.count(label) > 1})
        if twice or "" in value:
            raise ValueError(f"every label must be there once and not be empty; twice: {', '.join(twice) or 'none'}")
        return value

    @model_validator(mode="after")
    def _something(self):
        if not self.components and not self.labels:
            raise ValueError("a module has at least one component, or labels and so a head")
        return self

    @model_validator(mode="after")
    def _language(self):
        _as_value_error(check_language, self.language, role=self.role)
        return self

    @field_validator("components")
    @classmethod
    def _parts(cls, value: tuple[ComponentRecord, ...]) -> tuple[ComponentRecord, ...]:
        known, names = MODULE_TYPES.names(), [component.type for component in value]
        for name in names:
            if name not in known:
                raise ValueError(f"this madx has no module type {name!r}; {did_you_mean(name, known)}")
            if names.count(name) > 1:
                raise ValueError(f"the component {name!r} is there twice")
        _as_value_error(make_components, {component.type: component.settings for component in value})
        return value

    def info(self) -> ModuleInfo:
        """The same as `Module` knows it."""
        return ModuleInfo(
            name=self.name,
            role=self.role,
            language=self.language,
            task=self.task,
            labels=self.labels,
            components=make_components({component.type: component.settings for component in self.components}),
            base=self.base.model_dump() if self.base else None,
            tokenizer=self.tokenizer,
            training=self.training,
            licence=self.licence,
        )


def _as_value_error(check, *args, **kwargs):
    """pydantic gathers ValueErrors; ours become such."""
    try:
        return check(*args, **kwargs)
    except MadxError as error:
        raise ValueError(str(error)) from None


def manifest_of(info: ModuleInfo, weights: WeightsRecord) -> Manifest:
    """What is to be stored of a module; raises StoreError naming every fault, so that nothing unreadable is written."""
    faults: list[str] = []
    content = {
        "format": FORMAT,
        "name": info.name,
        "role": info.role,
        "language": info.language,
        "components": [
            {"type": n, "settings": config.model_dump(mode="json")} for n, config in info.components.items()
        ],
        "base": info.base,
        "tokenizer": info.tokenizer,
        "task": info.task,
        "labels": list(info.labels),
        "training": _plain(info.training, "training", faults),
        "licence": info.licence,
        "weights": weights.model_dump(),
    }
    source = f"The module {info.name!r} cannot be stored"
    if faults:
        raise StoreError(f"{source}:\n  " + "\n  ".join(faults))
    return _validated(content, source)


def to_text(manifest: Manifest) -> str:
    """`module.json`: sorted keys, two spaces, so that two versions compare line by line."""
    content = manifest.model_dump(mode="json")
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def from_text(data: bytes, source: str) -> Manifest:
    """Read `module.json`; raises StoreError naming the source and every fault."""
    try:
        content = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{source} is damaged: it cannot be read as JSON ({error}). Fetch the module again.") from None
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise StoreError(f"{source} is no module of madx: it has no format number ('format': {FORMAT}).")
    if version > FORMAT:
        raise StoreError(
            f"{source} was written by a newer madx: it has format {version}, this madx reads up to {FORMAT}. "
            "Update madx."
        )
    return _validated(content, f"{source} is damaged or was altered")


def _validated(content: dict, source: str) -> Manifest:
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        faults = [_fault(f) for f in error.errors(include_url=False)]
        raise StoreError(f"{source}:\n  " + "\n  ".join(faults)) from None


def _fault(fault: dict) -> str:
    key = ".".join(map(str, fault["loc"])) or "as a whole"
    if fault["type"] == "extra_forbidden":
        hint = f"; {did_you_mean(key, Manifest.model_fields)}" if len(fault["loc"]) == 1 else ""
        return f"{key}: unknown key{hint}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}"
    return f"{key}: {fault['msg']}, got {fault['input']!r:.80}"


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _plain(value: Any, key: str, faults: list[str]) -> Any:
    """The value in JSON's own types. Infinite and undefined numbers (a perplexity can be one) become the texts 'inf',
    '-inf', 'nan': a finished training must not fail to be stored for the sake of one score."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                faults.append(f"{key}: the key {name!r} is no text")
        return {str(k): _plain(v, f"{key}.{k}", faults) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{key}.{i}", faults) for i, v in enumerate(value)]
    if isinstance(value, Integral) and not isinstance(value, bool):  # numpy's too
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is not None and not isinstance(value, (str, bool)):
        faults.append(f"{key}: {type(value).__name__} is neither text, number, list nor dict: {value!r:.80}")
    if isinstance(value, str) and not value.isprintable() and re.search("[\ud800-\udfff]", value):
        faults.append(f"{key}: the text {value!r:.80} cannot be written as UTF-8")
    return value
