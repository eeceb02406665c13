"""The setting `components`: a preset, a preset with single settings changed, or all settings by module type."""

from collections.abc import Mapping
from typing import Any

from madx.contract.module_type import ComponentConfig, ModuleType
from madx.errors import ConfigError, did_you_mean
from madx.module.presets import ALIASES, PRESETS, make_components, preset
from madx.module_types import MODULE_TYPES


def components_of(chosen: str | Mapping[str, Any]) -> dict[str, ComponentConfig]:
    """The components that the setting asks for, in one of three forms:

        pfeiffer                                                 a preset
        {preset: pfeiffer, bottleneck: {reduction_factor: 2}}    a preset with single settings changed
        {bottleneck: {reduction_factor: 2}}                      all settings, by module type

    Raises ConfigError for an unknown preset, module type or setting, and for a change that the preset has no place for.
    """
    if isinstance(chosen, str):
        return preset(_known(chosen))
    changes = {name: values for name, values in chosen.items() if name != "preset"}
    return make_components(changes if chosen.get("preset") is None else _changed(_known(chosen["preset"]), changes))


def _known(name: Any) -> str:
    """The name of a preset. Raises ConfigError for an unknown one, with the form of a change if it looks like one."""
    if isinstance(name, str) and (known := ALIASES.get(name, name)) in PRESETS:
        return known
    meant = next((each for each in PRESETS if str(name).startswith((f"{each}(", f"{each} ", f"{each}:"))), None)
    form = f". A preset with one setting changed is a mapping: {_form(meant)}" if meant else ""
    raise ConfigError(f"Unknown preset {name!r}; {did_you_mean(name, PRESETS)}{form}")


def _form(name: str) -> str:
    """The form in which a setting of a preset is changed."""
    component = next(iter(PRESETS[name][0]), "bottleneck")
    return f"{{preset: {name}, {component}: {{SETTING: VALUE}}}}"


def _changed(name: str, changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of a preset with others in their place. Raises ConfigError for a change that has no place in it."""
    made = {component: dict(values) for component, values in PRESETS[name][0].items()}
    for component, values in changes.items():
        if component not in made:
            raise ConfigError(f"{component}: {_no_place(name, list(made), component)}")
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"{component}: settings are needed, as in {_form(name)}; given: {values!r}.")
        made[component] |= values or {}
    return made


def _no_place(name: str, components: list[str], given: str) -> str:
    """The reason why a preset has no place for a key, and what to write instead."""
    kinds: dict[str, type[ModuleType]] = {component: MODULE_TYPES.get(component) for component in components}
    having = [component for component, kind in kinds.items() if given in kind.Config.model_fields]
    if having:
        forms = " or ".join(f"{component}: {{{given}: VALUE}}" for component in having)
        return f"this is a setting of {' and of '.join(having)}, not a module type; write {forms}."
    if given not in MODULE_TYPES:
        return f"unknown module type; {did_you_mean(given, components)}"
    return (
        f"the preset {name} has no such component, only {', '.join(components) or 'a head'}. A preset is changed, not "
        f"added to: take another one, or give all settings without a preset, e.g. components={{{given}: {{...}}}}."
    )
