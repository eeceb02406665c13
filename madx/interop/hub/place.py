"""A place on the hub: a repository, and the revision in it that is meant."""

import re
from dataclasses import dataclass

from madx.composition import HUB_MARK
from madx.errors import HubError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w.+/-]{0,200}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """A repository of the hub, and a branch, tag or commit in it; None: its main branch."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> "Place":
        """Read `owner/name` or `hf://owner/name`, either with `@revision`. Raises HubError for anything else.

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
                f"{text!r} is no place on the hub. Give OWNER/NAME or {HUB_MARK}OWNER/NAME, with @REVISION for another "
                "revision than main; letters, digits, '.', '_' and '-' are allowed."
            )
        if wanted is not None and (not REVISION.fullmatch(wanted) or ".." in wanted or "//" in wanted):
            raise HubError(f"{wanted!r} is no revision. Give a branch, a tag or a commit's 40 digits.")
        return cls(repository, wanted)

    @property
    def is_commit(self) -> bool:
        """True if the revision is the full hash of a commit."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")
