"""Settings of the training of a task module."""

from typing import Any

from pydantic import Field, model_validator

from madx.data.labelled.spans import Scoring
from madx.jobs.labelled import FORMS, Columns
from madx.jobs.settings import COMPONENTS, FUSE, SCORING, JobSettings, LabelledData, Seed, with_preset
from madx.module.pooling import Kind as Pooling
from madx.training import TrainSettings


class TrainTask(JobSettings):
    """Settings of `madx train-task`. The defaults are the MAD-X recipe for NER (Pfeiffer et al. 2020)."""

    RENAMED = {"parts": "components"}
    SHORT = {"components": "preset"}
    LABELLED = ("data", "dev")

    language: str | list[str] = Field(
        description="The source language: that of the labelled data, e.g. eng. Several: [eng, deu]."
    )
    data: LabelledData | dict[str, LabelledData] = Field(
        description=f"Training data: {FORMS}. Of several languages: {{eng: FILE, deu: FILE}}. In Python also "
        "sentences: a list of (tokens, tags), a datasets.Dataset."
    )
    dev: LabelledData | dict[str, LabelledData] = Field(
        description="Development data, which chooses the best weights; of several languages as data."
    )
    task: str = Field(default="ner", description="The task: one of `madx tasks`.")
    name: str | None = Field(
        default=None, description="Name of the module; null: the task. With several seeds: NAME@SEED."
    )
    language_module: str | None | dict[str, str | None] = Field(
        default="auto",
        description="Language module under the task module; auto: named as the language; null: none; or by language.",
    )
    cycle: list[str] = Field(
        default=[],
        description="Further frozen language modules that take turns with the source's own, batch by batch (TLR).",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Several languages: batches in proportion to size^(1/temperature); large: all alike.",
    )
    fuse: list[str] = Field(default=[], description=FUSE.format("ner, pos"))
    components: str | dict[str, Any] = Field(
        default="pfeiffer", description=f"{COMPONENTS} With fuse: fusion, if it is not given."
    )
    pooling: Pooling = Field(
        default="first",
        description="The pieces of a word that its label is read at: first, last, first_last, mean, max or attention.",
    )
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    scoring: Scoring = Field(default="strict", description=SCORING)
    epochs: int = Field(default=100, ge=1, description="Passes over the training data.")
    batch_size: int | None = Field(default=16, ge=1, description="Sentences in a step; null: by tokens_per_batch.")
    tokens_per_batch: int | None = Field(default=None, ge=16, description="Tokens in a step, padding included.")
    micro_batch: int | None = Field(default=None, ge=1, description="Sentences computed at once; null: all of them.")
    max_length: int = Field(default=256, ge=8, description="Tokens of a window at most; longer sentences get several.")
    seeds: list[Seed] = Field(default=[1, 2, 3], min_length=1, description="One module is trained for each seed.")
    train: TrainSettings = Field(default=TrainSettings(), description="The training loop.")
    run: str | None = Field(default=None, description="Folder of the runs; null: runs/train-task-NAME.")
    resume: bool = Field(default=True, description="Go on from the runs' checkpoints if there are any.")
    overwrite: bool = Field(default=False, description="Replace modules of these names in the store.")
    licence: str | None = Field(default=None, description="SPDX licence of the module, for its card.")

    @model_validator(mode="before")
    @classmethod
    def _a_fusion_where_modules_are_fused(cls, values: Any) -> Any:
        return with_preset(values, "pfeiffer")

    @model_validator(mode="after")
    def _one_file_for_each_language(self) -> "TrainTask":
        for key in ("data", "dev") if isinstance(self.language, list) else ():
            given = getattr(self, key)
            given = list(given) if isinstance(given, dict) else []
            if sorted(given) != sorted(self.language) or not given:
                files = ", ".join(f"{code}: FILE" for code in self.language)
                raise ValueError(
                    f"{key} names files for {', '.join(given) or 'no language'}; each source language needs one: "
                    f"{{{files}}}"
                )
        if isinstance(self.language, str) and not (isinstance(self.data, str) and isinstance(self.dev, str)):
            raise ValueError(
                f"language {self.language} is one source: give data and dev as one file each, or language as a list"
            )
        stray = (
            sorted(set(self.language_module) - set(self.sources())) if isinstance(self.language_module, dict) else []
        )
        if stray:
            raise ValueError(
                f"language_module names {', '.join(stray)}; the source languages are {', '.join(self.sources())}"
            )
        return self

    def sources(self) -> dict[str, tuple[str, str]]:
        """Source language -> training data, development data."""
        if isinstance(self.language, str):
            return {self.language: (str(self.data), str(self.dev))}
        return {code: (str(self.data[code]), str(self.dev[code])) for code in self.language}

    def single(self) -> str | None:
        """The source language, if it is one."""
        return next(iter(self.sources())) if len(self.sources()) == 1 else None

    def module_of(self, language: str) -> str | None:
        """The language module under the task module for a source language; None for none."""
        given = (
            self.language_module.get(language, "auto")
            if isinstance(self.language_module, dict)
            else self.language_module
        )
        return language if given == "auto" else given

    def frozen_modules(self) -> list[str]:
        """All stored modules that act in training, each once: those of languages and those to fuse."""
        return list(dict.fromkeys([*self.language_modules(), *self.fuse]))

    def language_modules(self) -> list[str]:
        """All language modules that training needs, each once."""
        own = [name for code in self.sources() if (name := self.module_of(code)) is not None]
        return list(dict.fromkeys([*own, *self.cycle]))

    def names(self) -> dict[int, str]:
        """Seed -> the name of its module: the task's name for one seed, NAME@SEED for several."""
        name = self.name or self.task
        return {seed: name if len(self.seeds) == 1 else f"{name}@{seed}" for seed in self.seeds}
