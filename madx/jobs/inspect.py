"""Job: look at a corpus and at labelled data as a tokenizer sees them, before hours are spent on them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import Field

from madx.base import load_tokenizer
from madx.base.fingerprints import tokenizer_fingerprint
from madx.config import Settings
from madx.data.inspect.labels import LabelReport, inspect_labels
from madx.data.inspect.overlap import Overlap, SentenceIndex
from madx.data.inspect.text import TextReport, inspect_text
from madx.data.text.corpora import corpus_files, read_corpus
from madx.errors import ConfigError
from madx.jobs.common import versions
from madx.jobs.train_language import recipe_steps
from madx.jobs.train_task import Columns, file_sha256, read_labelled
from madx.tasks import TASKS

FORMAT, VERSION = "madx inspection", 1
#: the labelled set that others may be compared with, and that may well occur in a corpus
TRAIN = "train"
#: passes over a corpus above which more text would serve better than more steps
MANY_PASSES = 200


class Inspect(Settings):
    """Settings of `madx inspect`."""

    base: str = Field(description="Folder or id of the base whose tokenizer is used; its weights are not loaded.")
    revision: str | None = Field(default=None, description="Commit, tag or branch of a downloaded base.")
    corpus: str | list[str] | None = Field(
        default=None,
        description="Raw text: .txt or .jsonl files, either with .gz after it, a folder of them, or datasets:NAME[:CONFIG][:SPLIT].",
    )
    data: dict[str, str] = Field(default={}, description="Name of a set (train, dev, swa ...) -> labelled data.")
    task: str = Field(default="ner", description="The task of the labelled data: one of `madx tasks`.")
    columns: Columns = Field(default=Columns(), description="How the labelled files are read.")
    text_key: str = Field(default="text", description="Key of the text in JSON lines and data sets.")
    limit: int | None = Field(default=None, ge=1, description="Lines or documents of the corpus read at most.")
    block_size: int = Field(default=256, ge=8, description="Tokens in a block of packed text, for the recipe.")
    batch_size: int = Field(default=64, ge=1, description="Blocks in a step, for the recipe.")
    max_length: int = Field(default=256, ge=8, description="Tokens of a window at most, for labelled sentences.")


@dataclass(frozen=True)
class Recipe:
    """The corpus in the terms of the MAD-X recipe: blocks, steps by corpus size, and passes over it that these make."""

    block_size: int
    batch_size: int
    blocks: int
    steps: int
    passes: float


@dataclass(frozen=True)
class Inspection:
    """All that was found; `warnings` gathers those of the parts, and leakage."""

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
        """All of it, for other programs; floats rounded to six digits after the point."""
        head = {"format": FORMAT, "version": VERSION, "versions": versions()}
        return json.dumps(_rounded(head | asdict(self)), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def inspect(settings: Inspect) -> Inspection:
    """Inspect a corpus, labelled sets, or both with the leakage between them. Raises MadxError for bad input."""
    if settings.corpus is None and not settings.data:
        raise ConfigError("nothing to inspect: give a corpus, labelled data (data.NAME=PATH), or both.")
    task = TASKS.get(settings.task)
    files = (
        {} if settings.corpus is None else {f.path: f.sha256 for f in corpus_files(settings.corpus)}
    )  # a missing one is told first
    sets = {name: read_labelled(path, settings.columns, task, checked=False) for name, path in settings.data.items()}
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
    """Write the JSON to a file; raises ConfigError when it cannot be written."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(inspection.to_json(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror or error}. Name a file in a folder that can be written."
        ) from None
    return Path(path)


def _recipe(corpus: TextReport, settings: Inspect) -> Recipe:
    payload = settings.block_size - 2  # a block begins and ends with the tokenizer's marks
    tokens = corpus.tokens + corpus.lines  # and a mark stands between lines
    blocks, steps = tokens // payload, recipe_steps(corpus.tokens)
    return Recipe(
        settings.block_size, settings.batch_size, blocks, steps, steps * settings.batch_size / blocks if blocks else 0.0
    )


def _recipe_warnings(recipe: Recipe) -> list[str]:
    if not recipe.blocks:
        return [f"corpus: not one block of {recipe.block_size} tokens: add text, or set a smaller block_size."]
    if recipe.passes > MANY_PASSES:
        return [
            f"corpus: the recipe's {recipe.steps:,} steps are {recipe.passes:,.0f} passes over so small a corpus. Add text, or train for fewer "
            f"steps ({max(1, 50 * recipe.blocks // recipe.batch_size):,} are 50 passes) and follow the held-out score."
        ]
    return []


def _label_warnings(data: dict[str, LabelReport]) -> list[str]:
    """Labels that the training set lacks: a module trained on it cannot give them."""
    if TRAIN not in data:
        return []
    known, found = data[TRAIN].labels, []
    for name, report in data.items():
        lacking = [label for label in report.labels if label not in known]
        if lacking:
            found.append(
                f"{name}: labels that {TRAIN} does not have: {', '.join(lacking)}. A module trained on it never gives them: rename them, "
                f"or read types of spans as O with columns.ignore=[{', '.join(lacking)}]."
            )
    return found


def _overlap_warnings(overlaps: list[Overlap]) -> list[str]:
    found = []
    for o in overlaps:
        if not o.found or o.data == TRAIN and o.source == "the corpus":
            continue
        shown = ", ".join(map(str, o.lines[:5])) + (" ..." if len(o.lines) > 5 else "")
        found.append(
            f"{o.data}: {o.found:,} of {o.of:,} sentences ({o.share:.1%}) stand in {o.source} too (lines {shown} of its file): scores on "
            f"them show memory, not transfer. Take them out of {o.source}, or evaluate without them."
        )
    return found


def _rounded(value):
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, (list, tuple)) else value
