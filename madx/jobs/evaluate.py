"""Job 3: zero-shot evaluation by swapping the language module, the four controls side by side."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from madx.composition import Average, Composition, Stack
from madx.data.conll import Sentence, write_conll
from madx.data.labels import LabelSet, require
from madx.engine import Engine
from madx.errors import ConfigError
from madx.evaluation import CONTROLS, Cell, Meta, Missing, TransferMatrix
from madx.jobs.common import JobSettings, module_names, open_base, run_folder, versions
from madx.jobs.train_task import Columns, file_sha256, read_labelled
from madx.module import Module
from madx.store import Store
from madx.tasks import TASKS
from madx.training.progress import ProgressView

log = logging.getLogger("madx")

#: sentences on which the engine measures that every module of a composition acts
PROBE_SENTENCES = 8


class Evaluate(JobSettings):
    """Settings of `madx evaluate`."""

    base: str | None = Field(default=None, description="The frozen base; null: the one that the task module records.")
    task_module: str = Field(default="ner", description="Task module, or the name before @SEED of several.")
    source: str | None = Field(default=None, description="Source language; null: the one that the task module records.")
    targets: dict[str, str] = Field(min_length=1, description="Language -> labelled test data; the source may be among them.")
    modules: dict[str, str | None] = Field(
        default={}, description="Language -> its module, where the name is not the language; null: it has none."
    )
    controls: list[Literal["none", "source", "target", "mean"]] = Field(
        default=list(CONTROLS), min_length=1, description="none, source's kept, target's, mean of the others'."
    )
    mean_of: list[str] | None = Field(
        default=None, description="Modules of the mean, the target's own left out; null: source's and all targets'."
    )
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    max_length: int = Field(default=256, ge=8, description="Tokens of a window at most.")
    predictions: bool = Field(default=True, description="Write every prediction as CoNLL.")
    progress: bool = Field(default=True, description="Show a progress bar.")
    run: str | None = Field(default=None, description="Folder of the results; null: runs/evaluate-TASK_MODULE.")
    note: str = Field(default="", description="A remark printed in every report.")


@dataclass
class EvaluateResult:
    """The transfer matrix, and where its files lie."""

    matrix: TransferMatrix
    folder: Path
    files: list[Path] = field(default_factory=list)


def evaluate(settings: Evaluate) -> EvaluateResult:
    """Score a task module on every target language under the four controls. Raises MadxError for bad input."""
    store = Store(settings.store)
    tasks = module_names(store, settings.task_module)
    first = store.show(next(iter(tasks.values()))).info
    if first.task not in TASKS.names():
        raise ConfigError(f"The module {first.name!r} (role {first.role}) is no task module; evaluate one that train-task made.")
    source = settings.source or first.language
    data = {language: read_labelled(path, settings.columns) for language, path in settings.targets.items()}
    labels = LabelSet(first.labels)
    for language, sentences in data.items():
        require(labels, LabelSet.from_sentences(sentences, source=settings.targets[language]))
    base = open_base(settings.model_copy(update={"base": settings.base or first.base["name"]}))
    folder = run_folder(settings.run, f"evaluate-{settings.task_module}")
    engine = Engine(base)
    try:
        languages = _attach(engine, store, settings, source)
        cells, missing = _cells(engine, store, settings, tasks=tasks, source=source, data=data, languages=languages, folder=folder)
    finally:
        engine.close()
    meta = Meta(
        task_module=settings.task_module, source=source, base=base.label, versions=versions(), note=settings.note,
        data={path: file_sha256(path) or "" for path in settings.targets.values()},
    )  # fmt: skip
    matrix = TransferMatrix(meta, tuple(cells), tuple(missing), tuple(settings.targets))
    return EvaluateResult(matrix, folder, matrix.save(folder))


def _attach(engine: Engine, store: Store, settings: Evaluate, source: str) -> dict[str, str]:
    """Attach the language modules at hand; language -> module name, for the languages that have one."""
    stored = store.names()
    found = {}
    for language in dict.fromkeys([source, *settings.targets]):
        name = settings.modules.get(language, language)
        if name is None:
            continue
        if name in stored:
            found[language] = name
        elif language in settings.modules:
            store.show(name)  # raises with the nearest name: it was asked for
    for name in dict.fromkeys([*found.values(), *(settings.mean_of or [])]):
        engine.attach(store.load(name, engine.base))
    return found


def control_compositions(
    task: str, *, language: str, source: str, modules: dict[str, str], mean_of: list[str] | None = None
) -> dict[str, Composition | str]:
    """The composition of each control, or the reason (text) why there is none.

    modules: language -> module name; mean_of: modules of the mean (None: all of `modules`), the target's own left out.
    """
    lacking = "no module for {!r} in the store; train it with: madx train-language"
    own = modules.get(language)
    others = [m for m in (mean_of if mean_of is not None else dict.fromkeys(modules.values())) if m != own]
    result: dict[str, Composition | str] = {
        "none": Stack(task),
        "source": Stack(modules[source], task) if source in modules else lacking.format(source),
        "target": Stack(own, task) if own else lacking.format(language),
        "mean": Stack(Average(*others), task) if others else "no other language module to average",
    }
    if language == source:
        result["target"] = "the source itself: see source"
    return result


def _cells(engine, store, settings, *, tasks, source, data, languages, folder) -> tuple[list[Cell], list[Missing]]:
    cells: list[Cell] = []
    missing: dict[tuple[str, str], Missing] = {}
    total = len(tasks) * len(data) * len(settings.controls)
    with ProgressView("evaluate", total, shown=settings.progress) as view:
        for seed, name in tasks.items():
            module = engine.attach(store.load(name, engine.base))
            for language, sentences in data.items():
                compositions = control_compositions(name, language=language, source=source, modules=languages, mean_of=settings.mean_of)
                for control in settings.controls:
                    composition = compositions[control]
                    if isinstance(composition, str):
                        missing[language, control] = Missing(language, control, composition)
                    else:
                        cells.append(_cell(engine, settings, module, composition, seed=seed, language=language, control=control,
                                           sentences=sentences, folder=folder))  # fmt: skip
                    view.count(f"{language} {control}")
            engine.activate(None)
            engine.detach(name)
    return cells, list(missing.values())


def _cell(
    engine: Engine, settings: Evaluate, module: Module, composition: Composition, *, seed: int, language: str, control: str,
    sentences: list[Sentence], folder: Path,
) -> Cell:  # fmt: skip
    """One prediction of one test set; with a measured record of which modules acted."""
    task = TASKS.get(module.info.task)(
        engine.base.tokenizer, LabelSet(module.info.labels), max_length=min(settings.max_length, engine.base.max_tokens)
    )
    engine.activate(composition)
    predicted = task.predict(engine, sentences)
    explanation = task.explain(engine, sentences[:PROBE_SENTENCES])
    if explanation.silent:
        log.error("%s, %s: SILENT %s: the score does not show what it does", language, control, ", ".join(explanation.silent))
    if settings.predictions:
        write_conll(folder / "predictions" / f"{language}.{control}.seed{seed}.conll", sentences, predicted)
    return Cell(language, control, str(composition), seed, task.score(sentences, predicted), explanation.as_dict())
