"""The miniature multilingual world: synthetic sentences with PER/ORG/LOC names in seven real languages.

Every language realises the same frames (sentence meanings) over the same concepts, with its own words, word order and
endings. Labelled sentences: names and frames of dev and test are disjoint from those of training, in all languages together.
Raw text: all frames, as a language has them all, with names of the training split only.
Nothing here is natural text: it shows mechanisms in minutes and measures no real system.
"""

from pathlib import Path

from .grammar import Sentence, languages, parallel, sentences, write_corpus, write_ner

BASE = Path(__file__).parent / "base"  # the shipped base, made by pipelines/make_world_base.py
PRETRAINED = ("eng", "spa", "deu", "tur")  # the languages that the base has seen; the others are new to it

__all__ = ["BASE", "PRETRAINED", "Sentence", "languages", "parallel", "sentences", "write_corpus", "write_ner"]
