"""The hub's failures and refusals as a `HubError` that says what was tried, why it failed, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from madx.errors import HubError, MadxError
from madx.interop.hub.place import Place
from madx.outside import visible

#: files that show that a repository holds something else; what it then is; the command that imports it
OTHERS = (
    (
        ("pytorch_diff.bin",),
        "a sparse fine-tuning of composable-sft",
        "madx modules import FOLDER --from composable-sft",
    ),
    (
        ("pytorch_adapter.bin", "adapter.safetensors"),
        "an adapter of AdapterHub",
        "madx modules import FOLDER --from adapterhub",
    ),
    (("adapter_model.safetensors", "adapter_model.bin"), "an adapter of peft, which madx does not read", None),
    (("model.safetensors", "pytorch_model.bin"), "a whole model: give it as the base", None),
)


@contextmanager
def explained(doing: str, place: Place, endpoint: str) -> Iterator[None]:
    """Turn any error that huggingface_hub raises inside into a HubError.

    Args:
        doing: the attempted action, e.g. "fetch".
        endpoint: address of the hub.
    """
    try:
        yield
    except MadxError:
        raise
    except Exception as error:  # of requests or httpx by version, of the operating system, of a reply that is no JSON
        first: BaseException = error
        while isinstance(first, RuntimeError) and isinstance(first.__cause__, Exception):
            first = first.__cause__  # the failure of an upload lies below "error while uploading"
        why = unreachable(first) or _refusal(first, place, endpoint)
        raise HubError(f"Cannot {doing} {place}: {why.rstrip('.')}.") from error


def unreachable(error: BaseException) -> str | None:
    """The reason why the hub gave no answer, or None if it gave one."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE=1)"
    if isinstance(error, HfHubHTTPError):
        status = _status(error)
        down = status is not None and status >= 500
        return f"the hub is out of order (status {status}); try again later" if down else None
    if isinstance(error, JSONDecodeError):
        return "what answers is no hub; check the network, its proxies and HF_ENDPOINT"
    of_network = isinstance(error, HTTPError) or type(error).__module__.split(".")[0] in ("requests", "urllib3")
    if of_network or isinstance(error, (ConnectionError, TimeoutError)):
        return f"the hub cannot be reached ({type(error).__name__}); check the network, its proxies and HF_ENDPOINT"
    return None


def _refusal(error: BaseException, place: Place, endpoint: str) -> str:
    """The meaning of a refusal: by the class of huggingface_hub's error first, then by its status."""
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
        revision = place.revision or "main"
        return f"it has no branch, tag or commit {revision!r}. See {endpoint}/{place.repository}/commits"
    if isinstance(error, RepositoryNotFoundError):
        return (
            "there is no such model, or it is private and this user may not see it. Check the name; for a private one "
            "run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return "the connection broke before everything was fetched. Repeat"
    if status in (401, 403):
        what = said or f"status {status}"
        return f"the hub refuses this token ({what}). It needs the right to write to {place.repository}"
    if status == 429:
        return "the hub asks for a pause (too many requests). Wait some minutes and repeat"
    if isinstance(error, OSError) and status is None:
        return f"{error.strerror or error} ({type(error).__name__})"
    return said or f"{type(error).__name__}: {visible(' '.join(str(error).split())[:300])}"


def found_instead(files: list[str], place: Place) -> str:
    """A description of a repository that holds no module, with the next step where there is one."""
    files = [file for file in files if file != ".gitattributes"]
    if not files:
        return "It is empty: nothing was pushed to this revision."
    names = {file.rpartition("/")[2] for file in files}
    there = listed(files)
    for known, what, command in OTHERS:
        if names & set(known):
            fetch = f"hf download {place.repository} --local-dir FOLDER"
            then = f" Fetch it by `{fetch}`, then `{command}`." if command else ""
            return f"It looks like {what}.{then} Files: {there}."
    return f"A module is module.json and weights.safetensors; there are: {there}."


def listed(files: list[str]) -> str:
    """The first files in alphabetical order, and how many more there are."""
    return ", ".join(visible(file[:100], lines=False) for file in sorted(files)[:8]) + (
        f" and {len(files) - 8} more" if len(files) > 8 else ""
    )


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _said(error: BaseException) -> str:
    """The hub's own words on one line; empty if there are none."""
    return visible(" ".join(str(getattr(error, "server_message", None) or "").split())[:300])
