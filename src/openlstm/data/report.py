"""What `openlstm check` says of a table: what was found, what would be done, what is wrong, all of it at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from openlstm.data.columns import Columns, Format, choose, unread
from openlstm.data.dates import holds_dates, read_times
from openlstm.data.files import Table, read_any, short
from openlstm.data.grid import add_steps, count_words, guess_period, name_step, show_time, step_of
from openlstm.data.numbers import holds_numbers, read_numbers
from openlstm.data.panel import Panel
from openlstm.data.reading import found_step, on_grid, one_value, read, refuse_twice
from openlstm.data.rows import in_one_zone, in_order, read_covariate, read_keys, read_rows, resampled
from openlstm.errors import OpenLSTMError

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOKED_AT = 100
"""So many columns of a table are looked at one by one."""

FEW = 30
"""A series with fewer steps than this, or than two seasons or four horizons, is said to be short."""


@dataclass(frozen=True)
class Report:
    """What a table holds, in plain values.

    found: what was read: file, rows, columns with their kinds and roles, series, lengths, span, step, zone.
    plan: what `fit` would do with it, a sentence each.
    warnings: what it can be fitted with, and yet should be looked at.
    errors: why it cannot be fitted; each in the form of an error.
    command: the command line that would fit it.
    """

    name: str
    found: dict[str, Any]
    plan: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __rich__(self) -> RenderableType:
        """The report for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table as Grid

        columns = self.found.get("columns", {})
        facts = Grid(box=None, show_header=False, padding=(0, 2, 0, 0))
        for key, value in self.found.items():
            if key != "columns" and value is not None:
                facts.add_row(key, escape(str(value)))
        parts: list[RenderableType] = [f"[bold]{escape(self.name)}[/bold]", facts]
        if columns:
            grid = Grid("column", "holds", "taken as", "missing", "example", box=box.SIMPLE_HEAD)
            for name, c in list(columns.items())[:FEW]:
                grid.add_row(escape(name), c["kind"], c["role"], f"{c['missing']:,}", escape(c["example"]))
            if len(columns) > FEW:
                grid.add_row(f"... {len(columns) - FEW} more", "", "", "", "")
            parts.append(grid)
        for title, style, lines in (
            ("What would be done", "bold", self.plan),
            ("To look at", "bold yellow", self.warnings),
            ("What is wrong", "bold red", self.errors),
        ):
            if lines:
                parts.append(f"[{style}]{title}[/{style}]")
                parts += [f"  {escape(line)}".replace("\n", "\n  ") for line in lines]
        if self.command:
            parts += ["[bold]Next[/bold]", f"  {escape(self.command)}"]
        return Group(*parts)


def check(data: Any, columns: Columns | None = None, form: Format | None = None, *, horizon: int | None = None) -> Report:
    """Look at a table before anything is trained.

    Args:
        data, columns, form: as of `read_panel`.
        horizon: how many steps will be forecast.

    >>> import polars as pl
    >>> report = check(pl.DataFrame({"ds": ["2001-01-06", "2001-01-13", "2001-01-27"], "y": [1.0, 2.0, 4.0]}))
    >>> report.found["step"], report.errors, report.warnings[0]
    ('1 week', [], '3 of 4 steps are known in the shortest series; at least 104 are better: two seasons')
    """
    columns, form, errors = columns or Columns(), form or Format(), []
    if isinstance(data, Panel):
        return _of_panel(data, {}, Report("the panel", {}), horizon)
    name = os.path.basename(os.fspath(data)) if isinstance(data, (str, os.PathLike)) else "the frame"
    table = _try(errors, read_any, data, form.encoding, form.delimiter)
    if table is None:
        return Report(name, {}, errors=errors)
    try:
        panel, table, chosen = read(table, columns, form)
    except OpenLSTMError as e:
        chosen, panel = _errors(table, columns, form, errors), None
        errors = errors if str(e) in errors else [str(e), *errors]
    found = {
        "file": table.kind + (f", {table.encoding}" if table.encoding else ""),
        "delimiter": {None: None, "\t": "tab", " ": "space"}.get(table.delimiter, repr(table.delimiter)),
        "rows": f"{table.frame.height:,}",
    }
    report = Report(name, found | {"columns": _kinds(table, chosen, form)}, errors=errors)
    left = unread(table, chosen) if chosen.time and chosen.target else []
    if left:
        these = "This column has" if len(left) == 1 else "These columns have"
        report.warnings.append(
            f"{these} no part, unless named with --future, --past, --static or --series: {short(', '.join(left))}"
        )
    if panel is None:
        return report
    path = os.fspath(data) if isinstance(data, (str, os.PathLike)) else "DATA"
    return replace(_of_panel(panel, found, report, horizon), command=command_line(path, chosen, form, horizon))


