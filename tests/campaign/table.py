"""The table and the JSON of a campaign."""

import json
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from campaign.outcome import FAULTS, FINE, OUTCOMES, Attempt, Tally
from madx.jobs.common import versions


def table(tally: Tally, *, seed: int, seconds: float) -> str:
    """The counts of all parts and subjects, a line each, and every kind of fault once."""
    shown = [outcome for outcome in OUTCOMES if any(counter[outcome] for counter in tally.counts.values())]
    width = max((len(subject) for _, subject in tally.counts), default=10) + 2
    head = f"{'':{width}}{'tried':>8}" + "".join(f"{outcome:>11}" for outcome in shown)
    lines = [f"campaign: seed {seed}, {seconds:,.0f} seconds, {tally.kills:,} kills", ""]
    for part in dict.fromkeys(part for part, _ in tally.counts):
        lines += [part, head]
        rows = [(subject, counter) for (of, subject), counter in tally.counts.items() if of == part]
        for subject, counter in [*rows, ("all", tally.total(part))] if len(rows) > 1 else rows:
            cells = "".join(f"{counter[outcome] or '':>11}" for outcome in shown)
            lines.append(f"{subject:{width}}{counter.total():>8}{cells}")
        lines.append("")
    lines += [f"{outcome:>11}  {OUTCOMES[outcome]}" for outcome in shown]
    total = Counter(attempt.outcome for attempt in tally.faults)
    lines += ["", "no fault" if not total else "faults: " + ", ".join(f"{n} {what}" for what, n in total.items())]
    for attempts in grouped(tally.faults):
        first = attempts[0]
        lines.append(
            f"  {len(attempts)} {first.outcome}: {first.part}, {first.subject!r}, first number {first.number}: "
            f"{first.how[:120]}\n      {last_line(first.said)}  {place_of(first.said)}"
        )
    return "\n".join(_printable(line) for line in lines)


def grouped(faults: Iterable[Attempt]) -> list[list[Attempt]]:
    """Faults that look alike together: of one subject, with one outcome and one last line; the most frequent first."""
    groups: dict[tuple[str, ...], list[Attempt]] = {}
    for attempt in faults:
        place = place_of(attempt.said)
        words = "" if attempt.outcome == "silent" else place or last_line(attempt.said)[:60]
        groups.setdefault((attempt.part, attempt.subject, attempt.outcome, words), []).append(attempt)
    return sorted(groups.values(), key=len, reverse=True)


def last_line(text: str) -> str:
    """The last line of an error or of a traceback."""
    lines = [line for line in text.replace("\\n", "\n").splitlines() if line.strip(" ')")]
    return lines[-1].strip()[:200] if lines else ""


def place_of(text: str) -> str:
    """The last line of madx in a traceback; empty if there is none."""
    places = [line.strip() for line in text.replace("\\n", "\n").splitlines() if "/madx/" in line and "line " in line]
    return places[-1].rpartition("/madx/")[2] if places else ""


def as_json(tally: Tally, *, seed: int, seconds: float) -> dict[str, Any]:
    """All counts and all faults."""
    return {
        "format": "madx campaign",
        "version": 1,
        "seed": seed,
        "seconds": round(seconds, 1),
        "kills": tally.kills,
        "versions": versions() | {"machine": platform.machine()},
        "outcomes": {"fine": FINE, "faults": FAULTS},
        "counts": [
            {"part": part, "subject": subject, "tried": counter.total(), **counter}
            for (part, subject), counter in tally.counts.items()
        ],
        "faults": [asdict(attempt) for attempt in tally.faults],
    }


def write(content: dict[str, Any], text: str, folder: Path) -> Path:
    """Write campaign.json and campaign.txt; give the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "campaign.txt").write_text(text + "\n", encoding="utf-8")
    file = folder / "campaign.json"
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def _printable(text: str) -> str:
    """A text in which nothing acts on a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
