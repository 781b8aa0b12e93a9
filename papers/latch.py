"""Reproduce the tables of docs/lab.md: nine networks side by side on `latch`, 1,000 steps, ten seeds.

python papers/latch.py                                    # lag 120, the whole table
python papers/latch.py --lag 60
python papers/latch.py --seeds 1 --arms lstm lstm-advice  # a part of it
python papers/latch.py --json latch.json                  # also every number of every seed
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from openlstm import lab
from openlstm.engine.threads import get_num_threads
from openlstm.lab.show import advice


def show(p: lab.Progress) -> None:
    """One line on standard error, overwritten as networks are done."""
    means = "  ".join(f"{arm} {row.mean:.2f}" for arm, row in p.rows.items())
    print(f"\r{p.seconds:4.0f} s  {p.done}/{p.networks} networks  {means}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lag", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=list(lab.SIDE_BY_SIDE), choices=list(lab.ARMS))
    parser.add_argument("--jobs", type=int, default=get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seeds = range(args.seed, args.seed + args.seeds)
    options = {"seeds": seeds, "steps": args.steps, "arms": args.arms, "jobs": args.jobs}
    result = lab.run("latch", args.lag, **options, on_progress=show)
    print(file=sys.stderr)
    print(result.to_markdown())
    for line in advice(result.advice) if result.advice else []:
        print(f"\n{line}")
    print(f"\n{result.seconds:.0f} s, {args.jobs} at a time")
    if args.json:
        args.json.write_text(json.dumps(result.to_dict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
