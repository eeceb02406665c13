"""Named sets of components: what papers call an architecture, in the settings of the module types."""

from collections.abc import Mapping
from typing import Any

from madx.contract.module_type import ComponentConfig
from madx.errors import ConfigError, did_you_mean
from madx.module_types import MODULE_TYPES

#: name -> (component settings by module type, what it is)
PRESETS: dict[str, tuple[dict[str, dict], str]] = {
    "madx": (
        {"bottleneck": {"reduction_factor": 2.0}, "invertible": {}},
        "MAD-X language module: Pfeiffer bottleneck and NICE, reduction 2 (Pfeiffer et al. 2020)",
    ),
    "madx2": (
        {"bottleneck": {"reduction_factor": 2.0, "leave_out": [-1]}, "invertible": {}},
        "MAD-X 2.0 language module: none in the last layer (Pfeiffer et al. 2021)",
    ),
    "pfeiffer": ({"bottleneck": {}}, "bottleneck after the feed-forward block, reduction 16: MAD-X task module"),
    "pfeiffer2": (
        {"bottleneck": {"leave_out": [-1], "activation": "gelu"}},
        "MAD-X 2.0 task module: GELU, none in the last layer",
    ),
    "houlsby": (
        {"bottleneck": {"places": ["attention", "ffn"], "reads": "output", "activation": "swish"}},
        "bottlenecks after attention and feed-forward block (Houlsby et al. 2019)",
    ),
    "houlsby_inv": (
        {
            "bottleneck": {"places": ["attention", "ffn"], "reads": "output", "activation": "swish"},
            "invertible": {"activation": "swish"},
        },
        "houlsby with a NICE invertible component",
    ),
    "bapna": (
        {"bottleneck": {"norm_before": True}},
        "bottleneck with a layer norm of its own (Bapna & Firat 2019); the choice for pre-norm bases",
    ),
    "parallel": (
        {"bottleneck": {"reads": "input", "reduction_factor": 2.0, "scaling": 4.0, "init": "zero_up"}},
        "bottleneck beside the feed-forward block, scale 4 (He et al. 2022)",
    ),
    "scaled_parallel": (
        {"bottleneck": {"reads": "input", "reduction_factor": 2.0, "scaling": "learned", "init": "zero_up"}},
        "parallel with one learned scale a layer",
    ),
    "lt_sft": (
        {"sparse_diff": {"entries": "language"}},
        "LT-SFT language module: a sparse difference of the weights, as large as a MAD-X one (Ansell et al. 2022)",
    ),
    "lt_sft_task": ({"sparse_diff": {"entries": "task"}}, "LT-SFT task module (Ansell et al. 2022)"),
    "bitfit": (
        {"sparse_diff": {"entries": "all", "kinds": ["bias"]}},
        "all biases of the base but those of layer norms (Ben Zaken et al. 2022)",
    ),
    "head_only": ({}, "no component at all: a task's head on the frozen base's output, the feature-based baseline"),
    "full": (
        {"sparse_diff": {"entries": "all", "freeze_norms": False}},
        "every weight of the encoder: full fine-tuning as a baseline",
    ),
    "top_layers": (
        {"sparse_diff": {"entries": "all", "freeze_norms": False, "groups": ["layers"], "top_layers": 2}},
        "every weight of the last two layers: fine-tuning of the upper layers as a baseline",
    ),
}


def components_of(chosen: str | Mapping[str, Any]) -> dict[str, ComponentConfig]:
    """The components that a setting `components` asks for, in one of three forms:

        pfeiffer                                                 a preset
        {preset: pfeiffer, bottleneck: {reduction_factor: 2}}    a preset with single settings changed
        {bottleneck: {reduction_factor: 2}}                      everything spelled out, by module type

    Raises ConfigError for an unknown preset, module type or setting, and for a change that the preset has no place for.
    """
    if isinstance(chosen, str):
        return preset(chosen)
    if chosen.get("preset") is None:
        return make_components({name: values for name, values in chosen.items() if name != "preset"})
    return make_components(_changed(chosen["preset"], {k: v for k, v in chosen.items() if k != "preset"}))


def preset(name: str) -> dict[str, ComponentConfig]:
    """The components of a preset; raises ConfigError for an unknown name."""
    return make_components(_preset(name))


def _preset(name: str) -> dict[str, dict]:
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name][0]
    form = ""
    if known := next((each for each in PRESETS if str(name).startswith((f"{each}(", f"{each} ", f"{each}:"))), None):
        form = f" A preset with one setting changed is a mapping, e.g. {_example(known)}."
    raise ConfigError(f"Unknown preset {name!r}; {did_you_mean(name, PRESETS)}.{form}")


def _example(name: str) -> str:
    """A line that changes a setting of a preset."""
    component = next(iter(PRESETS[name][0]), "bottleneck")
    setting = next(iter(PRESETS[name][0].get(component) or MODULE_TYPES.get(component).Config.model_fields))
    return f"{{preset: {name}, {component}: {{{setting}: ...}}}}"


def _changed(name: str, changes: dict[str, Any]) -> dict[str, dict]:
    """The settings of a preset with others in their place. Raises ConfigError for a change that has no place in it."""
    made = {component: dict(values) for component, values in _preset(name).items()}
    for component, values in changes.items():
        if component not in made:
            raise ConfigError(f"components.{component}: {_no_place(name, list(made), component)}")
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(
                f"components.{component}: settings are needed, as in {_example(name)}; given: {values!r}."
            )
        made[component] |= values or {}
    return made


def _no_place(name: str, components: list[str], given: str) -> str:
    """The reason why a preset has no place for a key, and what to write."""
    having = [component for component in components if given in MODULE_TYPES.get(component).Config.model_fields]
    if having:
        forms = " or ".join(f"{component}: {{{given}: ...}}" for component in having)
        return f"a setting of {' and of '.join(having)}: write {forms}."
    if given not in MODULE_TYPES:
        return f"no module type; {did_you_mean(given, components)}"
    return (
        f"the preset {name} has no such component, only {', '.join(components) or 'a head'}. A preset is changed, not "
        f"added to: name another preset, or spell all out without one, e.g. components={{{given}: {{...}}}}."
    )


def make_components(settings: dict[str, dict]) -> dict[str, ComponentConfig]:
    """Typed component settings from plain ones: `{"bottleneck": {"reduction_factor": 2.0}}`.

    Raises ConfigError for an unknown module type or setting, naming all faults.
    """
    from pydantic import ValidationError

    components = {}
    for name, values in settings.items():
        schema = MODULE_TYPES.get(name).Config
        try:
            components[name] = schema.model_validate(values or {})
        except ValidationError as error:
            faults = []
            for fault in error.errors():
                key = ".".join(map(str, fault["loc"]))
                hint = f"; {did_you_mean(key, schema.model_fields)}" if fault["type"] == "extra_forbidden" else ""
                faults.append(f"{name}.{key}: {fault['msg']}{hint}")
            raise ConfigError("Faults in the settings of a module:\n  " + "\n  ".join(faults)) from None
    return components
