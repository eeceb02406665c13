"""The contract of foreign formats: what a file of this folder does to be one, and import and export by a format's name.

A format is one file: a subclass of `Format` registered with `@FORMATS.register("its-name")`. The command line, the fuzz
over damaged files and `madx modules formats` take it from the registry.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from madx.base import Base
from madx.composition import Composition, as_composition, check_name, require_stack
from madx.errors import ConfigError, MadxError, did_you_mean
from madx.interop.labels import name_labels
from madx.interop.report import ImportReport
from madx.module import ROLES, Module
from madx.registry import Registry
from madx.store import Store, check_language, check_target
from madx.tasks import TASKS

FORMATS: Registry["Format"] = Registry("format")


@dataclass(frozen=True)
class ImportRequest:
    """What an import shall make of one foreign module.

    name, role, language: as in `ModuleInfo`; task: what its head predicts; labels: names of the head's rows, where the
    files have none; with_head: False leaves a head out; allow_base_mismatch: admit another base of the same shape.
    """

    name: str
    role: str
    language: str | None = None
    task: str | None = None
    labels: tuple[str, ...] = ()
    with_head: bool = True
    allow_base_mismatch: bool = False

    def check(self) -> None:
        """Raises CompositionError or ConfigError for what no module can be, before any file is read."""
        check_name(self.name)
        if self.role not in ROLES:
            raise ConfigError(f"The role of {self.name!r} is {self.role!r}; {did_you_mean(self.role, ROLES)}")
        check_language(self.language, role=self.role)
        if self.task is not None and self.task not in TASKS:
            raise ConfigError(f"Unknown task {self.task!r}; {did_you_mean(self.task, TASKS)}")
        if self.role == "language" and (self.task or self.labels):
            raise ConfigError(f"A language module has no head, so {self.name!r} can have neither a task nor labels.")
        if twice := sorted({label for label in self.labels if self.labels.count(label) > 1 or not label}):
            raise ConfigError(f"Each label is needed once and not empty; wrong: {', '.join(map(repr, twice))}.")


@dataclass(frozen=True)
class ImportResult:
    """The modules that an import made, by name; a report on each; the composition that the files hold them in."""

    modules: dict[str, Module]
    reports: tuple[ImportReport, ...]
    composition: Composition


class Format(ABC):
    """Other people's files of one kind."""

    #: in a few words: whose they are and what they hold
    title: ClassVar[str]
    #: the file that a folder must hold
    files: ClassVar[str]

    @abstractmethod
    def members(self, folder: Path) -> tuple[str, ...]:
        """The modules in a folder that holds a composition of several; none: it holds one, which is named by the user."""

    @abstractmethod
    def base_of(self, folder: Path) -> str | None:
        """The id of the base that the files name, if they do."""

    @abstractmethod
    def read(self, folder: Path, wishes: tuple[ImportRequest, ...], base: Base) -> ImportResult:
        """The modules of a folder, one for each wish. Raises a MadxError for all else; then nothing is made."""

    @abstractmethod
    def write(
        self,
        composition: Composition,
        modules: dict[str, Module],
        folder: Path,
        *,
        base: Base,
        as_name: str | None = None,
    ) -> Path:
        """Write the modules of a composition as a folder that is whole or not there. as_name: of a single one, there.

        Raises ConfigError for what the format cannot say."""


def import_modules(path: str | Path, form: str, wishes: tuple[ImportRequest, ...], *, base: Base) -> ImportResult:
    """The modules in a folder of a foreign format, as wished, and a report on each.

    Raises ConfigError, CompositionError, StoreError or BaseError; then nothing is made.
    """
    reader, folder = FORMATS.get(form)(), Path(path).expanduser()
    for wish in wishes:
        wish.check()
    members, wished = reader.members(folder), [wish.name for wish in wishes]
    if members and sorted(members) != sorted(wished) or not members and len(wished) != 1:
        held = f"the modules {', '.join(members)}" if members else "one module"
        raise ConfigError(
            f"{folder} holds {held}; say for each what it shall be, not for {', '.join(wished) or 'none'}."
        )
    imported = reader.read(folder, wishes, base)
    for wish in wishes:
        module = imported.modules[wish.name]
        if module.head is not None and wish.task is None:
            raise ConfigError(
                f"The files of {wish.name!r} hold a head for {len(module.info.labels)} labels: say what it predicts "
                f"(task: {', '.join(TASKS)}), or leave it out (with_head=False)."
            )
        if wish.labels:
            name_labels(module, wish.labels)
    return imported


def import_into(
    store: Store, path: str | Path, form: str, wishes: tuple[ImportRequest, ...], *, base: Base, overwrite: bool = False
) -> ImportResult:
    """`import_modules`, stored under their names: all of them, or the store stays as it was."""
    for wish in wishes:
        wish.check()
        check_target(store.root / wish.name, overwrite=overwrite)
    imported = import_modules(path, form, wishes, base=base)
    fresh = [name for name in imported.modules if name not in store.names()]
    try:
        for module in imported.modules.values():
            store.save(module, overwrite=overwrite)
    except MadxError:
        for name in set(fresh) & set(store.names()):
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
    """Write a module, or the modules of a composition, in a foreign format; gives the folder.

    Raises ConfigError for what the format cannot say, StoreError for a folder in use; then nothing is written.
    """
    composition = require_stack(as_composition(composition), "written in another format")
    names = composition.names()
    if missing := [name for name in names if name not in modules]:
        raise ConfigError(f"No module is given for {', '.join(missing)}; {did_you_mean(missing[0], modules)}")
    if not names:
        raise ConfigError("The composition is the bare base; there is nothing to write.")
    if as_name is not None and len(names) > 1:
        raise ConfigError(f"One other name ({as_name!r}) is given for the {len(names)} modules of '{composition}'.")
    return FORMATS.get(form)().write(composition, modules, Path(folder).expanduser(), base=base, as_name=as_name)


def single(composition: Composition, what: str) -> str:
    """The name of the one module that a composition consists of; raises ConfigError for any other composition."""
    if len(composition.items) != 1 or not isinstance(composition.items[0], str):
        raise ConfigError(
            f"'{composition}' is no single module: {what} holds one. Write each into a folder of its own."
        )
    return composition.items[0]
