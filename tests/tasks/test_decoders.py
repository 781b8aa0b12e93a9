"""`Forecaster` with the recursive and the simulating decoder: learns, keeps to the order of time, tells what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.tasks import drawn

import openlstm
from openlstm import Forecaster
from openlstm.data.panel import Covariate, Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.tasks.examples import Examples, table_of
from openlstm.tasks.forecast import like
from openlstm.tasks.groups import held_out
from openlstm.tasks.simulation import evaluate

WEEK = np.array([0.0, 1, 3, 2, 1, -2, -3])
SMALL = {"members": 1, "hidden_size": 16, "baselines": False}
TINY = {**SMALL, "hidden_size": 3, "steps": 20}


def sales(counted: bool = False, series: int = 4) -> Panel:
    """Each series its own level and the shape of a week, with noise."""
    rng, t = np.random.default_rng(0), np.arange(180)
    level = [2.0 * (k + 1) for k in range(series)]
    if counted:
        values = [rng.poisson(10 * size * np.exp(0.3 * WEEK[t % 7])).astype(float) for size in level]
    else:
        values = [10 * size + size * WEEK[t % 7] + 0.3 * size * rng.standard_normal(180) for size in level]
    values[0][40:43] = np.nan
    return Panel.of(values, "2001-01-01", drawn.DAY, keys=[(f"s{k}",) for k in range(series)], ids=("shop",))


def basins(series: int = 5, steps: int = 400) -> Panel:
    """Each basin lets out a share of its water on each day: the flow remembers the rain."""
    rng = np.random.default_rng(0)
    rain, keep = rng.gamma(0.3, 3, (series, steps)), np.linspace(0.6, 0.8, series)
    flow, water = np.zeros((series, steps)), np.zeros(series)
    for t in range(steps):
        water = keep * water + rain[:, t]
        flow[:, t] = (1 - keep) * water
    keys = [(f"b{k}", "north" if k < 3 else "south") for k in range(series)]
    panel = Panel.of(list(flow), "2001-01-01", drawn.DAY, keys=keys, ids=("basin", "region"))
    return replace(panel, covariates=(Covariate("rain", "future", rain.ravel()), Covariate("keep", "static", keep)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_the_recursive_decoder_learns(kind: str, tmp_path: Path) -> None:
    panel = sales(kind == "negative binomial")
    forecaster = Forecaster(7, decoder="recursive", distribution=kind, paths=100, steps=150, **SMALL)
    forecaster.fit(panel, holdout=28, quiet=True)
    values = panel.values.reshape(4, 180)
    known = panel.at(panel.history - 7)
    naive = np.abs(values[:, -7:] - values[:, [172]]).mean(axis=1)
    found = forecaster.predict(known)
    assert (np.abs(found.median - values[:, -7:]).mean(axis=1) < 0.7 * naive).all()
    score = forecaster.evaluate().score("LSTM")
    assert 0.6 <= (score.coverage[80] or 0) <= 1.0
    forecaster.save(tmp_path / "m.safetensors")
    again = openlstm.load(tmp_path / "m.safetensors")
    assert (again.predict(known).values == found.values).all()
    decoder = again.header.decoder
    assert (decoder.kind, decoder.distribution, decoder.paths) == ("recursive", kind, 100)
    same = like(again.header).get_params()
    assert {n: same[n] for n in ("decoder", "distribution", "paths")} == {
        "decoder": "recursive",
        "distribution": kind,
        "paths": 100,
    }


@pytest.mark.slow
def test_simulate_learns_what_remembers_and_tells_series_it_has_not_seen(tmp_path: Path) -> None:
    panel = basins()
    forecaster = Forecaster(decoder="simulate", window=60, steps=150, **SMALL).fit(panel, holdout=100, quiet=True)
    found = forecaster.efficiency()
    assert found.steps.tolist() == [100] * 5
    assert (found.nse > 0.6).all()
    assert (found.kge > 0.4).all()
    forecaster.save(tmp_path / "m.safetensors")
    again = openlstm.load(tmp_path / "m.safetensors")
    assert (again.simulate(panel).values == forecaster.simulate().values).all()
    assert again.header.decoder.warmup == 30 == like(again.header).warmup  # type: ignore[attr-defined]
    assert again.header.forecasters[0].enough == (True, True, True)
    late = np.concatenate([np.arange(o - 100, o) for o in panel.offsets[1:]])
    low, high = again.simulate(panel).values[late][:, [0, 2]].T
    assert 0.5 <= ((low <= panel.values[late]) & (panel.values[late] <= high)).mean() <= 0.98


@pytest.mark.slow
def test_a_group_that_is_held_out_is_scored_and_was_not_seen() -> None:
    panel = basins()
    forecaster = Forecaster(decoder="simulate", window=60, steps=100, **SMALL).fit(panel, groups="region", quiet=True)
    held = forecaster.held_out_
    assert held.tolist() in ([True] * 3 + [False] * 2, [False] * 3 + [True] * 2)
    found = forecaster.efficiency()
    assert found.steps.tolist() == [370 if h else 0 for h in held]  # behind the warm-up
    assert (found.nse[held] > 0).all()  # better than their mean, which the model does not know
    assert np.isnan(found.nse[~held]).all()
    told = found.to_dict()
    assert [one["steps"] for one in told["series"]] == found.steps.tolist()
    assert told["series"][int(np.argmin(held))]["nse"] is None
    assert told["median"]["nse"] == pytest.approx(float(np.nanmedian(found.nse)))


def other_after(panel: Panel, step: int) -> Panel:
    steps = np.arange(len(panel.values)) - np.repeat(panel.offsets[:-1], panel.lengths)
    return replace(panel, values=np.where(steps < step, panel.values, 9 * panel.values))


@pytest.mark.parametrize("kind", ["recursive", "simulate"])
def test_what_comes_after_the_cut_changes_nothing(kind: str) -> None:
    panel = basins(3, 120) if kind == "simulate" else sales(series=2)
    cut = int(panel.lengths[0]) - 20
    asked = {"decoder": kind, "horizon": 1 if kind == "simulate" else 5, "window": 30, **TINY}
    a, b = (Forecaster(**asked).fit(p, holdout=20, quiet=True) for p in (panel, other_after(panel, cut)))  # type: ignore[arg-type]
    assert a.header_ == b.header_
    assert all((a.tensors_[name] == b.tensors_[name]).all() for name in a.tensors_)


def test_validation_of_a_simulation_begins_where_the_training_ends() -> None:
    panel = basins(2, 100)
    head = drawn.header("simulate", features=False, window=10)
    examples = Examples(head, panel, np.array([20, 0]), np.ones(2))
    begin = int(examples.rows.begins[0])
    assert examples.train.tolist() == [0, 1]
    assert [o.tolist() for o in examples.origins] == [
        list(range(begin + 10, begin + 81)),
        list(range(int(examples.rows.begins[1]) + 10, int(examples.rows.begins[1]) + 101)),
    ]
    assert examples.validation.tolist() == list(range(begin + 87, begin + 101))  # the first target is the first step behind


def test_a_series_shorter_than_a_window_is_trained_on() -> None:
    panel = basins(3, 40).only(np.array([0, 1]))
    forecaster = Forecaster(decoder="simulate", window=60, **TINY).fit(panel, quiet=True)
    assert np.isfinite(forecaster.simulate().values).all()


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"decoder": "transformer"}, "unknown decoder 'transformer'"),
        ({"distribution": "normal"}, "has no such distribution"),
        ({"decoder": "recursive", "distribution": "gamma"}, "has no such distribution"),
        ({"warmup": 5}, "has no warm-up"),
        ({"decoder": "simulate", "horizon": 7}, "tells every step of a table, it has no horizon"),
        ({"decoder": "simulate", "window": 10, "warmup": 10}, "the warm-up is as long as the window"),
        ({"decoder": "simulate", "warmup": 0}, "warmup must be a whole number of at least 1"),
        ({"decoder": "recursive", "paths": 0}, "paths must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_told(asked: dict, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        Forecaster(**asked).fit(basins(2, 60), quiet=True)


def test_an_unknown_distribution_is_told_in_full() -> None:
    with pytest.raises(ArgumentError) as e:
        Forecaster(decoder="recursive", distribution="gamma").fit(sales(), quiet=True)
    assert str(e.value) == (
        "Forecaster: has no such distribution\n"
        "  got       distribution='gamma', decoder='recursive'\n"
        "  expected  normal, student-t, negative binomial, of the decoder 'recursive'\n"
        "  hint      decoder='recursive', distribution='student-t'"
    )


def test_a_simulation_needs_columns_of_the_same_step() -> None:
    with pytest.raises(ArgumentError, match="simulate has nothing to tell the target from"):
        Forecaster(decoder="simulate").fit(sales(), quiet=True)
    panel = basins(2, 60)
    past = replace(panel, covariates=tuple(replace(c, role="past") if c.name == "rain" else c for c in panel.covariates))
    with pytest.raises(ArgumentError) as e:
        Forecaster(decoder="simulate").fit(past, quiet=True)
    assert str(e.value) == (
        "Forecaster: simulate reads the columns of the same step\n"
        "  got       'rain' as a column of the past\n"
        "  expected  future and static columns\n"
        "  hint      give rain as one of the future columns"
    )


def test_counts_are_looked_at_before_the_training() -> None:
    with pytest.raises(DataError, match="series shop=s0: is not a count"):
        Forecaster(7, decoder="recursive", distribution="negative binomial").fit(sales(), quiet=True)
    head = drawn.header("negative binomial", features=False)
    assert len(table_of(head, sales(True)).begins) == 4


def test_a_model_that_has_seen_every_step_has_no_score() -> None:
    forecaster = Forecaster(decoder="simulate", window=20, **TINY).fit(basins(2, 60), quiet=True)
    with pytest.raises(DataError) as e:
        evaluate(forecaster.model_, basins(2, 60))
    assert str(e.value) == (
        "evaluate: no known step is left to score\n"
        "  got       60 steps at most\n"
        "  expected  steps that were held out, behind the 10 of the warm-up\n"
        "  hint      fit with holdout=..., or groups=..."
    )


def test_groups_are_held_out_whole_one_in_five_and_by_the_seed() -> None:
    panel = Panel.of([[1.0]] * 30, "2001-01-01", drawn.DAY, keys=[(str(k), str(k % 10)) for k in range(30)], ids=("a", "b"))
    held = [held_out(panel, "b", seed) for seed in range(5)]
    assert [int(h.sum()) for h in held] == [6] * 5
    assert all((h.reshape(3, 10) == h[:10]).all() for h in held)
    assert len({tuple(h) for h in held}) > 1
    assert (held_out(panel, "b", 3) == held[3]).all()
    assert held_out(panel, [k == 4 for k in range(30)], 0).nonzero()[0].tolist() == [4]
    assert not held_out(panel, None, 0).any()


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ("river", "fit: has no such column of groups\n  got       'river'\n  expected  basin, region, keep\n"),
        ([True] * 5, "fit: there is nothing to hold out and to train on\n  got       5 of 5 series\n"),
        ([True], "fit: groups does not fit the series\n  got       1 values\n  expected  5, one for each series\n"),
    ],
)
def test_groups_that_cannot_be_are_told(groups: object, text: str) -> None:
    with pytest.raises(ArgumentError) as e:
        held_out(basins(5, 5), groups, 0)  # type: ignore[arg-type]
    assert str(e.value).startswith(text)
