"""Named sets of components: what papers call an architecture, in the settings of the module types."""

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


def preset(name: str) -> dict[str, ComponentConfig]:
    """The components of a preset; raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"Unknown preset {name!r}; {did_you_mean(name, PRESETS)}")
    return make_components(PRESETS[name][0])


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
