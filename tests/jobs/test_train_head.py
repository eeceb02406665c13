"""`madx train-head`: a base without a masked-LM head gets one, once, and every language module on it uses that."""

import json
import logging
import shutil

import pytest
import tiny
import torch
from cli_tools import failed, run
from tiny_files import save_base, write_corpus
from transformers import AutoModel, AutoTokenizer

import madx
from madx.base import load_base
from madx.data import world
from madx.engine import Engine
from madx.errors import BaseError, ConfigError, StoreError, TrainingError
from madx.interop import export_plain
from madx.jobs.reuse import identity, stored
from madx.store import Store
from madx.tasks.masked_lm import MaskedLM

SMALL = {"block_size": 16, "batch_size": 8, "held_out_blocks": 20, "cache": "cache"}
LOOP = {"learning_rate": 1e-2, "progress": False}
FAMILIES = ["bert", "electra", "deberta-v2", "rembert", "distilbert", "modernbert"]


def bare(folder, family="xlm-roberta", **options):
    """Save a tiny base as sentence encoders are published: the encoder alone."""
    tiny.model(family, **options).base_model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def train_head(**changes):
    settings = {"base": "bare", "corpus": {"eng": "eng.txt"}, "steps": 24, "train": LOOP} | SMALL | changes
    return madx.train_head(**settings)


