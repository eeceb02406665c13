"""The model hub against a local server: round trips, provenance, offline, and refusals that change nothing."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from hub_server import Refusal
from hub_tools import local_hub, set_offline
from huggingface_hub import ModelCard
from store_tools import alter, mended

import madx
from madx.errors import BaseError, CompositionError, HubError, MadxError, StoreError
from madx.interop.hub import Hub, load
from madx.interop.hub import download as download_file
from madx.interop.hub import hub as hub_file
from madx.interop.hub.place import Place
from madx.jobs import Predictor
from madx.module import new_module
from madx.store import LAYOUT, Store, write_stored
from madx.store.card import model_card
from madx.store.module_json import from_text

#: huggingface_hub 2's own upload over LFS is not up to date with its HTTP library
pytestmark = [
    pytest.mark.slow,  # each test starts a server
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
HOME = "/home/juma/texts/swa.txt"
VERSION1 = Path(__file__).parents[1] / "fixtures" / "v1"


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    """A stored `swa`, made once."""
    swa = tiny.wake(new_module("swa", base, language="swa", components="pfeiffer", licence="CC-BY-4.0"))
    swa.info.training = {
        "data": [{"path": HOME, "sha256": "ab" * 32, "bytes": 12}],
        "settings": {"corpus": [HOME], "steps": 7},
        "scores": {"held_out_after": {"perplexity": 9.5, "loss": 2.25, "accuracy": 0.5}},
    }
    swa.info.base = swa.info.base | {"name": "/home/juma/mini"}
    return Store(tmp_path_factory.mktemp("made")).save(swa)


@pytest.fixture
def mine(folder, tmp_path):
    """A store that holds `swa`."""
    shutil.copytree(folder, tmp_path / "mine" / "swa")
    return Store(tmp_path / "mine")


@pytest.fixture
def theirs(tmp_path, folder):
    """Another store, which holds `eng`."""
    manifest, data, _ = Store(folder.parent).read("swa")
    write_stored(tmp_path / "theirs" / "eng", manifest.model_copy(update={"name": "eng", "language": "eng"}), data)
    return Store(tmp_path / "theirs")


@pytest.fixture
def writer(local_hub):
    return Hub(token="hf_writer", endpoint=local_hub.url)


@pytest.fixture
def anybody(local_hub):
    return Hub(endpoint=local_hub.url)


def files(folder) -> dict[str, bytes]:
    return {name: (Path(folder) / name).read_bytes() for name in LAYOUT.files}


def content(root) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path(root).rglob("*")) if p.is_file()}


def refused(action, store, *words, error=HubError) -> str:
    """The text of a refusal that left the store as it was."""
    before = content(store.root)
    with pytest.raises(error) as caught:
        action()
    assert content(store.root) == before and isinstance(caught.value, MadxError)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    return str(caught.value)


def same(a, b) -> bool:
    return a.tensors().keys() == b.tensors().keys() and all(
        torch.equal(t, b.tensors()[n]) for n, t in a.tensors().items()
    )


# ---- round trips -----------------------------------------------------------------------------------------------------


def test_round_trip_is_bit_exact_and_says_where_it_came_from(local_hub, writer, anybody, mine, theirs, base):
    pushed = writer.push("swa", "juma/xlmr-swa", store=mine, message="first")
    published = local_hub.repositories["juma/xlmr-swa"]
    assert (
        set(published.commits[pushed.revision]) == {".gitattributes", *LAYOUT.files}
        and published.messages[-1] == "first"
    )
    row = anybody.pull("juma/xlmr-swa", theirs)
    assert files(row.path)[LAYOUT.weights] == files(mine.root / "swa")[LAYOUT.weights]
    assert same(theirs.load("swa", base), mine.load("swa", base)) and theirs.verify() == []
    origin = {"hub": local_hub.url, "repository": "juma/xlmr-swa", "revision": pushed.revision, "name": "swa"}
    assert row.info.training["pulled"] == origin
    ours, got = (json.loads(files(f)[LAYOUT.manifest]) for f in (mine.root / "swa", row.path))
    other = ("training", "base", "checksum")
    assert {k: v for k, v in got.items() if k not in other} == {k: v for k, v in ours.items() if k not in other}
    assert got["training"]["scores"] == ours["training"]["scores"]
    assert (row.path / LAYOUT.card).read_text() == model_card(from_text(files(row.path)[LAYOUT.manifest], "")), (
        "its own"
    )


def test_nobodys_folders_are_published(local_hub, writer, mine):
    pushed = writer.push("swa", "juma/swa", store=mine)
    sent = local_hub.repositories["juma/swa"].commits[pushed.revision]
    record = json.loads(sent[LAYOUT.manifest])
    assert record["training"]["data"][0]["path"] == "swa.txt" and record["training"]["settings"] == {
        "corpus": ["swa.txt"],
        "steps": 7,
    }
    assert record["base"]["name"] == "mini" and not any(b"juma/texts" in data for data in sent.values())


def test_the_card_on_the_hub_is_read_by_its_own_library(local_hub, writer, mine):
    pushed = writer.push("swa", "juma/swa", store=mine)
    card = ModelCard(local_hub.repositories["juma/swa"].commits[pushed.revision][LAYOUT.card].decode())
    assert (card.data.language, card.data.license, card.data.library_name) == (["sw"], "cc-by-4.0", "madx")
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {
        "perplexity": 9.5,
        "loss": 2.25,
        "accuracy": 0.5,
    }
    assert "madx.load('hf://juma/swa', base)" in card.text


@pytest.mark.parametrize("name", ["ner", "swa"])
def test_modules_published_by_0_1_0_are_pulled_loaded_and_pushed_on(name, local_hub, writer, anybody, tmp_path):
    """They are in format 1 there (`tests/fixtures/make_v1.py`); what is pulled or pushed on is current."""
    old, base, store = VERSION1 / name, tiny.fixed_base(), Store(tmp_path / "pulled")
    local_hub.put("juma/old", files(old))
    expected = madx.load_module(old, base)
    assert same(madx.load("hf://juma/old", base), expected)
    row = anybody.pull("juma/old", store)
    assert json.loads(files(row.path)[LAYOUT.manifest])["format"] == 2 and store.verify(base=base) == []
    assert same(store.load(name, base), expected)
    assert {k: v for k, v in row.info.training.items() if k != "pulled"} == expected.info.training
    writer.push(name, "juma/new", store=Store(VERSION1))
    anybody.pull("juma/new", store, name="again")
    assert same(store.load("again", base), expected) and store.verify(base=base) == []


def test_revisions_pin_what_is_pulled(local_hub, writer, anybody, mine, theirs, base):
    first = writer.push("swa", "juma/swa", store=mine)
    other, third = (
        tiny.wake(new_module("swa", base, language="swa", components="pfeiffer"), seed=seed) for seed in (8, 9)
    )
    second, branched = writer.push(other, "juma/swa"), writer.push(third, "juma/swa@v2")
    assert len({first.revision, second.revision, branched.revision}) == 3
    assert local_hub.repositories["juma/swa"].branches["v2"] == branched.revision
    for place, expected in ((first.reference, mine.load("swa", base)), ("juma/swa", other), ("juma/swa@v2", third)):
        row = anybody.pull(place, theirs, overwrite=True)
        assert same(theirs.load("swa", base), expected), place
        assert row.info.training["pulled"]["revision"] == local_hub.repositories["juma/swa"].find(
            Place.parse(place).revision or "main"
        )


def test_a_module_is_loaded_without_a_store(local_hub, writer, mine, base, monkeypatch, tmp_path):
    pushed = writer.push("swa", "juma/swa", store=mine)
    module = madx.load("hf://juma/swa", base)
    assert same(module, mine.load("swa", base)) and module.info.training["pulled"]["revision"] == pushed.revision
    assert same(madx.load(mine.root / "swa", base), module), "a folder too"
    with pytest.raises(BaseError, match=r"pulled from juma/swa.*'mini', which was never fetched.*--base mini"):
        load(pushed.reference)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    asked = []
    monkeypatch.setattr(hub_file, "load_base", lambda name, revision: asked.append((name, revision)) or base)
    assert same(load(pushed.reference), module) and asked == [("mini", None)], "the base that it records"


def test_a_module_under_another_name(writer, anybody, mine, theirs, base):
    writer.push("swa", "juma/swa", store=mine)
    row = anybody.pull("juma/swa", theirs, name="swa-juma")
    assert row.path.name == row.name == "swa-juma" and row.info.training["pulled"]["name"] == "swa"
    assert "# swa-juma\n" in (row.path / LAYOUT.card).read_text() and same(
        theirs.load("swa-juma", base), mine.load("swa", base)
    )


def test_notes_below_a_card_go_along_and_the_rest_is_made_anew(local_hub, writer, anybody, mine, theirs, caplog):
    card = mine.root / "swa" / LAYOUT.card
    old = card.read_text().replace("model-index", "of-an-older-madx") + "\nThanks to the people of Zanzibar.\n"
    card.write_text(old)
    pushed = writer.push("swa", "juma/swa", store=mine)
    sent = local_hub.repositories["juma/swa"].commits[pushed.revision][LAYOUT.card].decode()
    assert sent.endswith("\n\nThanks to the people of Zanzibar.\n") and "madx.load('hf://juma/swa', base)" in sent
    assert "older" not in sent and ModelCard(sent).data.eval_results and "base from a folder (mini)" in caplog.text
    got = (anybody.pull("juma/swa", theirs).path / LAYOUT.card).read_text()
    assert got.endswith("\n\nThanks to the people of Zanzibar.\n") and "madx.load_module('swa', base)" in got
    assert got.count("Zanzibar") == 1


def test_a_card_of_ones_own_goes_along_as_it_is(local_hub, writer, anybody, mine, theirs):
    card = mine.root / "swa" / LAYOUT.card
    card.write_text("---\nlicense: mit\ntags: [mine]\n---\n\n# Swahili\n")
    writer.push("swa", "juma/swa", store=mine)
    assert (anybody.pull("juma/swa", theirs).path / LAYOUT.card).read_text() == card.read_text()
    pushed = writer.push("swa", "juma/swa", store=mine, licence="Juma's own")
    sent = ModelCard(local_hub.repositories["juma/swa"].commits[pushed.revision][LAYOUT.card].decode())
    assert (sent.data.license, sent.data.license_name, sent.data.tags) == ("other", "Juma's own", ["mine"])
    assert anybody.pull("juma/swa", theirs, overwrite=True).info.licence == "Juma's own" and "# Swahili" in sent.text
    card.write_text("---\nlicense: [\n---\n")
    refused(lambda: writer.push("swa", "juma/swa", store=mine), mine, "front matter", "cannot be read")


def test_a_new_repository_may_be_private(local_hub, writer, anybody, mine, theirs):
    writer.push("swa", "juma/secret", store=mine, private=True)
    assert local_hub.repositories["juma/secret"].private
    refused(lambda: anybody.pull("juma/secret", theirs), theirs, "or it is private", "hf auth login")
    assert writer.pull("juma/secret", theirs).name == "swa"


def test_only_the_three_files_are_fetched(local_hub, anybody, mine, theirs):
    local_hub.put(
        "juma/swa",
        {**files(mine.root / "swa"), "evil.py": b"import os", "pytorch_model.bin": b"\x80", "a/b.json": b"{}"},
    )
    anybody.pull("juma/swa", theirs)
    assert sorted(p.name for p in (theirs.root / "swa").iterdir()) == sorted(LAYOUT.files)
    touched = {path for _, path in local_hub.log}
    assert not [p for p in touched if p.endswith(("evil.py", ".bin", "b.json"))]


def test_a_repository_without_a_card_gets_one(local_hub, anybody, mine, theirs):
    bare = files(mine.root / "swa")
    del bare[LAYOUT.card]
    local_hub.put("juma/swa", bare)
    row = anybody.pull("juma/swa", theirs)
    assert theirs.verify("swa") == [] and "# swa\n" in (row.path / LAYOUT.card).read_text()


# ---- out of reach ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["offline", "down", "broken", "portal"])
def test_what_was_fetched_before_is_used_when_the_hub_is_out_of_reach(
    how, local_hub, writer, anybody, mine, theirs, monkeypatch, caplog
):
    pushed = writer.push("swa", "juma/swa", store=mine)
    anybody.pull("juma/swa", theirs)
    writer.push("swa", "juma/never", store=mine)
    if how == "offline":
        set_offline(monkeypatch, True)
    elif how == "down":
        anybody = Hub(endpoint="http://127.0.0.1:9")
    elif how == "broken":
        local_hub.refuse = lambda method, path: Refusal(503, "", "maintenance")
    else:
        monkeypatch.setattr(
            "hub_server.ROUTES", (("GET", r"/api/.*", lambda self: self._send(200, b"<html>log in</html>")),)
        )
    words = {"offline": "HF_HUB_OFFLINE", "down": "cannot be reached", "broken": "out of order", "portal": "is no hub"}[
        how
    ]
    for place, name in (("juma/swa", "again"), (pushed.reference, "pinned")):
        row = anybody.pull(place, theirs, name=name)
        assert row.info.training["pulled"]["revision"] == pushed.revision
        assert words in caplog.text and "fetched before" in caplog.text
    for place in ("juma/never", "juma/swa@v2"):
        refused(lambda place=place: anybody.pull(place, theirs), theirs, place, words, "in the cache")
    refused(
        lambda: Hub(token="hf_writer", endpoint=anybody.api.endpoint).push("swa", "juma/swa", store=mine), mine, words
    )


def test_half_a_module_in_the_cache_is_none(local_hub, writer, anybody, mine, theirs, monkeypatch, tmp_path):
    writer.push("swa", "juma/swa", store=mine)
    anybody.pull("juma/swa", theirs)
    next((tmp_path / "hub-cache").rglob(LAYOUT.weights)).unlink()
    set_offline(monkeypatch, True)
    refused(lambda: anybody.pull("juma/swa", theirs, name="again"), theirs, "offline", "in the cache")


def test_a_damaged_cache_is_mended(local_hub, writer, anybody, mine, theirs, tmp_path, monkeypatch):
    writer.push("swa", "juma/swa", store=mine)
    anybody.pull("juma/swa", theirs)
    for file, damage in ((LAYOUT.weights, lambda d: d[:-1] + bytes([d[-1] ^ 1])), (LAYOUT.manifest, lambda d: d[:40])):
        cached = next((tmp_path / "hub-cache").rglob(file))
        cached.resolve().write_bytes(damage(cached.read_bytes()))
        if file == LAYOUT.weights:
            with monkeypatch.context() as patch:
                set_offline(patch, True)
                refused(lambda: anybody.pull("juma/swa", theirs, name="b"), theirs, "damaged", error=StoreError)
            set_offline(monkeypatch, False)
        anybody.pull("juma/swa", theirs, overwrite=True)
        assert theirs.verify() == []


def test_a_connection_that_breaks_leaves_nothing(local_hub, writer, anybody, mine, theirs, monkeypatch):
    writer.push("swa", "juma/swa", store=mine)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its attempts
    local_hub.refuse = lambda method, path: Refusal(503, "", "busy") if path.endswith(LAYOUT.weights) else None
    refused(lambda: anybody.pull("juma/swa", theirs), theirs, "Cannot fetch juma/swa")


# ---- refusals of the hub ---------------------------------------------------------------------------------------------


def test_nothing_is_there(anybody, writer, local_hub, mine, theirs):
    refused(lambda: anybody.pull("juma/nothing", theirs), theirs, "juma/nothing", "no such model, or it is private")
    writer.push("swa", "juma/swa", store=mine)
    refused(lambda: anybody.pull("juma/swa", theirs, revision="v9"), theirs, "'v9'", "branch, tag or commit")
    refused(lambda: anybody.pull("juma/swa@" + "0" * 40, theirs), theirs, "0" * 40)


def test_tokens(local_hub, writer, anybody, mine, theirs):
    refused(lambda: anybody.push("swa", "juma/swa", store=mine), mine, "needs a token", "hf auth login", "HF_TOKEN")
    assert not local_hub.log, "refused before anything is sent"
    wrong = Hub(token="hf_wrong", endpoint=local_hub.url)
    refused(lambda: wrong.push("swa", "juma/swa", store=mine), mine, "does not know this token")
    refused(lambda: wrong.pull("juma/swa", theirs), theirs, "does not know this token")
    reader = Hub(token="hf_reader", endpoint=local_hub.url)
    text = refused(lambda: reader.push("swa", "juma/swa", store=mine), mine, "rights", "juma/swa")
    assert "hf_reader" not in text
    writer.push("swa", "juma/swa", store=mine)
    refused(lambda: reader.push("swa", "juma/swa", store=mine), mine, "refuses this token", "right to write")
    local_hub.repositories["juma/swa"].gated = True
    refused(lambda: anybody.pull("juma/swa", theirs), theirs, "gated", "Ask for access")


def test_pushes_that_would_harm(local_hub, writer, mine):
    local_hub.put("juma/model", {"config.json": b"{}", "model.safetensors": b"x", "README.md": b"# A model"})
    refused(lambda: writer.push("swa", "juma/model", store=mine), mine, "no module of madx", "config.json")
    writer.push("swa", "juma/swa", store=mine)
    refused(
        lambda: writer.push("swa", "juma/swa", store=mine, private=True),
        mine,
        "anybody can read it",
        "nothing was pushed",
    )
    refused(lambda: writer.push("swa", "juma/swa@" + "a" * 40, store=mine), mine, "goes to a branch")
    local_hub.yaml_faults = ["license must be one of"]
    refused(lambda: writer.push("swa", "juma/new", store=mine), mine, "license must be one of")
    with open(mine.root / "swa" / LAYOUT.weights, "r+b") as file:
        file.truncate(100)
    before = len(local_hub.log)
    refused(lambda: writer.push("swa", "juma/swa", store=mine), mine, "damaged", error=StoreError)
    refused(lambda: writer.push("swe", "juma/swa", store=mine), mine, "did you mean 'swa'", error=StoreError)
    assert len(local_hub.log) == before and len(local_hub.repositories["juma/model"].commits) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [(429, "too many requests"), (418, "I am a teapot"), (500, "out of order"), (403, "I am a teapot")],
)
def test_other_answers(status, words, local_hub, anybody, theirs):
    local_hub.refuse = lambda method, path: Refusal(status, "", "I am a teapot")
    refused(lambda: anybody.pull("juma/swa", theirs), theirs, words)


# ---- what is no module, or a damaged one -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"adapter_config.json": b"{}", "pytorch_adapter.bin": b"x"},
            ["AdapterHub", "madx modules import", "--from adapterhub"],
        ),
        ({"pytorch_diff.bin": b"x"}, ["composable-sft", "--from composable-sft"]),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, ["peft"]),
        ({"config.json": b"{}", "model.safetensors": b"x"}, ["whole model", "base"]),
        (
            {"notes.txt": b"", **{f"{n}.txt": b"" for n in range(20)}},
            ["module.json and weights.safetensors", "13 more"],
        ),
        ({LAYOUT.manifest: b"{}"}, ["module.json and weights.safetensors"]),
        ({}, ["empty"]),
    ],
)
def test_what_is_no_module_is_named(found, words, local_hub, anybody, theirs):
    local_hub.put("juma/thing", found)
    refused(lambda: anybody.pull("juma/thing", theirs), theirs, "juma/thing holds no module of madx", *words)
    assert local_hub.fetched() == set()


def altered(data: bytes, **changes) -> bytes:
    return json.dumps(mended(json.loads(data) | changes)).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: {LAYOUT.weights: f[LAYOUT.weights][:-7]}, ["records", "push it again"]),
        (lambda f: {LAYOUT.weights: f[LAYOUT.weights][:-1] + b"\x01"}, ["sha256", "altered"]),
        (
            lambda f: {LAYOUT.manifest: altered(f[LAYOUT.manifest], name="../../up")},
            ["../../up", "cannot name a module"],
        ),
        (lambda f: {LAYOUT.manifest: altered(f[LAYOUT.manifest], name="base")}, ["cannot name a module"]),
        (lambda f: {LAYOUT.manifest: altered(f[LAYOUT.manifest], format=99)}, ["newer madx"]),
        (
            lambda f: {LAYOUT.manifest: f[LAYOUT.manifest].replace(b"CC-BY-4.0", b"MIT")},
            ["checksum", "fetch the module"],
        ),
        (lambda f: {LAYOUT.manifest: altered(f[LAYOUT.manifest], run="rm -rf")}, ["run", "unknown key"]),
        (lambda f: {LAYOUT.manifest: f[LAYOUT.manifest][:-30]}, ["cannot be read as JSON", "module.json of juma/swa"]),
        (lambda f: {LAYOUT.manifest: b"\x80\x04."}, ["cannot be read as JSON"]),
        (
            lambda f: {LAYOUT.manifest: altered(f[LAYOUT.manifest], components=[{"type": "mystery", "settings": {}}])},
            ["no module type 'mystery'"],
        ),
    ],
)
def test_damaged_and_malign_modules_are_refused(change, words, local_hub, anybody, mine, theirs):
    whole = files(mine.root / "swa")
    local_hub.put("juma/swa", whole | change(whole))
    refused(lambda: anybody.pull("juma/swa", theirs), theirs, *words, error=StoreError)
    assert not list(theirs.root.parent.glob("up*"))


def test_huge_texts_are_not_fetched(local_hub, anybody, mine, theirs, monkeypatch):
    local_hub.put("juma/swa", files(mine.root / "swa"))
    monkeypatch.setattr(download_file, "MAX_TEXT", 100)
    refused(lambda: anybody.pull("juma/swa", theirs), theirs, "module.json of juma/swa has", "more than 100")
    assert local_hub.fetched() == set()


def test_a_name_that_is_taken_is_told_before_weights_travel(local_hub, writer, anybody, mine, theirs, base):
    writer.push("swa", "juma/swa", store=mine)
    local_hub.log.clear()
    refused(lambda: anybody.pull("juma/swa", theirs, name="eng"), theirs, "already holds a module", error=StoreError)
    assert local_hub.fetched() == {LAYOUT.manifest}
    refused(
        lambda: anybody.pull("juma/swa", theirs, name="../eng"), theirs, "cannot name a module", error=CompositionError
    )
    anybody.pull("juma/swa", theirs, name="eng", overwrite=True)
    assert same(theirs.load("eng", base), mine.load("swa", base)) and theirs.show("eng").info.language == "swa"


def test_another_base_is_told_before_weights_travel(local_hub, writer, mine):
    writer.push("swa", "juma/swa", store=mine)
    with pytest.raises(BaseError, match="made for the base 'mini'"):
        madx.load("hf://juma/swa", tiny.base(seed=5))
    assert LAYOUT.weights not in local_hub.fetched()
    assert madx.load("hf://juma/swa", tiny.base(seed=5), allow_base_mismatch=True).name == "swa"


def test_a_push_meanwhile_is_noticed(local_hub, writer, anybody, mine, theirs, monkeypatch):
    writer.push("swa", "juma/swa", store=mine)
    read = anybody.api.model_info

    def and_push(*args, **options):
        info = read(*args, **options)
        local_hub.put("juma/swa", {"more.txt": b""})
        return info

    monkeypatch.setattr(anybody.api, "model_info", and_push)
    refused(lambda: anybody.pull("juma/swa", theirs), theirs, "pushed to just now")


# ---- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "swa",
        "",
        "a/b/c",
        "juma/",
        "/swa",
        "juma/../x",
        "../juma",
        "juma/s wa",
        "juma/swa@",
        "juma/swa@../..",
        "juma/a--b",
        "juma/swa@/etc",
        "https://huggingface.co/juma/swa",
        "hf://",
        "juma/swa@a//b",
        "juma/swä",
        "juma/swa.git",
        "juma/" + "x" * 200,
    ],
)
def test_what_is_no_place_is_refused(text, anybody, theirs, local_hub):
    refused(lambda: anybody.pull(text, theirs), theirs, "is no ")
    assert not local_hub.log


def test_places():
    assert Place.parse("hf://juma/x.l-m_r@refs/pr/1") == Place("juma/x.l-m_r", "refs/pr/1")
    assert str(Place.parse("juma/swa", "v1")) == "juma/swa@v1" and Place.parse("juma/swa@" + "a" * 40).is_commit
    with pytest.raises(HubError, match="one of them"):
        Place.parse("juma/swa@v1", "v2")


def test_a_place_where_a_name_is_due_says_to_pull(mine, base, tmp_path):
    for action in (
        lambda: mine.load("hf://juma/swa", base),
        lambda: Predictor("hf://juma/swa + ner", store=str(mine.root)),
        lambda: madx.Stack("hf://juma/swa", "ner"),
    ):
        with pytest.raises(CompositionError, match="madx modules pull"):
            action()
    with pytest.raises(StoreError, match="madx.load"):
        madx.load_module("hf://juma/swa", base)


def test_a_module_that_records_no_base_needs_one(mine):
    alter(mine.root / "swa", lambda content: content.update(base=None))
    with pytest.raises(StoreError, match="records no base"):
        madx.load(mine.root / "swa")


def test_a_module_publishes_itself(local_hub, writer, mine, base, monkeypatch):
    monkeypatch.setattr("madx.interop.hub.Hub", lambda: writer)
    pushed = mine.load("swa", base).push_to_hub("juma/itself", licence="cc0-1.0")
    assert same(madx.load(pushed.reference, base), mine.load("swa", base))
