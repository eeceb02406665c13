"""The model card of a stored module: README.md, made from `module.json`, with front matter for the Hugging Face hub."""

from pathlib import PurePath, PureWindowsPath
from typing import Any

from madx.store.manifest import Manifest

#: the hub files models under the two-letter code where ISO 639 has one: three letters of 639-3, then two of 639-1
TWO_LETTERS = """
aaraa abkab afraf akaak amham araar argan asmas avaav aveae aymay azeaz bakba bambm belbe benbn bisbi bodbo bosbs
brebr bulbg catca cescs chach chece chucu chvcv corkw cosco crecr cymcy danda deude divdv dzodz ellel engen epoeo
estet euseu eweee faofo fasfa fijfj finfi frafr fryfy fulff glagd glega glggl glvgv grngn gujgu hatht hauha hbssh
hebhe herhz hinhi hmoho hrvhr hunhu hyehy iboig idoio iiiii ikuiu ileie inaia indid ipkik islis itait javjv jpnja
kalkl kankn kasks katka kaukr kazkk khmkm kikki kinrw kirky komkv konkg korko kuakj kurku laolo latla lavlv limli
linln litlt ltzlb lublu luglg mahmh malml marmr mkdmk mlgmg mltmt monmn mrimi msams myamy nauna navnv nblnr ndend
ndong nepne nldnl nnonn nobnb norno nyany ocioc ojioj orior ormom ossos panpa plipi polpl porpt pusps quequ rohrm
ronro runrn rusru sagsg sansa sinsi slksk slvsl smese smosm snasn sndsd somso sotst spaes sqisq srdsc srpsr sswss
sunsu swasw swesv tahty tamta tattt telte tgktg tgltl thath tirti tonto tsntn tsots tuktk turtr twitw uigug ukruk
urdur uzbuz venve vievi volvo wlnwa wolwo xhoxh yidyi yoryo zhaza zhozh zulzu
"""
HUB_CODES = {entry[:3]: entry[3:] for entry in TWO_LETTERS.split()}

#: the hub's names of what a model is for, by task
PIPELINES = {"ner": "token-classification", "pos": "token-classification"}


def model_card(manifest: Manifest) -> str:
    """README.md of a module, as markdown."""
    return "\n\n".join([_front_matter(manifest), _introduction(manifest), _usage(manifest), _tables(manifest)]) + "\n"


def hub_base(manifest: Manifest) -> str | None:
    """The base's id on the hub; None for a base from a folder, which has no revision."""
    return manifest.base.name if manifest.base and manifest.base.revision else None


def _base_name(manifest: Manifest) -> str:
    """Its id, or the last name of its folder: a card tells nobody's home folder."""
    if manifest.base is None:
        return "any base of its shape"
    return hub_base(manifest) or _file_name(manifest.base.name)


def _file_name(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else PurePath(path).name


def _front_matter(manifest: Manifest) -> str:
    import yaml

    front: dict[str, Any] = {"library_name": "madx", "tags": ["madx", f"{manifest.role}-module", "cross-lingual"]}
    if manifest.language is not None:
        code = manifest.language.split("-")[0]
        front["language"] = [HUB_CODES.get(code, code)]
        if "-" in manifest.language:
            front["language_bcp47"] = [manifest.language]
    if manifest.licence:
        front["license"] = manifest.licence.lower()
    if (base := hub_base(manifest)) is not None:
        front |= {"base_model": base, "base_model_relation": "adapter"}
    if manifest.task in PIPELINES:
        front["pipeline_tag"] = PIPELINES[manifest.task]
    if manifest.task:
        front["tags"].append(manifest.task)
    if datasets := [d for d in _list(manifest.training.get("datasets")) if isinstance(d, str)]:
        front["datasets"] = datasets
    return "---\n" + yaml.safe_dump(front, sort_keys=True, allow_unicode=True) + "---"


def _introduction(manifest: Manifest) -> str:
    weights, base = manifest.weights, _text(_base_name(manifest))
    size = f"{weights.parameters:,} numbers, {weights.bytes / 1e6:.1f} MB in {weights.dtype}"
    if manifest.role == "language":
        what = (
            f"It teaches the frozen base **{base}** the language `{manifest.language}`: put a task module, trained "
            "under another language's module, on top of it, and the task works in this language."
        )
    else:
        language = f", trained in `{manifest.language}`" if manifest.language else ""
        labels = ", ".join(f"`{_text(label)}`" for label in manifest.labels) or "none"
        task = f"the task `{_text(manifest.task)}`" if manifest.task else "a task"
        what = (
            f"It teaches the frozen base **{base}** {task}{language}. Put it on top of a language module; swap that "
            f"one to change the language. Labels: {labels}."
        )
    return f"# {manifest.name}\n\nA {manifest.role} module of madx ({size}). {what}"


def _usage(manifest: Manifest) -> str:
    note = {"language": "  # with a task module: '{0} + ner'", "task": "  # under a language module: 'swa + {0}'"}
    name = (manifest.base and (hub_base(manifest) or f"path/to/{_base_name(manifest)}")) or "path/to/base"
    lines = [
        "import madx",
        f"base = madx.load_base({name!r})",
        "engine = madx.Engine(base)",
        f"engine.attach(madx.load_module({manifest.name!r}, base))  # the folder of this card",
        f"engine.activate({manifest.name!r})" + note[manifest.role].format(manifest.name),
    ]
    return "## How to load\n\n```python\n" + "\n".join(lines) + "\n```"


def _tables(manifest: Manifest) -> str:
    training, base = manifest.training, manifest.base
    parts = [(p.type, key, value) for p in manifest.parts for key, value in _flat(p.settings) or [("", "")]]
    identity = {"name": _base_name(manifest)}
    if base is not None:
        identity |= {"revision": base.revision, **base.architecture, "fingerprint": base.fingerprint}
    data = [d if isinstance(d, dict) else {"path": d} for d in _list(training.get("data"))]
    files = [(_file_name(str(d.get("path"))), d.get("sha256"), d.get("bytes")) for d in data]
    settings = {k: v for k, v in training.items() if k not in ("data", "datasets", "scores")}
    return "\n\n".join([
        "## Parts\n\n" + _table(("part", "setting", "value"), parts),
        "## Base\n\n" + _table(("", "value"), _flat(identity | {"tokenizer": manifest.tokenizer})),
        "## Training data\n\n" + _table(("file", "sha256", "bytes"), files),
        "## Training\n\n" + _table(("setting", "value"), _flat(settings)),
        "## Scores\n\n" + _table(("score", "value"), _flat(training.get("scores", {}))),
        "This card was made by madx from `module.json`, which holds the same and is what madx reads.",
    ])  # fmt: skip


def _list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


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


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    if not rows:
        return "Not recorded."
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join("–" if c is None else _text(c) for c in line) + " |" for line in lines)


def _text(value: Any) -> str:
    """On one line and without table or HTML marks of its own."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