def train_language(**changes):
    settings = {"base": "bare", "language": "swa", "corpus": "swa.txt", "steps": 2, "train": LOOP} | SMALL | changes
    return madx.train_language(**settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a base, the same without its head, another one without, texts, and a trained head in `modules`."""
    folder = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_base(folder / "base")
        bare(folder / "bare")
        bare(folder / "other", seed=1)
        for number, language in enumerate(("eng", "swa")):
            write_corpus(folder / f"{language}.txt", seed=number)
        with pytest.raises(BaseError, match="without its masked-LM head.*madx train-head --base bare --corpus"):
            train_language()
        result = train_head()
    return folder, result


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[0]


@pytest.fixture
def copied(here, tmp_path):
    """A copy of the store, to be altered; gives the folder of its head."""
    shutil.copytree("modules", tmp_path / "modules")
    return tmp_path / "modules" / Store(tmp_path / "modules").heads()[0].name


# ---- training --------------------------------------------------------------------------------------------------------


def test_it_learns_what_the_base_knows_beyond_frequencies(tmp_path):
    """The base of the miniature world, whose encoder was trained, without its head."""
    AutoModel.from_pretrained(world.BASE).save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(world.BASE).save_pretrained(tmp_path / "bare")
    world.write_corpus("eng", tmp_path / "eng.txt", sentences=1500, seed=1)
    more = {"store": tmp_path / "modules", "run": tmp_path / "run", "cache": tmp_path / "cache", "block_size": 32}
    result = train_head(base=tmp_path / "bare", corpus={"eng": tmp_path / "eng.txt"}, steps=60, **more)
    assert result.after["perplexity"] < 15 < 0.5 * result.before["perplexity"], "own head: 4, frequencies alone: 290"


def test_the_head_is_stored_with_what_it_was_trained_on(made, here):
    _, result = made
    base = load_base("bare")
    (row,) = Store("modules").heads()
    assert row.name == result.name == f"head-{base.fingerprint[:12]}" and result.folder == row.path
    assert row.record.languages == ["eng"] and row.record.base.fingerprint == base.fingerprint
    assert row.record.training["scores"]["held_out_after"] == result.after
    assert row.record.training["data"][0]["path"] == "eng.txt" and row.record.training["data"][0]["sha256"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_head_that_reads_back_as_it_was(here, tmp_path, family):
    name = bare(tmp_path / "base", family)
    result = train_head(base=name, store=str(tmp_path / "modules"), run=str(tmp_path / "run"), steps=10)
    assert result.after["perplexity"] < result.before["perplexity"]
    base, hidden, found = load_base(name), torch.randn(9, 32), []
    before = base.fingerprint
    for _ in range(2):
        assert Store(tmp_path / "modules").put_head(base) == result.name
        found.append(base.mlm_logits(hidden))
        base = load_base(name)
    assert torch.equal(*found) and base.fingerprint == before
    engine, tokens = Engine(base, store=Store(tmp_path / "modules")), tiny.inputs()
    assert engine.mlm_logits(engine(*tokens)[0]).shape == (10, tiny.VOCABULARY), "found in the engine's store"


def test_languages_are_mixed_and_scored_one_by_one(here, tmp_path):
    more = {"store": str(tmp_path / "modules"), "run": str(tmp_path / "run"), "steps": 20}
    result = train_head(corpus={"eng": "eng.txt", "swa": ["swa.txt"]}, **more)
    each = [result.after[f"perplexity {language}"] for language in ("eng", "swa")]
    assert result.after["perplexity"] == pytest.approx(sum(each) / 2)
    assert Store(tmp_path / "modules").heads()[0].record.languages == ["eng", "swa"]


def test_texts_in_memory_are_the_same_as_a_file(made, here, tmp_path, monkeypatch):
    monkeypatch.setenv("MADX_CACHE", str(tmp_path / "kept"))
    lines = (here / "eng.txt").read_text(encoding="utf-8").splitlines()
    t = madx.Transfer("bare", store=tmp_path / "modules")
    t.train_head({"eng": lines}, run=str(tmp_path / "run"), steps=24, **LOOP, **SMALL)
    ours, theirs = (Store(s).heads()[0].record.weights.sha256 for s in (tmp_path / "modules", "modules"))
    assert ours == theirs


def test_a_stopped_run_goes_on_to_the_same_head(made, here, tmp_path, monkeypatch):
    batches = MaskedLM.batches

    def breaks(self, step, **options):
        if step == 13:
            raise TrainingError("the power failed")
        return batches(self, step, **options)

    more = {"store": str(tmp_path / "modules"), "run": str(tmp_path / "run"), "train": LOOP | {"checkpoint_every": 5}}
    monkeypatch.setattr(MaskedLM, "batches", breaks)
    with pytest.raises(TrainingError, match="power"):
        train_head(**more)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    result = train_head(**more)
    assert result.training.resumed_from == 10
    ours, theirs = (Store(s).heads()[0].record.weights.sha256 for s in (tmp_path / "modules", "modules"))
    assert ours == theirs
    with pytest.raises(TrainingError, match="belongs to a run with other settings:\n  batch_size"):
        train_head(**more | {"batch_size": 4, "overwrite": True})


def test_a_base_in_half_precision_trains_its_head_in_single(made, here, tmp_path):
    more = {"store": str(tmp_path / "modules"), "run": str(tmp_path / "run"), "train": LOOP | {"precision": "bf16"}}
    result = train_head(**more)
    assert result.after["loss"] == pytest.approx(made[1].after["loss"], rel=0.02)
    base = load_base("bare")
    Store(tmp_path / "modules").put_head(base)
    bias = base.mlm_head.parameters()["lm_head.bias"]
    assert not torch.equal(bias, bias.bfloat16().float()), "every bit is stored"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "already holds a masked-LM head of this base.*--overwrite"),
        ({"corpus": {}}, "LANG=TEXT.txt"),
        ({"corpus": {"english": "eng.txt"}}, "'english' is no language code"),
        ({"corpus": "eng.txt"}, "corpus"),
        ({"corpus": {"eng": "nowhere.txt"}}, "nowhere.txt"),
    ],
)
def test_faults_are_named_before_training(here, changes, message):
    with pytest.raises(madx.MadxError, match=message):
        train_head(**changes)


# ---- language modules ------------------------------------------------------------------------------------------------


def test_a_language_module_uses_the_head_and_records_it(made, here, caplog):
    caplog.set_level(logging.INFO, logger="madx")
    result = train_language(name="swa1", overwrite=True)
    (row,) = Store("modules").heads()
    assert result.module.info.training["mlm_head"] == row.record.weights.sha256
    assert f"The masked-LM head {row.name} of the store" in caplog.text and "held-out perplexity" in caplog.text
    assert result.before["perplexity"] < 100 and not any("never trained" in text for text in result.warnings)
    with pytest.raises(BaseError, match="madx train-head --base other"):
        train_language(base="other")


def test_a_base_with_a_head_of_its_own_keeps_it_unless_told(here, tmp_path, caplog):
    more = {"base": "base", "store": str(tmp_path / "modules")}
    own = train_language(**more)
    assert "mlm_head" not in own.module.info.training
    with pytest.raises(StoreError, match="holds no masked-LM head for the base base.*madx train-head"):
        train_language(**more, name="other", mlm_head="trained")
    shutil.copytree("modules", tmp_path / "modules", dirs_exist_ok=True)  # the encoders are the same
    again = train_language(**more, name="again", run=str(tmp_path / "run"))
    assert again.before == own.before and "mlm_head" not in again.module.info.training
    chosen = train_language(**more, name="chosen", mlm_head="trained")
    assert chosen.module.info.training["mlm_head"] and chosen.before["loss"] < own.before["loss"]
    assert any("was probably never trained" in text and "mlm_head: trained" in text for text in own.warnings)
    assert "was probably never trained" in caplog.text


def test_random_weights_are_no_head_of_its_own(here):
    with pytest.raises(BaseError, match="without its masked-LM head"):
        train_language(mlm_head="own")


def test_a_module_that_was_trained_with_another_head_is_told_once(here, tmp_path, caplog):
    shutil.copytree("modules", tmp_path / "modules")
    store = Store(tmp_path / "modules")
    module = train_language(store=str(store.root), name="mine", run=str(tmp_path / "run")).module
    old = module.info.training["mlm_head"][:12]
    train_head(store=str(store.root), run=str(tmp_path / "other"), seed=2, steps=5, overwrite=True)
    engine = Engine(load_base("bare"), store=store)
    engine.load("mine")
    hidden = engine(tiny.inputs()[0])[0]
    engine.mlm_logits(hidden)
    assert "mine was trained with" not in caplog.text, "it does not act"
    engine.activate("mine")
    for _ in range(2):
        engine.mlm_logits(hidden)
    new = store.heads()[0].record.weights.sha256[:12]
    assert caplog.text.count("mine was trained with") == 1 and old in caplog.text and new in caplog.text != old


def test_an_exported_checkpoint_has_the_head_or_a_warning(here, tmp_path, caplog):
    base = load_base("bare")
    module = tiny.sparse(base, "swa", language="swa")
    for store in (Store("modules"), None):
        engine = Engine(load_base("bare"), store=store)
        engine.attach(module)
        engine.activate("swa")
        exported = load_base(export_plain(engine, tmp_path / f"plain-{store is None}"))
        ours = exported.mlm_head.parameters()["lm_head.bias"]
        Store("modules").put_head(base)
        same = torch.equal(ours, base.mlm_head.parameters()["lm_head.bias"])
        assert same == (store is not None) == ("no trained masked-LM head" not in caplog.text)


def test_a_stored_module_is_trained_again_under_another_head(here, tmp_path):
    shutil.copytree("modules", tmp_path / "modules")
    base, where = load_base("bare"), {"store": str(tmp_path / "modules"), "run": str(tmp_path / "run")}
    settings = {"base": "bare", "language": "swa", "corpus": "swa.txt", "steps": 2, "train": LOOP} | SMALL | where
    job = madx.TrainLanguage(**settings)
    wanted = identity(job, base, seed=1)
    madx.train_language(job)
    assert stored(Store(tmp_path / "modules"), "swa", wanted, madx.TrainLanguage)
    train_head(**where | {"run": str(tmp_path / "other")}, seed=2, steps=5, overwrite=True)
    assert identity(job, base, seed=1) != wanted


# ---- the store -------------------------------------------------------------------------------------------------------


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def edit(folder, change):
    content = json.loads((folder / "head.json").read_text())
    change(content)
    (folder / "head.json").write_text(json.dumps(content))


DAMAGE = {
    "flipped weights": (lambda f: flip(f / "head.safetensors", -5), "sha256"),
    "flipped header": (lambda f: flip(f / "head.safetensors", 20), "sha256"),
    "cut weights": (lambda f: (f / "head.safetensors").write_bytes(b"12345678"), "has 8 bytes, head.json records"),
    "no weights": (lambda f: (f / "head.safetensors").unlink(), "no whole masked-LM head: head.safetensors"),
    "no record": (lambda f: (f / "head.json").unlink(), "no whole masked-LM head: head.json"),
    "no JSON": (lambda f: (f / "head.json").write_text("{"), "cannot be read as JSON"),
    "another language": (lambda f: edit(f, lambda c: c.update(languages=["swa"])), "checksum"),
    "a newer format": (lambda f: edit(f, lambda c: c.update(format=9)), "format 9.*Update madx"),
    "a field of another type": (lambda f: edit(f, lambda c: c.update(languages=3)), "languages"),
    "a list": (lambda f: (f / "head.json").write_text("[]"), "cannot be read as JSON"),
    "no number": (lambda f: (f / "head.json").write_text('{"format": NaN}'), "cannot be read as JSON"),
    "other bytes": (lambda f: (f / "head.json").write_bytes(b"\xff\xfe{"), "cannot be read as JSON"),
    "too deep": (lambda f: (f / "head.json").write_text("[" * 100_000), "cannot be read as JSON"),
    "half a character": (lambda f: edit(f, lambda c: c.update(languages=["\ud800"])), "cannot be read as JSON"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_head_is_refused_and_hides_nothing(copied, damage):
    do, message = DAMAGE[damage]
    do(copied)
    base, store = load_base("bare"), Store(copied.parent)
    before = tiny.snapshot(base)
    with pytest.raises(StoreError, match=message):
        store.put_head(base)
    assert tiny.unchanged(base, before) and not base.has_mlm_head
    with pytest.raises(StoreError, match=message):
        train_language(store=str(store.root), name="x")
    assert any(copied.name in fault for fault in store.verify())
    listed = run("modules", "list", "--store", store.root)
    assert listed.exit_code == 0 and copied.name in listed.stdout
    assert run("modules", "verify", "--store", store.root).exit_code == 1


def test_a_link_is_no_head(copied):
    shutil.move(copied, copied.parent / "elsewhere")
    copied.symlink_to(copied.parent / "elsewhere")
    with pytest.raises(StoreError, match="is a link"):
        Store(copied.parent).put_head(load_base("bare"))


def test_the_head_of_another_base_is_refused(copied):
    other, store = load_base("other"), Store(copied.parent)
    assert store.put_head(other) is None
    shutil.copytree(copied, copied.parent / f"head-{other.fingerprint[:12]}")
    with pytest.raises(StoreError, match="was trained for another base, bare, than other:\n  weights: head .*base "):
        store.put_head(other)
    assert not other.has_mlm_head
    assert any("is the head of another base" in fault for fault in store.verify())


def test_a_killed_writer_loses_no_head(copied):
    copied.rename(copied.with_name(f".{copied.name}.0123abcd.old"))
    assert [head.name for head in Store(copied.parent).heads()] == [copied.name]


def test_the_commands(copied, monkeypatch):
    store = copied.parent
    shown = run("modules", "show", copied.name, "--store", store).stdout
    assert "role: masked-LM head" in shown and "job: train-head" in shown and "history" not in shown
    assert "1 masked-LM head whole" in run("modules", "verify", copied.name, "--store", store).stdout
    assert run("modules", "remove", copied.name, "--store", store, "--yes").exit_code == 0
    assert Store(store).heads() == [] and not copied.exists()
    words = ["--base", "bare", "--store", store, "--steps", 4, "--set", f"run={store / 'run'}", "--set", "cache=cache"]
    small = [word for key in ("block_size", "batch_size") for word in ("--set", f"{key}={SMALL[key]}")]
    done = run("train-head", "--corpus", "eng=eng.txt", "--corpus", "swa=swa.txt", *words, *small)
    assert done.exit_code == 0, (done.output, done.exception)
    assert copied.name in done.stdout and "eng " in done.stdout and "madx train-language --base bare" in done.stdout
    assert "eng, swa" in run("modules", "list", "--store", store).stdout
    assert "LANGUAGE=PATH" in failed(run("train-head", "--base", "bare", "--corpus", "eng.txt"))
    assert "learning_rate: 0.003" in run("config", "train-head").stdout


def test_general_settings_of_the_loop_have_a_heads_own_defaults():
    settings = madx.TrainHead(base="b", corpus={"eng": "x"}, train=madx.TrainSettings(warmup=0.1))
    assert (settings.train.learning_rate, settings.train.warmup) == (3e-3, 0.1)
    with pytest.raises(ConfigError):
        madx.train_head(base="b", corpus={"eng": "x"}, learning_rate=1)
