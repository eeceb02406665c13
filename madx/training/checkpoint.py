"""The state of a run in one file, which is replaced atomically: a run killed at any moment goes on from its last
checkpoint.

The file is safetensors. Its tensors are `weights.*` (all that is trained), `best.*`, `mean.*` (see
`madx.training.kept_weights`) and `optimizer.N.*` (the moments of the N-th parameter); step, best score and history
are JSON in its metadata.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from madx.errors import TrainingError
from madx.files.reading import why_no_file
from madx.files.reasons import reason
from madx.files.writing import placed

VERSION = 2  # 1: madx 0.1.0


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a file beside the old one, flush it to the disk, then let it take the old one's place.

    Raises TrainingError when the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        with placed(path) as temporary:
            save_file(plain, temporary, metadata={"state": json.dumps({"version": VERSION, **state})})
    except Exception as error:  # safetensors has an error class of its own for a full disk
        raise TrainingError(
            f"Cannot write the checkpoint {path}: {reason(error)}. The checkpoint before it is intact; free "
            "space on the disk and start the same command again to go on from there."
        ) from error


def read_checkpoint(
    path: Path, *, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, state), or None when there is no file.

    Raises TrainingError for a damaged file, a foreign one, and one that another version of madx has written.
    """
    if not os.path.lexists(path):
        return None
    if fault := why_no_file(path):
        raise TrainingError(
            f"The checkpoint {path} cannot be read: {fault}. Remove it, or start with resume=false, to train from the "
            "beginning."
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            state = json.loads((file.metadata() or {})["state"])
            if state["version"] != VERSION:
                raise ValueError(
                    f"another version of madx wrote it (format {state['version']}, this madx reads format {VERSION})"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except Exception as error:
        raise TrainingError(
            f"The checkpoint {path} cannot be read: {error}. Remove it, or start with resume=false, to train from the "
            "beginning."
        ) from error
    return tensors, state


def require_same_run(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Raises TrainingError that names every setting in which a checkpoint differs from the run at hand."""
    differing = [
        f"{key}: checkpoint {found.get(key)!r}, now {wanted.get(key)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if json.dumps(found.get(key), default=str) != json.dumps(wanted.get(key), default=str)
    ]
    if differing:
        raise TrainingError(
            f"The checkpoint {path} belongs to a run with other settings:\n  " + "\n  ".join(differing) + "\n"
            "Take the old settings to go on with it, another run folder, or resume=false to start anew."
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments that an optimiser keeps, by `optimizer.N.name` for its N-th parameter."""
    found: dict[str, Tensor] = {}
    for number, parameter in enumerate(_parameters_of(optimizer)):
        moments = optimizer.state.get(parameter, {})
        found |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return found


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the moments of a checkpoint."""
    # a fused optimiser counts its steps on the device of the weights, another one on the CPU
    stays = () if optimizer.defaults.get("fused") else ("step",)
    parameters = _parameters_of(optimizer)
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            parameter = parameters[int(number)]
            optimizer.state[parameter][name] = value if name in stays else value.to(parameter.device)


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
