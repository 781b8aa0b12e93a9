"""`make bench`: openlstm beside torch.nn, shape by shape, in one run; and how near to what the machine can do.

Prints a table, or one JSON object with --json; --save writes benchmarks/results/<machine>.md as well. It refuses to run on
red tests and on a busy machine; --quick looks without either, shorter, and says that its figures are no claim.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import openlstm
import protocol
from openlstm.engine import cpu

ROOT = Path(__file__).parent.parent

SHAPES = [  # T, B, I, H
    (1, 1, 64, 64),
    (1, 1, 256, 256),
    (1, 64, 256, 256),
    (100, 1, 32, 64),
    (100, 32, 32, 64),
    (128, 32, 128, 128),
    (35, 20, 200, 200),
    (128, 32, 256, 256),
    (128, 64, 512, 512),
    (365, 256, 32, 256),
    (1000, 32, 2, 128),
    (50, 7, 13, 100),
]
CELLS = [(1, 64), (1, 256), (64, 256)]  # B, H
PEAK_SHAPE = (128, 32, 256, 256)
PEAK_WANTED = 0.85  # of the peak, forward, at PEAK_SHAPE
LAYER_WANTED = 0.97  # times torch's speed
CELL_WANTED = 1.0


@dataclass(frozen=True)
class Row:
    """One line of the table: what ran, on which shape, and how long a call took."""

    what: str  # forward, train, cell
    shape: tuple[int, ...]  # (T, B, I, H), of a cell (B, H)
    flop: int
    torch_seconds: float
    openlstm_seconds: float
    speedup: float  # times torch's speed, of neighbouring blocks
    others: float  # share of the machine that went elsewhere while it was measured
    peak: float | None = None  # GFLOP/s of the machine, where known

    @property
    def torch_gflops(self) -> float:
        return self.flop / self.torch_seconds / 1e9

    @property
    def gflops(self) -> float:
        return self.flop / self.openlstm_seconds / 1e9

    @property
    def of_peak(self) -> float | None:
        return self.gflops / self.peak if self.peak else None

    @property
    def wanted(self) -> float:
        return CELL_WANTED if self.what == "cell" else LAYER_WANTED

    @property
    def good(self) -> bool:
        near = self.of_peak is None or self.what != "forward" or self.shape != PEAK_SHAPE or self.of_peak >= PEAK_WANTED
        return self.speedup >= self.wanted and near


def flop(T: int, B: int, I: int, H: int) -> int:
    """Multiplications and additions of one forward pass: both products, all four gates."""
    return 2 * T * B * 4 * H * (I + H)


def twins(make: Callable[[Any], torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """The same module of both libraries with the same weights."""
    modules = {"torch": make(torch.nn), "openlstm": make(openlstm)}
    modules["openlstm"].load_state_dict(modules["torch"].state_dict())
    return modules


def forward_calls(T: int, B: int, I: int, H: int) -> dict[str, Callable[[], object]]:
    """The layer without gradients, from a zero state."""
    x = torch.randn(T, B, I)
    return {name: inference(m, x) for name, m in twins(lambda nn: nn.LSTM(I, H)).items()}


def cell_calls(B: int, H: int) -> dict[str, Callable[[], object]]:
    """One step of a cell without gradients, from a given state."""
    x, state = torch.randn(B, H), (torch.randn(B, H), torch.randn(B, H))
    return {name: inference(m, x, state) for name, m in twins(lambda nn: nn.LSTMCell(H, H)).items()}


def inference(module: torch.nn.Module, *arguments: Any) -> Callable[[], object]:
    """A call that neither needs nor keeps anything for gradients."""

    @torch.inference_mode()
    def call() -> object:
        return module(*arguments)

    return call


def train_calls(T: int, B: int, I: int, H: int) -> dict[str, Callable[[], object]]:
    """Forward and backward, with the gradients of all weights and of the input."""
    x, dy = torch.randn(T, B, I), torch.randn(T, B, H)

    def of(module: torch.nn.Module) -> Callable[[], object]:
        own = x.clone().requires_grad_()

        def call() -> object:
            module.zero_grad(set_to_none=True)
            own.grad = None
            module(own)[0].backward(dy)
            return own.grad

        return call

    return {name: of(m) for name, m in twins(lambda nn: nn.LSTM(I, H)).items()}


def same_numbers(calls: dict[str, Callable[[], object]]) -> bool:
    """A benchmark of something that computes something else would be worth nothing."""
    a, b = (call() for call in calls.values())
    a, b = (r[0] if isinstance(r, tuple) else r for r in (a, b))
    return bool(torch.allclose(a, b, atol=1e-5))  # type: ignore[arg-type]


def measure(what: str, shape: tuple[int, ...], quick: bool) -> Row:
    """One row, measured again when others worked meanwhile; refused when they keep doing so."""
    calls = {"forward": forward_calls, "train": train_calls, "cell": cell_calls}[what](*shape)
    if not same_numbers(calls):
        raise protocol.Refused(f"{what} {shape}: openlstm and torch disagree")
    cost = flop(1, shape[0], shape[1], shape[1]) if what == "cell" else flop(*shape)
    for _ in range(1 if quick else 4):
        others = protocol.Others()
        timing = protocol.interleave(calls, blocks=5 if quick else protocol.BLOCKS)
        share = others.share()
        row = Row(
            what,
            shape,
            cost * (3 if what == "train" else 1),
            timing["torch"].median,
            timing["openlstm"].median,
            protocol.speedup(timing["torch"], timing["openlstm"]),
            share,
        )
        if quick or share <= protocol.OTHERS_LIMIT:
            return row
        protocol.wait_for_quiet()
    raise protocol.Refused(f"{what} {shape}: others used {share:.0%} of the machine while it was measured")


def refuse_on_red_tests() -> None:
    """The laws and the layers must hold before their speed means anything."""
    places = ["tests/conformance", "tests/nn"]
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", *places], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise protocol.Refused(f"tests fail:\n{done.stdout[-2000:]}")


def setting(threads: int, quick: bool) -> dict[str, Any]:
    """Everything that a reader needs to repeat the run."""
    return {
        "date": date.today().isoformat(),
        "machine": protocol.machine(),
        "instruction_set": cpu.isa(),
        "threads": threads,
        "dtype": "float32",
        "protocol": f"{5 if quick else protocol.BLOCKS} blocks of {protocol.BLOCK_SECONDS} s each, interleaved; medians",
        "claim": not quick,
        "versions": {
            "openlstm": openlstm.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def seconds(value: float) -> str:
    """Three or four digits and a unit: `41.7 us`, `9.51 ms`, `1.06 s`."""
    for unit, scale in (("us", 1e6), ("ms", 1e3), ("s", 1.0)):
        if value * scale < 1000 or unit == "s":
            return f"{value * scale:#.3g}".rstrip(".") + f" {unit}"
    raise AssertionError


def cells_of(row: Row) -> list[str]:
    """A row as words."""
    return [
        row.what,
        ",".join(map(str, row.shape)),
        seconds(row.torch_seconds),
        seconds(row.openlstm_seconds),
        f"{row.torch_gflops:.1f}",
        f"{row.gflops:.1f}",
        f"{row.of_peak:.0%}" if row.of_peak else "",
        f"{row.speedup:.2f}x" + ("" if row.good else " *"),
    ]


HEADINGS = ["", "shape", "torch", "openlstm", "GFLOP/s", "GFLOP/s", "peak", "speed"]


def verdict(rows: list[Row]) -> str:
    """The table in one sentence."""
    behind = [r for r in rows if not r.good]
    if not behind:
        return f"All {len(rows)} rows reach their aim: {LAYER_WANTED}x torch for layers, {CELL_WANTED}x for cells."
    names = "; ".join(f"{r.what} {r.shape} {r.speedup:.2f}x" for r in behind)
    return f"{len(behind)} of {len(rows)} rows stay below their aim: {names}."


def notes(about: dict[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    return [
        f"{about['machine']}; instruction set {about['instruction_set']}, {about['threads']} threads each, {about['dtype']}",
        ", ".join(f"{k} {v}" for k, v in about["versions"].items()),
        f"{about['protocol']}; multiply-add peak {about['peak_gflops']:.0f} GFLOP/s",
        "shapes T,B,I,H, of a cell B,H; GFLOP/s of torch, then of openlstm; peak: the share openlstm reaches; * below its aim",
    ]


def table(rows: list[Row]) -> Table:
    """The result for a terminal of 80 columns."""
    out = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for k, heading in enumerate(HEADINGS):
        out.add_column(heading, justify="left" if k < 2 else "right", no_wrap=True)
    for before, row in zip([None, *rows], rows, strict=False):
        if before and before.what != row.what:
            out.add_section()
        out.add_row(*cells_of(row), style="" if row.good else "yellow")
    return out


def page(about: dict[str, Any], rows: list[Row]) -> str:
    """The result as a Markdown page."""
    lines = [f"# Speed on {about['machine']}", "", f"Made by `benchmarks/bench.py` on {about['date']}.", ""]
    lines += [f"- {note}" for note in notes(about)]
    if not about["claim"]:
        lines += ["- a quick look on a machine that may have been busy: no claim"]
    lines += ["", "| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells_of(r)) + " |" for r in rows]
    return "\n".join([*lines, "", verdict(rows), ""])


def file_name(machine: str) -> str:
    """The page of a machine, named after its processor."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-") + ".md"


