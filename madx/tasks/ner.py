"""Named entity recognition: tags in IOB2, scored by whole entities (CoNLL 2003; `madx.data.labelled.spans`)."""

from collections.abc import Sequence

from madx.data.labelled.sentences import Sentence
from madx.metrics.scores import EntityScores, entity_scores
from madx.tasks.base import TASKS
from madx.tasks.token_classification import TokenClassification


@TASKS.register("ner")
class NER(TokenClassification):
    """Entities of types such as PER, ORG, LOC. The metric is entity F1 in percent points."""

    metric = "f1"

    def score(self, gold: Sequence[Sentence], predicted: Sequence[Sequence[str]]) -> EntityScores:
        return entity_scores([s.tags for s in gold], predicted, scoring=self.scoring)
