"""Token classification: one label for each word, predicted from the pieces that the task module's pooling reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from madx.data.labelled.batches import batches, collate, merge_predictions
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import HasTokens, Sentence
from madx.data.labelled.spans import Scoring, check_scoring
from madx.data.labelled.tags import Inventory
from madx.data.labelled.windows import Row, encode_words
from madx.data.text.masking import IGNORED
from madx.engine import Engine
from madx.engine.entropy_mixing import EntropyMixing
from madx.engine.explanation import Explanation, RouteExplanation
from madx.errors import DataError
from madx.module.pooling import FIRST, Pooling
from madx.tasks.base import Batch, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from madx.metrics.scores import EntityScores, WordScores

#: tokens in a batch of prediction, with padding; a CPU is as fast with few, and a small set then has less padding
PREDICTION_TOKENS = {"cpu": 1024, "cuda": 16384}
#: tokens in a batch that needs gradients, since its forward pass keeps what the backward pass reads
MIXING_TOKENS = 1024


class TokenClassification(Task):
    """Labelled sentences, batched by length. Long sentences have several windows, and each word is predicted once.

    labels: the tags that the head predicts. train, dev: sentences to train on and to evaluate on.
    max_length: tokens of a window at most.
    batch_size, tokens_per_batch: rows of a global batch, or rows times the tokens of the longest row; one of the two.
    micro_batch: rows computed at once by one process; by default all of them.
    train_branches, dev_branches: under a route, the number of the branch of each sentence.
    scoring: how an I- that continues nothing is read in scores (see `madx.data.labelled.spans`).
    """

    higher_is_better, repeats = True, True
    #: the tags that may occur, for a task without spans; None: spans in IOB2 of any types
    inventory: ClassVar[Inventory | None] = None
    #: the column of the tags in data sets of the `datasets` library
    dataset_column: ClassVar[str] = "ner_tags"

    @classmethod
    def label_set(cls, sentences: Sequence[Sentence], *, source: str) -> LabelSet:
        """Return the labels of a module that is trained on these sentences; `source` is their name in messages."""
        return LabelSet.from_sentences(sentences, source=source)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
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
        scoring: Scoring = "strict",
    ):
        check_scoring(scoring)
        self.tokenizer, self.labels, self.max_length = tokenizer, labels, max_length
        self.train_rows = encode_words(tokenizer, train, labels, max_length=max_length)
        self.train_branches = _for_each(train, train_branches)
        self.dev_branches = _for_each(dev, dev_branches)
        self.dev, self.dev_rows = list(dev), encode_words(tokenizer, dev, labels, max_length=max_length)
        self.batch_size, self.tokens_per_batch = batch_size, tokens_per_batch
        self.micro_batch, self.seed, self.scoring = micro_batch, seed, scoring
        self._starts = [0]  # the first step of each epoch, as far as needed: epochs differ under tokens_per_batch
        self._epoch: tuple[int, list[list[int]]] | None = None

    def _batches_of_epoch(self, epoch: int) -> list[list[int]]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (
                epoch,
                batches(
                    self.train_rows,
                    batch_size=self.batch_size,
                    tokens_per_batch=self.tokens_per_batch,
                    seed=self.seed,
                    epoch=epoch,
                ),
            )
        return self._epoch[1]

    def steps(self, epochs: int) -> int:
        """Return the number of optimiser steps in a number of epochs."""
        while len(self._starts) <= epochs:
            self._starts.append(self._starts[-1] + len(self._batches_of_epoch(len(self._starts) - 1)))
        return self._starts[epochs]

    def batches(self, step: int, *, process_index: int = 0, process_count: int = 1) -> list[Batch]:
        if not self.train_rows:
            raise DataError("There are no sentences to train on: the training data is empty. Give some in `train`.")
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

    def scores(self, engine: Engine, batch: Batch) -> Tensor:
        """Return the logits `(words, labels)` in float32, see `word_logits`."""
        return word_logits(engine, batch)

    def targets(self, batch: Batch) -> Tensor:
        """Return the labels `(words,)`."""
        return batch["labels"][batch["first"] >= 0]

    def loss(self, engine: Engine, batch: Batch) -> Tensor:
        """Return the sum over the words of the cross entropy of `scores`."""
        return F.cross_entropy(self.scores(engine, batch), self.targets(batch), reduction="sum", ignore_index=IGNORED)

    def rows_of(self, sentences: Sequence[HasTokens]) -> list[Row]:
        """Return the rows of sentences without labels; `predict` need not make them again if it is given them."""
        return encode_words(self.tokenizer, sentences, None, max_length=self.max_length)

    def predict(
        self,
        engine: Engine,
        sentences: Sequence[HasTokens],
        *,
        rows: list[Row] | None = None,
        mixing: EntropyMixing | None = None,
        branches: Sequence[int] | None = None,
    ) -> list[list[str]]:
        """Return a tag for each word of each sentence, predicted by the active composition.

        sentences: anything with `.tokens`. rows: the result of `rows_of(sentences)`, if it is known.
        mixing: gives the logits, with the weights of an average adapted to each row (see `EntropyMixing`).
        branches: under a route, the number of the branch of each sentence; batches hold sentences of all branches.
        """
        scored = self.predict_scored(engine, sentences, rows=rows, mixing=mixing, branches=branches)
        return [[tag for tag, _ in words] for words in scored]

    @torch.no_grad()
    def predict_scored(
        self,
        engine: Engine,
        sentences: Sequence[HasTokens],
        *,
        rows: list[Row] | None = None,
        mixing: EntropyMixing | None = None,
        branches: Sequence[int] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return a tag and its probability p for each word of each sentence; the arguments are those of `predict`.

        With the logits z (labels,) of a word, p = max_i softmax(z)_i = max_i exp(z_i) / sum_j exp(z_j).
        """
        rows = self.rows_of(sentences) if rows is None else rows
        branches = _for_each(sentences, branches)
        tags: list[list[tuple[str, float]]] = [[] for _ in rows]
        limit = PREDICTION_TOKENS.get(engine.base.device.type, 4096)
        scores, tokens = (word_logits, limit) if mixing is None else (mixing, MIXING_TOKENS)
        groups = [range(len(rows))] if branches is None else engine.groups([branches[row.sentence] for row in rows])
        for group in groups:
            for places in batches([rows[i] for i in group], tokens_per_batch=tokens, shuffle=False):
                chosen = [group[place] for place in places]
                batch = self._collate([rows[i] for i in chosen], branches)
                batch = {k: v.to(engine.base.device) for k, v in batch.items()}
                logits = scores(engine, batch)
                best = logits.argmax(-1)
                chances = logits.softmax(-1).gather(-1, best[:, None])[:, 0]
                words = zip(self.labels.decode(best.tolist()), chances.tolist(), strict=True)
                for i in chosen:
                    tags[i] = [next(words) for _ in rows[i].first]
        return merge_predictions(rows, tags, sentences)

    def explain(
        self, engine: Engine, sentences: Sequence[HasTokens], *, branches: Sequence[int] | None = None
    ) -> Explanation | RouteExplanation:
        """Return the engine's explanation of the active composition, measured on some sentences."""
        rows = self.rows_of(sentences)
        batch = {k: v.to(engine.base.device) for k, v in self._collate(rows, _for_each(sentences, branches)).items()}
        return engine.explain(batch["input_ids"], batch["attention_mask"], branches=batch.get("branches"))

    def evaluate(self, engine: Engine) -> dict[str, float]:
        predicted = self.predict(engine, self.dev, rows=self.dev_rows, branches=self.dev_branches)
        return self.score(self.dev, predicted).summary()

    @abstractmethod
    def score(self, gold: Sequence[Sentence], predicted: Sequence[Sequence[str]]) -> EntityScores | WordScores:
        """Return the scores of predicted tags; `metric` is a figure in their `summary()`."""


