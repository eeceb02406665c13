"""Part-of-speech tagging: one universal tag (UPOS) for each word (Petrov et al. 2012; Universal Dependencies v2).

Scores: the accuracy over words, and macro F1, the mean over tags, in which rare tags weigh as much as nouns.
"""

from collections.abc import Sequence

from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.tags import Inventory
from madx.metrics.scores import WordScores, word_scores
from madx.tasks.base import TASKS
from madx.tasks.token_classification import TokenClassification

UPOS = Inventory(
    "UPOS",
    tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()),
    {"CONJ": "CCONJ", "PRT": "PART", ".": "PUNCT"},  # tags of version 1, and of the twelve tags before it
)


@TASKS.register("pos")
class POS(TokenClassification):
    """The 17 parts of speech of UPOS, from CoNLL-U or plain columns. The metric is accuracy in percent points."""

    metric = "accuracy"
    inventory, dataset_column = UPOS, "upos"

    @classmethod
    def label_set(cls, sentences: Sequence[Sentence], *, source: str) -> LabelSet:
        """Return all tags of UPOS: a target language may use a tag that the training data of the source does not."""
        return LabelSet(UPOS.tags)

    def score(self, gold: Sequence[Sentence], predicted: Sequence[Sequence[str]]) -> WordScores:
        return word_scores([s.tags for s in gold], predicted)
