"""A tiny base, corpora and labelled files on disk, for tests of commands and pipelines."""

import random
from pathlib import Path

import tiny

NAMES = {"PER": ("Anna", "Juma", "Maria", "Omar"), "LOC": ("city", "river", "market")}
PLAIN = "the a of in from to for with and is was said works lives teacher".split()


def save_base(folder: Path, *, seed: int = 0) -> str:
    """A tiny random XLM-R with its tokenizer, as transformers stores one; gives the folder."""
    tiny.model("xlm-roberta", seed=seed).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def write_corpus(path: Path, *, lines: int = 300, seed: int = 0) -> str:
    """Lines of eight words of the tiny tokenizer."""
    draw = random.Random(seed)
    path.write_text("\n".join(" ".join(draw.choices(tiny.WORDS, k=8)) for _ in range(lines)) + "\n", encoding="utf-8")
    return str(path)


def write_conll(path: Path, *, sentences: int = 24, seed: int = 0) -> str:
    """Sentences in which every name of `NAMES` is tagged; two columns, IOB2."""
    draw, lines = random.Random(seed), []
    for _ in range(sentences):
        for kind in ("PER", "LOC"):
            lines += [f"{draw.choice(PLAIN)}\tO", f"{draw.choice(NAMES[kind])}\tB-{kind}", f"{draw.choice(PLAIN)}\tO"]
        lines += [".\tO", ""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def fill(folder: Path) -> Path:
    """Fill a folder: base, other (another base), eng.txt, swa.txt, and {train,dev,eng-test,swa-test}.conll."""
    save_base(folder / "base")
    save_base(folder / "other", seed=1)
    for number, language in enumerate(("eng", "swa")):
        write_corpus(folder / f"{language}.txt", seed=number)
    for number, name in enumerate(("train", "dev", "eng-test", "swa-test")):
        write_conll(folder / f"{name}.conll", seed=number)
    return folder
