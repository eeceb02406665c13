"""What a place on the hub is called, and what the hub's refusals mean in words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError

from madx.composition import HUB_MARK
from madx.errors import HubError, MadxError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w.+/-]{0,200}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")

#: files by which a repository of something else is known, what it then is, and what to do
OTHERS = (
    (("pytorch_diff.bin",), "a difference of composable-sft", "madx modules import FOLDER --from composable-sft"),
    (
        ("pytorch_adapter.bin", "adapter.safetensors"),
        "an adapter of AdapterHub",
        "madx modules import FOLDER --from adapterhub",
    ),
    (("adapter_model.safetensors", "adapter_model.bin"), "an adapter of peft, which madx does not read", None),
    (("model.safetensors", "pytorch_model.bin"), "a whole model: give it as the base", None),
)


@dataclass(frozen=True)
class Place:
    """A repository of the hub, and the branch, tag or commit in it that was asked for; None: main."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> "Place":
        """`owner/name` or `hf://owner/name`, either with `@revision`; raises HubError for anything else.

        >>> Place.parse("hf://juma/swa@v1")
        Place(repository='juma/swa', revision='v1')
        """
        repository, at, inside = str(text).removeprefix(HUB_MARK).partition("@")
        if at and revision is not None:
            raise HubError(f"{text!r} names a revision, and {revision!r} is given too. Give one of them.")
        wanted = inside if at else revision
        bad = ".." in repository or "--" in repository or repository.endswith((".git", ".", "-"))
        if not REPOSITORY.fullmatch(repository) or bad:
            raise HubError(
                f"{text!r} is no place on the hub. Give OWNER/NAME or {HUB_MARK}OWNER/NAME, with @REVISION where one is "
                "meant: letters, digits, '.', '_', '-'."
            )
        if wanted is not None and (not REVISION.fullmatch(wanted) or ".." in wanted or "//" in wanted):
            raise HubError(f"{wanted!r} is no revision. Give a branch, a tag or a commit's 40 digits.")
        return cls(repository, wanted)

    @property
    def is_commit(self) -> bool:
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


@contextmanager
def explained(doing: str, place: Place, endpoint: str) -> Iterator[None]:
    """Whatever huggingface_hub raises inside becomes a HubError: what was tried, why it failed, what to do."""
    try:
        yield
    except MadxError:
        raise
    except Exception as error:  # of requests or httpx by version, of the operating system, of a reply that is no JSON
        first = error
        while isinstance(first, RuntimeError) and isinstance(first.__cause__, Exception):
            first = first.__cause__  # an upload's own failure lies below "error while uploading"
        why = unreachable(first) or _refusal(first, place, endpoint)
        raise HubError(f"Cannot {doing} {place}: {why.rstrip('.')}.") from error


def unreachable(error: Exception) -> str | None:
    """Why no answer of the hub came, or None when it did answer."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE=1)"
    if isinstance(error, HfHubHTTPError):
        status = _status(error)
        down = status is not None and status >= 500
        return f"the hub is out of order (status {status}); try again later" if down else None
    if isinstance(error, JSONDecodeError):
        return "what answers is no hub; look at the network, its proxies and HF_ENDPOINT"
    of_the_net = isinstance(error, HTTPError) or type(error).__module__.split(".")[0] in ("requests", "urllib3")
    if of_the_net or isinstance(error, (ConnectionError, TimeoutError)):
        return f"the hub cannot be reached ({type(error).__name__}); look at the network, its proxies and HF_ENDPOINT"
    return None


def _refusal(error: Exception, place: Place, endpoint: str) -> str:
    """What an answer of the hub says; the library's classes first, then the status."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status, said = _status(error), _said(error)
    if isinstance(error, GatedRepoError):
        return f"it is gated. Ask for access at {endpoint}/{place.repository}, then run `hf auth login` or set HF_TOKEN"
    if status == 401 and "credentials" in said.lower():
        return "the hub does not know this token. Run `hf auth login` again, or correct HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return (
            f"it has no branch, tag or commit {place.revision or 'main'!r}. See {endpoint}/{place.repository}/commits"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            "there is no such model, or it is private and this user may not see it. Check the name; for a private one "
            "run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return "the connection broke before all was fetched. Repeat"
    if status in (401, 403):
        what = said or f"status {status}"
        return f"the hub refuses this token ({what}). It needs the right to write to {place.repository}"
    if status == 429:
        return "the hub asks for a pause (too many requests). Wait some minutes and repeat"
    if isinstance(error, OSError) and status is None:
        return f"{error.strerror or error} ({type(error).__name__})"
    return said or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def found_instead(files: list[str], place: Place) -> str:
    """What a repository without a module looks like, in words that go on from there."""
    files = [file for file in files if file != ".gitattributes"]
    if not files:
        return "It is empty: nothing was pushed to this revision."
    names = {file.rpartition("/")[2] for file in files}
    there = listed(files)
    for known, what, command in OTHERS:
        if names & set(known):
            fetch = f"hf download {place.repository} --local-dir FOLDER"
            return f"It looks like {what}.{f' Fetch it by `{fetch}`, then `{command}`.' if command else ''} Files: {there}."
    return f"A module is module.json and weights.safetensors; there are: {there}."


def listed(files: list[str]) -> str:
    """The first files, in order, and how many more there are."""
    return ", ".join(sorted(files)[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _said(error: Exception) -> str:
    """The hub's own words, on one line; empty when there are none."""
    return " ".join(str(getattr(error, "server_message", None) or "").split())[:300]
