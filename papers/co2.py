"""Reproduce the table of docs/forecast.md: weekly CO2, the last 104 weeks and five earlier pairs of years, several seeds.

python papers/co2.py                      # the demo's held-out weeks with three seeds, and the five earlier pairs with one
python papers/co2.py --seeds 1 --cuts 0   # what `openlstm demo` shows

A cut of k takes k x 104 weeks off the end of the series before anything else is done. Settings of the forecaster were compared
on the earlier cuts, not on the last 104 weeks (docs/forecast.md says with which limits).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib.resources import files
from statistics import fmean

from openlstm import Forecaster
from openlstm.data import Series, read_series
from openlstm.runtime import Model
from openlstm.tasks.scoring import Evaluation, evaluate
from openlstm.train import Options

HORIZON, HELD_OUT = 52, 104
NAMES = ("naive", "seasonal naive", "seasonal naive + drift", "ETS", "ridge window", "LSTM", "LSTM with h = 0")


def without_memory(model: Model) -> Model:
    """The same model with h replaced by 0 before the head: W 0 + b = 0 h + b."""
    return replace(model, heads=tuple((0 * w, b) for w, b in model.heads))


def run(series: Series, seed: int, cut: int) -> Evaluation:
    """Fit to all but the last 104 weeks of the cut series, and score."""
    seen = series.slice(0, len(series) - cut * HELD_OUT)
    print(f"seed {seed}, cut {cut}", file=sys.stderr)
    model = Forecaster(HORIZON, options=Options(seed=seed)).fit(seen, holdout=HELD_OUT).model_
    return evaluate({"LSTM": model, "LSTM with h = 0": without_memory(model)}, seen)


def row(label: str, evaluation: Evaluation) -> str:
    """One line of the table: MASE of every forecaster, and the share inside the LSTM's band."""
    scores = [f"{evaluation.score(name).mase or 0.0:.3f}" for name in NAMES]
    return f"| {label} | {' | '.join(scores)} | {evaluation.score('LSTM').coverage or 0.0:.0%} |"


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of the last 104 weeks; the earlier ones take one")
    parser.add_argument("--cuts", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    args = parser.parse_args()
    series = read_series(str(files("statsmodels.datasets.co2") / "co2.csv"), "date", "co2")
    print(f"| held out | {' | '.join(NAMES)} | inside the 80 % band |")
    print("|---|" + "---|" * (len(NAMES) + 1))
    earlier: list[Evaluation] = []
    for cut in args.cuts:
        for k in range(1 if cut else args.seeds):
            evaluation = run(series, 10 * k, cut)
            first, last = (str(series.times[at])[:7] for at in (evaluation.first, evaluation.last - 1))
            print(row(f"{first} to {last}, seed {10 * k}", evaluation), flush=True)
            earlier += [evaluation] if cut else []
    if len(earlier) > 1:
        means = [fmean(e.score(name).mase or 0.0 for e in earlier) for name in NAMES]
        inside = fmean(e.score("LSTM").coverage or 0.0 for e in earlier)
        print(f"| mean of the earlier ones | {' | '.join(f'{m:.3f}' for m in means)} | {inside:.0%} |")


if __name__ == "__main__":
    main()
