"""Parquet tables read part by part: every row once, no more of them at a time than a part holds, and the same panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openlstm.data import Columns, Format, read_panel
from openlstm.data.columns import Terms
from openlstm.data.panel import Panel
from openlstm.data.parquet import Plan, Source
from openlstm.errors import DataError
from openlstm.model_file import Step

DAY = Step(unit="second", count=86400)
COLUMNS = Columns("day", "sold", ("shop", "item"), future=("price",), static=("region",))
TERMS = Terms(COLUMNS, Format(), DAY, {"region": ("n", "s")})


def frame(counts: list[int], ahead: bool = False) -> pl.DataFrame:
    """Series of so many days, of two names; or two days behind each."""
    parts = []
    for s, count in enumerate(counts):
        t = np.arange(count, count + 2) if ahead else np.arange(count)
        day = np.datetime64("2024-01-01", "us") + t * np.timedelta64(1, "D")
        names = {"shop": f"s{s % 3}", "item": s // 3}
        parts.append(pl.DataFrame({**names, "day": day, "sold": s + 0.1 * t, "price": t % 7.0, "region": "ns"[s % 2]}))
    whole = pl.concat(parts)
    return whole.drop("sold", "region") if ahead else whole


def panel_of(data: Any, ahead: Any) -> Panel:
    return read_panel(data, COLUMNS, step=DAY, categories=TERMS.categories, future_data=ahead)


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(3, 12), min_size=1, max_size=8),
    parts=st.integers(1, 9),
    most=st.integers(5, 40),
    seed=st.integers(0, 99),
    ahead=st.sampled_from(["", "with names", "for all"]),
    files=st.integers(1, 3),
)
def test_the_panels_of_the_parts_are_the_panel_of_the_table(
    counts: list[int],
    parts: int,
    most: int,
    seed: int,
    ahead: str,
    files: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever the order of the rows, and whether the table is one file or several."""
    folder = tmp_path_factory.mktemp("table")
    table = frame(counts).sample(fraction=1.0, shuffle=True, seed=seed)
    for k, part in enumerate(table.iter_slices(-(-len(table) // files))):
        part.write_parquet(folder / f"{k}.parquet", row_group_size=7)
    later = frame([max(counts)] * len(counts), ahead=True)
    later = later if ahead == "with names" else later.head(2).drop("shop", "item")
    later.write_parquet(folder.with_suffix(".parquet"))
    pairs = Plan.of(Source.of(folder), TERMS, Source.of(folder.with_suffix(".parquet")) if ahead else None).divide(parts, most)
    whole = panel_of(table, later if ahead else None)
    done = 0
    for data, behind in pairs:
        rows = data.read()
        one = panel_of(rows, behind.read() if behind else None)
        want = whole.only(np.arange(done, done + len(one)))
        assert one.keys == want.keys and (one.history == want.history).all() and (one.starts == want.starts).all()
        np.testing.assert_array_equal(one.values, want.values)
        for a, b in zip(one.covariates, want.covariates, strict=True):
            np.testing.assert_array_equal(a.values, b.values)
        done += len(one)
        assert rows.frame.columns == ["shop", "item", "day", "sold", "price", "region"]
        assert len(rows.frame) < most + max(counts) or len(one) == 1
    assert done == len(whole)
    assert len(pairs) <= max(parts, -(-len(table) // most))


def test_a_part_leaves_the_row_groups_of_others_unread(tmp_path: Path) -> None:
    """They are damaged, which only a reader that passes over them does not notice."""
    path = tmp_path / "a.parquet"
    frame([40, 40, 40]).write_parquet(path, row_group_size=40, compression="uncompressed")
    first, second, third = (pair.data for pair in Plan.of(Source.of(path), TERMS).divide(3, 1000))
    want, content, group = second.read().frame, bytearray(path.read_bytes()), pq.read_metadata(path).row_group
    for chunk in (group(g).column(c) for g in (0, 2) for c in range(group(0).num_columns)):
        begin, size = chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size
        content[begin : begin + size] = b"\xff" * size
    path.write_bytes(content)
    assert len(want) == 40 and second.read().frame.equals(want)
    for damaged in (first, third):
        with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
            damaged.read()


def test_a_table_of_one_series_is_one_part(tmp_path: Path) -> None:
    frame([9]).write_parquet(tmp_path / "a.parquet")
    source, terms = Source.of(tmp_path / "a.parquet"), TERMS._replace(columns=Columns("day", "sold", future=("price",)))
    ((data, ahead),) = Plan.of(source, terms).divide(4, 2)
    assert ahead is None and data.read().frame.equals(frame([9]).select("day", "sold", "price"))


def file_of(tmp_path: Path, **columns: Any) -> Path:
    path = tmp_path / "a.parquet"
    frame([5, 5]).with_columns(**columns).write_parquet(path)
    return path


def fails(call: Any, text: str) -> None:
    with pytest.raises(DataError) as e:
        call()
    assert str(e.value) == text


def test_a_table_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("day,sold\n2024-01-01,1\n")
    (tmp_path / "empty").mkdir()
    for name, got in (("a.csv", "another kind of file"), ("b.parquet", "no such file"), ("empty", "a folder without one")):
        fails(
            lambda name=name: Source.of(tmp_path / name),
            f"{name}: holds no table in Parquet, which alone is read part by part\n  got       {got}\n"
            "  expected  a .parquet file, or a folder of them\n"
            "  hint      convert the table to Parquet, or leave out --engine ray",
        )


WORDS = "column {0!r}: {1}, and the table is read part by part\n  got       {2}\n  expected  {3}\n  hint      {4}"
CONVERT = "convert this column, or leave out --engine ray"


@pytest.mark.parametrize(
    ("column", "kind", "what", "got", "expected"),
    [
        ("day", pl.String, "holds dates whose form the whole column settles", "String", "dates or timestamps, by their type"),
        ("sold", pl.String, "holds numbers as texts, which the whole column settles", "String", "numbers, by their type"),
        (
            "item",
            pl.Float64,
            "holds names as numbers with decimals, which the whole column settles",
            "Float64",
            "texts or whole numbers",
        ),
    ],
)
def test_a_column_that_the_whole_of_it_settles_is_refused(
    column: str, kind: Any, what: str, got: str, expected: str, tmp_path: Path
) -> None:
    source = Source.of(file_of(tmp_path, **{column: pl.col(column).cast(kind)}))
    fails(lambda: Plan.of(source, TERMS), "a.parquet, " + WORDS.format(column, what, got, expected, CONVERT))


def test_local_times_and_wide_tables_are_refused(tmp_path: Path) -> None:
    source = Source.of(file_of(tmp_path))
    hourly = TERMS._replace(form=Format(zone="Europe/Berlin"), step=Step(unit="second", count=3600))
    what = "holds local times, whose hour that comes twice in autumn the whole table settles"
    hint = "convert this column, or leave out --zone or --engine ray"
    got, expected = "Datetime(time_unit='us', time_zone=None)", "times in UTC, or with a zone in their type"
    fails(lambda: Plan.of(source, hourly), "a.parquet, " + WORDS.format("day", what, got, expected, hint))
    fails(
        lambda: Plan.of(source, TERMS._replace(columns=Columns("day", wide=True))),
        "a.parquet: holds a series in each column, and is read part by part\n  got       a model of a wide table\n"
        "  expected  a row for each time and series\n"
        "  hint      bring it into long form and fit again, or leave out --engine ray",
    )


def test_an_error_in_a_part_names_the_row_of_the_whole_table(tmp_path: Path) -> None:
    path = file_of(tmp_path, sold=pl.Series([0.0] * 7 + [np.inf, 0, 0]))
    (_, second) = Plan.of(Source.of(path), TERMS).divide(2, 1000)
    with pytest.raises(DataError, match=r"^a\.parquet, row 8, column 'sold': is not a finite number\n  got       inf"):
        panel_of(second.data.read(), None)


def test_rows_without_a_name_or_a_past_are_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, item=pl.Series([0] * 7 + [None] + [0] * 2))
    fails(
        lambda: Plan.of(Source.of(path), TERMS).divide(2, 1000),
        "a.parquet, row 8, column 'item': names no series\n  got       None\n"
        "  expected  the name of a series in every row\n  hint      fill in this cell, or leave out the row",
    )
    later = frame([5, 5, 5], ahead=True)
    later.write_parquet(tmp_path / "b.parquet")
    plan = Plan.of(Source.of(file_of(tmp_path)), TERMS, Source.of(tmp_path / "b.parquet"))
    fails(
        lambda: plan.divide(2, 1000),
        "b.parquet, row 5, column 'shop': names a series that has no past\n  got       's2, 0'\n"
        "  expected  a series of the first table\n  hint      leave out its rows",
    )
