"""What a network reads of a panel: marks for what is missing, lags, the calendar, and nothing from behind the origin.

Legend: S series, W steps of a window, K steps of the horizon.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.tasks import drawn

from openlstm.data.panel import Panel
from openlstm.errors import DataError
from openlstm.model_file import Header, Scale
from openlstm.runtime.model import Model
from openlstm.runtime.window import MOST, Window, measure, rows, windows

FORECASTING = [kind for kind in drawn.KINDS if kind != "simulate"]
NAN = float("nan")


def last_windows(head: Header, panel: Panel) -> Window:
    table = rows(head.series, panel)
    return windows(head.series, table, table.begins + panel.history)


def same(a: Window, b: Window) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


def one(values: list[float] | np.ndarray, start: str = "2001-01-01") -> Panel:
    return Panel.of([np.asarray(values, float)], start, drawn.DAY, target="y", time="t")


def scaled(head: Header, factor: float) -> Header:
    """The header of the same model in another unit."""
    scale = head.series.scale
    return head.changed(series=head.series.changed(scale=scale.changed(floor=scale.floor * factor)))


@pytest.mark.parametrize("length", [1, 2, 9, 10, 11, 30])
def test_a_short_series_is_one_whose_beginning_is_missing(length: int) -> None:
    head = drawn.header("direct", features=False)
    values = np.random.default_rng(0).standard_normal(length)
    before = np.datetime64("2001-01-01") - np.timedelta64(25, "D")
    padded = one(np.append(np.full(25, NAN), values), str(before))
    assert same(last_windows(head, one(values)), last_windows(head, padded))


def test_a_missing_value_is_the_last_known_one_and_a_mark() -> None:
    head = drawn.header("direct", features=False, window=6)
    seen = last_windows(head, one([9, 9, NAN, 1, NAN, 3, 5, NAN]))
    marks, values = seen.x[0, :, 1], seen.anchor + seen.spread * seen.x[0, :, 0]
    assert marks.tolist() == [1, 0, 1, 0, 0, 1]
    np.testing.assert_allclose(values, [seen.anchor[0], 1, 1, 3, 5, 5], rtol=1e-6)  # at the anchor before the first
    assert seen.context[0, 1] == 0.5  # the share that is known


def test_a_lag_that_is_missing_is_the_nearer_one_and_a_mark() -> None:
    head = drawn.header("direct", features=False, horizon=4)
    seen = last_windows(head, one([5, 6, 7, 8, 1, 2, 3, NAN, 4, NAN]))  # lags of 4 and of 8 before steps 10, 11, 12, 13
    unit = lambda k: seen.anchor[0] + seen.spread[0] * seen.ahead[0, :, k]  # noqa: E731
    nearest, further = unit(1), unit(3)
    assert seen.ahead[0, :, 2].tolist() == [0, 1, 0, 1]  # 3, missing, 4, missing
    np.testing.assert_allclose(nearest[[0, 2]], [3, 4], rtol=1e-6)
    assert seen.ahead[0, :, 4].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(further, [7, 8, 1, 2], rtol=1e-6)
    short = last_windows(head, one([1, 2, 3, 4, 5]))  # of 8 before nothing is known, but of step 8
    assert short.ahead[0, :, 4].tolist() == [1, 1, 1, 0]
    assert (short.ahead[0, :3, 3] == short.ahead[0, :3, 1]).all()


def test_a_lag_that_a_header_names_twice_is_read_twice() -> None:
    head = drawn.header("direct", features=False)
    head = head.changed(series=head.series.changed(lags=head.series.lags[:1] * 2))
    seen = last_windows(head, one(np.arange(30.0)))
    assert (seen.ahead[..., 1:3] == seen.ahead[..., 3:5]).all() and seen.ahead.shape[2] == head.ahead


def behind(panel: Panel, *, by: float) -> Panel:
    """The panel with other numbers where nothing is known: targets and columns of the past behind the origin."""
    steps = np.arange(len(panel.values)) - np.repeat(panel.offsets[:-1], panel.lengths)
    unknown = steps >= np.repeat(panel.history, panel.lengths)
    other = lambda c: replace(c, values=np.where(unknown, 1.0 if c.categories else by, c.values))  # noqa: E731
    covariates = tuple(other(c) if c.role == "past" else c for c in panel.covariates)
    return replace(panel, values=np.where(unknown, by, panel.values), covariates=covariates)


@pytest.mark.parametrize("kind", FORECASTING)
def test_what_stands_behind_the_origin_is_not_read(kind: str) -> None:
    model = drawn.model(drawn.header(kind))
    panel = drawn.panel(model.header)
    a, b = (model.predict(behind(panel, by=by)).values for by in (NAN, 77.0))
    assert (a == b).all()


@pytest.mark.parametrize("kind", FORECASTING)
def test_a_series_does_not_depend_on_the_others_nor_on_its_place(kind: str) -> None:
    model = drawn.model(drawn.header(kind))
    panel = drawn.panel(model.header)
    whole = model.predict(panel).values
    for s in range(len(panel)):
        assert (model.predict(panel.only(np.array([s]))).values[0] == whole[s]).all()
    order = np.array([2, 0, 3, 1])
    assert (model.predict(panel.only(order)).values == whole[order]).all()


def test_equal_times_have_equal_calendars_wherever_a_series_begins() -> None:
    head = drawn.header("direct", features=False)
    panel = drawn.panel(head)
    table, times = rows(head.series, panel), {}
    for s in range(len(panel)):
        for step, time in enumerate(panel.times(s)):
            read = table.plain[table.begins[s] + step].tolist()
            assert times.setdefault(time, read) == read
    week = [read for _, read in sorted(times.items())]
    assert len(week) > 40
    assert all(a[:2] == pytest.approx(b[:2], abs=1e-6) for a, b in zip(week, week[7:], strict=False))
    assert week[0][:2] != pytest.approx(week[1][:2], abs=1e-2)


def test_a_category_is_its_position_and_missing_is_0() -> None:
    head = drawn.header("direct")
    panel = drawn.panel(head)
    table = rows(head.series, panel)
    color = panel.covariate("color").values
    at = table.begins[0] + np.arange(panel.lengths[0])
    assert table.codes[at, 0].tolist() == np.nan_to_num(color[panel.rows(0)] + 1).tolist()
    assert 0 in table.codes[at, 0]


@pytest.mark.parametrize("power", [-298, -1, 1, 300])
@pytest.mark.parametrize("kind", ["direct", "normal", "student-t"])
def test_the_unit_does_not_matter(kind: str, power: int) -> None:
    """Twice the values, twice the forecast, bit for bit, up to 1e90 and down to 1e-90."""
    head, factor = drawn.header(kind, members=1), 2.0**power
    panel = drawn.panel(head)
    big = replace(panel, values=panel.values * factor)
    a, b = drawn.model(head), drawn.model(scaled(head, factor))
    assert (last_windows(head, panel).x == last_windows(b.header, big).x).all()
    assert (a.predict(panel).values * factor == b.predict(big).values).all()


@pytest.mark.parametrize("kind", FORECASTING)
@pytest.mark.parametrize(
    "values",
    [[0.0] * 30, [5.0] * 30, [NAN] * 25 + [3.0] * 5, [NAN] * 29 + [2.0], [1.0], [0.0, 1e12] * 15, [0.0] * 29 + [1e6]],
    ids=["zeros", "constant", "begins late", "one value", "one step", "jumps", "a spike"],
)
def test_hostile_windows_give_finite_numbers(kind: str, values: list[float]) -> None:
    model = drawn.model(drawn.header(kind, features=False))
    found = model.predict(one(values)).values
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    if kind == "direct":
        seen = last_windows(model.header, one(values))
        assert all(np.isfinite(part).all() and np.abs(part).max() <= MOST for part in (seen.x, seen.ahead, seen.context))


def test_sizes_beyond_float32_are_forecast_in_the_direct_form() -> None:
    for size in (1e90, 1e-90):
        model = drawn.model(scaled(drawn.header("direct", features=False), size))
        values = size * np.random.default_rng(0).standard_normal(40)
        found = model.predict(one(values)).values
        assert np.isfinite(found).all()
        assert 1e-3 < np.abs(found / size).max() < 1e3


def test_windows_are_measured_as_the_anchor_says() -> None:
    values = np.array([[2.0, NAN, 4.0, 6.0, 8.0]])
    form = lambda anchor, **rest: [float(v[0]) for v in measure(values, Scale(anchor=anchor, floor=0.5, **rest), 2)]  # noqa: E731
    assert form("season") == pytest.approx([7.0, 5**0.5])
    assert form("zero") == [0.0, 5.0]
    assert form("all", center=3.0) == [3.0, 0.5]
    assert form("last")[0] == 8.0
    assert [float(v[0]) for v in measure(np.zeros((1, 4)), Scale(anchor="zero", floor=0.5), 2)] == [0.0, 0.5]


def test_a_covariate_that_is_not_known_ahead_is_named() -> None:
    head = drawn.header("direct")
    panel = drawn.panel(head, (20, 20))
    price = panel.covariate("price")
    hole = price.values.copy()
    hole[panel.offsets[1] + 23] = NAN
    covariates = tuple(replace(c, values=hole) if c.name == "price" else c for c in panel.covariates)
    with pytest.raises(DataError) as e:
        drawn.model(head).predict(replace(panel, covariates=covariates))
    assert str(e.value) == (
        "series name=s1: 'price' is not known far enough ahead\n"
        "  got       nothing at 2001-01-27\n"
        "  expected  a value at each of the 7 steps of the horizon\n"
        "  hint      append rows with price for the steps to forecast, the target left empty, or give --future-data"
    )


def test_the_model_is_built_of_its_file_alone(tmp_path) -> None:  # noqa: ANN001
    import openlstm
    from openlstm import model_file

    for kind in drawn.KINDS:
        model: Model = drawn.model(drawn.header(kind))
        model_file.write(tmp_path / "m.safetensors", model.header, model.tensors)
        again = openlstm.load(tmp_path / "m.safetensors")
        assert again.header == model.header.changed(checksum=again.header.checksum)
        panel = drawn.panel(model.header)
        if kind == "simulate":
            assert (again.simulate(panel).values == model.simulate(panel).values).all()
        else:
            assert (again.predict(panel).values == model.predict(panel).values).all()
