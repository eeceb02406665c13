"""The Hugging Face hub: stored modules pushed to it and pulled from it, through huggingface_hub with its cache, tokens
and offline mode.

The repository of a module holds the three files of a stored module, and nothing else is ever fetched from one:
`module.json`, `weights.safetensors`, `README.md`. They are read as strictly as those of a store; nothing is executed. A
pulled module records its origin (`training.pulled`: hub, repository, commit, name there).
"""

import logging
from pathlib import Path

from madx.base import Base, load_base
from madx.base.answers import checked_answers
from madx.composition import HUB_MARK, check_name
from madx.errors import HubError, StoreError
from madx.interop.hub.download import MAX_ANSWER, Check, Fetched, fetch
from madx.interop.hub.errors import explained
from madx.interop.hub.place import Place
from madx.interop.hub.upload import Pushed, commit, published_files, without_folders
from madx.module import Module, require_base
from madx.store import Store, StoredModule, check_target, load_module, read_info, read_stored, write_stored
from madx.store.card import model_card, notes_of
from madx.store.manifest import Manifest
from madx.store.metadata import hub_base
from madx.store.weights import encode

log = logging.getLogger("madx")


class Hub:
    """The model hub, for a user with a token or for anybody.

    Offline (HF_HUB_OFFLINE=1), or with the hub out of reach, modules that were fetched before are found in the cache.

    >>> Hub().push("swa", "juma/xlmr-swa", store="modules")                    # doctest: +SKIP
    >>> Hub().pull("juma/xlmr-swa", "modules", revision="v1")                  # doctest: +SKIP

    Args:
        token: None takes HF_TOKEN or the one that `hf auth login` saved.
        endpoint: address of the hub; None takes HF_ENDPOINT or huggingface.co (huggingface_hub before 1.0 pushes to
            another hub only by HF_ENDPOINT).
    """

    def __init__(self, *, token: str | None = None, endpoint: str | None = None):
        from huggingface_hub import HfApi

        self.token = token
        self.api = HfApi(endpoint=endpoint, token=token, library_name="madx")

    def push(
        self,
        module: Module | str,
        repository: str,
        *,
        store: str | Path | Store = "modules",
        revision: str | None = None,
        private: bool | None = None,
        message: str | None = None,
        licence: str | None = None,
    ) -> Pushed:
        """Publish a module as one commit of a repository, which is created if it does not exist.

        Paths of this machine in the record of the training are cut to their last name. The card is made anew, with the
        user's notes below its last line; a card that madx did not make is published as it is.

        Args:
            module: the module, or the name of a stored one.
            repository: `owner/name`.
            store: where a named module is stored.
            revision: branch to commit to (default: main), created if it does not exist.
            private: for a new repository; None leaves it to the owner's settings.
            message: of the commit.
            licence: SPDX identifier, if the module records none or another.
        Raises StoreError for a module that is not complete, HubError for every refusal of the hub.
        """
        place = Place.parse(repository, revision)
        if place.is_commit:
            raise HubError(f"A push goes to a branch; {place.revision} is a commit. Name a branch, or none for main.")
        card: str | None = None
        if isinstance(module, Module):
            manifest, data = encode(module, "float32")
        else:
            manifest, data, card = _opened(store).read(module)
        manifest = without_folders(manifest).model_copy(update={"licence": licence} if licence else {})
        files = published_files(manifest, data, card, place=place, licence=licence)
        self._require_token(place)
        with explained(f"push {manifest.name!r} to", place, self.api.endpoint), checked_answers(most=MAX_ANSWER):
            message = message or f"{manifest.role.capitalize()} module {manifest.name}"
            made = commit(self.api, place, files, private=private, message=message)
        if hub_base(manifest) is None and manifest.base:
            log.warning(
                "%s was made on a base from a folder (%s), so its card names none that others can fetch",
                manifest.name,
                manifest.base.name,
            )
        return made

    def _require_token(self, place: Place) -> None:
        from huggingface_hub import get_token

        if not (self.token or get_token()):
            raise HubError(
                f"Pushing to {place.repository} needs a token of the hub; there is none. Make one that may write at "
                f"{self.api.endpoint}/settings/tokens; then run `hf auth login`, set HF_TOKEN, or pass Hub(token=...)."
            )

    def pull(
        self,
        repository: str,
        store: str | Path | Store = "modules",
        *,
        revision: str | None = None,
        name: str | None = None,
        overwrite: bool = False,
    ) -> StoredModule:
        """Fetch a module into a store, complete and verified, or change nothing.

        Args:
            repository: `owner/name`, or `hf://owner/name@revision`.
            revision: commit, tag or branch (default: main).
            name: to store it under; None keeps its own.
            overwrite: replace a stored module of that name.
        Raises HubError for every refusal of the hub, StoreError for a damaged module or a name in use.
        """
        place, store = Place.parse(repository, revision), _opened(store)
        if name is not None:
            check_name(name)

        def target(manifest: Manifest) -> Path:
            folder = store.root / (name or manifest.name)
            check_target(folder, overwrite=overwrite)
            return folder

        fetched = fetch(self.api, place, target)  # a name in use is reported before weights are fetched
        published, data, card = read_stored(fetched.folder)
        training = published.training | {"pulled": self._origin(place, fetched, published.name)}
        manifest = published.model_copy(update={"name": name or published.name, "training": training})
        if (notes := notes_of(card or "")) is not None:
            card = model_card(manifest, notes=notes)
        write_stored(target(manifest), manifest, data, card=card, overwrite=overwrite)
        return store.show(manifest.name)

    def load(self, reference: str, base: Base | None = None, *, allow_base_mismatch: bool = False) -> Module:
        """The module at `hf://owner/name[@revision]`, without storing it.

        base: None loads the one that the module records, if it lies on this machine; one that was never fetched is not
        fetched because somebody's module names it (UntrustedBaseError).
        """
        place = Place.parse(reference)
        fetched = fetch(self.api, place, _fits(base, allow_base_mismatch))
        base = base or _recorded_base(fetched.folder, pulled=self._origin(place, fetched, str(place)))
        module = load_module(fetched.folder, base, allow_base_mismatch=allow_base_mismatch)
        module.info.training = module.info.training | {"pulled": self._origin(place, fetched, module.name)}
        return module

    def _origin(self, place: Place, fetched: Fetched, name: str) -> dict[str, str]:
        return {"hub": self.api.endpoint, "repository": place.repository, "revision": fetched.revision, "name": name}


