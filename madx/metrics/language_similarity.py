"""Similarity of languages, from character n-grams of small texts; and the weights of a mean over modules by similarity.

Words (runs of letters with their marks, in lower case) are read with a space before and after: ` juma `. With c_L(g)
the number of times that the n characters g occur in the text of language L, and p_L = c_L / sum c_L:

    cosine           sum_g c_A(g) c_B(g) / (|c_A| |c_B|)
    jensen_shannon   1 - JSD(p_A, p_B) in bits (Lin 1991)
                     = sum_g [p_A(g) log2(1 + p_B(g) / p_A(g)) + p_B(g) log2(1 + p_A(g) / p_B(g))] / 2, over common g

Both are symmetric, 1 for equal texts, and 0 for texts without a common n-gram (other scripts). Small texts look less
similar than large ones, so of every text only as many n-grams are read as the smallest text holds, and at most a limit.

The weights of a mean over modules j are w_j = s_j^sharpness / sum s^sharpness, over the `top` most similar. The
similarities s may come from elsewhere, typology for example. Wang et al. 2021 (arXiv:2109.04877) average language
modules for a language that has none; Klimaszewski et al. 2024 (arXiv:2404.15737) weigh one against another.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from madx.data.words import letter_words
from madx.errors import ConfigError, DataError

Measure = Literal["jensen_shannon", "cosine"]
NGRAM, LIMIT = 3, 200_000


@dataclass(frozen=True)
class Similarity:
    """values: language -> language -> similarity, 0..1, and 1 to itself. ngrams: the number that was read of every
    text."""

    values: dict[str, dict[str, float]]
    ngrams: int


def ngrams(lines: Iterable[str], *, n: int = NGRAM) -> Iterator[str]:
    """The n-grams of the words of a text, in order; a word shorter than n - 2 has none.

    >>> list(ngrams(["Juma, 3!"]))
    [' ju', 'jum', 'uma', 'ma ']
    """
    for line in lines:
        for word in letter_words(line):
            padded = f" {word} "
            yield from (padded[i : i + n] for i in range(len(padded) - n + 1))


def similarities(
    texts: Mapping[str, Iterable[str]], *, measure: Measure = "jensen_shannon", n: int = NGRAM, limit: int = LIMIT
) -> Similarity:
    """The similarity of every two languages.

    texts: language -> the lines of its text. n: characters of an n-gram. limit: the n-grams read of each text at most.

    >>> found = similarities({"eng": ["the good land"], "deu": ["das gute Land"], "ell": ["το καλό σπίτι"]})
    >>> found.values["eng"]["deu"] > found.values["eng"]["ell"] == 0
    True

    Raises DataError for a text without any n-gram, ConfigError for fewer than two languages.
    """
    if len(texts) < 2:
        raise ConfigError(
            f"the similarity of {len(texts)} languages: give the texts of at least two, one for each language"
        )
    read = {language: list(islice(ngrams(lines, n=n), limit)) for language, lines in texts.items()}
    for language, found in read.items():
        if not found:
            raise DataError(
                f"the text of {language!r} holds no word of {max(n - 2, 1)} letters or more; give running text"
            )
    length = min(map(len, read.values()))
    counts = {language: Counter(found[:length]) for language, found in read.items()}
    compare = _cosine if measure == "cosine" else _jensen_shannon
    values: dict[str, dict[str, float]] = {language: {} for language in counts}
    for i, a in enumerate(counts):
        for b in list(counts)[i:]:
            values[a][b] = values[b][a] = 1.0 if a == b else compare(*_aligned(counts[a], counts[b]))
    return Similarity({a: {b: values[a][b] for b in counts} for a in counts}, length)


def _aligned(a: Counter[str], b: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Two counters as arrays over the keys of both, in a fixed order."""
    keys = sorted(a.keys() | b.keys())
    return np.array([a[k] for k in keys], dtype=float), np.array([b[k] for k in keys], dtype=float)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), 0.0, 1.0))


def _jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    p, q = a / a.sum(), b / b.sum()
    common = (p > 0) & (q > 0)
    p, q = p[common], q[common]
    return float(np.clip((p * np.log2(1 + q / p) + q * np.log2(1 + p / q)).sum() / 2, 0.0, 1.0))


def mean_weights(
    similarity: Mapping[str, float], *, sharpness: float = 1.0, top: int | None = None
) -> dict[str, float]:
    """Weights that sum to one, the largest first; see the top of the file.

    similarity: module -> similarity. sharpness: the power of the similarities. top: how many of the most similar
    modules get a weight; None: all. Modules with a similarity of 0 get none.

    >>> mean_weights({"hau": 0.2, "yor": 0.2, "ell": 0.0})
    {'hau': 0.5, 'yor': 0.5}

    Raises ConfigError when nothing is left, or for a similarity that is negative or not finite.
    """
    wrong = {name: value for name, value in similarity.items() if not 0 <= value < float("inf")}
    if wrong:
        raise ConfigError(f"weights and similarities must be finite and not negative, got {wrong}")
    ranked = sorted((name for name, value in similarity.items() if value > 0), key=lambda name: -similarity[name])[:top]
    if not ranked:
        raise ConfigError(
            f"nothing to weigh: of {', '.join(similarity) or 'no language'} none has a similarity above 0"
        )
    largest = similarity[ranked[0]]
    # a ratio below the power: without it, all powers of tiny similarities would underflow
    powers = {name: (similarity[name] / largest) ** sharpness for name in ranked}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items() if power > 0}
