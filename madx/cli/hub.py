"""`madx modules push` and `pull`: stored modules out to the Hugging Face hub and back."""

from typing import Annotated, Optional

import typer
from rich.text import Text

from madx.cli.console import out, shell
from madx.cli.options import Store
from madx.errors import StoreError

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.")]


def push(
    name: Annotated[str, typer.Argument(help="Name of a stored module.")],
    repository: Repository,
    store: Store = "modules",
    revision: Annotated[
        Optional[str], typer.Option(metavar="BRANCH", help="Branch to commit to, made if need be (default: main).")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Only its owner may read it; one that all may read is refused.")
    ] = False,
    message: Annotated[Optional[str], typer.Option("--message", "-m", help="What the commit says.")] = None,
    licence: Annotated[
        Optional[str], typer.Option(help="SPDX licence, e.g. cc-by-4.0, where the module records none.")
    ] = None,
) -> None:
    """Publish a stored module on the Hugging Face hub, with a card that its filters read.

    Example: madx modules push swa juma/xlmr-swa --licence cc-by-4.0

    The token is that of `hf auth login` or of HF_TOKEN.
    """
    from madx.interop.hub import Hub

    made = Hub().push(
        name, repository, store=store, revision=revision, private=private or None, message=message, licence=licence
    )
    out.print(Text.assemble("pushed ", (name, "bold cyan"), f" to {made.url}, commit {made.revision}"))
    out.print("\nAnybody who may read it gets it by:")
    command = shell("madx", "modules", "pull", made.repository, "--revision", made.revision)
    for line in (command, f'madx.load("{made.reference}", base)'):
        out.print(Text(f"  {line}", style="cyan"))


def pull(
    repository: Repository,
    store: Store = "modules",
    revision: Annotated[
        Optional[str],
        typer.Option(
            metavar="REVISION", help="Commit, tag or branch (default: the newest of main).", show_default=False
        ),
    ] = None,
    name: Annotated[Optional[str], typer.Option(help="Name in the store (default: the one it has).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a stored module of that name.")] = False,
) -> None:
    """Fetch a module from the Hugging Face hub into the store; then use it by its name, like any other.

    Example: madx modules pull juma/xlmr-swa --revision v1

    The commit is recorded in the module (`madx modules show NAME`: training.pulled). Nothing that is fetched is
    executed.
    """
    from madx.interop.hub import Hub

    row = Hub().pull(repository, store, revision=revision, name=name, overwrite=overwrite)
    info = row.info
    if info is None:
        raise StoreError(f"The module {row.name!r} in {store} cannot be read.")
    origin = info.training["pulled"]
    out.print(
        Text.assemble("pulled ", (row.name, "bold cyan"), f" from {origin['repository']}, commit {origin['revision']}")
    )
    base = info.base["name"] if info.base else "any of its shape"
    language = f", language {info.language}" if info.language else ""
    out.print(f"  {info.role} module{language}, base {base}, licence {info.licence or 'not recorded'}")
    out.print(f"  stored in {row.path}")
