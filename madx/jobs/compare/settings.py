"""Settings of a comparison of module types, and the training jobs of its candidates."""

from typing import Any

from pydantic import Field

from madx.config import faults_of
from madx.data.labelled.spans import Scoring
from madx.errors import ConfigError, MadxError, did_you_mean
from madx.jobs.common import layered
from madx.jobs.labelled import FORMS, Columns, task_type
from madx.jobs.matrix.settings import OWN
from madx.jobs.settings import SCORING, JobSettings, LabelledData, Seed
from madx.jobs.train_task import TrainTask
from madx.module.components import components_of
from madx.store import check_language

EVERYTHING = {"selection": "everything"}
#: name -> settings of train-task; learning rates of the papers or of common use, to be tuned on real data
CANDIDATES: dict[str, dict[str, Any]] = {
    "full": {"components": "full", "train": {"learning_rate": 2e-5, "sparse": EVERYTHING}},
    "top_layers": {"components": "top_layers", "train": {"learning_rate": 2e-5, "sparse": EVERYTHING}},
    "head_only": {"components": "head_only", "train": {"learning_rate": 1e-3}},
    "bitfit": {"components": "bitfit", "train": {"learning_rate": 1e-3, "sparse": EVERYTHING}},
    "pfeiffer": {"components": "pfeiffer", "train": {"learning_rate": 1e-4}},
    "houlsby": {"components": "houlsby", "train": {"learning_rate": 1e-4}},
    "lt_sft": {"components": "lt_sft_task", "train": {"learning_rate": 5e-5}},
}


class Compare(JobSettings):
    """Settings of `madx compare`."""

    LABELLED = ("data", "dev")

    language: str = Field(description="Language of the labelled data, e.g. eng.")
    data: LabelledData = Field(description=f"Training data: {FORMS}. In Python also sentences in memory.")
    dev: LabelledData = Field(description="Development data, on which accuracy is measured.")
    task: str = Field(default="ner", description="The task: one of `madx tasks`.")
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    scoring: Scoring = Field(default="strict", description=SCORING)
    language_module: str | None = Field(
        default=None, description="Stored language module under every candidate; null: none."
    )
    candidates: dict[str, dict[str, Any]] = Field(
        default=CANDIDATES,
        min_length=1,
        description="Name -> settings of train-task: components, train.learning_rate, ...",
    )
    only: list[str] | None = Field(
        default=None, min_length=1, description="Names of the candidates to take; null: all."
    )
    training: dict[str, Any] = Field(
        default={"epochs": 3}, description="Settings of train-task for all candidates; each candidate's own go first."
    )
    seeds: list[Seed] = Field(
        default=[1, 2, 3], min_length=1, description="Seeds of the trainings that accuracy is measured on."
    )
    measured_steps: int = Field(
        default=4, ge=1, description="Steps over which memory, operations and seconds are measured, at least."
    )
    rounds: int = Field(default=9, ge=3, description="Rounds of every timing; in each all candidates have their turn.")
    inference_batches: int = Field(
        default=4, ge=1, description="Batches of the development data that inference is timed on."
    )
    inference_tokens: int = Field(default=1024, ge=16, description="Tokens in such a batch, padding included.")
    run: str = Field(default="runs/compare", description="Folder of the runs and of the results.")
    progress: bool = Field(default=True, description="Show progress bars.")
    note: str = Field(default="", description="A remark printed in every report.")


def jobs_of(settings: Compare) -> dict[str, TrainTask]:
    """The training job of every candidate, by name. Raises ConfigError that lists all faults."""
    task_type(settings.task)
    check_language(settings.language)
    jobs: dict[str, TrainTask] = {}
    faults: list[str] = []
    if len(set(settings.seeds)) < len(settings.seeds):
        faults.append(f"seeds {settings.seeds}: each seed once")
    stray = [name for name in settings.only or () if name not in settings.candidates]
    faults += [f"only: no candidate {name!r}; {did_you_mean(name, settings.candidates)}" for name in stray]
    for name in [n for n in settings.candidates if settings.only is None or n in settings.only]:
        given = settings.candidates[name]
        merged = layered({"train": {"progress": settings.progress}}, settings.training, given)
        faults += [
            f"candidates.{name}.{key}: compare sets it itself; leave it out"
            for key in merged
            if key in (*OWN["task"], "scoring")
        ]
        fixed = {
            key: getattr(settings, key)
            for key in ("base", "revision", "device", "store", "language", "data", "dev", "task", "scoring")
        }
        fixed |= {
            "language_module": settings.language_module,
            "seeds": settings.seeds,
            "overwrite": True,
            "columns": settings.columns.model_dump(mode="json"),
        }
        job, wrong = faults_of(TrainTask, merged | fixed)
        faults += [f"candidates.{name}.{fault}" for fault in wrong]
        if job is not None:
            jobs[name] = job
            if job.fuse:
                faults.append(f"candidates.{name}.fuse: candidates are trained alone; train a fusion by train-task")
            if job.cycle:
                faults.append(f"candidates.{name}.cycle: one language module is measured; leave it out")
            try:
                components_of(job.components)
            except MadxError as error:
                faults.append(f"candidates.{name}.components: {error}")
    if faults:
        raise ConfigError(f"{len(faults)} fault{'s' * (len(faults) > 1)} in the comparison:\n  " + "\n  ".join(faults))
    return jobs
