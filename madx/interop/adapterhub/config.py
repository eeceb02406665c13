"""The config in `adapter_config.json` and the settings of our components, both ways.

Configs were first saved without a version (names such as `LN_before`, a nested `invertible_adapter`, "gelu" for its
tanh form), then with that of `adapter-transformers` (1 to 4), then as `adapters.0` and `adapters.1`. A config is one
adapter method, or a union of several.
"""

import re
from collections.abc import Mapping
from typing import Any

from madx.contract.module_type import ComponentConfig
from madx.errors import ConfigError, StoreError
from madx.interop.adapterhub.methods import METHODS, method_of
from madx.interop.adapterhub.methods.method import Reading, Source, Target, short
from madx.interop.adapterhub.names import NICE, config_of_name

#: first spelling of a key -> today's
OLD_SPELLING = {
    "LN_before": "ln_before",
    "LN_after": "ln_after",
    "MH_Adapter": "mh_adapter",
    "Output_Adapter": "output_adapter",
}
#: settings of Compacter, which stand in the config of every bottleneck
PHM = {
    "phm_layer",
    "phm_dim",
    "factorized_phm_W",
    "shared_W_phm",
    "shared_phm_rule",
    "factorized_phm_rule",
    "phm_c_init",
    "phm_init_range",
    "learn_phm",
    "hypercomplex_nonlinearity",
    "phm_rank",
    "phm_bias",
}


def check_version(version: Any) -> None:
    """Raises StoreError for a version of the format that is not known."""
    if version is None:
        return
    found = re.fullmatch(r"(adapters\.)?(\d{1,3})\.\d{1,3}[\w.+-]{0,40}", version) if isinstance(version, str) else None
    if not found or int(found[2]) > (1 if found[1] else 4):
        raise StoreError(
            f"The config has the version {short(version)}. Known: none (before 1.0), 1 to 4 (adapter-transformers), "
            "adapters.0 and adapters.1. Save it again with adapters 1.x, or use a newer madx."
        )


def read_config(full: dict[str, Any], *, depth: int, has_invertible: bool) -> Reading:
    """Our components for a whole `adapter_config.json`.

    Args:
        depth: layers of the base.
        has_invertible: True if the weights hold an invertible component; versions before 2 do not say it truthfully.
    Raises ConfigError for a method that madx does not read, an unknown key or a setting that makes no sense.
    """
    source = Source(depth, full.get("version"), full.get("type"), has_invertible)
    given, before_2 = full.get("config"), source.version is None or source.version.startswith(("0.", "1."))
    config = config_of_name(given) if isinstance(given, str) else given
    if not isinstance(config, dict):
        raise ConfigError(f"The adapter's config is {short(given)}; it must be a table of settings or a known name.")
    if before_2 and source.role == "text_lang" and has_invertible and given in ("pfeiffer", "houlsby"):
        config = NICE | config  # these names meant an invertible component for language modules before version 2
    reading = Reading()
    for part in _parts(config):
        _read_part(part, source, reading)
    return reading


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs of a union, or the config itself."""
    if config.get("architecture") != "union":
        return [config]
    parts = config.get("configs")
    if set(config) != {"architecture", "configs"} or not isinstance(parts, list) or not 0 < len(parts) <= 8:
        raise ConfigError(f"The union of configs cannot be read: {short(config)}. It must hold a list of `configs`.")
    if not all(isinstance(part, dict) and part.get("architecture") != "union" for part in parts):
        raise ConfigError(f"The union of configs cannot be read: {short(parts)}. Each must be a table of settings.")
    return parts


def _read_part(config: dict[str, Any], source: Source, reading: Reading) -> None:
    method = method_of(config)
    if config.get("architecture") is None:
        config = _todays_spelling(config, first=source.version is None, reading=reading)
    found = method.read(config, source)
    if twice := sorted(set(found.components) & set(reading.components)):
        raise ConfigError(
            f"The union holds two configs for the component {twice[0]!r}; a module of madx has each component once."
        )
    reading.components |= found.components
    reading.ignored += found.ignored


def _todays_spelling(config: dict[str, Any], *, first: bool, reading: Reading) -> dict[str, Any]:
    """A bottleneck config in today's spelling.

    Args:
        first: True for files without a version, in which the names of two activations meant something else.
    """
    unused = {"architecture"} if config.get("phm_layer") else PHM | {"architecture"}
    plain = {OLD_SPELLING.get(k, k): v for k, v in config.items() if k not in unused}
    if plain.get("new_attention_norm", False) is False and plain.pop("new_attention_norm", None) is not None:
        reading.ignored.append(("new_attention_norm", "a setting of fusion"))
    if plain.pop("attention_type", None) is not None:
        reading.ignored.append(("attention_type", "a setting of fusion"))
    nested = plain.pop("invertible_adapter", None)
    if isinstance(nested, dict) and set(nested) <= {"block_type", "non_linearity", "reduction_factor"}:
        plain["inv_adapter"] = nested.get("block_type")
        plain["inv_adapter_reduction_factor"] = nested.get("reduction_factor")
        plain["inv_non_linearity"] = nested.get("non_linearity")
    elif nested is not None:
        raise ConfigError(f"invertible_adapter is {short(nested)}; known: block_type, non_linearity, reduction_factor.")
    if plain.get("leave_out", []) is None:
        plain["leave_out"] = []
    for key in ("non_linearity", "inv_non_linearity") if first else ():
        plain[key] = {"gelu": "gelu_new", "gelu_orig": "gelu"}.get(str(plain.get(key)), plain.get(key))
    return plain


def write_config(components: Mapping[str, ComponentConfig], *, depth: int, width: int) -> dict[str, Any]:
    """Their config for our components: of one method, or a union of several.

    Raises ConfigError for settings that it cannot express, with all faults at once.
    """
    known = {name for method in METHODS.values() for name in method.components}
    faults = [f"the component {name!r} has no counterpart that madx writes" for name in components if name not in known]
    if not components:
        faults.append("a head alone, without any component, is no adapter there")
    configs = []
    for method in METHODS.values():
        mine = {name: config for name, config in components.items() if name in method.components}
        if mine:
            config, found = method.write(mine, Target(depth, width))
            configs.append(config)
            faults += found
    both: list[Any] = [components[name] for name in ("bottleneck", "compacter") if name in components]
    if len(both) == 2 and set(both[0].places) & set(both[1].places):
        faults.append("the components 'bottleneck' and 'compacter' at one place: there a place has one of the two")
    if {"lora", "ia3"} <= set(components):
        faults.append("the components 'lora' and 'ia3' in one module: there they are two configs of one architecture")
    if faults:
        raise ConfigError("This module cannot be written as an AdapterHub file:\n  " + "\n  ".join(faults))
    return configs[0] if len(configs) == 1 else {"architecture": "union", "configs": configs}
