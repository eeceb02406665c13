"""AdapterHub's configs and the settings of our components, both ways.

One of their configs says in switches what ours says in words. With h the sublayer's output and x the residual stream:

    original_ln_before    reads "sum_norm" (LN(h + x)), else "output" (h);   is_parallel: reads "input"
    residual_before_ln    residual: True "output" (h), "post_add" "sum" (h + x), False "read" (what was read)
    mh_adapter, output_adapter                 places "attention", "ffn"
    adapter_residual_before_ln with ln_after   norm_after_residual
    original_ln_after                          final_norm
    inv_adapter "nice"                         the component `invertible`

Configs were first saved without a version (names such as `LN_before`, a nested `invertible_adapter`, "gelu" for its
tanh form), then with that of `adapter-transformers` (1 to 4), then as `adapters.0` and `adapters.1`.
"""

import ast
import re
from dataclasses import dataclass, field

from pydantic import ValidationError

from madx.contract.module_type import ComponentConfig
from madx.errors import ConfigError, StoreError, did_you_mean
from madx.interop.adapterhub.schema import (
    ACTIVATIONS,
    ACTIVATIONS_OUT,
    INIT,
    NAMED,
    NICE,
    OLD_SPELLING,
    OTHER_TYPES,
    PHM,
    ForeignConfig,
)
from madx.module.presets import make_components


@dataclass
class Reading:
    """components: settings of our components; ignored: (their key, why)."""

    components: dict[str, ComponentConfig] = field(default_factory=dict)
    ignored: list[tuple[str, str]] = field(default_factory=list)


def check_version(version) -> None:
    """Raises StoreError for a version of the format that is not known."""
    if version is None:
        return
    found = re.fullmatch(r"(adapters\.)?(\d{1,3})\.\d{1,3}[\w.+-]{0,40}", version) if isinstance(version, str) else None
    if not found or int(found[2]) > (1 if found[1] else 4):
        raise StoreError(
            f"The config has the version {_short(version)}. Known: none (before 1.0), 1 to 4 (adapter-transformers), "
            "adapters.0 and adapters.1. Save it again with adapters 1.x, or use a newer madx."
        )


def read_parts(full: dict, *, depth: int, has_invertible: bool) -> Reading:
    """Our components for a whole `adapter_config.json`, on a base with `depth` layers.

    has_invertible: whether the weights hold an invertible component; versions before 2 do not say it truthfully.
    Raises ConfigError for a module type that is not read, an unknown key or a switch that makes no sense.
    """
    reading, old = Reading(), "version" not in full
    early = old or str(full["version"]).startswith(("0.", "1."))
    plain = _plain(full.get("config"), old=old, reading=reading)
    if early and full.get("type") == "text_lang" and has_invertible and full.get("config") in ("pfeiffer", "houlsby"):
        plain = NICE | plain  # these names meant an invertible component for language modules before version 2
    try:
        theirs = ForeignConfig.model_validate(plain)
    except ValidationError as error:
        known = [k for k in ForeignConfig.model_fields if k != "inv_non_linearity"]
        raise ConfigError(
            "The config of this adapter cannot be read:\n  " + "\n  ".join(_faults(error, known))
        ) from None
    if theirs.inv_adapter and full.get("type") == "text_task" and not has_invertible:
        reading.ignored.append(
            ("inv_adapter", "named by old task configs that never used it; the file has no such weights")
        )
        theirs = theirs.model_copy(update={"inv_adapter": None})
    if theirs.mh_adapter or theirs.output_adapter:
        _read_bottleneck(theirs, depth, reading)
    if theirs.inv_adapter:
        _read_invertible(theirs, reading)
    if not reading.components:
        raise ConfigError(
            "This adapter has neither bottlenecks (mh_adapter, output_adapter) nor an invertible component."
        )
    for key, meant in (
        ("init_weights_seed", theirs.init_weights_seed is not None),
        ("cross_adapter", theirs.cross_adapter),
    ):
        if meant:
            why = "the weights are here" if key == "init_weights_seed" else "an encoder has no cross-attention"
            reading.ignored.append((key, why))
    return reading


