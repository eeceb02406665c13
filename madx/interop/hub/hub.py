"""The Hugging Face hub: stored modules out to it and back, by huggingface_hub, with its cache, tokens and offline mode.

A module's repository holds the three files of a stored module, and nothing else is ever fetched from one: `module.json`,
`weights.safetensors`, `README.md`. They are read as strictly as those of a store; nothing is executed. A pulled module
records where it came from (`training.pulled`: hub, repository, commit, name there).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from madx.base import Base, load_base
from madx.composition import HUB_MARK, check_name
from madx.data.text.corpora import sha256_of
from madx.errors import HubError, StoreError
from madx.interop.hub.errors import Place, explained, found_instead, listed, unreachable
from madx.module import Module, require_base
from madx.store import LAYOUT, Store, StoredModule, check_target, load_module, read_info, read_stored, write_stored
from madx.store.card import model_card, notes_of
from madx.store.manifest import Manifest
from madx.store.metadata import file_name, hub_base, licence_keys
from madx.store.module_json import from_text, to_text
from madx.store.weights import encode

log = logging.getLogger("madx")

TIMEOUT = 15.0  # seconds until the hub counts as out of reach
MAX_TEXT = 1 << 26  # bytes of module.json or README.md at most


@dataclass(frozen=True)
class Pushed:
    """What a push made: the repository, the commit's full sha, and the page to look at."""

    repository: str
    revision: str
    url: str

    @property
    def reference(self) -> str:
        """What `madx.load` takes, pinned to this commit."""
        return f"{HUB_MARK}{self.repository}@{self.revision}"


@dataclass(frozen=True)
class _Fetched:
    """A module in the hub's cache on this disk: the folder of its files and the commit they are of."""

    folder: Path
    revision: str


