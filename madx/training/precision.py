"""In which number format a training computes: the rule behind `precision: auto`.

The base is frozen: it is kept in bfloat16 and never written to, so nothing of it is rounded twice. What trains, its moments
and every loss stay in float32.
"""

import torch

from madx.base import Base

LEAST_WIDTH = 512  # below it casts and small products take what half precision saves


def choose_precision(wanted: str, device: torch.device, *, width: int, weights: bool = False) -> str:
    """`fp32` or `bf16`, for the wish `auto`, `fp32` or `bf16`. auto: bf16 where the machine multiplies bfloat16 matrices in
    hardware (a GPU's matrix units, a CPU's AMX or avx512_bf16) and the base is at least 512 wide; fp32 elsewhere, and where
    differences of weights train or act (`weights`): a bfloat16 base would round them away."""
    if wanted != "auto":
        return wanted
    return "bf16" if not weights and width >= LEAST_WIDTH and multiplies_bf16(device) else "fp32"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(ask is not None and ask() for ask in asked)


def to_bf16(base: Base) -> None:
    """Keep a base in bfloat16. On a CPU attention then runs as plain matrix products: in this format the fused kernel's backward
    pass takes three times as long (in float32 it is the quicker one, and stays). With transformers 4.57 most bases cannot
    change it once they are loaded, and keep what they have."""
    base.model.to(torch.bfloat16)
    fused = getattr(base.config, "_attn_implementation", None) == "sdpa"
    if fused and base.device.type == "cpu" and base.model._can_set_attn_implementation():
        base.model.set_attn_implementation("eager")


def precision_of(base: Base) -> str:
    """The format a base is in: what `auto` means where a base is handed over ready."""
    return "bf16" if base.model.dtype == torch.bfloat16 else "fp32"
