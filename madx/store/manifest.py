"""The record of a stored module: the fields of `module.json` with their types (text: `madx.store.module_json`)."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, FailFast, Field, model_validator

from madx.composition import check_name
from madx.config import Settings
from madx.errors import ConfigError, MadxError, did_you_mean
from madx.module import ModuleInfo
from madx.module.pooling import FIRST, Kind
from madx.module.presets import make_components
from madx.module_types import MODULE_TYPES
from madx.store.training_record import Sha256, TrainingRecord

#: version of the layout of the whole folder; a reader refuses a newer one
FORMAT = 2


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
        "zh-Hant-TW). Only a task or fusion module may have none."
    )


T = TypeVar("T")


def _as_value_error(check: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a check of ours for pydantic, which gathers ValueErrors alone."""
    try:
        return check(*args, **kwargs)
    except MadxError as error:
        raise ValueError(str(error)) from None


def _name(value: str) -> str:
    return _as_value_error(check_name, value)


def _labels(value: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted(label for label, count in Counter(value).items() if count > 1)
    if twice or "" in value:
        named = ", ".join(f"{label:.40}" for label in twice[:8])
        raise ValueError(f"every label must be there once and not be empty; twice: {named or 'none'}")
    return value


class ComponentRecord(Settings):
    """A component: its module type, with all settings written out, so that a later default changes no stored module."""

    type: str
    settings: dict[str, Any]


def _components(value: tuple[ComponentRecord, ...]) -> tuple[ComponentRecord, ...]:
    known, names = MODULE_TYPES.names(), [component.type for component in value]
    for name in names:
        if name not in known:
            raise ValueError(f"this madx has no module type {name!r}; {did_you_mean(name, known)}")
        if names.count(name) > 1:
            raise ValueError(f"the component {name!r} is there twice")
    _as_value_error(make_components, {component.type: component.settings for component in value})
    return value


class BaseRecord(Settings):
    """The base that a module was made for, as `Base.identity()` gives it."""

    name: str
    revision: str | None
    architecture: dict[str, str | int]
    fingerprint: Sha256


class WeightsRecord(Settings):
    """The weights file: its sha256 and size, the type of its floating-point numbers, how many numbers it holds."""

    sha256: Sha256
    bytes: int = Field(ge=0)
    dtype: Literal["float32", "float16", "bfloat16"]
    parameters: int = Field(ge=0)


class Manifest(Settings):
    """All fields of `module.json` but its checksum, which stands for the others. Every key but `pooling` must be there.

    format: version of the folder as it was read; components: a list, since they act in that order; tokenizer: its
    fingerprint; licence: SPDX; pooling: the pieces of a word that the head reads. That key is written only where it is
    not `first`: a madx that knows no pooling reads all other modules, and refuses those that it would read wrongly.
    """

    format: int
    name: Annotated[str, AfterValidator(_name)]
    role: Literal["language", "task", "fusion"]
    language: str | None
    components: Annotated[tuple[ComponentRecord, ...], Field(strict=False), FailFast(), AfterValidator(_components)]
    base: BaseRecord | None
    tokenizer: Sha256 | None
    task: str | None
    labels: Annotated[tuple[str, ...], Field(strict=False), FailFast(), AfterValidator(_labels)]
    training: TrainingRecord
    licence: str | None
    weights: WeightsRecord
    pooling: Kind = "first"

    @model_validator(mode="after")
    def _is_something(self) -> "Manifest":
        if not self.components and not self.labels:
            raise ValueError("a module has at least one component, or labels and so a head")
        return self

    @model_validator(mode="after")
    def _reads_words(self) -> "Manifest":
        if self.pooling != FIRST and not self.labels:
            raise ValueError(f"the pooling {self.pooling!r} without labels: a module without a head reads no words")
        return self

    @model_validator(mode="after")
    def _has_its_language(self) -> "Manifest":
        _as_value_error(check_language, self.language, role=self.role)
        return self

    def content(self) -> dict[str, Any]:
        """The fields as they are written, without the checksum."""
        content = self.model_dump(mode="json")
        return content if self.pooling != FIRST else {k: v for k, v in content.items() if k != "pooling"}

    def info(self) -> ModuleInfo:
        """The record as `Module` holds it."""
        return ModuleInfo(
            name=self.name,
            role=self.role,
            language=self.language,
            task=self.task,
            labels=self.labels,
            components=make_components({component.type: component.settings for component in self.components}),
            base=self.base.model_dump() if self.base else None,
            tokenizer=self.tokenizer,
            training=dict(self.training),
            licence=self.licence,
            pooling=self.pooling,
        )
