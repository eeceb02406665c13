"""Configs that are saved by name: `pfeiffer`, `seq_bn[reduction_factor=8]`, `prefix_tuning|par_bn`."""

import ast
import re
from typing import Any

from madx.errors import ConfigError, did_you_mean
from madx.interop.adapterhub.methods.method import short

_SEQUENTIAL = {
    "mh_adapter": False,
    "output_adapter": True,
    "reduction_factor": 16,
    "non_linearity": "relu",
    "original_ln_before": True,
    "original_ln_after": True,
    "residual_before_ln": True,
}
_DOUBLE = _SEQUENTIAL | {"mh_adapter": True, "original_ln_before": False, "non_linearity": "swish"}
_PARALLEL = _SEQUENTIAL | {
    "original_ln_before": False,
    "is_parallel": True,
    "init_weights": "mam_adapter",
    "reduction_factor": 2,
    "scaling": 4.0,
}
#: the invertible adapter of the names with `inv`
NICE = {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}

NAMED: dict[str, dict[str, Any]] = {
    "seq_bn": _SEQUENTIAL,
    "pfeiffer": _SEQUENTIAL,
    "double_seq_bn": _DOUBLE,
    "houlsby": _DOUBLE,
    "seq_bn_inv": _SEQUENTIAL | NICE,
    "pfeiffer+inv": _SEQUENTIAL | NICE,
    "double_seq_bn_inv": _DOUBLE | NICE,
    "houlsby+inv": _DOUBLE | NICE,
    "par_bn": _PARALLEL,
    "parallel": _PARALLEL,
    "scaled_par_bn": _PARALLEL | {"scaling": "learned"},
    "scaled_parallel": _PARALLEL | {"scaling": "learned"},
}
_COMPACTER = {"phm_layer": True, "reduction_factor": 32, "non_linearity": "gelu"}
NAMED |= {"compacter": _DOUBLE | _COMPACTER, "compacter++": _SEQUENTIAL | _COMPACTER}
_IA3 = {
    "architecture": "lora",
    "intermediate_lora": True,
    "r": 1,
    "alpha": 1,
    "attn_matrices": ["k", "v"],
    "composition_mode": "scale",
    "init_weights": "ia3",
}
NAMED |= {
    "lora": {"architecture": "lora"},
    "dora": {"architecture": "lora", "use_dora": True},
    "ia3": _IA3,
    "prefix_tuning": {"architecture": "prefix_tuning"},
    "prefix_tuning_flat": {"architecture": "prefix_tuning", "flat": True},
    "prompt_tuning": {"architecture": "prompt_tuning"},
    "loreft": {"architecture": "reft"},
    "noreft": {"architecture": "reft", "orthogonality": False},
    "direft": {"architecture": "reft", "orthogonality": False, "subtract_projection": False},
    "mam": {
        "architecture": "union",
        "configs": [{"architecture": "prefix_tuning", "bottleneck_size": 800}, _PARALLEL],
    },
}
NAMED["unipelt"] = {
    "architecture": "union",
    "configs": [
        {"architecture": "prefix_tuning", "prefix_length": 10, "use_gating": True},
        _SEQUENTIAL | {"use_gating": True},
        {"architecture": "lora", "alpha": 2, "use_gating": True},
    ],
}

#: names of configs whose methods madx does not read
OTHER_NAMES = (
    "mtl_lora",
    "vera",
    "dvora",
)


def config_of_name(text: str) -> dict[str, Any]:
    """The config that a name stands for; several names with `|` between them are a union.

    >>> config_of_name("seq_bn[reduction_factor=8]")["reduction_factor"]
    8
    """
    configs = [_one(part) for part in re.split(r"\|(?![^\[]*\])", text[:4000])]
    return configs[0] if len(configs) == 1 else {"architecture": "union", "configs": configs}


def _one(text: str) -> dict[str, Any]:
    found = re.fullmatch(r"\s*([\w+]{1,40})\s*(?:\[(.{0,500})\])?\s*", text)
    name = found[1] if found else text
    if name in OTHER_NAMES:
        return {"architecture": name}
    if not found or name not in NAMED:
        raise ConfigError(f"The config is named {short(text)}; {did_you_mean(name[:40], NAMED)}")
    try:
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("only name=value")
        return NAMED[name] | {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (ValueError, SyntaxError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise ConfigError(f"Cannot read the config {short(text)}: write name[key=value, ...].") from error
