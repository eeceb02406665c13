"""Flags, `--set` and a settings file become the typed settings of a job; options that several commands share."""

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from madx.errors import CompositionError, ConfigError

Config = Annotated[
    Optional[Path],
    typer.Argument(
        metavar="CONFIG.yaml",
        show_default=False,
        help="Settings file; not needed if flags give all that has no default.",
    ),
]
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


def settings(schema, config: Path | None, sets: list[str] | None, flags: dict[str, Any]):
    """Typed settings: the file, then --set, then flags, each over the one before; ConfigError names every fault."""
    from madx.config import load

    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flags.items() if value is not None]
    return load(config, schema, [*(sets or []), *given])


def base_of(composition, modules, given: str | None) -> dict[str, str | None]:
    """name, revision: the base to load for a composition of stored modules, that given, else the one they record. Raises
    CompositionError where there is neither."""
    recorded = [info for info in (modules.show(name).info for name in composition.names()) if info.base]
    if not given and not recorded:
        raise CompositionError(
            f"The composition '{composition}' names no module that records its base: add --base FOLDER_OR_ID."
        )
    return {"name": given} if given else recorded[-1].base_to_load()


def numbers(text: str | None, flag: str) -> list[int] | None:
    """`1,2,3` -> [1, 2, 3]; raises ConfigError for anything else."""
    if text is None:
        return None
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{flag} {text!r}: whole numbers with commas between them are needed, e.g. {flag} 1,2,3."
        ) from None


def below(items: list[str] | None, flag: str) -> dict[str, str]:
    """`["swa", "eng=base"]` -> {"swa": "swa", "eng": "base"}; raises ConfigError for an empty or repeated language."""
    found: dict[str, str] = {}
    for item in items or []:
        language, given, stack = item.partition("=")
        if not language or given and not stack or language in found:
            raise ConfigError(
                f"{flag} {item!r}: each language once, as LANGUAGE or LANGUAGE=STACK, e.g. {flag} swa {flag} eng=base."
            )
        found[language] = stack or language
    return found


def pairs(items: list[str] | None, flag: str, form: str = "LANGUAGE=PATH") -> dict[str, str]:
    """`["swa=a.conll"]` -> {"swa": "a.conll"}; raises ConfigError naming every item that is not of the form."""
    split = [item.partition("=") for item in items or []]
    wrong = [f"{flag} {''.join(s)!r}" for s in split if not all(s)]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: {form} is needed, e.g. {flag} swa=data/swa/test.conll.")
    return {language: path for language, _, path in split}
