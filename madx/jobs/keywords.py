"""Jobs that take keywords: `train_language(base=..., language=...)` beside `train_language(TrainLanguage(...))`."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from madx.config import Settings, check
from madx.errors import ConfigError
from madx.files.reasons import as_madx_errors

P = ParamSpec("P")
S = TypeVar("S", bound=Settings)
S_contra = TypeVar("S_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[P, S_contra, R_co]):
    """A job: it takes its settings as one object, whose single values keywords may replace, or as keywords alone."""

    @overload
    def __call__(self, settings: S_contra, /, **changes: Any) -> R_co: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def takes_keywords(schema: Callable[P, S]) -> Callable[[Callable[[S], R]], Job[P, S, R]]:
    """A decorator: a job over a settings object takes the settings as keywords, too.

    The keywords have the names and types of the settings; type checkers, editors and `help()` show them. Wrong ones
    raise ConfigError, which names each with the nearest that is allowed.
    """

    def decorate(run: Callable[[S], R]) -> Job[P, S, R]:
        settings_class = cast("type[S]", schema)

        @wraps(run)
        def job(settings: S | None = None, /, **keywords: Any) -> R:
            with as_madx_errors():
                return run(settings_from(settings_class, settings, keywords, of=run.__name__))

        given = inspect.Parameter("settings", inspect.Parameter.POSITIONAL_ONLY, default=None, annotation=schema)
        each = inspect.signature(settings_class).parameters.values()
        returns = inspect.signature(run).return_annotation
        vars(job)["__signature__"] = inspect.Signature([given, *each], return_annotation=returns)
        return cast("Job[P, S, R]", job)

    return decorate


def settings_from(schema: type[S], settings: S | None, keywords: dict[str, Any], *, of: str) -> S:
    """The settings of the job `of` from an object, from keywords, or from an object with keywords in their place.

    Raises ConfigError for anything else, with every fault.
    """
    if settings is not None and not isinstance(settings, schema):
        raise ConfigError(
            f"{of} takes a {schema.__name__} or keywords, not {type(settings).__name__}: write "
            f"{of}({next(iter(schema.model_fields))}=..., ...)."
        )
    if settings is not None and not keywords:
        return settings
    kept = {} if settings is None else {key: getattr(settings, key) for key in schema.model_fields}
    return check(schema, kept | keywords, what=f"the settings of {of}")
