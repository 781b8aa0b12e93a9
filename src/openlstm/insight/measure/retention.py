"""Retention: how much of a cell state is kept over a lag; and how much of a gradient reaches it.

Legend: T time, B batch, H hidden size, K the longest lag.

    R_j(k) = mean over windows of  f_t f_{t-1} ... f_{t-k+1}      (unit j; the share of c_{t-k} that is still in c_t)
    share(k) = ||dL/ds_{T-k}|| / ||dL/ds_T||,  s = (h, c)

    tau_mean = -1 / ln(mean f),   tau_log = -1 / mean(ln f)       (two shortcuts; both are wrong for gates that switch)

The two are different questions: a network can forget by its gates and still keep what matters by writing it again, and a
gradient can leave the highway through the gates. A share near zero before training means that the lag can hardly be learnt;
a large share only means that it is not ruled out. Of an sLSTM, whose gates are weights beside what is held, R is the share of c
alone, dc'/dc with n and m held; what h' shows is c'/n', in which n fades with c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from openlstm import _array as A
from openlstm._array import Array
from openlstm.errors import ArgumentError, ShapeError, describe
from openlstm.insight import charts
from openlstm.insight.display import ALARM, Chart, Display, alt
from openlstm.insight.measure.sums import Sums, added
from openlstm.insight.place import Chunk, Place
from openlstm.insight.results import Asked, Result
from openlstm.insight.words import number, steps


def gate_retention(f: Array, max_lag: int | None = None) -> np.ndarray:
    """The share of a cell state that is still there k steps later, for k = 0 .. max_lag and every unit.

    The mean is taken over products, not the product over means: a gate that is open for 19 steps and closed in the 20th has
    a mean of 0.95, which would promise a memory of 13 steps, while no window of 20 keeps anything.

    Args:
        f: forget gates [T, B, H], values in 0 .. 1.
        max_lag: the longest lag K (default T).

    Returns:
        R [K+1, H], float64; R[0] is 1.

    Raises:
        ShapeError: if `f` is not [T, B, H].
        ArgumentError: if max_lag is negative or longer than the sequence.

    >>> gate_retention(np.full((8, 1, 1), 0.5), 3).ravel().tolist()
    [1.0, 0.5, 0.25, 0.125]
    """
    f = np.asarray(A.as_like(f, np.empty(0)), dtype=np.float64)
    if f.ndim != 3:
        hint = "pass one gate of one layer, as in openlstm.trace(layer, x)['0.f']"
        raise ShapeError.of("gate_retention", "f needs three axes", f"f: {describe(f)}", "f: [T, B, H]", hint)
    T, _, H = f.shape
    K = T if max_lag is None else max_lag
    if not 0 <= K <= T:
        hint = "choose a lag within the sequence, or pass a longer one"
        raise ArgumentError.of("gate_retention", "max_lag is outside the sequence", f"max_lag={K}", f"0 .. {T}", hint)
    # ln 0 is -inf and -inf - -inf is NaN, so zeros are counted apart: a window that holds one keeps exactly nothing.
    closed = _running(f == 0)  # [T+1, B, H]
    log_f = _running(np.log(np.where(f == 0, 1.0, f)))  # [T+1, B, H]
    out = np.empty((K + 1, H))
    for k in range(K + 1):
        kept = np.exp(log_f[k:] - log_f[: T + 1 - k])  # [T+1-k, B, H]
        out[k] = np.where(closed[k:] == closed[: T + 1 - k], kept, 0.0).mean((0, 1))
    return out


def half_life(kept: np.ndarray, lags: np.ndarray | None = None) -> np.ndarray:
    """The lag at which half is left, interpolated in ln R around the crossing.

    Args:
        kept: R [K+1, H] of `retention`, or [K, H] at the lags given.
        lags: rising from 0, those of the rows of `kept`; 0, 1, 2 .. if None.

    Returns:
        [H] in steps; inf where more than half is left at the longest lag.

    >>> round(float(half_life(gate_retention(np.full((20, 1, 1), 0.9)))[0]), 2)
    6.58
    """
    lags = np.arange(len(kept)) if lags is None else np.asarray(lags)
    return np.array([_crossing(column, lags) for column in kept.T])


@dataclass(frozen=True)
class Retention(Result):
    """What the highway of one place keeps.

    Fields:
        lags: [K] from 0.
        kept: R [K, H], float64, the share that is still there so many steps later.
        half_life: [H], inf where more than half is left at the longest lag.
        tau_mean, tau_log: [H], see above.
    """

    name: str
    lags: np.ndarray
    kept: np.ndarray
    half_life: np.ndarray
    tau_mean: np.ndarray
    tau_log: np.ndarray

    @property
    def finding(self) -> str:
        """One sentence."""
        longest, middle = float(self.half_life.max()), float(np.median(self.half_life))
        if not np.isfinite(middle):
            return f"{self.name}: most units keep more than half of their cell over all {steps(int(self.lags[-1]))}."
        text = f"{self.name}: the gates halve the cell of the middle unit in {steps(round(middle, 1))}, "
        if np.isfinite(longest):
            return text + f"of the longest in {steps(round(longest, 1))}."
        n = int(np.isinf(self.half_life).sum())
        return text + f"{n} of {len(self.half_life)} units keep more than half over all {steps(int(self.lags[-1]))}."

    def at(self, lag: int) -> np.ndarray:
        """R at a lag, interpolated between those that were measured: [H]."""
        return np.array([np.interp(lag, self.lags, column) for column in self.kept.T])

    def advice(self, lag: int) -> str:
        """What to do if `lag` steps are to be bridged; "" where the gates keep long enough."""
        longest = float(self.half_life.max())
        if longest >= lag:
            return ""
        need = -np.log(np.exp(np.log(2) / lag) - 1)  # the bias at which sigmoid is 2^(-1/lag)
        return (
            f"The longest unit keeps half for {steps(round(longest, 1))}, the lag is {lag}: "
            f"a forget bias near {number(need)}, or chrono with T_max={2 * lag}."
        )

    @classmethod
    def displays(cls, found: Mapping[str, Retention], asked: Asked) -> tuple[Display, ...]:
        """The half-lives of the units, and the share of the cell that is left by lag."""
        return _half_lives(found, asked.lag), _shares_left(found, asked.lag)


def retention(place: Place, starts: int = 32) -> Retention | None:
    """`retention` of a place without holding its gates: running products from some start points of every row.

    Args:
        place: of `capture_layers`.
        starts: how many windows begin in each row, spread evenly and differently in every row; as many as there are steps take
            all of them, and the result is that of `retention`.

    Returns:
        None for a cell without a highway (`place.no_highway` says why).

    >>> import openlstm
    >>> from openlstm.insight.capture import capture_layers
    >>> layer = openlstm.nn.init.forget_bias(openlstm.LSTM(3, 8), 5.0)
    >>> with torch.no_grad():
    ...     _ = layer.weight_ih_l0.zero_(), layer.weight_hh_l0.zero_()
    >>> found = retention(capture_layers(layer, torch.zeros(200, 2, 3)).places[0])
    >>> found.half_life.round(1).tolist()[0]  # sigmoid(5) = 0.9933
    103.2
    """
    if place.no_highway:
        return None
    return added(RetentionSums(place, starts), place.forwards()).result()


class RetentionSums(Sums):
    """`Retention` as a reduction over the chunks of a forward pass."""

    def __init__(self, place: Place, starts: int = 32) -> None:
        self.place = place
        T, B, H = place.steps, place.rows, place.units
        ends = place.ends().cpu().double()
        if starts >= T or not B:
            at = torch.arange(T)[:, None].expand(T, B)
        else:
            each = torch.arange(starts * B, dtype=torch.float64).view(B, starts).T  # row by row, so that each row is covered
            at = ((each * _GOLDEN).frac() * ends).floor().long()
            at[0, int(ends.argmax())] = 0  # so that the longest lag is seen, in one row: more would weigh too much
        inside = at < ends
        self.row = torch.arange(B).expand_as(at)[inside]  # [N] of every window
        self.begin = at[inside]
        self.lags = noted_lags(T)
        where = torch.full((T + 1,), -1)
        where[torch.from_numpy(self.lags)] = torch.arange(len(self.lags))
        self.where = where  # the place of a lag among those that are noted
        self.product = torch.ones(len(self.row), H, dtype=place.x.dtype, device=place.x.device)
        self.sums = torch.zeros(len(self.lags), H, dtype=torch.float64)
        self.counts = torch.zeros(len(self.lags), dtype=torch.float64)
        self.sums[0], self.counts[0] = 1, 1
        self.f, self.log_f = torch.zeros(H, dtype=torch.float64), torch.zeros(H, dtype=torch.float64)
        self.n = 0

    def add(self, part: Chunk) -> None:
        """One chunk; chunks come in the order in which they ran."""
        f = self.place.kept(part.saved)
        assert f is not None
        order = self.place.order(part.t0, part.t1)  # [n, B]
        cut = self.place.cuts(part.t0, part.t1)
        if cut is not None:
            f = f.masked_fill(cut[..., None], 0)
        real = f[order >= 0]
        self.f += real.double().sum(0).cpu()
        self.log_f += real.double().log().sum(0).cpu()  # -inf where a gate was closed: then 1/tau is infinite
        self.n += len(real)
        self.product[self.product < _TINY] = 0
        order = order.cpu()
        for t in self.place.ran(f.shape[0]):
            lag = order[t][self.row] - self.begin + 1  # [N], of each window after this step
            on = (lag > 0) & (order[t][self.row] >= 0)
            at = on.nonzero()[:, 0]
            if not len(at):
                continue
            now = self.product[at] * f[t][self.row[at]]
            self.product[at] = now
            noted = self.where[lag[at]]
            seen = noted >= 0
            if not bool(seen.all()):
                now, noted = now[seen], noted[seen]
            self.sums.index_add_(0, noted, now.double().cpu())
            self.counts.index_add_(0, noted, torch.ones(len(noted), dtype=torch.float64))

    def result(self) -> Retention:
        found = self.counts > 0
        kept = (self.sums[found] / self.counts[found][:, None]).numpy()
        at = self.lags[found.numpy()]
        with np.errstate(divide="ignore"):
            tau_mean = -1 / np.log((self.f / max(self.n, 1)).numpy())
            tau_log = -1 / (self.log_f / max(self.n, 1)).numpy()
        return Retention(self.place.name, at, kept, half_life(kept, at), np.abs(tau_mean), np.abs(tau_log))


_GOLDEN = (5**0.5 - 1) / 2
_TINY = 1e-18  # below it a product counts as zero: its numbers would soon be subnormal, and slow


def noted_lags(T: int, dense: int = 2048) -> np.ndarray:
    """The lags that are noted: 0 .. T, in a long sequence all up to `dense`/4 and then more and more apart.

    >>> noted_lags(3).tolist(), len(noted_lags(1_000_000)) < 2100
    ([0, 1, 2, 3], True)
    """
    if dense >= T:
        return np.arange(T + 1)
    near = np.arange(dense // 4)
    far = np.geomspace(dense // 4, T, dense // 2).round().astype(np.int64)
    return np.unique(np.concatenate([near, far]))


def gradient_share(dh: Array, dc: Array | None = None) -> np.ndarray:
    """How much of the gradient at the last step is still there k steps earlier: share(k) for k = 0 .. T-1.

    Norms are taken over the units of a row and averaged over rows.

    Args:
        dh: dL/dh_t [T, B, H] of a loss on the last step.
        dc: dL/dc_t [T, B, H] along the highway; None for a cell without one.

    Returns:
        [T], float64: 1 at lag 0; zeros everywhere if no gradient arrives at the last step.

    >>> dh = np.array([0.25, 0.5, 1.0]).reshape(3, 1, 1)
    >>> gradient_share(dh).tolist()
    [1.0, 0.5, 0.25]
    """
    squares = _square(dh) if dc is None else _square(dh) + _square(dc)  # [T, B]
    norm = np.sqrt(squares).mean(1)[::-1]  # by lag
    return np.zeros_like(norm) if norm[0] == 0 else norm / norm[0]


def first_below(share: np.ndarray, level: float) -> int | None:
    """The first lag at which a curve is below `level`, None if it never is.

    >>> first_below(np.array([1.0, 0.5, 0.25]), 0.3)
    2
    """
    below = np.flatnonzero(share < level)
    return int(below[0]) if below.size else None


def _running(values: np.ndarray) -> np.ndarray:
    """Sums over time with a zero in front: [T, B, H] -> [T+1, B, H]."""
    sums = np.cumsum(values, 0)
    return np.concatenate([np.zeros_like(sums[:1]), sums])


def _crossing(kept: np.ndarray, lags: np.ndarray) -> float:
    k = first_below(kept, 0.5)
    if k is None:
        return float("inf")
    before, after = float(lags[k - 1]), float(lags[k])
    if kept[k] == 0:  # ln 0: the limit of the interpolation is the lag before
        return before
    high, low = np.log(kept[k - 1]), np.log(kept[k])
    return before + (after - before) * float((high - np.log(0.5)) / (high - low))


def _square(x: Array) -> np.ndarray:
    return (np.asarray(A.as_like(x, np.empty(0)), dtype=np.float64) ** 2).sum(-1)


def _half_lives(found: Mapping[str, Retention], lag: int | None) -> Display:
    """The units in order of how long they keep half of their cell."""

    places = charts.Places(found)
    lives = {name: np.sort(r.half_life) for name, r in places.drawn.items()}
    longest = max((int(r.lags[-1]) for r in places.drawn.values()), default=1)
    finite = [float(v) for column in lives.values() for v in column[np.isfinite(column)]]
    top = float(max([longest, lag or 1, *finite, 2])) * 1.6
    low = 10.0 ** math.floor(math.log10(max(min([1.0, *(v for v in finite if v > 0)]), 0.01)))
    rows = []
    for name, column in lives.items():
        for at in charts.evenly(len(column), places.most):
            value, end = float(column[at]), "on" if math.isinf(column[at]) else "at"
            said = f"longer than the {longest:,} steps looked at" if end == "on" else f"{charts.number(value)} steps"
            share = charts.short((at + 0.5) / len(column))
            height = charts.short(charts.within(value, low, top))
            rows.append({"s": name, "x": share, "v": height, "e": end, "d": f"{name}: {said}"})

    def drawn(width: int) -> Chart:
        axis = alt.Axis(grid=True, values=charts.decades(low, top), format=",")
        y = alt.Y("v:Q", title="half-life, steps", scale=alt.Scale(type="log", domain=[low, top], nice=False), axis=axis)
        x = alt.X("x:Q", title="units, in order", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", grid=False))
        points = alt.Chart(charts.data(rows)).mark_point(filled=True, size=30, opacity=0.75)
        shape = alt.Shape("e:N", scale=charts.ends(), legend=None)
        chart = points.encode(x, y, charts.color(places.names), shape, description="d:N")
        if lag is not None:
            chart = charts.rule_across(float(lag), f"the lag: {lag:,}", ALARM, strokeWidth=1.6) + chart
        return chart.properties(width=width - charts.MARGIN, height=230)

    table = places.table(
        unit=lambda r: range(len(r.half_life)),
        half_life=lambda r: r.half_life,
        tau_mean=lambda r: r.tau_mean,
        tau_log=lambda r: r.tau_log,
    )
    return Display("How long each unit keeps half of its cell", drawn, table, places.told(), places.series())


def _shares_left(found: Mapping[str, Retention], lag: int | None) -> Display:
    """The share of the cell that is still there after so many steps, of the middle unit and of the best one."""

    places = charts.Places(found)
    curves: charts.Curves = {}
    for name, r in places.drawn.items():
        front = f"{name}, " if len(places.drawn) > 1 else ""
        curves[f"{front}best unit"] = r.lags, r.kept.max(1)
        if 2 * len(places.drawn) <= charts.PLACES // 2:
            curves[f"{front}middle unit"] = r.lags, np.median(r.kept, 1)
    rows = charts.curve_rows(curves, "{s}, {x} steps: {v} is left")

    def drawn(width: int) -> Chart:
        y = alt.Y("v:Q", title="share left", **charts.plain_axis(domain=[0, 1]))
        return charts.lag_lines(rows, list(curves), y, width, lag)

    def said(r: Retention) -> str:
        at = int(np.argmin(np.abs(r.lags - (r.lags[-1] if lag is None else lag))))
        best, middle = charts.number(float(r.kept[at].max())), charts.number(float(np.median(r.kept[at])))
        return f"after {int(r.lags[at]):,} steps the best unit has kept {best} of its cell, the middle unit {middle}."

    table = places.table(lag=lambda r: r.lags, best_unit=lambda r: r.kept.max(1), middle_unit=lambda r: np.median(r.kept, 1))
    return Display("How much of the cell is left", drawn, table, places.told(said), places.series(list(curves)))