def load(where: str | Path, base: Base | None = None, *, allow_base_mismatch: bool = False) -> Module:
    """A module from the hub, `hf://owner/name[@revision]`, or from its folder.

    Args:
        base: None loads the one that the module records; that of a module from the hub only if it was fetched before.
    Raises a MadxError as `Hub.pull` and `load_module` do.
    """
    if str(where).startswith(HUB_MARK):
        return Hub().load(str(where), base, allow_base_mismatch=allow_base_mismatch)
    return load_module(where, base or _recorded_base(where), allow_base_mismatch=allow_base_mismatch)


def _opened(store: str | Path | Store) -> Store:
    return store if isinstance(store, Store) else Store(store)


def _recorded_base(folder: str | Path, *, pulled: dict[str, str] | None = None) -> Base:
    """The base that a module records; pulled: where the module was fetched from just now."""
    info = read_info(folder)
    if pulled is not None:
        info.training = info.training | {"pulled": pulled}
    if info.base is None:
        raise StoreError(f"The module {info.name!r} records no base. Load one by madx.load_base(...) and pass it.")
    recorded = info.base_to_load()
    return load_base(str(recorded["name"]), revision=recorded["revision"])


def _fits(base: Base | None, allow_base_mismatch: bool) -> Check:
    """A check of a module's record against a base, if one is given."""

    def check(manifest: Manifest) -> None:
        if base is not None:
            require_base(manifest.info(), base, allow_base_mismatch=allow_base_mismatch)

    return check
