"""Methods of PEFT, one file each; `METHODS` lists them by `peft_type`."""

from typing import Any

from madx.errors import ConfigError
from madx.interop.adapterhub.methods.method import short
from madx.interop.peft.methods.ia3 import Ia3Method
from madx.interop.peft.methods.lora import LoraMethod
from madx.interop.peft.methods.method import Method
from madx.interop.peft.methods.prefix_tuning import PrefixMethod
from madx.interop.peft.methods.prompt_tuning import PromptMethod
from madx.interop.peft.methods.sparse import ShiraMethod, TokensMethod
from madx.module import Module

METHODS: dict[str, Method] = {
    "LORA": LoraMethod(),
    "IA3": Ia3Method(),
    "PREFIX_TUNING": PrefixMethod(),
    "PROMPT_TUNING": PromptMethod(),
    "SHIRA": ShiraMethod(),
    "TRAINABLE_TOKENS": TokensMethod(),
}


def method_of(config: dict[str, Any]) -> Method:
    """The method of a config. Raises ConfigError for one that madx does not read, and for a config of AdapterHub."""
    kind = config.get("peft_type")
    if kind is None:
        hint = " It looks like one of AdapterHub's `adapters`: import it from adapterhub." if "config" in config else ""
        raise ConfigError(f"This adapter_config.json has no peft_type, so it is not of PEFT.{hint}")
    if not isinstance(kind, str) or kind not in METHODS:
        raise ConfigError(
            f"These files are of the PEFT type {short(kind)}, which madx does not read. Read are: "
            f"{', '.join(METHODS)}. Nothing was loaded."
        )
    return METHODS[kind]


def method_for(module: Module) -> tuple[str, Method]:
    """The type and method that can write a module. Raises ConfigError if there is none."""
    found = next(((kind, method) for kind, method in METHODS.items() if method.writes(module)), None)
    if found is None:
        parts = ", ".join(module.info.components) or "a head alone"
        known = ", ".join(dict.fromkeys(method.component for method in METHODS.values()))
        raise ConfigError(
            f"The module {module.name!r} ({parts}) cannot be written as a PEFT file, which holds one of {known}, each "
            "by itself, with a head or without."
        )
    return found


__all__ = ["METHODS", "Method", "method_for", "method_of"]
