"""Language codes of an evaluation: spellings of one language are told apart from different languages.

Modules and rows of a matrix are named by ISO 639-3 codes. The same language has other codes elsewhere: two letters in
ISO 639-1 (`sw`), three others in the bibliographic part of ISO 639-2 (`ger` for `deu`). Some data sets name a language
by its macrolanguage (`swa`), others by the member of it that is written (`swh`).
"""

from collections.abc import Iterable, Mapping

from madx.errors import ConfigError
from madx.store.metadata import HUB_CODES

#: two letters of ISO 639-1 -> three of ISO 639-3
_LONG = {short: long for long, short in HUB_CODES.items()}
#: bibliographic codes of ISO 639-2, each with that of ISO 639-3
_BIBLIOGRAPHIC = dict(
    pair.split("-")
    for pair in "alb-sqi arm-hye baq-eus bur-mya chi-zho cze-ces dut-nld fre-fra geo-kat ger-deu gre-ell ice-isl "
    "mac-mkd mao-mri may-msa per-fas rum-ron slo-slk tib-bod wel-cym".split()
)
#: macrolanguages of ISO 639-3, each with the members that data sets name in its place
_MEMBERS = {
    entry[:3]: entry[4:].split(",")
    for entry in (
        "ara:arb aze:azj,azb aym:ayr est:ekk fas:pes,prs ful:fuv,fub grn:gug kur:kmr,ckb lav:lvs mlg:plt mon:khk "
        "msa:zsm,ind nep:npi nor:nob,nno ori:ory orm:gaz pus:pbt,pbu que:quz,quy sqi:als swa:swh,swc uzb:uzn yid:ydd "
        "zho:cmn,yue"
    ).split()
}
_MACRO = {member: macro for macro, members in _MEMBERS.items() for member in members}


def canonical(code: str) -> str:
    """Return a code with its language in three letters of ISO 639-3; what is in no table stays as it is.

    >>> canonical("sw"), canonical("GER"), canonical("pt-BR"), canonical("swh")
    ('swa', 'deu', 'por-BR', 'swh')
    """
    first, dash, rest = code.strip().partition("-")
    first = first.lower()
    return _LONG.get(first, _BIBLIOGRAPHIC.get(first, first)) + dash + rest


def related(a: str, b: str) -> bool:
    """Return whether one code is the macrolanguage of the other.

    >>> related("swa", "swh"), related("nor", "nno"), related("nob", "nno"), related("eng", "deu")
    (True, True, False, False)
    """
    a, b = canonical(a), canonical(b)
    return a != b and (_MACRO.get(a) == b or _MACRO.get(b) == a)


def check_spellings(languages: Iterable[str], what: str) -> None:
    """Raise ConfigError for two codes of one language, as `swa` and `sw`: its row would stand twice, and count twice.

    what: the role of the languages, for the message.
    """
    first: dict[str, str] = {}
    for code in languages:
        other = first.setdefault(canonical(code), code)
        if other != code:
            raise ConfigError(
                f"{other!r} and {code!r} are codes of one language among {what}: give it once, as {canonical(code)!r}."
            )


def check_code(language: str, stored: Iterable[str]) -> None:
    """Raise ConfigError for a language without a module of that name, if another spelling of it has one.

    stored: the names of the stored modules. `sw` would silently be a language without a module where `swa` has one.
    """
    names = list(stored)
    same = [name for name in names if name != language and canonical(name) == canonical(language)]
    if language not in names and same:
        raise ConfigError(
            f"There is no module for {language!r}, but one for {same[0]!r}, another code of the same language. Call "
            f"the language {same[0]!r}, or set modules.{language}={same[0]} (or =null, to evaluate without it)."
        )


def remarks_on_codes(languages: Iterable[str]) -> list[str]:
    """Return a remark for every two languages of which one is the macrolanguage of the other."""
    listed = list(dict.fromkeys(languages))
    return [
        f"{a} and {b} may be one language ({_macro_of(a, b)} is the macrolanguage of the other): then it counts twice"
        for number, a in enumerate(listed)
        for b in listed[number + 1 :]
        if related(a, b)
    ]


def remarks_on_lacking(lacking: Iterable[str], stored: Mapping[str, str | None]) -> list[str]:
    """Return a remark for each language without a module of its name, if a module may yet be of that language.

    lacking: languages without a module. stored: the names of the stored language modules, with their languages.
    """
    found = []
    for code in lacking:
        names = [
            name
            for name, language in stored.items()
            if canonical(language or name) == canonical(code) or related(name, code)
        ]
        if names:
            found.append(
                f"{code} is evaluated without a module of its own; {', '.join(names)} may be of that language: set "
                f"modules.{code}={names[0]} to take it"
            )
    return found


def _macro_of(a: str, b: str) -> str:
    return a if _MACRO.get(canonical(b)) == canonical(a) else b
