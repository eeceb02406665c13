"""The masked-LM head that a language module is trained with: which one, and signs that it was never trained."""

import logging
import math
from typing import Literal

from madx.base import Base
from madx.errors import StoreError
from madx.store import Store
from madx.tasks.masked_lm import MaskedLM

log = logging.getLogger("madx")

#: values of the setting `mlm_head`
HeadChoice = Literal["auto", "own", "trained"]
#: its description
MLM_HEAD = (
    "The masked-LM head: own, that of the base, even if the base is a discriminator; trained, that of madx train-head "
    "in the store; auto: the base's own, or the trained one where the base has none."
)


def choose_head(base: Base, store: Store, choice: HeadChoice) -> None:
    """Have the head of a setting `mlm_head` on the base.

    Raises BaseError where the base's own is asked for, or alone available, and cannot be a trained one; StoreError
    where the trained one is missing or damaged.
    """
    if choice == "own":
        if base.mlm_head.fault is not None:
            base.mlm_head.trust()
            log.warning("The masked-LM head of %s is used as it is (mlm_head: own), trained or not.", base.label)
    elif choice == "trained" or not base.has_mlm_head:
        if store.put_head(base) is None and choice == "trained":
            raise StoreError(
                f"The store {store.root} holds no masked-LM head for the base {base.name}. Train one: madx train-head "
                f"--base {base.name} --store {store.root} --corpus LANG=TEXT.txt; or set mlm_head to auto or own."
            )
    base.require_mlm_head()


def head_to_use(base: Base, store: Store, choice: HeadChoice) -> str | None:
    """The sha256 of the stored head that `choose_head` would put on a base; None: the base's own, or there is none."""
    if choice == "own" or choice == "auto" and base.has_mlm_head:
        return None
    row = store.head(base)
    return row.record.weights.sha256 if row is not None and row.record is not None else None


def head_record(base: Base) -> dict[str, str]:
    """The part of a training's record that names the head on the base, if that is one of `madx train-head`."""
    return {} if base.mlm_head.sha256 is None else {"mlm_head": base.mlm_head.sha256}


def doubts(base: Base, task: MaskedLM, before: dict[str, float]) -> list[str]:
    """Log and give the signs that the masked-LM head of a base was never trained, in its scores without a module.

    before: `task.evaluate` on the bare base. The loss of a guess among all V pieces is ln V; a model that knows the
    frequencies of pieces alone comes far below it.
    """
    vocabulary = int(base.config.vocab_size)
    frequencies = task.frequency_loss(vocabulary)
    level = (
        f"The base {base.label} without a module predicts the held-out text at a perplexity of "
        f"{before['perplexity']:,.0f}"
    )
    found = []
    if before["loss"] > math.log(vocabulary / 2):
        found.append(
            f"{level}, where a blind guess among its {vocabulary:,} pieces gives {vocabulary:,}: its masked-LM head "
            "was probably never trained (random weights, or those of a discriminator), and a module learns little of "
            f"use from it. Take a base with a trained head; or train one, madx train-head --base {base.name} --corpus "
            "LANG=TEXT.txt, and use it by mlm_head: trained."
        )
    elif before["loss"] > frequencies:
        found.append(
            f"{level}, worse than the frequencies of the pieces of this corpus alone ({math.exp(frequencies):,.0f}). "
            "Either the base never saw this language or script, or its masked-LM head is not a trained one: see what "
            "it reaches on text of a language that it knows. If it is as bad there, train a head (madx train-head) and "
            "use it by mlm_head: trained."
        )
    for text in found:
        log.warning("%s", text)
    return found
