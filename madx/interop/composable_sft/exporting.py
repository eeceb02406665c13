"""Export of a module with the component `sparse_diff` as a folder that composable-sft loads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madx.base import Base
from madx.contract.sites import BaseParameter
from madx.errors import ConfigError
from madx.files.places import user_path
from madx.interop.composable_sft.file import CONFIG, FILE, LARGEST, encoded
from madx.interop.composable_sft.head import write_config, write_head
from madx.interop.files import new_folder
from madx.module import Module, require_base, require_first_piece


def export_composable_sft(module: Module, folder: str | Path, *, base: Base) -> Path:
    """Write a sparse fine-tuning, with its head as a token classifier's, as a folder that composable-sft loads.

    `SFT(folder)` loads it there. Every parameter is listed, those without entries too, as the library's own writer
    does. Beside it lies a `config.json` that names base and labels. All numbers are plain ones, so `torch.load` needs
    no allowances. There a delta of the embeddings also changes a tied decoder; in madx the decoder keeps the weights of
    the base.

    Raises ConfigError if the format cannot express the module, BaseError for a base that does not fit, StoreError for a
    folder in use.
    """
    require_base(module.info, base)
    require_first_piece(module, "the token classifier of composable-sft")
    if other := [component for component in module.info.components if component != "sparse_diff"]:
        raise ConfigError(
            f"The module {module.name!r} cannot be written as a file of composable-sft: it has "
            f"{', '.join(map(repr, other))}, and such a file holds a sparse fine-tuning alone (sparse_diff)."
        )
    parameters = base.sites["weights"].parameters
    _require_indexable(parameters)
    unit: Any = module.units["weights"]["sparse_diff"]
    given: dict[str, tuple[Tensor, Tensor]] = {d.parameter: (d.places().cpu(), d.values.cpu()) for d in unit.deltas()}
    prefix, empty = base.model.base_model_prefix + ".", (torch.empty(0, dtype=torch.int64), torch.empty(0))
    diffs = {prefix + p.name: encoded(p.shape, *given.get(p.name, empty)) for p in parameters}
    tensors, folder = write_head(module, base), user_path(folder)
    with new_folder(folder) as made:
        torch.save({"diffs": diffs, "abs": tensors}, made / FILE)
        (made / CONFIG).write_text(write_config(module, base), encoding="utf-8")
    return folder


def _require_indexable(parameters: tuple[BaseParameter, ...]) -> None:
    """Raises ConfigError for a parameter whose indices composable-sft cannot decode."""
    if wide := [p for p in parameters if len(p.shape) > 2 or p.numel > LARGEST]:
        raise ConfigError(
            f"composable-sft cannot read {wide[0].name} {wide[0].shape}: it decodes indices of at most two axes, and "
            f"counts up to {LARGEST} entries."
        )
