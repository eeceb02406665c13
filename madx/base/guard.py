"""The guard: a base's configs are read as plain JSON and vetted before transformers reads anything of the base.

A config can name code. Versions 4.56 to 5.2 of transformers fetch and run the hub repository that stands under
`_attn_implementation_internal` (CVE-2026-4372), others ask whether to run the classes of `auto_map`, import kernels for
an attention or a quantisation, or read the config from another file. madx runs no code of a base, whatever the version,
so it refuses each key by which a config names code or a file elsewhere, in nested configs too. Weights in pickles are
read by `weights_only`. Chat templates are never run.
"""

import json
import logging
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from madx.base.answers import COMMIT, checked_answers
from madx.errors import BaseError, MadxError

log = logging.getLogger("madx")

CONFIG = "config.json"
#: the files of a base from which transformers would take the name of code
VETTED = (
    CONFIG,
    "tokenizer_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "adapter_config.json",
)
MOST = 1 << 26  # the largest config that is read, in bytes
REVISION = re.compile(r"[A-Za-z0-9_][\w.+/-]{0,200}", re.ASCII)
SAFE_SINCE = (5, 5)  # the first transformers that no known config makes run code

#: implementations of attention and of experts that are part of transformers and torch. The flash attentions are not:
#: where their package is missing, transformers fetches a kernel from the hub.
IMPLEMENTATIONS = frozenset(("eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm"))
#: keys that name code, and what they would do
CODE = {
    "auto_map": "names Python files to import",
    "custom_pipelines": "names Python files to import",
    "custom_generate": "names a Python file to import",
    "_attn_implementation_internal": "names a repository whose code transformers 4.56 to 5.2 run (CVE-2026-4372)",
    "_experts_implementation_internal": "names a repository of code",
    "kernel_config": "names repositories of compiled code",
    "use_kernels": "makes transformers fetch compiled code",
    "trust_remote_code": "asks for code to be run",
    "quantization_config": "makes transformers fetch code; take a base that is not quantised",
    "configuration_files": "names other files to read in place of this one",
}
_TOKENIZER = re.compile(r"\w*(Tokenizer\w*|Backend)", re.ASCII)
_FILE = re.compile(r"[\w-][\w.-]*", re.ASCII)

GIVE = (
    "Give a folder with config.json, model.safetensors and tokenizer files, or the id of a model that is downloaded or "
    "reachable."
)

_warned: set[str] = set()


class UntrustedBaseError(BaseError):
    """A base that somebody else's module names, and that was never fetched to this machine.

    name, revision: of the base.
    """

    def __init__(self, name: str, revision: str | None, *, named_by: str):
        self.name, self.revision, self.named_by = name, revision, named_by
        at = f", revision={revision!r}" if revision else ""
        super().__init__(
            f"{named_by} names the base {name!r}{f' (revision {revision})' if revision else ''}, which was never "
            "fetched to this machine. Its weights and its tokenizer would come from whoever published it. If you trust "
            f"them, name the base yourself: --base {name} on the command line, the setting base={name}, or in Python "
            f"madx.load_base({name!r}{at}) before this."
        )

    def admit(self) -> None:
        """Vet and fetch the base's config, as a user who trusts the base asks for; then the base is known."""
        vetted_revision(self.name, self.revision)


def require_known(name: str, revision: str | None, *, named_by: str) -> None:
    """Raise UntrustedBaseError unless the base is a folder, or lies in the cache of the hub on this machine.

    named_by: who names the base, as the beginning of a sentence.
    """
    from huggingface_hub import try_to_load_from_cache

    _check_revision(name, revision)
    if Path(name).expanduser().exists():
        return
    try:
        known = isinstance(try_to_load_from_cache(name, CONFIG, revision=revision), str)
    except ValueError:  # no id of a repository
        known = False
    if not known:
        raise UntrustedBaseError(name, revision, named_by=named_by)


def vetted_revision(name: str, revision: str | None) -> str | None:
    """Vet the configs of a base; return the revision to load, for a base from the hub the commit that was vetted.

    The configs of a base from the hub are downloaded alone, before all else.

    Raises BaseError for a config that names code or cannot be read, HubError for a hub whose answers are refused.
    """
    _check_revision(name, revision)
    folder = Path(name).expanduser()
    if folder.exists():
        for file in VETTED:
            if (folder / file).exists():
                _vet(folder / file, name)
        return revision
    with checked_answers(most=MOST):
        config = _fetched(name, CONFIG, revision)
        if config is None:
            raise BaseError(f"Cannot load the base {name!r}: it has no {CONFIG}. {GIVE}")
        _vet(config, name)
        commit = config.parent.name  # the layout of the cache: snapshots/COMMIT/FILE
        if not COMMIT.fullmatch(commit):
            raise BaseError(f"The base {name!r} lies in the cache under {commit!r}, which is no commit.")
        for file in VETTED[1:]:
            if (path := _fetched(name, file, commit)) is not None:
                _vet(path, name)
    return commit


def _check_revision(name: str, revision: str | None) -> None:
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise BaseError(f"{revision!r} is no revision of the base {name!r}. Give a branch, a tag or a commit.")


