"""The tables of `openlstm lab`: live while the networks learn, and the result."""

from __future__ import annotations

import math
from statistics import fmean

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openlstm.lab.advised import Advised
from openlstm.lab.experiment import Progress, Result, title
from openlstm.lab.tasks import Task

SHARE = "gradient reaching the lag"
BAR = 20  # letters
LEARNT = 0.9  # of the way from guessing to perfect: what is called learnt in the last line


def progress_table(p: Progress) -> Table:
    """A row per network while it learns: the look before training, what is done, and where the others stand."""
    left = f", about {p.seconds / p.done * (p.networks - p.done):.0f} s left" if p.done else ""
    head = f"{_head(p.task, p.size)}: {p.done} of {p.networks} networks{left}"
    table = _table(head, SHARE, f"{p.task.answer}", "")
    table.add_column("now", min_width=BAR)
    for arm in p.arms:
        row, running = p.rows.get(arm), p.running[arm]
        known = [*(row.shares if row else ()), *(now.share for now in running)]
        now = [r for r in running if not math.isnan(r.score)]
        table.add_row(
            title(arm, p.advice),
            share(fmean(known)) if known else "",
            f"{row.mean:.1%}" if row else "",
            f"{len(row.scores)} done" if row else "",
            f"[green]{_bar(fmean(r.score for r in now), p.task.guessing)}[/] step {max(r.step for r in now)}" if now else "",
        )
    return table


def result_table(result: Result) -> RenderableType:
    """A row per network: the look before training beside the answers after it; then the published numbers and the advice."""
    task, many = result.task, len(result.seeds) > 1
    names = (SHARE, f"{task.answer}, mean of {len(result.seeds)} seeds", "range") if many else (SHARE, task.answer)
    table = _table(f"{_head(task, result.size)}: {task.question}, after {result.steps:,} training steps", *names)
    table.caption = (
        f"{task.guessing:.3g} is guessing. " if task.guessing not in (0.5, 0.25) else f"{task.guessing:.0%} is guessing. "
    ) + f"The share of the gradient that reaches the lag of {result.lag} is measured before the first training step."
    for row in result.rows:
        span = (f"{min(row.scores):.1%}–{max(row.scores):.1%}",) if many else ()
        style = "bold green" if learnt(task, row.mean) else None
        table.add_row(row.title, share(row.reaches_before), f"{row.mean:.1%}", *span, style=style)
    lines = [*published(task), *(advice(result.advice) if result.advice else []), verdict(result)]
    return Group(table, *(Text(line) for line in lines))


def verdict(result: Result) -> str:
    """In a sentence, which networks learnt it, or that none did."""
    good = [row for row in result.rows if learnt(result.task, row.mean)]
    if not good:
        best = result.best
        reached = f"the best is {best.title} with {best.mean:.1%} {result.task.answer}"
        return f"None of them learnt it in {result.steps:,} steps; {reached}. More --steps may help."
    if len(good) == len(result.rows):
        return "All of them learnt it."
    others = [row for row in result.rows if row not in good]
    best = max(others, key=lambda row: row.mean)
    return f"Learnt by: {'; '.join(row.title for row in good)}. The best of the others: {best.mean:.1%} ({best.title})."


def learnt(task: Task, score: float) -> bool:
    """Whether nine tenths of the way from guessing to perfect are done."""
    return (score - task.guessing) / (1 - task.guessing) >= LEARNT


def published(task: Task) -> list[str]:
    """What papers reached, one line each."""
    if not task.published:
        return ["published: no number; the task is a control of our own" if task.name == "recall" else "published: no number"]
    return [f"published: {p.number} ({p.protocol}; {p.source})" for p in task.published]


def advice(a: Advised) -> list[str]:
    """What the look before training recommends for the default LSTM, and how to follow it."""
    return [f"advice: {a.finding}"]


def share(value: float) -> str:
    """A share that is easy to read while it is not tiny.

    >>> share(0.034), share(2.1e-9), share(0.0), share(1.234)
    ('3.4 %', '2.1e-09', '0', '123 %')
    """
    if value == 0:
        return "0"
    if not 1e-3 <= value < 10:
        return f"{value:.1e}"
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def _head(task: Task, size: int) -> str:
    return f"{task.name}, {task.size_name} {size}"


def _bar(score: float, guessing: float) -> str:
    """Empty at guessing, full at 100 %."""
    return "█" * round(BAR * max(0.0, (score - guessing) / (1 - guessing)))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("network", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table
