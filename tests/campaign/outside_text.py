"""Text from outside in every place where madx prints or writes it: none may act as markup, command or formula.

A hostile text is given as a label, a language, a path, a module's name, a word, a remark, a setting, ...; what the
command prints and the files that it writes are searched for it.
"""

import csv
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import store_tools
from tiny_files import write_conll

from campaign.commands import language, run, task
from campaign.forks import Ended, fork
from campaign.outcome import Attempt
from campaign.subjects.stored import small_base
from madx.interop import export_adapterhub
from madx.store import Store

PART = "outside text"
MARK = "Q7Q"
TEXTS = (
    f"[/{MARK}]",
    f"[bold]{MARK}[/bold]",
    f"[link=file:///etc/passwd]{MARK}[/link]",
    f"[{MARK}",
    f"[@click=app.bell]{MARK}[/]",
    f"\x1b[2J{MARK}",
    f"\x1b]0;{MARK}\x07",
    f"\x9b31m{MARK}",
    f"{MARK}\x08\x08\x08",
    f"{MARK}\roverwritten",
    f"\u202e{MARK}",
    f"\u2066{MARK}",
    f"{MARK}\u2028second",
    f"{MARK}\x85second",
    f"{MARK}\x7f",
    f"{MARK}\udcff",
    f":smile:{MARK}",
    f"=1+1+{MARK}",
    f"+{MARK}",
    f"@{MARK}",
    f"-{MARK}",
    f"<script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f"|{MARK}|",
    f"`{MARK}`",
    f"{{{{{MARK}}}}}",
    f"{{0}}%s{MARK}",
    f"$(touch {MARK})",
    f"{MARK}" * 300,
    f"../{MARK}",
    f"a/{MARK}",
    f"{MARK}\n# heading",
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
HTML = re.compile(rf"<(script|img)[^>]*{MARK}|<script>{MARK}", re.IGNORECASE)
#: markup of rich that was swallowed: the mark alone where a tag stood before it
TAGS = ("[bold]", "[link=file:///etc/passwd]", "[@click=app.bell]")


def _words(text: str) -> str:
    """A text as one word of a column file."""
    return re.sub(r"[\t\n\r ]", "_", text)


def _column_file(here: Path, name: str, text: str) -> str:
    """A labelled file in which the text is a word and a type."""
    word = _words(text)
    lines = [f"{word}\tB-{word}", "lives\tO", "Juma\tB-PER", "", "in\tO", f"{word}\tO", ""] * 6
    (here / name).write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return name


def _yaml(here: Path, name: str, content: object) -> str:
    (here / name).write_text(json.dumps(content), encoding="utf-8")
    return name


def _recorded(here: Path, text: str) -> None:
    """A stored module whose record holds the text wherever a record holds text."""
    module = store_tools.module(small_base(), "odd", "pfeiffer")
    module.info.training = {
        "job": text,
        "settings": {text: text},
        "data": [{"path": text, "sha256": None, "bytes": 1}],
        "datasets": [text],
        "versions": {text: text},
        "scores": {"dev": {text: 1.0}},
    }
    module.info.base = module.info.base | {"name": text}
    Store(here / "modules").save(module)


def _adapter(here: Path, text: str) -> list[str]:
    made = store_tools.task(small_base(), "odd")
    export_adapterhub(made, here / "odd", base=small_base())
    file = here / "odd" / "adapter_config.json"
    full = json.loads(file.read_text()) | {"name": text, "model_name": text}
    file.write_text(json.dumps(full | {"config": full["config"] | {text: text}}))
    return "modules import odd --from adapterhub --name odd --role task --task ner --base base".split()


def _matrix(here: Path, text: str) -> list[str]:
    data = {"train": {"eng": "train.conll"}, "dev": {"eng": "dev.conll"}, "test": {text: "swa-test.conll"}}
    content = {"base": "base", "corpora": {}, "tasks": {text: data | {"task": "ner"}}, "seeds": [1], "note": text}
    recipe = {"language": None, "task": {"components": "head_only", "epochs": 1}}
    content |= {"module_types": {text: recipe}, "run": "matrix", "progress": False}
    return ["matrix", _yaml(here, "odd.yaml", content)]


def _compare(here: Path, text: str) -> list[str]:
    content = {"base": "base", "language": "eng", "data": "train.conll", "dev": "dev.conll", "note": text}
    content |= {"candidates": {text: {"components": "head_only"}}, "seeds": [1], "rounds": 3, "measured_steps": 1}
    return ["compare", _yaml(here, "odd.yaml", content | {"training": {"epochs": 1}, "progress": False})]


def _path(here: Path, text: str, ending: str, content: Callable[[Path], object]) -> str:
    """A file whose name holds the text, or the text where no file can be called so."""
    name = text.replace("/", "_")[:150] + ending
    try:
        content(here / name)
    except (OSError, ValueError):
        return text
    return name


def _evaluate(*words: str) -> list[str]:
    return ["evaluate", "--task-module", "ner", "--out", "odd-results", *words]


Place = Callable[[Path, str], list[list[str]]]
#: place -> the commands that put the text there
PLACES: dict[str, Place] = {
    "label": lambda here, text: [
        task("odd", "columns.repair=true", "epochs=1")
        + ["--data", _column_file(here, "odd.conll", text)]
        + ["--dev", "odd.conll"],
        _evaluate("--task-module", "odd", "--target", "swa=odd.conll"),
        ["predict", "--stack", "swa + odd", f"{text} lives in Juma"],
    ],
    "unknown label": lambda here, text: [_evaluate("--target", f"swa={_column_file(here, 'odd.conll', text)}")],
    "language": lambda here, text: [_evaluate("--target", f"{text}=swa-test.conll")],
    "language of a module": lambda here, text: [language(text)],
    "name of a module": lambda here, text: [[*language("yor"), "--name", text], ["modules", "show", text]],
    "path of a corpus": lambda here, text: [
        language("yor", corpus=_path(here, text, ".txt", lambda p: shutil.copy(here / "swa.txt", p))),
        ["modules", "show", "yor"],
    ],
    "path of data": lambda here, text: [_evaluate("--target", f"swa={_path(here, text, '.conll', write_conll)}")],
    "folder of results": lambda here, text: [_evaluate("--target", "swa=swa-test.conll", "--out", text)],
    "base": lambda here, text: [[*language("yor"), "--base", text]],
    "store": lambda here, text: [["modules", "list", "--store", text], ["modules", "verify", "--store", text]],
    "word": lambda here, text: [
        ["predict", "--stack", "swa + ner", f"Juma {text} lives"],
        ["predict", "--stack", "swa + ner", "--format", "json", text],
        ["predict", "--stack", "swa + ner", "--format", "conll", text],
        ["explain", "--stack", "swa + ner", "--text", text],
    ],
    "record": lambda here, text: [
        _recorded(here, text) or ["modules", "list"],
        ["modules", "show", "odd"],
        ["modules", "verify"],
        ["predict", "--stack", "odd", text],
    ],
    "remark": lambda here, text: [
        ["evaluate", _yaml(here, "odd.yaml", {"targets": {"swa": "swa-test.conll"}, "note": text, "run": "odd"})],
        ["report", "odd"],
    ],
    "settings": lambda here, text: [["train-task", _yaml(here, "odd.yaml", {text: text, "base": text, "data": {}})]],
    "override": lambda here, text: [
        language("yor", text),
        language("yor", f"{text}=1"),
        language("yor", f"seed={text}"),
    ],
    "composition": lambda here, text: [["predict", "--stack", text, "Juma"], ["explain", "--stack", f"swa + {text}"]],
    "corpus": lambda here, text: [
        (here / "odd.txt").write_text(f"{text} lives in Juma\n" * 60, encoding="utf-8", errors="surrogateescape")
        and [
            "inspect",
            "--base",
            "base",
            "--corpus",
            "odd.txt",
            "--data",
            f"{text}={_column_file(here, 'o.conll', text)}",
        ],
        language("yor", corpus="odd.txt"),
    ],
    "matrix": lambda here, text: [_matrix(here, text), ["matrix", "odd.yaml", "--dry-run"]],
    "compare": lambda here, text: [_compare(here, text)],
    "adapter": lambda here, text: [_adapter(here, text)],
    "similarity": lambda here, text: [["similarity", f"{text}=swa.txt", "eng=eng.txt"]],
    "hub": lambda here, text: [["modules", "pull", text], ["modules", "push", text, "juma/x"]],
    "export": lambda here, text: [["modules", "export", "swa", "--to", "adapterhub", "--out", text, "--as", text]],
    "command": lambda here, text: [[text], ["modules", text], ["config", text], ["modules", "types", text]],
}


SUBJECTS = list(PLACES)


def attempts(
    name: str, *, seed: int, ready: Path, folder: Path, numbers: Iterator[int], going: Callable[[], bool]
) -> Iterator[Attempt]:
    """Put one text after the other into a place, as long as `going`."""
    order = random.Random(f"{seed}/{PART}/{name}").sample(TEXTS, len(TEXTS))
    for number in numbers:
        if not going():
            return
        text, began = order[number % len(order)], time.monotonic()
        outcome, said = _tried(PLACES[name], text, ready=ready, folder=folder)
        yield Attempt(PART, name, number, outcome, repr(text)[:120], said[-1500:], time.monotonic() - began)


def _tried(place: Place, text: str, *, ready: Path, folder: Path) -> tuple[str, str]:
    """Run the commands of a place, and search what they print and write."""
    here, outcome, said = folder / "here", "equal", ""
    shutil.copytree(ready, here)
    before = set(folder.rglob("*"))
    for words in _made(place, here, text):
        end = fork(partial(run, words), folder=here, timeout=60)
        outcome, said = _judged(end, text, data="--format" in words)
        if outcome not in ("equal", "refused"):
            said = f"madx {' '.join(words)[:200]}: {said}"
            break
    else:
        outcome, said = _written(here, outcome)
    if outside := [str(p) for p in folder.rglob("*") if p not in before and not p.is_relative_to(here)]:
        outcome, said = "lost", f"written outside: {outside[:5]}"
    shutil.rmtree(here)
    return outcome, said


def _made(commands: Place, here: Path, text: str) -> list[list[str]]:
    """The commands of a place; its files are made in a child, for the parent must stay with one thread."""
    end = fork(lambda: commands(here, text), folder=here)
    return end.value or []


def _judged(end: Ended, text: str, *, data: bool) -> tuple[str, str]:
    if end.late:
        return "slow", "no end"
    if end.error is not None or end.signal or "Traceback (most recent" in end.output:
        return "exception", f"{end.error or end.signal or end.output[-1500:]}"
    if data:  # JSON or columns for another program, which hold words as they are
        return ("equal" if end.value == 0 else "refused"), ""
    if found := CONTROL.search(end.output):
        place = found.start()
        return "raw", f"control {found[0]!r} in {end.output[max(0, place - 60) : place + 60]!r}"
    tag = text.partition(MARK)[0]
    # a path is printed with single slashes, and LANG=PATH is parted at its first =
    shown = (tag, re.sub("/+", "/", tag), tag.partition("=")[2])
    if tag in TAGS and MARK in end.output and not any(form and form + MARK in end.output for form in shown):
        return "raw", f"the markup {tag!r} is gone from what is printed: {end.output[-200:]!r}"
    return ("equal" if end.value == 0 else "refused"), ""


def _written(here: Path, outcome: str) -> tuple[str, str]:
    """Search pages and tables for text that acts there."""
    for page in [*here.rglob("*.html"), *here.rglob("*.md")]:
        shown = page.read_text(encoding="utf-8", errors="replace")
        if page.suffix == ".md":  # HTML inside the front matter or a code span is shown, not obeyed
            shown = re.sub(r"\A---\n.*?\n---\n|(`+)[^\n]*?\1", "", shown, flags=re.DOTALL)
        if found := HTML.search(shown):
            return "raw", f"{page.relative_to(here)}: {found[0][:80]!r}"
    for table in here.rglob("*.csv"):
        for row in csv.reader(table.open(encoding="utf-8", newline="")):
            if cells := [
                cell for cell in row if cell[:1] in ("=", "+", "@", "\t", "\r") or re.match(rf"-{MARK}", cell)
            ]:
                if any(MARK in cell for cell in cells):
                    return "raw", f"{table.relative_to(here)}: the cell {cells[0][:60]!r} is a formula"
    return outcome, ""
