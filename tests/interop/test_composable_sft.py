"""Files of composable-sft: a writer and a reader that follow the format's description alone, refusals, export."""

import io
import os
import pickle
import zipfile
from itertools import product

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import dense, snapshot, sparse, unchanged

from madx.engine import Engine
from madx.errors import BaseError, ConfigError, MadxError, StoreError
from madx.interop import export_composable_sft, import_composable_sft
from madx.interop.composable_sft.file import decoded, encoded
from madx.module import new_module

LABELS = ("O", "B-PER", "I-PER")
WORDS = "roberta.embeddings.word_embeddings.weight"
OLD, NEW = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"


# ---- a writer and a reader by the description of the format, which share no line with madx.interop -------------------


def described(delta):
    """One entry of `diffs`: non-zero numbers column by column, the index of each as the step from the one before."""
    steps, values, index, last, numbers = [], [], 0, 0, delta.numpy()
    for place in product(*(range(n) for n in reversed(delta.shape))) if numbers.any() else ():
        value = numbers[place[::-1]].item()
        if value:
            steps.append(index - last)
            values.append(value)
            last = index
        index += 1
    if steps:
        steps[0] = np.int64(steps[0])
    return {"size": delta.shape, "index_steps": steps, "values": torch.tensor(values)}


def understood(entry):
    """The dense tensor of an entry."""
    found, at = torch.zeros(tuple(entry["size"])), 0
    for step, value in zip(entry["index_steps"], entry["values"]):
        at += int(step)
        place, rest = [], at
        for extent in entry["size"]:
            place.append(rest % extent)
            rest //= extent
        found[tuple(place)] = value
    return found


def write(folder, diffs, whole=None, *, names=("diffs", "abs"), numpy_name=None, **options):
    """A folder with a `pytorch_diff.bin`. numpy_name: of the scalar's module, as numpy 1 or 2 would have written it."""
    folder.mkdir(exist_ok=True)
    path = folder / "pytorch_diff.bin"
    torch.save(
        {names[0]: {n: described(d) if torch.is_tensor(d) else d for n, d in diffs.items()}, names[1]: whole or {}},
        path,
        **options,
    )
    if numpy_name:
        rewrite(path, lambda data: data.replace(OLD, numpy_name).replace(NEW, numpy_name))
        assert numpy_name in path.read_bytes()
    return folder


def rewrite(path, change):
    """Change the pickle inside an archive of torch."""
    with zipfile.ZipFile(path) as archive:
        entries = [(e.filename, archive.read(e)) for e in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def random_diffs(base, *, density=0.1, seed=0):
    """Dense differences of every parameter, by their name for it; some without entries."""
    generator = torch.Generator().manual_seed(seed)
    prefix, found = base.model.base_model_prefix + ".", {}
    for k, (name, p) in enumerate(base.encoder.named_parameters()):
        kept = torch.rand(p.shape, generator=generator) < (density if k % 4 else 0.0)
        found[prefix + name] = torch.randn(p.shape, generator=generator) * kept
    return found


def one(base, value=0.5):
    """Differences of all parameters, with one entry."""
    diffs = {name: torch.zeros_like(d) for name, d in random_diffs(base).items()}
    diffs[base.model.base_model_prefix + ".embeddings.word_embeddings.weight"][3, 4] = value
    return diffs


def load(folder, base, **kwargs):
    return import_composable_sft(folder, base, **({"name": "x", "role": "language", "language": "swa"} | kwargs))


@pytest.fixture
def folder(base, tmp_path):
    return write(tmp_path / "swa", one(base))


# ---- in --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_the_difference_is_added_exactly(family, tmp_path):
    base = tiny.base(family)
    state, diffs = snapshot(base), random_diffs(base)
    module, report = load(write(tmp_path / "x", diffs), base)
    engine = Engine(base)
    engine.attach(module)
    engine.activate("x")
    prefix = base.model.base_model_prefix + "."
    moved = 0
    for name, parameter in base.encoder.named_parameters():
        if not name.startswith("pooler."):
            before = state[prefix + name]
            assert torch.equal(parameter, before + diffs[prefix + name]), name
            moved += not torch.equal(parameter, before)
    engine.close()
    assert unchanged(base, state) and moved == len(report.mapped) > 10
    assert module.info.base == base.identity() and module.info.training["imported"]["format"] == "composable-sft"


@pytest.mark.parametrize("numpy_name", [OLD, NEW])
@pytest.mark.parametrize("names", [("diffs", "abs"), ("body", "head")])
def test_both_names_of_numpy_and_of_the_tables(base, tmp_path, numpy_name, names):
    diffs = random_diffs(base)
    module, _ = load(write(tmp_path / "x", diffs, names=names, numpy_name=numpy_name), base)
    for name, found in dense(module).items():
        assert torch.equal(found, diffs["roberta." + name])
    with pytest.raises(pickle.UnpicklingError):  # torch alone refuses the scalar
        torch.load(tmp_path / "x" / "pytorch_diff.bin", weights_only=True)


def test_files_of_the_first_torch_versions_and_of_half_precision(base, tmp_path):
    module, _ = load(write(tmp_path / "x", one(base), _use_new_zipfile_serialization=False), base)
    assert module.units["weights"]["sparse_diff"].describe().startswith("1 of ")
    entry = described(one(base)[WORDS])
    half = one(base) | {WORDS: entry | {"values": entry["values"].half()}}
    assert load(write(tmp_path / "x", half), base)[0].units["weights"]["sparse_diff"].values.tolist() == [0.5]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 10**6))
