"""The store as a folder of modules: list, show, verify, remove; names, links and other people's files are safe."""

import pytest
import tiny
from store_tools import alter, hidden, module, same, task

from madx.errors import MadxError, StoreError
from madx.store import LAYOUT, Store, check_target, folders, load_module, save_module


@pytest.fixture(scope="module")
def base():
    return tiny.base()


def test_list_show_verify_remove(base, tmp_path):
    store = Store(tmp_path / "modules")
    assert store.list() == [] and store.verify() == []
    with pytest.raises(StoreError, match="No module 'swa' in the store .*(none)"):
        store.load("swa", base)
    store.save(module(base, "swahili")), store.save(task(base))
    (store.root / "notes").mkdir(), (store.root / "notes" / "README.md").touch(), (store.root / "file").touch()
    rows = store.list()
    assert [row.name for row in rows] == ["ner", "swahili"] and not any(row.fault for row in rows)
    shown = store.show("swahili")
    assert shown == rows[1] and shown.info.language == "swa" and shown.weights.dtype == "float32"
    assert shown.bytes == sum(f.stat().st_size for f in shown.path.iterdir())
    for act in (store.show, store.remove, store.verify, lambda name: store.load(name, base)):
        with pytest.raises(StoreError, match="No module 'swahilli' in the store .*; did you mean 'swahili'"):
            act("swahilli")
    store.remove("swahili")
    assert [row.name for row in store.list()] == ["ner"] and hidden(store.root) == []
    alter(store.root / "ner", lambda c: c.update(labels=["O", "B"]))
    assert store.verify("ner") == ["ner: head: module.json names 2 labels, the weights have 3 rows"]
    store.remove("ner")  # a damaged module can go
    with pytest.raises(StoreError, match="(?s)is damaged"):
        folder = store.save(module(base))
        (folder / LAYOUT.manifest).write_text("{")
        store.show("swa")


def test_a_taken_name_needs_overwrite(base, tmp_path):
    store, old, new = Store(tmp_path), module(base, seed=1), module(base, seed=2)
    store.save(old)
    with pytest.raises(StoreError, match="already holds a module. Pass overwrite=True"):
        store.save(new)
    with pytest.raises(StoreError, match="already holds a module"):
        check_target(tmp_path / "swa")
    check_target(tmp_path / "swa", overwrite=True), check_target(tmp_path / "free")
    assert same(store.load("swa", base), old)
    store.save(new, overwrite=True)
    assert same(store.load("swa", base), new)


def test_other_peoples_files_are_never_deleted(base, tmp_path):
    store = Store(tmp_path)
    (tmp_path / "photos").mkdir(), (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(StoreError, match="holds other files and no module"):
        save_module(module(base), tmp_path / "photos", overwrite=True)
    folder = store.save(module(base))
    (folder / "notes.txt").touch()
    with pytest.raises(StoreError, match="is not replaced: beside the module it holds notes.txt"):
        store.save(module(base), overwrite=True)
    with pytest.raises(StoreError, match="is not removed: beside the module it holds notes.txt"):
        store.remove("swa")
    with pytest.raises(StoreError, match="No module 'photos'"):
        store.remove("photos")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file; a module needs a folder"):
        save_module(module(base), tmp_path / "file", overwrite=True)
    with pytest.raises(StoreError, match="is a file, not a folder"):
        save_module(module(base), tmp_path / "file" / "swa")
    with pytest.raises(StoreError, match="is not a folder"):
        Store(tmp_path / "file")
    assert (tmp_path / "photos" / "a.jpg").exists() and (folder / "notes.txt").exists()


def test_a_renamed_folder_loads_by_path_only(base, tmp_path, caplog):
    store, swa = Store(tmp_path), module(base)
    store.save(swa).rename(tmp_path / "hau")
    with caplog.at_level("INFO", "madx"):
        assert load_module(tmp_path / "hau", base).name == "swa"
    assert "holds the module 'swa'; it keeps that name" in caplog.text
    with pytest.raises(StoreError, match="holds a module that calls itself 'swa'. Rename the folder to 'swa'"):
        store.load("hau", base)
    assert "calls itself 'swa'" in store.list()[0].fault and store.verify() == ["hau: calls itself 'swa'"]


@pytest.mark.parametrize("name", ["../out", "..", ".", "/etc", "a/b", "", ".hidden", "base", "a\\b", "x\n"])
def test_names_cannot_leave_the_store(name, base, tmp_path):
    store = Store(tmp_path / "modules")
    save_module(module(base), tmp_path / "out")
    for act in (store.show, store.remove, store.verify, lambda n: store.load(n, base)):
        with pytest.raises(MadxError, match="cannot name a module"):
            act(name)
    assert (tmp_path / "out" / LAYOUT.weights).exists()


def test_links_are_refused_and_removal_takes_the_link_only(base, tmp_path):
    outside, store = save_module(module(base), tmp_path / "outside" / "swa"), Store(tmp_path / "modules")
    store.root.mkdir()
    (store.root / "swa").symlink_to(outside)
    for act in (store.show, lambda n: store.load(n, base)):
        with pytest.raises(StoreError, match="swa is a link; a store reads only its own files"):
            act("swa")
    assert "is a link" in store.verify()[0] and "is a link" in store.list()[0].fault
    with pytest.raises(StoreError, match="is a link, not a folder to replace"):
        store.save(module(base), overwrite=True)
    store.remove("swa")
    assert store.list() == [] and Store(outside.parent).verify() == []
    inner = store.save(module(base))
    (inner / LAYOUT.weights).unlink()
    (inner / LAYOUT.weights).symlink_to(outside / LAYOUT.weights)
    with pytest.raises(StoreError, match="weights.safetensors is a link"):
        store.load("swa", base)
    assert load_module(inner, base), "by its path, as in the cache of a download, it may be read"
    store.remove("swa")
    assert (outside / LAYOUT.weights).exists()


def test_remains_of_one_name_are_told_from_those_of_another(tmp_path):
    for name in (
        ".swa.0123abcd.new",
        ".swa.v2.0123abcd.new",
        ".swa.0123abcd.old",
        ".swa.old",
        "swa.0123abcd.old",
        ".aswa.0123abcd.new",
    ):
        (tmp_path / name).mkdir()
    assert sorted(p.name for p in folders.remains(tmp_path / "swa")) == [".swa.0123abcd.new", ".swa.0123abcd.old"]
