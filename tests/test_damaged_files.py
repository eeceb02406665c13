"""Every file that madx writes and reads again is read as it was written, refused in words, or made anew with a notice.

Files of each kind are damaged in many ways (`tests/damage.py`). No damage may end in an error of another class, nor in
other values than those that were stored.
"""

import json
import logging

import numpy as np
import pytest
import tiny
import tiny_runs as runs
import torch
from damage import damaged, in_turn, outcomes
from safetensors.torch import load_file, save_file
from store_tools import TRAINING, task

from madx.data.text.blocks import pack_corpus
from madx.engine.activation_cache import States
from madx.errors import DataError, StoreError, TrainingError
from madx.jobs.memory import as_files, sentences_as_file, texts_as_file
from madx.store import LAYOUT, load_module, save_module
from madx.store.module_json import from_text
from madx.training.checkpoint import read_checkpoint, write_checkpoint

COUNT = 240


# ---- modules ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    base = tiny.base()
    made = task(base, language="eng")
    made.info.training = TRAINING
    return base, save_module(made, tmp_path_factory.mktemp("stored") / "ner")


def test_the_record_of_a_module(stored):
    data = (stored[1] / LAYOUT.manifest).read_bytes()
    equal, refused = outcomes(damaged(data, count=COUNT), lambda d: from_text(d, "module.json"), from_text(data, ""))
    assert refused > 0.8 * COUNT and equal < 0.1 * COUNT  # equal: white space alone


def test_the_weights_of_a_module(stored):
    base, folder = stored
    whole = load_module(folder, base).tensors()

    def same(found, _):
        return all(torch.equal(tensor, whole[name]) for name, tensor in found.tensors().items())

    versions = in_turn(folder / LAYOUT.weights, count=COUNT // 4)
    equal, refused = outcomes(versions, lambda _: load_module(folder, base), None, same)
    assert equal == 0 and refused > 0.9 * COUNT / 4


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def same_checkpoint(a, b):
    (tensors, state), (others, other) = a, b
    return (
        state == other
        and tensors.keys() == others.keys()
        and all(torch.equal(t, others[k]) for k, t in tensors.items())
    )


def test_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    tensors = {
        "weights.a": torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
        "optimizer.0.step": torch.tensor(7.0),
        "best.half": torch.ones(3, dtype=torch.bfloat16),
        "weights.none": torch.zeros(0, 4),
        "weights.bool": torch.tensor([True, False]),
    }
    state = {"step": 7, "losses": [1.5, float("inf")], "identity": {"seed": 3}, "result": {"best": {"f1": 66.5}}}
    write_checkpoint(path, tensors, state)
    whole = read_checkpoint(path)
    assert same_checkpoint(whole, (tensors, state))
    equal, refused = outcomes(in_turn(path, count=COUNT), lambda _: read_checkpoint(path), whole, same_checkpoint)
    assert refused > 0.9 * COUNT and equal < 0.1 * COUNT
    assert same_checkpoint(read_checkpoint(path), whole)


@pytest.mark.parametrize("what", ["a weight", "a moment", "the state", "the shape", "one more tensor", "no checksum"])
def test_a_checkpoint_in_which_something_was_changed_is_refused_with_the_way_out(what, tmp_path):
    runs.train("mlm", steps=2, folder=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    weight = next(name for name, t in tensors.items() if name.startswith("weights.") and t.dim() == 2)
    moment = next(name for name in tensors if name.startswith("optimizer.") and name.endswith("exp_avg"))
    if what in ("a weight", "a moment"):
        tensors[weight if what == "a weight" else moment].view(-1).view(torch.int32)[0] ^= 1
    elif what == "the shape":
        tensors[weight] = tensors[weight].T.contiguous()
    elif what == "one more tensor":
        tensors["weights.more"] = torch.zeros(1)
    content = json.loads(metadata["madx"])
    if what == "the state":
        content["state"] = content["state"].replace('"step": 2', '"step": 1')
    if what == "no checksum":
        del content["checksum"]
    save_file(tensors, path, metadata={"madx": json.dumps(content)})
    with pytest.raises(TrainingError, match=r"checkpoint.safetensors cannot be read: it is damaged.*--fresh"):
        runs.train("mlm", steps=2, folder=tmp_path)


def test_a_whole_checkpoint_of_other_code_is_refused(tmp_path):
    write_checkpoint(tmp_path / "checkpoint.safetensors", {"weights.a": torch.zeros(2)}, {"step": "two"})
    with pytest.raises(TrainingError, match="checkpoint.safetensors cannot be taken up.*--fresh"):
        runs.train("mlm", steps=2, folder=tmp_path)
    write_checkpoint(tmp_path / "checkpoint.safetensors", {"weights.a": torch.zeros(2)}, {"step": 2})
    with pytest.raises(TrainingError, match="cannot be taken up.*identity.*--fresh"):
        runs.train("mlm", steps=2, folder=tmp_path)


def test_the_selection_of_a_sparse_training(tmp_path):
    made, _ = runs.train("sft", steps=2, folder=tmp_path)
    (selected,) = tmp_path.rglob("selected.safetensors")
    data = bytearray(selected.read_bytes())
    data[-3] ^= 1
    selected.write_bytes(data)
    with pytest.raises(TrainingError, match="selected.safetensors cannot be read: it is damaged.*--fresh"):
        runs.train("sft", steps=2, folder=tmp_path)


# ---- caches ----------------------------------------------------------------------------------------------------------


def test_a_cache_of_blocks_is_made_anew_with_a_notice(tmp_path, caplog):
    chance = np.random.default_rng(0)
    lines = [" ".join("".join(chance.choice(list("abcde"), 3)) for _ in range(5)) for _ in range(60)]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(lines))

    def pack():
        return pack_corpus(corpus, tiny.tokenizer(), block_size=16, cache=tmp_path / "cache")

    first = pack()
    whole, held_out = first.train[:], first.held_out[:]
    for name in ("blocks.json", "train.npy", "held_out.npy"):
        for version in damaged((first.folder / name).read_bytes(), count=18):
            caplog.clear()
            (first.folder / name).write_bytes(version)
            again = pack()
            assert np.array_equal(again.train[:], whole) and np.array_equal(again.held_out[:], held_out), version[:200]
            assert again.stats == first.stats
            noticed = "the blocks in the cache are damaged" in caplog.text and "packed anew" in caplog.text
            assert noticed or name == "blocks.json"  # where it was white space, the record is as it was
    (first.folder / "train.npy").unlink()
    assert np.array_equal(pack().train[:], whole)


def test_a_cache_of_blocks_without_a_checksum_is_made_anew(tmp_path, caplog):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"ab{'c' * (n % 7)} de{'a' * (n % 5)}" for n in range(60)))
    first = pack_corpus(corpus, tiny.tokenizer(), block_size=16, cache=tmp_path / "cache")
    record = json.loads((first.folder / "blocks.json").read_text())
    (first.folder / "blocks.json").write_text(json.dumps({k: record[k] for k in ("settings", "stats")}))
    pack_corpus(corpus, tiny.tokenizer(), block_size=16, cache=tmp_path / "cache")
    assert "missing (an older madx wrote none)" in caplog.text
    assert json.loads((first.folder / "blocks.json").read_text()) == record


