"""Part-of-speech tagging: one universal tag (UPOS) for each word (Petrov et al. 2012; Universal Dependencies v2).

Score: accuracy over words; and macro F1, the mean over tags, in which rare ones weigh as much as nouns.
"""

from collections.abc import Sequence

from madx.data.labelled.conll import Sentence
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.tags import Inventory
from madx.metrics.scores import WordScores, word_scores
from madx.tasks.base import TASKS
from madx.tasks.token_classification import TokenClassification

UPOS = Inventory(
    "UPOS",
    (
        "ADJ",
        "ADP",
        "ADV",
        "AUX",
        "CCONJ",
        "DET",
        "INTJ",
        "NOUN",
        "NUM",
        "PART",
        "PRON",
        "PROPN",
        "PUNCT",
        "SCONJ",
        "SYM",
        "VERB",
        "X",
    ),
    {"CONJ": "CCONJ", "PRT": "PART", ".": "PUNCT"},  # UD v1, and the twelve tags before it
)


@TASKS.register("pos")
class POS(TokenClassification):
    """Parts of speech, the 17 of UPOS, from CoNLL-U or plain columns; the metric is accuracy in percent points."""

    metric = "accuracy"
    inventory, dataset_column = UPOS, "upos"

    @classmethod
    def label_set(cls, sentences: Sequence[Sentence], *, source: str) -> LabelSet:
        """All of UPOS: a target language may use a tag that the training data of the source does not."""
        return LabelSet(UPOS.tags)

    @staticmethod
    def score(gold: Sequence[Sentence], predicted: Sequence[Sequence[str]]) -> WordScores:
        return word_scores([list(s.tags) for s in gold], [list(p) for p in predicted])
