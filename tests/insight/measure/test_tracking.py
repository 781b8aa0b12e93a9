"""What a unit tracks, against numbers worked out in one go, planted units, and chance."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError, ShapeError
from openlstm.insight.capture import capture_layers
from openlstm.insight.measure.columns import concept, detectors, iou, spanning, spans
from openlstm.insight.measure.tracking import Values, series, track, tracking

T, B, H = 61, 4, 5


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def switch(seed: int = 0, steps: int = T, rows: int = B) -> np.ndarray:
    """Runs of 0 and 1 of random length, [T, B]."""
    flips = np.random.default_rng(seed).random((steps, rows)) < 0.15
    return (np.cumsum(flips, 0) % 2).astype(float)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, T])
def test_correlations_in_chunks_are_those_of_all_real_steps(chunk: int, ragged: bool) -> None:
    values = 1000 + noise(T, B, H)  # a mean that would eat the digits of a careless sum
    columns = {"a": noise(T, B, seed=1) + values[..., 2], "b": switch()}
    ends = np.array([T, 40, 13, T]) if ragged else np.full(B, T)
    real = np.arange(T)[:, None] < ends

    def chunks() -> Any:
        return ((t, values[t : t + chunk]) for t in range(0, T, chunk))

    found = track(Values(chunks, values.shape, real), columns, lags=())
    for k, name in enumerate(found.columns[:2]):
        wanted = [np.corrcoef(values[..., j][real], columns[name][real])[0, 1] for j in range(H)]
        np.testing.assert_allclose(found.r[:, k], wanted, atol=2e-5)
    assert found.columns == ("a", "b", "step") and found.given == ("a", "b")
    assert found.of("a").unit == 2 and found.best[0].column == "a"
    whole = track(Values.of(values, real=real), columns, lags=())
    np.testing.assert_allclose(found.r, whole.r, atol=1e-5)
    np.testing.assert_allclose([u.chance for u in found.best], [u.chance for u in whole.best], atol=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("state", ["h", "c"])
def test_a_planted_unit_is_found_with_all_its_scores(sign: float, state: str) -> None:
    on = switch()
    values = 0.05 * noise(T, B, H)
    values[..., 3] += sign * (0.9 * on if state == "h" else 40 * on)  # a cell state has no bound
    unit = track(Values.of(values, state=state), {"alarm": on}, lags=()).of("alarm")
    assert unit.unit == 3 and unit.r * sign > 0.98 and unit.iou == 1 and unit.spans == 1 and unit.above_chance


def test_the_score_of_an_overlap_is_that_of_masks_at_the_quantile() -> None:
    rng = np.random.default_rng(3)
    column = rng.normal(size=(T, B))
    values = np.tanh(column[..., None] + rng.normal(size=(T, B, H)))
    found = track(values, columns={"load": column}, lags=()).of("load")
    on = concept(column, np.ones((T, B), bool))
    assert abs(on.mean() - 0.2) < 0.01
    s = values[..., found.unit]
    np.testing.assert_allclose(found.iou, iou(s >= np.sort(s, None)[-int(on.sum())], on), atol=0.02)


def test_noise_is_not_better_than_chance_and_chance_knows_of_slow_curves() -> None:
    slow = np.cumsum(noise(400, 2, 8), 0)  # random walks: everything seems to track everything
    walk = np.cumsum(noise(400, 2, seed=5), 0)
    found = track(slow, columns={"walk": walk}, lags=())
    assert abs(found.of("walk").r) > 0.4 and not found.of("walk").above_chance
    white = track(noise(400, 2, 8), columns={"white": noise(400, 2, seed=6)}, lags=())
    assert not white.of("white").above_chance
    assert "no unit tracks a column better than chance; the nearest is unit" in white.finding


def test_how_often_chance_is_passed_where_there_is_nothing() -> None:
    """One of 19 draws is the largest: one time in twenty a column of nothing passes."""
    passed = [
        track(noise(80, 2, 4, seed=k), columns={"x": noise(80, 2, seed=1000 + k)}, lags=()).of("x").above_chance
        for k in range(200)
    ]
    assert 2 <= sum(passed) <= 22


def test_detectors_are_what_a_loop_would_count() -> None:
    on, real = switch(2), np.ones((T, B), bool)
    load = noise(T, B)
    found = detectors({"on": on, "load": load}, real, lags=(1, 3))
    for b in range(B):
        since = count = 0
        for t in range(T):
            since = 0 if on[t, b] else since + 1
            count += int(on[t, b])
            first = since if on[: t + 1, b].any() else t + 1  # before the first it counts from the beginning
            assert found["steps since on"][t, b] == first
            assert found["count of on"][t, b] == count
            assert found["step"][t, b] == t
            assert found["load, 3 steps before"][t, b] == (load[t - 3, b] if t >= 3 else load.mean())
            np.testing.assert_allclose(found["mean of load over 3 steps"][t, b], load[max(t - 2, 0) : t + 1, b].mean())
    assert "steps since load" not in found and list(found)[:2] == ["on", "load"]


def test_backwards_before_is_the_other_way_and_rows_begin_at_their_end() -> None:
    on, ends = switch(4), np.array([T, 30, 2, 7])
    on[0], on[1] = 1, 0
    real = np.arange(T)[:, None] < ends
    found = detectors({"on": np.where(real, on, 0)}, real, lags=(1, 2), reverse=True)
    for b in range(B):
        alone = detectors({"on": on[: ends[b], b : b + 1][::-1]}, np.ones((ends[b], 1), bool), lags=(1, 2))
        for name, values in alone.items():
            if "before" not in name:
                np.testing.assert_allclose(found[name][: ends[b], b], values[::-1, 0], err_msg=f"{name} {b}")


def test_spans_are_runs_that_are_the_very_same() -> None:
    def bits(text: str) -> np.ndarray:
        return np.array([int(ch) for ch in text], bool)[:, None]

    assert spans(bits("0110011"), bits("0110011")) == 1
    assert spans(bits("0110111"), bits("0110011")) == pytest.approx(1 / 3)
    assert spans(bits("0111110"), bits("0110110")) == 0
    assert spans(bits("0000"), bits("0000")) == 0
    two = np.array([[1, 0], [0, 1], [0, 1]], bool)
    assert spans(two, two[:, ::-1]) == 0  # rows are not confused, nor joined


def test_a_brushed_span_gives_the_units_that_are_on_for_just_that_long() -> None:
    values = np.zeros((6, 2, 4))
    values[2:4, 1, 0] = 0.9
    values[1:4, 1, 1] = 0.9
    values[2:4, 0, 2] = 0.9
    values[2:6, 1, 3] = 0.9
    assert spanning(values, 1, 2, 4) == (0,)
    assert spanning(values, 1, 2, 6) == (3,)
    assert spanning(values, 0, 2, 4) == (2,)


def test_windows_are_where_a_unit_is_strongest_and_do_not_overlap() -> None:
    values = 0.01 * noise(T, B, H)
    values[[5, 40, 41], [1, 2, 2], 4] = [3.0, 2.0, 1.9]
    column = np.where(values[..., 4] > 1, 1.0, 0.0)
    found = track(values, columns={"peak": column}, lags=())
    mine = [w for w in found.windows if w.unit == 4]
    assert [(w.row, w.step) for w in mine[:2]] == [(1, 5), (2, 40)] and mine[0].value == 3
    assert (mine[0].begin, mine[0].end) == (0, 14)
    assert not (mine[2].row == 2 and abs(mine[2].step - 40) <= 8)


@pytest.mark.parametrize("cell", [cells.LSTM(), cells.FGR(), cells.GRU(), cells.VanillaRNN()], ids=repr)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_place_gives_what_its_trace_shows(cell: cells.Cell, reverse: bool) -> None:
    torch.manual_seed(0)
    kind: Any = openlstm.LSTM if cell.has_cell else openlstm.GRU
    layer = kind(2, H, cell=cell, bidirectional=True)
    x = torch.randn(T, B, 2)
    place = capture_layers(layer, x).places[int(reverse)]
    name = "c" if cell.has_cell else "h"
    values = openlstm.trace(layer, x)["0_reverse." + name if reverse else "0." + name].numpy()
    columns = {"x0": x[..., 0], "row": x[:, 0, 1]}
    got = tracking(place, columns)
    wanted = track(
        Values.of(values, reverse=reverse, name=place.name, state=name), {"x0": columns["x0"], "row": columns["row"]}
    )
    np.testing.assert_allclose(got.r, wanted.r, atol=1e-5)
    assert got.name == place.name and got.columns == wanted.columns and got.state == name
    np.testing.assert_array_equal(series(place, name, [3, 0]), values[..., [3, 0]])
    assert tracking(place).given == ("x0", "x1")


def test_a_layer_that_counts_is_found_out_and_told_what_to_do() -> None:
    """f = i = 1 and a candidate of 0.05: the cell is a counter of steps."""
    layer: Any = openlstm.LSTM(1, 2)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.bias_ih_l0.copy_(torch.tensor([50.0, 50, 50, 50, 0.05, 0, 0, 0]))
    found = tracking(capture_layers(layer, torch.randn(T, B, 1)).places[0])
    step = found.of("step")
    assert step.unit == 0 and step.r > 0.999 and step.iou > 0.9
    assert found.r[1].tolist() == [0] * len(found.columns)  # a unit that never moves tracks nothing


def test_advice_is_given_where_the_network_computes_a_column_by_itself() -> None:
    on = switch(7, 300)
    since = detectors({"alarm": on}, on >= 0, lags=(1,))["steps since alarm"]
    values = np.tanh(noise(300, B, H))
    values[..., 2] = since / 50
    found = track(Values.of(values, name="lstm.0", state="c"), {"alarm": on})
    assert found.finding.startswith("lstm.0: unit 2 tracks steps since alarm (r = 1.00, chance 0.")
    assert found.finding.endswith(
        "; the network computes it by itself: where it is known in time, it can be given as an input."
    )


@pytest.mark.parametrize("at_every_step", [True, False])
@pytest.mark.parametrize(
    ("column", "made", "said"),
    [
        ("y", lambda y: y, "y is the target"),
        ("y", lambda y: 7 - 2 * y, "y is the target"),
        ("late", lambda y: np.roll(y, 3, 0), "late is the target 3 steps before"),
        ("early", lambda y: np.roll(y, -1, 0), "early is the target 1 step later"),
    ],
)
def test_the_target_is_not_recommended_as_an_input(column: str, made: Any, said: str, at_every_step: bool) -> None:
    """Neither itself, nor moved, nor what is derived from it; a target at the end of the rows holds one number of each."""
    y = np.cumsum(noise(200, 12), 0)
    values = 0.1 * noise(200, 12, H)
    shown = made(y)
    values[..., 1] += sum(np.roll(shown, k, 0) for k in range(20)) / 20
    target = y if at_every_step else y[-1]
    found = track(values, columns={column: shown}, target=target)
    top = found.top
    assert top is not None and abs(top.r) > 0.8 and found.given == (column,)
    seen = at_every_step or column != "late"  # which is too late for the end of the row
    assert found.answer == (said if seen else "")
    assert found.finding.endswith(f"; {said}, what the network is trained to give.") == seen
    assert "input" not in found.finding or not seen
    assert found.to_dict()["answer"] == found.answer


def test_what_is_like_the_target_is_not_called_the_target() -> None:
    y = np.cumsum(noise(200, 12), 0)
    values = 0.01 * noise(200, 12, H)
    values[..., 1] += y
    for other in (np.abs(y), y + 0.2 * noise(200, 12, seed=3), np.cumsum(y, 0)):
        assert track(values, columns={"other": other}, target=y, lags=()).answer == ""
    few = noise(1, 4)
    assert track(noise(1, 4, H), columns={"few": few}, target=few, lags=()).answer == ""
    ends = np.array([200, 9, 77, 1, 200, 5, 60, 61, 62, 63, 100, 101])
    real = np.arange(200)[:, None] < ends
    last = y[ends - 1, np.arange(12)]
    assert track(Values.of(values, real=real), {"y": y}, target=last, lags=()).answer == "y is the target"
    assert track(values, columns={"y": y}, target=np.zeros(7), lags=()).answer == ""  # of some other shape


def test_columns_that_never_change_are_left_out_by_name() -> None:
    found = track(noise(T, B, H), columns={"still": np.ones((T, B)), "x": noise(T, B, seed=2)}, lags=())
    assert found.left_out == ("still",) and found.given == ("x",)
    with pytest.raises(ArgumentError) as error:
        found.of("still")
    assert str(error.value) == (
        "Tracking.of: there is no column 'still'\n  got       'still'\n  expected  x, step\n  hint      it never changes"
    )
    none = track(noise(1, B, H), columns={"still": np.ones((1, B))}, lags=())
    assert none.best == () and none.finding == "units: there is nothing to compare the units with: no column changes."
    assert json.loads(json.dumps(found.to_dict()))["left_out"] == ["still"]


def refused(kind: type[Exception], run: Any) -> str:
    with pytest.raises(kind) as error:
        run()
    return str(error.value)


def test_what_does_not_fit_is_said() -> None:
    place = capture_layers(openlstm.LSTM(1, H), torch.randn(T, B, 1)).places[0]
    assert refused(ShapeError, lambda: tracking(place, {"wind": np.zeros((B, T))})) == (
        "tracking: column 'wind' does not fit\n  got       wind: float64[4, 61]\n  expected  [61, 4] = [T, B], or [61] = [T]\n"
        "  hint      its axes are swapped: use .T"
    )
    bad = np.zeros((T, B))
    bad[3, 1] = np.nan
    assert refused(ArgumentError, lambda: tracking(place, {"wind": bad})) == (
        "tracking: column 'wind' holds nan at step 3, row 1\n  got       wind: float64[61, 4]\n  expected  finite numbers\n"
        "  hint      fill or drop what is missing first"
    )
    assert refused(ArgumentError, lambda: tracking(place, state="z")) == (
        "tracking: 0 has no 'z'\n  got       'z'\n  expected  i, f, g, o, c, h\n  hint      leave it out for the cell state"
    )
    assert refused(ArgumentError, lambda: series(place, "f", [H])) == (
        "series: 0.f has no unit 5\n  got       unit 5\n  expected  0 .. 4\n  hint      count from 0"
    )
