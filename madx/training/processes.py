"""What the processes of a run tell each other; with one process nothing is sent."""

from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor


def over_processes(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    return reduce(tensor, reduction="sum") if PartialState().num_processes > 1 else tensor


def of_the_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, in every process."""
    return broadcast(tensor) if PartialState().num_processes > 1 else tensor
