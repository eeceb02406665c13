"""Presets: named sets of components, as papers propose them, in the settings of the module types."""

import sys
from collections.abc import Mapping
from typing import Any

from madx.config import faults_of
from madx.contract.module_type import ComponentConfig, ModuleType
from madx.errors import ConfigError, did_you_mean
from madx.module_types import MODULE_TYPES

#: name of a preset -> (settings by module type, a line that describes it)
Presets = dict[str, tuple[dict[str, dict[str, Any]], str]]

#: presets of several module types, or of none; those of one type stand in its file
SEVERAL: Presets = {
    "madx": (
        {"bottleneck": {"reduction_factor": 2.0}, "invertible": {}},
        "MAD-X language module: Pfeiffer bottleneck and NICE, reduction 2 (Pfeiffer et al. 2020)",
    ),
    "madx2": (
        {"bottleneck": {"reduction_factor": 2.0, "leave_out": [-1]}, "invertible": {}},
        "MAD-X 2.0 language module: none in the last layer (Pfeiffer et al. 2021)",
    ),
    "houlsby_inv": (
        {
            "bottleneck": {"places": ["attention", "ffn"], "reads": "output", "activation": "swish"},
            "invertible": {"activation": "swish"},
        },
        "houlsby with a NICE invertible component",
    ),
    "mam": (
        {
            "prefix": {"bottleneck": 800},
            "bottleneck": {"reads": "input", "reduction_factor": 2.0, "scaling": 4.0, "init": "zero_up"},
        },
        "mix-and-match: prefix of 30 and parallel bottleneck (He et al. 2022)",
    ),
    "unipelt": (
        {"prefix": {"length": 10, "gate": True}, "bottleneck": {"gate": True}, "lora": {"gate": True}},
        "UniPELT: prefix of 10, bottleneck and LoRA, each behind a gate (Mao et al. 2022)",
    ),
    "head_only": ({}, "no component: a task's head on the output of the frozen base, the feature-based baseline"),
}


def _gathered() -> Presets:
    """The presets of several types, then those that the file of each module type offers in its `PRESETS`."""
    found = dict(SEVERAL)
    for kind_name, kind in MODULE_TYPES.items():
        for name, (settings, text) in getattr(sys.modules[kind.__module__], "PRESETS", {}).items():
            if name in found:
                raise ConfigError(f"The preset {name!r} of {kind.__module__} exists already: rename one of the two.")
            found[name] = ({kind_name: settings}, text)
    return found


def _aliases() -> dict[str, str]:
    """Other spellings of presets, as a paper writes them, that the files of the module types offer in `ALIASES`."""
    files = dict.fromkeys(sys.modules[kind.__module__] for _, kind in MODULE_TYPES.items())
    return {alias: name for file in files for alias, name in getattr(file, "ALIASES", {}).items()}


PRESETS = _gathered()
ALIASES = _aliases()


def preset(name: str) -> dict[str, ComponentConfig]:
    """The components of a preset; raises ConfigError for an unknown name."""
    name = ALIASES.get(name, name)
    if name not in PRESETS:
        raise ConfigError(f"Unknown preset {name!r}; {did_you_mean(name, PRESETS)}")
    return make_components(PRESETS[name][0])


def make_components(settings: Mapping[str, Any]) -> dict[str, ComponentConfig]:
    """Typed component settings from plain ones: `{"bottleneck": {"reduction_factor": 2.0}}`.

    Raises ConfigError for an unknown module type or setting, naming all faults.
    """
    components: dict[str, ComponentConfig] = {}
    faults = []
    for name, values in settings.items():
        kind: type[ModuleType] = MODULE_TYPES.get(name)
        made, found = (values, []) if isinstance(values, kind.Config) else faults_of(kind.Config, values or {})
        faults += [f"{name}.{fault}".replace(f"{name}.(all)", name, 1) for fault in found]
        if made is not None:
            components[name] = made
    if faults:
        raise ConfigError("Faults in the settings of a module:\n  " + "\n  ".join(faults))
    return components
