"""`simulate`: every step from the covariates up to it, never from the target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.tasks import drawn

from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.runtime import simulate

MODEL = drawn.model(drawn.header("simulate"))
PANEL = drawn.panel(MODEL.header, (40, 1, 25, 12))


def changed(panel: Panel, name: str, values: np.ndarray) -> Panel:
    return replace(panel, covariates=tuple(replace(c, values=values) if c.name == name else c for c in panel.covariates))


def test_the_target_is_not_looked_at_and_every_step_is_told() -> None:
    found = MODEL.simulate(PANEL)
    assert found.values.shape == (len(PANEL.values), 4)
    assert np.isfinite(found.values).all()
    blank = replace(PANEL, values=np.full(len(PANEL.values), np.nan), history=np.zeros(4, np.int64))
    assert (MODEL.simulate(blank).values == found.values).all()


def test_a_covariate_of_later_changes_nothing_before_it() -> None:
    price = PANEL.covariate("price").values.copy()
    price[20] += 1
    a, b = MODEL.simulate(PANEL).values, MODEL.simulate(changed(PANEL, "price", price)).values
    assert (a[:20] == b[:20]).all()
    assert (a[20:41] != b[20:41]).any(axis=1).all()
    assert (a[41:] == b[41:]).all()  # another series


def test_a_series_does_not_depend_on_the_others_nor_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MODEL.simulate(PANEL)
    for s in range(len(PANEL)):
        assert (MODEL.simulate(PANEL.only(np.array([s]))).values == whole.values[PANEL.rows(s)]).all()
    monkeypatch.setattr(simulate, "NUMBERS", 1)
    assert (MODEL.simulate(PANEL).values == whole.values).all()


def test_rows_and_columns_stand_as_the_panel_does() -> None:
    found = MODEL.simulate(PANEL)
    columns = found.columns()
    assert list(columns) == ["name", "t", "forecast", "lower_80", "upper_80", "quantile_0.4"]
    assert columns["name"].tolist() == [key for (key,), n in zip(PANEL.keys, PANEL.lengths, strict=True) for _ in range(n)]
    assert (columns["forecast"] == found.median).all()
    rows = found.rows()
    assert len(rows) == len(PANEL.values)
    assert rows[41]["t"] == "2001-01-04"
    assert rows[41]["name"] == "s1"


def test_a_missing_covariate_is_named() -> None:
    price = PANEL.covariate("price").values.copy()
    price[3] = np.nan
    with pytest.raises(DataError) as e:
        MODEL.simulate(changed(PANEL, "price", price))
    assert str(e.value) == (
        "series name=s0: 'price' is missing\n"
        "  got       nothing at 2001-01-04\n"
        "  expected  a value, as in all rows of the training\n"
        "  hint      fill it, or fit the model with data in which it is missing too"
    )


def test_it_neither_forecasts_nor_streams_and_the_others_do_not_simulate() -> None:
    with pytest.raises(ArgumentError) as e:
        MODEL.predict(PANEL)
    assert str(e.value) == (
        "Model.predict: a simulating model reads no values of its target\n"
        "  got       a simulating model\n"
        "  expected  a model that forecasts\n"
        "  hint      model.simulate(data)"
    )
    with pytest.raises(ArgumentError, match=r"Model\.stream: a simulating model reads no values of its target"):
        MODEL.stream()
    direct = drawn.model(drawn.header("direct"))
    with pytest.raises(ArgumentError) as e:
        direct.simulate(drawn.panel(direct.header))
    assert str(e.value) == (
        "Model.simulate: the model reads the past of its target\n"
        "  got       a direct model\n"
        "  expected  a simulating model\n"
        "  hint      model.predict(data), or fit with decoder='simulate'"
    )
