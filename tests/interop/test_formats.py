"""All formats of other libraries alike: the registry, names, what is stored, and a fuzz over damaged files."""

import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import tiny
import torch
from tiny import sparse

import madx.interop
from madx.engine import Engine
from madx.errors import BaseError, CompositionError, ConfigError, MadxError, StoreError
from madx.interop import FORMATS, ImportRequest, export_adapterhub_setup, export_modules, import_into, import_modules
from madx.module import new_module
from madx.store import Store

LABELS = ("O", "B-PER", "I-PER")
SINGLE = sorted(FORMATS)
#: names that the peer or torch stumbles over; here they are names like any other
LEGAL = ("to", "type", "a.b", "parameters", "train")
ILLEGAL = ("../x", "a/b", "", "base", ".hidden", "x" * 101, "a b")


def made(base, form, *, name="mine", labels=LABELS):
    """A module that the format can say."""
    more = {"role": "task", "task": "ner", "labels": labels} if labels else {"language": "swa"}
    if form == "composable-sft":
        return tiny.wake(sparse(base, name, entries=60, **more))
    parts = "lora" if form == "peft" else "pfeiffer"
    return tiny.wake(new_module(name, base, components=parts, **more))


@pytest.fixture(scope="module", params=SINGLE)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def folder(form, base, tmp_path_factory):
    return export_modules("mine", {"mine": made(base, form)}, form, tmp_path_factory.mktemp(form) / "m", base=base)


def request(**more):
    return ImportRequest(**({"name": "x", "role": "task", "task": "ner"} | more))


def state_of(root):
    """Every file of a store with its size and time of change."""
    return {p: (s.st_size, s.st_mtime_ns) for p in Path(root).rglob("*") if (s := p.lstat())}


def test_every_format_is_a_file_of_the_folder():
    files = {p.stem for p in Path(madx.interop.__file__).parent.iterdir()}
    assert {name.replace("-", "_") for name in FORMATS} <= files
    for _, form in FORMATS.items():
        assert form.title and form.files


@pytest.mark.parametrize("name", LEGAL)
def test_any_legal_name_is_stored_loaded_and_used(base, form, folder, name, tmp_path):
    store = Store(tmp_path)
    imported = import_into(store, folder, form, (request(name=name),), base=base)
    module = store.load(name, base)
    assert str(imported.composition) == name and store.verify(base=base) == []
    engine, ids, logits = Engine(base), tiny.inputs(), []
    engine.attach(module), engine.attach(made(base, form))
    for composition in ("mine", name):
        with torch.no_grad(), engine.using(composition):
            logits.append(engine.label_logits(engine(*ids)))
    engine.close()
    assert torch.equal(*logits)


@pytest.mark.parametrize("name", ILLEGAL)
def test_other_names_are_refused_before_anything_is_read_or_written(base, form, folder, name, tmp_path):
    with pytest.raises(CompositionError, match="cannot name a module"):
        import_into(Store(tmp_path / "store"), folder, form, (request(name=name),), base=base)
    assert not list(tmp_path.iterdir())


def test_requests_that_make_no_sense(base, form, folder, tmp_path):
    store = Store(tmp_path / "store")
    for changes, words in (
        ({"role": "lang"}, "role of 'x' is 'lang'"),
        ({"language": "Swahili"}, "'Swahili' is no language code"),
        ({"role": "language"}, "without a language"),
        ({"role": "language", "language": "swa"}, "neither a task nor labels"),
        ({"task": "nre"}, "Unknown task 'nre'; did you mean 'ner'"),
        ({"task": None}, "with_head=False"),
        ({"labels": ("O", "O", "B")}, "Each label is needed once"),
        ({"labels": ("A", "B")}, "2 labels are given .* has 3 rows"),
        ({"labels": ("A", "B", "C")}, "The files name the labels O, B-PER, I-PER"),
    ):
        with pytest.raises(ConfigError, match=words):
            import_into(store, folder, form, (request(**changes),), base=base)
    with pytest.raises(ConfigError, match="holds one module.*is for x, y"):
        import_into(store, folder, form, (request(), request(name="y")), base=base)
    with pytest.raises(ConfigError, match="Unknown format 'adapter-hub'; did you mean 'adapterhub'"):
        import_modules(folder, "adapter-hub", (request(),), base=base)
    assert not (tmp_path / "store").exists()
    assert import_modules(folder, form, (request(labels=LABELS),), base=base).modules["x"].info.labels == LABELS


