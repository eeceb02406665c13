"""The folder of madx's caches."""

import os
from pathlib import Path

from madx.errors import ConfigError


def cache_root() -> Path:
    """`$MADX_CACHE`, else `~/.cache/madx`. Raises ConfigError where there is no home folder either."""
    if given := os.environ.get("MADX_CACHE"):
        return Path(given).expanduser()
    try:
        return Path.home() / ".cache" / "madx"
    except RuntimeError:  # no HOME, and the user is in no list of users: a container that runs under a number
        raise ConfigError(
            "There is no home folder to keep caches in: set MADX_CACHE (or HOME) to a folder that can be written."
        ) from None
