"""The networks in torch give what the runtime gives in numpy, for every decoder, cell and kind of input.

Legend: N windows, T steps, K steps of the horizon, Q quantiles, R parameters.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tests.tasks import drawn

from openlstm.runtime import recursive
from openlstm.runtime.model import Model
from openlstm.runtime.window import rows, windows
from openlstm.tasks.examples import batch, example_windows
from openlstm.tasks.network import arguments, error, likelihood, make, mean_error, network

SHAPES = [
    {"cell": "lstm"},
    {"cell": "gru", "num_layers": 1},
    {"cell": "rnn_tanh", "hidden_size": 1},
    {"cell": "peephole", "hidden_size": 33, "members": 1},
]


def in_torch(model: Model, *given: torch.Tensor) -> np.ndarray:
    """The mean of the members."""
    nets = [network(model.header, model.tensors, member) for member in range(len(model.networks))]
    with torch.no_grad():
        return np.mean([net(*given).numpy() for net in nets], axis=0)


@pytest.mark.parametrize("features", [True, False], ids=["covariates", "alone"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s["cell"])
def test_direct_is_the_same_in_numpy_and_does_not_cross(shape: dict, features: bool) -> None:
    model = drawn.model(drawn.header("direct", features=features, **shape))
    panel = drawn.panel(model.header)
    seen = windows(model.header.series, table := rows(model.header.series, panel), at := table.begins + panel.history)
    out = in_torch(model, *arguments(model.header, seen))
    values = seen.anchor[:, None, None] + seen.spread[:, None, None] * out
    found = model.run(table, at)
    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5 * float(seen.spread.max()))
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("features", [True, False], ids=["covariates", "alone"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s["cell"])
@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_recursive_gives_the_same_distributions_in_numpy(kind: str, shape: dict, features: bool) -> None:
    model = drawn.model(drawn.header(kind, features=features, **shape))
    series, panel = model.header.series, drawn.panel(model.header)
    table = rows(series, panel)
    seen = recursive.sequence(series, table, table.begins + panel.history, 1)
    for member in model.members():
        found = member.step(seen.x, seen.codes, seen.spread).given
        with torch.no_grad():
            net = network(model.header, model.tensors, member.number)
            out = net(*arguments(model.header, seen)).numpy()[:, -1]
        np.testing.assert_allclose(found, out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", [True, False], ids=["covariates", "calendar"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s["cell"])
def test_simulate_is_the_same_in_numpy_and_does_not_cross(shape: dict, features: bool) -> None:
    model = drawn.model(drawn.header("simulate", features=features, **shape))
    panel = drawn.panel(model.header)
    found = model.simulate(panel)
    table = rows(model.header.series, panel)
    for s in range(len(panel)):
        part = slice(int(table.begins[s]), int(table.begins[s] + panel.lengths[s]))
        given = (torch.from_numpy(table.plain[part][None]), torch.from_numpy(table.codes[part][None]))
        out = in_torch(model, *given[: 1 + features])[0]
        np.testing.assert_allclose(found.values[panel.rows(s)], 2.0 + 0.5 * out, rtol=1e-5, atol=1e-5)
    assert (np.diff(found.values) >= 0).all()


@pytest.mark.parametrize("kind", drawn.KINDS)
def test_the_tensors_are_those_of_the_header_and_the_seed_gives_them(kind: str) -> None:
    header = drawn.header(kind)
    a, b, c = (make(header, seed).state_dict() for seed in (3, 3, 4))
    expected = {n.removeprefix("member.0."): shape for n, (_, shape) in header.tensors().items() if n.startswith("member.0.")}
    assert {name: tuple(value.shape) for name, value in a.items()} == expected
    assert all((a[name] == b[name]).all() for name in a)
    assert not all((a[name] == c[name]).all() for name in a)


def test_direct_and_recursive_begin_at_the_value_of_a_season_before() -> None:
    header = drawn.header("direct")
    assert make(header, 0).skip.weight[0, :3].tolist() == [0, 1, 0]  # type: ignore[union-attr, index]
    header = drawn.header("normal")
    assert make(header, 0).skip.weight[0].tolist() == [0, 0, 1, 0]  # type: ignore[union-attr, index]


def density(kind: str, y: float, given: list[float]) -> float:
    mean, scale = given[:2]
    if kind == "normal":
        return float(stats.norm.logpdf(y, mean, scale))
    if kind == "student-t":
        return float(stats.t.logpdf(y, given[2], mean, scale))
    return float(stats.nbinom.logpmf(y, 1 / scale, 1 / (1 + scale * mean)))


@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_the_likelihood_is_that_of_scipy_and_skips_what_is_missing(kind: str) -> None:
    given = [3.0, 0.7, 4.5][: 3 if kind == "student-t" else 2]
    y = torch.tensor([[2.0, float("nan"), 5.0]])
    out = torch.tensor([given] * 3)[None]
    total, known = likelihood(out, y, kind)
    assert int(known) == 2
    assert float(total) == pytest.approx(-density(kind, 2.0, given) - density(kind, 5.0, given), rel=1e-5)


@pytest.mark.parametrize("kind", drawn.DISTRIBUTIONS)
def test_what_is_drawn_has_the_distribution_that_is_trained(kind: str) -> None:
    """The mean of -log p over draws from p is its entropy: it is least for the parameters that were drawn from."""
    given = np.array([3.0, 0.7, 4.5][: 3 if kind == "student-t" else 2])
    values = recursive.draw(kind, given, np.random.default_rng(0), 20000)
    assert values.shape == (20000,)

    def loss(parameters: np.ndarray) -> float:
        out = torch.tensor(parameters).float().expand(1, 20000, -1)
        return float(likelihood(out, torch.from_numpy(values)[None], kind)[0])

    least = loss(given)
    for k in range(2):
        for factor in (0.9, 1.1):
            assert loss(np.where(np.arange(len(given)) == k, factor * given, given)) > least


@pytest.mark.parametrize("kind", drawn.KINDS)
def test_examples_fit_the_network_and_its_error(kind: str) -> None:
    header = drawn.header(kind)
    *given, y = example_windows(header, drawn.panel(header, (60, 40)))
    net = make(header, 0)
    loss = mean_error(header)(net, *given, y)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert error(header, net(*given), y)[1] == (~y.isnan()).sum()


def test_targets_of_the_warm_up_and_of_the_first_half_of_a_window_are_not_trained_on() -> None:
    simulating, recursing = drawn.header("simulate"), drawn.header("normal")
    at = np.array([60])
    for header, hidden, steps in ((simulating, 3, 10), (recursing, 5, 17)):
        panel = drawn.panel(header, (60, 50), missing=0)
        table = rows(header.series, panel)
        y = batch(header, table, at)[1]
        assert torch.isnan(y).tolist() == [[t < hidden for t in range(steps)]]