def test_labels_that_the_files_lack_can_be_given(base, form, tmp_path):
    folder = export_modules("mine", {"mine": made(base, form)}, form, tmp_path / "m", base=base)
    for file in ("config.json", "head_config.json"):
        if (folder / file).exists():
            full = json.loads((folder / file).read_text())
            (full if file == "config.json" else full["config"])["label2id"] = None
            (folder / file).write_text(json.dumps(full))
    assert import_modules(folder, form, (request(labels=("A", "B", "C")),), base=base).modules["x"].info.labels == (
        "A",
        "B",
        "C",
    )
    assert import_modules(folder, form, (request(),), base=base).modules["x"].info.labels == (
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    )


@pytest.mark.parametrize("changes", [{"hidden_size": 48}, {"num_hidden_layers": 2}, {"num_hidden_layers": 4}])
def test_another_base_is_refused_and_the_store_stays(form, folder, tmp_path, changes):
    with pytest.raises((BaseError, StoreError), match=r"(?s)base"):
        import_into(Store(tmp_path / "store"), folder, form, (request(),), base=tiny.base(**changes))
    assert not (tmp_path / "store").exists()


def test_a_taken_name_is_refused_before_reading_and_replaced_when_asked(base, form, folder, tmp_path):
    store = Store(tmp_path)
    import_into(store, folder, form, (request(),), base=base)
    before = state_of(tmp_path)
    with pytest.raises(StoreError, match="already holds a module"):
        import_into(store, tmp_path / "nothing", form, (request(),), base=base)
    assert state_of(tmp_path) == before
    import_into(store, folder, form, (request(language="fin"),), base=base, overwrite=True)
    assert store.show("x").info.language == "fin"


def test_exports_that_make_no_sense(base, form, tmp_path):
    mine = made(base, form)
    for composition, words in (
        ("base", "nothing to write"),
        ("mine + x", "No module is given for x"),
        ("0.5*mine", "not a single module|no such block"),
    ):
        with pytest.raises(ConfigError, match=words):
            export_modules(composition, {"mine": mine}, form, tmp_path / "m", base=base)
    assert not list(tmp_path.iterdir())


# ---- compositions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def setup(base, tmp_path):
    modules = {"swa": tiny.wake(new_module("swa", base, language="swa")), "ner": made(base, "adapterhub", name="ner")}
    return export_adapterhub_setup("swa + ner", modules, tmp_path / "setup", base=base)


BOTH = (ImportRequest("swa", "language", "swa"), ImportRequest("ner", "task", task="ner"))


def test_a_saved_composition_is_stored_as_its_modules(base, setup, tmp_path):
    store = Store(tmp_path / "store")
    imported = import_into(store, setup, "adapterhub", BOTH, base=base)
    assert str(imported.composition) == "swa + ner" and store.names() == ["ner", "swa"] and len(imported.reports) == 2
    assert store.show("ner").info.labels == LABELS and store.show("swa").info.language == "swa"
    with pytest.raises(ConfigError, match="holds the modules swa, ner.* is for x"):
        import_into(store, setup, "adapterhub", (request(),), base=base)


def test_one_that_cannot_be_stored_takes_the_others_along(base, setup, tmp_path, monkeypatch):
    store, save = Store(tmp_path / "store"), Store.save

    def full_after_one(self, module, **kwargs):
        if self.names():
            raise StoreError("the disk is full")
        return save(self, module, **kwargs)

    monkeypatch.setattr(Store, "save", full_after_one)
    with pytest.raises(StoreError, match="disk is full"):
        import_into(store, setup, "adapterhub", BOTH, base=base)
    assert store.names() == []


