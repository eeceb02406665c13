"""Names of modules, and the words that cannot be one."""

import re

from madx.errors import CompositionError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
RESERVED = ("base", "average", "ties", "fuse", "route")
HUB_MARK = "hf://"  # how a place on the model hub begins
MAX_NAME = 100


def check_name(name: str) -> str:
    """The name, if a module may have it; raises CompositionError otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED or len(name) > MAX_NAME:
        raise CompositionError(
            f"{name!r} cannot name a module. A name starts with a letter or digit, goes on with letters, digits, "
            f"'.', '_', '-' or '@' (at most {MAX_NAME}), and is none of: {', '.join(RESERVED)}.{of_the_hub(name)}"
        )
    return name


def of_the_hub(text) -> str:
    """What to do with a place on the hub where a name is due."""
    if HUB_MARK not in str(text):
        return ""
    return " A module of the hub is first pulled into the store, by `madx modules pull OWNER/NAME`; it then goes by its name."
