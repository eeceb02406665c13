"""Text from outside (labels, languages, bases, paths, words of data, answers of servers), made safe to show.

`visible` is for every place where text is shown, and `visible_json` for JSON that is printed. `markdown` and `code` are
for Markdown, where text could also act as markup or as HTML. Texts are only changed where they are shown: what is
stored, scored and compared stays as it came.
"""

import re

#: control characters (C0 without tab and line feed, DEL, C1), line and paragraph separator, marks that change the
#: direction of the text after them (U+202A-E, U+2066-9; Trojan Source, CVE-2021-42574), and halves of surrogate pairs,
#: which stand for bytes of a path that are no UTF-8
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINES = re.compile("[\t\n]")
#: characters that begin or end markup of Markdown or HTML; an underscore within a word and a backslash before a blank,
#: a letter or a digit do not
_MARKUP = re.compile(r"[`*\[\]<>#|~]|\\(?![\s\w])|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
_BACKTICKS = re.compile("`+")


def visible(text: object, *, lines: bool = True) -> str:
    r"""Return a text with every character that a terminal would obey written as an escape.

    A terminal that gets ESC can be told to recolour, overwrite or hide lines, and marks of direction reorder what a
    reader sees. Joiners and combining marks, which belong to words, are kept.

    Args:
        text: anything; its `str` is taken.
        lines: keep tabs and line feeds; False shows them too, for a value that belongs on one line.

    >>> visible("a\x1b[31mb\u202e"), visible("a\nb", lines=False)
    ('a\\x1b[31mb\\u202e', 'a\\nb')
    """
    shown = _HIDDEN.sub(_escaped, str(text))
    return shown if lines else _LINES.sub(_escaped, shown)


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


def visible_json(text: str) -> str:
    r"""Return JSON with the same content in which no character is left that a terminal would obey.

    >>> visible_json('{"a": "\u202e"}')
    '{"a": "\\u202e"}'
    """
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def markdown(text: object) -> str:
    r"""Return a text on one line that Markdown shows as it is: no markup, no HTML, no cell of a table ends in it.

    >>> markdown("<b> | _x_ a_b\n1")
    '\\<b\\> \\| \\_x\\_ a_b 1'
    """
    return _MARKUP.sub(lambda match: "\\" + match[0], visible(" ".join(str(text).split())))


def code(text: object) -> str:
    """Return a text as code of Markdown, which is shown as it is; the quotes are longer than any in the text. In a
    table, where a bar would end the cell, use `markdown`.

    >>> code("swa + ner"), code("a`b")
    ('`swa + ner`', '`` a`b ``')
    """
    shown = visible(" ".join(str(text).split()))
    ticks = "`" * (1 + max(map(len, _BACKTICKS.findall(shown)), default=0))
    return f"{ticks} {shown} {ticks}" if len(ticks) > 1 else f"{ticks}{shown}{ticks}"
