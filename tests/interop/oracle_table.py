"""Prints how far madx is from AdapterHub's `adapters` in every case of the reference material, as a table.

    python tests/interop/oracle_table.py [--shared ../shared]          # or: make oracle

For each base, and for each form of its files: the largest difference of the hidden states, and that of the masked-LM
logits as a share of the largest logit. The exit status is 1 when one exceeds the tolerance of the tests (1e-5).
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "interop")]

import torch  # noqa: E402
from conftest import SHARED  # noqa: E402
from test_oracle import BASES, CASES, CORRECT_FROM, FORMS, LEFT_OUT, ROWS, TOLERANCE, Bench  # noqa: E402

from madx.composition import as_composition  # noqa: E402

#: for the cases that `test_oracle` looks at one by one
ELSEWHERE = "compared in test_oracle.py: the peer drops a component, divides twice or repeats the batch"


def rows_of(bench: Bench):
    """(case, composition compared, differences of hidden states and logits or None) for every case."""
    for case, ours in CASES.items():
        there = all(name in bench.engine.modules for name in as_composition(ours).names())
        yield case, ours, bench.deltas(case, *bench.run(ours)) if there else None
    for case, (first, second, cut) in ROWS.items():
        yield case, f"rows 0-{cut - 1}: {first}; {cut}-3: {second}", bench.sliced(case)
    for case, ours in CORRECT_FROM.items():
        yield case, f"the peer is wrong; its rows rightly: {', '.join(ours)}", bench.corrected(case)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of reference material")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    worst, benches = 0.0, [(name, options.shared / "oracle" / name) for name in BASES]
    if not any(folder.is_dir() for _, folder in benches):
        sys.exit(f"{options.shared / 'oracle'} holds no reference material; give its folder with --shared.")
    for name, folder in benches:
        if not folder.is_dir():
            print(f"{name}: not among the reference material")
            continue
        tables = []
        for form in FORMS:
            bench = Bench(folder, form)
            tables.append({case: (ours, d) for case, ours, d in rows_of(bench)})
            bench.engine.close()
        columns = [f"{what}, {form}" for form in (".bin", "safetensors") for what in ("hidden", "logits")]
        print(f"| case ({name}) | compared with | {' | '.join(columns)} |")
        print("|---|---|---:|---:|---:|---:|")
        for case, (ours, _) in tables[0].items():
            found = [table[case][1] for table in tables]
            worst = max([worst, *(value for d in found if d for value in d)])
            cells = [f"{value:.1e}" if d else "not saved so" for d in found for value in (d or (0, 0))]
            print(f"| {case} | {ours} | {' | '.join(cells)} |")
        for case in sorted(set(bench.cases) - set(tables[0])):
            print(f"| {case} | {LEFT_OUT.get(case) or ELSEWHERE} | | | | |")
    print(f"largest of all: {worst:.1e} (tolerance {TOLERANCE:.0e})")
    return int(worst >= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