class Hub:
    """The model hub, as a user with a token or as anybody.

    >>> Hub().push("swa", "juma/xlmr-swa", store="modules")                    # doctest: +SKIP
    >>> Hub().pull("juma/xlmr-swa", "modules", revision="v1")                  # doctest: +SKIP

    token: None takes HF_TOKEN or the one that `hf auth login` saved. endpoint: None takes HF_ENDPOINT or huggingface.co
    (huggingface_hub before 1.0 pushes to another hub by HF_ENDPOINT only).
    Offline (HF_HUB_OFFLINE=1), or with the hub out of reach, what was fetched before is used.
    """

    def __init__(self, *, token: str | None = None, endpoint: str | None = None):
        from huggingface_hub import HfApi

        self.token = token
        self.api = HfApi(endpoint=endpoint, token=token, library_name="madx")

    # ---- out ---------------------------------------------------------------------------------------------------------

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
        """Publish a module, or the stored one of that name, as one commit of `owner/name`, which is made if need be.

        revision: branch to commit to (default: main), made if need be. private: of a new repository; None leaves it to
        the owner's settings. licence: SPDX, where the module records none or another. Paths of this machine in the
        record of its training are cut to their last name. The card is made anew but for what stands below its last line;
        one that madx did not make goes along as it is.
        Raises StoreError for a module that is not whole, HubError for all that the hub may say.
        """
        place = Place.parse(repository, revision)
        if place.is_commit:
            raise HubError(f"A push goes to a branch; {place.revision} is a commit. Name a branch, or none for main.")
        if isinstance(module, Module):
            manifest, data, card = *encode(module, "float32"), None
        else:
            manifest, data, card = _opened(store).read(module)
        manifest = manifest.model_copy(update=_without_folders(manifest) | ({"licence": licence} if licence else {}))
        notes = notes_of(card) if card is not None else ""
        if notes is None:
            card = _with_licence(card, licence, place)
        else:
            card = model_card(manifest, place=f"{HUB_MARK}{place.repository}", notes=notes)
        self._require_token(place)
        with explained(f"push {manifest.name!r} to", place, self.api.endpoint):
            made = self._commit(place, manifest, data, card, private=private, message=message)
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
                f"Pushing to {place.repository} needs a token of the hub, and there is none. Make one that may write "
                f"at {self.api.endpoint}/settings/tokens, then run `hf auth login`, set HF_TOKEN, or pass Hub(token=...)."
            )

    def _commit(self, place: Place, manifest: Manifest, data: bytes, card: str, *, private, message) -> Pushed:
        from huggingface_hub import CommitOperationAdd

        self._prepare(place, private)
        files = {LAYOUT.manifest: to_text(manifest).encode(), LAYOUT.weights: data, LAYOUT.card: card.encode()}
        made = self.api.create_commit(
            place.repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"{manifest.role.capitalize()} module {manifest.name}",
            revision=place.revision,
        )
        return Pushed(place.repository, made.oid, f"{self.api.endpoint}/{place.repository}")

    def _prepare(self, place: Place, private: bool | None) -> None:
        """A repository and branch to commit to; raises HubError for one that holds something else or is seen by all."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            info = self.api.model_info(place.repository, timeout=TIMEOUT)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            self.api.create_repo(place.repository, private=private)
        else:
            if private and not info.private:
                raise HubError(
                    f"{place.repository} is there already and anybody can read it; nothing was pushed. Make it private "
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
            self.api.create_branch(place.repository, branch=place.revision, exist_ok=True)

    # ---- back --------------------------------------------------------------------------------------------------------

    def pull(
        self,
        repository: str,
        store: str | Path | Store = "modules",
        *,
        revision: str | None = None,
        name: str | None = None,
        overwrite: bool = False,
    ) -> StoredModule:
        """Fetch `owner/name` (or `hf://owner/name@revision`) into a store, whole and verified, or change nothing.

        revision: commit, tag or branch (default: main). name: to store it under; None keeps its own.
        Raises HubError for all that the hub may say, StoreError for a module that is damaged or a name that is taken.
        """
        place, store = Place.parse(repository, revision), _opened(store)
        if name is not None:
            check_name(name)

        def target(manifest: Manifest) -> Path:
            folder = store.root / (name or manifest.name)
            check_target(folder, overwrite=overwrite)
            return folder

        fetched = self._fetch(place, target)  # a name that is taken is told before weights travel
        published, data, card = read_stored(fetched.folder)
        training = published.training | {"pulled": self._origin(place, fetched, published.name)}
        manifest = published.model_copy(update={"name": name or published.name, "training": training})
        if (notes := notes_of(card or "")) is not None:
            card = model_card(manifest, notes=notes)
        write_stored(target(manifest), manifest, data, card=card, overwrite=overwrite)
        return store.show(manifest.name)

    def load(self, reference: str, base: Base | None = None, *, allow_base_mismatch: bool = False) -> Module:
        """The module at `hf://owner/name[@revision]` without storing it; base: None loads the one that it records."""
        place = Place.parse(reference)
        fetched = self._fetch(place, lambda manifest: _require_fit(manifest, base, allow_base_mismatch))
        base = base or _recorded_base(fetched.folder)
        module = load_module(fetched.folder, base, allow_base_mismatch=allow_base_mismatch)
        module.info.training = module.info.training | {"pulled": self._origin(place, fetched, module.name)}
        return module

    def _origin(self, place: Place, fetched: _Fetched, name: str) -> dict:
        return {"hub": self.api.endpoint, "repository": place.repository, "revision": fetched.revision, "name": name}

    def _fetch(self, place: Place, check) -> _Fetched:
        """The files of a module in the cache, from the hub or, where that is out of reach, from before; `check` may
        refuse by the module's record before its weights travel."""
        with explained("fetch", place, self.api.endpoint):
            try:
                info = self.api.model_info(
                    place.repository, revision=place.revision, timeout=TIMEOUT, files_metadata=True
                )
            except Exception as error:
                if (why := unreachable(error)) is None:
                    raise
                return _cached(place, why, check)
            sizes = {f.rfilename: f.size for f in info.siblings or ()}
            _require_module(sizes, place)
            record = self._download(place, LAYOUT.manifest, place.revision, sizes)
            fetched = _Fetched(record.parent, record.parent.name)  # the cache's layout: snapshots/COMMIT/FILE
            if fetched.revision != info.sha:
                raise HubError(f"{place} was pushed to just now. Repeat, or pin a revision.")
            manifest = from_text(record.read_bytes(), f"{LAYOUT.manifest} of {place}")
            check(manifest)
            if sizes[LAYOUT.weights] not in (None, manifest.weights.bytes):
                raise StoreError(
                    f"{LAYOUT.weights} of {place} has {sizes[LAYOUT.weights]:,} bytes, its {LAYOUT.manifest} records "
                    f"{manifest.weights.bytes:,}. Whoever published it must push it again."
                )
            for file in (LAYOUT.weights, LAYOUT.card):
                if file in sizes:
                    sha256 = manifest.weights.sha256 if file == LAYOUT.weights else None
                    self._download(place, file, fetched.revision, sizes, sha256=sha256)
        return fetched

    def _download(
        self, place: Place, file: str, revision: str | None, sizes: dict, *, sha256: str | None = None
    ) -> Path:
        """A file in the cache; a copy there of another size or sha256 than is known of it is fetched once more."""
        path = Path(self.api.hf_hub_download(place.repository, file, revision=revision))
        same = sizes[file] in (None, path.stat().st_size)
        if not same or sha256 and sha256_of(path) != sha256:
            path = Path(self.api.hf_hub_download(place.repository, file, revision=revision, force_download=True))
        return path


