"""Reproduce the table of docs/lab.md: eight ways to begin, on `latch` at lag 120, 1,000 steps, ten seeds.

python papers/latch.py                                    # the whole table
python papers/latch.py --seeds 1 --arms lstm lstm-chrono  # a part of it
python papers/latch.py --json latch.json                  # also every number of every seed
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from openlstm import lab


def show(p: lab.Progress) -> None:
    """One line on standard error, overwritten as training goes on."""
    now = "  ".join(f"{arm} {accuracy:.2f}" for arm, accuracy in p.running.items())
    print(f"\rseed {p.seed + 1}/{p.seeds}  step {p.step:>4}/{p.steps}  {now}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lag", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=list(lab.ARMS), choices=list(lab.ARMS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = lab.latch(args.lag, args.seeds, args.steps, args.arms, args.seed, show)
    print(file=sys.stderr)
    print(result.to_markdown())
    if args.json:
        args.json.write_text(json.dumps(result.to_dict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
