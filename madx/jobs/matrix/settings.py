"""Settings of a transfer matrix, and the settings of the single jobs that are made of them."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from madx.config import Settings, faults_of
from madx.data.labelled.spans import Scoring
from madx.errors import ConfigError, MadxError
from madx.files.names import check_file_names
from madx.jobs.common import layered
from madx.jobs.evaluate import Evaluate
from madx.jobs.labelled import Columns, task_type
from madx.jobs.languages import check_spellings
from madx.jobs.settings import SCORING, Corpus, DataSettings, JobSettings, LabelledData, Seed, as_fault
from madx.jobs.train_language import TrainLanguage
from madx.jobs.train_task import TrainTask
from madx.module.components import components_of
from madx.store import check_language
from madx.tasks import TASKS

J = TypeVar("J", bound=Settings)

#: settings of the jobs that the matrix sets itself
OWN = {
    "language": ("base", "revision", "device", "store", "run", "name", "language", "corpus", "seed", "overwrite"),
    "task": (
        "base",
        "revision",
        "device",
        "store",
        "run",
        "name",
        "language",
        "data",
        "dev",
        "task",
        "columns",
        "seeds",
        "language_module",
        "overwrite",
    ),
    "evaluation": (
        "base",
        "revision",
        "device",
        "store",
        "run",
        "task_module",
        "seeds",
        "source",
        "targets",
        "modules",
        "columns",
        "progress",
        "note",
    ),
}


class TaskData(DataSettings):
    """The labelled data of one task of a matrix."""

    LABELLED = ("train", "dev", "test")

    task: str | None = Field(
        default=None, description="The task, one of `madx tasks`; null: the name that it has here."
    )
    train: dict[str, LabelledData] = Field(min_length=1, description="Source language -> labelled training data.")
    dev: dict[str, LabelledData] = Field(min_length=1, description="Source language -> labelled development data.")
    test: dict[str, LabelledData] = Field(
        min_length=1, description="Target language -> labelled test data; sources may be among them."
    )
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    settings: dict[str, Any] = Field(
        default={}, description="Settings of train-task for this task alone, e.g. {epochs: 10}."
    )

    @field_validator("train", "test")
    @classmethod
    def _languages_become_files(cls, value: dict[str, Any]) -> dict[str, Any]:
        as_fault(lambda: check_file_names(value, "language"))
        return value


class Recipe(Settings):
    """One way of transfer: how its language modules and its task modules are trained."""

    language: dict[str, Any] | None = Field(
        default={}, description="Settings of train-language; null: it has no language modules, as full fine-tuning."
    )
    task: dict[str, Any] = Field(default={}, description="Settings of train-task.")
    use: dict[str, str] = Field(
        default={}, description="Language -> a stored module to take as it is, instead of training one."
    )


class Matrix(JobSettings):
    """Settings of `madx matrix`."""

    TEXTS = ("corpora",)

    corpora: dict[str, Corpus] = Field(
        default={}, description="Language -> raw text; each gets a language module of every module type that has them."
    )
    tasks: dict[str, TaskData] = Field(min_length=1, description="Tasks by name.")
    module_types: dict[str, Recipe] = Field(
        min_length=1, description="Ways of transfer by name, e.g. adapters, sparse."
    )
    seeds: list[Seed] = Field(default=[1, 2, 3], min_length=1, description="Seeds of the task modules.")
    language_seeds: Literal["one", "each"] = Field(
        default="one", description="one: a language module of the first seed serves all; each: one for every seed."
    )
    language: dict[str, Any] = Field(default={}, description="Settings of train-language for every module type.")
    task: dict[str, Any] = Field(default={}, description="Settings of train-task for every module type.")
    evaluation: dict[str, Any] = Field(
        default={}, description="Settings of evaluate; languages stand for modules, and proxies read the corpora."
    )
    scoring: Scoring = Field(default="strict", description=SCORING)
    code: Literal["version", "source"] = Field(
        default="version",
        description="Code that counts as other, so that all is trained anew: another version, or any changed source "
        "file.",
    )
    run: str = Field(default="runs/matrix", description="Folder of the runs and of the results.")
    progress: bool = Field(default=True, description="Show progress bars.")
    note: str = Field(default="", description="A remark printed in every report.")

    @field_validator("tasks", "module_types")
    @classmethod
    def _names_become_folders(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        as_fault(lambda: check_file_names(value, str(info.field_name).removesuffix("s").replace("_", " ")))
        return value


class JobsOf:
    """The settings of the single jobs of a matrix; every fault is gathered before the first job runs."""

    def __init__(self, settings: Matrix):
        self.settings = settings
        self.faults: list[str] = []
        self.shared = {key: getattr(settings, key) for key in ("base", "revision", "device", "store")}
        places = [("language", settings.language), ("task", settings.task), ("evaluation", settings.evaluation)]
        for label, recipe in settings.module_types.items():
            places += [
                (f"module_types.{label}.language", recipe.language or {}),
                (f"module_types.{label}.task", recipe.task),
            ]
        places += [(f"tasks.{name}.settings", data.settings) for name, data in settings.tasks.items()]
        for place, given in places:
            kind = "task" if place.startswith("tasks.") else place.rpartition(".")[2]
            self.faults += [
                f"{place}.{key}: the matrix sets it itself; leave it out" for key in given if key in OWN[kind]
            ]
        if len(set(settings.seeds)) < len(settings.seeds):
            self.faults.append(f"seeds {settings.seeds}: each seed once")
        for name, data in settings.tasks.items():
            self._check_task(name, data)

    def _check_task(self, name: str, data: TaskData) -> None:
        self._try(f"tasks.{name}.task", lambda: task_type(data.task or name))
        languages = dict.fromkeys([*self.settings.corpora, *data.train, *data.test])
        self._try(f"tasks.{name}", lambda: check_spellings(languages, "the languages of corpora and labelled data"))
        for source in data.train:
            if source not in data.dev:
                self.faults.append(f"tasks.{name}.dev: no data for the source language {source!r}; add dev.{source}")
            lacking = [
                label
                for label, recipe in self.settings.module_types.items()
                if recipe.language is not None and source not in self.settings.corpora and source not in recipe.use
            ]
            if lacking:
                self.faults.append(
                    f"corpora: no text for the source language {source!r} of the task {name!r}, so "
                    f"{', '.join(lacking)} cannot have a language module under the task module; add corpora.{source}, "
                    "or language: null to the module type"
                )

    def language(self, label: str, language: str, seed: int) -> TrainLanguage | None:
        """The settings of the training of a language module; None after a fault."""
        settings, recipe = self.settings, self.settings.module_types[label]
        data = self._merged(settings.language, recipe.language or {}) | {
            "language": language,
            "corpus": settings.corpora[language],
            "seed": seed,
        }
        return self._made(TrainLanguage, data, f"module_types.{label}.language", lambda: check_language(language))

    def task(self, label: str, name: str, source: str, seed: int) -> TrainTask | None:
        """The settings of the training of a task module; None after a fault."""
        settings, data = self.settings, self.settings.tasks[name]
        if source not in data.dev:
            return None
        merged = self._merged(
            {"scoring": self._scoring(data, name)}, settings.task, data.settings, settings.module_types[label].task
        ) | {
            "language": source,
            "data": data.train[source],
            "dev": data.dev[source],
            "task": data.task or name,
            "columns": data.columns.model_dump(mode="json"),
            "seeds": [seed],
            "language_module": None,
        }
        return self._made(TrainTask, merged, f"module_types.{label}.task", lambda: check_language(source))

    def evaluation(self, label: str, name: str, source: str) -> Evaluate | None:
        """The settings of one evaluation, without its modules; None after a fault."""
        settings, data = self.settings, self.settings.tasks[name]
        merged = (
            self.shared
            | {"scoring": self._scoring(data, name)}
            | settings.evaluation
            | {
                "source": source,
                "targets": data.test,
                "columns": data.columns.model_dump(mode="json"),
                "progress": settings.progress,
                "note": settings.note,
            }
        )
        if settings.module_types[label].language is None:
            merged |= {"controls": ["none"], "proxies": {}, "only": {}}
        elif isinstance(proxies := merged.get("proxies"), dict) and proxies.get("use"):
            texts = {language: text for language, text in settings.corpora.items() if isinstance(text, str)}
            merged["proxies"] = {"texts": texts} | proxies
        return self._made(Evaluate, merged, "evaluation")

    def _scoring(self, data: TaskData, name: str) -> Scoring:
        """The reading of spans for a task; a task whose tags are no spans has none to choose."""
        kind = data.task or name
        spans = kind in TASKS.names() and TASKS.get(kind).inventory is None
        return self.settings.scoring if spans else "strict"

    def raise_if_any(self) -> None:
        """Raises ConfigError that lists all faults found so far."""
        if self.faults:
            lines = list(dict.fromkeys(self.faults))
            raise ConfigError(f"{len(lines)} fault{'s' * (len(lines) > 1)} in the matrix:\n  " + "\n  ".join(lines))

    def _merged(self, *layers: dict[str, Any]) -> dict[str, Any]:
        return layered({**self.shared, "overwrite": True, "train": {"progress": self.settings.progress}}, *layers)

    def _made(
        self, schema: type[J], data: dict[str, Any], place: str, check: Callable[[], object] | None = None
    ) -> J | None:
        made, faults = faults_of(schema, data)
        self.faults += [f"{place}.{fault}" for fault in faults]
        if isinstance(made, (TrainLanguage, TrainTask)):
            components = made.components
            self._try(f"{place}.components", lambda: components_of(components))
        if check is not None:
            self._try(place, check)
        return made

    def _try(self, place: str, check: Callable[[], object]) -> None:
        try:
            check()
        except MadxError as error:
            self.faults.append(f"{place}: {error}")
