"""Fetching the files of a module from the hub into its cache on this machine."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from madx.base.answers import COMMIT, checked_answers
from madx.data.text.files import sha256_of
from madx.errors import HubError, StoreError
from madx.interop.hub.errors import explained, found_instead, unreachable
from madx.interop.hub.place import Place
from madx.store import LAYOUT
from madx.store.manifest import Manifest
from madx.store.module_json import from_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

log = logging.getLogger("madx")

TIMEOUT = 15.0  # seconds until the hub counts as out of reach
MAX_TEXT = 1 << 26  # the largest module.json or README.md that is fetched, in bytes
MAX_ANSWER = 1 << 26  # the largest list of files

#: refuses a module by its record, by raising a MadxError
Check = Callable[[Manifest], object]


@dataclass(frozen=True)
class Fetched:
    """A module in the hub's cache on this machine: the folder of its files and the hash of their commit."""

    folder: Path
    revision: str


def fetch(api: "HfApi", place: Place, check: Check) -> Fetched:
    """Fetch the files of a module, or find them in the cache if the hub is out of reach.

    Args:
        check: may refuse the module by its record before its weights are fetched.
    Raises HubError, StoreError for a damaged module, and what `check` raises.
    """
    with explained("fetch", place, api.endpoint):
        try:
            with checked_answers(most=MAX_ANSWER):
                info = api.model_info(place.repository, revision=place.revision, timeout=TIMEOUT, files_metadata=True)
        except Exception as error:
            if (why := unreachable(error)) is None:
                raise
            return _cached(place, why, check)
        sizes = _stated_sizes(info, place)
        _require_module(sizes, place)
        record = _download(api, place, LAYOUT.manifest, size=sizes[LAYOUT.manifest], most=MAX_TEXT)
        fetched = Fetched(record.parent, record.parent.name)  # the cache's layout: snapshots/COMMIT/FILE
        if fetched.revision != info.sha:
            raise HubError(f"{place} was pushed to just now. Repeat, or pin a revision.")
        manifest = from_text(record.read_bytes(), f"{LAYOUT.manifest} of {place}")
        check(manifest)
        if sizes[LAYOUT.weights] not in (None, manifest.weights.bytes):
            raise StoreError(
                f"{LAYOUT.weights} of {place} has {sizes[LAYOUT.weights]:,} bytes, its {LAYOUT.manifest} records "
                f"{manifest.weights.bytes:,}. Whoever published it must push it again."
            )
        pinned = Place(place.repository, fetched.revision)
        weights = manifest.weights
        _download(api, pinned, LAYOUT.weights, size=weights.bytes, most=weights.bytes, sha256=weights.sha256)
        if LAYOUT.card in sizes:
            _download(api, pinned, LAYOUT.card, size=sizes[LAYOUT.card], most=MAX_TEXT)
    return fetched


def _download(api: "HfApi", place: Place, file: str, *, size: int | None, most: int, sha256: str | None = None) -> Path:
    """The path of a file in the cache. A copy of another size or checksum than expected is fetched again.

    most: the largest file that is fetched, in bytes, whatever the hub says of its size.
    """
    with checked_answers(most=most):
        path = Path(api.hf_hub_download(place.repository, file, revision=place.revision))
        if not _is_expected(path, size=size, most=most, sha256=sha256):
            path = Path(api.hf_hub_download(place.repository, file, revision=place.revision, force_download=True))
    if path.stat().st_size > most:
        raise HubError(f"{file} of {place} has {path.stat().st_size:,} bytes; more than {most:,} are not read.")
    return path


def _is_expected(path: Path, *, size: int | None, most: int, sha256: str | None) -> bool:
    found = path.stat().st_size
    return size in (None, found) and found <= most and sha256 in (None, sha256_of(path))


def _stated_sizes(info: "ModelInfo", place: Place) -> dict[str, int | None]:
    """File -> its size in bytes, None where the hub states none. Raises HubError for what is no commit or no size."""
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise HubError(f"The hub answers that {place} is at {str(info.sha)[:200]!r}, which is no commit.")
    sizes = {f.rfilename: f.size for f in info.siblings or ()}
    for file in LAYOUT.files:
        size = sizes.get(file)
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise HubError(f"The hub answers that {file} of {place} has {str(size)[:200]!r} bytes, which is no size.")
    return sizes


def _require_module(sizes: dict[str, int | None], place: Place) -> None:
    if LAYOUT.manifest not in sizes or LAYOUT.weights not in sizes:
        raise HubError(f"{place} holds no module of madx. {found_instead(list(sizes), place)}")
    for file in (LAYOUT.manifest, LAYOUT.card):
        if (size := sizes.get(file) or 0) > MAX_TEXT:
            raise HubError(f"{file} of {place} has {size:,} bytes; more than {MAX_TEXT:,} are not fetched.")


def _cached(place: Place, why: str, check: Check) -> Fetched:
    """The module as it was fetched before. Raises HubError if it was not, or not completely."""
    from huggingface_hub import try_to_load_from_cache

    needed = (LAYOUT.manifest, LAYOUT.weights)
    paths = [try_to_load_from_cache(place.repository, file, revision=place.revision) for file in needed]
    found = [path for path in paths if isinstance(path, str)]
    if len(found) < len(needed):
        raise HubError(f"{place} cannot be fetched: {why}. Nothing of that revision is in the cache of this machine.")
    folder = Path(found[0]).parent
    log.warning("%s: %s; taking commit %s, which was fetched before", place, why, folder.name)
    check(from_text(Path(found[0]).read_bytes(), found[0]))
    return Fetched(folder, folder.name)
