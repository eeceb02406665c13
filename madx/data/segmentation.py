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
_WRITING = {
    "Thai": r"\p{Thai}",
    "Lao": r"\p{Lao}",
    "Khmer": r"\p{Khmer}",
    "Burmese": r"\p{Myanmar}",
    "Chinese or Japanese": r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}]",
}
log = logging.getLogger("madx")


def segment(run: str) -> list[str] | None:
    """Return the words of a stretch of text without spaces, or None if no segmenter is installed.

    In that case a notice says, once in a process for each way of writing, how the text is cut and what to install.
    """
    cut = _segmenter()
    if cut is None:
        _report(next((name for name, letter in _WRITING.items() if regex.match(letter, run, regex.V1)), "This text"))
        return None
    # ICU's offsets count UTF-16 units, so the pieces themselves are read
    return [piece for piece in cut(run) if piece]


@cache
def _report(writing: str) -> None:
    log.warning(
        "%s is written without spaces and is cut by character, because no segmenter is installed. For words: pip "
        "install 'madx[segmentation]' (Python 3.11 or newer), or put spaces between the words.",
        writing,
    )


@cache
def _segmenter() -> Callable[[str], Iterable[str]] | None:
    """Return a function that cuts a stretch of text into words, or None without ICU."""
    try:
        from icu4py.breakers import WordBreaker
    except ImportError:
        return None
    return lambda run: WordBreaker(run, "en")
