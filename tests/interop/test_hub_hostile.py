"""A hub whose answers name files outside of the cache, have no end, or lead elsewhere: all of them are refused."""

import gzip
import shutil
from itertools import repeat
from pathlib import Path

import pytest
import tiny
from hub_server import Refusal
from hub_tools import local_hub

from madx.base import answers, guard, load_base
from madx.errors import BaseError, HubError
from madx.interop.hub import Hub
from madx.interop.hub import download as download_file
from madx.module import new_module
from madx.store import LAYOUT, Store

pytestmark = [
    pytest.mark.slow,  # each test starts a server
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
UP = "../../../../../victim"
LIMIT = 100_000


@pytest.fixture(scope="module")
def stored(base, tmp_path_factory):
    return Store(tmp_path_factory.mktemp("made")).save(tiny.wake(new_module("swa", base, language="swa")))


@pytest.fixture
def hub(local_hub, stored, monkeypatch):
    local_hub.put("juma/swa", {name: (stored / name).read_bytes() for name in LAYOUT.files})
    for name in ("MAX_TEXT", "MAX_ANSWER"):
        monkeypatch.setattr(download_file, name, LIMIT)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its attempts
    return local_hub


@pytest.fixture
def pull(hub, tmp_path):
    """Pulls `juma/swa`, which must be refused and leave nothing outside the cache."""
    (tmp_path / "victim").write_text("mine")

    def refused(*words: str) -> None:
        with pytest.raises(HubError) as caught:
            Hub(endpoint=hub.url).pull("juma/swa", tmp_path / "store")
        assert [word for word in words if word not in str(caught.value)] == [], caught.value
        outside = {p.name for p in tmp_path.iterdir()} - {"hub-cache", "store"}
        assert outside == {"victim"} and (tmp_path / "victim").read_text() == "mine"
        assert not list((tmp_path / "store").glob("*/*"))

    return refused


def named(hub, file: str, **headers: str) -> None:
    """The hub answers with these headers where a file's place is asked for."""
    added = {name.replace("_", "-"): value for name, value in headers.items()}
    hub.alter = lambda method, path, sent, content: (sent | added if path.endswith(file) else sent, content)


@pytest.mark.parametrize("file", LAYOUT.files)
@pytest.mark.parametrize(
    "tag", [f'"{UP}"', f'W/"{UP}"', "..", '""', "/nowhere/victim", '"a\\b"', '"' + "a" * 300 + '"']
)
def test_an_etag_names_no_file(file, tag, hub, pull):
    named(hub, file, **({"X_Linked_Etag": tag} if file == LAYOUT.weights else {"ETag": tag}))
    pull("tag" if file == LAYOUT.weights else "ETag", "hash of a file")


def test_a_forced_download_overwrites_nothing(hub, pull, tmp_path):
    Hub(endpoint=hub.url).pull("juma/swa", tmp_path / "first")
    shutil.rmtree(tmp_path / "first")
    for path in (tmp_path / "hub-cache").rglob(LAYOUT.weights):
        path.resolve().write_bytes(b"damaged, so it is fetched again by force")
    named(hub, LAYOUT.weights, X_Linked_Etag=f'"{UP}"')
    pull("X-Linked-Etag")


@pytest.mark.parametrize("commit", [UP, "main", "0" * 39, "../" * 8 + "0" * 40, "A" * 40])
@pytest.mark.parametrize("file", LAYOUT.files)
def test_a_commit_names_no_folder(commit, file, hub, pull):
    named(hub, file, X_Repo_Commit=commit)
    pull("commit", "40 digits")


def test_nor_does_the_commit_of_a_refusal(hub, pull):
    hub.refuse = lambda method, path: Refusal(404, "EntryNotFound") if path.endswith(LAYOUT.card) else None
    named(hub, LAYOUT.card, X_Repo_Commit=UP)
    pull("commit", "40 digits")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"sha": "', b'"sha": "../../', ["no commit"]),
        (b'"size": ', b'"size": -', ["no size"]),
        (b'"size": ', b'"size": 0.5, "size": 1.', ["no size"]),
        (b'"sha": ', b'"a": ' + b"[" * 20_000 + b"]" * 20_000 + b', "sha": ', ["Cannot fetch"]),
    ],
)
def test_a_list_of_files_is_checked(old, new, words, hub, pull):
    def alter(method, path, headers, content):
        content = content.replace(old, new) if "/api/models/" in path else content
        return headers | {"Content-Length": str(len(content))}, content

    hub.alter = alter
    pull(*words)