def _plain(config, *, old: bool, reading: Reading) -> dict:
    """The bottleneck config in today's spelling; raises ConfigError for other module types."""
    if isinstance(config, str):
        config = _named(config)
    if not isinstance(config, dict):
        raise ConfigError(f"The adapter's config is {_short(config)}; it must be a table of settings or a known name.")
    kind = config.get("architecture")
    if kind is not None:
        _refuse(kind, config)
    if config.get("phm_layer"):
        _refuse("compacter", config)
    plain = {OLD_SPELLING.get(k, k): v for k, v in config.items() if k not in PHM and k != "architecture"}
    if plain.get("new_attention_norm", False) is False and plain.pop("new_attention_norm", None) is not None:
        reading.ignored.append(("new_attention_norm", "a setting of fusion"))
    if plain.pop("attention_type", None) is not None:
        reading.ignored.append(("attention_type", "a setting of fusion"))
    nested = plain.pop("invertible_adapter", None)
    if isinstance(nested, dict) and set(nested) <= {"block_type", "non_linearity", "reduction_factor"}:
        plain |= {
            "inv_adapter": nested.get("block_type"),
            "inv_adapter_reduction_factor": nested.get("reduction_factor"),
        }
        plain["inv_non_linearity"] = nested.get("non_linearity")
    elif nested is not None:
        raise ConfigError(
            f"invertible_adapter is {_short(nested)}; known: block_type, non_linearity, reduction_factor."
        )
    if plain.get("leave_out", []) is None:
        plain["leave_out"] = []
    for key in ("non_linearity", "inv_non_linearity") if old else ():
        plain[key] = {"gelu": "gelu_new", "gelu_orig": "gelu"}.get(str(plain.get(key)), plain.get(key))
    return plain


