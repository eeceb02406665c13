"""The front matter of a model card, made from `module.json` for the filters and leaderboards of the Hugging Face hub.

Its keys are the hub's: language, license, base_model and base_model_relation, library_name, tags, pipeline_tag,
datasets, and the scores as `model-index` (task, data set and metrics).
"""

from collections.abc import Sequence
from pathlib import PurePath, PureWindowsPath
from typing import Any

from madx.store.manifest import Manifest
from madx.store.training_record import DataFile

#: three letters of ISO 639-3, then the two of 639-1 under which the hub files models where there are two
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

#: licences that the hub knows; it files any other under `other`, with its name beside
HUB_LICENCES = frozenset(
    """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m ecl-2.0
epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0
ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql unlicense wtfpl zlib
""".split()
)

#: the hub's names of what a model is for, by task; a language module fills masks
PIPELINES = {"ner": "token-classification", "pos": "token-classification"}
FILL_MASK = "fill-mask"

#: data sets of training data are given as datasets:NAME[:CONFIG][:SPLIT]
DATASETS = "datasets:"


def front_matter(manifest: Manifest) -> str:
    """The front matter as YAML between its two lines of dashes."""
    import yaml

    tags = ["madx", f"{manifest.role}-module", "cross-lingual", *(component.type for component in manifest.components)]
    front: dict[str, Any] = {"library_name": "madx", "tags": tags}
    if manifest.language is not None:
        code = manifest.language.split("-")[0]
        front["language"] = [HUB_CODES.get(code, code)]
        if "-" in manifest.language:
            front["language_bcp47"] = [manifest.language]
    if manifest.licence:
        front |= licence_keys(manifest.licence)
    if (base := hub_base(manifest)) is not None:
        front |= {"base_model": base, "base_model_relation": "adapter"}
    if purpose := _pipeline(manifest):
        front["pipeline_tag"] = purpose
    if manifest.task:
        tags.append(manifest.task)
    if names := _datasets(manifest):
        front["datasets"] = names
    if results := _results(manifest):
        front["model-index"] = [{"name": manifest.name, "results": results}]
    return "---\n" + yaml.safe_dump(front, sort_keys=True, allow_unicode=True) + "---"


def licence_keys(licence: str) -> dict[str, str]:
    """An SPDX licence in the hub's words.

    >>> licence_keys("GPL-3.0-or-later"), licence_keys("Ours 1.0")
    ({'license': 'gpl-3.0'}, {'license': 'other', 'license_name': 'Ours 1.0'})
    """
    known = licence.lower().removesuffix("-only").removesuffix("-or-later")
    return {"license": known} if known in HUB_LICENCES else {"license": "other", "license_name": licence}


def hub_base(manifest: Manifest) -> str | None:
    """The base's id on the hub; None for a base from a folder, which has no revision."""
    return manifest.base.name if manifest.base and manifest.base.revision else None


def file_name(path: str) -> str:
    """The last name of a path of any system: a card tells nobody's home folder."""
    return PureWindowsPath(path).name if "\\" in path else PurePath(path).name


def data_files(manifest: Manifest) -> Sequence[DataFile]:
    """The records of the training data; those of development data come last."""
    return manifest.training.get("data", [])


def _pipeline(manifest: Manifest) -> str | None:
    return FILL_MASK if manifest.role == "language" else PIPELINES.get(manifest.task or "")


def _datasets(manifest: Manifest) -> list[str]:
    """Data sets of the hub that were trained on, in order, once each."""
    paths = [file["path"] for file in data_files(manifest)]
    named = [path.split(":")[1] for path in paths if path.startswith(DATASETS)]
    return list(dict.fromkeys(name for name in (*manifest.training.get("datasets", []), *named) if name))


def _results(manifest: Manifest) -> list[dict[str, Any]]:
    """The scores as the hub's `model-index` has them.

    Those of a task module are on the development data, the last of its data; those of a language module, with it, on
    the part of its text that was held out. An infinite score is left out: the hub takes numbers alone.
    """
    chosen, what = ("held_out_after", "held-out part") if manifest.role == "language" else ("dev", "development data")
    scores, files = manifest.training.get("scores", {}).get(chosen, {}), data_files(manifest)
    found = sorted(scores.items()) if isinstance(scores, dict) else []
    metrics = [{"type": name, "value": value} for name, value in found if not isinstance(value, str)]
    if not metrics:
        return []
    task = _pipeline(manifest) or manifest.task or "other"
    data = _dataset(files[-1]["path"] if files else "", what)
    return [{"task": {"type": task}, "dataset": data, "metrics": metrics}]


def _dataset(path: str, what: str) -> dict[str, str]:
    """Name, type and, for a data set of the hub, config and split."""
    if not path.startswith(DATASETS):
        return {"name": f"{what} ({file_name(path)})" if path else what, "type": "local"}
    name, *rest = path.removeprefix(DATASETS).split(":", 2)
    parts = dict(zip(("config", "split"), rest)) if len(rest) == 2 else {}
    return {"name": " ".join([name, *rest]), "type": name} | parts
