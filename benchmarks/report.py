"""What a run found, as tables for a terminal, a page, a JSON file and a plot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from contest import Bar, Row

SCHEMA = 1
SHORT = {"onnxruntime": "ORT"}


def seconds(value: float) -> str:
    """Three digits and a unit: `41.7 us`, `9.51 ms`, `1.06 s`."""
    for unit, scale in (("us", 1e6), ("ms", 1e3), ("s", 1.0)):
        if float(f"{value * scale:.3g}") < 1000 or unit == "s":
            return f"{value * scale:#.3g}".rstrip(".") + f" {unit}"
    raise AssertionError


def columns(rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    """The names of all times and of all bars, in the order in which they come."""
    rows = list(rows)
    return list(dict.fromkeys(n for r in rows for n in r.seconds)), list(dict.fromkeys(b.name for r in rows for b in r.bars))


def cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """The headings, and every row as words; a label or mode that all rows share is left out, as is a column without entries."""
    times, names = columns(rows)
    out = []
    for r in rows:
        bars = {bar.name: bar.words for bar in r.bars}
        found = [seconds(r.seconds[n]) if n in r.seconds else "-" for n in times]
        speed = "" if r.gflops is None or "peak" in names else f"{r.gflops:.0f}" if r.gflops >= 10 else f"{r.gflops:.1f}"
        out.append([r.label, r.mode, ",".join(map(str, r.shape)), *found, speed, *(bars.get(n, "-") for n in names)])
    heads = ["", "", "T,B,I,H", *(SHORT.get(n, n) for n in times), "GFLOP/s"]
    heads += [f"x {SHORT.get(n, n)}" if n in times else n for n in names]
    said = [{line[k] for line in out} for k in range(len(heads))]
    told = [k for k, words in enumerate(said) if words != {""} and (k > 1 or len(words) > 1)]
    return [heads[k] for k in told], [[line[k] for k in told] for line in out]


def table(title: str, rows: list[Row]) -> Table:
    """The rows for a terminal; yellow where an aim is missed."""
    out = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    heads, lines = cells(rows)
    for k, heading in enumerate(heads):
        out.add_column(heading, justify="left" if k <= heads.index("T,B,I,H") else "right", no_wrap=heading in ("", "T,B,I,H"))
    for before, r, line in zip([None, *rows], rows, lines, strict=False):
        if before and before.mode != r.mode:
            out.add_section()
        out.add_row(*line, style="" if r.good else "yellow")
    return out


def remarks(rows: Iterable[Row], overall: Iterable[Bar]) -> list[str]:
    """Figures over the whole table, what is missing and why, and one sentence of judgement."""
    rows, overall = list(rows), list(overall)
    out = [f"{bar.name}: {bar.words}" + (f" (aim {bar.aim})" if bar.aim else "") for bar in overall]
    out += list(dict.fromkeys(note for r in rows for note in r.notes))
    aims = [bar for r in rows for bar in r.bars if bar.aim is not None] + [bar for bar in overall if bar.aim is not None]
    missed = sum(not bar.good for bar in aims)
    if aims:
        out.append(f"{len(aims) - missed} of {len(aims)} aims are reached" + ("; * marks the others." if missed else "."))
    return out


def as_data(title: str, about: dict[str, Any], rows: list[Row], overall: Iterable[Bar]) -> dict[str, Any]:
    """A part as plain values."""

    def bar(b: Bar) -> dict[str, Any]:
        return {**b._asdict(), "good": b.good}

    shown = [
        {
            "label": r.label,
            "mode": r.mode,
            "shape": list(r.shape),
            "seconds": r.seconds,
            "gflops": r.gflops,
            "bars": [bar(b) for b in r.bars],
            "notes": list(r.notes),
            "others": r.others,
        }
        for r in rows
    ]
    return {"title": title, "about": about, "rows": shown, "overall": [bar(b) for b in overall]}


def from_data(part: dict[str, Any]) -> tuple[list[Row], list[Bar]]:
    """Rows and overall figures of what `as_data` made."""

    def bar(b: dict[str, Any]) -> Bar:
        return Bar(b["name"], b["value"], b["aim"], b["at_most"])

    rows = [
        Row(
            r["label"],
            r["mode"],
            tuple(r["shape"]),
            r["seconds"],
            tuple(bar(b) for b in r["bars"]),
            r["gflops"],
            tuple(r["notes"]),
            r["others"],
        )
        for r in part["rows"]
    ]
    return rows, [bar(b) for b in part["overall"]]


def notes(about: dict[str, Any]) -> list[str]:
    """What a reader of the tables has to know."""
    out = [
        f"{about['date']}, commit {about['commit']}: {about['machine']}; instruction set {about['instruction_set']}, "
        f"{about['threads']} threads each, {about['dtype']}",
        ", ".join(f"{k} {v}" for k, v in about["versions"].items()),
        f"{about['protocol']}; multiply-add peak {about['peak_gflops']:.0f} GFLOP/s",
    ]
    return out if about["claim"] else [*out, "made with --unsafe, on a machine that may have been busy: no claim"]


def page(results: dict[str, Any]) -> str:
    """All parts as a Markdown page."""
    parts = results["parts"]
    out = [
        f"# Speed on {results['machine']}",
        "",
        "Made by `benchmarks/bench.py`; `docs/benchmarks.md` says how to read it.",
        "",
    ]
    told: list[str] = []
    for name, part in parts.items():
        rows, overall = from_data(part)
        out += [f"## {part['title']}", "", f"`--only {name}`", ""]
        if notes(part["about"]) != told:
            told = notes(part["about"])
            out += [*(f"- {note}" for note in told), ""]
        heads, lines = cells(rows)
        out += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        out += ["| " + " | ".join(line) + " |" for line in lines]
        out += ["", *(f"- {text}" for text in remarks(rows, overall)), ""]
    return "\n".join(out)


def chart(results: dict[str, Any]) -> Any:
    """Forward and training of every library as a share of the machine's peak, an Altair chart."""
    import altair as alt

    from job import Job, flop

    points = []
    for mode in (m for m in ("forward", "train") if m in results["parts"]):
        part = results["parts"][mode]
        for r in part["rows"]:
            work = flop(Job("openlstm", mode, tuple(r["shape"])))
            for who, took in r["seconds"].items():
                share = work / took / 1e9 / part["about"]["peak_gflops"]
                points.append({"mode": mode, "shape": ",".join(map(str, r["shape"])), "who": who, "share": share})
    order = list(dict.fromkeys(p["shape"] for p in points))
    who = alt.Scale(domain=["openlstm", "torch", "onnxruntime", "flax"], range=["#c0392b", "#7f8c8d", "#2980b9", "#8e6bbf"])
    return (
        alt.Chart(alt.Data(values=points), width=320, height=22 * len(order))
        .mark_point(filled=True, size=70)
        .encode(
            x=alt.X(
                "share:Q", title="share of the multiply-add peak", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])
            ),
            y=alt.Y("shape:N", sort=order, title="T,B,I,H"),
            color=alt.Color("who:N", title=None, scale=who),
            shape=alt.Shape("who:N", title=None, scale=alt.Scale(domain=who.domain)),
            column=alt.Column("mode:N", title=None),
        )
        .properties(title=f"The plain LSTM, {results['machine']}")
    )


def stem(machine: str) -> str:
    """The files of a machine, named after its processor."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def save(folder: Path, machine: str, parts: dict[str, dict[str, Any]]) -> list[Path]:
    """Write `<machine>.json`, `.md` and `.svg`; parts that were not measured now stay as they were, with their own date.

    Figures that are no claim go to files of their own, `<machine>-unsafe.*`.
    """
    folder.mkdir(exist_ok=True)
    claim = all(part["about"]["claim"] for part in parts.values())
    base = folder / (stem(machine) + ("" if claim else "-unsafe"))
    data = base.with_name(base.name + ".json")
    known = json.loads(data.read_text())["parts"] if data.exists() else {}
    results = {"schema": SCHEMA, "machine": machine, "parts": {**known, **parts}}
    data.write_text(json.dumps(results, indent=1) + "\n")
    written = [data, base.with_name(base.name + ".md")]
    written[1].write_text(page(results))
    if {"forward", "train"} & set(results["parts"]):
        written.append(base.with_name(base.name + ".svg"))
        chart(results).save(str(written[2]))
        written[2].write_text(written[2].read_text().rstrip() + "\n")
    return written
