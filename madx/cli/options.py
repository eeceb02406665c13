"""Typed settings of a job from a file, `--set` and flags; options that several commands share."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from madx.errors import CompositionError, ConfigError
from madx.outside import visible

if TYPE_CHECKING:
    from madx.base import Base as LoadedBase
    from madx.composition import Composition
    from madx.config import Settings
    from madx.store import Store as ModuleStore

log = logging.getLogger("madx")

S = TypeVar("S", bound="Settings")
R = TypeVar("R")

Config = Annotated[
    Optional[Path],
    typer.Argument(
        metavar="CONFIG.yaml",
        show_default=False,
        help="Settings file; not needed if flags give all that has no default.",
    ),
]
Components = Annotated[
    Optional[str],
    typer.Option(
        help="A preset of `madx modules presets`; --set components.bottleneck.reduction_factor=4 changes one setting.",
        show_default=False,
    ),
]
Fuse = Annotated[
    Optional[str],
    typer.Option(
        metavar="A,B",
        help="Stored modules to fuse: a FUSION MODULE is trained over them, which stay as they are (AdapterFusion).",
        show_default=False,
    ),
]
#: the old name of --components
Parts = Annotated[Optional[str], typer.Option("--parts", hidden=True, help="The old name of --components.")]
Sets = Annotated[
    Optional[list[str]],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, e.g. --set train.learning_rate=2e-4. `madx config` prints them all.",
    ),
]
Store = Annotated[str, typer.Option(help="Folder of modules.")]
StoreFlag = Annotated[Optional[str], typer.Option(help="Folder of modules (default: modules).", show_default=False)]
Base = Annotated[
    Optional[str],
    typer.Option(help="The frozen base: a folder or a model id, e.g. xlm-roberta-base.", show_default=False),
]
SavedBase = Annotated[
    Optional[str], typer.Option(help="The frozen base, if not the one that the module records.", show_default=False)
]
Overwrite = Annotated[
    Optional[bool], typer.Option("--overwrite", help="Replace a stored module of that name.", show_default=False)
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, even if a stopped run left a checkpoint.")]
StackText = Annotated[
    str,
    typer.Option("--stack", "-s", metavar="STACK", help='Modules, the first nearest to the base, e.g. "swa + ner".'),
]


def settings(schema: type[S], config: Path | None, sets: list[str] | None, flags: dict[str, Any]) -> S:
    """Typed settings from the file, then --set, then flags, each over the one before.

    A flag that `--set` goes inside comes first: --components madx --set components.bottleneck.reduction_factor=4.
    Raises ConfigError that names every fault.
    """
    from madx.config import load

    sets = sets or []
    keys = [each.partition("=")[0].strip() for each in sets]
    for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        log.warning("--set %s is given %s times: the last value is taken.", key, keys.count(key))
    given = {key: json.dumps(value, ensure_ascii=False) for key, value in flags.items() if value is not None}
    outer = [key for key in given if any(each.strip().startswith(f"{key}.") for each in sets)]
    inner = [key for key in given if key not in outer]
    return load(config, schema, [*(f"{key}={given[key]}" for key in outer), *sets, *(f"{k}={given[k]}" for k in inner)])


def renamed_flag(old: str | None, new: str | None, *, was: str, name: str) -> str | None:
    """The value of a flag that may be given by its old name, with a notice; the new name goes first."""
    if old is not None:
        log.warning("The flag %s is called %s now; the old name is still read.", was, name)
    return new if new is not None else old


def with_consent(action: Callable[[], R]) -> R:
    """Do something that may need a base which somebody else's module names and which was never fetched: in a terminal,
    ask before; elsewhere raise the UntrustedBaseError that says how to allow it."""
    from madx.base.guard import UntrustedBaseError

    try:
        return action()
    except UntrustedBaseError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        at = f", revision {error.revision}" if error.revision else ""
        question = f"{error.named_by} names the base {error.name}{at}, never fetched so far. Fetch it?"
        if not typer.confirm(visible(question, lines=False), err=True):
            raise
        error.admit()
    return action()


def load_recorded_base(composition: "Composition", modules: "ModuleStore", given: str | None) -> "LoadedBase":
    """Load the base for a composition of stored modules: the one given, else the one that they record.

    Raises CompositionError where there is neither.
    """
    from madx.base import load_base

    if given:
        return load_base(given)
    infos = [modules.show(name).info for name in composition.names()]
    recorded = [info for info in infos if info is not None and info.base]
    if not recorded:
        raise CompositionError(
            f"The composition '{composition}' names no module that records its base: add --base FOLDER_OR_ID."
        )
    chosen = with_consent(recorded[-1].base_to_load)
    return load_base(str(chosen["name"]), revision=chosen["revision"])


def numbers(text: str | None, flag: str) -> list[int] | None:
    """The numbers of `1,2,3`; raises ConfigError for anything else."""
    if text is None:
        return None
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{flag} {text!r}: whole numbers with commas between them are needed, e.g. {flag} 1,2,3."
        ) from None


def below(items: list[str] | None, flag: str) -> dict[str, str]:
    """Language -> stack of repeated flags, LANGUAGE or LANGUAGE=STACK. Raises ConfigError for an empty or repeated one.

    >>> below(["swa", "eng=base"], "--language")
    {'swa': 'swa', 'eng': 'base'}
    """
    found: dict[str, str] = {}
    for item in items or []:
        language, given, stack = item.partition("=")
        if not language or given and not stack or language in found:
            raise ConfigError(
                f"{flag} {item!r}: each language once, as LANGUAGE or LANGUAGE=STACK, e.g. {flag} swa {flag} eng=base."
            )
        found[language] = stack or language
    return found


def listed(items: list[str] | None, flag: str, form: str = "LANGUAGE=PATH") -> dict[str, list[str] | str] | None:
    """Name -> path, or paths, of flags NAME=PATH of which a name may stand in several. Raises ConfigError as `pairs`.

    >>> listed(["swa=a.txt", "swa=b.txt", "eng=c.txt"], "--corpus")
    {'swa': ['a.txt', 'b.txt'], 'eng': 'c.txt'}
    """
    found: dict[str, list[str]] = {}
    for item in items or []:
        for name, path in pairs([item], flag, form).items():
            found.setdefault(name, []).append(path)
    return {name: paths if len(paths) > 1 else paths[0] for name, paths in found.items()} or None


def pairs(items: list[str] | None, flag: str, form: str = "LANGUAGE=PATH") -> dict[str, str]:
    """Name -> path of repeated flags NAME=PATH. Raises ConfigError naming every one that is not of the form, and for a
    name that is given twice.

    >>> pairs(["swa=a.conll"], "--target")
    {'swa': 'a.conll'}
    """
    split = [item.partition("=") for item in items or []]
    wrong = [f"{flag} {''.join(s)!r}" for s in split if not all(s)]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: {form} is needed, e.g. {flag} swa=data/swa/test.conll.")
    names = [name for name, _, _ in split]
    if twice := [f"{flag} {''.join(s)!r}" for s in split if names.count(s[0]) > 1]:
        raise ConfigError(f"{', '.join(twice)}: one name is given several times; each needs one path, so keep one.")
    return {name: path for name, _, path in split}
