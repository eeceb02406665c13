"""The language modules of an evaluation, and the composition of each control and proxy."""

import logging
from collections.abc import Hashable, Mapping

from madx.composition import Average, Composition, Stack
from madx.composition.algebra import Item
from madx.engine import Engine
from madx.jobs.common import require_language_modules
from madx.jobs.evaluate.settings import Evaluate
from madx.jobs.languages import check_code, check_spellings
from madx.jobs.proxies import proxy_compositions
from madx.module import ModuleInfo
from madx.store import Store

log = logging.getLogger("madx")


def source_languages(info: ModuleInfo, given: str | list[str] | None = None) -> list[str]:
    """The languages whose labelled data a task module was trained on: those given, else those it records."""
    if given:
        return [given] if isinstance(given, str) else list(given)
    return [info.language] if info.language is not None else list(info.training.get("sources", {}))


def language_modules(store: Store, settings: Evaluate, sources: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Language -> the name of its module, for the sources and targets that have one; language -> the reason why its
    module, which no setting names, cannot be used: one damaged module must not hide the scores of the others.

    Raises StoreError for a module that the settings name and the store does not have, and ConfigError for a module that
    is no language module, for two codes of one language, and for a language whose module has another code of it.
    """
    check_spellings(dict.fromkeys([*sources, *settings.targets]), "the source and target languages")
    stored = store.names()
    found: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for language in dict.fromkeys([*sources, *settings.targets]):
        name = settings.modules.get(language, language)
        if name is None:
            continue
        if name in stored and language not in settings.modules and (faults := store.faults(name, card=False)):
            damaged[language] = f"the module is damaged: {faults[0]}"
            log.error("The module %s; it is left out. The others are evaluated.", "; ".join(faults).rstrip("."))
        elif name in stored:
            found[language] = name
        elif language in settings.modules:
            store.show(name)  # raises with the nearest name: it was asked for
        else:
            check_code(language, stored)
    require_language_modules(store, [*found.values(), *(settings.mean_of or []), *settings.proxies.modules()])
    return found, damaged


def control_compositions(
    task: str,
    *,
    language: str,
    source: str | list[str],
    modules: Mapping[str, str],
    mean_of: list[str] | None = None,
    damaged: Mapping[str, str] | None = None,
) -> dict[str, Composition | str]:
    """The composition of each control, or the reason (text) why there is none.

    modules: language -> module name; mean_of: modules of the mean (None: all of `modules`), the target's own left out.
    damaged: language -> why its module cannot be used. With several source languages "source" is the mean of their
    modules; for a target that is one of them it is that language's own module, with which the task module was trained.
    """

    def why(code: str) -> str:
        lacking = f"no module for {code!r} in the store; train it with: madx train-language"
        return (damaged or {}).get(code, lacking)

    own = modules.get(language)
    others = [m for m in (mean_of if mean_of is not None else dict.fromkeys(modules.values())) if m != own]
    sources = [source] if isinstance(source, str) else source
    kept = [language] if language in sources else sources
    without = [code for code in kept if code not in modules]
    result: dict[str, Composition | str] = {
        "none": Stack(task),
        "source": "the task module records no source language; set source=LANGUAGE"
        if not kept
        else why(without[0])
        if without
        else Stack(Average(*(modules[code] for code in kept)), task),
        "target": Stack(own, task) if own else why(language),
        "mean": Stack(Average(*others), task) if others else "no other language module to average",
    }
    if language in sources:
        result["target"] = "the source itself: see source"
    return result


def compositions_of(
    engine: Engine,
    settings: Evaluate,
    task: str,
    *,
    language: str,
    sources: list[str],
    languages: Mapping[str, str],
    alike: Mapping[str, Mapping[str, float]],
    damaged: Mapping[str, str] | None = None,
) -> dict[str, Composition | str]:
    """The composition of each chosen control and proxy for a target language, or the reason (text) why there is none.

    languages: language -> its module; alike: similarities of languages (`madx.jobs.proxies.likeness`); damaged:
    language -> why its module cannot be used.
    """
    own = languages.get(language)
    pool = {
        m: engine.module(m).info.language for m in (settings.mean_of or dict.fromkeys(languages.values())) if m != own
    }
    pool = {m: other for m, other in pool.items() if other != language}  # nor another module of the same language
    found = control_compositions(
        task, language=language, source=sources, modules=languages, mean_of=settings.mean_of, damaged=damaged
    )
    found |= proxy_compositions(
        task,
        language=language,
        own=own,
        source=languages.get(sources[0]) if len(sources) == 1 else None,
        pool=pool,
        settings=settings.proxies,
        alike=alike,
    )
    chosen = settings.columns_chosen()
    only: list[str] = list(settings.only.get(language, chosen))
    return {c: found[c] if c in only else f"left out by the setting only.{language}" for c in chosen}


def doubles_of(compositions: Mapping[str, Composition | str]) -> dict[str, str]:
    """The columns of a language whose composition an earlier column has, each with that column.

    With one other language the mean of the others is that language's module; with one similar language `nearest` and
    `weighted` are the same. One score under two names would be compared with itself and count twice in corrections.
    `emea` is left out: it changes the weights of its composition for each sentence.

    >>> doubles_of({"source": Stack("eng", "ner"), "mean": Stack(Average("eng"), "ner"), "target": "no module"})
    {'mean': 'source'}
    """
    first: dict[Hashable, str] = {}
    found: dict[str, str] = {}
    for column, composition in compositions.items():
        if isinstance(composition, str) or column == "emea":
            continue
        other = first.setdefault(_without_order(composition), column)
        if other != column:
            found[column] = other
    return found


def _without_order(item: Composition | Item) -> Hashable:
    """A composition by what it computes: the children of an average have no order."""
    if isinstance(item, Stack):
        return tuple(map(_without_order, item.items))
    if isinstance(item, Average):
        weights = (round(weight, 12) for weight in item.weights)
        return "average", frozenset(zip(map(_without_order, item.children), weights, strict=True))
    return item
