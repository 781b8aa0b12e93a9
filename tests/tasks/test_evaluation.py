"""Rolling origins: nothing from behind an origin is seen, every unseen step is scored once, and the verdict is honest."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.fake import Fake, carried, months, zero

from openlstm.data.panel import Covariate, Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.tasks.evaluation import Progress, evaluate


def model(trained: int = 6, **more: object) -> Fake:
    return Fake({"LSTM": carried, "zero": zero}, trained, **more)  # type: ignore[arg-type]


def walk(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).cumsum()


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@given(lengths, st.integers(1, 9), st.integers(1, 7))
def test_every_unseen_step_is_forecast_once_and_from_its_past_alone(sizes: list[int], trained: int, horizon: int) -> None:
    panel, fake = months(*(walk(n, n) for n in sizes)), model(trained, horizon=horizon)
    if max(sizes) <= trained:
        with pytest.raises(DataError, match="the model has seen every row"):
            evaluate(fake, panel)
        return
    found = evaluate(fake, panel)
    for s, n in enumerate(sizes):
        mine = found.rows.series == s
        assert found.rows.at[mine].tolist() == list(range(trained, n))
        assert ((found.rows.origin[mine] - trained) % horizon == 0).all()
        assert (found.truth[mine] == panel.past(s)[trained:]).all()
    medians = found.forecasts["LSTM"][:, 2]
    assert medians.tolist() == [panel.past(s)[o - 1] for s, _, o in zip(*found.rows, strict=True)]


@given(st.integers(5, 30), st.integers(1, 4), st.integers(1, 5), st.data())
def test_a_value_behind_an_origin_changes_no_forecast_before_it(
    size: int, trained: int, horizon: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(trained, size - 1))
    changed = walk(size)
    changed[at] += 1000.0
    fake, other = model(trained, horizon=horizon), model(trained, horizon=horizon)
    a, b = evaluate(fake, months(walk(size))), evaluate(other, months(changed))
    before = a.rows.origin <= at
    for name in a.forecasts:
        assert (a.forecasts[name][before] == b.forecasts[name][before]).all()
    for panel in fake.shown:
        assert np.isnan(panel.values[int(panel.history[0]) :]).all()


@given(lengths, st.integers(1, 4), st.integers(1, 6))
def test_the_last_origins_end_with_the_series(sizes: list[int], origins: int, horizon: int) -> None:
    panel, fake = months(*(walk(n, n) for n in sizes)), model(1, horizon=horizon)
    whole = [(n - 1) // horizon for n in sizes]
    if not any(n > 1 for n in sizes) or max(max(whole), 1) < origins:
        with pytest.raises((ArgumentError, DataError)):
            evaluate(fake, panel, origins=origins)
        return
    found = evaluate(fake, panel, origins=origins)
    for s, n in enumerate(sizes):
        at, count = found.rows.at[found.rows.series == s].tolist(), min(whole[s], origins)
        assert at == (list(range(n - count * horizon, n)) if count else list(range(1, n)))


def test_scores_by_hand() -> None:
    panel = months([0, 1, 0, 1, 3, np.nan, 6])  # the scale of the first four is 1; from then on 1 is carried, and 3
    found = evaluate(model(4, horizon=1), panel)
    own = found.score("LSTM")  # errors 2, none, 3
    assert own[:4] == ("LSTM", "LSTM", 2.5, np.sqrt(6.5))
    assert (own.mae, own.rmse) == (2.5, np.sqrt(6.5))
    assert own.smape == pytest.approx((200 * 2 / 4 + 200 * 3 / 9) / 2)
    assert own.coverage == {95: 0.5, 80: 0.0}
    assert own.seconds == 0.75


def test_over_all_is_the_mean_of_the_series_that_have_a_number() -> None:
    panel = months([0, 1, 0, 1, 3], [5, 5, 5, 5, 6], [0, 2, 0, 2, np.nan], [0, 2, 0, 2, 8])
    found = evaluate(model(4), panel)
    assert (found.unscaled, found.unscored) == (("series=1",), ("series=2",))
    assert found.score("LSTM").mase == (2 + 3) / 2
    assert found.score("LSTM").mae == (2 + 1 + 6) / 3
    assert found.worst() == [3, 0]
    assert found.wins() == 2  # zero is as good on none, better on the last but one: 5 against 1


def test_series_without_a_scale_are_ranked_by_mae() -> None:
    found = evaluate(model(4), months([5, 5, 5, 5, 6]))
    assert (found.ranked_by, found.score("LSTM").mase, [s.name for s in found.scores]) == ("mae", None, ["LSTM", "zero"])


def test_refitting_sees_the_past_of_each_origin_and_may_go_back_into_what_was_seen() -> None:
    seen: list[list[int]] = []

    def refit(panel: Panel) -> Fake:
        seen.append(panel.history.tolist())
        assert all(np.isnan(panel.values[panel.rows(s)][panel.history[s] :]).all() for s in range(len(panel)))
        return model(0)

    found = evaluate(model(20), months(walk(20), walk(8)), origins=3, refit=refit)
    assert seen == [[11], [14, 2], [17, 5]]
    assert found.refitted and found.to_dict()["held_out"]["origins"] == 3


def test_a_series_that_was_not_in_training_is_forecast_from_its_window_on() -> None:
    found = evaluate(model(0, window=7), months(walk(12), walk(5)))
    assert found.histories.T.tolist() == [[7, 10], [-1, 2]]


def test_covariates_known_ahead_have_to_reach_over_the_whole_forecast() -> None:
    panel = months(walk(11))
    price = Covariate("price", "future", np.arange(11.0))
    fake = model(6)
    evaluate(fake, replace(panel, covariates=(price,)))
    assert [int(p.history[0]) for p in fake.shown] == [6]
    assert fake.shown[0].covariate("price").values.tolist() == price.values.tolist()
    with pytest.raises(DataError) as caught:
        evaluate(model(9), replace(panel, covariates=(price,)))
    assert str(caught.value) == (
        "column 'value': the covariates known ahead do not reach over one forecast of what the model has not seen\n"
        "  got       rows up to 2001-11-01\n"
        "  expected  3 months behind what the model has seen\n"
        "  hint      give a table that goes further, or hold out more"
    )


def test_what_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        evaluate(model(6), months(walk(6), walk(3)))
    assert str(caught.value) == (
        "column 'value': there is nothing to evaluate on: the model has seen every row\n"
        "  got       rows up to 2001-06-01\n"
        "  expected  rows after that\n"
        "  hint      fit with --holdout, or evaluate on a table that goes further"
    )
    with pytest.raises(DataError) as caught:
        evaluate(model(6), months([*walk(6), np.nan, np.nan]))
    assert str(caught.value) == (
        "column 'value': none of the held-out values is known\n"
        "  got       2 months of missing values\n"
        "  expected  at least one value to compare a forecast with\n"
        "  hint      give a table that goes further, or hold out more"
    )
    with pytest.raises(ArgumentError) as caught:
        evaluate(model(6), months(walk(13)), origins=3)
    assert str(caught.value) == (
        "evaluate: there are fewer origins than asked for\n"
        "  got       2 in what the model has not seen, 3 months apart\n"
        "  expected  3\n"
        "  hint      take --origins 2, fit with a longer --holdout, or fit anew at each origin with --refit"
    )
    with pytest.raises(ArgumentError) as caught:
        evaluate(model(6), months(walk(13)), spacing=0)
    assert str(caught.value) == (
        "evaluate: spacing must be above zero\n"
        "  got       spacing=0\n"
        "  expected  a number > 0\n"
        "  hint      leave spacing out to take its default"
    )


def test_a_forecaster_that_is_not_finite_is_left_out_and_the_model_may_not_be() -> None:
    def broken(past: np.ndarray, horizon: int) -> np.ndarray:
        return np.full(horizon, np.inf)

    found = evaluate(Fake({"LSTM": carried, "AR": broken}, 6), months(walk(9)))
    assert found.left_out == {"AR": "its forecast is not finite"} and list(found.forecasts) == ["LSTM"]
    with pytest.raises(DataError, match="LSTM has no forecast to score: its forecast is not finite"):
        evaluate(Fake({"LSTM": broken}, 6), months(walk(9)))


up = [1.0, 2, 1, 2, 1, 2, 3, 3, 3]  # 2 is carried: errors of 1; zero has errors of 3


@pytest.mark.parametrize(
    ("rules", "best", "said"),
    [
        (
            {"LSTM": carried, "zero": zero},
            "LSTM",
            "LSTM has a smaller error than every baseline: MASE 1.000, 67% smaller than zero, the best of them.",
        ),
        (
            {"LSTM": zero, "naive": carried},
            "naive",
            "LSTM LOSES to naive: the error of naive is 67% smaller. "
            "--use best serves what won on validation, naive: MASE 1.000 here.",
        ),
        (
            {"LSTM": zero, "seasonal naive": carried},
            "LSTM",
            "LSTM LOSES to seasonal naive: the error of seasonal naive is 67% smaller. "
            '--use best (LSTM won on validation) is no better here. --use "seasonal naive" serves seasonal naive.',
        ),
        (
            {"LSTM": carried, "naive": carried},
            "",
            "LSTM is no better than naive: MASE 1.000 both. --use naive serves naive.",
        ),
        ({"LSTM": carried}, "", "LSTM: MASE 1.000. There is no baseline to compare it with."),
    ],
)
def test_the_verdict_names_what_to_use(rules: dict, best: str, said: str) -> None:
    assert evaluate(Fake(rules, 6, best=best), months(up)).verdict() == said


def test_the_verdict_on_many_series_counts_them() -> None:
    found = evaluate(model(6), months(up, [2.0, 1, 2, 1, 2, 1, 0, 0, 0], up))
    assert found.verdict() == (
        "LSTM has a smaller error than every baseline: MASE 1.000, 50% smaller than zero, the best of them. "
        "Its error is the smallest on 2 of 3 series."
    )


def test_results_are_plain_numbers_without_nan() -> None:
    found = evaluate(model(4, best="zero"), months([0, 1, 0, 1, 3], [5, 5, 5, 5, 6]))
    plain = found.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["held_out"] == {"first": "2001-05-01", "last": "2001-05-01", "steps": 2, "known": 2, "origins": 1}
    assert plain["scores"][0]["coverage"] == {"95": 1.0, "80": 0.5}
    assert [w["series"] for w in plain["worst"]] == ["series=0"]
    assert plain["without_scale"] == ["series=1"]


def test_the_frame_has_a_row_for_each_series_and_forecaster() -> None:
    frame = evaluate(model(4), months([0, 1, 0, 1, 3], [5, 5, 5, 5, 6])).frame()
    assert frame.columns[:3] == ["series", "forecaster", "mase"]
    assert frame.select("series", "forecaster").rows() == [("0", "LSTM"), ("0", "zero"), ("1", "LSTM"), ("1", "zero")]
    assert frame["mase"].to_list() == [2.0, 3.0, None, None]


def test_progress_counts_origins() -> None:
    told: list[Progress] = []
    evaluate(model(6), months(walk(11)), on_progress=told.append)
    assert told == [Progress(0, 2, "LSTM and baselines"), Progress(1, 2, "LSTM and baselines")]
