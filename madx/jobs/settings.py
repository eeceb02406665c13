"""Settings that the jobs share, and the data that a job takes: a file, or data in memory."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, model_validator

from madx.config import Settings
from madx.errors import MadxError
from madx.jobs.memory import as_files, require_whole

if TYPE_CHECKING:
    #: raw text: a path, a list of paths, or texts in memory; once checked, paths alone
    Corpus = Any
    #: labelled sentences: a path or sentences in memory; once checked, a path alone
    LabelledData = Any
else:
    Corpus = str | list[str]
    LabelledData = str

#: a seed of random numbers: torch takes 64 bits
Seed = Annotated[int, Field(ge=0, lt=1 << 64)]

#: the three forms of the setting `components`, for its description
COMPONENTS = (
    "A preset, as madx; a preset with settings changed, as {preset: madx, bottleneck: {reduction_factor: 4}}; or all "
    "settings by module type."
)
#: the description of the setting `fuse`
FUSE = "Stored modules, e.g. [{}]: a fusion module is trained over them, which stay as they are (AdapterFusion)."
#: the description of the setting `scoring`
SCORING = (
    "Reading of an I- that continues nothing: strict, it is no entity; lenient, it begins one (conlleval, seqeval's "
    "default)."
)


def as_fault(check: Callable[[], object]) -> None:
    """Run a check of ours for pydantic, which gathers ValueErrors alone."""
    try:
        check()
    except MadxError as error:
        raise ValueError(str(error)) from None


class DataSettings(Settings):
    """Settings with data among them. In Python the data may be in memory (`madx.jobs.memory`)."""

    #: names of the settings that take raw text, and of those that take labelled sentences
    TEXTS: ClassVar[tuple[str, ...]] = ()
    LABELLED: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _data_as_files(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        if info.mode == "json":
            require_whole(values, [*cls.TEXTS, *cls.LABELLED])
            return values
        given = {key: values.get(key) for key in ("text_key", "limit") if "text_key" in cls.model_fields}
        return as_files(values, texts=cls.TEXTS, labelled=cls.LABELLED, **given)


class JobSettings(DataSettings):
    """Settings of every job."""

    base: str = Field(description="Folder or id of the frozen base, e.g. xlm-roberta-base.")
    revision: str | None = Field(default=None, description="Commit, tag or branch of a downloaded base.")
    store: str = Field(default="modules", description="Folder of modules.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to compute.")


def with_preset(values: Any, default: str) -> Any:
    """Plain settings in which modules are fused, with the preset `fusion` in the place of the job's default preset.

    >>> with_preset({"fuse": ["swa", "hau"]}, "madx")["components"]
    'fusion'
    """
    given = values if isinstance(values, dict) else {}
    if not given.get("fuse"):
        return values
    components = given.get("components", default)
    if components == default:
        components = "fusion"
    elif isinstance(components, dict) and components.get("preset") == default:  # one setting was changed by --set
        components = {**components, "preset": "fusion"}
    return {**given, "components": components}
