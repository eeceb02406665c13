"""Helpers of the tests of the store: small modules, and ways to alter a stored one by hand.

Damage leaves the checksum of a record as it is, and it tells. A careless tool mends it: then other checks must tell.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import tiny
import torch
from safetensors.torch import load_file, save_file

from madx.module import new_module
from madx.store import LAYOUT
from madx.store.module_json import CHECKSUM, checksum

LABELS = ("O", "B-PER", "I-PER")
TRAINING = {
    "data": [{"path": "/home/juma/my texts/swa.txt", "sha256": "ab" * 32, "bytes": 12}],
    "datasets": ["wikiann"],
    "steps": 7,
    "seed": 0,
    "settings": {"learning_rate": 1e-4, "batch": {"size": 64}},
    "versions": {"torch": "2.13"},
    "scores": {"perplexity": {"before": 60.25, "after": math.inf}},
}


def module(base, name="swa", components="madx", *, seed=0, **more):
    """A language module of random weights; of a fusion type, a fusion module."""
    if more.get("role") != "task":
        more = {"role": tiny.role_of(components), "language": "swa"} | more
    return tiny.wake(new_module(name, base, components=components, **more), seed=seed)


def task(base, name="ner", **more):
    """A task module of random weights with three labels."""
    return module(base, name, "pfeiffer", role="task", task="ner", labels=LABELS, **more)


def same(a, b) -> bool:
    """True for two modules with equal tensors."""
    return a.tensors().keys() == b.tensors().keys() and all(
        torch.equal(t, b.tensors()[n]) for n, t in a.tensors().items()
    )


def hidden(root: Path) -> list[str]:
    """The names of what a writer left behind."""
    return [entry.name for entry in root.iterdir() if entry.name.startswith(".")]


def alter(folder: Path, change: Callable[[dict], object], *, mend: bool = True) -> None:
    """Change the content of `module.json`. mend: give it the checksum of what it then holds, if it has one."""
    file = Path(folder) / LAYOUT.manifest
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(mended(content) if mend else content))


def mended(content: dict) -> dict:
    """A record with the checksum of its fields."""
    return content | {CHECKSUM: checksum(content)} if CHECKSUM in content else content


def forge(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a stored module and mend the record of them."""
    file = Path(folder) / LAYOUT.weights
    tensors = load_file(file)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, file, metadata={"format": "pt"})
    data = file.read_bytes()
    new = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "parameters": sum(t.numel() for t in tensors.values() if t.is_floating_point()),
    }
    alter(folder, lambda content: content["weights"].update(new))
