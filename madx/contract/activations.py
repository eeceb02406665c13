"""Activation functions by the names that settings use for them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from madx.errors import did_you_mean

#: name -> function of one tensor, applied to each number by itself
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "relu_squared": lambda x: F.relu(x).square(),
    "identity": lambda x: x,
}


def check_activation(name: str) -> str:
    """Return the name if such an activation exists; a validator of settings.

    Raises ValueError for an unknown name, which pydantic reports as a fault of the setting.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; {did_you_mean(name, ACTIVATIONS)}")
    return name
