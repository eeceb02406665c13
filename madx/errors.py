"""Every fault that a user can cause or meet is a `MadxError`: what came, what is allowed, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

#: characters of a message; what a damaged or hostile file holds is repeated in messages, and may be of any length
LONGEST = 8000


class MadxError(Exception):
    """The parent of all errors that madx raises on purpose."""

    def __str__(self) -> str:
        """The message; of a very long one its beginning and its end, with the number of characters left out."""
        text, half = super().__str__(), LONGEST // 2
        left_out = len(text) - 2 * half
        return text if left_out <= 0 else f"{text[:half]} ... [{left_out:,} characters] ... {text[-half:]}"


class ConfigError(MadxError):
    """A settings file, an override or a setting is wrong; the text lists every fault at once."""


class DataError(MadxError):
    """A corpus or a labelled file cannot be used; the text names file and line."""


class BaseError(MadxError):
    """A base is unknown, incomplete, or not the one that a module was trained on."""


class CompositionError(MadxError):
    """A composition cannot be read, or what it asks for makes no sense."""


class StoreError(MadxError):
    """A stored module is missing, damaged, altered or cannot be written."""


class HubError(MadxError):
    """The model hub cannot be reached, refuses, or does not hold what was asked for."""


class TrainingError(MadxError):
    """Training cannot start or had to stop; what was saved before stays as it was."""


def did_you_mean(word: object, allowed: Iterable[object]) -> str:
    """Return the end of an error message: the allowed word nearest to `word`, then all allowed words.

    >>> did_you_mean("bottelneck", ["bottleneck", "invertible"])
    "did you mean 'bottleneck'? Allowed: bottleneck, invertible"
    """
    words = [str(a) for a in allowed]
    near = get_close_matches(str(word), words, n=1)
    listing = f"Allowed: {', '.join(words) or '(none)'}"
    return f"did you mean '{near[0]}'? {listing}" if near else listing
