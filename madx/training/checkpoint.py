"""The state of a run in one file, which is replaced atomically: a run killed at any moment goes on from its last
checkpoint.

The file is safetensors. Its tensors are `weights.*` (all that is trained), `best.*`, `mean.*` (see
`madx.training.kept_weights`) and `optimizer.N.*` (the moments of the N-th parameter); step, best score and history
are JSON in its metadata, and so is the sha256 of each tensor, under one checksum with the rest: a checkpoint in which
a single bit has changed is refused.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from madx.checksums import CHECKSUM, checksum, fault_of_checksum, parse_json
from madx.errors import TrainingError
from madx.files.reading import why_no_file
from madx.files.reasons import reason
from madx.files.writing import placed

VERSION = 3  # 1: madx 0.1.0; 2, of no release, had no checksum
WAY_OUT = "Remove it, or begin anew with --fresh (resume=false), which removes it."


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a file beside the old one, flush it to the disk, then let it take the old one's place.

    Raises TrainingError when the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        content = {"version": VERSION, "sha256": _digests(plain), "state": json.dumps(state)}
        content[CHECKSUM] = checksum(content)
        with placed(path) as temporary:
            save_file(plain, temporary, metadata={"madx": json.dumps(content)})
    except Exception as error:  # safetensors has an error class of its own for a full disk
        raise TrainingError(
            f"Cannot write the checkpoint {path}: {reason(error)}. The checkpoint before it is intact; free "
            "space on the disk and start the same command again to go on from there."
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, state), or None when there is no file.

    Raises TrainingError for a damaged file, a foreign one, and one that another version of madx has written.
    """
    while True:
        before = _identity(path)
        try:
            return _read(path)
        except TrainingError:  # safetensors opens the file twice, and another process may have replaced it in between
            if _identity(path) == before:
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """A value that changes when a file is replaced; None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not os.path.lexists(path):
        return None
    if fault := why_no_file(path):
        raise TrainingError(
            f"The checkpoint {path} cannot be read: {fault}. Remove it, or start with resume=false, to train from the "
            "beginning."
        )
    try:
        with safe_open(path, framework="pt") as file:
            content = _content(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        if _digests(tensors) != content["sha256"]:
            raise ValueError("it is damaged: its tensors are not those that were written")
        return tensors, json.loads(content["state"])  # the one text that may hold Infinity, as a perplexity can be
    except (MemoryError, RuntimeError) as error:  # torch's for memory that there is not
        raise TrainingError(
            f"The checkpoint {path} cannot be read: there is not enough memory for it ({error}). Free memory, then "
            "start the same command again."
        ) from error
    except Exception as error:  # a damaged file fails in many ways, some with error classes of the library's own
        why = str(error) if isinstance(error, (ValueError, OSError)) else f"it is damaged ({error})"
        raise TrainingError(f"The checkpoint {path} cannot be read: {why}. {WAY_OUT}") from error


def _content(metadata: dict[str, str]) -> dict[str, Any]:
    """Version, digests and state from the metadata of a file. Raises ValueError for any that madx did not write."""
    if "madx" not in metadata and "state" in metadata:
        old = parse_json(metadata["state"].encode())
        found = old.get("version") if isinstance(old, dict) else None
        raise ValueError(f"another version of madx wrote it (format {found}, this madx reads format {VERSION})")
    if "madx" not in metadata:
        raise ValueError("madx did not write it")
    content = parse_json(metadata["madx"].encode())
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        raise ValueError("it is damaged: it has no version")
    if content["version"] != VERSION:
        raise ValueError(
            f"another version of madx wrote it (format {content['version']}, this madx reads format {VERSION})"
        )
    if fault := fault_of_checksum(content):
        raise ValueError(f"it is damaged: checksum: {fault}")
    return content


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The sha256 of type, shape and bytes of each tensor; hashlib lets other threads run, so each has its own."""

    def digest(tensor: Tensor) -> str:
        total = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
        total.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]  # a buffer
        return total.hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(tensors, pool.map(digest, tensors.values())))


@contextmanager
def taking_up(path: Path) -> Iterator[None]:
    """Turn what fails in a block that takes up a checkpoint, whole but not of this code, into a TrainingError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(
            f"The checkpoint {path} cannot be taken up ({type(error).__name__}: {error}): it is not one of this run. "
            f"{WAY_OUT}"
        ) from error


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
            "Take the old settings to go on with it, another run folder, or --fresh (resume=false) to begin anew."
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
