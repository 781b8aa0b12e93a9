"""The tables of `openlstm lab`: live while the networks learn, and the result."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table

from openlstm.lab.arms import ARMS
from openlstm.lab.experiment import Progress, Result

SHARE, RIGHT = "gradient reaching the lag", "right answers"


def progress_table(p: Progress, lag: int) -> Table:
    """A row per network while it learns: the look before training, and the running share of right answers."""
    table = _table(f"latch, lag {lag}: seed {p.seed + 1} of {p.seeds}, step {p.step} of {p.steps}", SHARE, f"{RIGHT} now")
    table.add_column("", min_width=20)
    for arm, accuracy in p.running.items():
        known = not math.isnan(accuracy)
        bar = "█" * round(20 * max(0.0, 2 * accuracy - 1)) if known else ""  # empty at guessing, full at 100 %
        table.add_row(ARMS[arm].title, _share(p.share[arm]), f"{accuracy:.0%}" if known else "-", f"[green]{bar}[/]")
    return table


def result_table(result: Result) -> Table:
    """A row per network: the look before training beside the answers after it."""
    many = result.seeds > 1
    names = (SHARE, f"{RIGHT}, mean of {result.seeds} seeds", "range") if many else (SHARE, RIGHT)
    table = _table(
        f"latch: keep a sign through {result.lag} steps of distractors, after {result.steps:,} training steps", *names
    )
    table.caption = "50 % is guessing. The share of the gradient is measured before the first training step."
    for row in (row.to_dict() for row in result.rows):
        right = row["accuracy"]
        span = (f"{right['min']:.1%}–{right['max']:.1%}",) if many else ()
        style = "bold green" if right["mean"] >= 0.95 else None
        table.add_row(row["title"], _share(row["share"]), f"{right['mean']:.1%}", *span, style=style)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("network", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _share(share: float) -> str:
    """A share that is easy to read while it is not tiny.

    >>> _share(0.034), _share(2.1e-9), _share(0.0)
    ('3.4 %', '2.1e-09', '0')
    """
    if share == 0:
        return "0"
    return f"{100 * share:.2g} %" if share >= 1e-3 else f"{share:.1e}"
