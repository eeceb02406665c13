"""What the tests of AdapterHub folders share: modules, folders of them, and changes of a folder's files."""

import json

import tiny
import torch

from madx.interop import import_adapterhub
from madx.module import new_module

LABELS = ("O", "B-PER", "I-PER")
BIN, SAFE = "pytorch_adapter.bin", "adapter.safetensors"

HOULSBY = {"places": ["attention", "ffn"], "reads": "output", "activation": "swish"}
#: the peer has one activation for both components
HOULSBY_INV = {"bottleneck": HOULSBY, "invertible": {"activation": "swish"}}


def module(base, components="madx", *, name="swa", labels=(), seed=0):
    role = "task" if labels else "language"
    return tiny.wake(
        new_module(name, base, role=role, components=components, labels=labels, task="ner" if labels else None),
        seed=seed,
    )


def load(folder, base, **kwargs):
    return import_adapterhub(folder, base, **({"name": "x", "role": "language"} | kwargs))


def edit(folder, change, file="adapter_config.json"):
    """Rewrite a JSON file; change: a function of the object, or keys to set in its `config`."""
    full = json.loads((folder / file).read_text())
    if callable(change):
        full = change(full) or full
    else:
        full["config"] |= change
    (folder / file).write_text(json.dumps(full))


def edit_tensors(folder, change):
    tensors = torch.load(folder / BIN, weights_only=True)
    torch.save(change(tensors) or tensors, folder / BIN)


def same(a, b):
    ours, theirs = a.tensors(), b.tensors()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)
