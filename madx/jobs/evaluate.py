"""Job 3: zero-shot evaluation by swapping the language module, the four controls side by side, and proxies beside them."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from madx.composition import Average, Composition, Stack
from madx.data.labelled.conll import Sentence, write_conll
from madx.data.labelled.labels import LabelSet, require
from madx.data.labelled.windows import Row
from madx.data.text.corpora import corpus_files
from madx.engine import Engine
from madx.engine.entropy_mixing import EntropyMixing
from madx.errors import CompositionError, ConfigError, did_you_mean
from madx.jobs.common import JobSettings, bring_to, module_names, open_base, run_folder, versions
from madx.jobs.proxies import Proxies, check_proxies, likeness, proxy_compositions
from madx.jobs.train_task import Columns, file_sha256, read_labelled
from madx.module import ModuleInfo
from madx.report import save as save_report
from madx.report.page import write_report
from madx.report.page.record import PREDICTIONS, prediction_file, save_modules
from madx.results.cells import CONTROLS, Cell, Meta, Missing
from madx.results.matrix import TransferMatrix
from madx.store import Store
from madx.tasks import TASKS
from madx.tasks.token_classification import TokenClassification, word_logits
from madx.training.precision import precision_of
from madx.training.progress import ProgressView

log = logging.getLogger("madx")

#: sentences on which the engine measures that every module of a composition acts
PROBE_SENTENCES = 8


class Evaluate(JobSettings):
    """Settings of `madx evaluate`."""

    base: str | None = Field(default=None, description="The frozen base; null: the one that the task module records.")
    task_module: str = Field(default="ner", description="Task module, or the name before @SEED of several.")
    seeds: list[int] | None = Field(
        default=None, min_length=1, description="Which of several, TASK_MODULE@SEED; null: all that are stored."
    )
    source: str | list[str] | None = Field(
        default=None, description="Source language, or a list; null: what the task module records."
    )
    targets: dict[str, str] = Field(
        min_length=1, description="Language -> labelled test data; the source may be among them."
    )
    modules: dict[str, str | None] = Field(
        default={}, description="Language -> its module, where the name is not the language; null: it has none."
    )
    controls: list[Literal["none", "source", "target", "mean"]] = Field(
        default=list(CONTROLS), min_length=1, description="none, source's kept, target's, mean of the others'."
    )
    mean_of: list[str] | None = Field(
        default=None,
        description="Modules of the mean and of the proxies, the target's own left out; null: source's and all targets'.",
    )
    proxies: Proxies = Field(
        default=Proxies(), description="What stands in for the module of a language that has none."
    )
    only: dict[str, list[Literal["none", "source", "target", "mean", "nearest", "weighted", "arithmetic", "emea"]]] = (
        Field(
            default={},
            description="For single targets: which of the chosen controls and proxies, e.g. {swa: [none, weighted]}.",
        )
    )
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    max_length: int = Field(default=256, ge=8, description="Tokens of a window at most.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="fp32",
        description="Of the base, as train.precision. bf16 moves scores by rounding, and every report says so.",
    )
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
    """Score a task module on every target language under the controls and proxies. Raises MadxError for bad input."""
    store = Store(settings.store)
    tasks = module_names(store, settings.task_module, settings.seeds)
    first = store.show(next(iter(tasks.values()))).info
    if first.task not in TASKS.names():
        raise ConfigError(
            f"The module {first.name!r} (role {first.role}) is no task module; evaluate one that train-task made."
        )
    sources = source_languages(first, settings.source)
    languages = _language_modules(store, settings, sources)
    _check_choice(settings, languages)
    kind = TASKS.get(first.task)
    data = {language: read_labelled(path, settings.columns, kind) for language, path in settings.targets.items()}
    labels = LabelSet(first.labels)
    for language, sentences in data.items():
        require(labels, LabelSet.from_sentences(sentences, source=settings.targets[language]))
    alike = likeness(settings.proxies) if set(settings.proxies.use) - {"emea"} else {}
    chosen = first.base_to_load(settings.base, settings.revision)
    base = open_base(settings.model_copy(update={"base": chosen["name"], "revision": chosen["revision"]}))
    used = dict.fromkeys([*languages.values(), *(settings.mean_of or []), *settings.proxies.modules()])
    infos = [store.show(name).info for name in [*used, *tasks.values()]]
    bring_to(settings.precision, base, *(info.components for info in infos))
    folder = run_folder(settings.run, f"evaluate-{settings.task_module}")
    engine = Engine(base)
    try:
        for name in used:
            engine.attach(store.load(name, engine.base))
        cells, missing = _cells(
            engine,
            store,
            settings,
            tasks=tasks,
            sources=sources,
            data=data,
            languages=languages,
            alike=alike,
            folder=folder,
        )
    finally:
        engine.close()
    label = f"{base.label} in bfloat16" if precision_of(base) == "bf16" else base.label
    meta = Meta(
        task_module=settings.task_module,
        source=", ".join(sources),
        base=label,
        versions=versions(),
        note=settings.note,
        data={path: file_sha256(path) or "" for path in settings.targets.values()}
        | {file.path: file.sha256 or "" for text in settings.proxies.texts.values() for file in corpus_files(text)},
    )
    matrix = TransferMatrix(meta, tuple(cells), tuple(missing), tuple(settings.targets))
    files = save_report(matrix, folder)
    save_modules(folder, infos)
    written = {prediction_file(c.target, c.control, c.seed) for c in cells} if settings.predictions else set()
    for file in (folder / PREDICTIONS).glob("*.conll"):
        if file.name not in written:  # of a run before: the report would show it as this one's
            file.unlink()
    return EvaluateResult(matrix, folder, files + write_report(folder))


def source_languages(info: ModuleInfo, given: str | list[str] | None = None) -> list[str]:
    """The languages whose labelled data a task module was trained on: those given, else those it records."""
    if given:
        return [given] if isinstance(given, str) else list(given)
    return [info.language] if info.language is not None else list(info.training.get("sources", {}))


def _check_choice(settings: Evaluate, languages: dict[str, str]) -> None:
    """Raises ConfigError where the choice of controls and proxies makes no sense: before data and base are read."""
    chosen = [*settings.controls, *settings.proxies.use]
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


def _language_modules(store: Store, settings: Evaluate, sources: list[str]) -> dict[str, str]:
    """Language -> module name, for the languages that have one."""
    stored = store.names()
    found = {}
    for language in dict.fromkeys([*sources, *settings.targets]):
        name = settings.modules.get(language, language)
        if name is None:
            continue
        if name in stored:
            found[language] = name
        elif language in settings.modules:
            store.show(name)  # raises with the nearest name: it was asked for
    for name in [*(settings.mean_of or []), *settings.proxies.modules()]:
        store.show(name)
    return found


def control_compositions(
    task: str, *, language: str, source: str | list[str], modules: dict[str, str], mean_of: list[str] | None = None
) -> dict[str, Composition | str]:
    """The composition of each control, or the reason (text) why there is none.

    modules: language -> module name; mean_of: modules of the mean (None: all of `modules`), the target's own left out.
    With several source languages "source's kept" is the mean of their modules; for a target that is one of them, its own
    module, with which it was trained.
    """
    lacking = "no module for {!r} in the store; train it with: madx train-language"
    own = modules.get(language)
    others = [m for m in (mean_of if mean_of is not None else dict.fromkeys(modules.values())) if m != own]
    sources = [source] if isinstance(source, str) else source
    kept = [language] if language in sources else sources
    without = [code for code in kept if code not in modules]
    result: dict[str, Composition | str] = {
        "none": Stack(task),
        "source": "the task module records no source language; set source=LANGUAGE"
        if not kept
        else lacking.format(without[0])
        if without
        else Stack(Average(*(modules[code] for code in kept)), task),
        "target": Stack(own, task) if own else lacking.format(language),
        "mean": Stack(Average(*others), task) if others else "no other language module to average",
    }
    if language in sources:
        result["target"] = "the source itself: see source"
    return result


def _compositions(
    engine: Engine,
    settings: Evaluate,
    task: str,
    *,
    language: str,
    sources: list[str],
    languages: dict[str, str],
    alike: dict,
) -> dict[str, Composition | str]:
    """The composition of each chosen control and proxy, or the reason (text) why there is none."""
    own = languages.get(language)
    pool = {
        m: engine.module(m).info.language for m in (settings.mean_of or dict.fromkeys(languages.values())) if m != own
    }
    pool = {m: other for m, other in pool.items() if other != language}  # nor another module of the same language
    found = control_compositions(task, language=language, source=sources, modules=languages, mean_of=settings.mean_of)
    found |= proxy_compositions(
        task,
        language=language,
        own=own,
        source=languages.get(sources[0]) if len(sources) == 1 else None,
        pool=pool,
        settings=settings.proxies,
        alike=alike,
    )
    chosen = [*settings.controls, *settings.proxies.use]
    only = settings.only.get(language, chosen)
    return {c: found[c] if c in only else f"left out by the setting only.{language}" for c in chosen}


def _cells(
    engine, store, settings, *, tasks, sources, data, languages, alike, folder
) -> tuple[list[Cell], list[Missing]]:
    cells: list[Cell] = []
    missing: dict[tuple[str, str], Missing] = {}
    rows: dict[str, list[Row]] = {}  # of each language, for all seeds and controls
    total = len(tasks) * len(data) * len([*settings.controls, *settings.proxies.use])
    with ProgressView("evaluate", total, shown=settings.progress) as view:
        for seed, name in tasks.items():
            info = engine.attach(store.load(name, engine.base)).info
            length = min(settings.max_length, engine.base.max_tokens)
            task = TASKS.get(info.task)(engine.base.tokenizer, LabelSet(info.labels), max_length=length)
            for language, sentences in data.items():
                rows[language] = rows.get(language) or task.rows_of(sentences)
                compositions = _compositions(
                    engine, settings, name, language=language, sources=sources, languages=languages, alike=alike
                )
                for control, composition in compositions.items():
                    cell = (
                        composition
                        if isinstance(composition, str)
                        else _cell(
                            engine,
                            settings,
                            task,
                            composition,
                            seed=seed,
                            language=language,
                            control=control,
                            sentences=sentences,
                            rows=rows[language],
                            folder=folder,
                        )
                    )
                    if isinstance(cell, str):
                        missing[language, control] = Missing(language, control, cell)
                    else:
                        cells.append(cell)
                    view.count(f"{language} {control}")
            engine.activate(None)
            engine.detach(name)
    return cells, list(missing.values())


def _cell(
    engine: Engine,
    settings: Evaluate,
    task: TokenClassification,
    composition: Composition,
    *,
    seed: int,
    language: str,
    control: str,
    sentences: list[Sentence],
    rows: list[Row],
    folder: Path,
) -> Cell | str:
    """One prediction of one test set, with a measured record of which modules acted; or the reason why there is none."""
    engine.activate(composition)
    mixing = None
    if control == "emea":
        try:
            mixing = EntropyMixing(engine, word_logits, **settings.proxies.emea.model_dump())
        except CompositionError as error:
            return str(error)
    predicted = task.predict(engine, sentences, rows=rows, mixing=mixing)
    explanation = task.explain(engine, sentences[:PROBE_SENTENCES])
    if explanation.inactive:
        log.error(
            "%s, %s: INACTIVE %s: the score does not show what it does",
            language,
            control,
            ", ".join(explanation.inactive),
        )
    if settings.predictions:
        write_conll(folder / PREDICTIONS / prediction_file(language, control, seed), sentences, predicted)
    record = explanation.as_dict() | ({"mixing": mixing.summary()} if mixing else {})
    return Cell(language, control, str(composition), seed, task.score(sentences, predicted), record)
