"""The recursive decoder: paths are drawn from what the network says step by step, and a stream carries its states.

Legend: N windows, W steps of a window, P paths, K steps of the horizon.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.tasks import drawn

from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.runtime import Network, recursive
from openlstm.runtime.model import Model, build
from openlstm.runtime.recursive import Draws, Scaled
from openlstm.runtime.stream import CarriedStream
from openlstm.runtime.window import rows

NAN = float("nan")


def model(kind: str, **options: object) -> Model:
    return drawn.model(drawn.header(kind, **options))  # type: ignore[arg-type]


def counts(n: int, seed: int = 0, missing: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < missing, NAN, rng.poisson(5, n))


@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_a_path_is_what_the_network_says_of_the_steps_before_it(kind: str) -> None:
    """Written into the series as if it had happened, a path meets the same distributions, and so the same draws."""
    own = model(kind, members=1)
    series, panel = own.header.series, drawn.panel(own.header)
    table, member = rows(series, panel), own.members()[0]
    at, K = table.begins + panel.history, series.horizon
    seen = recursive.sequence(series, table, at, 1)
    scale, marks = Scaled(seen.anchor, seen.spread), recursive.mark(seen.x)
    draws = Draws(recursive.generators(own.header, 0, marks), 1, K)
    path = member.follow(member.step(seen.x, seen.codes, seen.spread), table, at, scale, draws)[:, 0]  # [N, K]
    happened = table.values.copy()
    happened[at[:, None] + np.arange(K)] = path
    whole = recursive.sequence(series, table._replace(values=happened), at, K)
    for n, rng in enumerate(recursive.generators(own.header, 0, marks)):
        for k in range(K):
            T = series.window + k + 1
            given = member.step(whole.x[n : n + 1, :T], whole.codes[n : n + 1, :T], whole.spread[n : n + 1]).given
            value = recursive.draw(kind, given[0], rng, 1)[0]
            value = value if kind == "negative binomial" else whole.anchor[n] + whole.spread[n] * value
            assert value == pytest.approx(path[n, k], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_training_reads_the_window_as_prediction_does(kind: str) -> None:
    own = model(kind)
    series, panel = own.header.series, drawn.panel(own.header, (60, 50))
    table, at = rows(series, panel), np.array([60, 62])
    short, long = (recursive.sequence(series, table, at, ahead) for ahead in (1, series.horizon))
    assert (short.x == long.x[:, : series.window + 1]).all()
    assert (short.codes == long.codes[:, : series.window + 1]).all()
    assert (long.x[:, 0, 0] == 0).all() and (long.x[:, 0, 1] == 1).all()  # the first step reads no value


def test_columns_of_the_past_are_those_of_the_step_before_and_unknown_from_the_second_step_on() -> None:
    own = model("normal")
    series, panel = own.header.series, drawn.panel(own.header, (40, 30), missing=0)
    table = rows(series, panel)
    at = table.begins + panel.history
    x = recursive.sequence(series, table, at, 4)
    rain, mark = 4 + 4 + 1, 4 + 4 + 2  # behind the values, the calendar, the price
    assert x.x[0, 1:11, rain].tolist() == panel.covariate("rain").values[30:40].astype(np.float32).tolist()
    assert x.x[0, :, mark].tolist() == [1] + [0] * 10 + [1] * 3
    assert x.codes[0, 1:11, 1].tolist() == (panel.covariate("sky").values[30:40] + 1).tolist()
    assert x.codes[0, 11:, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_the_forecast_is_the_quantiles_of_the_paths(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = model(kind)
    panel = drawn.panel(own.header)
    paths = own.paths(panel, 12)
    assert paths.shape == (4, 12, 7)
    expected = np.quantile(paths, own.levels, axis=1).transpose(1, 2, 0)
    np.testing.assert_array_equal(own.predict(panel).values, expected)
    assert (own.paths(panel, 12) == paths).all()
    assert not (paths[:, :6] == paths[:, 6:]).all(axis=(1, 2)).any()  # members draw for themselves
    monkeypatch.setattr(recursive, "ROWS", 13)
    assert (own.paths(panel, 12) == paths).all()


def test_counts_are_whole_and_above_zero() -> None:
    own = model("negative binomial")
    paths = own.paths(drawn.panel(own.header), 50)
    assert (paths >= 0).all()
    assert (paths == np.rint(paths)).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_another_seed_draws_other_paths(seed: int) -> None:
    own = model("normal")
    training = own.header.training.changed(seed=seed + 5)
    other = replace(own, header=own.header.changed(training=training))
    panel = drawn.panel(own.header)
    assert not (other.paths(panel, 5) == own.paths(panel, 5)).any()


@pytest.mark.parametrize(("value", "got"), [(-1.0, "-1"), (2.5, "2.5"), (1e17, "1e+17")])
def test_what_is_no_count_is_refused(value: float, got: str) -> None:
    own = model("negative binomial", features=False)
    values = [np.arange(20.0), np.append(np.arange(19.0), value)]
    panel = Panel.of(values, "2001-01-01", drawn.DAY, keys=[("a",), ("b",)], ids=("shop",))
    with pytest.raises(DataError) as e:
        own.predict(panel)
    assert str(e.value) == (
        "series shop=b: is not a count, and the distribution is that of counts\n"
        f"  got       {got} at 2001-01-20\n"
        "  expected  whole numbers of at least 0\n"
        "  hint      Forecaster(distribution='student-t') takes any numbers"
    )


def test_paths_are_those_of_a_recursive_model_and_a_whole_number() -> None:
    direct = drawn.model(drawn.header("direct", features=False))
    with pytest.raises(ArgumentError) as e:
        direct.paths(np.ones(30), 5, start="2001-01-01")
    assert str(e.value) == (
        "Model.paths: only a recursive model draws paths\n"
        "  got       a direct model\n"
        "  expected  a recursive model\n"
        "  hint      fit with decoder='recursive'"
    )
    with pytest.raises(ArgumentError, match="so many paths cannot be drawn"):
        model("normal", features=False).paths(np.ones(30), 0, start="2001-01-01")


# ---- streams


def stream_of(own: Model, values: np.ndarray) -> CarriedStream:
    stream = own.stream(values, start="2001-01-01")
    assert isinstance(stream, CarriedStream)
    return stream


@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_a_stream_begins_with_the_forecast_of_the_model(kind: str) -> None:
    own, values = model(kind, features=False), counts(23)
    expected = own.predict(values, start="2001-01-01")
    stream = stream_of(own, values)
    for horizon in (1, 3, 7):
        found = stream.predict(horizon)
        assert found is not None
        assert (found.values == expected.values[:, :horizon]).all()
        assert (found.times == expected.times[:, :horizon]).all()
    pushed = stream_of(own, values[:-1][-9:])  # one value short of a window
    assert pushed.predict() is None
    assert pushed.push(values[-1]) is not None


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_a_stream_is_the_network_run_over_its_values(kind: str, missing: float) -> None:
    """Pushed one by one, values give the bits of one run over them all, in the unit of the warm-up."""
    own, warm, later = model(kind, features=False), counts(24, missing=missing), counts(40, 1, missing)
    stream = stream_of(own, warm)
    panel = Panel.of([np.append(warm, later)], "2001-01-01", drawn.DAY)
    table = rows(own.header.series, panel)
    at = table.begins + len(warm)
    for n in range(len(later)):
        stream.push(later[n])
        seen = recursive.sequence(own.header.series, table, at, n + 2)
        for member, found in zip(own.members(), stream.distributions, strict=True):
            given = member.step(seen.x, seen.codes, seen.spread).given[0]
            assert (found == given).all()


def test_a_push_is_one_step_of_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    own = model("normal", features=False)
    stream, ran, run = stream_of(own, counts(30)), [], Network.run

    def counted(self: Network, x: np.ndarray, *args: object, **rest: object) -> object:
        ran.append(x.shape[:2])
        return run(self, x, *args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "run", counted)
    for value in counts(5, 3):
        ran.clear()
        found = stream.push(value)
        assert ran == [(1, 1)] * 2
        assert found is not None and found.values.shape == (1, 1, 4)
    ran.clear()
    found = stream.push(3.0, horizon=4)
    assert found is not None and found.values.shape == (1, 4, 4)
    assert ran == [(1, 1)] * 2 + [(1, 6)] * 6  # three more steps of the paths of each member


def test_each_push_draws_anew() -> None:
    """A network of zeros says the same after every value; what is drawn from it differs."""
    head = drawn.header("normal", features=False)
    still = build(head, {n: np.zeros(shape, np.float32) for n, (_, shape) in head.tensors().items()})
    stream = stream_of(still, counts(15))
    found = [stream.push(4.0) for _ in range(3)]
    assert len({one.values.tobytes() for one in found if one is not None}) == 3


def test_a_stream_says_when_and_goes_on_where_it_was_after_a_wrong_value() -> None:
    own = model("negative binomial", features=False)
    stream, other = stream_of(own, counts(15)), stream_of(own, counts(15))
    for wrong in (-1.0, 0.5, 1e101, float("inf")):
        with pytest.raises(DataError):
            stream.push(wrong)
    a, b = stream.push(4.0, horizon=7), other.push(4.0, horizon=7)
    assert a is not None and b is not None
    assert (a.values == b.values).all()
    assert str(a.times[0, 0])[:10] == "2001-01-17"
    with pytest.raises(ArgumentError) as e:
        stream.push(1.0, horizon=8)
    assert str(e.value) == (
        "Stream.push: forecasts no further than its model\n"
        "  got       horizon=8\n"
        "  expected  1 to 7\n"
        "  hint      fit a model of a longer horizon"
    )


def test_a_stream_whose_first_window_is_empty_refuses_it_and_takes_the_next_value() -> None:
    stream = stream_of(model("normal", features=False), np.full(9, NAN))
    with pytest.raises(DataError, match="no known value among the last 10"):
        stream.push(NAN)
    assert stream.push(1.0) is not None