@pytest.mark.parametrize("file", ["/api/models/", LAYOUT.manifest, "/cdn/", LAYOUT.card])
def test_an_answer_without_a_stated_size_ends_at_the_limit(file, hub, pull, tmp_path):
    """The server would go on for ever; so a client that does not count never returns."""
    hub.alter = lambda method, path, headers, content: (
        (headers, repeat(b" " * 10_000, 10_000) if method == "GET" else content) if file in path else (headers, content)
    )
    pull("more than", "not fetched")
    assert sum(p.stat().st_size for p in (tmp_path / "hub-cache").rglob("*") if p.is_file()) < 10 * LIMIT


def test_nor_does_it_grow_when_it_is_unpacked(hub, pull):
    bomb = gzip.compress(b" " * 100 * LIMIT)
    packed = {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}
    hub.alter = lambda method, path, headers, content: (
        (headers | packed, bomb) if path.endswith(LAYOUT.manifest) and method == "GET" else (headers, content)
    )
    assert len(bomb) < LIMIT
    pull("more than", "not fetched")


@pytest.mark.parametrize(
    ("name", "size"), [("Content-Length", str(LIMIT + 1)), ("X-Linked-Size", "1e9"), ("X-Linked-Size", "-1")]
)
def test_a_stated_size_beyond_the_limit_is_refused_at_once(name, size, hub, pull):
    named(hub, LAYOUT.manifest, **{name: size})
    pull(name, "not fetched")


def test_a_redirect_leads_to_the_web_alone(hub, pull):
    named(hub, LAYOUT.weights, Location="file:///nowhere/victim")
    pull("file:///nowhere/victim", "only http")


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("https://huggingface.co/a", "http://huggingface.co/a", "not encrypted"),
        ("https://huggingface.co/a", "https://169.254.169.254/latest", "own network"),
        ("https://huggingface.co/a", "https://[::1]/", "own network"),
        ("https://huggingface.co/a", "https://localhost:8080/", "own network"),
        ("https://huggingface.co/a", "https://10.0.0.1/", "own network"),
        ("https://huggingface.co/a", "https://cdn-lfs.huggingface.co/x", None),
        ("http://127.0.0.1/a", "http://localhost/x", None),
    ],
)
def test_where_redirects_may_lead(before, after, why):
    if why is None:
        answers._check_redirect(before, after)
        return
    with pytest.raises(HubError, match=why):
        answers._check_redirect(before, after)


# ---- bases -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(hub, monkeypatch, tmp_path):
    """The tiny base as a repository of the hub, which load_base asks; gives its files."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for home in ("constants", "file_download"):  # by version
        monkeypatch.setattr(f"huggingface_hub.{home}.ENDPOINT", hub.url, raising=False)
        monkeypatch.setattr(f"huggingface_hub.{home}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", False, raising=False)  # 4.57 reads it at import
    tiny.model().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return {path.name: path.read_bytes() for path in Path(tmp_path / "base").iterdir()}


def test_a_base_comes_from_the_commit_that_was_vetted(hub, published):
    commit = hub.put("juma/mini", published)
    base = load_base("juma/mini")
    assert base.revision == commit == load_base("juma/mini", revision=commit).revision
    named = published["config.json"].replace(b"{", b'{"auto_map": {"AutoModel": "x.Y"},', 1)
    hub.put("juma/mini", published | {"config.json": named})
    hub.log.clear()
    with pytest.raises(BaseError, match="auto_map"):
        load_base("juma/mini")
    assert hub.fetched() == {"config.json"}, "nothing else was fetched"
    assert load_base("juma/mini", revision=commit).fingerprint == base.fingerprint


def test_a_base_without_a_config_is_not_left_to_transformers(hub, published):
    del published["config.json"]  # a hostile hub could show one to those who ask again
    hub.put("juma/mini", published)
    with pytest.raises(BaseError, match=r"it has no config\.json"):
        load_base("juma/mini")
    assert hub.fetched() == set()


def test_old_transformers_are_warned_of_once_when_a_base_is_fetched(hub, published, monkeypatch, caplog):
    hub.put("juma/mini", published)
    hub.put("juma/maxi", published)
    monkeypatch.setattr(guard, "_warned", set())
    monkeypatch.setattr("transformers.__version__", "5.5.0")
    guard.vetted_revision("juma/mini", None)
    monkeypatch.setattr("transformers.__version__", "5.2.1")
    guard.vetted_revision("juma/mini", None)
    assert "CVE" not in caplog.text, "fetched before"
    for _ in range(2):
        guard.vetted_revision("juma/maxi", None)
    assert caplog.text.count("CVE-2026-4372") == 1 and "transformers>=5.5" in caplog.text


def test_a_base_of_a_hostile_hub_names_no_file(hub, published, tmp_path):
    hub.put("juma/mini", published)
    named(hub, "config.json", ETag=f'"{UP}"')
    with pytest.raises(HubError, match="hash of a file"):
        load_base("juma/mini")
    assert not (tmp_path / "victim").exists()
