"""Registries: names under which files of a folder offer what they hold."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator

from madx.errors import ConfigError, did_you_mean


class Registry:
    """Classes by the name that YAML and the command line use for them.

    >>> shapes = Registry("shape")
    >>> @shapes.register("round")
    ... class Round: pass
    >>> shapes.names(), shapes.get("round").name
    (['round'], 'round')
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """A decorator that enters a class under a name and gives it that `name`. A taken name raises ConfigError."""

        def enter(cls: type) -> type:
            taken = self._classes.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(
                    f"The {self.kind} {name!r} is registered twice: by {taken.__module__} and {cls.__module__}. Rename one."
                )
            cls.name = name
            self._classes[name] = cls
            return cls

        return enter

    def get(self, name: str) -> type:
        """The class of that name; raises ConfigError with the nearest one."""
        if name not in self._classes:
            raise ConfigError(f"Unknown {self.kind} {name!r}; {did_you_mean(name, self.names())}")
        return self._classes[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._classes)

    def items(self) -> list[tuple[str, type]]:
        """(name, class), sorted by name."""
        return [(name, self._classes[name]) for name in self.names()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._classes


def discover(package: str) -> None:
    """Import every file of a package that does not start with an underscore, so that each can register itself."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
