"""Checks the names of modules."""

import re

from madx.errors import CompositionError
from madx.files.names import is_kept_by_system

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
RESERVED = ("base", "average", "ties", "fuse", "route")
HUB_MARK = "hf://"  # an address on the model hub begins with it
MAX_NAME = 100


def check_name(name: str) -> str:
    """Return the name if a module may have it. Raises CompositionError otherwise."""
    well_formed = isinstance(name, str) and NAME.fullmatch(name) and name not in RESERVED and len(name) <= MAX_NAME
    if not well_formed or is_kept_by_system(name):
        raise CompositionError(
            f"{name!r:.150} cannot name a module. A name starts with a letter or digit, continues with letters, "
            f"digits, '.', '_', '-' or '@' (at most {MAX_NAME}), and is none of: {', '.join(RESERVED)}"
            f"{' and no name of a device' if well_formed else ''}.{hub_advice(name)}"
        )
    return name


def hub_advice(text: object) -> str:
    """Advise the user who writes an address on the hub in the place of a name; empty for any other text."""
    if HUB_MARK not in str(text):
        return ""
    return " Pull a module of the hub into the store first, by `madx modules pull OWNER/NAME`, and then use its name."
