"""Export of a composition of weight deltas as a plain transformers checkpoint, which loads without madx."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from madx.engine import Engine
from madx.engine.decoder import decoder_weights
from madx.engine.merge import require_weights_alone
from madx.engine.mlm_head import find_mlm_head
from madx.errors import CompositionError
from madx.files.places import user_path
from madx.interop.files import new_folder, require_free
from madx.module import require_first_piece, require_task_head

log = logging.getLogger("madx")


def export_plain(engine: Engine, folder: str | Path) -> Path:
    """Write the base with the active composition in its weights, as a folder for `from_pretrained`; return the folder.

    With a task module this is a token classification model with the module's head and labels. Without one it is the
    masked-LM model, whose output embeddings are untied and keep the values of the base; a base without a trained head
    gets that of the engine's store, or a warning says that the head is random. Nothing else of the engine and its base
    changes.

    Raises CompositionError for a composition with modules that do more than change weights, or with a head that the
    base's own token classification model cannot hold; ConfigError for a head with another pooling than `first`;
    StoreError for a folder that is not empty.
    """
    folder = user_path(folder)
    require_free(folder)
    require_weights_alone(engine, "written as a plain checkpoint")
    tasks = [n for n in engine.composition.names() if engine.modules[n].head is not None]
    model = _classifier(engine) if tasks else _masked_lm(engine)
    with new_folder(folder) as made:
        model.save_pretrained(made)
        if engine.base.tokenizer is not None:
            engine.base.tokenizer.save_pretrained(made)
    return folder


def _config(engine: Engine, **changes: Any) -> Any:
    """The base's config with some values changed and without its path."""
    config = type(engine.base.config).from_dict(engine.base.config.to_dict() | changes)
    config.name_or_path = ""
    return config


@torch.no_grad()
def _classifier(engine: Engine) -> Any:
    """The base's token classification model. Raises CompositionError unless it is the encoder and one linear layer."""
    from transformers import AutoModelForTokenClassification

    module = engine.task_module()
    require_first_piece(module, "transformers' token classification pipeline")
    labels = module.info.labels
    config = _config(engine, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    model = AutoModelForTokenClassification.from_config(config).eval()
    prefix = model.base_model_prefix + "."
    own = [name for name, _ in model.named_parameters() if not name.startswith(prefix)]
    if sorted(own) != ["classifier.bias", "classifier.weight"]:
        raise CompositionError(
            f"transformers' token classification model of {config.model_type} has more than a linear layer over the "
            f"encoder ({', '.join(own)}), so it cannot compute what the head of {module.name!r} does. Keep the module, "
            "or export its language's composition without the task."
        )
    encoder = {name: p for name, p in engine.base.encoder.state_dict().items() if not name.startswith("pooler.")}
    model.base_model.load_state_dict(encoder)
    head = require_task_head(module)
    model.classifier.weight.copy_(head.weight)
    model.classifier.bias.copy_(head.bias)
    return model.to(_dtype(engine.base.model))


@torch.no_grad()
def _masked_lm(engine: Engine) -> Any:
    """The masked-LM model, with output embeddings of its own where the composition changes the input embeddings."""
    if not find_mlm_head(engine.base, engine.store):
        log.warning(
            "The base %s has no trained masked-LM head: of the checkpoint its encoder alone is of use. "
            "Train a head first: madx train-head.",
            engine.base.label,
        )
    state = dict(engine.base.model.state_dict())
    changed = decoder_weights(engine.deltas)
    model = type(engine.base.model)(_config(engine, **({"tie_word_embeddings": False} if changed else {}))).eval()
    model.load_state_dict(state | changed)
    return model.to(_dtype(engine.base.model))


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype
