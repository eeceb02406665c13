"""Formats of other libraries: the contract of a format, the registry of all formats, and import and export by name.

A format is a subclass of `Format` that is registered with `@FORMATS.register("its-name")`. The command line, the tests
over damaged files and `madx modules formats` find it in the registry.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from madx.base import Base
from madx.composition import Composition, Stack, as_composition, check_name, require_stack
from madx.errors import ConfigError, MadxError, did_you_mean
from madx.files.places import user_path
from madx.interop.labels import name_labels
from madx.interop.report import ImportReport
from madx.module import Module
from madx.registry import Registry
from madx.store import Store, check_language, check_target
from madx.tasks import TASKS

FORMATS: Registry["Format"] = Registry("format")


#: roles that files of other libraries can have
IMPORTED_ROLES = ("language", "task", "fusion")


@dataclass(frozen=True)
class ImportRequest:
    """The module that an import shall make of one foreign module.

    Args:
        name, role, language: as in `ModuleInfo`.
        task: what the module's head predicts, e.g. "ner".
        labels: names of the head's rows, for files that have none.
        with_head: False leaves a head in the files out.
        allow_base_mismatch: admit another base of the same shape.
    """

    name: str
    role: str
    language: str | None = None
    task: str | None = None
    labels: tuple[str, ...] = ()
    with_head: bool = True
    allow_base_mismatch: bool = False

    def check(self) -> None:
        """Raises CompositionError or ConfigError if no module can be so, before any file is read."""
        check_name(self.name)
        if self.role not in IMPORTED_ROLES:
            raise ConfigError(f"The role of {self.name!r} is {self.role!r}; {did_you_mean(self.role, IMPORTED_ROLES)}")
        check_language(self.language, role=self.role)
        if self.task is not None and self.task not in TASKS:
            raise ConfigError(f"Unknown task {self.task!r}; {did_you_mean(self.task, TASKS)}")
        if self.role == "language" and (self.task or self.labels):
            raise ConfigError(f"A language module has no head, so {self.name!r} can have neither a task nor labels.")
        if wrong := sorted({label for label in self.labels if self.labels.count(label) > 1 or not label}):
            raise ConfigError(f"Each label is needed once and not empty; wrong: {', '.join(map(repr, wrong))}.")


@dataclass(frozen=True)
class ImportResult:
    """The modules that an import made, by name; a report on each; and the composition in which the files hold them."""

    modules: dict[str, Module]
    reports: tuple[ImportReport, ...]
    composition: Composition


class Format(ABC):
    """The files of one other library."""

    #: a few words that name the library and what its files hold
    title: ClassVar[str]
    #: the file that a folder must hold
    files: ClassVar[str]

    @abstractmethod
    def members(self, folder: Path) -> tuple[str, ...]:
        """Names of the modules in a folder that holds a composition; empty for the folder of a single module, which the
        user names."""

    @abstractmethod
    def base_of(self, folder: Path) -> str | None:
        """The id of the base that the files name, or None if they name none."""

    @abstractmethod
    def read(self, folder: Path, requests: tuple[ImportRequest, ...], base: Base) -> ImportResult:
        """The modules of a folder, one for each request. Raises a MadxError if one cannot be made; then none is."""

    @abstractmethod
    def write(
        self,
        composition: Stack,
        modules: dict[str, Module],
        folder: Path,
        *,
        base: Base,
        as_name: str | None = None,
    ) -> Path:
        """Write the modules of a composition as a folder that is complete or not there, and return the folder.

        Args:
            as_name: another name for a single module in the files.
        Raises ConfigError if the format cannot express a module.
        """


def import_modules(path: str | Path, form: str, requests: tuple[ImportRequest, ...], *, base: Base) -> ImportResult:
    """Make the requested modules from a folder of a foreign format, with a report on each.

    Raises ConfigError, CompositionError, StoreError or BaseError; then no module is made.
    """
    reader, folder = FORMATS.get(form)(), user_path(path)
    for request in requests:
        request.check()
    members, requested = reader.members(folder), [request.name for request in requests]
    if members and sorted(members) != sorted(requested) or not members and len(requested) != 1:
        held = f"the modules {', '.join(members)}" if members else "one module"
        raise ConfigError(
            f"{folder} holds {held}, but the request is for {', '.join(requested) or 'none'}. Request each module once."
        )
    imported = reader.read(folder, requests, base)
    for request in requests:
        _apply_labels(imported.modules[request.name], request)
    return imported


def _apply_labels(module: Module, request: ImportRequest) -> None:
    if module.head is not None and request.task is None:
        raise ConfigError(
            f"The files of {request.name!r} hold a head for {len(module.info.labels)} labels: name the task that it "
            f"predicts (task: {', '.join(TASKS)}), or leave the head out (with_head=False)."
        )
    if request.labels:
        name_labels(module, request.labels)


def import_into(
    store: Store,
    path: str | Path,
    form: str,
    requests: tuple[ImportRequest, ...],
    *,
    base: Base,
    overwrite: bool = False,
) -> ImportResult:
    """Import modules as `import_modules` does and store them under their names.

    If one of them cannot be stored, the new ones before it are removed from the store again.
    """
    for request in requests:
        request.check()
        check_target(store.root / request.name, overwrite=overwrite)
    imported = import_modules(path, form, requests, base=base)
    new = [name for name in imported.modules if name not in store.names()]
    try:
        for module in imported.modules.values():
            store.save(module, overwrite=overwrite)
    except MadxError:
        for name in set(new) & set(store.names()):
            store.remove(name)
        raise
    return imported


def export_modules(
    composition: Composition | str,
    modules: dict[str, Module],
    form: str,
    folder: str | Path,
    *,
    base: Base,
    as_name: str | None = None,
) -> Path:
    """Write a module, or the modules of a composition, in a foreign format, and return the folder.

    Raises ConfigError if the format cannot express a module, StoreError for a folder in use; then nothing is written.
    """
    composition = require_stack(as_composition(composition), "written in another format")
    require_modules(composition, modules)
    names = composition.names()
    if as_name is not None and len(names) > 1:
        raise ConfigError(f"One other name ({as_name!r}) is given for the {len(names)} modules of '{composition}'.")
    return FORMATS.get(form)().write(composition, modules, user_path(folder), base=base, as_name=as_name)


def require_modules(composition: Stack, modules: dict[str, Module]) -> None:
    """Raises ConfigError unless the composition names at least one module and all its modules are given."""
    names = composition.names()
    if missing := [name for name in names if name not in modules]:
        raise ConfigError(f"No module is given for {', '.join(missing)}; {did_you_mean(missing[0], modules)}")
    if not names:
        raise ConfigError("The composition is the base alone; there is nothing to write.")


def single(composition: Stack, what: str) -> str:
    """The name of the only module of a composition. Raises ConfigError for any other composition.

    Args:
        what: the file that can hold only one module, for the message.
    """
    if len(composition.items) != 1 or not isinstance(composition.items[0], str):
        raise ConfigError(
            f"'{composition}' is not a single module, and {what} holds only one. Write each into a folder of its own."
        )
    return composition.items[0]
