"""Sample sentences of a language file, one for each frame, and its faults: `python -m madx.data.world.check swa`."""

import random
import sys

from madx.data.world.grammar import HERE, NAME_LISTS, SPLITS, Language, concepts, frames

NEEDED = {"male": 30, "female": 30, "surnames": 60, "places": 60, "org_stems": 40}  # names that a language itself has


def faults(code: str) -> list[str]:
    """Return everything that is missing, unknown or not enough in a language file, in words for its author."""
    spoken = Language(code)
    found: list[str] = []
    wanted = {concept for ids in concepts().values() for concept in ids}
    found += [f"lexicon: concept {c!r} is missing" for c in sorted(wanted - set(spoken.lexicon))]
    found += [
        f"lexicon: {c!r} is not a concept (private words go under grammar:)" for c in spoken.lexicon.keys() - wanted
    ]
    found += [f"frames: {f!r} is missing" for f in frames() if f not in spoken.realisations]
    found += [f"frames: {f!r} is not in frames.yaml" for f in spoken.realisations if f not in frames()]
    found += _frame_faults(spoken)
    for key in NAME_LISTS:
        own = [name for split in SPLITS for name in spoken.pools[split][key]]
        found += [f"names: {key} has {len(own)} names, needed {NEEDED[key]}"] * (len(own) < NEEDED[key])
        found += [f"names: {key} repeats {n!r}" for n in sorted({n for n in own if own.count(n) > 1})]
        found += [f"names: {n!r} in {key} does not begin with a capital" for n in own if not n[0].isupper()]
    return found + sorted(spoken.faults)


def _frame_faults(spoken: Language) -> list[str]:
    found: list[str] = []
    rng = random.Random(0)
    for frame, variants in spoken.realisations.items():
        slots = frames().get(frame, [])
        used = {part[0] for parts in variants for part in parts if not isinstance(part, str)}
        found += [f"frame {frame}: the slot {{{slot}}} is never used" for slot in slots if slot not in used]
        stray = [p for parts in variants for p in parts if isinstance(p, str) and set(p) & set("{}[]|@")]
        found += [f"frame {frame}: cannot read {p!r}" for p in stray]
        for split in SPLITS * 10:  # this fills spoken.faults with words and endings that do not exist
            if slots or frame in frames():
                spoken.realise(frame, rng, bound=spoken.bind(frame, split, rng))
    return found


def main(code: str) -> int:
    """Print one tagged sentence of every frame, and the faults of the file; return 1 if there are any, else 0."""
    spoken, rng = Language(code), random.Random(1)
    for frame in spoken.realisations:
        if frame in frames():
            sentence = spoken.tagged(spoken.realise(frame, rng, bound=spoken.bind(frame, "train", rng)), frame)
            tagged = " ".join(f"{t}/{g}" if g != "O" else t for t, g in zip(sentence.tokens, sentence.tags))
            print(
                f"{frame:22s} {sentence.text}\n{'':22s} {tagged}" if "/" in tagged else f"{frame:22s} {sentence.text}"
            )
    found = faults(code)
    print(f"\n{HERE / 'languages' / code}.yaml: {len(found)} faults", *found, sep="\n  ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
