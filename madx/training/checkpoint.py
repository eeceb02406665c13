"""The state of a run in one file, replaced atomically: a run killed at any moment goes on from its last checkpoint.

The file is safetensors: weights and best weights of the module, moments of the optimiser; step, best score and history
are JSON in its metadata.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from madx.errors import TrainingError

VERSION = 1


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict) -> None:
    """Write beside the old file, flush to disk, then take its place. Raises TrainingError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(plain, temporary, metadata={"state": json.dumps({"version": VERSION, **state})})
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:  # safetensors has an error class of its own for a full disk
        raise TrainingError(
            f"Cannot write the checkpoint {path}: {error}. The checkpoint before it is intact; free space on the disk "
            "and start the same command again to go on from there."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def read_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict] | None:
    """(tensors, state), or None when there is no file. Raises TrainingError for a damaged or foreign file."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            state = json.loads((file.metadata() or {})["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        if state["version"] != VERSION:
            raise ValueError(f"its version is {state['version']}, this madx reads {VERSION}")
    except Exception as error:
        raise TrainingError(
            f"The checkpoint {path} cannot be read: {error}. Remove it, or start with resume=false, to train from the beginning."
        ) from error
    return tensors, state


def require_same_run(found: dict, wanted: dict, path: Path) -> None:
    """Raises TrainingError naming every setting in which a checkpoint differs from the run at hand."""
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
