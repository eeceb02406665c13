"""Places that a user means: a path with `~`, and the folder of madx's caches."""

import os
from pathlib import Path

from madx.errors import ConfigError


def cache_root() -> Path:
    """`$MADX_CACHE`, else `~/.cache/madx`. Raises ConfigError where there is no home folder either."""
    if given := os.environ.get("MADX_CACHE"):
        return user_path(given)
    try:
        return Path.home() / ".cache" / "madx"
    except RuntimeError:  # no HOME, and the user is in no list of users: a container that runs under a number
        raise ConfigError(
            "There is no home folder to keep caches in: set MADX_CACHE (or HOME) to a folder that can be written."
        ) from None


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder in the place of `~`. Raises ConfigError for an unknown user."""
    given = os.fspath(path)
    found = os.path.expanduser(given)
    if given.startswith("~") and found == given:
        raise ConfigError(
            f"{given[:200]!r}: there is no such user or home folder. Give the whole path; a folder whose name begins "
            "with '~' is written './~...'."
        )
    return Path(found)