def _fetched(name: str, file: str, revision: str | None) -> Path | None:
    """A config of a base from the hub, in the cache; None if the base has no such file."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

    found: object = None
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
        if revision is not None and COMMIT.fullmatch(revision) and found is not None:
            return Path(found) if isinstance(found, str) else None
        path = Path(hf_hub_download(name, file, revision=revision))
    except MadxError:
        raise
    except Exception as error:  # of huggingface_hub, requests or httpx by version, of the operating system
        lost = isinstance(error, LocalEntryNotFoundError)
        offline = lost and isinstance(error.__cause__, OfflineModeIsEnabled)
        if isinstance(error, EntryNotFoundError) and (not lost or offline and file != CONFIG):
            return None
        # not left to transformers: it might reach the hub a moment later and read what was not vetted
        raise BaseError(f"Cannot load the base {name!r}: {_why(error, revision)}. {GIVE}") from error
    if not isinstance(found, str) and file == CONFIG:
        _warn_of_version(name)
    return path


def _why(error: Exception, revision: str | None) -> str:
    """The reason why the config of a base was not fetched, and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    reasons = {
        HFValidationError: "there is no such folder, and it is no id of a model, as xlm-roberta-base is",
        GatedRepoError: "it is gated; ask for access on its page, then run `hf auth login` or set HF_TOKEN",
        RepositoryNotFoundError: "there is no such folder and no such model on the hub, or it is private; check the "
        "name, and for a private one run `hf auth login` or set HF_TOKEN",
        RevisionNotFoundError: f"it has no branch, tag or commit {revision!r}",
        LocalEntryNotFoundError: "there is no such folder, it is not in the cache of this machine, and the hub cannot "
        "be reached; check the name, the network and HF_HUB_OFFLINE",
    }
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return next((why for kind, why in reasons.items() if isinstance(error, kind)), first)


def _warn_of_version(name: str) -> None:
    """Say, when a base is fetched for the first time, that this transformers could be made to run code by others."""
    import transformers

    numbers = tuple(int(part) for part in re.findall(r"\d+", transformers.__version__)[:2])
    if numbers < SAFE_SINCE and transformers.__version__ not in _warned:
        _warned.add(transformers.__version__)
        log.warning(
            "transformers %s can be made to run code by the config of a base (CVE-2026-4372). madx vets the configs of "
            "the bases that it loads, as of %s now; other programs may not. Better: pip install 'transformers>=%s'",
            transformers.__version__,
            name,
            ".".join(map(str, SAFE_SINCE)),
        )


def _vet(path: Path, name: str) -> None:
    """Raise BaseError for a config that cannot be read, or that names code."""
    content = _read(path, name)
    faults = [*_faults(content, "")]
    if path.name == "adapter_config.json":
        faults = _faults_of_adapter(content)
    if faults:
        raise BaseError(
            f"The {path.name} of the base {name!r} is refused: {'; '.join(faults[:5])}. madx runs no code of a base. "
            "Use another base; if its weights belong to an architecture of `madx bases`, save a copy of it without "
            "these keys and give that folder."
        )


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BaseError(f"The {path.name} of the base {name!r} is no file.")
        if path.stat().st_size > MOST:
            raise BaseError(f"The {path.name} of the base {name!r} is too large: more than {MOST:,} bytes.")
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BaseError(f"Cannot load the base {name!r}: its {path.name} cannot be read as JSON: {why}") from error
    if not isinstance(content, dict):
        raise BaseError(f"Cannot load the base {name!r}: its {path.name} holds no JSON object.")
    return content


def _faults(value: Any, place: str) -> Iterator[str]:
    """Yield all that is refused in a config, at any depth."""
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _faults(inner, f"{place}[{number}]")
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        at = f"{place}.{key}" if place else key
        if (why := _fault(key, inner)) is not None:
            yield f"{at} = {json.dumps(inner)[:120]} {why}"
        else:
            yield from _faults(inner, at)


def _fault(key: str, value: Any) -> str | None:
    """Why a key of a config is refused, or None."""
    if value in (None, False, "", [], {}):
        return None
    if key in CODE:
        return CODE[key]
    if key.endswith("_implementation") and not _all_in(value, IMPLEMENTATIONS):
        return f"is none of {', '.join(sorted(IMPLEMENTATIONS))}, so it may name a repository of code"
    if "kernel" in key and any("/" in text for text in _texts(value)):
        return "names a repository of compiled code"
    if key == "tokenizer_class" and not (isinstance(value, str) and _TOKENIZER.fullmatch(value)):
        return "is no tokenizer of transformers"
    if key == "_commit_hash" and not (isinstance(value, str) and COMMIT.fullmatch(value)):
        return "is no commit"
    if key in ("transformers_weights", "fast_tokenizer_files") and not all(map(_FILE.fullmatch, _texts(value))):
        return "names a file elsewhere"
    return None


def _all_in(value: Any, allowed: frozenset[str]) -> bool:
    """True if a value, or every value of a dictionary of sub-configs, is an allowed text or null."""
    values = value.values() if isinstance(value, dict) else [value]
    return all(one is None or isinstance(one, str) and one in allowed for one in values)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, the keys of dictionaries too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            for inner in pair:
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _faults_of_adapter(content: dict[str, Any]) -> list[str]:
    """An adapter of peft in the folder of a base, where peft is installed: transformers loads the base that it names
    in place of this one, whose config was never vetted."""
    from transformers.utils import is_peft_available

    if not is_peft_available() or "base_model_name_or_path" not in content:
        return []
    return [f"base_model_name_or_path = {json.dumps(content['base_model_name_or_path'])[:120]} names another base"]