def _named(text: str) -> dict:
    """The config that a name stands for: `pfeiffer`, `seq_bn[reduction_factor=8]`."""
    found = re.fullmatch(r"\s*([\w+]{1,40})\s*(?:\[(.{0,500})\])?\s*", text)
    name = found[1] if found else text
    if not found or name not in NAMED:
        if name in OTHER_TYPES or "|" in text:
            _refuse(name if name in OTHER_TYPES else "union", {})
        raise ConfigError(f"The config is named {_short(text)}; {did_you_mean(name[:40], NAMED)}")
    try:
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("only name=value")
        return NAMED[name] | {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (ValueError, SyntaxError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise ConfigError(f"Cannot read the config {_short(text)}: write name[key=value, ...].") from error


def _refuse(kind, config: dict) -> None:
    if kind == "lora" and config.get("composition_mode") == "scale":
        kind = "ia3"
    if kind == "union" and isinstance(config.get("configs"), list):
        inner = [str(c.get("architecture") or "bottleneck") for c in config["configs"] if isinstance(c, dict)]
        kind = f"union of {', '.join(inner)[:200]}"
    raise ConfigError(
        f"This adapter is of the module type {_short(kind)}, which madx cannot read from AdapterHub files. "
        "Read are: bottleneck (seq_bn, double_seq_bn, par_bn, ...) and invertible (nice). Nothing was loaded."
    )


def _read_bottleneck(theirs: ForeignConfig, depth: int, reading: Reading) -> None:
    left_out = sorted({i for i in theirs.leave_out if 0 <= i < depth})
    if other := sorted(set(theirs.leave_out) - set(left_out)):
        reading.ignored.append(
            (
                f"leave_out {_short(other)}",
                f"no layer has that number (0-{depth - 1}), and there they leave out nothing",
            )
        )
    if len(left_out) == depth:
        reading.ignored.append(("mh_adapter, output_adapter", "leave_out names every layer"))
        return
    reads = "input" if theirs.is_parallel else "sum_norm" if theirs.original_ln_before else "output"
    residual = {True: "output", "post_add": "sum", False: "read"}[theirs.residual_before_ln]
    if theirs.is_parallel:  # has no residual of its own and passes both switches over
        residual = "output"
    elif residual == "sum" and reads != "sum_norm":
        raise ConfigError('residual_before_ln="post_add" needs original_ln_before=true: nothing was added before.')
    reading.components |= make_components(
        {
            "bottleneck": {
                "places": [p for p, on in (("attention", theirs.mh_adapter), ("ffn", theirs.output_adapter)) if on],
                "reduction_factor": theirs.reduction_factor,
                "reads": reads,
                "residual": residual,
                "activation": _activation(theirs.non_linearity),
                "norm_before": theirs.ln_before,
                "norm_after": theirs.ln_after,
                "norm_after_residual": theirs.ln_after and theirs.adapter_residual_before_ln and not theirs.is_parallel,
                "final_norm": theirs.original_ln_after,
                "scaling": theirs.scaling,
                "gate": theirs.use_gating,
                "dropout": theirs.dropout,
                "stochastic_depth": theirs.stochastic_depth,
                "init": INIT[theirs.init_weights],
                "leave_out": left_out,
            }
        }
    )


def _read_invertible(theirs: ForeignConfig, reading: Reading) -> None:
    if theirs.inv_adapter == "glow":
        raise ConfigError(
            "This adapter has an invertible component of the kind 'glow', which madx cannot read from AdapterHub files: "
            "there it mixes the tokens' axis with the channels' and raises in use, so no such file holds a trained map. "
            "Read is: nice. Nothing was loaded."
        )
    if theirs.inv_adapter_reduction_factor is None:
        raise ConfigError("inv_adapter is set, but inv_adapter_reduction_factor is missing.")
    reading.components |= make_components(
        {
            "invertible": {
                "reduction_factor": theirs.inv_adapter_reduction_factor,
                "activation": _activation(theirs.inv_non_linearity or theirs.non_linearity),
            }
        }
    )


def _activation(name: str) -> str:
    if name.lower() not in ACTIVATIONS:
        raise ConfigError(f"The activation {_short(name)} is not known here; {did_you_mean(name[:40], ACTIVATIONS)}")
    return ACTIVATIONS[name.lower()]


def _faults(error: ValidationError, known: list[str]) -> list[str]:
    faults = []
    for fault in error.errors():
        key = ".".join(map(str, fault["loc"]))[:80]
        hint = (
            f"; {did_you_mean(key, known)}" if fault["type"] == "extra_forbidden" else f", got {_short(fault['input'])}"
        )
        faults.append(f"{key}: {fault['msg']}{hint}")
    return faults[:20]


def _short(value) -> str:
    """A foreign value for a message: as Python would print it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---- out -----------------------------------------------------------------------------------------------------------


def write_config(components: dict[str, ComponentConfig], *, depth: int) -> dict:
    """Their config for our components; raises ConfigError for what it cannot say, all faults at once."""
    faults = [
        f"the component {p!r} has no counterpart that madx writes"
        for p in components
        if p not in ("bottleneck", "invertible")
    ]
    if not components:
        faults.append("a head alone, without any component, is no adapter there")
    bottleneck, invertible = components.get("bottleneck"), components.get("invertible")
    names = {p.activation for p in (bottleneck, invertible) if p is not None}
    faults += [f"the activation {n!r} has no name there" for n in sorted(names - set(ACTIVATIONS_OUT))]
    if len(names) > 1:
        faults.append(f"one activation serves both components there, here are {' and '.join(sorted(names))}")
    config = {"mh_adapter": False, "output_adapter": False, "reduction_factor": 16.0}
    if bottleneck is not None:
        config |= _write_bottleneck(bottleneck, depth, faults)
    if invertible is not None:
        if invertible.kind != "nice":
            faults.append(f"an invertible component of the kind {invertible.kind!r} does not work there")
        config |= {"inv_adapter": "nice", "inv_adapter_reduction_factor": invertible.reduction_factor}
    if faults:
        raise ConfigError("This module cannot be written as an AdapterHub file:\n  " + "\n  ".join(faults))
    full = ForeignConfig(**config, non_linearity=ACTIVATIONS_OUT[names.pop()]).model_dump(exclude={"inv_non_linearity"})
    return full | {"phm_layer": False}


def _write_bottleneck(component: ComponentConfig, depth: int, faults: list[str]) -> dict:
    if (component.reads, component.residual) in (("output", "sum"), ("input", "sum"), ("input", "read")):
        faults.append(f"a bottleneck that reads {component.reads!r} with the residual {component.residual!r}")
    if component.reads == "input" and component.norm_after and component.norm_after_residual:
        faults.append("norm_after_residual on a bottleneck that reads 'input'")
    return {
        "mh_adapter": "attention" in component.places,
        "output_adapter": "ffn" in component.places,
        "reduction_factor": component.reduction_factor,
        "original_ln_before": component.reads == "sum_norm",
        "is_parallel": component.reads == "input",
        "original_ln_after": component.final_norm,
        "residual_before_ln": {"output": True, "sum": "post_add", "read": False}[component.residual],
        "ln_before": component.norm_before,
        "ln_after": component.norm_after,
        "adapter_residual_before_ln": component.norm_after and component.norm_after_residual,
        "scaling": component.scaling,
        "use_gating": component.gate,
        "dropout": component.dropout,
        "stochastic_depth": component.stochastic_depth,
        "init_weights": {ours: theirs for theirs, ours in INIT.items()}[component.init],
        "leave_out": sorted(set(range(depth)) - component.layers(depth)),
    }
