"""Registries: the names under which the files of a folder offer their classes."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from madx.errors import ConfigError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """A table of classes by the name that YAML and the command line use for them; `T` is their common parent.

    >>> shapes: Registry[object] = Registry("shape")
    >>> @shapes.register("round")
    ... class Round: pass
    >>> shapes.names(), shapes.get("round").name
    (['round'], 'round')
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Return a decorator that enters a class under `name` and sets its attribute `name`.

        Raises ConfigError if another class has the name already.
        """

        def enter(cls: C) -> C:
            taken = self._classes.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(
                    f"The {self.kind} {name!r} is registered twice: by {taken.__module__} and {cls.__module__}. "
                    "Rename one of the two."
                )
            cls.name = name  # type: ignore[attr-defined]  # the parents declare it
            self._classes[name] = cls
            return cls

        return enter

    def get(self, name: str) -> type[T]:
        """Return the class of that name; raises ConfigError that suggests the nearest name."""
        if name not in self._classes:
            raise ConfigError(f"Unknown {self.kind} {name!r}; {did_you_mean(name, self.names())}")
        return self._classes[name]

    def names(self) -> list[str]:
        """Return all names in alphabetical order."""
        return sorted(self._classes)

    def items(self) -> list[tuple[str, type[T]]]:
        """Return all pairs (name, class) in alphabetical order of the names."""
        return [(name, self._classes[name]) for name in self.names()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._classes


def discover(package: str) -> None:
    """Import every file of a package that does not start with an underscore, so that each can register itself.

    Other distributions add to it by an entry point whose group is the package's name, e.g. in their pyproject.toml

        [project.entry-points."madx.module_types"]
        my_type = "my_package.my_type"
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
    for entry in entry_points(group=package):
        entry.load()


#: what a lower floor offers but an upper floor does: name -> `module:attribute`, entered by the front door
_PROVIDED: dict[str, str] = {}


def provide(name: str, home: str) -> None:
    """Enter where something is implemented, as `module:attribute`. Only `madx/__init__.py` calls it."""
    _PROVIDED[name] = home


def provided(name: str) -> Any:
    """Give what was entered under a name. So a method of a lower floor, such as `Module.push_to_hub`, can exist
    although the floor that does the work lies above it and may not be imported from below."""
    module, _, attribute = _PROVIDED[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
