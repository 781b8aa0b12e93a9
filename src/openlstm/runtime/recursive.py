"""The recursive decoder: one step after the other, each the distribution of the next value, in numpy.

    x_t = y_(t-1), its mark, its lags, what is known of step t          # as the network reads it
    h_t = recurrent layers over x_1 .. x_t
    mean, scale, degrees of freedom of y_t = head(h_t)                  # `parameters`

A forecast draws paths: a value of the next step, which the step behind it reads, and so on. `tasks.network` is the same in
torch.

Legend: N windows or series, W steps of a window, T steps, P paths, K steps of the horizon, R parameters, I input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from openlstm.cells import State
from openlstm.data.grid import show_time
from openlstm.data.panel import Panel
from openlstm.errors import DataError
from openlstm.model_file import Decoder, Header, Series
from openlstm.model_file.header import COUNTS
from openlstm.runtime.decoder import Tensors, each_row
from openlstm.runtime.network import Network
from openlstm.runtime.window import MOST, Rows, carry, columns, measure

LEAST = 1e-3
"""The smallest scale, in spreads, and the smallest dispersion of counts."""

TINY = 1e-6
"""The smallest mean of counts, in spreads."""

LARGEST_COUNT = 2.0**53
"""The largest count, and the largest mean of one: float64 holds every whole number up to it."""

ROWS = 2**16
"""So many paths go through the network at once."""


class Sequence(NamedTuple):
    """Windows and the steps behind them, one step after the other.

    x: float32 [N, T, I]: the value of the step before, its mark, the value of each season before, the plain inputs.
    codes: int64 [N, T, C].
    anchor, spread: float64 [N], of the window.
    """

    x: np.ndarray
    codes: np.ndarray
    anchor: np.ndarray
    spread: np.ndarray


class Scaled(NamedTuple):
    """The unit of each window, float64 [N]."""

    anchor: np.ndarray
    spread: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """Values [N, ...] in spreads, as the network reads them."""
        shape = (-1,) + (1,) * (values.ndim - 1)
        return ((values - self.anchor.reshape(shape)) / self.spread.reshape(shape)).clip(-MOST, MOST)


def sequence(series: Series, rows: Rows, at: np.ndarray, ahead: int) -> Sequence:
    """What the network reads from `window` steps before the rows `at` [N] until `ahead` steps behind them.

    A missing value is the last known one of the window, with its mark; a lag that is missing is that as well. The last step
    reads the value before it: with `ahead` = 1 nothing of the row `at` or behind it is looked at.
    """
    place = at[:, None] + np.arange(-series.window, ahead)
    scale = Scaled(*measure(rows.values[place[:, : series.window]], series.scale, series.period))
    before = np.concatenate([np.full((len(at), 1), np.nan), rows.values[place[:, :-1]]], axis=1)
    missing = np.isnan(before)
    value = np.where(np.maximum.accumulate(~missing, axis=1), scale.of(carry(before)), 0)
    lags = (scale.of(rows.values[place - season]) for season in series.seasons)
    plain, codes = known(series, rows, at, place)
    x = np.stack([value, missing, *(np.where(np.isnan(lag), value, lag) for lag in lags)], axis=-1)
    return Sequence(np.concatenate([x, plain], axis=-1, dtype=np.float32), codes, *scale)


def known(series: Series, rows: Rows, at: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plain inputs and the categories of the rows `place` [N, T].

    Columns of the past are those of the step before, and unknown behind the row `at` [N] and before the window.
    """
    plain, codes = rows.plain[place], rows.codes[place]
    own, own_codes, unknown = columns(series, "past")
    if own or own_codes:
        hidden = ((place > at[:, None]) | (place <= at[:, None] - series.window))[..., None]
        before = np.maximum(place - 1, 0)
        plain[..., own] = np.where(hidden, unknown, rows.plain[before][..., own])
        codes[..., own_codes] = np.where(hidden, 0, rows.codes[before][..., own_codes])
    return plain, codes


