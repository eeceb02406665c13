"""The number format in which a training computes: the rule behind `precision: auto`.

The base is frozen: it is kept in bfloat16 and never written to, so nothing in it is rounded twice. The trainable
parameters, their moments and every loss stay in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from madx.base import Base

LEAST_WIDTH = 512  # below it, casts and small products cost what half precision saves


def choose_precision(wanted: str, device: torch.device, *, width: int, weights: bool = False) -> str:
    """`fp32` or `bf16` for the setting `auto`, `fp32` or `bf16`.

    Args:
        wanted: `auto` gives bf16 where the machine multiplies bfloat16 matrices in hardware (a GPU's matrix units, a
            CPU's AMX or avx512_bf16) and the base is at least 512 wide, else fp32.
        device: where the training computes.
        width: of the base's layers.
        weights: whether weight deltas are trained or active; a bfloat16 base would round them away, so auto gives fp32.
    """
    if wanted != "auto":
        return wanted
    return "bf16" if not weights and width >= LEAST_WIDTH and multiplies_bf16(device) else "fp32"


def multiplies_bf16(device: torch.device) -> bool:
    """True on a device that runs bfloat16 matrix products in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(ask is not None and ask() for ask in asked)


def to_bf16(base: Base) -> None:
    """Keep a base in bfloat16.

    On a CPU attention then runs as plain matrix products: in this format the fused kernel's backward pass takes three
    times as long (in float32 it is the quicker one, and stays). With transformers 4.57 most bases cannot change their
    attention once they are loaded, and keep it.
    """
    model: Any = base.model
    model.to(torch.bfloat16)
    fused = getattr(base.config, "_attn_implementation", None) == "sdpa"
    if fused and base.device.type == "cpu" and model._can_set_attn_implementation():
        model.set_attn_implementation("eager")


def precision_of(base: Base) -> str:
    """The format of a base: what `auto` means where a loaded base is given."""
    return "bf16" if next(base.encoder.parameters()).dtype == torch.bfloat16 else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass: products in bfloat16 for `bf16`, no change for `fp32`."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)
