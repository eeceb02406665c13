"""Masked language modelling, the task of language modules.

Loss: the mean over the masked tokens of -log p(token). The head and its softmax over the vocabulary run at the masked
positions only, 15 % of all. The loss is the same as with all positions, but the head over all positions of XLM-R costs
2.3 times as much as the encoder.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from madx.data.text.block_batches import BlockBatches
from madx.data.text.blocks import Blocks
from madx.data.text.frequencies import piece_probabilities
from madx.data.text.masking import IGNORED, mask_tokens, row_seed
from madx.engine import Engine
from madx.errors import BaseError
from madx.tasks.base import Batch, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: fixes the held-out masks: every evaluation of every run on the same blocks hides the same tokens
HELD_OUT_SEED = 20_200_501
SCORED = 256  # positions scored at once in evaluation: 256 MB of logits over the vocabulary of XLM-R


class MaskedLM(Task):
    """Packed blocks of one language, with new masks in each step of training and fixed masks in evaluation.

    batch_size: blocks in a global batch. micro_batch: blocks computed at once by one process; by default all of them.
    probability: the share of tokens to predict. held_out_limit: blocks that are evaluated at most.

    Raises BaseError for a tokenizer without a mask token.
    """

    metric, higher_is_better = "perplexity", False

    def __init__(
        self,
        blocks: Blocks,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        micro_batch: int | None = None,
        seed: int = 0,
        probability: float = 0.15,
        held_out_limit: int = 200,
    ):
        if tokenizer.mask_token_id is None:
            raise BaseError(
                f"The tokenizer {type(tokenizer).__name__} has no mask token, which masked language modelling needs. "
                "Take a base that was trained by masked language modelling."
            )
        self.blocks, self.tokenizer = blocks, tokenizer
        self.batch_size, self.micro_batch, self.seed = batch_size, micro_batch or batch_size, seed
        self.probability, self.held_out_limit = probability, held_out_limit
        self._streams: dict[tuple[int, int], BlockBatches] = {}

    def _mask(self, ids: np.ndarray, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        tokenizer = self.tokenizer
        return mask_tokens(
            torch.from_numpy(ids),
            seeds=seeds,
            mask_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            special_ids=tokenizer.all_special_ids,
            probability=self.probability,
        )

    def _held_out(self) -> tuple[Tensor, Tensor]:
        rows = min(len(self.blocks.held_out), self.held_out_limit)
        return self._mask(self.blocks.held_out[:rows], row_seed(HELD_OUT_SEED, 0, np.arange(rows)))

    def frequencies(self, vocabulary: int) -> np.ndarray:
        """Return p(piece) in the blocks to train on, float64 `(vocabulary,)`."""
        return piece_probabilities(self.blocks.train, vocabulary, special_ids=self.tokenizer.all_special_ids)

    def frequency_loss(self, vocabulary: int) -> float:
        """Return the loss on the held-out tokens of a model that knows the frequencies of pieces and no context."""
        labels = self._held_out()[1].numpy()
        return float(-np.log(self.frequencies(vocabulary)[labels[labels != IGNORED]]).mean())

    def batches(self, step: int, *, process_index: int = 0, process_count: int = 1) -> list[Batch]:
        key = process_index, process_count
        if key not in self._streams:
            self._streams[key] = BlockBatches(
                len(self.blocks),
                batch_size=self.batch_size,
                seed=self.seed,
                process_index=process_index,
                process_count=process_count,
            )
        share = self._streams[key].share_of_step(step)
        ids, labels = self._mask(self.blocks[share.blocks], row_seed(self.seed, step, share.rows))
        return self._cut(ids, labels)

    def _cut(self, ids: Tensor, labels: Tensor) -> list[Batch]:
        pairs = zip(ids.split(self.micro_batch), labels.split(self.micro_batch))
        return [{"input_ids": ids, "labels": labels} for ids, labels in pairs]

    def count(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def scores(self, engine: Engine, batch: Batch) -> Tensor:
        """Return the logits `(masked tokens, vocabulary)` at the masked positions, row after row, in float32."""
        hidden, _, branches = self._masked(engine, batch)
        return engine.mlm_logits(hidden, branches=branches).float()

    def loss(self, engine: Engine, batch: Batch) -> Tensor:
        """Return the sum of the cross entropies of `scores`, computed in a third of their memory (see the engine)."""
        hidden, targets, branches = self._masked(engine, batch)
        return engine.mlm_loss(hidden, targets, branches=branches)

    def _masked(self, engine: Engine, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run the encoder.

        Returns the last layer's output `(masked, width)`, the targets `(masked,)`, and under a route the branches
        `(masked,)`.
        """
        rows, columns = (batch["labels"] != IGNORED).nonzero(as_tuple=True)
        branches = batch.get("branches")
        hidden = engine(batch["input_ids"], at=(rows, columns), branches=branches)
        return hidden, batch["labels"][rows, columns], None if branches is None else branches[rows]

    @torch.no_grad()
    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return the figures on the held-out blocks.

        loss: the mean over the masked tokens; perplexity: exp(loss), the pseudo-perplexity; accuracy: the share (0..1)
        of masked tokens for which the most probable token is the right one.
        """
        ids, labels = self._held_out()
        loss = right = count = 0.0
        for batch in self._cut(ids, labels):
            batch = {k: v.to(engine.base.device) for k, v in batch.items()}
            hidden, targets, branches = self._masked(engine, batch)
            for start in range(0, len(targets), SCORED):
                here = slice(start, start + SCORED)
                logits = engine.mlm_logits(hidden[here], branches=None if branches is None else branches[here]).float()
                loss += F.cross_entropy(logits, targets[here], reduction="sum").item()
                right += (logits.argmax(-1) == targets[here]).sum().item()
            count += len(targets)
        mean = loss / count
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "accuracy": right / count}
