"""Words of running text: the one rule by which every part of madx cuts text into words.

White space separates words, and nothing else does in a line that is tokenised, whose full stops and commas stand apart.
In all other lines words are those of Unicode (UAX 29, by the library `regex`), so marks and joiners stay with their
letter, and these additions keep together what labelled sets count as one token:

    hyphen        a hyphen between letters or digits             Dar-es-Salaam
    number        . / : at digits, other numerals                12:30  03/27/2001  Nr.1  m²  ፪ኛ
    apostrophe    without a partner in its line, at a word       ‘yan  '68  Farmers' Union  (but 'word' is three tokens)
    abbreviation  short parts that each end in a full stop       U.S.  a.m.  प्र.म.  J. Juma
    ampersand     between letters                                R&B
    currency      a sign after letters                           US$
    address       web and mail addresses, @names and #tags       juma@example.org
    signs         a repeated sign, and signs between spaces      ...  ?!  :-)

Scripts without spaces are cut by the dictionaries of ICU, or by character; see `madx.data.segmentation`. Between two
letters the Ethiopic word space (ሰላም፡ለዓለም) and the Tibetan tsheg separate words, as white space does.

`docs/words.md` has the share of sentences on which this rule agrees with the tokens of labelled sets.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate, pairwise
from unicodedata import normalize

import regex

from madx.data.segmentation import RUN, UNSPACED, segment

#: the start of a word and its end in the text, counted in characters
Span = tuple[int, int]

_FLAGS = regex.V1 | regex.WORD
# a letter of a script with spaces, the marks and joiners after a letter, and what a word ends in and begins with
_LETTER = rf"[\p{{L}}--{UNSPACED}]"
_MARK = r"[\p{M}\u200C\u200D]"
_END, _BEGIN = rf"(?<=[{_LETTER}\p{{N}}{_MARK}])", rf"(?=[{_LETTER}\p{{N}}])"
_QUOTE = r"[\p{Pi}\p{Pf}\"'„‚]"
_SIGN = r"[[\p{P}\p{S}]--\p{Extended_Pictographic}--[\U0001F1E6-\U0001F1FF\U0001F3FB-\U0001F3FF]]"
_FREE = rf"[{_SIGN}--{_QUOTE}]"

# U+200B marks places where a line may break between words
_SPACE = r"\s\p{Z}\p{Cc}\u200B"
_GAPS = regex.compile(rf"[{_SPACE}]+|(?<=[\p{{L}}\p{{M}}\p{{N}}])[\u1361\u0F0B](?=[\p{{L}}\p{{N}}])", _FLAGS)
_BOUNDARY = regex.compile(r"\b", _FLAGS)
# characters without a shape of their own: marks of the direction of writing, soft hyphens, and the byte order mark
_UNSEEN = "\u00ad\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
_UNSEEN_FIRST = _UNSEEN + "\u200c\u200d"

#: no boundary before or after these: they join what stands on both sides
_JOINING = regex.compile(
    rf"{_END}(?:[-\u2010\u2011]{_BEGIN}"
    rf"|(?<=\p{{N}})[/:](?=\p{{N}})"
    rf"|(?<=[{_LETTER}\p{{M}}])&(?={_LETTER})"
    rf"|['’.]{_BEGIN}"
    rf"|(?=\p{{No}})|(?<=\p{{No}}){_BEGIN})",
    _FLAGS,
)
#: no boundary inside these
_WHOLE = regex.compile(
    r"(?i:https?|ftp)://[^<>\"]*[\p{L}\p{N}/=&_-]|(?i:www)\.[^<>\"]*[\p{L}\p{N}/=&_-]"
    r"|(?<![\w.%+-])[A-Za-z0-9_][\w.%+-]*@[\w-]+(?:\.[\w-]+)*"
    r"|(?<![\p{L}\p{N}])[@#][\p{L}\p{N}_][\p{L}\p{M}\p{N}_]*"
    rf"|(?<![\p{{L}}\p{{M}}\p{{N}}.])(?:(?:{_LETTER}\p{{M}}*){{1,3}}\.){{2,}}(?!{_LETTER})"
    rf"|{_LETTER}\p{{M}}*\p{{Sc}}"
    rf"|({_SIGN})\1+|[.!?…؟]{{2,}}"
    rf"|^(?![)\]}}]){_FREE}+$"
    r"|^\p{M}+[\p{L}\p{N}]",
    _FLAGS,
)
#: a capital letter with a full stop, before another word
_INITIAL = regex.compile(r"(?<![\p{L}\p{M}\p{N}])\p{Lu}\p{M}*\.(?=\s+\p{L})", _FLAGS)
# an apostrophe at the edge of a word; doubled ones are quotation marks
_APOSTROPHE = regex.compile(
    r"(?P<opening>(?<![\p{L}\p{M}\p{N}'’‘])['‘’](?=[\p{L}\p{N}]))"
    r"|(?P<closing>(?<=[^\s'’‘])['’](?![\p{L}\p{N}'’‘]))",
    _FLAGS,
)
_FOLLOWED = regex.compile(r"\s+[\p{L}\p{N}]", _FLAGS)
_SUFFIX = regex.compile(r"[\p{Ll}\p{Lo}\p{N}Yy]", _FLAGS)

# signs that stand alone in tokenised text only; French sets spaces before ! ? : ; and inside « »
_APART = regex.compile(r"(?<!\S)(?:[.,()\"“”।॥።፣،؛۔。、，！？]|''|``|፡፡)(?!\S)", _FLAGS)
_ATTACHED = regex.compile(
    r"(?<=[^\s,;])[,;](?!\S)|[\p{L}\p{M}\p{N}][:!?…)\]”»\"؛،؟۔።፣፤।॥](?!\S)|(?<!\S)[(\[“«\"][\p{L}\p{N}]"
    rf"|(?:{_LETTER}\p{{M}}*){{5}}\.(?!\S)|[^\s.!?][.!?।።。]\s*$",
    _FLAGS,
)
_LETTERS = regex.compile(r"[\p{L}\p{M}]+", _FLAGS)
_FORMAT = regex.compile(r"\p{Cf}+", _FLAGS)
_NO_LETTERS = regex.compile(r"[^\p{L}\p{M}\p{N}]+", _FLAGS)
# a letter with its marks; UAX 29 keeps Katakana together
_CHARACTER = regex.compile(r"[\p{Katakana}ーｰ][\p{Katakana}ーｰ\p{M}]*|\X[\p{M}\u200C\u200D]*", _FLAGS)
#: longer stretches between spaces than this are not remembered; scripts without spaces make them
_REMEMBERED = 40


def words(text: str) -> tuple[str, ...]:
    """Return the words and punctuation marks of a line.

    >>> words("Juma's sister, in Dar es Salaam.")
    ("Juma's", 'sister', ',', 'in', 'Dar', 'es', 'Salaam', '.')
    """
    return tuple(text[start:end] for start, end in word_spans(text))


def word_spans(text: str, *, segmented: bool = True) -> list[Span]:
    """Return the places of the words and punctuation marks of a line, in order.

    segmented: whether scripts without spaces are cut into words; otherwise a stretch of such a script is one word.

    >>> word_spans("Nairobi, Kenya")
    [(0, 7), (7, 8), (9, 14)]
    """
    if is_tokenised(text):
        return list(_trimmed(text, _between(_GAPS, text)))
    found: list[Span] = []
    for start, end in _between(_GAPS, text):
        chunk = text[start:end]
        cut = _remembered_cut if len(chunk) <= _REMEMBERED else _cut
        found.extend((start + a, start + b) for a, b in cut(chunk, segmented))
    return list(_trimmed(text, _joined(found, _edges(text))))


def is_tokenised(text: str) -> bool:
    """Return whether a line is tokenised: a full stop, comma, bracket or quotation mark stands alone, and none is
    attached to a word.

    >>> is_tokenised("Juma Ali , Nairobi ."), is_tokenised("Juma Ali, Nairobi .")
    (True, False)
    """
    return _APART.search(text) is not None and _ATTACHED.search(text) is None


def letters(text: str) -> str:
    """Return the letters, marks and digits of a text in NFC, without regard to case; joiners are no letters.

    >>> letters("Don't stop, Ann!")
    'dontstopann'
    """
    return normalize("NFC", _NO_LETTERS.sub("", normalize("NFC", text).casefold()))


def letter_words(text: str) -> list[str]:
    """Return the stretches of letters and marks of a text, in NFC and lower case; joiners inside them are left out.

    They are the words of which character n-grams are counted. A script without spaces is not cut, so that the counts do
    not depend on a segmenter.

    >>> letter_words("Juma, 3!")
    ['juma']
    """
    return _LETTERS.findall(_FORMAT.sub("", normalize("NFC", text.lower())))


def count_words(text: str) -> int:
    """Return the number of stretches between white space, in which scripts without spaces are cut into words.

    It is for corpora: punctuation counts with its word, so nothing but spaces is looked for in most of them.

    >>> count_words("Juma, Nairobi.")
    2
    """
    chunks = text.split()
    if RUN.search(text) is None:
        return len(chunks)
    return sum(max(1, sum(len(_pieces(run[0])) for run in RUN.finditer(chunk))) for chunk in chunks)


def _pieces(run: str) -> list[str]:
    """Return the words of a stretch of a script without spaces, or its characters where no segmenter is installed."""
    found = segment(run)
    return _CHARACTER.findall(run) if found is None else found


def _between(gaps: regex.Pattern[str], text: str) -> Iterator[Span]:
    """Yield the stretches of a text that lie between gaps."""
    start = 0
    for gap in gaps.finditer(text):
        if gap.start() > start:
            yield start, gap.start()
        start = gap.end()
    if start < len(text):
        yield start, len(text)


def _cut(chunk: str, segmented: bool) -> list[Span]:
    """Return the words of a stretch without spaces, as far as they can be told without its line."""
    cuts = {match.start() for match in _BOUNDARY.finditer(chunk)} - {0}
    if len(cuts) == 1 and not RUN.search(chunk):
        return [(0, len(chunk))]
    cuts -= {place for match in _JOINING.finditer(chunk) for place in match.span()}
    for match in _WHOLE.finditer(chunk):
        cuts.difference_update(range(match.start() + 1, match.end()))
    for run in RUN.finditer(chunk):
        cuts |= set(run.span())
        pieces = _pieces(run[0]) if segmented else [run[0]]
        cuts.difference_update(range(run.start() + 1, run.end()))
        cuts |= {run.start() + length for length in accumulate(map(len, pieces))}
    return list(pairwise(sorted(cuts | {0, len(chunk)})))


#: words repeat, and most of the time is spent on few of them
_remembered_cut = lru_cache(1 << 16)(_cut)


def _edges(text: str) -> set[int]:
    """Return the places in a line between a word and a sign that belongs to it, where only the line can tell.

    These are the full stop of an initial, and an apostrophe without a partner: an opening one before a small letter, a
    number or a y (Hausa writes ‘y for a letter), or a closing one before another word.
    """
    kept = {match.end() - 1 for match in _INITIAL.finditer(text)}
    opened: list[int] = []
    for match in _APOSTROPHE.finditer(text):
        if match.lastgroup == "opening":
            opened.append(match.start())
        elif opened:
            opened.pop()
        elif _FOLLOWED.match(text, match.end()):
            kept.add(match.start())
    return kept | {place + 1 for place in opened if _SUFFIX.match(text, place + 1)}


def _joined(found: list[Span], kept: set[int]) -> Iterable[Span]:
    """Join neighbours whose common place is kept."""
    if not kept:
        return found
    joined: list[Span] = []
    for start, end in found:
        if joined and joined[-1][1] == start and start in kept:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _trimmed(text: str, found: Iterable[Span]) -> Iterator[Span]:
    """Yield the words without characters at their edges that have no shape; words of nothing else are left out.

    A joiner belongs to the letter before it, so one that follows no letter is left out, too.
    """
    for start, end in found:
        while start < end and text[start] in _UNSEEN_FIRST:
            start += 1
        while start < end and text[end - 1] in _UNSEEN:
            end -= 1
        if start < end:
            yield start, end
