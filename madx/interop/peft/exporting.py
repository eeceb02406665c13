"""Export of one module as a folder that PEFT 0.21 loads."""

import json
from pathlib import Path
from typing import Any

import torch

from madx.base import Base
from madx.errors import ConfigError
from madx.files.places import user_path
from madx.interop.files import new_folder
from madx.interop.matching import public_name
from madx.interop.peft.files import CONFIG, LABELS, WEIGHTS
from madx.interop.peft.importing import MODEL, MODEL_OF_PROMPTS
from madx.interop.peft.methods import method_for
from madx.interop.token_head import write_config, write_head
from madx.module import Module, require_base, require_first_piece

#: the version written
VERSION = "0.21.2"
#: keys of every config, with PEFT's defaults
COMMON = {"auto_mapping": None, "inference_mode": True, "modules_to_save": None, "revision": None}
#: names under which PEFT looks for the head of a token classifier
HEAD_NAMES = ["classifier", "score"]


def export_peft(module: Module, folder: str | Path, *, base: Base, safetensors: bool = True) -> Path:
    """Write a module as a folder that PEFT loads on the base's own model class.

    With a head that is transformers' token classification model (`PeftModel.from_pretrained(model, folder)` makes its
    head that of the module), without one the masked-LM model. A `config.json` beside it names the labels, for which
    PEFT has no place.

    Args:
        safetensors: False writes `adapter_model.bin`.
    Raises ConfigError if PEFT cannot express the module, BaseError for a base that does not fit, StoreError for a
    folder in use.
    """
    require_base(module.info, base)
    require_first_piece(module, "the token classifier of PEFT")
    kind, method = method_for(module)
    with torch.no_grad():
        writing = method.write(module, base)
    head = write_head(module, base)
    config = COMMON | method.defaults | writing.config | {"peft_type": kind, "peft_version": VERSION}
    config |= {"base_model_name_or_path": public_name(base), "task_type": "TOKEN_CLS" if head else None}
    if head:
        config["modules_to_save"] = HEAD_NAMES
    start, prefix = MODEL if method.tails else MODEL_OF_PROMPTS, base.model.base_model_prefix + "."
    tensors = {k if k in writing.whole else f"{MODEL}{prefix}{k}": v for k, v in writing.tensors.items()}
    tensors |= {start + key: value for key, value in head.items()}
    if not method.tails and not head:
        _refuse_without_head(module)
    tensors = {key: value.detach().to("cpu").clone().contiguous() for key, value in sorted(tensors.items())}
    folder = user_path(folder)
    with new_folder(folder) as made:
        (made / CONFIG).write_text(_text(config), encoding="utf-8")
        if head:
            (made / LABELS).write_text(write_config(module, base), encoding="utf-8")
        if safetensors:
            from safetensors.torch import save_file

            save_file(tensors, made / WEIGHTS[0], metadata={"format": "pt"})
        else:
            torch.save(tensors, made / WEIGHTS[1])
    return folder


def _text(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True)


def _refuse_without_head(module: Module) -> None:
    """PEFT runs prefixes only under a task type, and it has none for masked-LM models."""
    raise ConfigError(
        f"{module.name!r} has a prefix and no head. PEFT runs a prefix only in a model with a task, "
        "and it has none for masked-LM models. Export it to adapterhub."
    )