def test_entries_of_any_shape(tmp_path_factory, size, seed):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(size, generator=generator) * (torch.rand(size, generator=generator) < 0.4)
    path = tmp_path_factory.getbasetemp() / "length"
    path.write_bytes(bytes(4096))
    entry = described(delta)
    indices, values = decoded("w", entry | {"index_steps": [int(s) for s in entry["index_steps"]]}, path)
    flat = torch.zeros(delta.numel())
    flat[indices] = values
    assert torch.equal(flat.view(size), delta) and (indices.diff() > 0).all()
    if len(size) < 3:
        assert torch.equal(understood(encoded(tuple(size), indices, values)), delta)


def test_an_import_leaves_the_random_state(base, tmp_path):
    folder, state = write(tmp_path / "x", one(base), classifier()), torch.random.get_rng_state()
    load(folder, base, role="task", task="ner")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_entries_in_norms_are_kept(base, tmp_path):
    diffs = one(base)
    diffs["roberta.encoder.layer.1.output.LayerNorm.bias"][5] = -2.0
    module, _ = load(write(tmp_path / "x", diffs), base)
    assert module.info.components["sparse_diff"].freeze_norms is False
    assert dense(module)["encoder.layer.1.output.LayerNorm.bias"][5] == -2.0
    assert load(write(tmp_path / "y", one(base)), base)[0].info.components["sparse_diff"].freeze_norms is True


def test_the_report(base, tmp_path):
    diffs = random_diffs(base) | {"roberta.pooler.dense.weight": torch.ones(2, 2)}
    whole = {"lm_head.dense.weight": torch.ones(32, 32), "lm_head.bias": torch.ones(140)}
    folder = write(tmp_path / "x", diffs, whole)
    (folder / "training_args.bin").write_bytes(b"x")
    module, report = load(folder, base)
    text = str(report)
    for line in (
        "roberta.encoder.layer.{0-2}.intermediate.dense.weight -> weights.sparse_diff, in encoder.layer.{0-2}",
        "parameters: no entries in them",
        "roberta.pooler.dense.weight: the base is used without its pooler",
        "lm_head.bias: the base's own masked-LM head is used",
        "file training_args.bin: not part of the module",
        "no fingerprint of their base; only names and shapes",
        f"sparse_diff: {len(module.units['weights']['sparse_diff'].indices):,} of ",
    ):
        assert line in text, line


# ---- heads -----------------------------------------------------------------------------------------------------------


def classifier(rows=3, width=32):
    return {"classifier.weight": torch.randn(rows, width), "classifier.bias": torch.randn(rows)}


def test_whole_tensors_become_the_head(base, tmp_path):
    whole = classifier()
    folder = write(tmp_path / "ner", one(base), whole)
    module, report = load(folder, base, role="task", task="ner", language=None)
    assert torch.equal(module.head.weight, whole["classifier.weight"]) and torch.equal(
        module.head.bias, whole["classifier.bias"]
    )
    assert module.info.labels == ("LABEL_0", "LABEL_1", "LABEL_2") and module.info.task == "ner"
    assert "they are called LABEL_0" in str(report) and "classifier.weight -> head.weight" in str(report)
    (folder / "config.json").write_text(
        '{"label2id": {"B-PER": 1, "O": 0, "I-PER": 2}, "architectures": ["XLMRobertaForTokenClassification"]}'
    )
    assert load(folder, base, role="task")[0].info.labels == LABELS
    for words, kwargs in (("with_head=False", {"role": "task", "with_head": False}), ("is a language module", {})):
        module, report = load(folder, base, **kwargs)
        assert module.head is None and words in str(report)


