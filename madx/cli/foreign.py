"""`madx modules import | export | formats`: modules in the files of other libraries."""

from typing import Annotated, Optional

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from madx.cli.console import out, quiet_transformers, show_table
from madx.cli.options import SavedBase, Store, load_recorded_base, with_consent
from madx.errors import ConfigError
from madx.files.places import user_path

Per = "Of a composition: NAME=VALUE for each module, once each."


def import_module(
    folder: Annotated[str, typer.Argument(metavar="PATH", help="Folder with the files.")],
    form: Annotated[str, typer.Option("--from", help="Format of the files: adapterhub, composable-sft, peft.")],
    role: Annotated[list[str], typer.Option(help=f"language, task or fusion. {Per}")],
    name: Annotated[
        Optional[str], typer.Option(help="Name of the module here; a composition keeps its own.", show_default=False)
    ] = None,
    language: Annotated[
        Optional[list[str]], typer.Option(help=f"Its language, e.g. swa. {Per}", show_default=False)
    ] = None,
    base: Annotated[
        Optional[str],
        typer.Option(help="The base it was made for, where the files do not name it.", show_default=False),
    ] = None,
    task: Annotated[Optional[str], typer.Option(help="What its head predicts, e.g. ner.", show_default=False)] = None,
    labels: Annotated[
        Optional[str],
        typer.Option(help="Names of the head's rows, where the files have none: O,B-PER,I-PER", show_default=False),
    ] = None,
    head: Annotated[bool, typer.Option("--head/--no-head", help="Keep a tagging head.")] = True,
    allow_base_mismatch: Annotated[
        bool,
        typer.Option("--allow-base-mismatch", help="Admit another base of the same shape: a sister, or another name."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace stored modules of those names.")] = False,
    store: Store = "modules",
) -> None:
    """Take a module from other people's files into the store; print what was mapped, and what was ignored for which
    reason.

    Example: madx modules import downloads/sw-wiki --from adapterhub --name swa --role language --language swa
    """
    from madx.base import load_base
    from madx.base.guard import require_known
    from madx.interop import FORMATS, ImportRequest, import_into
    from madx.store import Store as ModuleStore

    reader, path = FORMATS.get(form)(), user_path(folder)
    names = tuple(reader.members(path)) or ((name,) if name is not None else ())
    if not names:
        raise ConfigError("The files hold one module: give its name, e.g. --name swa.")
    if name is not None and names != (name,):
        raise ConfigError(
            f"{path} holds a composition of {', '.join(names)}, which keep their names: leave --name {name} out."
        )
    roles, languages = _each(role, names, "--role"), _each(language or [], names, "--language")
    requests = tuple(
        ImportRequest(
            n,
            roles.get(n, ""),
            languages.get(n),
            task=task if roles.get(n) == "task" or len(names) == 1 else None,
            labels=tuple(labels.split(",")) if labels and (roles.get(n) == "task" or len(names) == 1) else (),
            with_head=head,
            allow_base_mismatch=allow_base_mismatch,
        )
        for n in names
    )
    for request in requests:
        request.check()
    wanted = base or reader.base_of(path)
    if not wanted:
        raise ConfigError(
            "The files do not say which base they were made for: add --base FOLDER_OR_ID, e.g. xlm-roberta-base."
        )
    if base is None:  # the files chose it
        with_consent(lambda: require_known(wanted, None, named_by=f"The folder {path}"))
    modules = ModuleStore(store)
    quiet_transformers()
    imported = import_into(modules, path, form, requests, base=load_base(wanted), overwrite=overwrite)
    for report in imported.reports:
        out.print(Text(str(report)))
    if len(names) > 1:
        out.print(f"composition: {imported.composition}")
    out.print(f"stored {', '.join(names)} in {modules.root}")


def export_module(
    stack: Annotated[str, typer.Argument(metavar="NAME", help='A stored module, or a stack such as "swa + ner".')],
    form: Annotated[str, typer.Option("--to", help="Format to write: adapterhub, composable-sft, peft.")],
    folder: Annotated[str, typer.Option("--out", help="Folder to write; it must not exist yet or be empty.")],
    as_name: Annotated[
        Optional[str],
        typer.Option("--as", help="Another name in the files, if this one cannot stand there.", show_default=False),
    ] = None,
    store: Store = "modules",
    base: SavedBase = None,
) -> None:
    """Write a stored module in another library's format.

    Example: madx modules export swa --to adapterhub --out swa-adapter
    """
    from madx.composition import as_composition
    from madx.interop import FORMATS, export_modules
    from madx.store import Store as ModuleStore

    FORMATS.get(form)
    composition, modules = as_composition(stack), ModuleStore(store)
    quiet_transformers()
    loaded = load_recorded_base(composition, modules, base)
    given = {name: modules.load(name, loaded) for name in composition.names()}
    written = export_modules(composition, given, form, folder, base=loaded, as_name=as_name)
    files = sorted(str(p.relative_to(written)) for p in written.rglob("*") if p.is_file())
    out.print(f"wrote '{composition}' to {written}: {', '.join(files)}")


def formats() -> None:
    """List the formats of other libraries that can be imported and exported."""
    from madx.interop import FORMATS

    table = Table("format", "what it is", "files", box=SIMPLE)
    for name, form in FORMATS.items():
        table.add_row(name, Text(form.title), Text(form.files))
    show_table(table)


def _each(values: list[str], names: tuple[str, ...], flag: str) -> dict[str, str]:
    """Module -> value, from one value for the only module or NAME=VALUE for each.

    Raises ConfigError for other names.
    """
    if len(names) == 1 and len(values) == 1 and "=" not in values[0]:
        return {names[0]: values[0]}
    split = dict((name.strip(), value.strip()) for name, _, value in (v.partition("=") for v in values))
    if wrong := [v for v in values if "=" not in v or v.partition("=")[0].strip() not in names]:
        raise ConfigError(
            f"{flag} {', '.join(wrong)}: "
            + (
                f"one value is needed, e.g. {flag} {wrong[0].partition('=')[2] or wrong[0]}."
                if len(names) == 1
                else f"NAME=VALUE is needed for the modules {', '.join(names)}."
            )
        )
    if len(split) < len(values):
        raise ConfigError(f"{flag}: a module is named twice in {', '.join(values)}.")
    return split
