"""Adapter methods of AdapterHub, one file each; `METHODS` lists them."""

from typing import Any

from madx.errors import ConfigError
from madx.interop.adapterhub.methods.bottleneck import BottleneckMethod
from madx.interop.adapterhub.methods.compacter import CompacterMethod
from madx.interop.adapterhub.methods.fusion import FusionMethod
from madx.interop.adapterhub.methods.lora import Ia3Method, LoraMethod
from madx.interop.adapterhub.methods.method import Method, short
from madx.interop.adapterhub.methods.prefix_tuning import PrefixTuningMethod
from madx.interop.adapterhub.methods.prompt_tuning import PromptTuningMethod
from madx.interop.adapterhub.methods.reft import ReftMethod

#: by the `architecture` of a config; a bottleneck has none and a `compacter` is one with `phm_layer`;
#: `ia3` is `lora` with another composition mode
METHODS: dict[str, Method] = {
    "bottleneck": BottleneckMethod(),
    "compacter": CompacterMethod(),
    "lora": LoraMethod(),
    "ia3": Ia3Method(),
    "prefix_tuning": PrefixTuningMethod(),
    "prompt_tuning": PromptTuningMethod(),
    "reft": ReftMethod(),
    "fusion": FusionMethod(),
}


def method_of(config: dict[str, Any]) -> Method:
    """The method of a config. Raises ConfigError for one that madx does not read."""
    kind = config.get("architecture") or "bottleneck"
    if kind == "bottleneck" and config.get("phm_layer"):
        kind = "compacter"
    if kind == "lora" and config.get("composition_mode") == "scale":
        kind = "ia3"
    elif kind == "lora" and (config.get("vera_d") is not None or config.get("vera_b") is not None):
        kind = "vera"
    if not isinstance(kind, str) or kind not in METHODS or kind == "fusion":  # fusions have files of their own
        raise ConfigError(
            f"This adapter is of the method {short(kind)}, which madx does not read from AdapterHub files. "
            f"Read are: {', '.join(name for name in METHODS if name != 'fusion')}, and unions of these. Nothing was "
            "loaded."
        )
    return METHODS[kind]


__all__ = ["METHODS", "Method", "method_of"]