def test_heads_that_madx_has_no_task_for_are_named(base, tmp_path):
    pooled = one(base) | {"roberta.pooler.dense.weight": torch.ones(32, 32)}
    for diffs, whole, config in (
        (one(base), {"qa_outputs.weight": torch.ones(2, 32), "qa_outputs.bias": torch.ones(2)}, None),
        (pooled, classifier(), None),
        (one(base), classifier(), '{"architectures": ["BertForSequenceClassification"]}'),
    ):
        folder = write(tmp_path / "x", diffs, whole)
        if config:
            (folder / "config.json").write_text(config)
        module, report = load(folder, base, role="task")
        assert module.head is None and "madx has no task for this kind of head" in str(report)


@pytest.mark.parametrize(
    "whole, error, words",
    [
        (
            {"classifier.weight": torch.ones(3, 30), "classifier.bias": torch.ones(3)},
            StoreError,
            "classifier.weight: file .3, 30., base .3, 32.",
        ),
        (
            {"classifier.weight": torch.ones(3, 32)},
            StoreError,
            "a token classifier is classifier.weight and classifier.bias",
        ),
        (classifier() | {"classifier.out_proj.weight": torch.ones(2)}, StoreError, "has the whole tensors .*out_proj"),
        ({"classifier.weight": torch.ones(0, 32), "classifier.bias": torch.ones(0)}, StoreError, "no rows"),
        ({"roberta.encoder.layer.0.output.LayerNorm.bias": torch.ones(32)}, StoreError, "whole tensors of the encoder"),
        ({"lm_head.bias": torch.ones(250002)}, BaseError, "vocabulary: files 250002 .*base 140"),
        (
            {"classifier.weight": torch.full((3, 32), torch.nan), "classifier.bias": torch.ones(3)},
            StoreError,
            "not finite",
        ),
        ({"classifier.weight": [1.0]}, StoreError, "not a dense tensor"),
        ([torch.ones(1)], StoreError, "'abs' is not a table"),
        ({3: torch.ones(1)}, StoreError, "'abs' is not a table"),
    ],
)
def test_whole_tensors_that_make_no_head(base, tmp_path, whole, error, words):
    with pytest.raises(error, match=words):
        load(write(tmp_path / "x", one(base), whole), base, role="task", task="ner")


# ---- another base ----------------------------------------------------------------------------------------------------


def test_another_base_is_refused_with_both_sides_named(base, tmp_path):
    folder = write(tmp_path / "x", one(base))
    for other, words in (
        (tiny.base(vocab_size=200), r"word_embeddings.weight: files \(140, 32\), base \(200, 32\)"),
        (tiny.base(hidden_size=48), r"position_embeddings.weight: files \(66, 32\), base \(66, 48\)"),
        (tiny.base(num_hidden_layers=2), "layers: files 0-2, base 0-1"),
        (tiny.base("bert"), r"parameters: files roberta\..*base bert\."),
        (tiny.base("modernbert"), r"base model\.|layers"),
    ):
        for allow in (False, True):
            with pytest.raises(BaseError, match=words):
                load(folder, other, allow_base_mismatch=allow)
    deeper = tiny.base(num_hidden_layers=4)
    with pytest.raises(BaseError, match="layers: files 0-2, base 0-3.*\n.*allow_base_mismatch"):
        load(folder, deeper)
    assert load(folder, deeper, allow_base_mismatch=True)[0].info.base == deeper.identity()


