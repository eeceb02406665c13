"""Zero-shot evaluation: every target language under the four controls side by side, and proxies beside them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from madx.base import Base
from madx.composition import Composition
from madx.data.labelled.conll import write_conll
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.windows import Row
from madx.data.text.corpora import corpus_files
from madx.engine import Engine
from madx.engine.entropy_mixing import EntropyMixing
from madx.errors import CompositionError, ConfigError, MadxError
from madx.files.names import inside
from madx.jobs.common import bring_to, check_folders, info_of, module_names, open_base, run_folder, versions
from madx.jobs.evaluate.controls import compositions_of, doubles_of, language_modules, source_languages
from madx.jobs.evaluate.settings import Evaluate, check_choice
from madx.jobs.fusions import joins_of, spelled_out, with_joined
from madx.jobs.gold import read_gold, remarks_on_files, scored_tags
from madx.jobs.keywords import takes_keywords
from madx.jobs.labelled import file_sha256, task_type
from madx.jobs.languages import remarks_on_codes, remarks_on_lacking
from madx.jobs.proxies import likeness
from madx.module import ModuleInfo
from madx.report import save as save_report
from madx.report import to_markdown
from madx.report.files import write_files
from madx.report.page import write_report
from madx.report.page.record import PREDICTIONS, prediction_file, save_modules
from madx.results.cells import Cell, Meta, Missing
from madx.results.matrix import TransferMatrix
from madx.store import Store
from madx.tasks import TASKS
from madx.tasks.token_classification import TokenClassification, word_logits
from madx.training.precision import precision_of
from madx.training.progress import ProgressView

log = logging.getLogger("madx")

#: sentences on which the engine measures that every module of a composition acts
PROBE_SENTENCES = 8


@dataclass
class EvaluateResult:
    """The transfer matrix, the folder of its files, and the files."""

    matrix: TransferMatrix
    folder: Path
    files: list[Path] = field(default_factory=list)


@takes_keywords(Evaluate)
def evaluate(settings: Evaluate) -> EvaluateResult:
    """Score a task module on every target language under the chosen controls and proxies.

    The settings come as `Evaluate` or as keywords of the same names; targets may be sentences in memory:

    >>> madx.evaluate(task_module="ner", targets={"swa": "swa-test.conll", "yor": sentences})     # doctest: +SKIP

    Raises MadxError for anything wrong with settings, store, data or base.
    """
    store = Store(settings.store)
    tasks = module_names(store, settings.task_module, settings.seeds)
    seeds = [info_of(store, name) for name in tasks.values()]
    first = _one_task(seeds)
    sources = source_languages(first, settings.source)
    languages, damaged = language_modules(store, settings, sources)
    check_choice(settings, languages, sources)
    check_folders(run_folder(settings.run, f"evaluate-{settings.task_module}"))
    kind = task_type(str(first.task))
    gold = read_gold(settings.targets, settings.columns, kind, labels=LabelSet(first.labels), scoring=settings.scoring)
    remarks = [*_on_languages(settings, store, sources, languages), *remarks_on_files(settings.targets, seeds)]
    remarks += gold.remarks
    for remark in remarks:
        log.warning("%s", remark)
    alike = likeness(settings.proxies) if set(settings.proxies.use) - {"emea"} else {}
    chosen = first.base_to_load(settings.base, settings.revision)
    base = open_base(settings.model_copy(update={"base": chosen["name"], "revision": chosen["revision"]}))
    chosen_modules = [*languages.values(), *(settings.mean_of or []), *settings.proxies.modules()]
    used = [name for name in with_joined(store, [*chosen_modules, *tasks.values()]) if name not in tasks.values()]
    infos = [*(info_of(store, name) for name in used), *seeds]
    bring_to(settings.precision, base, *(info.components for info in infos))
    engine = Engine(base)
    try:
        for name in used:
            engine.attach(store.load(name, engine.base))
        run = _Run(settings, engine, store, kind, gold.data, joins_of(infos))
        cells, missing = run.cells(tasks, sources=sources, languages=languages, alike=alike, damaged=damaged)
    finally:
        engine.close()
    matrix = TransferMatrix(
        _meta(settings, base, sources, remarks), tuple(cells), tuple(missing), tuple(settings.targets)
    )
    try:
        files = save_report(matrix, run.folder)
    except MadxError:  # hours of work must not go with a full disk
        log.error("The scores cannot be stored, so they are printed here:\n%s", to_markdown(matrix))
        raise
    run.remove_stale_predictions(cells)
    save_modules(run.folder, infos)
    return EvaluateResult(matrix, run.folder, files + write_report(run.folder))


def _on_languages(settings: Evaluate, store: Store, sources: list[str], languages: Mapping[str, str]) -> list[str]:
    """Remarks on the codes of the source and target languages, and on modules that may be theirs by another name."""
    codes = list(dict.fromkeys([*sources, *settings.targets]))
    lacking = [code for code in codes if code not in languages and code not in settings.modules]
    infos = [row.info for row in store.list() if row.info is not None] if lacking else []
    stored = {info.name: info.language for info in infos if info.role == "language"}
    return [*remarks_on_codes(codes), *remarks_on_lacking(lacking, stored)]


def _one_task(seeds: list[ModuleInfo]) -> ModuleInfo:
    """The record of the first of the task modules. Raises ConfigError for one that is none, or that differs from the
    others in more than its seed: a mean over them would mean nothing."""
    first = seeds[0]
    if first.task not in TASKS.names():
        raise ConfigError(
            f"The module {first.name!r} (role {first.role}) is no task module; evaluate one that train-task made."
        )
    for info in seeds[1:]:
        if (info.task, sorted(info.labels)) != (first.task, sorted(first.labels)):
            raise ConfigError(
                f"The modules {first.name!r} (task {first.task}, labels {', '.join(first.labels)}) and {info.name!r} "
                f"(task {info.task}, labels {', '.join(info.labels)}) are not one task in several seeds. Choose by "
                "seeds=[...], or train them anew with the same data."
            )
    return first


def _meta(settings: Evaluate, base: Base, sources: list[str], remarks: list[str]) -> Meta:
    """The record of an evaluation beside its scores."""
    texts = [file for text in settings.proxies.texts.values() for file in corpus_files(text)]
    return Meta(
        task_module=settings.task_module,
        source=", ".join(sources),
        base=f"{base.label} in bfloat16" if precision_of(base) == "bf16" else base.label,
        versions=versions(),
        note=settings.note,
        data={path: file_sha256(path) or "" for path in settings.targets.values()}
        | {file.path: file.sha256 or "" for file in texts},
        scoring=settings.scoring,
        remarks=tuple(remarks),
    )


class _Run:
    """The predictions of one evaluation; data: language -> its test sentences; joins: see `joins_of`."""

    def __init__(
        self,
        settings: Evaluate,
        engine: Engine,
        store: Store,
        kind: type[TokenClassification],
        data: dict[str, list[Sentence]],
        joins: Mapping[str, Sequence[str]],
    ):
        self.settings, self.engine, self.store, self.kind, self.data = settings, engine, store, kind, data
        self.joins = joins
        self.folder = run_folder(settings.run, f"evaluate-{settings.task_module}")

    def cells(
        self,
        tasks: dict[int, str],
        *,
        sources: list[str],
        languages: Mapping[str, str],
        alike: Mapping[str, Mapping[str, float]],
        damaged: Mapping[str, str],
    ) -> tuple[list[Cell], list[Missing]]:
        """Score every seed's task module on every target under every control; tasks: seed -> task module.

        damaged: language -> why its module cannot be used.
        """
        engine, settings = self.engine, self.settings
        cells: list[Cell] = []
        missing: dict[tuple[str, str], Missing] = {}
        rows: dict[str, list[Row]] = {}  # of each language, for all seeds and controls
        total = len(tasks) * len(self.data) * len(settings.columns_chosen())
        with ProgressView("evaluate", total, shown=settings.progress) as view:
            for seed, name in tasks.items():
                task = self._task(name)
                for language, sentences in self.data.items():
                    rows[language] = rows.get(language) or task.rows_of(sentences)
                    compositions = compositions_of(
                        engine,
                        settings,
                        name,
                        language=language,
                        sources=sources,
                        languages=languages,
                        alike=alike,
                        damaged=damaged,
                    )
                    compositions = {c: self._spelled_out(found) for c, found in compositions.items()}
                    doubles = doubles_of(compositions)
                    found: dict[str, Cell] = {}
                    for control, composition in compositions.items():
                        cell: Cell | str
                        if control in doubles and doubles[control] in found:
                            cell = self._again(found[doubles[control]], control)
                        elif isinstance(composition, str):
                            cell = composition
                        else:
                            cell = self._cell(task, composition, (language, control, seed), rows[language])
                        if isinstance(cell, str):
                            missing[language, control] = Missing(language, control, cell)
                        else:
                            found[control] = cell
                        view.count(f"{language} {control}")
                    cells += found.values()
                engine.activate(None)
                engine.detach(name)
        return cells, list(missing.values())

    def _spelled_out(self, composition: Composition | str) -> Composition | str:
        """A composition with its fusions written in full, or the reason (text) why it cannot be."""
        try:
            return composition if isinstance(composition, str) else spelled_out(composition, self.joins)
        except CompositionError as error:  # a module that is fused stands under the fusion as well
            return str(error)

    def _task(self, name: str) -> TokenClassification:
        """Attach a task module; gives the task that reads its labels."""
        info = self.engine.attach(self.store.load(name, self.engine.base)).info
        length = min(self.settings.max_length, self.engine.base.max_tokens)
        scoring = self.settings.scoring
        return self.kind(self.engine.base.tokenizer, LabelSet(info.labels), max_length=length, scoring=scoring)

    def _cell(
        self, task: TokenClassification, composition: Composition, place: tuple[str, str, int], rows: list[Row]
    ) -> Cell | str:
        """Predict one test set with a measured record of the modules that acted; or give the reason why it cannot be.

        place: target language, control, seed.
        """
        engine, settings, (language, control, seed) = self.engine, self.settings, place
        sentences = self.data[language]
        engine.activate(composition)
        mixing = None
        if control == "emea":
            try:
                mixing = EntropyMixing(engine, word_logits, **settings.proxies.emea.model_dump())
            except CompositionError as error:
                return str(error)
        predicted = task.predict(engine, sentences, rows=rows, mixing=mixing)
        if task.inventory is None:
            predicted = [scored_tags(tags, settings.columns) for tags in predicted]
        explanation = task.explain(engine, sentences[:PROBE_SENTENCES])
        if explanation.inactive:
            inactive = ", ".join(explanation.inactive)
            log.error("%s, %s: INACTIVE %s: the score does not show what it does", language, control, inactive)
        if settings.predictions:
            file = inside(self.folder, PREDICTIONS, prediction_file(language, control, seed))
            write_conll(file, sentences, predicted)
        record = explanation.as_dict() | ({"mixing": mixing.summary()} if mixing else {})
        return Cell(language, control, str(composition), seed, task.score(sentences, predicted), record)

    def _again(self, cell: Cell, control: str) -> Cell:
        """The cell of another column with the same composition, which is not computed a second time."""
        if self.settings.predictions:
            folder = self.folder / PREDICTIONS
            written, copy = (folder / prediction_file(cell.target, c, cell.seed) for c in (cell.control, control))
            write_files({copy.name: written.read_bytes()}, folder, what="predictions")
        return replace(cell, control=control)

    def remove_stale_predictions(self, cells: list[Cell]) -> None:
        """Remove predictions of an earlier run in the same folder: the report would show them as this run's."""
        written = {prediction_file(c.target, c.control, c.seed) for c in cells} if self.settings.predictions else set()
        for file in inside(self.folder, PREDICTIONS).glob("*.conll"):
            if file.name not in written:
                file.unlink(missing_ok=True)