def command_line(path: str, columns: Columns, form: Format, horizon: int | None) -> str:
    """The command that fits a model to a table."""
    words = ["openlstm", "fit", "forecast", path, "--time", str(columns.time)]
    words += ["--wide"] if columns.wide else ["--target", str(columns.target)]
    for option, names in (
        ("series", columns.ids),
        ("future", columns.future),
        ("past", columns.past),
        ("static", columns.static),
    ):
        words += [f"--{option}", ",".join(names)] if names else []
    for f in fields(form):
        if (value := getattr(form, f.name)) not in (None, f.default) or (f.name == "aggregate" and form.every):
            words += [f"--{f.name.replace('_', '-')}", str(value)]
    words += ["--horizon", "HORIZON" if horizon is None else str(horizon), "--output", "model.safetensors"]
    return shlex.join(words)


def _try(errors: list[str], call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or None, and its error among the others."""
    try:
        return call(*args)
    except OpenLSTMError as e:
        if str(e) not in errors:
            errors.append(str(e))
        return None


def _errors(table: Table, columns: Columns, form: Format, errors: list[str]) -> Columns:
    """Collect every error that can be told, each as if the others were not there; returns the columns that are known."""
    has = set(table.frame.columns)

    def there(name: str | None) -> str | None:
        return name if name is None or name in has or _try(errors, table.column, name) is not None else None

    some = {r: tuple(n for n in getattr(columns, r) if there(n)) for r in ("ids", "future", "past", "static")}
    target = columns.target if columns.wide else there(columns.target)
    known = replace(columns, time=there(columns.time), target=target, **some)
    chosen = _try(errors, choose, table, known, form)
    if chosen is None:
        return known
    height = len(errors)
    _try(errors, read_times, table, chosen.time, form.time_format, form.zone)
    values = [n for n in table.frame.columns if n not in (chosen.time, *chosen.future)] if chosen.wide else [chosen.target]
    for name in values:
        _try(errors, read_numbers, table, name, form.decimal)
    _try(errors, read_keys, table, chosen.ids)
    for name in (*chosen.future, *chosen.past, *chosen.static):
        _try(errors, read_covariate, table, name, "future", form, None)
    every = _try(errors, step_of, form.every) if form.every else None
    if len(errors) > height or form.every and every is None:
        return chosen
    rows = _try(errors, read_rows, table, chosen, form, None)
    rows = rows and _try(errors, in_one_zone, in_order(rows), form, every)
    if rows is None or not len(rows):
        return chosen
    for c in rows.covariates:
        if c.role == "static":
            _try(errors, one_value, rows, c)
    rows = resampled(rows, every, form.aggregate) if every else rows
    _try(errors, refuse_twice, rows)
    once = rows.begins | (np.diff(rows.times, prepend=rows.times[:1]) != np.timedelta64(0))
    rows = rows.take(np.flatnonzero(once))
    if (step := every or _try(errors, found_step, rows)) is not None:
        _try(errors, on_grid, rows, step, ())
    return chosen


def _kinds(table: Table, columns: Columns, form: Format) -> dict[str, dict[str, Any]]:
    """What each column holds, and what it is taken as."""
    roles = {name: "a series" for name in table.frame.columns} if columns.wide else {}
    given = {"time": (columns.time,), "target": (columns.target,), "series": columns.ids}
    given |= {"future": columns.future, "past": columns.past, "static": columns.static}
    roles |= {name: role for role, names in given.items() for name in names if name is not None}
    out = {}
    for name in table.frame.columns[:LOOKED_AT]:
        column = table.frame[name]
        known = column.drop_nulls()
        kind = "nothing" if not len(known) else "texts"
        if holds_numbers(column, form.decimal):
            kind = "numbers"
        if (dates := holds_dates(column, form.time_format)) == "dates" or (dates and name == columns.time):
            kind = "dates"
        example = short(str(known[0])) if len(known) else ""
        out[name] = {"kind": kind, "role": roles.get(name, "not read"), "missing": column.null_count(), "example": example}
    return out


def _of_panel(panel: Panel, found: dict[str, Any], report: Report, horizon: int | None) -> Report:
    """The report with what the panel shows."""
    lengths, step = panel.history, panel.step
    known = np.add.reduceat(~np.isnan(panel.values), panel.offsets[:-1])
    ends = add_steps(panel.starts, step, lengths - 1)
    named = [panel.name(s) for s in range(min(3, len(panel)))]
    spread = f"{lengths.min():,}" if lengths.min() == lengths.max() else f"{lengths.min():,} to {lengths.max():,}"
    facts = found | {
        "series": f"{len(panel):,}" + (f": {', '.join(named)}{', ...' if len(panel) > 3 else ''}" if panel.ids else ""),
        "steps": f"{spread}{' each' if len(panel) > 1 else ''}, {int(known.sum()):,} values known",
        "span": f"{show_time(panel.starts.min())} to {show_time(ends.max())}{' in UTC' if panel.utc else ''}",
        "step": name_step(step),
        "zone": panel.zone,
    }
    season = guess_period(step)
    plan = [
        f"The season is {name_step(step, season)}." if season > 1 else "No season is known of this step; --period sets one."
    ]
    bad = ("constant", "encoding", "order", "sheet")
    plan += [f"{note.text}." for note in panel.notes if note.kind not in bad]
    for c in panel.covariates:
        if c.categories is not None:
            plan.append(f"{c.name} is read as one of {count_words(len(c.categories), 'category').replace('ys', 'ies')}.")
    warnings = [note.text for note in panel.notes if note.kind in bad]
    errors = list(report.errors)
    least = max((2 * season, "two seasons"), (4 * (horizon or 0), "four horizons"), (FEW, "a network learns little from fewer"))
    if (few := int(known.min())) < least[0]:
        where = "" if len(panel) == 1 else " in the shortest series"
        of = f"{few:,} of {int(lengths[np.argmin(known)]):,} steps are known"
        warnings.append(f"{of}{where or ' in the shortest series'}; at least {least[0]:,} are better: {least[1]}")
    if horizon is not None and horizon >= lengths.max():
        errors.append(
            f"{report.name}: has a history shorter than the horizon\n  got       {name_step(step, int(lengths.max()))}\n"
            f"  expected  more than the horizon of {horizon:,}\n  hint      give a longer table, or a smaller --horizon"
        )
    share = 1 - known.sum() / max(int(lengths.sum()), 1)
    if share > 0.2:
        warnings.append(f"{share:.0%} of all steps are missing")
    for c in panel.covariates:
        if c.role == "future" and (missing := int(np.isnan(c.values).sum())):
            warnings.append(f"{c.name} is to be known ahead, and is missing in {count_words(missing, 'step')}")
    columns = {"columns": report.found["columns"]} if "columns" in report.found else {}
    return replace(report, found=facts | columns, plan=plan, warnings=[*report.warnings, *warnings], errors=errors)
