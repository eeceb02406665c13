"""Publishing the files of a module as one commit of a repository on the hub."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from madx.composition import HUB_MARK
from madx.errors import HubError
from madx.interop.hub.download import TIMEOUT
from madx.interop.hub.errors import listed
from madx.interop.hub.place import Place
from madx.store import LAYOUT
from madx.store.card import model_card, notes_of
from madx.store.manifest import Manifest
from madx.store.metadata import file_name, licence_keys
from madx.store.module_json import to_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("madx")


@dataclass(frozen=True)
class Pushed:
    """The result of a push: the repository, the full hash of the commit, and the page of the repository."""

    repository: str
    revision: str
    url: str

    @property
    def reference(self) -> str:
        """The argument for `madx.load`, pinned to this commit."""
        return f"{HUB_MARK}{self.repository}@{self.revision}"


def commit(api: "HfApi", place: Place, files: dict[str, bytes], *, private: bool | None, message: str) -> Pushed:
    """Publish files as one commit, in a repository and on a branch that are created if they do not exist."""
    from huggingface_hub import CommitOperationAdd

    _prepare(api, place, private)
    made = api.create_commit(
        place.repository,
        [CommitOperationAdd(name, content) for name, content in files.items()],
        commit_message=message,
        revision=place.revision,
    )
    return Pushed(place.repository, made.oid, f"{api.endpoint}/{place.repository}")


def _prepare(api: "HfApi", place: Place, private: bool | None) -> None:
    """Create repository and branch if necessary. Raises HubError for a repository that holds something else, or that
    anybody can read although `private` is asked for."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(place.repository, timeout=TIMEOUT)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(place.repository, private=private)
    else:
        if private and not info.private:
            raise HubError(
                f"{place.repository} exists already and anybody can read it; nothing was pushed. Make it private "
                "on its page, choose another name, or push without private."
            )
        files = [f.rfilename for f in info.siblings or ()]
        others = [f for f in files if f not in (".gitattributes", *LAYOUT.files)]
        if others and LAYOUT.manifest not in files:
            raise HubError(
                f"{place.repository} holds no module of madx but other files ({listed(others)}); nothing was "
                "pushed. Choose another name."
            )
    if place.revision:
        api.create_branch(place.repository, branch=place.revision, exist_ok=True)


def published_files(manifest: Manifest, data: bytes, card: str | None, *, place: Place, licence: str | None) -> dict:
    """The files of a module in the form in which they are published.

    The record names no folders of this machine. The card is made anew, with the user's notes below it; a card that madx
    did not make is kept as it is.
    """
    notes = notes_of(card) if card is not None else ""
    if card is None or notes is not None:
        card = model_card(manifest, place=f"{HUB_MARK}{place.repository}", notes=notes or "")
    else:
        card = _with_licence(card, licence, place)
    return {LAYOUT.manifest: to_text(manifest).encode(), LAYOUT.weights: data, LAYOUT.card: card.encode()}


def without_folders(manifest: Manifest) -> Manifest:
    """The record of a module with the last name of each path of this machine in place of the path."""
    base = manifest.base.model_copy(update={"name": _last_name(manifest.base.name)}) if manifest.base else None
    return manifest.model_copy(update={"training": _last_name(manifest.training), "base": base})


def _last_name(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _last_name(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_last_name(v) for v in value]
    rooted = isinstance(value, str) and (value.startswith(("/", "~", "\\")) or value[1:3] in (":\\", ":/"))
    return file_name(value) or value if rooted else value


def _with_licence(card: str, licence: str | None, place: Place) -> str:
    """A user's own card with the licence that is asked for. Raises HubError if its front matter cannot be read."""
    from huggingface_hub import ModelCard

    try:
        read = ModelCard(card)
        if licence is None:
            return card
        for key, value in licence_keys(licence).items():
            setattr(read.data, key, value)
        return str(read)
    except Exception as error:  # of yaml, of huggingface_hub
        raise HubError(
            f"The front matter of README.md, of the module for {place}, cannot be read: {error}. Correct it, or delete "
            "the file: a new one is made."
        ) from error
