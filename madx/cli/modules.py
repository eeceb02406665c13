"""`madx modules`: the modules of a store, module types and presets (push and pull are in madx/cli/hub.py)."""

from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from madx.cli import foreign
from madx.cli.console import counted, out, show_table
from madx.cli.options import Store
from madx.errors import StoreError
from madx.outside import visible

if TYPE_CHECKING:
    from madx.module import ModuleInfo
    from madx.store import Store as ModuleStore

app = typer.Typer(
    no_args_is_help=True,
    help="Stored modules and masked-LM heads: list, show, verify, remove. Modules: push and pull. Other people's "
    "files: import, export, formats. Module types and presets: types, presets.",
)
Name = Annotated[str, typer.Argument(help="Name of a stored module.")]


def _store(folder: str) -> "ModuleStore":
    from madx.store import Store as ModuleStore

    return ModuleStore(folder)


@app.command("list")
def list_modules(store: Store = "modules") -> None:
    """List the modules of a store, then its masked-LM heads (of madx train-head); a damaged one with its fault."""
    rows, heads = _store(store).list(), _store(store).heads()
    if not rows and not heads:
        out.print(f"No modules in {store}. Train one with: madx train-language")
        return
    table = Table("name", "role", "language", "components", "base", "parameters", "size", "score", box=SIMPLE)
    for row in rows:
        info = row.info
        if row.fault or info is None or row.weights is None:
            table.add_row(row.name, Text(f"damaged: {row.fault}", style="red"))
            continue
        role = f"{info.role} ({info.task})" if info.task else info.role
        base = info.base["name"] if info.base else "-"
        table.add_row(
            row.name,
            role,
            info.language or "-",
            ", ".join(info.components) or "(head alone)",
            base,
            f"{row.weights.parameters:,}",
            _size(row.bytes),
            _score(info),
        )
    for head in heads:
        if head.fault or head.record is None:
            table.add_row(head.name, Text(f"damaged: {head.fault}", style="red"))
            continue
        table.add_row(
            head.name,
            "masked-LM head",
            ", ".join(head.record.languages),
            "-",
            head.record.base.name,
            f"{head.record.weights.parameters:,}",
            _size(head.bytes),
            f"perplexity {head.record.perplexity}",
        )
    show_table(table)


@app.command()
def show(name: Name, store: Store = "modules") -> None:
    """Show the whole record of a module or of a masked-LM head: components, base, training, scores, files."""
    heads = {head.name: head for head in _store(store).heads()}
    if name in heads:
        if (head := heads[name]).record is None or head.fault:
            raise StoreError(head.fault or f"The head {name!r} in {store} cannot be read.")
        content = head.record.model_dump(mode="json", exclude={"training": {"history"}})
        return _print_record({"name": name, "role": "masked-LM head", **content, "folder": str(head.path)})
    row = _store(store).show(name)
    info, weights = row.info, row.weights
    if info is None or weights is None:
        raise StoreError(f"The module {name!r} in {store} cannot be read.")
    training = {key: value for key, value in info.training.items() if key not in ("history", "explanation")}
    record = {
        "name": info.name,
        "role": info.role,
        "language": info.language,
        "task": info.task,
        "labels": list(info.labels),
        **({"pooling": info.pooling} if info.labels else {}),
        "components": {component: config.model_dump(mode="json") for component, config in info.components.items()},
        "base": info.base,
        "licence": info.licence,
        "training": training,
        "weights": weights.model_dump(),
        "folder": str(row.path),
    }
    _print_record({key: value for key, value in record.items() if value not in (None, [], {})})


def _print_record(record: dict[str, object]) -> None:
    import yaml

    out.print(yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=120).rstrip())


@app.command()
def verify(
    name: Annotated[
        Optional[str], typer.Argument(help="Name of a module or head; none: all.", show_default=False)
    ] = None,
    store: Store = "modules",
) -> None:
    """Read every file and compare it with what is recorded of it; exit code 1 if anything is wrong."""
    modules = _store(store)
    faults = modules.verify(name)
    if faults:
        raise StoreError("Faults in the store:\n  " + "\n  ".join(faults))
    heads = [head.name for head in modules.heads() if name in (None, head.name)]
    count = len(modules.names()) if name is None else 0 if heads else 1
    found = [counted(number, what) for number, what in ((count, "module"), (len(heads), "masked-LM head")) if number]
    out.print(
        Text.assemble((f"{', '.join(found) or '0 modules'} whole and as recorded", "green"), f" ({modules.root})")
    )


@app.command()
def remove(
    name: Name, store: Store = "modules", yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete a stored module or masked-LM head."""
    modules = _store(store)
    known = {row.name: row for row in modules.list()} | {head.name: head for head in modules.heads()}
    if name in known and not yes:
        question = f"Delete {name} ({_size(known[name].bytes)}) in {known[name].path}?"
        typer.confirm(visible(question), abort=True)
    modules.remove(name)
    out.print(f"removed {name} from {modules.root}")


app.command("import")(foreign.import_module)
app.command("export")(foreign.export_module)
app.command("formats")(foreign.formats)


@app.command()
def types(
    name: Annotated[Optional[str], typer.Argument(help="Only this module type.", show_default=False)] = None,
) -> None:
    """List the module types, each as YAML with all settings, for `components:` of a settings file."""
    import sys

    from madx.config import describe
    from madx.module_types import MODULE_TYPES

    out.print("components:")
    for kind_name in [name] if name else MODULE_TYPES.names():
        kind = MODULE_TYPES.get(kind_name)
        meaning = _first_line(sys.modules[kind.__module__])
        out.print(Text.assemble("  ", (kind_name, "bold cyan"), ":   ", (f"# {meaning}", "bold")))
        for line in describe(kind.Config, indent="    ").rstrip().split("\n"):
            out.print(Text(line, style="dim" if line.lstrip().startswith("#") else ""))


@app.command()
def presets() -> None:
    """List the presets: named sets of components, for `components: NAME` in YAML or --components NAME.

    One setting changed: `components: {preset: madx, bottleneck: {reduction_factor: 4}}` in YAML and Python, or
    `--components madx --set components.bottleneck.reduction_factor=4`.
    """
    from madx.module.presets import PRESETS

    table = Table("preset", "what it is", "components", box=SIMPLE)
    for name, (components, description) in PRESETS.items():
        settings = "; ".join(
            f"{component}" + (f" ({', '.join(f'{k}={_plain(v)}' for k, v in s.items())})" if s else "")
            for component, s in components.items()
        )
        table.add_row(name, Text(description), Text(settings))
    show_table(table)


def _plain(value: object) -> str:
    """A value as YAML shows it on one line."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _score(info: "ModuleInfo") -> str:
    """The score that training recorded, in a few words."""
    scores = info.training.get("scores", {})
    if "held_out_after" in scores:  # by a job together with the one before; by hand or by another tool alone
        before, after = (scores.get(key, {}).get("perplexity", "?") for key in ("held_out_before", "held_out_after"))
        return f"perplexity {_number(before)} -> {_number(after)}"
    return ", ".join(f"{key} {_number(value)}" for key, value in list(scores.get("dev", {}).items())[:1])


def _number(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, (int, float)) else str(value)
