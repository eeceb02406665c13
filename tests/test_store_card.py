"""The model card: what the hub's library and a reader find on it."""

import math

import pytest
import tiny
import yaml
from store_tools import TRAINING, module, same, task

import madx
from madx.store import LAYOUT, save_module
from madx.store.card import model_card
from madx.store.metadata import HUB_CODES
from madx.store.weights import encode


@pytest.fixture(scope="module")
def base():
    return tiny.base()


def test_card_says_what_the_hub_and_a_reader_need(base, tmp_path):
    swa = module(base, language="swa", licence="CC-BY-4.0")
    swa.info.training = TRAINING
    swa.info.base = swa.info.base | {"name": "FacebookAI/xlm-roberta-base", "revision": "e73636d"}
    card = (save_module(swa, tmp_path / "swa") / LAYOUT.card).read_text()
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "madx",
        "language": ["sw"],
        "license": "cc-by-4.0",
        "base_model": "FacebookAI/xlm-roberta-base",
        "base_model_relation": "adapter",
        "datasets": ["wikiann"],
        "pipeline_tag": "fill-mask",
        "tags": ["madx", "language-module", "cross-lingual", "bottleneck", "invertible"],
    }
    for text in (
        "# swa\n",
        "| bottleneck | reduction_factor | 2.0 |",
        f"| swa.txt | {'ab' * 32} | 12 |",
        "batch.size | 64 |",
        "| perplexity.after | inf |",
        "| steps | 7 |",
        "| revision | e73636d |",
    ):
        assert text in card, text
    assert "juma" not in card, "a card tells nobody's home folder"


def test_card_of_a_task_module_on_a_local_base(base, tmp_path):
    ner = task(base, language="sr-Latn")
    ner.info.base = ner.info.base | {"name": "/home/juma/mini|xlmr"}
    card = (save_module(ner, tmp_path / "ner") / LAYOUT.card).read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["language"] == ["sr"] and front["language_bcp47"] == ["sr-Latn"] and "base_model" not in front
    assert front["pipeline_tag"] == "token-classification" and "ner" in front["tags"] and "license" not in front
    assert "Labels: `O`, `B-PER`, `I-PER`" in card and "| name | mini\\|xlmr |" in card and "juma" not in card
    assert card.count("Not recorded.") == 3


@pytest.mark.parametrize(
    ("role", "training", "expected"),
    [
        (
            "task",
            {
                "data": [{"path": "datasets:o/wikiann:sw:train"}, {"path": "datasets:o/wikiann:sw:validation"}],
                "scores": {"dev": {"f1": 66.5, "recall": 60, "loss": math.inf}},
            },
            (
                {("f1", 66.5), ("recall", 60)},
                "o/wikiann",
                "o/wikiann sw validation",
                "sw",
                "validation",
                "token-classification",
                ["o/wikiann"],
            ),
        ),
        (
            "task",
            {
                "data": [{"path": "/home/juma/a.conll"}, {"path": "/home/juma/dev.conll"}],
                "scores": {"dev": {"f1": 1.0}},
            },
            ({("f1", 1.0)}, "local", "development data (dev.conll)", None, None, "token-classification", None),
        ),
        (
            "language",
            {
                "data": [{"path": "datasets:imdb:test"}],
                "scores": {
                    "held_out_before": {"perplexity": 9.0},
                    "held_out_after": {"perplexity": 3.5, "loss": "inf"},
                },
            },
            ({("perplexity", 3.5)}, "imdb", "imdb test", None, None, "fill-mask", ["imdb"]),
        ),
        (
            "language",
            {"scores": {"held_out_after": {"perplexity": 3.5}}},
            ({("perplexity", 3.5)}, "local", "held-out part", None, None, "fill-mask", None),
        ),
    ],
)
def test_the_hubs_library_reads_scores_and_data_from_the_card(base, role, training, expected):
    from huggingface_hub import ModelCard

    made = task(base, language="eng") if role == "task" else module(base)
    made.info.training = training
    card = ModelCard(model_card(encode(made, "float32")[0]))
    results = card.data.eval_results
    first = results[0]
    found = {(r.metric_type, r.metric_value) for r in results}
    assert (
        found,
        first.dataset_type,
        first.dataset_name,
        first.dataset_config,
        first.dataset_split,
        first.task_type,
        card.data.datasets,
    ) == expected
    assert card.data.model_name == made.name and card.data.pipeline_tag == expected[5]


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"scores": {}},
        {"scores": {"dev": {}}},
        {"scores": {"f1": 3.5}},
        {"data": [], "datasets": [""]},
        {"data": [{"path": "datasets:"}], "scores": {"dev": {"f1": math.nan}}},
    ],
)
def test_a_card_without_scores_and_data_sets(base, training):
    made = task(base)
    made.info.training = training
    front = yaml.safe_load(model_card(encode(made, "float32")[0]).split("---\n")[1])
    assert "model-index" not in front and "datasets" not in front


@pytest.mark.parametrize(
    ("licence", "keys"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("MIT", {"license": "mit"}),
        ("AGPL-3.0-only", {"license": "agpl-3.0"}),
        ("Juma's own", {"license": "other", "license_name": "Juma's own"}),
    ],
)
def test_a_licence_in_the_hubs_words(base, licence, keys):
    made = module(base, licence=licence)
    front = yaml.safe_load(model_card(encode(made, "float32")[0]).split("---\n")[1])
    assert {k: v for k, v in front.items() if k.startswith("license")} == keys


def test_the_code_on_the_card_runs(base, tmp_path, monkeypatch):
    folder = save_module(module(base), tmp_path / "swa")
    code = (folder / LAYOUT.card).read_text().split("```")[1].removeprefix("python\n")
    assert len(code.strip().splitlines()) == 5
    fresh = tiny.base()
    monkeypatch.setattr(madx, "load_base", lambda name: fresh)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert str(found["engine"].composition) == "swa" and same(found["engine"].modules["swa"], module(base))


def test_hub_codes_are_of_two_letters_and_name_no_language_twice():
    assert (
        len(HUB_CODES) == 184 and all(len(v) == 2 for v in HUB_CODES.values()) and len(set(HUB_CODES.values())) == 184
    )
    picks = {
        "swa": "sw",
        "eng": "en",
        "deu": "de",
        "zho": "zh",
        "hau": "ha",
        "yor": "yo",
        "xho": "xh",
        "fin": "fi",
        "ind": "id",
    }
    assert all(HUB_CODES[k] == v for k, v in picks.items())
