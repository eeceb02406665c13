"""Files of other libraries: bases of transformers, AdapterHub's adapters, composable-sft's sparse fine-tunings."""

from pathlib import Path

import tiny
import torch
from interop.adapterhub_tools import LABELS, module

from campaign.subjects.stored import small_base
from campaign.subjects.subject import Subject, digest
from madx.base import load_base
from madx.interop import (
    export_adapterhub,
    export_adapterhub_setup,
    export_composable_sft,
    import_adapterhub,
    import_adapterhub_setup,
    import_composable_sft,
)


def _make_base(folder: Path) -> None:
    tiny.model(num_hidden_layers=1).save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")


def _read_base(folder: Path) -> str:
    base = load_base(folder / "base")
    ids = base.tokenizer("the city of Juma", return_tensors="pt", truncation=True, max_length=base.max_tokens)
    with torch.no_grad():
        scores = base.model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits
    return digest(base.fingerprint, base.tokenizer_fingerprint, ids["input_ids"], scores)


def _adapter(*, safetensors: bool):
    def make(folder: Path) -> None:
        made = module(small_base(), "pfeiffer", labels=LABELS)
        export_adapterhub(made, folder / "m", base=small_base(), safetensors=safetensors)

    return make


def _read_adapter(folder: Path) -> str:
    made, report = import_adapterhub(folder / "m", small_base(), name="x", role="task", task="ner")
    return digest(made.tensors(), list(made.info.labels), str(report))


def _make_setup(folder: Path) -> None:
    modules = {"swa": module(small_base()), "ner": module(small_base(), "pfeiffer", name="ner", labels=LABELS)}
    export_adapterhub_setup("swa + ner", modules, folder / "m", base=small_base())


def _read_setup(folder: Path) -> str:
    composition, made, _ = import_adapterhub_setup(
        folder / "m", small_base(), roles={"swa": "language", "ner": "task"}, languages={"swa": "swa"}, task="ner"
    )
    return digest(str(composition), *(each.tensors() for each in made.values()))


def _make_sparse(folder: Path) -> None:
    made = tiny.sparse(small_base(), "ner", role="task", task="ner", labels=LABELS, entries=200)
    export_composable_sft(made, folder / "m", base=small_base())


def _read_sparse(folder: Path) -> str:
    made, report = import_composable_sft(folder / "m", small_base(), name="x", role="task", task="ner")
    return digest(made.tensors(), list(made.info.labels), str(report))


SUBJECTS = (
    Subject("base: config and tokenizer", "base", _make_base, _read_base, ("base/*.json",)),
    Subject("base: weights", "base", _make_base, _read_base, ("base/*.safetensors",)),
    Subject("AdapterHub, .bin", "campaign", _adapter(safetensors=False), _read_adapter, ("m/*",)),
    Subject("AdapterHub, safetensors", "campaign", _adapter(safetensors=True), _read_adapter, ("m/*",)),
    Subject("AdapterHub setup", "campaign", _make_setup, _read_setup, ("m/*.json",)),
    Subject("composable-sft", "campaign", _make_sparse, _read_sparse, ("m/*",)),
)
