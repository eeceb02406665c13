import pytest
import tiny
import torch

from madx.data.labelled.conll import Sentence
from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.engine.entropy_mixing import EntropyMixing
from madx.errors import CompositionError
from madx.module import new_module
from madx.tasks.ner import NER
from madx.tasks.token_classification import word_logits

LABELS = ("O", "B-PER", "I-PER", "B-LOC")
SENTENCES = [
    Sentence(tuple(text.split()), ("O",) * len(text.split()))
    for text in (
        "Anna lives in the city",
        "Juma works for a river",
        "Omar",
        "the teacher said Maria was from the market and lives with Omar",
    )
]


def made_engine(family):
    made = Engine(tiny.base(family))
    for i, name in enumerate(("swa", "hau", "yor")):
        made.attach(tiny.wake(new_module(name, made.base, language=name, components="madx"), seed=i, std=0.15))
    made.attach(
        tiny.wake(
            new_module("ner", made.base, role="task", components="pfeiffer", task="ner", labels=LABELS), seed=9, std=0.3
        )
    )
    made.activate("average(swa, hau, yor) + ner")
    return made


@pytest.fixture(scope="module", params=["xlm-roberta", "modernbert"])
def engine(request):
    return made_engine(request.param)


@pytest.fixture(scope="module")
def task():
    return NER(tiny.tokenizer(), LabelSet(LABELS), max_length=40)


def batch(task, sentences=SENTENCES):
    from madx.data.labelled.windows import encode_words

    return task._collate(encode_words(task.tokenizer, sentences, None, max_length=40))


def rows_entropy(engine, task, mixing, logits):
    with torch.no_grad():
        return mixing.entropy(engine, batch(task), logits)


def test_entropy_falls_and_weights_sum_to_one(engine, task):
    mixing = EntropyMixing(engine, word_logits, steps=10, rate=1.0)
    mixing(engine, batch(task))
    found = mixing.summary()
    assert found["entropy_after"] < found["entropy_before"] and mixing.rows == 4
    assert sum(found["weights"].values()) == pytest.approx(1) and list(found["weights"]) == ["swa", "hau", "yor"]
    assert all(
        w.shape == (3, 4, 1, 1) and torch.allclose(w.sum(0), torch.ones(4, 1, 1))
        for w in (s.weights for s in mixing._mixed)
    )
    assert len(mixing._mixed) == 1 + engine.base.depth  # the embeddings and every layer have weights of their own
    spread = torch.stack([s.weights for s in mixing._mixed]).std(dim=(0, 2))
    assert spread.max() > 1e-3  # and so has every sentence


def exact_scores(engine, batch):
    """Compute `word_logits` in the base's own precision."""
    hidden = engine(batch["input_ids"], batch["attention_mask"])
    rows, words = (batch["first"] >= 0).nonzero(as_tuple=True)
    return engine.label_logits(hidden[rows, batch["first"][rows, words]])


def test_gradient_equals_finite_difference(task):
    engine = made_engine("xlm-roberta")  # ModernBERT computes in float32 here and there, whatever its weights
    for part in (engine.base.model, *engine.modules.values()):
        part.double()
    mixing = EntropyMixing(engine, exact_scores)
    logits = [a.detach().double().requires_grad_() for a in mixing.start(4)]
    gradients = torch.autograd.grad(mixing.entropy(engine, batch(task), logits).sum(), logits)
    for site, child, row in ((0, 0, 1), (0, 2, 3), (2, 0, 0), (3, 1, 2)):
        there, back = ([a.detach().clone() for a in logits] for _ in range(2))
        there[site][child, row] += 1e-6  # so small that no ReLU turns over
        back[site][child, row] -= 1e-6
        slope = (rows_entropy(engine, task, mixing, there) - rows_entropy(engine, task, mixing, back)) / 2e-6
        expected = gradients[site][child, row].item()
        assert abs(expected) > 1e-6 and slope[row].item() == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert slope[[r for r in range(4) if r != row]].abs().max() < 1e-9  # no row changes another row


def test_a_row_gets_what_it_gets_alone_and_again(engine, task):
    def tags(sentences):
        mixing = EntropyMixing(engine, word_logits, steps=2)
        return task.predict(engine, sentences, mixing=mixing), mixing.summary()

    together, summary = tags(SENTENCES)
    assert tags(SENTENCES) == (together, summary)  # nothing is drawn at random
    assert [tags([s])[0][0] for s in SENTENCES] == together
    ones = [tags([s])[1]["entropy_after"] for s in SENTENCES]
    assert summary["entropy_after"] == pytest.approx(sum(ones) / 4, abs=1e-5)


def test_the_engine_is_left_as_it_was(engine, task):
    before = word_logits(engine, batch(task))
    mixing = EntropyMixing(engine, word_logits, steps=1, rate=1e-9)
    assert torch.allclose(
        mixing(engine, batch(task)), before, atol=1e-5
    )  # weights that hardly move: the average itself
    mixing = EntropyMixing(engine, word_logits, steps=3)
    assert not torch.allclose(mixing(engine, batch(task)), before, atol=1e-5)
    assert torch.equal(word_logits(engine, batch(task)), before)
    assert all(p.grad is None for p in engine.base.model.parameters())

    def fails(*_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        EntropyMixing(engine, fails)(engine, batch(task))
    assert torch.equal(word_logits(engine, batch(task)), before)


def test_it_starts_at_the_weights_of_the_composition(engine, task):
    with engine.using("average(0.8*swa, 0.2*hau) + ner"):
        before = word_logits(engine, batch(task))
        mixing = EntropyMixing(engine, word_logits, steps=1, rate=1e-9)
        assert torch.allclose(mixing(engine, batch(task)), before, atol=1e-5)
        assert mixing.summary()["weights"] == pytest.approx({"swa": 0.8, "hau": 0.2})


def test_words_of_a_long_sentence_lie_in_several_rows(engine, task):
    long = [Sentence(("teacher", "in") * 60, ("O",) * 120)]
    mixing = EntropyMixing(engine, word_logits, steps=1)
    assert len(task.predict(engine, long, mixing=mixing)[0]) == 120 and mixing.rows > 1


@pytest.mark.parametrize(
    "composition, text",
    [
        ("swa + ner", "has 0 averages"),
        ("0.5*swa + ner", "has 0 averages"),
        ("average(1.5*swa, -0.5*hau) + ner", "must start above 0"),
        ("average(diff, hau) + ner", "diff is a weight delta.*Average modules"),
    ],
)
def test_weights_that_cannot_be_optimised_are_refused(engine, composition, text):
    if "diff" in composition:
        engine.attach(new_module("diff", engine.base, language="zul", components="lt_sft"))
    with engine.using(composition), pytest.raises(CompositionError, match=text):
        EntropyMixing(engine, word_logits)


def test_another_composition_than_its_own_is_refused(engine, task):
    mixing = EntropyMixing(engine, word_logits)
    with engine.using("swa + ner"), pytest.raises(CompositionError, match="was active when its mixing was made"):
        mixing(engine, batch(task))