def main(
    threads: Annotated[int, typer.Option(help="threads for both libraries")] = 2,
    only: Annotated[str, typer.Option(help="forward, train or cell; all if empty")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="a short look, on any machine: no claim")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    save: Annotated[bool, typer.Option("--save", help="write benchmarks/results/<machine>.md")] = False,
) -> None:
    """Time openlstm beside torch.nn over the table of shapes."""
    talk = Console(stderr=True)
    work = [("forward", s) for s in SHAPES] + [("train", s) for s in SHAPES] + [("cell", s) for s in CELLS]
    work = [(what, shape) for what, shape in work if only in ("", what)]
    torch.set_num_threads(threads)
    openlstm.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        if not cpu.available():
            raise protocol.Refused(f"the compiled extension is missing: {cpu.missing_reason()}")
        if not quick:
            talk.print("running the tests first, then waiting for a quiet machine")
            refuse_on_red_tests()
            protocol.wait_for_quiet()
        about = setting(threads, quick)
        about["peak_gflops"] = protocol.peak(threads, strict=not quick)
        rows = [measure(what, s, quick) for what, s in track(work, "measuring", console=talk)]
    except protocol.Refused as why:
        talk.print(f"[red]refused[/red]: {why}")
        raise typer.Exit(1) from None
    rows = [replace(r, peak=about["peak_gflops"]) for r in rows]
    if as_json:
        extra = [{**asdict(r), "gflops": r.gflops, "torch_gflops": r.torch_gflops, "of_peak": r.of_peak} for r in rows]
        print(json.dumps({**about, "rows": extra, "verdict": verdict(rows)}))
    else:
        screen = Console(highlight=False)
        screen.print(table(rows))
        for text in [*notes(about), verdict(rows)]:
            screen.print(text)
        if quick:
            screen.print("A quick look: these figures are no claim.")
    if save:
        folder = ROOT / "benchmarks" / "results"
        folder.mkdir(exist_ok=True)
        (folder / file_name(about["machine"])).write_text(page(about, rows))


if __name__ == "__main__":
    typer.run(main)