def test_a_setup_that_climbs_out_of_its_folder(base, setup, tmp_path):
    text = (setup / "adapter_setup.json").read_text()
    (setup / "adapter_setup.json").write_text(text.replace('"swa"', '"../setup/swa"'))
    with pytest.raises(CompositionError, match="cannot name a module"):
        import_into(Store(tmp_path / "store"), setup, "adapterhub", BOTH, base=base)
    assert not (tmp_path / "store").exists()


# ---- fuzz ------------------------------------------------------------------------------------------------------------

VALUES = [
    None,
    True,
    0,
    -1,
    2.5,
    float("nan"),
    10**30,
    "",
    "../../x",
    "a" * 5000,
    [],
    {},
    [[]],
    {"a": {}},
    "gelu",
    ["x"],
]


def cut_or_flip(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, the end cut off, or bytes put in."""
    data, kind = bytearray(data), rng.random()
    if kind < 0.65:
        for _ in range(rng.choice([1, 1, 1, 3])):
            data[rng.randrange(len(data))] = rng.choice([rng.randrange(256), ord("."), ord("t"), 0, 255])
    elif kind < 0.8:
        del data[rng.randrange(len(data)) :]
    else:
        at = rng.randrange(len(data))
        data[at:at] = data[at : at + 20] if rng.random() < 0.5 else rng.randbytes(rng.choice([1, 4, 30]))
    return bytes(data)


def inside(path: Path, intact: bytes, rng: random.Random) -> None:
    """An archive of torch that is whole, with the pickle in it changed: what sums of bytes do not catch."""
    path.write_bytes(intact)
    with zipfile.ZipFile(path) as archive:
        entries = [(e.filename, archive.read(e)) for e in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, cut_or_flip(data, rng) if name.endswith("data.pkl") else data)


def settings_changed(text: bytes, rng: random.Random) -> bytes:
    full = json.loads(text)
    table = rng.choice([t for t in (full, full.get("config")) if isinstance(t, dict)])
    key = rng.choice(sorted(table))
    if rng.random() < 0.8:
        table[key] = rng.choice(VALUES)
    else:
        table[key + "x"] = table.pop(key)
    return json.dumps(full).encode()


@pytest.mark.slow
def test_fuzz(form, tmp_path, monkeypatch):
    """500 damaged folders of each format: each is imported, or refused by a MadxError that leaves the store alone."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    base = tiny.base(num_hidden_layers=1)
    folder = export_modules("mine", {"mine": made(base, form)}, form, tmp_path / "m", base=base)
    store, rng, read = Store(tmp_path / "store"), random.Random(form), 0
    store.save(made(base, form, name="kept"))
    files = {p: p.read_bytes() for p in sorted(folder.iterdir())}
    outside = sorted(p.name for p in tmp_path.iterdir())
    for path, intact in files.items():
        alike = sum(p.suffix == path.suffix for p in files)
        for _ in range((100 if path.suffix == ".json" else 400) // alike):
            if path.suffix == ".bin" and rng.random() < 0.7:
                inside(path, intact, rng)
            elif path.suffix == ".json" and rng.random() < 0.7:
                path.write_bytes(settings_changed(intact, rng))
            else:
                path.write_bytes(cut_or_flip(intact, rng))
            before = state_of(store.root)
            try:
                FORMATS.get(form)().base_of(folder)
                import_into(store, folder, form, (request(),), base=base, overwrite=True)
                read += 1
            except MadxError as error:
                assert len(str(error)) < 8000 and state_of(store.root) == before
        path.write_bytes(intact)
    assert 0 < read < 400 and store.verify() == [] and store.names() == ["kept", "x"]
    assert sorted(p.name for p in tmp_path.iterdir()) == outside
    import_into(store, folder, form, (request(),), base=base, overwrite=True)
    shutil.rmtree(folder)
