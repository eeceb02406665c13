"""Inspection of a corpus and of labelled data as a tokenizer sees them, before hours are spent on training."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from madx.base import load_tokenizer
from madx.base.fingerprints import tokenizer_fingerprint
from madx.data.inspect.labels import LabelReport, inspect_labels
from madx.data.inspect.overlap import Overlap, SentenceIndex
from madx.data.inspect.text import TextReport, inspect_text
from madx.data.labelled.sentences import Sentence
from madx.data.text.corpora import corpus_files, read_corpus
from madx.errors import ConfigError
from madx.files.reasons import reason
from madx.files.writing import write_named
from madx.jobs.common import versions
from madx.jobs.keywords import takes_keywords
from madx.jobs.labelled import Columns, file_sha256, read_labelled, task_type
from madx.jobs.settings import Corpus, DataSettings, LabelledData
from madx.jobs.train_language import recipe_steps

FORMAT, VERSION = "madx inspection", 1
#: the labelled set that others may be compared with, and that may well occur in a corpus
TRAIN = "train"
#: passes over a corpus above which more text would serve better than more steps
MANY_PASSES = 200


class Inspect(DataSettings):
    """Settings of `madx inspect`."""

    TEXTS = ("corpus",)
    LABELLED = ("data",)

    base: str = Field(description="Folder or id of the base whose tokenizer is used; its weights are not loaded.")
    revision: str | None = Field(default=None, description="Commit, tag or branch of a downloaded base.")
    corpus: Corpus | None = Field(
        default=None,
        description="Raw text: .txt or .jsonl files, also packed (.gz, .bz2, .xz), a folder of them, or "
        "datasets:NAME[:CONFIG][:SPLIT]. In Python also texts in memory.",
    )
    data: dict[str, LabelledData] = Field(
        default={},
        description="Name of a set (train, dev, swa ...) -> labelled data. In Python also sentences in memory.",
    )
    task: str = Field(default="ner", description="The task of the labelled data: one of `madx tasks`.")
    columns: Columns = Field(default=Columns(), description="How the labelled files are read.")
    text_key: str = Field(default="text", description="Key of the text in JSON lines and data sets.")
    limit: int | None = Field(default=None, ge=1, description="Lines or documents of the corpus read at most.")
    block_size: int = Field(default=256, ge=8, description="Tokens in a block of packed text, for the recipe.")
    batch_size: int = Field(default=64, ge=1, description="Blocks in a step, for the recipe.")
    max_length: int = Field(default=256, ge=8, description="Tokens of a window at most, for labelled sentences.")


@dataclass(frozen=True)
class Recipe:
    """A corpus in the terms of the MAD-X recipe: blocks, steps by its size, and the passes over it that these make."""

    block_size: int
    batch_size: int
    blocks: int
    steps: int
    passes: float


@dataclass(frozen=True)
class Inspection:
    """The findings: of the corpus, of each labelled set, and of sentences that two of them share.

    pieces: size of the tokenizer's vocabulary; files: path -> sha256; warnings: those of all reports, and of leakage.
    """

    base: str
    tokenizer: str
    pieces: int
    corpus: TextReport | None = None
    recipe: Recipe | None = None
    data: dict[str, LabelReport] = field(default_factory=dict)
    overlaps: list[Overlap] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)

    def to_json(self) -> str:
        """All findings as JSON text; floats are rounded to six digits after the point."""
        head = {"format": FORMAT, "version": VERSION, "versions": versions()}
        return json.dumps(_rounded(head | asdict(self)), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


@takes_keywords(Inspect)
def inspect(settings: Inspect) -> Inspection:
    """Inspect a corpus, labelled sets, or both with the leakage between them.

    The settings come as `Inspect` or as keywords of the same names. Raises MadxError for bad input.
    """
    if settings.corpus is None and not settings.data:
        raise ConfigError("nothing to inspect: give a corpus, labelled data (data.NAME=PATH), or both.")
    task = task_type(settings.task)
    # first, so that a missing corpus is reported before anything is read
    files = {} if settings.corpus is None else {f.path: f.sha256 for f in corpus_files(settings.corpus)}
    sets: dict[str, Sequence[Sentence]] = {
        name: read_labelled(path, settings.columns, task, checked=False) for name, path in settings.data.items()
    }
    tokenizer = load_tokenizer(settings.base, revision=settings.revision)
    index = SentenceIndex(sets)
    corpus = recipe = None
    if settings.corpus is not None:
        texts = read_corpus(settings.corpus, text_key=settings.text_key, limit=settings.limit)
        corpus = inspect_text(texts, tokenizer, watch=index.look if sets else None)
        recipe = _recipe(corpus, settings)
    data = {
        name: inspect_labels(
            sentences,
            tokenizer,
            path=settings.data[name],
            inventory=task.inventory,
            scheme=settings.columns.scheme or "auto",
            max_length=settings.max_length,
        )
        for name, sentences in sets.items()
    }
    overlaps = [*(index.seen("the corpus") if corpus else []), *index.between()]
    warnings = [f"corpus: {w}" for w in corpus.warnings] if corpus else []
    warnings += _recipe_warnings(recipe) if recipe else []
    warnings += [f"{name}: {w}" for name, report in data.items() for w in report.warnings]
    warnings += _label_warnings(data) + _overlap_warnings(overlaps)
    return Inspection(
        base=settings.base,
        tokenizer=tokenizer_fingerprint(tokenizer),
        pieces=len(tokenizer),
        corpus=corpus,
        recipe=recipe,
        data=data,
        overlaps=overlaps,
        warnings=warnings,
        files=files | {p: file_sha256(p) for p in settings.data.values()},
    )


def write_json(inspection: Inspection, path: str | Path) -> Path:
    """Write an inspection as JSON to a file; raises ConfigError when it cannot be written."""
    try:
        write_named(path, inspection.to_json().encode())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {reason(error)}. Name a file in a folder that can be written."
        ) from None
    return Path(path)


def _recipe(corpus: TextReport, settings: Inspect) -> Recipe:
    payload = settings.block_size - 2  # a block begins and ends with the tokenizer's marks
    tokens = corpus.tokens + corpus.lines  # one mark more between lines
    blocks, steps = tokens // payload, recipe_steps(corpus.tokens)
    return Recipe(
        settings.block_size, settings.batch_size, blocks, steps, steps * settings.batch_size / blocks if blocks else 0.0
    )


def _recipe_warnings(recipe: Recipe) -> list[str]:
    if not recipe.blocks:
        return [f"corpus: not one block of {recipe.block_size} tokens: add text, or set a smaller block_size."]
    if recipe.passes > MANY_PASSES:
        return [
            f"corpus: the recipe's {recipe.steps:,} steps are {recipe.passes:,.0f} passes over so small a corpus. Add "
            f"text, or train for fewer steps ({max(1, 50 * recipe.blocks // recipe.batch_size):,} are 50 passes) and "
            "follow the held-out score."
        ]
    return []


def _label_warnings(data: dict[str, LabelReport]) -> list[str]:
    """Warnings of labels that the training set lacks: a module trained on it cannot give them."""
    if TRAIN not in data:
        return []
    known, found = data[TRAIN].labels, []
    for name, report in data.items():
        lacking = [label for label in report.labels if label not in known]
        if lacking:
            found.append(
                f"{name}: labels that {TRAIN} does not have: {', '.join(lacking)}. A module trained on it never gives "
                f"them: rename them, or read types of spans as O with columns.ignore=[{', '.join(lacking)}]."
            )
    return found


def _overlap_warnings(overlaps: list[Overlap]) -> list[str]:
    found = []
    for o in overlaps:
        if not o.found or o.data == TRAIN and o.source == "the corpus":
            continue
        shown = ", ".join(map(str, o.lines[:5])) + (" ..." if len(o.lines) > 5 else "")
        found.append(
            f"{o.data}: {o.found:,} of {o.of:,} sentences ({o.share:.1%}) stand in {o.source} too (lines {shown} of "
            f"its file): scores on them show memory, not transfer. Take them out of {o.source}, or evaluate without "
            "them."
        )
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, (list, tuple)) else value
