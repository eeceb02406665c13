"""`madx similarity`: the similarity of languages, and the weights that it gives to the proxies of `madx evaluate`."""

import json
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from madx.cli.console import out, show_table
from madx.cli.options import pairs, settings
from madx.errors import ConfigError
from madx.outside import visible_json

if TYPE_CHECKING:
    from rich.table import Table


def similarity(
    texts: Annotated[
        list[str], typer.Argument(metavar="LANG=PATH...", show_default=False, help="A language and a small text of it.")
    ],
    measure: Annotated[
        Optional[str], typer.Option(help="jensen_shannon (default) or cosine, of the n-gram counts.")
    ] = None,
    ngram: Annotated[Optional[int], typer.Option(help="Characters of an n-gram (default: 3).")] = None,
    sharpness: Annotated[
        Optional[float], typer.Option(help="Weights are proportional to similarity to this power (default: 1).")
    ] = None,
    top: Annotated[
        Optional[int], typer.Option(help="Number of the most similar that get a weight (default: all).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the similarity of languages by their character n-grams, and the weights of a mean that stands in for each.

    Example: madx similarity swa=swa.txt kin=kin.txt zul=zul.txt eng=eng.txt

    A few hundred sentences of each are enough. `madx evaluate` computes the same from the setting proxies.texts.
    """
    from madx.jobs.proxies import Proxies, likeness, proxy_weights

    flags = {"measure": measure, "ngram": ngram, "sharpness": sharpness, "top": top}
    chosen = settings(Proxies, None, None, flags).model_copy(update={"texts": _once(texts)})
    alike = likeness(chosen)
    weights = {a: proxy_weights(chosen, a, pool={b: b for b in alike if b != a}, alike=alike) for a in alike}
    if as_json:
        record = {"measure": chosen.measure, "ngram": chosen.ngram, "similarity": alike, "weights": weights}
        out.print(visible_json(json.dumps(record, indent=2, ensure_ascii=False)))
        return
    show_table(_table(alike))
    out.print("As settings of `madx evaluate`, where modules are named after their languages:\n")
    out.print("proxies:\n  use: [nearest, weighted]\n  weights:")
    for language, found in weights.items():
        text = ", ".join(f"{name}: {weight:g}" for name, weight in found.items()) if isinstance(found, dict) else None
        out.print(f"    {language}: {{{text}}}" if text else f"    # {language}: {found}")


def _once(texts: list[str]) -> dict[str, str]:
    languages = {text.partition("=")[0] for text in texts}
    if len(languages) < len(texts):
        raise ConfigError(
            f"{len(texts)} texts of {len(languages)} languages: give one text for each; join the files of a language."
        )
    return pairs(texts, "madx similarity")


def _table(alike: dict[str, dict[str, float]]) -> "Table":
    """A table of similarities in percent, the nearest of each row in bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("", *alike, box=box.SIMPLE, title="similarity, percent", title_justify="left")
    for language, row in alike.items():
        highest = max(value for other, value in row.items() if other != language)
        cells = [
            Text("-", style="dim")
            if other == language
            else Text(f"{100 * value:.1f}", style="bold" if value == highest else "")
            for other, value in row.items()
        ]
        table.add_row(language, *cells)
    return table
