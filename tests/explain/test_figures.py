"""What the lecture says is what the cell does: every law of its sections, read off the numbers it draws."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.explain.lecture import facts, figure

from openlstm.explain import gates, gradients, learning, sentences, step
from openlstm.explain.charts import number
from openlstm.lab.tasks.latch import EARLY

SEEDS = range(10)


def series(name: str, panel: str) -> dict[str, list[float]]:
    """The curves in a panel of a figure, as they are drawn."""
    data = figure(name).data
    rows = zip(data["panel"], data["series"], data["value"], strict=True)
    out: dict[str, list[float]] = {}
    for here, key, value in rows:
        if here == panel:
            out.setdefault(key, []).append(value)
    return out


def test_wires_hold_the_gates_where_they_are_told() -> None:
    run = gates.on_wires([1.0, 0.0, 0.5], [0.0, 1.0, 0.25], [0.3, -0.2, 0.1], [1.0, 0.0, 0.75])
    assert run["i"].tolist() == [1.0, 0.0, 0.5]
    assert run["f"][:2].tolist() == [0.0, 1.0] and run["f"][2] == pytest.approx(0.25, rel=1e-15)
    assert run["o"][:2].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(run["g"], np.tanh([0.3, -0.2, 0.1]), rtol=1e-15)


def test_without_the_layer_order_is_lost_and_an_input_does_the_same_after_any_past() -> None:
    _, fact = gates.dropped_layer()
    assert fact["apart_without"] == 0.0 and fact["second_without"] == [0.25, 0.25]
    assert fact["apart"] > 0.5 and abs(fact["second"][0] - fact["second"][1]) > 0.3


def test_a_cell_grows_without_bounds_and_its_tanh_does_not() -> None:
    _, fact = gates.squashed()
    assert fact["c"] == pytest.approx(10 * math.tanh(0.8)) and 0.99 < fact["h"] < 1
    assert fact["h"] == pytest.approx(math.tanh(fact["c"]))
    assert fact["slope"] == pytest.approx(1 - math.tanh(fact["c"]) ** 2, abs=1e-12)


def test_a_forget_gate_closed_once_erases_and_a_little_closed_leaks_by_its_power() -> None:
    _, fact = gates.forget_gate()
    assert fact["after"] == 0.0 and fact["h_after"] == 0.0 and fact["before"] == fact["kept"]
    assert fact["kept"] == pytest.approx(math.tanh(1.0) + math.tanh(0.6))
    assert fact["leaky"] == pytest.approx(math.tanh(1.0) * 0.9**12 + math.tanh(0.6) * 0.9**7)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_trained_forget_gate_closes_where_a_sentence_begins_and_is_open_inside(seed: int) -> None:
    figures, fact = sentences.forgetting(seed)
    assert fact["at_first"] < 0.2 and fact["elsewhere"] > 0.8 and fact["strings"] > 500 and fact["right"] > 0.95
    data = figures["sentences"].data
    begins = [kind == sentences.FIRST for kind in data["kind"]]
    assert 4 <= sum(begins) and all(letter == "B" for letter, here in zip(data["letter"], begins, strict=True) if here)
    assert max(v for v, here in zip(data["value"], begins, strict=True) if here) < 0.2  # at every one that is drawn
    assert number(fact["at_first"]) in figures["sentences"].finding


def test_training_on_sentences_gets_better_and_has_the_form_of_what_is_shipped() -> None:
    begun, trained = sentences.train(0), sentences.train(30)
    shipped = load_file(sentences.WEIGHTS)
    x, *target = sentences.TASK.batch(50, 16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = [float(sentences.TASK.loss(model(x), *target)) for model in (begun, trained, sentences.trained())]
    assert losses[0] > losses[1] > losses[2]
    assert {k: v.shape for k, v in trained.state_dict().items()} == {k: v.shape for k, v in shipped.items()}


@pytest.mark.long
def test_training_on_sentences_again_learns_to_forget_at_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sentences.train()
    monkeypatch.setattr(sentences, "trained", lambda: model)
    _, fact = sentences.forgetting(0)
    assert fact["at_first"] < 0.3 and fact["elsewhere"] > 0.7 and fact["right"] > 0.95


@pytest.mark.parametrize("seed", [0, 3])
def test_the_cell_is_the_running_sum_of_what_enters(seed: int) -> None:
    figures, fact = gates.running_sum(seed)
    assert fact["difference"] < 1e-15
    data = figures["sum"].data
    bars = [v for panel, v in zip(data["panel"], data["value"], strict=True) if panel.startswith("what enters")]
    assert fact["last"] == pytest.approx(sum(bars)) and len(bars) == fact["bars"]


def test_a_closed_input_gate_lets_nothing_in_though_the_signal_goes_on() -> None:
    _, fact = gates.input_gate()
    assert fact["moved_closed"] == 0.0 and fact["end"] == fact["written"] != 0
    assert fact["moved_open"] > 0.1


def test_a_closed_output_gate_shows_nothing_and_the_cell_does_not_notice() -> None:
    _, fact = gates.output_gate()
    assert fact["h_closed"] == 0.0 and fact["c_difference"] == 0.0
    assert fact["h_open"] == pytest.approx(math.tanh(fact["c"])) and fact["c"] != 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_three_gates_are_sigmoids_of_sums_and_never_make_larger_what_they_multiply(seed: int) -> None:
    _, fact = step.same_form(seed)
    assert fact["difference"] < 1e-15 and fact["larger"] <= 0
    assert all(0 < low < high < 1 for low, high in fact["shares"].values())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_step_with_numbers_can_be_followed_with_a_pocket_calculator(seed: int) -> None:
    _, fact = step.one_step(seed)

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    z = {r["gate"]: r["w"] * fact["x"] + r["u"] * fact["h"] + r["b"] for r in fact["rows"]}
    c = sigmoid(z["f"]) * fact["c"] + sigmoid(z["i"]) * math.tanh(z["g"])
    assert [r["gate"] for r in fact["rows"]] == ["f", "i", "g", "o"]
    assert fact["c_new"] == pytest.approx(c) and fact["h_new"] == pytest.approx(sigmoid(z["o"]) * math.tanh(c))
    assert all(round(r[k], 2) == r[k] for r in fact["rows"] for k in "wub")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_stays_and_what_enters_add_up_to_the_cell(seed: int) -> None:
    figures, fact = step.old_and_new(seed)
    assert fact["difference"] < 1e-15
    data = figures["parts"].data
    parts = np.array([v for panel, v in zip(data["panel"], data["value"], strict=True) if panel == "the two parts of c"])
    cell = [v for panel, v in zip(data["panel"], data["value"], strict=True) if panel == "cell state c"]
    np.testing.assert_allclose(parts.reshape(2, -1).sum(0), cell, rtol=0, atol=1e-15)


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


@pytest.mark.parametrize("seed", [0, 1])
def test_a_gradient_passes_the_bare_highway_as_it_is_and_not_the_layer(seed: int) -> None:
    _, fact = gradients.highway(seed)
    assert fact["road"] == 1.0 and fact["rnn"] < 1e-9


def test_the_highway_brings_back_the_power_of_f() -> None:
    _, fact = gradients.leaking(0)
    for f, value in fact["at_end"].items():
        assert value == pytest.approx(f ** fact["T"], rel=1e-9)
    assert fact["at_end"][1.0] == 1.0  # exactly
    assert fact["half"][1.0] == math.inf and fact["half"][0.9] == pytest.approx(math.log(0.5) / math.log(0.9))
    assert fact["rnn"] < 1e-12


@pytest.mark.slow
def test_trained_alike_an_lstm_reaches_farther_than_a_vanilla_rnn() -> None:
    fact = facts("long", "lags")
    reaches_farther(fact)
    scores = {name: {lag: np.mean(column) for lag, column in row.items()} for name, row in fact["scores"].items()}
    plain, open_, set_ = scores.values()
    assert plain[20] < 0.6 < 0.9 < open_[20] and open_[40] < 0.7 < 0.9 < set_[40]
    data = figure("lags").data
    drawn = list(zip(data["series"], data["lag"], data["value"], strict=True))
    assert drawn == [(name, lag, v) for name, row in fact["scores"].items() for lag, column in row.items() for v in column]


def reaches_farther(fact: dict) -> None:
    rnn, lstm, chrono = fact["reach"].values()
    assert 0 < rnn < lstm < chrono == fact["longest"]


@pytest.mark.long
def test_trained_alike_an_lstm_reaches_as_far_as_the_lecture_says() -> None:
    _, fact = learning.lags.__wrapped__(0)
    reaches_farther(fact)
    assert fact["longest"] == learning.LAGS[-1] == 100


def test_default_gates_block_a_far_lag_and_gates_set_for_it_do_not() -> None:
    _, fact = gradients.no_guarantee(0)
    reach = list(fact["reach"].values())  # default, forget bias 1, forget bias 3, chrono
    assert reach[0] is not None and reach[1] is not None and reach[0] < reach[1] < fact["lag"]
    assert reach[3] is None


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_of_an_lstm_grows_by_more_than_a_thousand(seed: int) -> None:
    """On the LSTM's own curve; the figure holds no other network."""
    figures, fact = gradients.no_guarantee(seed)
    shown = figures["exploding"]
    assert all(name.startswith("recurrent weights") for name in shown.series)
    largest = shown.series[-1]
    curve = [v for name, v in zip(shown.data["series"], shown.data["value"], strict=True) if name == largest]
    assert curve[0] == 1.0 and max(curve) > 1000 and max(curve) == pytest.approx(fact["explode"][gradients.FACTORS[-1]])


