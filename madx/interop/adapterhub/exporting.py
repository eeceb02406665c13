"""Export of one module as a folder that `adapters` 1.x loads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.errors import ConfigError
from madx.files.places import user_path
from madx.interop.adapterhub.config import write_config
from madx.interop.adapterhub.files import (
    CONFIG,
    FUSION_CONFIG,
    FUSION_WEIGHTS,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
    WEIGHTS,
)
from madx.interop.adapterhub.head import write_head
from madx.interop.adapterhub.layouts import Layout, layout_of
from madx.interop.adapterhub.links import written
from madx.interop.adapterhub.methods import METHODS
from madx.interop.adapterhub.methods.method import Target
from madx.interop.files import new_folder
from madx.interop.matching import public_name
from madx.module import Module, require_base, require_first_piece

#: the version written; every later release reads it
VERSION = "adapters.1.3.0"


def export_adapterhub(
    module: Module, folder: str | Path, *, base: Base, safetensors: bool = False, as_name: str | None = None
) -> Path:
    """Write a module as a folder that `adapters` 1.x loads (`model.load_adapter(folder)`), its head as a tagging head.

    Args:
        safetensors: False writes `.bin`, the default of `adapters`.
        as_name: the adapter's name in the files; by default the module's.
    Raises ConfigError if the format cannot express the module, BaseError for a base that does not fit, StoreError for
    a folder in use.
    """
    if module.info.role == "fusion":
        joined = module.info.joins
        return export_adapterhub_fusion(
            module, folder, base=base, joined=joined, safetensors=safetensors, as_name=as_name
        )
    require_base(module.info, base)
    require_first_piece(module, "AdapterHub's tagging head")
    layout, folder, name = layout_of(base.config.model_type), user_path(folder), as_name or module.name
    _require_their_name(name)
    config = write_config(module.info.components, depth=base.depth, width=base.width)
    full = _full_config(config, base, layout, name)
    tensors = written(module, base=base, owner=name)
    with new_folder(folder) as made:
        _write_config(made / CONFIG, full)
        _write_tensors(made, WEIGHTS, tensors, safetensors)
        if module.head is not None:
            head, weights = write_head(module, name)
            _write_config(made / HEAD_CONFIG, full | {"config": head})
            _write_tensors(made, HEAD_WEIGHTS, weights, safetensors)
    return folder


def export_adapterhub_fusion(
    module: Module,
    folder: str | Path,
    *,
    base: Base,
    joined: Sequence[str],
    safetensors: bool = False,
    as_name: str | None = None,
) -> Path:
    """Write a module of role fusion as a folder that `model.load_adapter_fusion(folder)` loads.

    Args:
        joined: the adapters that it joins there, in their order.
        safetensors: as in `export_adapterhub`.
        as_name: the layer's name in the files; by default the joined names with commas, as `Fuse` there expects it.
    Raises ConfigError, BaseError or StoreError as `export_adapterhub` does.
    """
    require_base(module.info, base)
    layout, folder = layout_of(base.config.model_type), user_path(folder)
    if len(joined) < 2:
        raise ConfigError(
            f"The fusion module {module.name!r} does not record which modules it joins, and the files must name them. "
            f"Write it with them: the composition 'fuse(a, b; {module.name})'."
        )
    name = as_name or ",".join(joined)
    for each in (name, *joined):
        _require_their_name(each)
    if sorted(module.info.components) != ["fusion"]:
        raise ConfigError(
            f"{module.name!r} has the components {', '.join(module.info.components)}; written is: fusion."
        )
    config, faults = METHODS["fusion"].write(module.info.components, Target(base.depth, base.width))
    if faults:
        raise ConfigError("This fusion cannot be written as an AdapterHub file:\n  " + "\n  ".join(faults))
    full = {"adapter_names": list(joined)} | _full_config(config, base, layout, name)
    tensors = written(module, base=base, owner=name)
    with new_folder(folder) as made:
        _write_config(made / FUSION_CONFIG, full)
        _write_tensors(made, FUSION_WEIGHTS, tensors, safetensors)
        if module.head is not None:
            require_first_piece(module, "AdapterHub's tagging head")
            head, weights = write_head(module, name)
            _write_config(made / HEAD_CONFIG, full | {"config": head})
            _write_tensors(made, HEAD_WEIGHTS, weights, safetensors)
    return folder


def _require_their_name(name: str) -> None:
    if "." in name or hasattr(nn.ModuleDict(), name):
        raise ConfigError(
            f"An adapter cannot be called {name!r} there: names with '.' and names of torch's own attributes fail on "
            "loading. Pass as_name=..., e.g. as_name='" + name.replace(".", "_") + "_adapter'."
        )


def _full_config(config: dict[str, Any], base: Base, layout: Layout, name: str) -> dict[str, Any]:
    """The content of a config file around the settings of an adapter or a fusion."""
    return {
        "config": config,
        "hidden_size": base.width,
        "model_class": layout.model_class,
        "model_name": public_name(base),
        "model_type": base.config.model_type,
        "name": name,
        "version": VERSION,
    }


def _write_config(path: Path, config: dict[str, Any]) -> None:
    text = json.dumps(config, indent=2)  # not sorted: their `get_labels` gives label2id's order in the file
    path.write_text(text + "\n", encoding="utf-8")


def _write_tensors(folder: Path, names: tuple[str, str], tensors: dict[str, Tensor], safetensors: bool) -> None:
    if safetensors:
        from safetensors.torch import save_file

        save_file(tensors, folder / names[0])
    else:
        torch.save(tensors, folder / names[1])
