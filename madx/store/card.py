"""The model card of a stored module: README.md, made from `module.json`, with front matter for the Hugging Face hub."""

from collections.abc import Sequence
from typing import Any

from madx.module.pooling import FIRST
from madx.outside import code, markdown
from madx.store.manifest import Manifest
from madx.store.metadata import data_files, file_name, front_matter, hub_base

#: the last line that madx writes begins with these words
MADE = "This card was made by madx from `module.json`"


def model_card(manifest: Manifest, *, place: str | None = None, notes: str = "") -> str:
    """The text of a module's README.md, as markdown.

    place: `hf://owner/name` of a module that is read on the hub; notes: a user's own text, which comes last.
    """
    end = f"{MADE}, which holds the same and is what madx reads. When it is made anew, only what stands below is kept."
    sections = [front_matter(manifest), _introduction(manifest), _usage(manifest, place), _tables(manifest), end]
    return "\n\n".join(sections) + "\n" + (f"\n{notes.strip()}\n" if notes.strip() else "")


def notes_of(card: str) -> str | None:
    """The text that a user wrote below madx's last line; None for a card that madx did not make."""
    _, made, after = card.rpartition(f"\n{MADE}")
    return after.partition("\n")[2].strip() if made else None


def _base_name(manifest: Manifest) -> str:
    """The id of the base, or the last name of its folder: a card tells nobody's home folder."""
    if manifest.base is None:
        return "any base of its shape"
    return hub_base(manifest) or file_name(manifest.base.name)


def _introduction(manifest: Manifest) -> str:
    weights, base = manifest.weights, markdown(_base_name(manifest))
    size = f"{weights.parameters:,} numbers, {weights.bytes / 1e6:.1f} MB in {weights.dtype}"
    if manifest.role == "language":
        what = (
            f"It teaches the frozen base **{base}** the language {code(manifest.language)}: put a task module, trained "
            "under another language's module, on top of it, and the task works in this language."
        )
    elif manifest.role == "fusion":
        what = (
            f"It joins the changes that {_joined(manifest)} would make to the frozen base **{base}**, by weights that "
            "it learnt: load those modules too and name them before the semicolon."
        )
    else:
        language = f", trained in {code(manifest.language)}" if manifest.language else ""
        labels = ", ".join(code(label) for label in manifest.labels) or "none"
        task = f"the task {code(manifest.task)}" if manifest.task else "a task"
        what = (
            f"It teaches the frozen base **{base}** {task}{language}. Put it on top of a language module; swap that "
            f"one to change the language. Labels: {labels}.{_pooling(manifest)}"
        )
    return f"# {manifest.name}\n\nA {manifest.role} module of madx ({size}). {what}"


def _joined(manifest: Manifest) -> str:
    """The modules that a fusion module was trained over, in words."""
    return ", ".join(map(code, manifest.info().joins)) or "other modules"


def _pooling(manifest: Manifest) -> str:
    """A sentence on the pieces of a word that the head reads, where these are not the usual ones."""
    return "" if manifest.pooling == FIRST else f" The label of a word is read by the pooling {code(manifest.pooling)}."


def _usage(manifest: Manifest, place: str | None) -> str:
    note = {"language": "  # with a task module: '{0} + ner'", "task": "  # under a language module: 'swa + {0}'"}
    fusion = manifest.role == "fusion"
    names = ", ".join(manifest.info().joins) or "swa, hau"
    composition = f"fuse({names}; {manifest.name})" if fusion else manifest.name  # it acts on others' changes alone
    name = (manifest.base and (hub_base(manifest) or f"path/to/{_base_name(manifest)}")) or "path/to/base"
    lines = [
        "import madx",
        f"base = madx.load_base({name!r})",
        "engine = madx.Engine(base)",
        f"engine.attach(madx.load({place!r}, base))"
        if place
        else f"engine.attach(madx.load_module({manifest.name!r}, base))  # the folder of this card",
        f"engine.activate({composition!r})" + note.get(manifest.role, "").format(manifest.name),
    ]
    return "## How to load\n\n```python\n" + "\n".join(lines) + "\n```"


def _tables(manifest: Manifest) -> str:
    training, base = manifest.training, manifest.base
    components = [(c.type, key, value) for c in manifest.components for key, value in _flat(c.settings) or [("", "")]]
    identity: dict[str, Any] = {"name": _base_name(manifest)}
    if base is not None:
        identity |= {"revision": base.revision, **base.architecture, "fingerprint": base.fingerprint}
    files = [(file_name(d["path"]), d.get("sha256"), d.get("bytes")) for d in data_files(manifest)]
    settings = {k: v for k, v in training.items() if k not in ("data", "datasets", "scores")}
    return "\n\n".join(
        [
            "## Components\n\n" + _table(("component", "setting", "value"), components),
            "## Base\n\n" + _table(("", "value"), _flat(identity | {"tokenizer": manifest.tokenizer})),
            "## Training data\n\n" + _table(("file", "sha256", "bytes"), files),
            "## Training\n\n" + _table(("setting", "value"), _flat(settings)),
            "## Scores\n\n" + _table(("score", "value"), _flat(training.get("scores", {}))),
        ]
    )


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as rows with dotted keys.

    >>> _flat({"a": {"b": 1, "c": [2, 3]}})
    [('a.b', 1), ('a.c', '2, 3')]
    """
    if isinstance(value, dict):
        return [row for key in sorted(value) for row in _flat(value[key], f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, (list, tuple)):
        return [(prefix, ", ".join(map(str, value)))]
    return [(prefix, value)]


def _table(head: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> str:
    if not rows:
        return "Not recorded."
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join("–" if c is None else markdown(c) for c in line) + " |" for line in lines)
