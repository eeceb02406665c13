"""Communication between the processes of a run; with one process nothing is sent."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import PartialState, utils
from torch import Tensor

from madx.errors import MadxError, TrainingError


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    return utils.reduce(tensor, reduction="sum") if PartialState().num_processes > 1 else tensor


def broadcast(tensor: Tensor) -> Tensor:
    """The first process's tensor, in every process."""
    return utils.broadcast(tensor) if PartialState().num_processes > 1 else tensor


@torch.no_grad()
def broadcast_in_place(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, whatever seed the caller's own code had."""
    if PartialState().num_processes > 1:
        for tensor in (t for t in tensors if t.numel()):
            tensor.copy_(broadcast(tensor.detach().clone()))


def require_same(value: int, what: str, folder: Path) -> None:
    """Raises TrainingError, in every process, when they did not all find the same value in a run's folder."""
    process = PartialState()
    if process.num_processes == 1:
        return
    found = utils.gather(torch.tensor([value], device=process.device)).tolist()
    if len(set(found)) > 1:
        raise TrainingError(
            f"The processes found different states of the run in {folder} ({what}: {', '.join(map(str, found))}). Only "
            "the first process writes there and all of them read: the folder must be on a disk that all machines "
            "share, or start with resume=false."
        )


def on_main_process(action: Callable[[], None]) -> None:
    """Run an action in the first process. When it fails there, every process raises: the others would wait for ever."""
    process, error = PartialState(), None
    if process.is_main_process:
        try:
            action()
        except MadxError as raised:
            error = raised
    failed = all_reduce(torch.tensor(float(error is not None), device=process.device)).item()
    if error is not None:
        raise error
    if failed:
        raise TrainingError("The first process could not write the state of the run; its own message says why.")
