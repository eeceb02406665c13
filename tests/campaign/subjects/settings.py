"""Settings: YAML files, overrides, keywords; and compositions as text."""

import json
from pathlib import Path
from typing import Any

from campaign.subjects.subject import Subject, digest
from madx.composition import as_composition
from madx.config import check, load, to_dict
from madx.jobs import Compare, Evaluate, Matrix, TrainLanguage, TrainTask
from madx.jobs.compare import jobs_of
from madx.jobs.matrix.settings import JobsOf
from madx.module.components import components_of

#: file -> its schema; the files are those of `configs/`
YAML = {
    "train_language": TrainLanguage,
    "lt_sft_language": TrainLanguage,
    "train_task_several": TrainTask,
    "evaluate_proxies": Evaluate,
    "matrix": Matrix,
    "compare": Compare,
}
CONFIGS = Path(__file__).parents[3] / "configs"
#: what the files leave to the command line
DATA = ("data=train.conll", "dev=dev.conll")
NEEDED = {
    "train_language": ("language=swa", "corpus=swa.txt"),
    "lt_sft_language": ("language=swa", "corpus=swa.txt"),
    "train_task_several": ("language=[eng]", "data={eng: train.conll}", "dev={eng: dev.conll}"),
    "evaluate_proxies": ("targets={swa: test.conll}",),
    "compare": ("language=eng", *DATA),
}

OVERRIDES = "base=xlm-r\nlanguage=swa\ncorpus=[a.txt, b.txt]\ncomponents.bottleneck.reduction_factor=4\nseed=3\n"
KEYWORDS = {
    "base": "xlm-r",
    "language": "swa",
    "corpus": ["a.txt", "b.txt"],
    "components": {"preset": "madx", "bottleneck": {"reduction_factor": 4}},
    "train": {"learning_rate": 0.001, "sparse": {"selection": "magnitude"}},
    "seed": 3,
    "limit": None,
}
COMPOSITIONS = (
    "swa + ner\naverage(0.5*swa, 0.5*hau) + ner@1\nroute(swa + ner, yor + ner)\nties(swa, hau)\nbase\n"
    "fuse(swa, hau; f) + 0.25*ner\n"
)


def _yaml(name: str) -> Subject:
    schema = YAML[name]

    def make(folder: Path) -> None:
        (folder / f"{name}.yaml").write_bytes((CONFIGS / f"{name}.yaml").read_bytes())

    def read(folder: Path) -> str:
        settings: Any = load(folder / f"{name}.yaml", schema, NEEDED.get(name, ()))
        if schema in (TrainLanguage, TrainTask):
            components_of(settings.components)
        elif schema is Compare:
            jobs_of(settings)
        elif schema is Matrix:
            JobsOf(settings)
        return digest(to_dict(settings))

    return Subject(f"{name}.yaml", "records", make, read, ("*.yaml",))


def _read_overrides(folder: Path) -> str:
    lines = (folder / "overrides.txt").read_bytes().decode(errors="replace").splitlines()
    settings = load(None, TrainLanguage, lines)
    components_of(settings.components)
    return digest(to_dict(settings))


def _read_keywords(folder: Path) -> str:
    try:
        values = json.loads((folder / "keywords.json").read_bytes())
    except (ValueError, RecursionError):  # the campaign's own file, not a format of madx
        return "no keywords"
    if not isinstance(values, dict) or "corpus" not in values:
        return "no keywords"
    settings = check(TrainLanguage, values, what="the settings")
    components_of(settings.components)
    return digest(to_dict(settings))


def _read_compositions(folder: Path) -> list[str]:
    found = []
    for line in (folder / "compositions.txt").read_bytes().decode(errors="replace").split("\n"):
        if line.strip():
            composition = as_composition(line)
            if as_composition(str(composition)) != composition:
                raise RuntimeError(f"{line!r} is read as {composition}, which is read as another composition")
            found.append(str(composition))
    return found


SUBJECTS = (
    *map(_yaml, YAML),
    Subject(
        "overrides",
        "records",
        lambda folder: (folder / "overrides.txt").write_text(OVERRIDES),
        _read_overrides,
        ("overrides.txt",),
    ),
    Subject(
        "keywords of a job",
        "campaign",
        lambda folder: (folder / "keywords.json").write_text(json.dumps(KEYWORDS)),
        _read_keywords,
        ("keywords.json",),
    ),
    Subject(
        "compositions",
        "campaign",
        lambda folder: (folder / "compositions.txt").write_text(COMPOSITIONS),
        _read_compositions,
        ("compositions.txt",),
    ),
)
