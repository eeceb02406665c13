"""The miniature multilingual world: synthetic sentences with PER/ORG/LOC names in seven real languages.

Every language realises the same frames (sentence meanings) over the same concepts, with its own words, word order and
endings; names and frames of the dev and test splits are disjoint from those of training, in all languages together.
Nothing here is natural text: it shows mechanisms in minutes and measures no real system.
"""

from pathlib import Path

from .grammar import Sentence, languages, sentences, write_corpus, write_ner

BASE = Path(__file__).parent / "base"  # the shipped base, made by pipelines/make_world_base.py
PRETRAINED = ("eng", "spa", "deu", "tur")  # the languages that the base has seen; the others are new to it

__all__ = ["BASE", "PRETRAINED", "Sentence", "languages", "sentences", "write_corpus", "write_ner"]
