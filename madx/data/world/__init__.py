"""The miniature multilingual world: synthetic sentences with names of type PER, ORG and LOC in seven real languages.

All languages express the same frames (sentence meanings) over the same concepts, each with its own words, word order
and endings. In labelled sentences, the names and frames of dev and test are disjoint from those of training, in all
languages together. Raw text has all frames, as a language does, and names of the training split only.

Nothing here is natural text: it shows mechanisms in minutes, and scores on it say nothing about real systems.
"""

from pathlib import Path

from madx.data.world.grammar import Sentence, languages, parallel, sentences, write_corpus, write_ner

BASE = Path(__file__).parent / "base"  # the base that is shipped, made by pipelines/make_world_base.py
PRETRAINED = ("eng", "spa", "deu", "tur")  # the languages that the base was trained on; the others are new to it

__all__ = ["BASE", "PRETRAINED", "Sentence", "languages", "parallel", "sentences", "write_corpus", "write_ner"]