@pytest.mark.slow
def test_one_unit_learns_to_write_and_to_keep_and_does_not_keep_where_nothing_needs_it() -> None:
    fact = facts("long", "learning")
    before, after, other = fact["before"], fact["after"], fact["other"]
    assert fact["solved"] and before.accuracy < 0.65 and other.accuracy > 0.95
    assert after.f_mark < 0.2 < 0.8 < after.i_mark  # start afresh
    assert after.i_after < 0.2 < 0.9 < after.f_after  # keep
    assert after.kept > 0.7 and before.kept < 0.3 and other.kept < 0.3


@pytest.mark.slow
def test_the_numbers_under_the_learnt_gates_are_those_of_the_curves() -> None:
    fact = facts("long", "learning")
    for name, one in (("learnt", fact["after"]), ("free", fact["other"])):
        f, i = (list(series(name, panel).values()) for panel in ("forget gate f", "input gate i"))
        for told, (k, column) in ((one, (1, f)), (fact["before"], (0, f))):
            assert told.f_mark == pytest.approx(column[k][EARLY])
            assert told.f_after == pytest.approx(np.mean(column[k][EARLY + 1 :]), rel=1e-6)
            assert told.kept == pytest.approx(np.prod(column[k][EARLY + 1 :]), rel=1e-5)
        assert one.i_mark == pytest.approx(i[1][EARLY]) and one.i_after == pytest.approx(np.mean(i[1][EARLY + 1 :]), rel=1e-6)
        assert all(number(v) in figure(name).finding for v in (one.f_after, one.i_after, one.kept))
