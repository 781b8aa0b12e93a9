"""`openlstm demo`: real measurements beside simple baselines, one long-memory experiment, and the page that explains it all."""

from __future__ import annotations

import time
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from openlstm._files import writable
from openlstm.engine.threads import torch_aside
from openlstm.errors import missing_extra

HORIZON, HELD_OUT = 52, 104  # weeks
MEMBERS, FORECAST_STEPS = 2, 500
LAG, STEPS, ARMS = 120, 1000, ("rnn", "lstm", "lstm-chrono")
FILES = {
    "forecast.png": "the picture",
    "model.safetensors": "the model",
    "explain.html": "the LSTM explained; open it in a browser",
}
NEEDS = ("torch", "lightning_fabric", "polars", "statsmodels", "altair", "vl_convert", "jinja2")


def run(folder: Path, *, seed: int = 0, quiet: bool = False, out: Console | None = None) -> dict[str, Any]:
    """Run the three parts and write `forecast.png`, `model.safetensors` and `explain.html` into a folder, made if need be.

    Args:
        folder: where the files go.
        seed: of every network.
        quiet: show no progress on standard error.
        out: where tables are printed; nowhere if None.

    Returns:
        Everything as plain numbers, ready for JSON.

    Raises:
        ArgumentError: if a file cannot be written there.
        OSError: if the folder cannot be made.
        MissingExtraError: if a package of the extra `demo` is not installed.
    """
    for package in NEEDS:
        if find_spec(package) is None:
            raise missing_extra("openlstm demo", package, "demo")
    out = out or Console(quiet=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        writable(folder / name)
    begin = time.perf_counter()
    co2 = _co2(folder, seed, quiet, out)
    with torch_aside():
        latch = _latch(seed, quiet, out)
        page = _explain(folder, seed, quiet, out)
    seconds = time.perf_counter() - begin
    out.print(f"\nAll of it took {seconds:.0f} s. It lies in {folder}:", highlight=False, markup=False)
    for name, what in FILES.items():
        out.print(f"  {folder / name}   {what}", highlight=False, soft_wrap=True, markup=False)
    return {"co2": co2, "latch": latch, "explain": page, "folder": str(folder), "seconds": seconds}


def _co2(folder: Path, seed: int, quiet: bool, out: Console) -> dict[str, Any]:
    """Weekly CO2 at Mauna Loa, 1958-2001 (public domain), as it ships inside statsmodels."""
    from openlstm.tasks.forecast import Forecaster
    from openlstm.tasks.pictures import plot_evaluation, save
    from openlstm.tasks.tables import score_table

    out.rule("[bold]1  Forecasting: CO2 in the air over Mauna Loa, weekly, in ppm", align="left")
    path = str(files("statsmodels.datasets.co2") / "co2.csv")
    lstm = Forecaster(HORIZON, time="date", target="co2", members=MEMBERS, steps=FORECAST_STEPS, seed=seed)
    panel = lstm.read(path)
    for note in panel.notes:
        out.print(f"note: {note.text}", style="dim", highlight=False, soft_wrap=True, markup=False)
    rnn = Forecaster(**{**lstm.get_params(), "cell": "rnn_tanh", "baselines": False})
    rnn.fit(panel, holdout=HELD_OUT, quiet=quiet)
    lstm.fit(panel, holdout=HELD_OUT, quiet=quiet)
    lstm.save(folder / "model.safetensors")
    with Console(stderr=True, quiet=quiet).status("scoring ..."):
        evaluation, other = lstm.evaluate(), rnn.evaluate()
        save(plot_evaluation(evaluation), folder / "forecast.png")
    out.print(score_table(evaluation))
    vanilla = other.score(rnn.model_.name).mase
    out.print(f"The same with a vanilla RNN in place of the LSTM: MASE {vanilla:.3f}.", highlight=False, markup=False)
    return {"notes": [n._asdict() for n in panel.notes], "vanilla_rnn": {"mase": vanilla}, **evaluation.to_dict()}


def _latch(seed: int, quiet: bool, out: Console) -> dict[str, Any]:
    from openlstm import lab
    from openlstm.lab.show import progress_table, result_table

    out.print()
    out.rule(f"[bold]2  Memory: overwrite a sign, then keep it through {LAG} steps of distractors", align="left")
    with Live(console=Console(stderr=True, quiet=quiet), refresh_per_second=4, transient=True) as live:
        show = lambda p: live.update(progress_table(p))  # noqa: E731
        result = lab.run("latch", LAG, seeds=range(seed, seed + 1), steps=STEPS, arms=ARMS, on_progress=show)
    out.print(result_table(result))
    best = result.best
    others = max(row.mean for row in result.rows if row is not best)
    out.print(
        f"{best.title}: {best.mean:.0%} right; the best of the others: {others:.0%}. Same data, same "
        "training, another initialisation.",
        highlight=False,
    )
    return result.to_dict()


def _explain(folder: Path, seed: int, quiet: bool, out: Console) -> dict[str, Any]:
    from openlstm import explain

    out.print()
    out.rule("[bold]3  The LSTM explained, every figure computed now", align="left")
    page = folder / "explain.html"
    with Console(stderr=True, quiet=quiet).status("computing the figures ...") as status:
        explain.write(page, seed=seed, on_progress=lambda what, *_: status.update(f"{what} ..."))
    out.print(f"wrote {page}", highlight=False, soft_wrap=True, markup=False)
    return {"page": str(page), "bytes": page.stat().st_size}
