"""The guard: configs that name code are refused before transformers reads anything of the base."""

import json
import os

import pytest
import tiny
import transformers

from madx.base import guard, load_base, load_tokenizer
from madx.base.guard import UntrustedBaseError, require_known, vetted_revision
from madx.cli import options
from madx.errors import BaseError, MadxError
from madx.module.module import ModuleInfo

KERNEL = "evil/kernel"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A base whose configs a test alters; transformers must not be asked for anything of it."""
    tiny.model().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def alter(folder, file: str, content: dict) -> None:
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | content))


def refused(folder, monkeypatch, *words: str) -> None:
    def trap(*args, **options):
        raise AssertionError("transformers was asked")

    for name in ("AutoConfig", "AutoModelForMaskedLM", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", trap)
    for load in (load_base, load_tokenizer):
        with pytest.raises(BaseError) as caught:
            load(folder)
        assert [word for word in words if word not in str(caught.value)] == [], caught.value


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"_attn_implementation_internal": KERNEL}, "_attn_implementation_internal"),
        ({"_attn_implementation_internal": "sdpa"}, "_attn_implementation_internal"),
        ({"_attn_implementation": KERNEL}, "_attn_implementation"),
        ({"_attn_implementation": f"{KERNEL}@main:fn"}, "_attn_implementation"),
        ({"_attn_implementation": f"flash|{KERNEL}:fn"}, "_attn_implementation"),
        (
            {"_attn_implementation": "flash_attention_2"},
            "_attn_implementation",
        ),  # a kernel, where flash_attn is missing
        ({"attn_implementation": {"text_config": KERNEL}}, "attn_implementation"),
        ({"_experts_implementation": KERNEL}, "_experts_implementation"),
        ({"text_config": {"_attn_implementation_internal": KERNEL}}, "text_config._attn_implementation_internal"),
        ({"text_config": {"a": [{"b": {"attn_implementation": KERNEL}}]}}, "text_config.a[0].b.attn_implementation"),
        ({"auto_map": {"AutoConfig": "configuration_x.XConfig"}}, "auto_map"),
        ({"vision_config": {"auto_map": {"AutoModel": f"{KERNEL}--x.X"}}}, "vision_config.auto_map"),
        ({"custom_pipelines": {"x": {"impl": "x.X"}}}, "custom_pipelines"),
        ({"kernel_config": {"RMSNorm": KERNEL}}, "kernel_config"),
        ({"hub_kernels": [KERNEL]}, "hub_kernels"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantization_config"),
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
        ({"transformers_weights": "../other/model.safetensors"}, "transformers_weights"),
        ({"tokenizer_class": "os.path"}, "tokenizer_class"),
        ({"tokenizer_class": ["x.XTokenizer", None]}, "tokenizer_class"),
        ({"_commit_hash": "../../up"}, "_commit_hash"),
        ({"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_a_config_that_names_code_is_refused(change, place, folder, monkeypatch):
    alter(folder, "config.json", change)
    refused(folder, monkeypatch, f"{place} = ", "config.json", "runs no code")


@pytest.mark.parametrize("file", [file for file in guard.VETTED if not file.startswith("adapter")])
def test_every_config_is_vetted(file, folder, monkeypatch):
    alter(folder, file, {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}})
    refused(folder, monkeypatch, "auto_map", file)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "RagRetriever"},
        {"tokenizer_class": "tokenization_x.XTokenizer"},
        {"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]},
    ],
)
def test_a_tokenizer_config_names_a_tokenizer(change, folder, monkeypatch):
    alter(folder, "tokenizer_config.json", change)
    refused(folder, monkeypatch, "tokenizer_config.json", next(iter(change)))


def test_what_names_no_code_is_read(folder):
    alter(
        folder,
        "config.json",
        {
            "auto_map": {},
            "_attn_implementation_internal": None,
            "attn_implementation": "eager",
            "conv_kernel": [3, 3],
            "_name_or_path": "juma/mini",
            "custom_pipelines": None,
            "trust_remote_code": False,
        },
    )
    alter(folder, "tokenizer_config.json", {"auto_map": {}})
    assert load_base(folder).depth == tiny.base().depth


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, b"\xff\xfe{\x00}\x00", '\ufeff{"model_type": "bert"}'], ids=range(5)
)
def test_a_config_that_is_no_json_is_refused(text, folder, monkeypatch):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, monkeypatch, "config.json", "Cannot load the base")


def test_a_config_that_is_no_file_is_not_waited_for(folder, monkeypatch):
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")
    refused(folder, monkeypatch, "tokenizer_config.json", "is no file")


def test_an_adapter_of_peft_that_would_choose_another_base_is_refused(folder, monkeypatch):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: False)
    assert vetted_revision(str(folder), None) is None
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: True)
    refused(folder, monkeypatch, "evil/base", "names another base")


@pytest.mark.parametrize("revision", ["../../up", "a//b", "/etc", "-x", "a b", ""])
def test_what_is_no_revision_is_refused(revision):
    for action in (
        lambda: load_base("juma/mini", revision=revision),
        lambda: require_known("a", revision, named_by="b"),
    ):
        with pytest.raises(BaseError, match="no revision"):
            action()


# ---- the base of a pulled module -------------------------------------------------------------------------------------


def info(name: str, revision: str | None = None, *, pulled: bool = True) -> ModuleInfo:
    origin = {"pulled": {"hub": "h", "repository": "evil/swa", "revision": "0" * 40, "name": "swa"}} if pulled else {}
    return ModuleInfo("swa", "language", "swa", {}, base={"name": name, "revision": revision}, training=origin)


def test_the_base_of_a_pulled_module_is_not_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UntrustedBaseError, match="evil/swa.*'evil/base'.*--base evil/base.*madx.load_base"):
        info("evil/base").base_to_load()
    with pytest.raises(UntrustedBaseError, match="a b//c"):
        info("a b//c").base_to_load()
    assert info("evil/base").base_to_load("evil/base")["name"] == "evil/base", "a user who names it asks for it"
    assert info("evil/base", pulled=False).base_to_load()["name"] == "evil/base"
    assert info(str(tmp_path)).base_to_load()["name"] == str(tmp_path), "a folder is there already"


def test_a_base_that_was_fetched_before_is_known_at_that_revision_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit, other = "a" * 40, "b" * 40
    (tmp_path / "models--juma--mini" / "snapshots" / commit).mkdir(parents=True)
    (tmp_path / "models--juma--mini" / "snapshots" / commit / "config.json").write_text("{}")
    assert info("juma/mini", commit).base_to_load() == {"name": "juma/mini", "revision": commit}
    with pytest.raises(UntrustedBaseError, match=other):  # anybody can propose a change, with a commit of its own
        info("juma/mini", other).base_to_load()


@pytest.mark.parametrize(
    ("terminal", "answer", "done"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_in_a_terminal_the_user_is_asked(terminal, answer, done, monkeypatch):
    known, asked = [], []
    monkeypatch.setattr("sys.stdin.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text) or answer)
    monkeypatch.setattr(guard, "vetted_revision", lambda name, revision: known.append((name, revision)))

    def action() -> str:
        if not known:
            raise UntrustedBaseError("evil/base\x1b[2J", "v1", named_by="The module 'swa'")
        return "done"

    if done:
        assert options.with_consent(action) == "done"
    else:
        with pytest.raises(MadxError, match="--base evil/base"):
            options.with_consent(action)
    assert len(asked) == terminal and all("evil/base\\x1b[2J, revision v1" in text for text in asked)
