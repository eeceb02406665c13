"""Labelled sentences beside a task module's labels: what is refused, what is left out of scores, what is remarked.

A setting of the columns holds for both sides of a score. Types that `columns.ignore` reads as O in the gold tags are
read as O in the predictions, too; a predicted type that `columns.map` renames is renamed, unless the map makes other
types to it: then the module was trained on data that were renamed already.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from madx.data.labelled.labels import LabelSet, require
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import Scoring, renamed, spans, stray
from madx.errors import ConfigError, DataError, did_you_mean
from madx.jobs.labelled import Columns, file_sha256, read_labelled
from madx.module import ModuleInfo
from madx.tasks.token_classification import TokenClassification

log = logging.getLogger("madx")


@dataclass(frozen=True)
class Gold:
    """The test sentences of each target language, and what a reader of their scores should know.

    data: language -> sentences, without the types that are ignored. remarks: each one line.
    """

    data: dict[str, list[Sentence]]
    remarks: list[str] = field(default_factory=list)


def read_gold(
    targets: Mapping[str, str], columns: Columns, task: type[TokenClassification], *, labels: LabelSet, scoring: Scoring
) -> Gold:
    """Read the test set of each language and check it against the labels of the task module.

    Raises DataError for a test set without any entity, and for labels that the module cannot predict; ConfigError for a
    reading of spans in a task that has none.
    """
    check_scoring_of(task, scoring)
    if task.inventory is not None:
        data = {language: read_labelled(path, columns, task) for language, path in targets.items()}
        for language, sentences in data.items():
            require(labels, LabelSet.from_sentences(sentences, source=targets[language]))
        return Gold(data)
    data = {language: read_labelled(path, columns, task) for language, path in targets.items()}
    as_written = columns.model_copy(update={"ignore": (), "map": {}})
    read = data if as_written == columns else {k: read_labelled(path, as_written, task) for k, path in targets.items()}
    expected = expected_labels(labels, columns)
    for language, sentences in data.items():
        require_entities(sentences, targets[language], columns)
        require(expected, LabelSet.from_sentences(sentences, source=targets[language]))
    return Gold(
        data,
        [
            *_on_types(data, expected),
            *_on_ignored(read, labels, columns),
            *_on_unknown(read, labels, columns),
            *_on_stray(data, scoring),
        ],
    )


def expected_labels(labels: LabelSet, columns: Columns) -> LabelSet:
    """Return the labels of a module as they stand in scored predictions: ignored types left out, others renamed."""
    return LabelSet(tuple(dict.fromkeys(["O", *scored_tags(labels.tags, columns)]))) if labels.are_spans else labels


def scored_tags(tags: Sequence[str], columns: Columns) -> list[str]:
    """Return predicted tags as they are scored: ignored types as O, and types renamed as those of the gold tags."""
    made = set(columns.map.values())
    names = {old: new for old, new in columns.map.items() if old not in made}
    return renamed(tags, ignore=columns.ignore, names=names)


def require_entities(sentences: Sequence[Sentence], source: str, columns: Columns) -> None:
    """Raise DataError for sentences whose tags spell no entity at all: nothing can be found there, or learnt."""
    if any(tag != "O" for s in sentences for tag in s.tags):
        return
    why = f"; columns.ignore leaves {', '.join(columns.ignore)} out" if columns.ignore else ""
    raise DataError(
        f"{source}: not one entity in {len(sentences):,} sentences: every tag is O{why}. Entity F1 has no meaning "
        "there. Name labelled data (the published test sets of some shared tasks have their tags removed), or the "
        "column of the tags, columns.tag."
    )


def check_scoring_of(task: type[TokenClassification], scoring: Scoring) -> None:
    """Raise ConfigError for the lenient reading of spans in a task whose tags are no spans."""
    if task.inventory is not None and scoring != "strict":
        raise ConfigError(
            f"scoring={scoring} of the task {task.name!r}: its tags are {task.inventory.name}, one for each word, and "
            "no spans; leave scoring out."
        )


def remarks_on_files(targets: Mapping[str, str], tasks: Sequence[ModuleInfo]) -> list[str]:
    """Return a remark for each test file that the task module was trained or chosen on, and for each given twice.

    targets: language -> file. tasks: the task modules, whose records hold the sha256 of their data. Files are compared
    by content.
    """
    known: dict[str, str] = {}
    for info in tasks:
        for entry in info.training.get("data", []):
            if isinstance(entry, Mapping) and entry.get("sha256"):
                known.setdefault(str(entry["sha256"]), str(entry.get("path")))
    found: list[str] = []
    first: dict[str, str] = {}
    for language, path in targets.items():
        mark = file_sha256(path) or path
        if mark in known:
            found.append(
                f"{language}: the test set {path} is a file that the task module was trained or chosen on "
                f"({known[mark]}): its scores say nothing about new text"
            )
        if (other := first.setdefault(mark, language)) != language:
            found.append(f"{other} and {language} have the same test set, {path}: its sentences count twice")
    return found


def warn_of_equal_files(sources: Mapping[str, tuple[str, str]]) -> None:
    """Warn of development data that are the training data of a source language. sources: language -> (train, dev)."""
    trained = {file_sha256(train) or train: train for train, _ in sources.values()}
    for language, (_, dev) in sources.items():
        if (mark := file_sha256(dev) or dev) in trained:
            log.warning(
                "%s: the development data %s are the training data %s: the best weights are then those that know the "
                "training data by heart. Give other sentences as dev.",
                language,
                dev,
                trained[mark],
            )


def remarks_on_types(name: str, sentences: Sequence[Sentence], labels: LabelSet) -> list[str]:
    """Return a remark if sentences lack a type that the labels have; `name` says which sentences."""
    return _on_types({name: list(sentences)}, labels)


def _on_types(data: Mapping[str, list[Sentence]], labels: LabelSet) -> list[str]:
    """Remarks on types that the module predicts and a test set lacks, one for the languages that lack the same."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for language, sentences in data.items():
        present = {tag[2:] for s in sentences for tag in s.tags if tag != "O"}
        if types := tuple(t for t in labels.types if t not in present):
            lacking.setdefault(types, []).append(language)
    return [
        f"no {' or '.join(types)} in the gold tags of {', '.join(languages)}, but the module predicts it: there each "
        f"prediction of it counts as false (columns.ignore=[{', '.join(types)}] leaves it out)"
        for types, languages in lacking.items()
    ]