def load(where: str | Path, base: Base | None = None, *, allow_base_mismatch: bool = False) -> Module:
    """A module from the hub, `hf://owner/name[@revision]`, or from its folder.

    base: None loads the one that the module records. Raises MadxError as `Hub.pull` and `load_module` do.
    """
    if str(where).startswith(HUB_MARK):
        return Hub().load(str(where), base, allow_base_mismatch=allow_base_mismatch)
    return load_module(where, base or _recorded_base(where), allow_base_mismatch=allow_base_mismatch)


def _opened(store: str | Path | Store) -> Store:
    return store if isinstance(store, Store) else Store(store)


def _recorded_base(folder: str | Path) -> Base:
    info = read_info(folder)
    if info.base is None:
        raise StoreError(f"The module {info.name!r} records no base. Load one by madx.load_base(...) and pass it.")
    return load_base(**info.base_to_load())


def _require_fit(manifest: Manifest, base: Base | None, allow_base_mismatch: bool) -> None:
    if base is not None:
        require_base(manifest.info(), base, allow_base_mismatch=allow_base_mismatch)


def _require_module(sizes: dict, place: Place) -> None:
    if LAYOUT.manifest not in sizes or LAYOUT.weights not in sizes:
        raise HubError(f"{place} holds no module of madx. {found_instead(list(sizes), place)}")
    for file in (LAYOUT.manifest, LAYOUT.card):
        if (sizes.get(file) or 0) > MAX_TEXT:
            raise HubError(f"{file} of {place} has {sizes[file]:,} bytes; more than {MAX_TEXT:,} are not fetched.")


def _cached(place: Place, why: str, check) -> _Fetched:
    """The module as it was fetched before; raises HubError when it was not, or not whole."""
    from huggingface_hub import try_to_load_from_cache

    needed = (LAYOUT.manifest, LAYOUT.weights)
    paths = [try_to_load_from_cache(place.repository, file, revision=place.revision) for file in needed]
    if not all(isinstance(path, str) for path in paths):
        raise HubError(f"{place} cannot be fetched: {why}. Nothing of that revision is in the cache of this machine.")
    folder = Path(paths[0]).parent
    log.warning("%s: %s; taking commit %s, which was fetched before", place, why, folder.name)
    check(from_text(Path(paths[0]).read_bytes(), paths[0]))
    return _Fetched(folder, folder.name)


def _without_folders(manifest: Manifest) -> dict:
    """What of a record names folders of this machine, with their last names alone."""

    def cut(value):
        if isinstance(value, dict):
            return {key: cut(v) for key, v in value.items()}
        if isinstance(value, list):
            return [cut(v) for v in value]
        rooted = isinstance(value, str) and (value.startswith(("/", "~", "\\")) or value[1:3] in (":\\", ":/"))
        return file_name(value) or value if rooted else value

    base = manifest.base.model_copy(update={"name": cut(manifest.base.name)}) if manifest.base else None
    return {"training": cut(manifest.training), "base": base}


def _with_licence(card: str, licence: str | None, place: Place) -> str:
    """A user's own card, with the licence that was asked for; raises HubError when its front matter cannot be read."""
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
            f"The front matter of README.md, of the module for {place}, cannot be read: {error}. Mend it, or delete the "
            "file: a new one is made."
        ) from error