def test_a_damaged_state_of_the_activation_cache_is_computed_anew(caplog):
    states = States(memory=0, disk=10_000)
    values = {bytes([key]): torch.randn(4, 8, generator=torch.Generator().manual_seed(key)) for key in range(20)}
    for key, value in values.items():
        states.put(key, value)
    for key in values:
        filed = states._filed[key]
        states._file.seek(filed.place + 5)
        states._file.write(b"\xa5")
    states._file.truncate(states._file.seek(0, 2) - 10)
    for key, value in values.items():
        caplog.clear()
        assert states.get(key, 8) is None and key not in states and "damaged" in caplog.text
        states.put(key, value)
        assert torch.equal(states.get(key, 8), value)
    states.close()


def test_a_full_disk_ends_the_activation_cache_and_not_the_training(caplog, monkeypatch):
    states = States(memory=0, disk=10_000)
    states.put(b"a", torch.ones(2, 4))
    kept = states._file

    class Full:
        def __getattr__(self, name):
            return getattr(kept, name)

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "_file", Full())
    states.put(b"b", torch.ones(2, 4))
    assert b"b" not in states and "No space left" in caplog.text and torch.equal(states.get(b"a", 4), torch.ones(2, 4))
    states.close()


def test_a_file_of_data_in_memory_is_what_its_name_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MADX_CACHE", str(tmp_path))
    texts = texts_as_file([f"line {n}" for n in range(30)])
    labelled = sentences_as_file([(("Juma", "lives"), ("B-PER", "O"))])
    given = {"corpus": texts, "targets": {"swa": labelled}}
    assert as_files(given, texts=["corpus"], labelled=["targets"]) == given
    from pathlib import Path

    for path in (texts, labelled):
        versions = in_turn(Path(path), count=30)
        equal, refused = outcomes(versions, lambda _: as_files(given, texts=["corpus"], labelled=["targets"]), None)
        assert equal == 0 and refused >= 28
    from madx.config import load
    from madx.jobs import TrainLanguage

    settings = ["base=b", "language=swa", f"corpus={json.dumps(texts)}"]
    assert load(None, TrainLanguage, settings).corpus == texts
    Path(texts).write_text("other\n")
    with pytest.raises(DataError, match=f"{texts} is damaged or was altered.*give the data again"):
        load(None, TrainLanguage, settings)
    assert texts_as_file([f"line {n}" for n in range(30)]) == texts, "the data themselves write it anew"
    assert load(None, TrainLanguage, settings).corpus == texts


def test_records_that_would_take_minutes_are_refused_at_once(stored):
    content = json.loads((stored[1] / LAYOUT.manifest).read_text())
    for wide in ({"labels": [1] * 200_000}, {"training": {"versions": {str(k): k for k in range(100_000)}}}):
        with pytest.raises(StoreError) as caught:
            from_text(json.dumps(content | wide).encode(), "module.json")
        assert len(str(caught.value)) < 5000
    for text in (b"[" * 1_000_000, b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", b"[" + b"[]," * 300_000 + b"[]]"):
        with pytest.raises(StoreError, match="damaged: it cannot be read as JSON .*more than"):
            from_text(text, "module.json")


@pytest.fixture(autouse=True)
def messages(caplog):
    caplog.set_level(logging.WARNING, logger="madx")