def parameters(decoder: Decoder, weights: Tensors, h: np.ndarray, x: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The distribution of the next value, float64 [N, R].

        o = W h + b,   base = w_s (the inputs of the target)
        normal, student-t: mean = o_1 + base, scale = softplus(o_2) + 0.001, both in spreads
        student-t: degrees of freedom = softplus(o_3) + 2
        negative binomial: mean = spread (softplus(o_1 + base) + 1e-6), dispersion = softplus(o_2) + 0.001; in counts

    Args:
        h: [N, H]. x: [N, I], whose first inputs are those of the target. spread: [N].
    """
    o = each_row(h, weights["head.weight"]) + weights["head.bias"]
    skip = weights["skip.weight"]
    mean = o[:, 0] + each_row(x[:, : skip.shape[1]], skip)[:, 0]
    rest = np.logaddexp(0, o[:, 1:]) + [LEAST, 2.0][: o.shape[1] - 1]
    if decoder.distribution == COUNTS:
        mean = spread * (np.logaddexp(0, mean) + TINY)
    return np.concatenate([mean[:, None], rest], axis=1)


def draw(distribution: str | None, given: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Values of one distribution, float64 [count]; the parameters are one row [R] for all, or one for each value [count, R].

    A count is drawn as Poisson with a mean that is drawn from a gamma distribution.
    """
    mean, scale = given[..., 0], given[..., 1]
    if distribution == COUNTS:
        rate = rng.gamma(1 / scale, mean * scale, count)
        return rng.poisson(np.minimum(rate, LARGEST_COUNT)).astype(np.float64)
    noise = rng.standard_normal(count) if distribution == "normal" else rng.standard_t(given[..., 2], count)
    return mean + scale * noise


@dataclass(frozen=True)
class Begun:
    """How far one member is: the distribution of the next value [N, R], and the state behind it, of each layer."""

    given: np.ndarray
    states: tuple[State, ...]


@dataclass(frozen=True)
class Member:
    """One network of a recursive or a simulating model, and its head in float64."""

    header: Header
    number: int
    network: Network
    weights: Tensors
    tables: tuple[np.ndarray, ...]  # of the embeddings
    backend: str = "auto"

    def step(self, x: np.ndarray, codes: np.ndarray, spread: np.ndarray, states: tuple[State, ...] | None = None) -> Begun:
        """Run over steps x [N, T, I] with the categories codes [N, T, C]; the distribution behind the last one."""
        full = np.concatenate([x, *(table[codes[..., k]] for k, table in enumerate(self.tables))], axis=-1)
        y, states = self.network.run(np.ascontiguousarray(full.swapaxes(0, 1)), states, backend=self.backend)
        return Begun(parameters(self.header.decoder, self.weights, y[-1], x[:, -1], spread), states)

    def follow(self, begun: Begun, table: Rows, at: np.ndarray, scale: Scaled, draws: Draws) -> np.ndarray:
        """Paths from the rows `at` [N] on, in the unit of the target, float64 [N, P, K]."""
        series, kind = self.header.series, self.header.decoder.distribution
        N, P, K = len(at), draws.count, draws.steps
        out = np.empty((N, P, K))
        place = at[:, None] + np.arange(K)
        plain, codes = known(series, table, at, place)
        past = {season: scale.of(table.values[place - season]) for season in series.seasons}  # read for K <= season alone
        wide = Scaled(np.repeat(scale.anchor, P), np.repeat(scale.spread, P))
        given = np.repeat(begun.given[:, None], P, axis=1)  # [N, P, R]
        states = tuple(type(state)(*(None if a is None else np.repeat(a, P, axis=0) for a in state)) for state in begun.states)
        for k in range(K):
            if k:
                value = scale.of(out[..., k - 1])
                lags = [
                    scale.of(out[..., k - season]) if k >= season else np.broadcast_to(past[season][:, k, None], (N, P))
                    for season in series.seasons
                ]
                own = np.stack([value, np.zeros((N, P)), *(np.where(np.isnan(lag), value, lag) for lag in lags)], axis=-1)
                x = np.concatenate([own, np.repeat(plain[:, k, None], P, axis=1)], axis=-1, dtype=np.float32)
                each = np.repeat(codes[:, k : k + 1], P, axis=0)
                ended = self.step(x.reshape(N * P, 1, -1), each, wide.spread, states)
                given, states = ended.given.reshape(N, P, -1), ended.states
            for n, rng in enumerate(draws.generators):
                out[n, :, k] = draw(kind, given[n], rng, P)
            if kind != COUNTS:
                out[..., k] = scale.anchor[:, None] + scale.spread[:, None] * out[..., k]
        return out


@dataclass(frozen=True)
class Draws:
    """How many paths of how many steps are drawn, with one generator for each of the N windows."""

    generators: list[np.random.Generator]
    count: int
    steps: int


def generators(header: Header, member: int, marks: list[int], pushed: int = 0) -> list[np.random.Generator]:
    """One generator for each window, from the seed of the model and the mark of the window, see `mark`."""
    return [np.random.default_rng([header.training.seed, member, one, pushed]) for one in marks]


def mark(x: np.ndarray) -> list[int]:
    """A number for each window x [N, T, I]: it depends on what the network reads of it, not on its place or other windows."""
    return [int.from_bytes(blake2b(one.tobytes(), digest_size=8).digest()) for one in x]


def shares(count: int, members: int) -> list[int]:
    """How many of the paths each member draws.

    >>> shares(200, 3)
    [67, 67, 66]
    """
    return [count // members + (member < count % members) for member in range(members)]


def paths(members: list[Member], table: Rows, at: np.ndarray, count: int) -> np.ndarray:
    """Sample paths behind the windows before the rows `at` [N], float64 [N, count, K]; each member draws its share of them."""
    header = members[0].header
    out = np.empty((len(at), count, header.series.horizon))
    each = max(1, ROWS // count)
    for first in range(0, len(at), each):
        part = at[first : first + each]
        seen = sequence(header.series, table, part, 1)
        scale, marks, done = Scaled(seen.anchor, seen.spread), mark(seen.x), 0
        for member, share in zip(members, shares(count, len(members)), strict=True):
            if share:
                begun = member.step(seen.x, seen.codes, scale.spread)
                draws = Draws(generators(header, member.number, marks), share, header.series.horizon)
                out[first : first + each, done : done + share] = member.follow(begun, table, part, scale, draws)
                done += share
    return out


def quantiles(drawn: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Those of paths [N, P, K], float64 [N, K, Q]."""
    return np.moveaxis(np.quantile(drawn, levels, axis=1), 0, -1)


def check_counts(panel: Panel) -> None:
    """Refuse values that are no counts.

    Raises:
        DataError: at the first of them, with its series and its time.
    """
    wrong = (panel.values < 0) | (panel.values > LARGEST_COUNT) | (panel.values != np.rint(panel.values))
    wrong &= ~np.isnan(panel.values)
    if not wrong.any():
        return
    row = int(np.argmax(wrong))
    s = int(np.searchsorted(panel.offsets, row, side="right")) - 1
    time = panel.times(s)[row - panel.offsets[s]]
    when = "" if np.isnat(time) else f" at {show_time(time)}"
    what, got = "is not a count, and the distribution is that of counts", f"{panel.values[row]:g}{when}"
    hint = "Forecaster(distribution='student-t') takes any numbers"
    raise DataError.of(f"series {panel.name(s)}", what, got, "whole numbers of at least 0", hint)
