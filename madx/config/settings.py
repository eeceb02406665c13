"""The parent of every settings class, and the names of earlier versions."""

import logging
from typing import Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict

log = logging.getLogger("madx")


class Settings(BaseModel):
    """The parent of every settings class: unknown keys, infinite and undefined numbers are refused, and values
    cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
    #: key of an earlier version -> its name today; such a key is still read, with a notice
    RENAMED: ClassVar[dict[str, str]] = {}
    #: setting whose text is short for a mapping -> the key of that text: an override such as
    #: `components.bottleneck.reduction_factor=2` turns `components: madx` into `components: {preset: madx, ...}`
    SHORT: ClassVar[dict[str, str]] = {}


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


def settings_of(annotation: Any) -> type[Settings] | None:
    """Return the Settings class in the type of a field, also inside unions and generics."""
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for a in get_args(annotation) if (found := settings_of(a))), None)
