"""What this installation can do: versions, instruction set, threads, and what is missing with the command that installs it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openlstm import __version__
from openlstm.cells import LSTM
from openlstm.engine import SUPPORT, choose, native
from openlstm.errors import OpenLSTMError, source

EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "lightning-fabric"),
    "data": ("polars",),
    "report": ("altair", "vl-convert-python", "jinja2"),
    "exchange": ("h5py", "msgpack", "onnx", "onnxruntime"),
    "demo": ("statsmodels",),
}
"""The optional packages, by the extra that brings them."""

BASE = ("numpy", "safetensors", "msgspec", "typer", "rich")


def examine() -> dict[str, Any]:
    """Everything `openlstm doctor` says, as plain values; a variable with a wrong value is reported like the rest."""
    from openlstm.engine import threads

    there = native.available()
    wrong: dict[str, str] = {}

    def read(variable: str, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except OpenLSTMError as error:
            wrong[variable] = str(error)
            return None

    isa = read("OPENLSTM_ISA", native.isa) if there else None
    backend = "reference"
    if "OPENLSTM_ISA" not in wrong and (there or _asked()):
        backend = read("OPENLSTM_BACKEND", lambda: choose("auto", LSTM(), np.zeros((1, 1, 1), np.float32)))
    count = read("OPENLSTM_NUM_THREADS", threads.get_num_threads)
    return {
        "openlstm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": {"of the machine": os.cpu_count(), "usable here": _usable()},
        "engine": {
            "native": there,
            "reason": None if there else native.missing_reason(),
            "backend": None if "OPENLSTM_ISA" in wrong else backend,
            "backends": [name for name in SUPPORT if name != "cpu" or there],
            "instruction set": isa,
            "instruction sets available": [name for name in native.isas() if name != "wide"] if there else [],
            "bfloat16": None if isa is None else native.bfloat16(),
            "8 bits": None if isa is None else native.int8(),
            "threads": count,
        },
        "packages": {name: _version(name) for name in (*BASE, *(p for extra in EXTRAS.values() for p in extra))},
        "missing": missing(),
        "wrong": wrong,
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("OPENLSTM_")},
    }


def missing() -> dict[str, str]:
    """What is not installed, and the command that installs it."""
    out: dict[str, str] = {}
    for extra, packages in EXTRAS.items():
        for package in packages:
            if _version(package) is None:
                out[package] = f"pip install '{source()}[{extra}]'"
    if not native.available():
        out["compiled extension"] = f"pip install --force-reinstall --no-deps '{source()}'"
    return out


def extra_of(module: str | None) -> str | None:
    """The extra that brings a module, None if none does.

    >>> extra_of("vl_convert"), extra_of("lightning_fabric.utilities"), extra_of("nonsense")
    ('report', 'torch', None)
    """
    top = (module or "").split(".")[0].replace("_", "-")
    return next((extra for extra, packages in EXTRAS.items() if top in (p.removesuffix("-python") for p in packages)), None)


def show(found: dict[str, Any], out: Console) -> None:
    """Print what `examine` found."""
    engine = found["engine"]
    table = Table(
        box=box.SIMPLE, show_header=False, title=f"openlstm {found['openlstm']}", title_justify="left", title_style="bold"
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("python", f"{found['python']} on {found['platform']}")
    table.add_row("processors", f"{found['processors']['usable here']} usable of {found['processors']['of the machine']}")
    why = "" if engine["native"] else f"  (no compiled extension: {escape(engine['reason'])})"
    table.add_row("backend", (engine["backend"] or "none: see below") + why)
    if engine["instruction set"]:
        others = ", ".join(engine["instruction sets available"])
        table.add_row("instruction set", f"{engine['instruction set']}  (available: {others}; OPENLSTM_ISA forces one)")
        table.add_row("bfloat16", engine["bfloat16"])
        table.add_row("8 bits", engine["8 bits"])
    table.add_row("threads", str(engine["threads"] or "none: see below"))
    table.add_row("packages", ", ".join(f"{name} {v}" for name, v in found["packages"].items() if v))
    for name, value in found["environment"].items():
        table.add_row(name, escape(value))
    out.print(table)
    for error in found["wrong"].values():
        out.print(f"[red]wrong[/] {escape(error)}", highlight=False, soft_wrap=True)
    if not found["missing"]:
        out.print("[green]Nothing is missing.[/]")
    for name, command in found["missing"].items():
        out.print(f"[yellow]missing[/] {name}: {escape(command)}", highlight=False, soft_wrap=True)


def _asked() -> bool:
    return "OPENLSTM_BACKEND" in os.environ


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
