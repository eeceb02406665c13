"""Settings of an evaluation, and the checks of them that need no base."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from madx.data.labelled.spans import Scoring
from madx.errors import ConfigError, did_you_mean
from madx.files.names import check_file_names
from madx.jobs.labelled import FORMS, Columns
from madx.jobs.proxies import Proxies, check_proxies
from madx.jobs.settings import SCORING, JobSettings, LabelledData, Seed, as_fault

Control = Literal["none", "source", "target", "mean"]
Column = Literal["none", "source", "target", "mean", "nearest", "weighted", "arithmetic", "emea"]


class Evaluate(JobSettings):
    """Settings of `madx evaluate`."""

    LABELLED = ("targets",)

    base: str | None = Field(  # type: ignore[assignment]  # null is allowed here alone
        default=None, description="The frozen base; null: the one that the task module records."
    )
    task_module: str = Field(default="ner", description="Task module, or the name before @SEED of several.")
    seeds: list[Seed] | None = Field(
        default=None, min_length=1, description="Which of several, TASK_MODULE@SEED; null: all that are stored."
    )
    source: str | list[str] | None = Field(
        default=None, description="Source language, or a list; null: what the task module records."
    )
    targets: dict[str, LabelledData] = Field(
        min_length=1,
        description=f"Language -> labelled test data: {FORMS}. The source may be among them. In Python also sentences "
        "in memory.",
    )
    modules: dict[str, str | None] = Field(
        default={}, description="Language -> its module, where the name is not the language; null: it has none."
    )
    controls: list[Control] = Field(
        default=["none", "source", "target", "mean"],
        min_length=1,
        description="none, source: the source's module kept, target: the target's own, mean: the mean of the others'.",
    )
    mean_of: list[str] | None = Field(
        default=None,
        description="Modules of the mean and of the proxies, the target's own left out; null: source's and all "
        "targets'.",
    )
    proxies: Proxies = Field(
        default=Proxies(), description="What stands in for the module of a language that has none."
    )
    only: dict[str, list[Column]] = Field(
        default={},
        description="For single targets: which of the chosen controls and proxies, e.g. {swa: [none, weighted]}.",
    )
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    scoring: Scoring = Field(default="strict", description=SCORING)
    max_length: int = Field(default=256, ge=8, description="Tokens of a window at most.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="fp32",
        description="Of the base, as train.precision. bf16 changes scores by rounding, and every report says so.",
    )
    predictions: bool = Field(default=True, description="Write every prediction as CoNLL.")
    progress: bool = Field(default=True, description="Show a progress bar.")
    run: str | None = Field(default=None, description="Folder of the results; null: runs/evaluate-TASK_MODULE.")
    note: str = Field(default="", description="A remark printed in every report.")

    @field_validator("targets")
    @classmethod
    def _targets_become_files(cls, value: dict[str, Any]) -> dict[str, Any]:
        as_fault(lambda: check_file_names(value, "target"))
        return value

    def columns_chosen(self) -> list[str]:
        """The columns of the matrix: controls, then proxies."""
        return [*self.controls, *self.proxies.use]


def check_choice(settings: Evaluate, languages: Mapping[str, str], sources: Sequence[str]) -> None:
    """Check the choice of controls and proxies before data and base are read.

    languages: language -> its module, for those that have one. sources: the source languages.

    Raises ConfigError where the choice makes no sense.
    """
    chosen = settings.columns_chosen()
    for language in settings.modules:
        if language not in {*settings.targets, *sources}:
            raise ConfigError(
                f"modules speaks of {language!r}, which is neither a target nor the source; "
                f"{did_you_mean(language, [*settings.targets, *sources])}"
            )
    for language, columns in settings.only.items():
        if language not in settings.targets:
            raise ConfigError(
                f"only speaks of {language!r}, which is no target; {did_you_mean(language, settings.targets)}"
            )
        if stray := [c for c in columns if c not in chosen]:
            raise ConfigError(
                f"only.{language} names {', '.join(stray)}, not chosen in controls or proxies.use: {', '.join(chosen)}."
            )
    check_proxies(settings.proxies, targets=settings.targets, own=languages)
