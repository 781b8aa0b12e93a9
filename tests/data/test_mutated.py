"""Damaged files: a panel, or an error in our form, whatever was done to a file; never anything else."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from openlstm.data import Columns, Format, Panel, check, read_panel
from openlstm.errors import OpenLSTMError

Rng = np.random.Generator


def whole(kind: str) -> bytes:
    """A small file of two series with a price and a promotion."""
    frame = pl.DataFrame({
        "store": ["a"] * 8 + ["b"] * 8,
        "day": [f"2024-02-{k:02}" for k in range(25, 29)] * 4,
        "sales": [f"{1000.5 + k:,.2f}" for k in range(16)],
        "price": np.arange(16.0),
        "promo": ["x", "y"] * 8,
    })  # fmt: skip
    days = [f"2024-02-{k:02}T00:00:00+01:00" for k in range(20, 28)] * 2
    frame = (
        frame.with_columns(day=pl.Series(days)) if kind == "zones.csv" else frame.with_columns(day=pl.Series(days).str.head(10))
    )
    file = io.BytesIO()
    if kind.endswith("csv"):
        return frame.write_csv(separator=";" if kind == "semicolons.csv" else ",", quote_style="necessary").encode()
    typed = frame.with_columns(pl.col("day").str.to_date(), sales=pl.col("price"))
    {"a.parquet": typed.write_parquet, "a.arrow": typed.write_ipc, "a.xlsx": typed.write_excel}[kind](file)
    return file.getvalue()


def flip(data: bytes, rng: Rng) -> bytes:
    out = bytearray(data)
    for at in rng.integers(0, len(out), rng.integers(1, 4)):
        out[at] = rng.integers(0, 256)
    return bytes(out)


def cut(data: bytes, rng: Rng) -> bytes:
    return data[: rng.integers(0, len(data))]


def double(data: bytes, rng: Rng) -> bytes:
    lines = data.split(b"\n")
    at = int(rng.integers(0, len(lines)))
    return b"\n".join([*lines[:at], lines[at], *lines[at:]])


def swap(data: bytes, rng: Rng) -> bytes:
    marks = [b",", b";", b"\t", b"|", b" ", b'"', b"\n", b"\r", b".", b"-", b"\0"]
    one, other = rng.choice(len(marks), 2, replace=False)
    parts = data.split(marks[one])
    kept = int(rng.integers(0, len(parts)))
    return marks[one].join(parts[: kept + 1]) + marks[other] + marks[other].join(parts[kept + 1 :])


def word(data: bytes, rng: Rng) -> bytes:
    words = [b"nan", b"inf", b"1e999", b"-", b"99999999999999999999", b"0000-00-00", b"9999-12-31", b"1e5", b"%", b"\xff\xfe",
             b"", b"2024-W99", b"24:00", b"'", b"1,2,3", b"1970-01-01T00:00:00+99:99", "π".encode()]  # fmt: skip
    parts = data.split(b"," if b"," in data else b";")
    parts[int(rng.integers(0, len(parts)))] = words[int(rng.integers(0, len(words)))]
    return (b"," if b"," in data else b";").join(parts)


def splice(data: bytes, rng: Rng) -> bytes:
    a, b = sorted(rng.integers(0, len(data), 2))
    return data[:b] + data[a:]


MUTATIONS: list[Callable[[bytes, Rng], bytes]] = [flip, cut, double, swap, word, splice]
KINDS = ["a.csv", "semicolons.csv", "a.parquet", "a.csv", "zones.csv", "a.arrow", "semicolons.csv", "a.xlsx"]
COLUMNS = [
    Columns(),
    Columns("day", "sales", ("store",)),
    Columns(wide=True),
    Columns("day", "sales", ("store",), future=("price",), past=("promo",)),
    Columns("day", "sales", ("store",), static=("promo",)),
    Columns(target="price", ids=("store", "promo")),
]
FORMS = [Format(), Format(every="1w"), Format(zone="Europe/Berlin"), Format(every="12h", aggregate="sum", decimal=".")]


def damaged(folder: Path, seed: int) -> list[str]:
    """One damaged file, read and checked; what came of each."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    data = whole(kind)
    for _ in range(int(rng.integers(1, 3))):
        data = MUTATIONS[int(rng.integers(0, len(MUTATIONS)))](data or b"?", rng)
    path = folder / kind
    path.write_bytes(data)
    columns, form = COLUMNS[int(rng.integers(0, len(COLUMNS)))], FORMS[int(rng.integers(0, len(FORMS)))]
    came = []
    try:
        panel = read_panel(path, columns, form)
        assert isinstance(panel, Panel) and len(panel.values) == panel.offsets[-1] and not np.isinf(panel.values).any()
        assert (panel.history <= panel.lengths).all() and (panel.history > 0).all()
        came.append("panel")
    except OpenLSTMError as e:
        assert all(f"\n  {part} " in str(e) for part in ("got", "expected", "hint")) and len(str(e)) < 1500
        came.append(str(e))
    report = check(path, columns, form)
    assert bool(report.errors) == (came[0] != "panel")
    if came[0] != "panel":
        assert came[0] in report.errors
    return came


@pytest.mark.parametrize("part", range(6))
def test_a_damaged_file_gives_a_panel_or_an_error(tmp_path: Path, part: int) -> None:
    came = [damaged(tmp_path, seed)[0] for seed in range(12 * part, 12 * part + 12)]
    assert len(set(came)) > 3  # the damage is not one and the same


@pytest.mark.long
def test_a_thousand_damaged_files_give_panels_or_errors(tmp_path: Path) -> None:
    came = [damaged(tmp_path, seed)[0] for seed in range(1000, 2000)]
    assert came.count("panel") > 10 and len({c.split("\n")[0] for c in came}) > 100


def test_the_whole_files_are_read(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / kind).write_bytes(whole(kind))
        assert len(read_panel(tmp_path / kind, COLUMNS[3], Format(zone="Europe/Berlin"))) == 2
