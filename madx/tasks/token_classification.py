"""Token classification: a label for each word, read at the word's first piece. NER is one such task (`madx/tasks/ner.py`)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from madx.data.labelled.batches import batches, collate, merge_predictions
from madx.data.labelled.conll import Sentence
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.tags import Inventory
from madx.data.labelled.windows import Row, encode_words
from madx.data.text.masking import IGNORED
from madx.engine import Engine
from madx.engine.entropy_mixing import EntropyMixing
from madx.engine.explanation import Explanation, RouteExplanation
from madx.errors import DataError
from madx.tasks.base import Batch, Task

#: tokens, padding included, of a batch in prediction; a CPU is as fast with few, which leave less padding in a small set
PREDICTION_TOKENS = {"cpu": 1024, "cuda": 16384}
#: the same where gradients are needed: the forward pass then keeps what the backward pass reads
MIXING_TOKENS = 1024


class TokenClassification(Task):
    """Labelled sentences, batched by length; long sentences are windowed, every word is predicted once.

    batch_size: rows of a global batch, or tokens_per_batch: rows times the longest row's tokens; max_length: tokens of a
    window at most; micro_batch: rows computed at once (None: all);
    train_branches, dev_branches: under a route, the number of each sentence's branch.
    """

    higher_is_better, repeats = True, True
    #: the tags that may occur, for plain labels; None: spans in IOB2, of any types
    inventory: ClassVar[Inventory | None] = None
    #: the column of the tags in data sets of the `datasets` library
    dataset_column: ClassVar[str] = "ner_tags"

    @classmethod
    def label_set(cls, sentences: Sequence[Sentence], *, source: str) -> LabelSet:
        """The labels of a module that is trained on these sentences; `source` names them in errors."""
        return LabelSet.from_sentences(sentences, source=source)

    def __init__(
        self,
        tokenizer,
        labels: LabelSet,
        *,
        train: Sequence[Sentence] = (),
        dev: Sequence[Sentence] = (),
        max_length: int,
        batch_size: int | None = 16,
        tokens_per_batch: int | None = None,
        micro_batch: int | None = None,
        seed: int = 0,
        train_branches: Sequence[int] | None = None,
        dev_branches: Sequence[int] | None = None,
    ):
        self.tokenizer, self.labels, self.max_length = tokenizer, labels, max_length
        self.train_rows = encode_words(tokenizer, train, labels, max_length=max_length)
        self.train_branches = _for_each(train, train_branches)
        self.dev_branches = _for_each(dev, dev_branches)
        self.dev, self.dev_rows = list(dev), encode_words(tokenizer, dev, labels, max_length=max_length)
        self.sizes = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch}
        self.micro_batch, self.seed = micro_batch, seed
        self._starts = [0]  # the first step of each epoch, found as far as needed: a token budget makes epochs differ
        self._epoch: tuple[int, list[list[int]]] | None = None

    def _batches_of_epoch(self, epoch: int) -> list[list[int]]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, batches(self.train_rows, **self.sizes, seed=self.seed, epoch=epoch)
        return self._epoch[1]

    def steps(self, epochs: int) -> int:
        """Optimiser steps in a number of epochs."""
        while len(self._starts) <= epochs:
            self._starts.append(self._starts[-1] + len(self._batches_of_epoch(len(self._starts) - 1)))
        return self._starts[epochs]

    def batches(self, step: int, *, process_index: int = 0, process_count: int = 1) -> list[Batch]:
        if not self.train_rows:
            raise DataError("There are no sentences to train on: the training data is empty.")
        epoch = 0
        while self.steps(epoch + 1) <= step:
            epoch += 1
        rows = self._batches_of_epoch(epoch)[step - self._starts[epoch]][process_index::process_count]
        size = self.micro_batch or max(len(rows), 1)
        parts = [[self.train_rows[i] for i in rows[a : a + size]] for a in range(0, len(rows), size)]
        return [self._collate(part, self.train_branches) for part in parts]

    def _collate(self, rows: list[Row], branches: Sequence[int] | None = None) -> Batch:
        batch = collate(rows, self.tokenizer.pad_token_id)
        if branches is not None:
            batch["branches"] = torch.tensor([branches[row.sentence] for row in rows], dtype=torch.int64)
        return batch

    def count(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, engine: Engine, batch: Batch) -> Tensor:
        labels = batch["labels"]
        logits = word_logits(engine, batch)
        return F.cross_entropy(logits, labels[batch["first"] >= 0], reduction="sum", ignore_index=IGNORED)

    def rows_of(self, sentences: Sequence) -> list[Row]:
        """The rows of sentences without labels: what `predict` reads; keep them to predict the same sentences again."""
        return encode_words(self.tokenizer, sentences, None, max_length=self.max_length)

    @torch.no_grad()
    def predict(
        self,
        engine: Engine,
        sentences: Sequence,
        *,
        rows: list[Row] | None = None,
        mixing: EntropyMixing | None = None,
        branches: Sequence[int] | None = None,
    ) -> list[list[str]]:
        """A tag for each word of each sentence (anything with `.tokens`), by the active composition; with `mixing`, under
        weights of its average that are moved for each sentence; under a route by each sentence's own branch, sentences of
        all branches in the same batches. rows: those of `rows_of` the sentences, where they are known."""
        rows = self.rows_of(sentences) if rows is None else rows
        branches = _for_each(sentences, branches)
        tags: list[list[str]] = [[] for _ in rows]
        limit = PREDICTION_TOKENS.get(engine.base.device.type, 4096)
        scores, tokens = (word_logits, limit) if mixing is None else (mixing, MIXING_TOKENS)
        groups = [range(len(rows))] if branches is None else engine.groups([branches[row.sentence] for row in rows])
        for group in groups:
            for places in batches([rows[i] for i in group], tokens_per_batch=tokens, shuffle=False):
                chosen = [group[place] for place in places]
                batch = self._collate([rows[i] for i in chosen], branches)
                batch = {k: v.to(engine.base.device) for k, v in batch.items()}
                best = iter(scores(engine, batch).argmax(-1).tolist())
                for i in chosen:
                    tags[i] = self.labels.decode(next(best) for _ in rows[i].first)
        return merge_predictions(rows, tags, sentences)

    def explain(
        self, engine: Engine, sentences: Sequence, *, branches: Sequence[int] | None = None
    ) -> Explanation | RouteExplanation:
        """The engine's explanation of the active composition, measured on some sentences."""
        rows = self.rows_of(sentences)
        batch = {k: v.to(engine.base.device) for k, v in self._collate(rows, _for_each(sentences, branches)).items()}
        return engine.explain(batch["input_ids"], batch["attention_mask"], branches=batch.get("branches"))

    def evaluate(self, engine: Engine) -> dict[str, float]:
        return self.score(
            self.dev, self.predict(engine, self.dev, rows=self.dev_rows, branches=self.dev_branches)
        ).summary()

    @staticmethod
    @abstractmethod
    def score(gold: Sequence[Sentence], predicted: Sequence[Sequence[str]]):
        """Scores of predictions; an object whose `summary()` is a dict of figures with `metric` among them."""


def word_logits(engine: Engine, batch: Batch) -> Tensor:
    """Scores `(words of the batch, labels)` in float32, read at each word's first piece, row after row."""
    branches = batch.get("branches")
    rows, words = (batch["first"] >= 0).nonzero(as_tuple=True)
    at = rows, batch["first"][rows, words]
    hidden = engine(batch["input_ids"], batch["attention_mask"], at=at, branches=branches)
    return engine.label_logits(hidden, branches=None if branches is None else branches[rows]).float()


def _for_each(sentences: Sequence, branches: Sequence[int] | None) -> Sequence[int] | None:
    """The branches, if there is one for each sentence."""
    if branches is not None and len(branches) != len(sentences):
        raise DataError(f"{len(branches)} branches for {len(sentences)} sentences: give one for each.")
    return branches