def test_a_config_beside_the_file_is_compared(base, folder):
    for text, error, words in (
        ('{"hidden_size": 768, "vocab_size": 140}', BaseError, "width: files 768, base 32"),
        ('{"vocab_size": "x"}', BaseError, "vocabulary: files x"),
        ('{"model_type": "bert"}', BaseError, "model type: files bert, base xlm-roberta"),
        ("[1]", StoreError, "holds a list"),
        ('{"_name_or_path": "bert-base"}', BaseError, "name: files bert-base, base tiny-xlm-roberta"),
        ("{", StoreError, "cannot be read as JSON"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(error, match=words):
            load(folder, base)
    for text in ('{"model_type": "bert"}', '{"_name_or_path": "bert-base"}'):
        (folder / "config.json").write_text(text)
        assert load(folder, base, allow_base_mismatch=True)


# ---- bad files -------------------------------------------------------------------------------------------------------


def entry(**changes):
    return {
        "size": torch.Size((140, 32)),
        "index_steps": [np.int64(3), 1, 4],
        "values": torch.tensor([1.0, 2.0, 3.0]),
    } | changes


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"index_steps": [3, 1]}, "2 steps and values of shape .3,."),
        ({"index_steps": [3, 0, 1]}, "an entry twice"),
        ({"index_steps": [3, -1, 4]}, "a step back"),
        ({"index_steps": [-1, 1, 4]}, "a step back"),
        ({"index_steps": [0, 1, 4479]}, "outside its size"),
        ({"index_steps": [0, 1, 10**30]}, "not whole numbers"),
        ({"index_steps": [0, 1, 2**62]}, "outside its size"),
        ({"index_steps": [0.5, 1, 2]}, "not whole numbers"),
        ({"index_steps": [[0], [1], [2]]}, "not whole numbers"),
        ({"index_steps": [0, [1], 2]}, "not whole numbers"),
        ({"index_steps": ["0", 1, 2]}, "not whole numbers"),
        ({"index_steps": torch.tensor([3, 1, 4])}, "steps in a Tensor"),
        ({"values": torch.tensor([1.0, torch.inf, 1.0])}, "not finite"),
        ({"values": torch.ones(3, 1)}, "values of shape .3, 1."),
        ({"values": torch.ones(3).long()}, "not a dense tensor"),
        ({"values": torch.ones(1).expand(1 << 40)}, "claims 1099511627776 values"),
        ({"size": torch.Size((140, 0))}, "not the shape"),
        ({"size": "x"}, "not the shape"),
        ({"size": (140, -32)}, "not the shape"),
        ({"more": 1}, "holds index_steps, more, size, values;"),
        ({"size": ()}, "not the shape"),
    ],
)
def test_entries_that_make_no_difference_are_refused(base, tmp_path, changes, words):
    with pytest.raises(StoreError, match=words):
        load(write(tmp_path / "x", one(base) | {WORDS: entry(**changes)}), base)


def test_files_that_are_none_of_this_format(base, folder):
    def refused(content, words):
        torch.save(content, folder / "pytorch_diff.bin")
        with pytest.raises(StoreError, match=words):
            load(folder, base)

    refused(
        {"diffs": {}, "abs": {}, "version": 2, "x": 1},
        "keys that the format does not explain: version, x; known: diffs, abs",
    )
    refused({"body": {}, "abs": {}}, "does not explain: abs; known: body, head")
    refused({"abs": {}}, "holds the keys abs; .*'diffs' and 'abs'")
    refused({WORDS: torch.ones(2)}, "holds the keys roberta.embeddings")
    refused([1], "holds a list")
    refused({"diffs": {WORDS: torch.ones(140, 32).to_sparse()}}, "holds a Tensor; size, index_steps, values are")
    refused({"diffs": {WORDS: [1]}}, "holds a list;")
    refused({"diffs": {}, "abs": {}}, "has no entry in any parameter")
    refused({"diffs": {5: entry()}}, "'diffs' is not a table")
    refused({"diffs": {name: described(d * 0) for name, d in one(base).items()}}, "it changes nothing")
    with pytest.raises(BaseError, match="roberta.encoder.x: files .140, 32., base has no such parameter"):
        load(write(folder, one(base) | {"roberta.encoder.x": entry()}), base)
    with pytest.raises(BaseError, match="roberta.encoder.layer.9999.*: files .140, 32., base has no such parameter"):
        load(write(folder, one(base) | {f"roberta.encoder.layer.{'9' * 5000}.x": entry()}), base)
    (folder / "pytorch_diff.bin").unlink()
    for path, words in (
        (folder, "has no pytorch_diff.bin"),
        (folder / "y", "does not exist"),
        (folder / "config.json", "is a file"),
    ):
        (folder / "config.json").write_text("{}")
        with pytest.raises(StoreError, match=words):
            load(path, base)


