"""A composition of weight differences as a plain transformers checkpoint: it loads without madx and computes the same."""

from pathlib import Path

import torch

from madx.engine import Engine
from madx.engine.decoder import decoder_weights
from madx.engine.merge import require_weights_alone
from madx.errors import CompositionError, StoreError


def export_plain(engine: Engine, folder: str | Path) -> Path:
    """Write the base with the active composition in its weights, as a folder for `from_pretrained`; gives the folder.

    With a task module: a token classification model with its head and labels. Without: the masked-LM model, its decoder
    untied and as the bare base has it. The engine and its base are as before.
    Raises CompositionError for a composition that computes something beside its differences, or whose head the base's
    own token classification model cannot hold, StoreError for a folder that is not empty.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} is no empty folder. Give one that does not exist yet.")
    require_weights_alone(engine, "written as a plain checkpoint")
    tasks = [n for n in engine.composition.names() if engine.modules[n].head is not None]
    model = _classifier(engine) if tasks else _masked_lm(engine)
    try:
        model.save_pretrained(folder)
        if engine.base.tokenizer is not None:
            engine.base.tokenizer.save_pretrained(folder)
    except OSError as error:
        raise StoreError(f"Cannot write the checkpoint {folder}: {error}.") from error
    return folder


def _config(engine: Engine, **changes):
    config = type(engine.base.config).from_dict(engine.base.config.to_dict() | changes)
    config.name_or_path = ""
    return config


@torch.no_grad()
def _classifier(engine: Engine):
    """The base's token classification model, where that is the encoder and one linear layer."""
    from transformers import AutoModelForTokenClassification

    module = engine.task_module()
    labels = module.info.labels
    config = _config(engine, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    model = AutoModelForTokenClassification.from_config(config).eval()
    prefix = model.base_model_prefix + "."
    own = [name for name, _ in model.named_parameters() if not name.startswith(prefix)]
    if sorted(own) != ["classifier.bias", "classifier.weight"]:
        raise CompositionError(
            f"transformers' token classification model of {config.model_type} has more than a linear layer over the encoder "
            f"({', '.join(own)}), so it cannot compute what the head of {module.name!r} does. Keep the module, or export "
            "its language's composition without the task."
        )
    encoder = {name: p for name, p in engine.base.encoder.state_dict().items() if not name.startswith("pooler.")}
    model.base_model.load_state_dict(encoder)
    model.classifier.weight.copy_(module.head.weight)
    model.classifier.bias.copy_(module.head.bias)
    return model.to(engine.base.model.dtype)


@torch.no_grad()
def _masked_lm(engine: Engine):
    """The masked-LM model with a decoder of its own."""
    state = dict(engine.base.model.state_dict())
    changed = decoder_weights(engine.deltas)
    model = type(engine.base.model)(_config(engine, **({"tie_word_embeddings": False} if changed else {}))).eval()
    model.load_state_dict(state | changed)
    return model.to(engine.base.model.dtype)
