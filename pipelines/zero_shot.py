"""Recipe: evaluate a task module zero-shot, by swapping the language module under it for each target language.

    python pipelines/zero_shot.py configs/evaluate.yaml targets.swa=swa-test.conll targets.yor=yor-test.conll

It scores what `madx evaluate` scores from the same settings, every step in view, under the four controls: no language
module, the source's kept, the target's own, the mean of the others'. Proxies for languages without a module, reports
and predictions as files are left to the command. `madx config evaluate` prints all settings.
"""

import argparse
import logging
import sys

from rich.console import Console

import madx
from madx import report
from madx.config import load
from madx.data.labelled.labels import LabelSet
from madx.errors import ConfigError
from madx.jobs.common import bring_to, info_of, module_names, open_base, run_folder, versions
from madx.jobs.evaluate import control_compositions
from madx.jobs.evaluate.controls import language_modules, source_languages
from madx.jobs.gold import read_gold, remarks_on_files, scored_tags
from madx.jobs.labelled import file_sha256, task_type
from madx.jobs.languages import remarks_on_codes
from madx.results.cells import Cell, Meta, Missing
from madx.results.matrix import TransferMatrix


def main(config: str, overrides: list[str]) -> None:
    # Settings: a YAML file, and single values of it from the command line.
    settings = load(config, madx.Evaluate, overrides)
    if settings.proxies.use or settings.only:
        raise ConfigError(
            "This recipe knows the four controls alone; `madx evaluate` has proxies and the setting only."
        )

    # Modules: the task module of each seed, the language modules of its source and of the targets.
    store = madx.Store(settings.store)
    tasks = module_names(store, settings.task_module, settings.seeds)
    info = info_of(store, next(iter(tasks.values())))
    sources = source_languages(info, settings.source)
    languages, damaged = language_modules(store, settings, sources)
    used = dict.fromkeys([*languages.values(), *(settings.mean_of or [])])

    # Data: test sentences, whose labels must be those of the task module; remarks on what they lack.
    kind, labels = task_type(info.task), LabelSet(info.labels)
    gold = read_gold(settings.targets, settings.columns, kind, labels=labels, scoring=settings.scoring)
    infos = [info_of(store, name) for name in tasks.values()]
    remarks = [*remarks_on_files(settings.targets, infos), *remarks_on_codes([*sources, *settings.targets])]

    # Build: one engine over the base that the task module records, with all modules attached.
    chosen = info.base_to_load(settings.base, settings.revision)
    base = open_base(settings.model_copy(update={"base": chosen["name"], "revision": chosen["revision"]}))
    components = [info_of(store, name).components for name in [*used, *tasks.values()]]
    precision = bring_to(settings.precision, base, *components)
    engine = madx.Engine(base)
    for name in [*used, *tasks.values()]:
        engine.attach(store.load(name, base))

    # Swap and score: one composition for each control; a control that cannot be had gives its reason.
    length = min(settings.max_length, base.max_tokens)
    task = kind(base.tokenizer, labels, max_length=length, scoring=settings.scoring)
    cells, missing = [], {}
    for seed, name in tasks.items():
        for language, sentences in gold.data.items():
            compositions = control_compositions(
                name, language=language, source=sources, modules=languages, mean_of=settings.mean_of, damaged=damaged
            )
            for control in settings.controls:
                composition = compositions[control]
                if isinstance(composition, str):
                    missing[language, control] = Missing(language, control, composition)
                    continue
                with engine.using(composition):
                    predicted = task.predict(engine, sentences)
                    if kind.inventory is None:
                        predicted = [scored_tags(tags, settings.columns) for tags in predicted]
                    explanation = task.explain(engine, sentences[:8])  # measured: does every module act?
                scores = task.score(sentences, predicted)
                cells.append(Cell(language, control, str(composition), seed, scores, explanation.as_dict()))

    # Save: the matrix as a table, JSON and a picture.
    meta = Meta(
        task_module=settings.task_module,
        source=", ".join(sources),
        base=f"{base.label} in bfloat16" if precision == "bf16" else base.label,
        versions=versions(),
        note=settings.note,
        data={path: file_sha256(path) or "" for path in settings.targets.values()},
        scoring=settings.scoring,
        remarks=(*remarks, *gold.remarks),
    )
    matrix = TransferMatrix(meta, tuple(cells), tuple(missing.values()), tuple(settings.targets))
    files = report.save(matrix, run_folder(settings.run, f"evaluate-{settings.task_module}"))
    Console(width=None if sys.stdout.isatty() else 200).print(report.to_rich(matrix))
    for warning in matrix.warnings():
        print(warning, file=sys.stderr)
    print("files:", *files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="settings file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("madx").setLevel(logging.INFO)
    try:
        main(arguments.config, arguments.overrides)
    except madx.MadxError as error:
        sys.exit(f"Error: {error}")
