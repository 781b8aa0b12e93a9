"""Parquet tables that need not fit into memory: their series, found without the other columns, and the rows of some of them.

    Source.of(path) -> Plan.of(source, ...) -> divide -> pieces -> Piece.read() -> a Table, which `read_panel` takes

Legend: S series, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from openlstm.data.columns import Terms, choose
from openlstm.data.contents import parquet_files
from openlstm.data.files import Table, find_polars, reading_parquet, refuse_empty
from openlstm.data.grid import DAY, step_of
from openlstm.data.rows import find_keys, read_keys
from openlstm.errors import DataError

if TYPE_CHECKING:
    import polars as pl

ROW = "\0row"
"""The column that counts the rows of the whole table, from 0."""


@dataclass(frozen=True)
class Part(Table):
    """Some rows of a table; an error calls them by their numbers in the whole of it."""

    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def row(self, index: int) -> str:
        """How a reader finds a row, counted from 1."""
        return f"row {self.numbers[index] + 1}"


@dataclass(frozen=True)
class Source:
    """The Parquet files of one table, whose rows are never read all at once."""

    paths: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """The table of a file, of a folder of files, or of a pattern such as `sales/*.parquet`.

        Raises:
            DataError: if there is no Parquet file.
        """
        paths = tuple(str(p.absolute()) for p in parquet_files(path))
        if not paths:
            got = "another kind of file" if path.is_file() else "no such file" if not path.is_dir() else "a folder without one"
            what, expected = (
                "holds no table in Parquet, which alone is read part by part",
                "a .parquet file, or a folder of them",
            )
            raise DataError.of(path.name, what, got, expected, "convert the table to Parquet, or leave out --engine ray")
        return cls(paths, path.name)

    def head(self) -> Table:
        """The columns and their types, without rows."""
        with reading_parquet(self.name):
            frame = self._lazy().drop(ROW).head(0).collect()
        return Table(frame, self.name, kind="Parquet")

    def names(self, ids: tuple[str, ...]) -> tuple[Part, np.ndarray]:
        """The first row of each series, of the ids alone, and how many rows it has, int64; in the order of the first rows.

        Series are told apart by what stands in the cells, so that two of them may have one key ("a" and " a").
        """
        import polars as pl

        with reading_parquet(self.name):
            query = self._lazy().select(ROW, *ids).group_by(ids).agg(pl.col(ROW).min(), pl.len().alias("\0rows"))
            found = query.collect(engine="streaming").sort(ROW)
        part = Part(found.select(ids), self.name, kind="Parquet", numbers=found[ROW].to_numpy())
        refuse_empty(part)
        return part, found["\0rows"].to_numpy().astype(np.int64)

    def rows(self, columns: Sequence[str], series: pl.DataFrame | None = None) -> Part:
        """Some columns of the rows of some series, as `names` calls them; of all if None."""
        import polars as pl

        with reading_parquet(self.name):
            query = self._lazy().select(ROW, *columns)
            if series is not None:
                query = query.filter(pl.all_horizontal(pl.col(i).is_in(series[i].unique().implode()) for i in series.columns))
            if series is not None and series.width > 1:  # two columns that hold the right names in the wrong pairs
                query = query.join(series.lazy(), on=series.columns, how="semi")
            frame = query.collect(engine="streaming").sort(ROW)
        return Part(frame.drop(ROW), self.name, kind="Parquet", numbers=frame[ROW].to_numpy())

    def _lazy(self) -> pl.LazyFrame:
        return find_polars().scan_parquet(list(self.paths), row_index_name=ROW, hive_partitioning=False)


class Piece(NamedTuple):
    """What is read of a table for some of its series."""

    source: Source
    columns: tuple[str, ...]
    series: pl.DataFrame | None = None  # all if None

    def read(self) -> Part:
        """The rows, in the order of the table."""
        part = self.source.rows(self.columns, self.series)
        refuse_empty(part)
        return part


class Pair(NamedTuple):
    """The pieces of some series: of the table, and of the one that holds what is known ahead, if there is one."""

    data: Piece
    ahead: Piece | None


class Plan(NamedTuple):
    """What is read of a table, and of the one behind it, if there is one; `later` without ids holds for every series."""

    source: Source
    columns: tuple[str, ...]
    ids: tuple[str, ...]
    ahead: Source | None
    later: tuple[str, ...]

    @classmethod
    def of(cls, source: Source, terms: Terms, ahead: Source | None = None) -> Plan:
        """The plan for a model; no row is read.

        Args:
            ahead: the rows behind the past, with the columns known ahead.

        Raises:
            DataError: for a wide table, a column that is not there, or one whose cells are read in the light of the whole
                column (dates and numbers in texts), as a part of it might be read otherwise.
        """
        table = source.head()
        if terms.columns.wide:
            what, got = "holds a series in each column, and is read part by part", "a model of a wide table"
            hint = "bring it into long form and fit again, or leave out --engine ray"
            raise DataError.of(table.name, what, got, "a row for each time and series", hint)
        columns = choose(table, terms.columns, terms.form)
        time, ids = str(columns.time), columns.ids
        others = (str(columns.target), *columns.future, *columns.past, *columns.static)
        _refuse_open(table, time, ids, others, terms)
        later: tuple[str, ...] = ()
        if ahead is not None:
            table = ahead.head()
            there = () if set(ids).isdisjoint(table.frame.columns) else ids
            _refuse_open(table, time, there, columns.future, terms)
            later = (*there, time, *columns.future)
        return cls(source, (*ids, time, *others), ids, ahead, later)

    def divide(self, parts: int, most: int) -> list[Pair]:
        """The table in parts of about as many rows, each of some series, in the order in which the series first come.

        A part is judged by itself where a table is: whether its times lie too far apart for its interval.

        Args:
            parts: so many, if there are as many series; more where a part would have over `most` rows.

        Raises:
            DataError: for a row that names no series, and a series that is known ahead and has no past.
        """
        if not self.ids:
            return [Pair(Piece(self.source, self.columns), self._all_ahead())]
        names, rows = self.source.names(self.ids)
        keys, number = read_keys(names, self.ids)
        place = _cut(np.bincount(number, rows, len(keys)), parts, most)
        some = [names.frame.filter(place[number] == k) for k in range(int(place[-1]) + 1)]
        pieces = [Piece(self.source, self.columns, one) for one in some]
        if self.ahead is None or self.ids[0] not in self.later:
            return [Pair(piece, self._all_ahead()) for piece in pieces]
        names, _ = self.ahead.names(self.ids)
        of = place[find_keys(names, self.ids, keys)]
        some = [names.frame.filter(of == k) for k in range(len(pieces))]
        return [Pair(p, Piece(self.ahead, self.later, s) if len(s) else None) for p, s in zip(pieces, some, strict=True)]

    def _all_ahead(self) -> Piece | None:
        return None if self.ahead is None else Piece(self.ahead, self.later)


def _cut(rows: np.ndarray, parts: int, most: int) -> np.ndarray:
    """Which part each series [S] goes to, int64 [S]: rising without a gap, of about as many rows.

    >>> _cut(np.array([10, 10, 10, 10]), 2, 100).tolist(), _cut(np.array([1, 1, 50]), 8, 20).tolist()
    ([0, 0, 1, 1], [0, 0, 1])
    """
    total = rows.sum()
    count = max(parts, -(-int(total) // most))
    middle = np.cumsum(rows) - rows / 2
    place = np.minimum(middle * count // total, count - 1).astype(np.int64)
    return np.cumsum(np.diff(place, prepend=place[:1]) > 0)


def _refuse_open(table: Table, time: str, ids: Sequence[str], others: Sequence[str], terms: Terms) -> None:
    """Refuse columns whose cells are read in the light of the whole column.

    Args:
        others: the columns of numbers and categories.
    """
    import polars as pl

    def refuse(name: str, what: str, expected: str, hint: str = "convert this column, or leave out --engine ray") -> None:
        raise table.wrong(name, f"{what}, and the table is read part by part", str(table.column(name).dtype), expected, hint)

    kind = table.column(time).dtype
    if kind not in (pl.Date, pl.Datetime):
        refuse(time, "holds dates whose form the whole column settles", "dates or timestamps, by their type")
    step = step_of(terms.form.every) if terms.form.every else terms.step
    short = step.unit == "second" and step.count < DAY
    if terms.form.zone is not None and short and getattr(kind, "time_zone", None) is None:
        expected, hint = (
            "times in UTC, or with a zone in their type",
            "convert this column, or leave out --zone or --engine ray",
        )
        refuse(time, "holds local times, whose hour that comes twice in autumn the whole table settles", expected, hint)
    for name in (*ids, *(n for n in others if n in terms.categories)):
        if table.column(name).dtype.is_float():
            refuse(name, "holds names as numbers with decimals, which the whole column settles", "texts or whole numbers")
    for name in (n for n in others if n not in terms.categories):
        if table.column(name).dtype in (pl.String, pl.Categorical, pl.Enum):
            refuse(name, "holds numbers as texts, which the whole column settles", "numbers, by their type")
