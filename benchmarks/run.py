"""All measurements with one command: a table with ratios, everything as JSON, and a plot.

    python benchmarks/run.py --out runs/benchmarks                      `make bench`; about an hour on 2 quiet cores
    .venv-peers/bin/python benchmarks/run.py --out runs/benchmarks      with the peer beside (`make bench-peers`)
    python benchmarks/run.py --only train infer --shape small --rounds 2

Every other file of this folder that is a script with --out and --threads is a measurement and runs in its own process.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NO_MEASUREMENT = {"run", "common", "peer"}
READ_SENTENCES = {"train", "evaluate"}


def measurements() -> list[str]:
    """Names of the files that measure something."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in NO_MEASUREMENT)


def measure(name: str, options: argparse.Namespace) -> dict:
    """One measurement in a process of its own: what it wrote, or how it failed."""
    file = Path(options.out) / f"{name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(file), "--threads", str(options.threads)]
    if "arguments(__doc__" in (HERE / f"{name}.py").read_text(encoding="utf-8"):  # it has the options of common.py
        command += ["--shape", options.shape, "--rounds", str(options.rounds)] + (
            ["--no-peer"] if options.no_peer else []
        )
        command += ["--file", options.file] if options.file and name in READ_SENTENCES else []
    print(f"-- {name}: {' '.join(command[1:])}", flush=True)
    began = time.monotonic()
    done = subprocess.run(command)
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found | {"exit": done.returncode, "seconds": round(time.monotonic() - began)}


def table(results: dict) -> str:
    """The rows that have a figure of ours, as Markdown."""
    lines = [
        "| measure | way | unit | ours | peer | ratio (least–most) | limit | share of the limit |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for found in results.values():
        for row in found.get("rows", []):
            if "ours" not in row:
                continue
            ratio = row.get("ratio")
            spread = (
                f"{ratio['median']} ({ratio['least']}–{ratio['most']})"
                if ratio
                else str(row.get("share_of_peer") or "")
            )
            cells = [
                row["measure"],
                row["way"],
                row["unit"],
                row["ours"],
                row.get("peer"),
                spread,
                row.get("limit"),
                row.get("share"),
            ]
            lines.append("| " + " | ".join("" if c is None else str(c) for c in cells) + " |")
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Bars: how many times faster than the peer, with the spread of the rounds; nothing without a peer."""
    rows = [r for found in results.values() for r in found.get("rows", []) if r.get("ratio")]
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 0.8 + 0.35 * len(rows)), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        median, least, most = (row["ratio"][k] for k in ("median", "least", "most"))
        axis.barh(place, median, xerr=[[max(0, median - least)], [max(0, most - median)]], color="#4477aa")
        axis.annotate(f" {median}×", (most, place), va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [f"{r['measure']}, {r['way']}" for r in reversed(rows)], fontsize=8)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set(xlabel="times the peer's speed", xscale="log")
    axis.set_xlim(right=axis.get_xlim()[1] * 2)  # room for the last figure
    figure.savefig(path, dpi=90)


def main() -> None:
    """Run what was asked for; the exit status is 1 when a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/benchmarks", help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=measurements(), default=measurements())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=("base", "small"), default="base")
    parser.add_argument(
        "--file", help="a CoNLL file whose sentence lengths are used; without one they are drawn at random"
    )
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    results = {name: measure(name, options) for name in options.only}
    for file, text in (("results.json", json.dumps(results, indent=1)), ("table.md", table(results))):
        (Path(options.out) / file).write_text(text + "\n", encoding="utf-8")
    plot(results, Path(options.out) / "ratios.png")
    print(table(results))
    failed = [name for name, found in results.items() if found["exit"]]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
