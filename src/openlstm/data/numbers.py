"""A column as float64: decimal commas, thousands separators, currency signs and percent, settled by the whole column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from openlstm.data.files import Table
from openlstm.data.panel import LARGEST, Note
from openlstm.errors import ArgumentError

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "#N/A", ".", "-", "?")
"""The texts that stand for a missing number or date."""

MOST = 0.8
"""Where so many of the texts in a column are numbers (or dates), it is a column of them, and the others are wrong."""

CURRENCY = "[$€£¥₹₽₩₺]"
SPACES = "[ \u00a0\u202f'’]"  # what may stand between thousands beside the mark
PLAIN = r"[+-]?(?:\d+(?:\{mark}\d*)?|\{mark}\d+)(?:[eE][+-]?\d+)?"
GROUPED = r"[+-]?[1-9]\d{0,2}(?:(?:\{other}\d{3})+|(?: \d{3})+)(?:\{mark}\d*)?"
"""A number as written with a decimal mark, without and with thousands separators."""


def read_numbers(table: Table, name: str, decimal: str | None = None) -> np.ndarray:
    """A column as float64, NaN where missing.

    Args:
        decimal: the decimal mark of texts, "." or ","; found in the whole column if None.

    Raises:
        DataError: for a text that is not a number, one that can be read in two ways, or a number beyond 1e100; names the row.
        ArgumentError: for another decimal mark.
    """
    import polars as pl

    if decimal not in (None, ".", ","):
        raise ArgumentError.of("decimal", "is no decimal mark", repr(decimal), "'.' or ','", "correct --decimal")
    column = table.column(name)
    text = isinstance(column.dtype, (pl.String, pl.Categorical, pl.Enum))
    if not (text or column.dtype == pl.Null or column.dtype.is_numeric() or column.dtype == pl.Boolean):
        what, got, hint = "is not a column of numbers", str(column.dtype), "choose another column"
        raise table.wrong(name, what, got, "numbers", hint)
    numbers = column.cast(pl.Float64, strict=False)
    if text and (decimal == "," or numbers.null_count() > column.null_count()):
        cells = known_text(column)
        numbers = _as_written(table, name, cells, decimal)
        wrong = (numbers.is_null() & cells.is_not_null()).to_numpy()
    else:
        wrong = np.zeros(len(numbers), bool)
    out = numbers.to_numpy().astype(np.float64)  # null becomes NaN
    wrong |= np.isinf(out)
    if wrong.any():
        at = int(wrong.argmax())
        raise table.error(at, name, "is not a finite number", column[at], "a number, or nothing where it is missing")
    if (np.abs(out) > LARGEST).any():
        at, expected = int((np.abs(out) > LARGEST).argmax()), f"at most {LARGEST:g} in size"
        raise table.error(at, name, "is too large to compute with", column[at], expected, "take another unit")
    return out


def known_text(column: pl.Series) -> pl.Series:
    """A column as texts without spaces around them, null where they stand for a missing value."""
    import polars as pl

    text = column.cast(pl.String).str.strip_chars()
    return text.set(text.is_in(MISSING), None)


def holds_numbers(column: pl.Series, decimal: str | None = None, most: float = MOST) -> bool:
    """Whether a column is one of numbers: by its type, or because most texts in it read as one; not where all is missing."""
    import polars as pl

    if column.dtype == pl.String:
        known = known_text(column).drop_nulls()
        if not len(known) or not _settle(known.head(100), decimal)[0].count():
            return False
        return _settle(known, decimal)[0].count() >= most * len(known)
    return (column.dtype.is_numeric() or column.dtype == pl.Boolean) and column.count() > 0


def _as_written(table: Table, name: str, text: pl.Series, decimal: str | None) -> pl.Series:
    """Texts as numbers, null where a cell does not fit, with a note where a mark was left out or read in another way."""
    numbers, bare, mark = _settle(text, decimal)
    if numbers.null_count() > text.null_count():
        return numbers
    if mark == "both" and bare is not None:
        other = _cast(bare, ",")
        if (differ := (numbers != other).fill_null(False)).any():
            at = int(differ.arg_max() or 0)
            a, b = f"{numbers[at]:.15g}", f"{other[at]:.15g}"
            what, expected = "is a number that can be read in two ways", f"{a} or {b}, settled by another cell of the column"
            hint = "say which mark stands before the decimals: --decimal , or --decimal ."
            raise table.error(at, name, what, text[at], expected, hint)
    if bare is not None:
        words = ["a decimal comma"] if mark == "," and bare.str.contains(",", literal=True).any() else []
        thousands = "." if mark == "," else ","
        words += ["thousands separators"] if bare.str.contains(rf"[{thousands} ]").any() else []
        words += ["parentheses (negative)"] if text.str.starts_with("(").any() else []
        words += ["currency signs"] if text.str.contains(CURRENCY).any() else []
        percent = text.str.ends_with("%")
        if percent.any():
            if not percent.fill_null(True).all():
                at, first = int((~percent).fill_null(False).arg_max() or 0), int(percent.arg_max() or 0)
                expected = f"percent in every row, as in {table.row(first)}: {text[first]}, or in none"
                raise table.error(at, name, "is not in percent, and others are", text[at], expected, "write all in one unit")
            words.append("percent signs (5% is 5)")
        if words:
            table.notes.append(Note("numbers", len(text), f"{name} was read with {' and '.join(words)}"))
    return numbers


def _settle(text: pl.Series, decimal: str | None) -> tuple[pl.Series, pl.Series | None, str]:
    """Texts as numbers in the one way of writing that fits the most of them; what is left without signs; the decimal mark.

    The mark is "both" where all fit with a point and with a comma.
    """
    import polars as pl

    numbers = text.cast(pl.Float64, strict=False)
    missing = text.null_count()
    if decimal != "," and numbers.null_count() == missing:
        return numbers, None, "."
    words = text.str.to_lowercase()
    if words.drop_nulls().is_in(["true", "false"]).all() and len(text) > missing:
        return (words == "true").cast(pl.Float64), None, "."
    bare = text.str.replace("−", "-", literal=True).str.replace(r"^\((.*)\)$", "-$1").str.replace(r"\s*%$", "")
    bare = bare.str.replace(rf"^([+-]?)\s*{CURRENCY}\s*", "$1").str.replace(rf"\s*{CURRENCY}$", "")
    bare = bare.str.replace_all(SPACES, " ")
    found = {mark: _cast(bare, mark) for mark in (".", ",") if decimal in (None, mark)}
    fewest = min(found.values(), key=lambda n: n.null_count()).null_count()
    found = {mark: n for mark, n in found.items() if n.null_count() == fewest}
    mark = "both" if len(found) == 2 else next(iter(found))
    return next(iter(found.values())), bare, mark


def _cast(bare: pl.Series, mark: str) -> pl.Series:
    """Texts as numbers, written with this decimal mark, null where they are not."""
    import polars as pl

    other = "," if mark == "." else "."
    parts = "|".join(p.replace("{mark}", mark).replace("{other}", other) for p in (PLAIN, GROUPED))
    fits = bare.str.contains(f"^(?:{parts})$")
    plain = bare.str.replace_all(rf"[{other} ]", "").str.replace(mark, ".", literal=True)
    return plain.set((~fits).fill_null(True), None).cast(pl.Float64, strict=False)
