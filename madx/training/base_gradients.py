"""Gradients of the base's own parameters, and the conditions under which a weight delta can be trained."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from madx.contract.module_type import WeightsType
from madx.errors import TrainingError
from madx.training.trainable import Trainee


@contextmanager
def reading_gradients(parameters: Mapping[str, nn.Parameter], read: Callable[[str, Tensor], None]) -> Iterator[None]:
    """For the length of a block, hand the gradients of some parameters of the base to `read(name, gradient)`.

    It is called in each backward pass, as soon as a parameter's gradient is complete; the gradient is let go
    afterwards, so that one of them is alive at a time. At the end the parameters ask for no gradients, as those of a
    frozen base.
    """

    def reader(name: str) -> Callable[[nn.Parameter], None]:
        def hook(parameter: nn.Parameter) -> None:
            gradient, parameter.grad = gradient_of(parameter), None
            read(name, gradient)

        return hook

    handles = []
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(reader(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        close_to_gradients(parameters.values())


def close_to_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make parameters ask for no gradients any more, and drop those that they have."""
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter, which must have one."""
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("a gradient was read before a backward pass had computed it")
    return gradient


def require_float32(trainee: Trainee[Any]) -> None:
    """Raises TrainingError for a base in half precision, which would round small weight deltas away."""
    dtype = trainee.engine.base.model.dtype
    if dtype != torch.float32:
        raise TrainingError(
            f"The base is in {str(dtype)[6:]}, where small weight deltas are rounded away. Load it in float32; "
            "train.precision bf16 still computes products in half precision."
        )


def require_unscaled(trainee: Trainee[Any], unit: WeightsType) -> None:
    """Raises TrainingError unless the active composition adds a unit's weight delta as it is."""
    terms = [applied.term for applied in trainee.engine.deltas.applied if applied.term.shares[0].unit is unit]
    if len(terms) != 1 or len(terms[0].shares) > 1 or terms[0].scale != 1.0:
        raise TrainingError(
            f"The weight delta of {trainee.name!r} must stand unscaled in the composition "
            f"'{trainee.engine.composition}', in no average and no election of signs, because it is trained over the "
            f"sum of the others. Activate e.g. 'eng + {trainee.name}'."
        )
