"""Words of scripts that are written without spaces: Chinese, Japanese, Thai, Lao, Khmer and Burmese.

No rule on characters finds these words, so a dictionary is needed. ICU has one for each of these languages, and
`pip install madx[segmentation]` brings it (icu4py, on Python 3.11 or newer). Without it such text is cut by character,
with a notice: the tags of characters are poorer than those of words, because the task module was trained on words.
"""

import logging
from collections.abc import Callable, Iterable
from functools import cache

import regex

#: one letter of a script without spaces; the line break class SA (complex context) holds those of South East Asia
UNSPACED = r"[\p{Line_Break=SA}\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}ーｰ]"
#: a stretch of such a script, with the marks and joiners of its letters
RUN = regex.compile(rf"{UNSPACED}[{UNSPACED}\p{{M}}\u200C\u200D]*", regex.V1)
_SCRIPTS = ("Thai", "Lao", "Khmer", "Myanmar", "Hiragana", "Katakana", "Han", "Bopomofo")
_SCRIPT = regex.compile("|".join(rf"(?P<{name}>\p{{{name}}})" for name in _SCRIPTS))
log = logging.getLogger("madx")


def segment(run: str) -> list[str] | None:
    """Return the words of a stretch of text without spaces, or None if the segmenter is not installed.

    The first stretch of each script that cannot be segmented is reported, once in a process.
    """
    cut = _segmenter()
    if cut is None:
        report_unsegmented(run)
        return None
    # ICU's offsets count UTF-16 units, so the pieces themselves are read
    return [piece for piece in cut(run) if piece]


def report_unsegmented(run: str) -> None:
    """Say, once for each script, that its text is cut by character, and what to install."""
    if found := _SCRIPT.search(run):
        _report(str(found.lastgroup))


@cache
def _report(script: str) -> None:
    log.warning(
        "text in %s script is written without spaces and is cut by character, because no segmenter is installed. For "
        "words: pip install 'madx[segmentation]' (Python 3.11 or newer), or put spaces between the words.",
        script,
    )


@cache
def _segmenter() -> Callable[[str], Iterable[str]] | None:
    """Return a function that cuts a stretch of text into words, or None without ICU."""
    try:
        from icu4py.breakers import WordBreaker
    except ImportError:
        return None
    return lambda run: WordBreaker(run, "en")
