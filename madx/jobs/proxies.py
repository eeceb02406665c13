"""Proxies for a language that has no module: compositions of other languages' modules, and their settings.

    nearest      the module of the most similar language
    weighted     average(w_1 * a, w_2 * b, ...), weights by similarity, given or from n-grams
                 (`madx.metrics.language_similarity`)
    arithmetic   average(share * own, (1 - share) * relative); without a module of its own: relative and source's
    emea         average(a, b, ...), its weights changed for each sentence to lower the entropy
                 (`madx.engine.entropy_mixing`)

Averages are of changes (of weights types: of weight deltas), where Klimaszewski et al. 2024 (arXiv:2404.15737) add the
modules' weights themselves: for weight deltas that is the same, for bottlenecks it is not. They too choose the share on
development data of the target, which must not be the data of the evaluation.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from madx.composition import Average, Composition, Stack
from madx.config import Settings
from madx.data.text.corpora import read_corpus
from madx.errors import ConfigError, did_you_mean
from madx.jobs.settings import Corpus, DataSettings
from madx.metrics.language_similarity import LIMIT, NGRAM, Measure, mean_weights, similarities

log = logging.getLogger("madx")

#: with fewer n-grams of each text a likeness is mostly chance
FEW_NGRAMS = 3000


class Emea(Settings):
    """Settings of the mixing at test time."""

    steps: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Gradient steps for each sentence; each costs a forward and a backward pass.",
    )
    rate: float = Field(default=10.0, gt=0, description="Rate of the gradient steps.")


class Proxies(DataSettings):
    """Settings of the proxies."""

    TEXTS = ("texts",)

    use: list[Literal["nearest", "weighted", "arithmetic", "emea"]] = Field(
        default=[], description="Proxies to evaluate, as further columns of the matrix."
    )
    texts: dict[str, Corpus] = Field(
        default={}, description="Language -> a small text, from which similarities are computed."
    )
    weights: dict[str, dict[str, float]] = Field(
        default={}, description="Target -> module -> weight, e.g. by typology; goes before similarities of texts."
    )
    measure: Measure = Field(default="jensen_shannon", description="Similarity of the n-gram counts.")
    ngram: int = Field(default=NGRAM, ge=1, le=8, description="Characters of an n-gram.")
    limit: int = Field(
        default=LIMIT, ge=1, description="N-grams read of each text at most; no more than the smallest text holds."
    )
    sharpness: float = Field(default=1.0, gt=0, description="Weights are proportional to similarity to this power.")
    top: int | None = Field(default=None, ge=1, description="Number of the most similar that get a weight; null: all.")
    share: float = Field(
        default=0.9,
        gt=0,
        le=2,
        description="arithmetic: share of the target's module; above 1 the relative's is subtracted.",
    )
    relatives: dict[str, str] = Field(
        default={}, description="arithmetic: target -> its relative's module; else the most similar."
    )
    emea: Emea = Field(default=Emea(), description="emea: the mixing at test time.")

    def modules(self) -> list[str]:
        """The modules that weights and relatives name, each once."""
        return list(dict.fromkeys([*(m for of in self.weights.values() for m in of), *self.relatives.values()]))


def check_proxies(settings: Proxies, *, targets: Iterable[str], own: Mapping[str, str]) -> None:
    """Check the settings of proxies against the targets; own: target -> its module, for those that have one.

    Raises ConfigError when proxies are described but none is chosen, for weights and relatives of a language that is no
    target or of a target's own module, and for numbers that cannot be weights.
    """
    targets = list(targets)
    if not settings.use and (settings.texts or settings.modules()):
        raise ConfigError("proxies are described but none is chosen: set proxies.use, e.g. [nearest, weighted].")
    given: dict[str, Mapping[str, Any]] = {"weights": settings.weights, "relatives": settings.relatives}
    for key, of_targets in given.items():
        for language, named in of_targets.items():
            if language not in targets:
                raise ConfigError(
                    f"proxies.{key} speaks of {language!r}, which is no target; {did_you_mean(language, targets)}"
                )
            names = [named] if isinstance(named, str) else list(named)
            if own.get(language) in names:
                raise ConfigError(
                    f"proxies.{key}.{language} names {own[language]!r}, the target's own module: a proxy is made "
                    "of others'."
                )
    for language, weights in settings.weights.items():
        try:
            mean_weights(weights)
        except ConfigError as error:
            raise ConfigError(f"proxies.weights.{language}: {error}.") from None


def likeness(settings: Proxies) -> dict[str, dict[str, float]]:
    """Similarity of the texts by language and language, empty without texts.

    Raises DataError for one that cannot be read.
    """
    if not settings.texts:
        return {}
    texts = {language: read_corpus(path) for language, path in settings.texts.items()}
    found = similarities(texts, measure=settings.measure, n=settings.ngram, limit=settings.limit)
    few = found.ngrams < FEW_NGRAMS
    log.log(
        logging.WARNING if few else logging.INFO,
        "similarity from %s n-grams of each text%s",
        f"{found.ngrams:,}",
        ", as many as the smallest holds: with so few it is mostly chance" if few else "",
    )
    return found.values


def proxy_weights(
    settings: Proxies, language: str, *, pool: Mapping[str, str | None], alike: Mapping[str, Mapping[str, float]]
) -> dict[str, float] | str:
    """Weights by module for a target language, the largest first, or the reason (text) why there are none.

    pool: module of another language -> its language; alike: see `likeness`.
    """
    if language in settings.weights:
        return _rounded(mean_weights(settings.weights[language]))
    if not pool:
        return "no other language module to stand in"
    lacking = [x for x in dict.fromkeys([language, *pool.values()]) if x not in alike]
    if lacking:
        return (
            f"no text of {', '.join(map(str, lacking))} to compare: give proxies.texts, or proxies.weights.{language}"
        )
    try:
        of = {module: alike[language][str(other)] for module, other in pool.items()}
        return _rounded(mean_weights(of, sharpness=settings.sharpness, top=settings.top))
    except ConfigError as error:
        return str(error)


def _rounded(weights: dict[str, float]) -> dict[str, float]:
    """Weights of four digits that still sum to one: people read and write the composition."""
    rounded = {name: round(weight, 4) for name, weight in weights.items()}
    first = next(iter(rounded))
    rounded[first] = round(rounded[first] + 1.0 - sum(rounded.values()), 4)
    return {name: weight for name, weight in rounded.items() if weight}


def proxy_compositions(
    task: str,
    *,
    language: str,
    own: str | None,
    source: str | None,
    pool: Mapping[str, str | None],
    settings: Proxies,
    alike: Mapping[str, Mapping[str, float]],
) -> dict[str, Composition | str]:
    """The composition of each proxy of a target language, or the reason (text) why there is none.

    own, source: the target's and the source language's module, if any; pool, alike: see `proxy_weights`.
    """
    weights = proxy_weights(settings, language, pool=pool, alike=alike)
    found: dict[str, Composition | str] = {
        "emea": Stack(Average(*pool), task) if len(pool) > 1 else _too_few(len(pool))
    }
    relative = settings.relatives.get(language)
    if isinstance(weights, str):
        found |= dict.fromkeys(("nearest", "weighted", "arithmetic"), weights)
    else:
        nearest = max(weights, key=lambda module: weights[module])
        found["nearest"] = Stack(nearest, task)
        found["weighted"] = Stack(Average(*weights, weights=tuple(weights.values())), task)
        relative = relative or nearest
    if relative is not None:
        found["arithmetic"] = _arithmetic(task, settings, own=own, source=source, relative=relative)
    return found


def _too_few(count: int) -> str:
    return f"{'one' if count else 'no'} other language module: two are needed to mix"


def _arithmetic(
    task: str, settings: Proxies, *, own: str | None, source: str | None, relative: str
) -> Composition | str:
    first, second = (own, relative) if own else (relative, source)
    if second is None:
        return "neither a module of its own nor the source's to add to its relative's"
    if first == second:
        return f"its relative is the source's module {second!r} itself: see source"
    return Stack(Average(first, second, weights=(settings.share, round(1.0 - settings.share, 12))), task)