def _on_ignored(read: Mapping[str, list[Sentence]], labels: LabelSet, columns: Columns) -> list[str]:
    """Remarks on the types that are left out: how many gold entities, and whether the module predicts them.

    read: the sentences with their types as in the files.
    """
    if not columns.ignore:
        return []
    remarks = []
    predicted = [t for t in labels.types if {t, columns.map.get(t, t)} & set(columns.ignore)]
    for language, sentences in read.items():
        counts = Counter(kind for s in sentences for kind, _, _ in spans(s.tags, "lenient"))
        gone = {kind: n for kind, n in counts.items() if {kind, columns.map.get(kind, kind)} & set(columns.ignore)}
        listed = ", ".join(f"{kind} {count:,}" for kind, count in sorted(gone.items()))
        remarks.append(f"{language}: gold entities left out of the scores by columns.ignore: {listed or 'none'}")
    if predicted:
        remarks.append(f"predictions of {', '.join(predicted)} are left out of the scores by columns.ignore")
    lacking = [kind for kind in columns.ignore if kind not in labels.types]
    if lacking:
        remarks.append(f"the module does not predict {', '.join(lacking)}, which columns.ignore leaves out")
    return remarks


def _on_unknown(read: Mapping[str, list[Sentence]], labels: LabelSet, columns: Columns) -> list[str]:
    """A remark on types that the settings name and nothing has, neither a test set nor the module: misspelt ones."""
    known = {*labels.types, *(tag[2:] for sentences in read.values() for s in sentences for tag in s.tags)}
    ignored = [kind for kind in columns.ignore if kind not in known | set(columns.map.values())]
    found = {"columns.ignore": ignored, "columns.map": [kind for kind in columns.map if kind not in known]}
    return [
        f"{setting} names {', '.join(kinds)}, which neither a test set nor the module has; "
        f"{did_you_mean(kinds[0], known - {''})}"
        for setting, kinds in found.items()
        if kinds
    ]


def _on_stray(data: Mapping[str, list[Sentence]], scoring: Scoring) -> list[str]:
    """Remarks on gold tags I- that continue nothing; only data that are read as they are (scheme null) have them."""
    if scoring == "lenient":
        return []
    counts = {language: sum(stray(s.tags) for s in sentences) for language, sentences in data.items()}
    return [
        f"{language}: {count:,} gold spans begin with I- and are no entities in the strict reading (set "
        "columns.scheme=auto, or scoring=lenient)"
        for language, count in counts.items()
        if count
    ]
