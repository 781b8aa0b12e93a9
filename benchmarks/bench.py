"""`make bench`: openlstm beside torch.nn, ONNX Runtime, Flax and Python loops, in one run; and how near to the machine's peak.

Prints tables, or one JSON object with --json; --save writes benchmarks/results/<machine>.json, .md and .svg, part by part. It
refuses to run on red tests and on a busy machine; --unsafe runs all the same, and its figures are marked as no claim.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

import protocol
import report
from contest import Arena, Budget, Row
from openlstm.engine import native
from parts import PARTS, Part
from worker import Failed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LAWS = ("tests/conformance", "tests/engine", "tests/nn")


def refuse_on_red_tests(places: tuple[str, ...] = LAWS) -> None:
    """The laws and the layers must hold before their speed means anything."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", str(os.cpu_count()), *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise protocol.Refused(f"tests fail:\n{done.stdout[-2000:]}{done.stderr[-500:]}")


def commit() -> str:
    """The commit that is measured; a plus sign says that files were changed after it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def setting(threads: int, budget: Budget) -> dict[str, Any]:
    """What a reader needs to repeat the run, but for the versions, which the libraries tell."""
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": protocol.machine(),
        "instruction_set": native.isa(),
        "threads": threads,
        "dtype": "float32",
        "protocol": f"{budget.blocks} blocks of {budget.seconds} s each, interleaved; medians",
        "claim": budget.strict,
    }


def measure(part: Part, arena: Arena, peak: float, budget: Budget, talk: Console, name: str) -> list[Row]:
    """The rows of a part."""
    rows: list[Row] = []
    for contest in track(part.contests, name, console=talk):
        rows += contest.rows(arena.run(contest, peak, budget))
    return rows


def main(
    threads: Annotated[int, typer.Option(help="threads of every library, and processors it is held to")] = 2,
    only: Annotated[list[str] | None, typer.Option(help=f"one or more of {', '.join(PARTS)}; all if left out")] = None,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="without tests, on any machine: no claim")] = False,
    blocks: Annotated[int, typer.Option(help="blocks of each contestant; with --unsafe alone")] = protocol.BLOCKS,
    block_seconds: Annotated[float, typer.Option(help="their length; with --unsafe alone")] = protocol.BLOCK_SECONDS,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    save: Annotated[bool, typer.Option("--save", help="write benchmarks/results/<machine>.json, .md and .svg")] = False,
) -> None:
    """Time openlstm beside its peers."""
    talk, screen = Console(stderr=True), Console(highlight=False)
    unknown = set(only or ()) - set(PARTS)
    if unknown:
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    budget = Budget(blocks, block_seconds, strict=not unsafe)
    if not unsafe and budget != Budget():
        raise typer.BadParameter("--blocks and --block-seconds need --unsafe: a claim is made in one way alone")
    if not 1 <= threads <= len(os.sched_getaffinity(0)):
        raise typer.BadParameter(f"--threads is 1 to {len(os.sched_getaffinity(0))}, the processors of this machine")
    arena = Arena(threads)
    found: dict[str, dict[str, Any]] = {}
    try:
        if not native.available():
            raise protocol.Refused(f"the compiled extension is missing: {native.missing_reason()}")
        if not unsafe:
            talk.print("running the tests first, then waiting for a quiet machine")
            refuse_on_red_tests()
            protocol.wait_for_quiet()
        about = setting(threads, budget)
        about["peak_gflops"] = protocol.peak(threads, strict=not unsafe)
        for name in only or PARTS:
            part = PARTS[name]()
            rows = measure(part, arena, about["peak_gflops"], budget, talk, name)
            overall = part.overall(rows)
            found[name] = report.as_data(part.title, {**about, "versions": arena.versions()}, rows, overall)
            if save:
                report.save(RESULTS, about["machine"], {name: found[name]})
            if not as_json:
                screen.print(report.table(part.title, rows))
                for text in report.remarks(rows, overall):
                    screen.print(text, soft_wrap=True)
    except (protocol.Refused, Failed) as why:
        talk.print(f"[red]refused[/red]: {why}", soft_wrap=True)
        raise typer.Exit(1) from None
    finally:
        arena.close()
    if as_json:
        print(json.dumps({"schema": report.SCHEMA, "machine": about["machine"], "parts": found}))
        return
    for note in report.notes({**about, "versions": next(reversed(found.values()))["about"]["versions"]}):
        screen.print(note, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
