"""Several source languages, cycling, averaged checkpoints and fine-tuning baselines, by command."""

import json
import sys
from pathlib import Path

import pytest
import torch
from cli_tools import failed, run
from tiny_files import fill, write_conll
from transformers import AutoModelForTokenClassification

import madx
from madx.composition import Average, Stack
from madx.errors import StoreError
from madx.jobs import Predictor, TrainTask
from madx.jobs.evaluate import control_compositions
from madx.jobs.reuse import content_name, identity, stored, taking_turns
from madx.store import Store

pytestmark = pytest.mark.slow  # every test trains several modules by command

SMALL = "--set train.learning_rate=0.01 --set train.evaluate_every=2 --set train.progress=false --base base".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Base, data, and two language modules: English an adapter, Swahili a sparse difference."""
    made = fill(tmp_path_factory.mktemp("several"))
    write_conll(made / "swa-train.conll", sentences=10, seed=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for language, components in (("eng", "madx"), ("swa", "lt_sft")):
            sizes = [f"--set={key}" for key in ("block_size=16", "batch_size=4", "held_out_blocks=4", "cache=cache")]
            done = run(
                "train-language",
                "--language",
                language,
                "--corpus",
                f"{language}.txt",
                "--components",
                components,
                "--steps",
                "3",
                *sizes,
                *SMALL,
            )
            assert done.exit_code == 0, done.output
    return made


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


SEVERAL = [
    "train-task",
    "--language",
    "eng",
    "--language",
    "swa",
    "--data",
    "eng=train.conll",
    "--data",
    "swa=swa-train.conll",
    "--dev",
    "eng=dev.conll",
    "--dev",
    "swa=dev.conll",
    "--seeds",
    "1",
    "--epochs",
    "2",
    *SMALL,
]
ONE = [*"train-task --language eng --data train.conll --dev dev.conll --seeds 1 --epochs 2".split(), *SMALL]


def evaluated(name):
    done = run(
        "evaluate",
        "--task-module",
        name,
        *"--target swa=swa-test.conll --target eng=eng-test.conll --out".split(),
        f"results-{name}",
    )
    assert done.exit_code == 0, done.output
    content = json.loads(Path(f"results-{name}/matrix.json").read_text())
    assert all(c["inactive"] == [] for c in content["cells"]), "every module acts"
    return content, {(c["target"], c["control"]): c["composition"] for c in content["cells"]}


@pytest.mark.parametrize("components", ["pfeiffer", "lt_sft_task"])
def test_several_languages_each_with_its_module(here, components):
    name = f"multi-{components}"
    done = run(*SEVERAL, "--name", name, "--set", f"components={components}", "--set", "temperature=5")
    assert done.exit_code == 0, done.output
    assert f"eng + {name}, swa + {name}" in done.stdout
    store = Store("modules")
    info = store.show(name).info
    assert info.language is None and info.training["sources"] == {"eng": [f"eng + {name}"], "swa": [f"swa + {name}"]}
    assert info.training["language_modules"] == {code: store.show(code).weights.sha256 for code in ("eng", "swa")}
    assert {"f1", "f1 eng", "f1 swa"} <= info.training["scores"]["dev"].keys()
    assert [f["path"] for f in info.training["data"]] == ["train.conll", "dev.conll", "swa-train.conll", "dev.conll"]
    content, compositions = evaluated(name)
    assert content["meta"]["source"] == "eng, swa"
    assert compositions["swa", "source"] == f"swa + {name}" and ("swa", "target") not in compositions
    said = run(*SEVERAL, "--name", name, "--set", f"components={components}", "--set", "temperature=6", "--overwrite")
    assert "temperature: checkpoint 5.0, now 6.0" in failed(said)


def test_controls_of_a_language_that_was_no_source():
    modules = {"eng": "eng", "deu": "deu-2", "swa": "swa", "yor": "yor"}
    found = control_compositions("ner", language="swa", source=["eng", "deu"], modules=modules)
    assert found["source"] == Stack(Average("eng", "deu-2"), "ner") and found["target"] == Stack("swa", "ner")
    assert found["mean"] == Stack(Average("eng", "deu-2", "yor"), "ner")
    own = control_compositions("ner", language="deu", source=["eng", "deu"], modules=modules)
    assert own["source"] == Stack("deu-2", "ner") and own["target"] == "the source itself: see source"
    assert (
        "no module for 'fra'"
        in control_compositions("ner", language="swa", source=["eng", "fra"], modules=modules)["source"]
    )


def test_cycling_and_averaging_on_one_languages_data(here):
    done = run(*ONE, "--name", "cycled", "--set", "cycle=[swa]", "--set", "train.average_last=3")
    assert done.exit_code == 0, done.output
    info = Store("modules").show("cycled").info
    assert info.language == "eng" and info.training["sources"] == {"eng": ["eng + cycled", "swa + cycled"]}
    assert info.training["history"][-1]["averaged"] == min(3, len(info.training["history"]) - 1)
    assert {"f1 eng under eng + cycled", "f1 eng under swa + cycled"} <= info.training["scores"]["dev"].keys()
    _, compositions = evaluated("cycled")
    assert compositions["swa", "source"] == "eng + cycled" and compositions["swa", "target"] == "swa + cycled"


@pytest.mark.parametrize("components", ["full", "top_layers", "bitfit"])
def test_fine_tuning_baselines_are_modules_like_any_other(here, components):
    done = run(*ONE, "--name", components, "--set", f"components={components}", "--set", "language_module=null")
    assert done.exit_code == 0, done.output
    base = madx.load_base("base")
    unit = Store("modules").load(components, base).units["weights"]["sparse_diff"]
    touched = {name for name, *_ in unit.space.split(unit.indices)}
    assert len(unit.indices) == unit.space.size and unit.values.count_nonzero() > 0.5 * len(unit.values)
    if components == "full":
        assert touched == {p.name for p in base.sites["weights"].parameters}
    elif components == "top_layers":
        assert touched == {p.name for p in base.sites["weights"].parameters if p.layer in (1, 2)}
    _, compositions = evaluated(components)
    assert compositions["swa", "none"] == components and compositions["swa", "target"] == f"swa + {components}"
    assert run("export", "--stack", f"swa + {components}", f"plain-{components}").exit_code == 0
    predictor = Predictor(f"swa + {components}", store="modules")
    ids = torch.tensor([[0, 7, 9, 11, 2]])
    with torch.no_grad():
        ours = predictor.engine.label_logits(predictor.engine(ids))
        plain = AutoModelForTokenClassification.from_pretrained(f"plain-{components}").eval()(input_ids=ids).logits
    assert torch.allclose(ours, plain, atol=1e-5)


def test_full_fine_tuning_as_a_language_module(here):
    sizes = [f"--set={key}" for key in ("block_size=16", "batch_size=4", "held_out_blocks=4", "cache=cache")]
    done = run(
        *"train-language --language swa --name swa-full --corpus swa.txt --components full --steps 3".split(),
        *sizes,
        *SMALL,
    )
    assert done.exit_code == 0, done.output
    info = Store("modules").show("swa-full").info
    assert {row["phase"] for row in info.training["history"]} == {"full"}
    assert (
        info.training["scores"]["held_out_after"]["perplexity"]
        < info.training["scores"]["held_out_before"]["perplexity"]
    )


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            [*SEVERAL[:-2], "--base", "base", "--data", "swa2=x"],
            ["data names files for eng, swa, swa2", "{eng: FILE, swa: FILE}"],
        ),
        (["train-task", "--language", "eng", "--language", "swa", *SMALL], ["data: missing"]),
        ([*ONE[:5], "--set", "dev={eng: dev.conll}", *SMALL], ["language eng is one source"]),
        ([*ONE, "--set", "language_module={swa: swa}"], ["language_module names swa; the source languages are eng"]),
        ([*ONE, "--name", "x", "--set", "cycle=[swaa]"], ["swaa", "did you mean 'swa'"]),
        ([*SEVERAL, "--name", "x", "--set", "temperature=0"], ["temperature", "greater than 0"]),
        ([*SEVERAL, "--name", "x", "--data", "eng"], ["--data 'eng'", "LANGUAGE=PATH"]),
    ],
)
def test_faults_in_words(here, words, wanted):
    said = failed(run(*words))
    for text in wanted:
        assert text in said, said


def test_killed_in_its_second_seed_the_same_command_goes_on(here, monkeypatch):
    """No module is stored before the last seed is trained, so none stands in the way; each goes on from its
    checkpoint."""
    command, job = [*ONE, "--name", "twice"], sys.modules["madx.jobs.train_task.job"]
    command[command.index("--seeds") + 1] = "1,2"
    fit, calls = job.fit, []

    def stopped(*args, **kwargs):
        calls.append(kwargs["seed"])
        if len(calls) == 2:
            raise KeyboardInterrupt("stopped")
        return fit(*args, **kwargs)

    monkeypatch.setattr(job, "fit", stopped)
    assert run(*command).exit_code != 0
    assert not [name for name in Store("modules").names() if name.startswith("twice")]
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert calls == [1, 2, 1, 2]
    assert [name for name in Store("modules").names() if name.startswith("twice")] == ["twice@1", "twice@2"]


def test_a_module_that_takes_turns_and_was_trained_anew_makes_another_task_module(here):
    done = run(*ONE, "--name", "turns", "--set", "cycle=[swa]")
    assert done.exit_code == 0, done.output
    store, base = Store("modules"), madx.load_base("base")
    job = TrainTask(**store.show("turns").info.training["settings"])
    wanted = identity(job, base, seed=1, under=store.show("eng").weights.sha256) | taking_turns(store, job)
    assert wanted["cycle"] == {"swa": store.show("swa").weights.sha256}
    assert stored(store, "turns", wanted, TrainTask)
    assert not stored(store, "turns", wanted | {"cycle": {"swa": "0" * 64}}, TrainTask)
    names = {content_name("ner", wanted | {"cycle": {"swa": sha}}, seed=1) for sha in ("0" * 64, None)}
    assert len(names) == 1, "planned before the module that takes turns is there"


def test_when_the_second_module_cannot_be_stored_the_first_is_not_left_in_the_way(here, monkeypatch):
    command, save = [*ONE, "--name", "full"], Store.save
    command[command.index("--seeds") + 1] = "1,2"
    with monkeypatch.context() as patch:

        def fails(self, module, **options):
            if module.name == "full@2":
                raise StoreError("No space left on device")
            return save(self, module, **options)

        patch.setattr(Store, "save", fails)
        assert "kept in its run's folder: the same command stores it" in failed(run(*command))
    assert "full@1" not in Store("modules").names()
    assert run(*command).exit_code == 0 and {"full@1", "full@2"} <= set(Store("modules").names())


def test_a_declined_run_is_forgotten_for_all_seeds_before_the_first(here, monkeypatch):
    command, job = [*ONE, "--name", "anew"], sys.modules["madx.jobs.train_task.job"]
    command[command.index("--seeds") + 1] = "1,2"
    assert run(*command).exit_code == 0
    command += ["--overwrite", "--set", "train.warmup=0.5"]
    with monkeypatch.context() as patch:

        def stopped(*args, **kwargs):
            raise KeyboardInterrupt("stopped")

        patch.setattr(job, "fit", stopped)
        assert run(*command, "--set", "resume=false").exit_code != 0
    done = run(*command)
    assert done.exit_code == 0, done.output
