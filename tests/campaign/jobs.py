"""The jobs that the campaign kills and starves: commands, and what must be equal after them."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.commands import SPARSE, language, sets, task

#: keys of JSON files whose values are times, or measured
MEASURED = {"seconds", "seconds_median", "inference", "inference_median", "memory", "checksum", "created", "pulled"}
#: kinds of files that a run leaves for users; pictures and pages are drawn from the others
COMPARED = (".json", ".safetensors", ".conll", ".bin", ".yaml")


@dataclass(frozen=True)
class Job:
    """A job by its commands, one after the other; all of them run again after a kill.

    replaces: names of modules that it overwrites. hub: it talks to a hub at `$HUB`.
    """

    name: str
    commands: Sequence[Sequence[str]]
    replaces: tuple[str, ...] = ()
    hub: bool = False


MATRIX = """
base: base
corpora: {eng: eng.txt, swa: swa.txt}
seeds: [1]
progress: false
run: matrix
tasks:
  ner:
    train: {eng: train.conll}
    dev: {eng: dev.conll}
    test: {eng: eng-test.conll, swa: swa-test.conll}
module_types:
  adapters: {}
  head: {language: null, task: {components: head_only}}
language: {steps: 4, block_size: 16, batch_size: 4, held_out_blocks: 4, train: {checkpoint_every: 2}}
task: {epochs: 1, train: {learning_rate: 0.01, evaluate_every: 2, checkpoint_every: 1}}
"""
COMPARE = """
base: base
language: eng
data: train.conll
dev: dev.conll
candidates:
  head: {components: head_only, train: {learning_rate: 0.01}}
  pfeiffer: {components: pfeiffer}
seeds: [1]
training: {epochs: 1, batch_size: 8, train: {evaluate_every: 3, checkpoint_every: 1}}
measured_steps: 1
rounds: 3
progress: false
run: compare
"""
CYCLE = ["--language", "eng", "--data", "train.conll", "--dev", "dev.conll", "--base", "base"]
QUICK = ("corpus_sentences=200", "train_sentences=50", "test_sentences=50", "language_steps=3", "epochs=1")

JOBS = {
    job.name: job
    for job in (
        Job("train-language", [language("yor")]),
        Job("train-language, overwrite", [[*language("swa", "seed=2"), "--overwrite"]], replaces=("swa",)),
        Job("train-language, sparse", [language("yor", SPARSE)]),
        Job("train-task, two seeds", [task("pos", seeds="1,2")]),
        Job("train-task, cycle", [task("cycled", "cycle=[swa]")]),
        Job("train-task, sparse", [task("thin", SPARSE, "cycle=[hau]")]),
        Job("evaluate", [["evaluate", "--task-module", "ner", "--target", "swa=swa-test.conll", "--out", "results"]]),
        Job("matrix", [["matrix", "matrix.yaml"]]),
        Job("compare", [["compare", "compare.yaml"]]),
        Job(
            "quickstart",
            [["quickstart", "--out", "quick", "--seeds", "1", *sets(*QUICK, 'targets=["swa"]', "progress=false")]],
        ),
        Job(
            "modules import",
            [
                "modules import adapterhub --from adapterhub --name got --role language --language swa --base base "
                "--allow-base-mismatch --overwrite".split(),
                "modules import sft --from composable-sft --name thin --role language --language hau --base base "
                "--allow-base-mismatch --overwrite".split(),
            ],
        ),
        Job("modules export", [["modules", "export", "swa", "--to", "adapterhub", "--out", "exported"]]),
        Job("push", [["modules", "push", "swa", "juma/swa"]], hub=True),
        Job("pull", [["modules", "pull", "juma/there", "--name", "got", "--overwrite"]], hub=True),
        Job("report", [["report", "results"]]),
    )
}


def write_settings(folder: Path) -> None:
    """Write the settings files that the jobs name."""
    (folder / "matrix.yaml").write_text(MATRIX)
    (folder / "compare.yaml").write_text(COMPARE)


def results(folder: Path) -> dict[str, str]:
    """File -> digest of what must be equal in it, for all that a job leaves beside its checkpoints and caches."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and path.suffix in COMPARED and not {"runs", "cache", "base"} & set(inside.parts):
            if not any(part.startswith(".") for part in inside.parts):
                found[str(inside)] = _digest(path)
    return found


def hidden(folder: Path) -> list[str]:
    """Files and folders that a writer left behind under a hidden name."""
    found = (path.relative_to(folder) for path in folder.rglob(".*"))
    return sorted(str(path) for path in found if path.parts[0] != "hub-cache")  # which is another library's


def differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    """The files that differ, in words; empty if none do."""
    files = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    return ", ".join(f"{f} ({'missing' if f not in found else 'other' if f in wanted else 'new'})" for f in files[:8])


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        content = _plain(json.loads(data))
        if path.name == "module.json" and isinstance(content.get("weights"), dict):
            content.get("training", {}).pop("explanation", None)
        data = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> Any:
    """JSON without what is measured."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if key not in MEASURED}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


#: fingerprint of the modules of a store: name -> sha256 of its weights, or the fault of a module that is not whole
Stored = dict[str, str]


def stored(folder: Path) -> Stored:
    """The modules of the folder's store, each read whole."""
    from madx.store import Store

    store = Store(folder / "modules")
    faults = {line.partition(":")[0]: f"fault: {line}" for line in store.verify()}
    return {row.name: faults.get(row.name) or (row.weights.sha256 if row.weights else "unread") for row in store.list()}


def lost(before: Stored, now: Stored, job: Job, *, new: Stored) -> str:
    """What was in the store before and is not there now, in words. new: the store after an undisturbed run."""
    wrong = []
    for name, weights in before.items():
        allowed = {weights, new.get(name)} if name in job.replaces else {weights}
        if now.get(name) not in allowed:
            wrong.append(f"{name}: {now.get(name, 'missing')}")
    return "; ".join(wrong)