def word_logits(engine: Engine, batch: Batch) -> Tensor:
    """Return the logits `(words of the batch, labels)` in float32, row after row.

    A word is read as the module says that predicts it, see `madx.module.pooling`; of the last layer only the states of
    the pieces that are read are needed. Under a route the rows of a batch may have different poolings.
    """
    branches = batch.get("branches")
    rows, _ = (batch["first"] >= 0).nonzero(as_tuple=True)
    vectors = _word_vectors(engine, batch)
    return engine.label_logits(vectors, branches=None if branches is None else branches[rows]).float()


def _word_vectors(engine: Engine, batch: Batch) -> Tensor:
    """Return the vectors `(words of the batch, width)` that the heads read, row after row."""
    branches, there = batch.get("branches"), batch["first"] >= 0
    rows, words = there.nonzero(as_tuple=True)
    first, sizes = batch["first"][rows, words], batch["pieces"][rows, words]
    groups = _groups_of_rows(engine.poolings(len(there), branches=branches))
    if len(groups) == 1:
        ((pooling, _),) = groups
        read = pooling.reads(first, sizes)
        at = rows[read.words], read.positions
        hidden = engine(batch["input_ids"], batch["attention_mask"], at=at, branches=branches)
        return pooling(hidden, read.words, len(rows))
    chosen = [torch.isin(rows, torch.tensor(of_group, device=rows.device)).nonzero()[:, 0] for _, of_group in groups]
    reads = [pooling.reads(first[c], sizes[c]) for (pooling, _), c in zip(groups, chosen, strict=True)]
    at = (
        torch.cat([rows[c][read.words] for c, read in zip(chosen, reads, strict=True)]),
        torch.cat([read.positions for read in reads]),
    )
    hidden = engine(batch["input_ids"], batch["attention_mask"], at=at, branches=branches)
    parts = hidden.split([len(read.words) for read in reads])
    vectors = [
        pooling(part, read.words, len(c))
        for (pooling, _), part, read, c in zip(groups, parts, reads, chosen, strict=True)
    ]
    return torch.cat(vectors)[torch.cat(chosen).argsort()]


def _groups_of_rows(poolings: Sequence[Pooling]) -> list[tuple[Pooling, list[int]]]:
    """Return the different poolings of a batch, each with its rows; one that reads first pieces for a batch of none."""
    groups: list[tuple[Pooling, list[int]]] = []
    for row, pooling in enumerate(poolings):
        of_group = next((rows for other, rows in groups if pooling.alike(other)), None)
        if of_group is None:
            groups.append((pooling, of_group := []))
        of_group.append(row)
    return groups or [(Pooling(FIRST, 0), [])]


def _for_each(sentences: Sequence[HasTokens], branches: Sequence[int] | None) -> Sequence[int] | None:
    """Return the branches, one for each sentence. Raises DataError if there are more or fewer."""
    if branches is not None and len(branches) != len(sentences):
        raise DataError(f"{len(branches)} branches for {len(sentences)} sentences: give one for each.")
    return branches
