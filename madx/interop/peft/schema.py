"""Keys that every `adapter_config.json` of PEFT has, and the check of a config.

Each release of PEFT adds keys to its configs. A key that madx does not know is refused if it has a value, and ignored
if it has none (null, false, or empty): then it changes nothing.
"""

from typing import Any, TypeVar

from madx.config import Settings
from madx.errors import ConfigError
from madx.interop.adapterhub.methods.method import short, validated

#: kinds of models whose encoder computes as that of madx; None: not said
TASK_TYPES = (None, "TOKEN_CLS", "SEQ_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

S = TypeVar("S", bound="PeftSchema")


class PeftSchema(Settings):
    """The keys of every config."""

    peft_type: str
    peft_version: str | None = None
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool | None = None
    auto_mapping: dict[str, Any] | None = None
    modules_to_save: list[str] | None = None


class TargetSchema(PeftSchema):
    """The keys of a method that changes linear maps."""

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    fan_in_fan_out: bool = False


def checked(schema: type[S], config: dict[str, Any]) -> S:
    """A config as typed settings.

    Raises ConfigError for an unknown key with a value, for a model of another kind, and for transposed weights.
    """
    known = {key: value for key, value in config.items() if key in schema.model_fields or value not in (None, False)}
    known = {key: value for key, value in known.items() if key in schema.model_fields or value not in ([], {}, "")}
    found = validated(schema, known)
    if found.task_type not in TASK_TYPES:
        raise ConfigError(
            f"These files were trained for the task type {short(found.task_type)}, whose model is not the encoder that "
            f"madx runs. Read are: {', '.join(map(str, TASK_TYPES[1:]))}, and files without one. Nothing was loaded."
        )
    if getattr(found, "fan_in_fan_out", False):
        raise ConfigError(
            "These files have fan_in_fan_out=true: weights stored as (input, output), which no base of madx has. "
            "Nothing was loaded. Train with fan_in_fan_out=False."
        )
    return found


def refuse_set(config: PeftSchema, **why: str) -> None:
    """Raises ConfigError for the first of some settings that has a value. why: setting -> what it would change."""
    for key, reason in why.items():
        if (value := getattr(config, key)) not in (None, False, "", [], {}):
            raise ConfigError(
                f"These files have {key}={short(value)}: {reason}. madx does not read it. Nothing was loaded."
            )