class Run:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_a_pickle_that_executes_is_refused_and_does_not_run(base, folder, tmp_path):
    target, file = str(tmp_path / "pwned"), folder / "pytorch_diff.bin"
    for content in (
        Run(os.mkdir, (target,)),
        entry(index_steps=[Run(os.mkdir, (target,)), 1, 4]),
        Run(eval, (f"__import__('os').mkdir({target!r})",)),
    ):
        for data in (pickle.dumps({"diffs": {WORDS: content}}), None):
            torch.save({"diffs": {WORDS: content}}, file) if data is None else file.write_bytes(data)
            with pytest.raises(StoreError, match="weights_only"):
                load(folder, base)
    assert not os.path.exists(target)


@pytest.mark.parametrize(
    "scalar",
    [np.float64(3), np.bool_(True), np.datetime64("2020-01-01"), np.str_("3" * 9), np.array([3]), np.dtype("O")],
    ids=repr,
)
def test_other_things_of_numpy_are_refused(base, tmp_path, scalar):
    with pytest.raises(StoreError):
        load(write(tmp_path / "x", one(base) | {WORDS: entry(index_steps=[scalar, 1, 4])}), base)


def test_archives_that_unpack_to_more_or_elsewhere(base, folder, tmp_path):
    file, before = folder / "pytorch_diff.bin", sorted(p.name for p in tmp_path.rglob("*"))
    with zipfile.ZipFile(file) as archive:
        entries = [(e.filename, archive.read(e)) for e in archive.infolist()]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        archive.writestr("archive/data/9", bytes(10**7))
    file.write_bytes(packed.getvalue())
    with pytest.raises(StoreError, match="compressed archive"):
        load(folder, base)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../climbed", b"x")
    with pytest.raises(StoreError, match="cannot be read as weights"):
        load(folder, base)
    with pytest.raises(StoreError, match="is a file; give the folder.*unpack an archive first"):
        load(file, base)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_names_and_roles(base, folder):
    with pytest.raises(MadxError, match="'../x' cannot name a module"):
        load(folder, base, name="../x")
    with pytest.raises(ConfigError, match="role is 'lang'"):
        load(folder, base, role="lang")


# ---- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["xlm-roberta", "distilbert", "deberta-v2"])
def test_round_trip(family, tmp_path):
    base = tiny.base(family)
    made = sparse(base, "ner", entries=500, role="task", task="ner", labels=LABELS)
    folder = export_composable_sft(made, tmp_path / "ner", base=base)
    stored = torch.load(folder / "pytorch_diff.bin", weights_only=True)  # plain numbers need no allowances
    prefix = base.model.base_model_prefix + "."
    assert {prefix + p.name for p in base.sites["weights"].parameters} == set(stored["diffs"])
    for name, delta in dense(made).items():
        assert torch.equal(understood(stored["diffs"][prefix + name]), delta)
    assert torch.equal(stored["abs"]["classifier.weight"], made.head.weight)
    again, report = load(folder, base, role="task", task="ner", language=None)
    unit, other = (m.units["weights"]["sparse_diff"] for m in (made, again))
    assert torch.equal(unit.values, other.values) and torch.equal(unit.indices, other.indices)
    assert again.info.labels == LABELS and torch.equal(again.head.weight, made.head.weight)
    top = sparse(base, "top", entries=50, top_layers=1, groups=["layers"])
    assert load(export_composable_sft(top, tmp_path / "top", base=base), base)[0]  # layers without entries are listed


def test_what_the_format_cannot_say_is_not_written(base, tmp_path, monkeypatch):
    def refused(made, words, base=base, error=ConfigError):
        with pytest.raises(error, match=words):
            export_composable_sft(made, tmp_path / "m", base=base)

    refused(new_module("swa", base), "it has 'bottleneck', 'invertible'")
    refused(sparse(base, "swa"), "was made for the base", base=tiny.base(seed=1), error=BaseError)
    modern = tiny.base("modernbert")
    refused(
        sparse(modern, "ner", role="task", task="ner", labels=LABELS),
        "more than a linear layer.*head.dense",
        base=modern,
    )
    folder = export_composable_sft(sparse(base, "swa"), tmp_path / "x", base=base)
    with pytest.raises(StoreError, match="is in use"):
        export_composable_sft(sparse(base, "swa"), folder, base=base)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    refused(sparse(base, "swa"), "No space left.*Nothing was written", error=StoreError)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
