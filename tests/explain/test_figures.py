"""What the lecture says is what the cell does: every law of its sections, read off the numbers it draws."""

import math

import numpy as np
import pytest

from openlstm.explain import gates, gradients, learning
from openlstm.explain.charts import number


def test_wires_hold_the_gates_where_they_are_told() -> None:
    run = gates.on_wires([1.0, 0.0, 0.5], [0.0, 1.0, 0.25], [0.3, -0.2, 0.1], [1.0, 0.0, 0.75])
    assert run["i"].tolist() == [1.0, 0.0, 0.5]
    assert run["f"][:2].tolist() == [0.0, 1.0] and run["f"][2] == pytest.approx(0.25, rel=1e-15)
    assert run["o"][:2].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(run["g"], np.tanh([0.3, -0.2, 0.1]), rtol=1e-15)


def test_a_forget_gate_closed_once_erases_and_a_little_closed_leaks_by_its_power() -> None:
    _, fact = gates.forget_gate()
    assert fact["after"] == 0.0 and fact["h_after"] == 0.0 and fact["before"] == fact["kept"]
    assert fact["kept"] == pytest.approx(math.tanh(1.0) + math.tanh(0.6))
    assert fact["leaky"] == pytest.approx(math.tanh(1.0) * 0.9**12 + math.tanh(0.6) * 0.9**7)


def test_a_closed_input_gate_lets_nothing_in_though_the_signal_goes_on() -> None:
    _, fact = gates.input_gate()
    assert fact["moved_closed"] == 0.0 and fact["end"] == fact["written"] != 0
    assert fact["moved_open"] > 0.1


def test_a_closed_output_gate_shows_nothing_and_the_cell_does_not_notice() -> None:
    _, fact = gates.output_gate()
    assert fact["h_closed"] == 0.0 and fact["c_difference"] == 0.0
    assert fact["h_open"] == pytest.approx(math.tanh(fact["c"])) and fact["c"] != 0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_step_with_numbers_can_be_followed_with_a_pocket_calculator(seed: int) -> None:
    step = gates.one_step(seed)

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    z = {r["gate"]: r["w"] * step["x"] + r["u"] * step["h"] + r["b"] for r in step["rows"]}
    c = sigmoid(z["f"]) * step["c"] + sigmoid(z["i"]) * math.tanh(z["g"])
    assert [r["gate"] for r in step["rows"]] == ["i", "f", "g", "o"]
    assert step["c_new"] == pytest.approx(c) and step["h_new"] == pytest.approx(sigmoid(z["o"]) * math.tanh(c))
    assert all(round(r[k], 2) == r[k] for r in step["rows"] for k in "wub")


def test_kept_for_ever_is_kept_to_the_bit_and_afresh_is_afresh_to_the_bit() -> None:
    _, fact = gates.for_ever(0)
    assert fact["same"] and fact["steps"] >= 10_000
    assert fact["gradient"] == 1.0 and fact["apart"] == 0.0


def test_the_product_of_jacobians_is_what_backpropagation_computes_and_it_vanishes() -> None:
    _, fact = gradients.vanishing(0)
    assert fact["difference"] < 1e-14
    assert fact["at20"] < 1e-3 and 0 < fact["per_step"] < 1
    assert fact["at20"] < fact["orthogonal20"] < 1
    sizes = [row["product"] for row in fact["rows"]]
    assert sizes[0] == pytest.approx(fact["rows"][0]["step"]) and sizes == sorted(sizes, reverse=True)


def test_the_highway_brings_back_the_power_of_f() -> None:
    _, fact = gradients.highway(0)
    for f, value in fact["at_end"].items():
        assert value == pytest.approx(f ** fact["T"], rel=1e-9)
    assert fact["at_end"][1.0] == 1.0  # exactly
    assert fact["half"][1.0] == math.inf and fact["half"][0.9] == pytest.approx(math.log(0.5) / math.log(0.9))
    assert fact["rnn"] < 1e-12


def test_default_gates_block_a_far_lag_gates_set_for_it_do_not_and_large_weights_explode() -> None:
    _, fact = gradients.no_guarantee(0)
    reach = list(fact["reach"].values())  # default, forget bias 1, forget bias 3, chrono
    assert reach[0] is not None and reach[1] is not None and reach[0] < reach[1] < fact["lag"]
    assert reach[3] is None
    assert all(value > 1 for value in fact["explode"].values())
    assert max(fact["explode"].values()) > 100


@pytest.mark.slow
def test_one_unit_learns_to_write_and_to_keep_and_does_not_keep_where_nothing_needs_it() -> None:
    figures, fact = learning.learning(0)
    before, after, other = fact["before"], fact["after"], fact["other"]
    assert fact["solved"] and before.accuracy < 0.65 and other.accuracy > 0.95
    assert after.f_mark < 0.2 < 0.8 < after.i_mark  # start afresh
    assert after.i_after < 0.2 < 0.9 < after.f_after  # keep
    assert after.kept > 0.8 and before.kept < 0.3 and other.kept < 0.3
    assert f"{after.accuracy:.1%}" in figures[0].finding and number(after.kept) in figures[0].finding
