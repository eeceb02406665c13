"""Damaged AdapterHub folders: each is read, or refused by a MadxError."""

import json
import random

import pytest
import tiny
import torch
from adapterhub_tools import BIN, LABELS, load, module

from madx.errors import MadxError
from madx.interop import export_adapterhub

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2.5,
    1e308,
    -1e-300,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "../../x",
    "a" * 5000,
    [],
    {},
    [[]],
    {"a": {}},
    "gelu",
    "nice",
]


@pytest.fixture(scope="module")
def small():
    """A base of one layer: a read takes milliseconds."""
    return tiny.base(num_hidden_layers=1)


def outcome(folder, base):
    """Whether the folder was read; anything but success or MadxError fails the test."""
    try:
        made, _ = load(folder, base, role="task")
        return all(bool(torch.isfinite(v).all()) for v in made.tensors().values()) or pytest.fail(
            "weights that are not finite"
        )
    except MadxError as error:
        assert len(str(error)) < 6000
        return False


@pytest.mark.slow
@pytest.mark.parametrize("safetensors", [False, True])
def test_fuzz_bytes(small, tmp_path, safetensors):
    """Flipped bytes, cut ends and inserted bytes in every file."""
    folder = export_adapterhub(
        module(small, "pfeiffer", labels=LABELS), tmp_path / "m", base=small, safetensors=safetensors
    )
    rng, read = random.Random(safetensors), 0
    files = {p: p.read_bytes() for p in sorted(folder.iterdir())}
    for path, intact in files.items():
        for _ in range(80):
            data = bytearray(intact)
            kind = rng.random()
            if kind < 0.6:
                for _ in range(rng.choice([1, 1, 4])):
                    data[rng.randrange(min(len(data), rng.choice([64, 1000, len(data)])))] = rng.randrange(256)
            elif kind < 0.8:
                del data[rng.randrange(len(data)) :]
            else:
                at = rng.randrange(len(data))
                data[at:at] = rng.randbytes(rng.choice([1, 8, 50]))
            path.write_bytes(data)
            read += outcome(folder, small)
        path.write_bytes(intact)
    assert outcome(folder, small) and 0 < read < 320


METHODS = {
    "bottleneck": "madx",
    "dora": {"lora": {"rank": 2, "dora": True, "dora_form": "adapterhub"}},
    "ia3": "ia3",
    "prefix": {"prefix": {"length": 2, "bottleneck": 4}},
    "flat prefix": {"prefix": {"length": 2, "flat": True}},
    "prompt": {"prompt": {"length": 2}},
    "loreft": {"reft": {"rank": 2}},
}
each_method = pytest.mark.parametrize("components", METHODS.values(), ids=METHODS)


@pytest.mark.slow
@each_method
def test_fuzz_json(small, tmp_path, components):
    """Values replaced, keys dropped, renamed and added, in both configs."""
    folder = export_adapterhub(module(small, components, labels=LABELS), tmp_path / "m", base=small)
    rng, read = random.Random(2), 0
    for file in ("adapter_config.json", "head_config.json"):
        intact = (folder / file).read_text()
        for _ in range(60):
            full = json.loads(intact)
            for _ in range(rng.choice([1, 1, 2])):
                table = full if rng.random() < 0.3 or not isinstance(full.get("config"), dict) else full["config"]
                key = rng.choice(sorted(table))
                kind = rng.random()
                if kind < 0.7:
                    table[key] = rng.choice(VALUES)
                elif kind < 0.8:
                    del table[key]
                elif kind < 0.9:
                    table[key + "x"] = table.pop(key)
                else:
                    table[rng.choice(["LN_before", "invertible_adapter", "architecture", "type", "x"])] = rng.choice(
                        VALUES
                    )
                if not full:
                    break
            (folder / file).write_text(json.dumps(full))
            read += outcome(folder, small)
        (folder / file).write_text(intact)
    assert outcome(folder, small) and 0 < read < 120


@pytest.mark.slow
@each_method
def test_fuzz_tensors(small, tmp_path, components):
    """Keys renamed, dropped, doubled; tensors reshaped, cut, of other kinds."""
    folder = export_adapterhub(module(small, components, labels=LABELS), tmp_path / "m", base=small)
    rng, read = random.Random(3), 0
    for file in (BIN, "pytorch_model_head.bin"):
        intact = torch.load(folder / file, weights_only=True)
        for _ in range(40):
            tensors = dict(intact)
            key = rng.choice(sorted(tensors))
            value = tensors.pop(key)
            piece = rng.choice(key.split("."))
            changed = [
                value,
                value[:-1],
                value.t() if value.ndim == 2 else value[None],
                value.double(),
                value.half(),
                value.long(),
                None,
            ]
            renamed = [
                key,
                key,
                key + ".x",
                key.replace(piece, ""),
                key.replace(piece, rng.choice(["9", "99999", "..", "G"])),
                "",
            ]
            if rng.random() < 0.9:
                tensors[rng.choice(renamed)] = rng.choice(changed)
            torch.save(tensors, folder / file)
            read += outcome(folder, small)
        torch.save(intact, folder / file)
    assert outcome(folder, small) and 0 < read < 80
