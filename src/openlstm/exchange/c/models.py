"""A model of `fit` in C, with its scaling and head: from raw numbers to quantiles in the unit of the target.

Legend: W steps of a window, K steps of the horizon, Q quantiles, M members, D width of the decoder, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from openlstm.engine.rounded import check_rounded
from openlstm.errors import ArgumentError
from openlstm.exchange.c import code, recorded
from openlstm.exchange.c.cells import step
from openlstm.exchange.c.net import UNIT, Net, Program, array, blocks
from openlstm.model_file import Feature, Series
from openlstm.model_file.header import CONTEXT
from openlstm.reference import Weights, unshared
from openlstm.runtime.model import Model

WHO = "export to 'c'"

FAST = """\
#ifdef __FAST_MATH__
#error "NaN says what is missing: compile this model without -ffast-math"
#endif
"""

STEPS = 24
"""Steps of the self-test behind a first window."""


def of_model(model: Model, weights: str) -> Program:
    """A model that steps.

    Raises:
        ArgumentError: for a recursive model, whose forecast is drawn, or a cell that has no weights in 8 bits.
    """
    kind = model.header.decoder.kind
    if kind == "recursive":
        what, hint = "draws its forecasts, and C has no random numbers here", "fit with decoder='direct'"
        raise ArgumentError.of(WHO, what, "a recursive model", "a model of the decoder direct or simulate", hint)
    return _Written(model, weights == "int8").program()


@dataclass(frozen=True)
class _Written:
    """A model on its way to C."""

    model: Model
    int8: bool

    def program(self) -> Program:
        """What the header holds."""
        model = self.model
        cell = model.networks[0].cell
        layers = tuple(unshared(cell, w)[1] for network in model.networks for w in network.layers)
        layers = tuple(Weights(*(None if a is None else np.asarray(a, np.float32) for a in w)) for w in layers)
        net = Net(cell.unshared(), layers, WHO, self.int8, len(model.networks))
        step(net.cell, WHO)
        if self.int8:
            check_rounded(WHO, "int8", model, net.cell, list(layers), "cpu")
        simulates = model.header.decoder.kind == "simulate"
        functions = self._simulate(net) if simulates else self._forecast(net)
        rows = code.SUMS.format(name="rows", unit=UNIT, gates=1, stride=0)
        text = "\n".join([rows, code.DENSE, functions])
        return Program(net, self._about(), "" if simulates else self._state(), self._arrays(), text, *self._recorded())

    @property
    def _series(self) -> Series:
        return self.model.header.series

    @property
    def _ahead(self) -> int:
        """Numbers of x for each step of the horizon."""
        return 2 * len(self._series.calendar) + len(self._series.of("future"))

    @property
    def _own(self) -> int:
        """Numbers of x for the step itself, beside the target."""
        return 2 * len(self._series.calendar) + len(self._series.features)

    def _tensor(self, name: str, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Of all members, float32 [M, ...]."""
        found = np.stack([self.model.weights(m)[0][name] for m in range(len(self.model.networks))])
        return found.reshape(len(found), *shape) if shape else found

    # What x is ------------------------------------------------------------------------------------------------------------

    def _about(self) -> tuple[str, ...]:
        series, decoder = self._series, self.model.header.decoder
        calendar = [f"{wave} of the {cycle}" for cycle in series.calendar for wave in ("sine", "cosine")]
        codes = lambda f: ", ".join(f"{k} {name}" for k, name in enumerate(f.categories or ()))  # noqa: E731
        of = lambda f: f.name if f.categories is None else f"{f.name} ({codes(f)})"  # noqa: E731
        own = calendar + [of(f) for f in series.features]
        ahead = calendar + [f.name for f in series.of("future")]
        levels = ", ".join(f"{q:g}" for q in decoder.quantiles)
        if decoder.kind == "simulate":
            return (
                f"the model of {series.target}, simulated from what is known of each step",
                f"x: {'; '.join(own)}",
                f"y: the quantiles {levels} of the same step",
            )
        lines = [f"the model of {series.target}, {series.horizon} steps ahead"]
        lines.append(f"x: {'; '.join([series.target, *own])}")
        if ahead:
            lines.append(f"   and then, of each of the {series.horizon} steps ahead: {'; '.join(ahead)}")
        lines.append(f"y: of each step ahead the quantiles {levels}; NaN until there were {series.window} steps")
        return tuple(lines)

    def _reading(self, features: Iterable[Feature], x: str, to: str, at: int, indent: int = 6) -> str:
        """C that writes what the network reads of the calendar and the features, `x` as they are given, behind `to[at]`."""
        width = 2 * len(self._series.calendar)
        out = [f"memcpy({to} + {at}, {x}, {width} * sizeof *{to});"] if width else []
        given, numbers, categories = width, [], []
        for f in features:
            (numbers if f.categories is None else categories).append((f, given))
            given += 1
        at += width
        for f, k in numbers:
            reads = "known" if f.marked else "scaled"
            out.append(f"{to}[{at}] = @{reads}({x}[{k}], {f.mean!r}, {f.deviation!r});")
            if f.marked:
                out.append(f"{to}[{at + 1}] = (float)({x}[{k}] != {x}[{k}]);")
            at += 1 + f.marked
        for f, k in categories:
            if f.marked:
                out.append(f"{to}[{at}] = (float)(@code({x}[{k}], {len(f.categories)}) == 0);")  # type: ignore[arg-type]
            at += f.marked
        for f, k in categories:
            rows, n = len(f.categories) + 1, self._series.features.index(f)  # type: ignore[arg-type]
            place = f"(member * {rows} + @code({x}[{k}], {rows - 1})) * {f.width}"
            out.append(f"memcpy({to} + {at}, @embed{n} + {place}, {f.width} * sizeof *{to});")
            out.append(f"{to}[{at}] += @unknown({x}[{k}], {rows - 1}, {int(f.marked)});")
            at += f.width
        return "".join(f"{' ' * indent}{line}\n" for line in out)

    # The arrays -----------------------------------------------------------------------------------------------------------

    def _arrays(self) -> str:
        header = self.model.header
        out = [
            array(f"@embed{k}", self._tensor(f"embed.{k}"))
            for k, f in enumerate(header.series.features)
            if f.categories is not None
        ]
        K, Q, D, H = header.series.horizon, len(header.decoder.quantiles), header.decoder.width, header.network.hidden_size
        if header.decoder.kind == "direct":
            out += self._dense("head", self._tensor("head.weight", (K, D, H + CONTEXT)), self._tensor("head.bias", (K, D)))
            out += self._dense("ahead", self._tensor("ahead.weight"))
            out += self._dense("out", self._tensor("out.weight"), self._tensor("out.bias"))
            out.append(array("@skip", self._tensor("skip.weight")))
        else:
            out += self._dense("head", self._tensor("head.weight"), self._tensor("head.bias"))
        if header.forecasters[0].enough:
            out.append(array("@shift", self.model.tensors["calibration.network"][:K, :Q]))
        return FAST + "\n".join(out)

    def _dense(self, name: str, w: np.ndarray, b: np.ndarray | None = None) -> list[str]:
        """Matrices [..., N, K] in blocks, and their biases [..., N]."""
        N, inner = w.shape[-2:]
        made = np.stack([blocks(one[None], UNIT).ravel() for one in w.reshape(-1, N, inner)])
        wide = np.pad(np.zeros(w.shape[:-1], np.float32) if b is None else b, [(0, 0)] * (w.ndim - 2) + [(0, -N % UNIT)])
        return [array(f"@{name}_w", made)] + ([] if b is None else [array(f"@{name}_b", wide)])

    # The steps ------------------------------------------------------------------------------------------------------------

    def _spread_out(self) -> str:
        """See `runtime.decoder.spread_out`, and `runtime.calibrate.apply`."""
        header, Q = self.model.header, len(self.model.levels)
        middle = header.decoder.quantiles.index(0.5)
        text = f"""\
/* Quantiles that cannot cross: the median, and each other one a softplus further out. */
static inline void @spread_out(float *out, float base) {{
  out[{middle}] += base;
  for (int q = {middle + 1}; q < {Q}; q++) out[q] = out[q - 1] - @log_sigmoid(-out[q]);
  for (int q = {middle - 1}; q >= 0; q--) out[q] = out[q + 1] + @log_sigmoid(-out[q]);
}}

"""
        if not header.forecasters[0].enough:
            return text
        return f"""{text}\
/* Moves quantiles by what was learned on validation, in spreads; none crosses the one beside it. */
static inline void @calibrate(double *v, const float *shift, double spread) {{
  for (int q = 0; q < {Q}; q++) v[q] += (double)shift[q] * spread;
  for (int q = {middle - 1}; q >= 0; q--) v[q] = v[q] > v[q + 1] ? v[q + 1] : v[q];
  for (int q = {middle + 1}; q < {Q}; q++) v[q] = v[q] < v[q - 1] ? v[q - 1] : v[q];
}}

"""

    def _calibrated(self, shift: str, spread: str) -> str:
        return f"  @calibrate(v, {shift}, {spread});\n" if self.model.header.forecasters[0].enough else ""

    def _reads(self) -> str:
        """Numbers and categories as the network reads them."""
        out = ""
        if any(f.categories is None for f in self._series.features):
            out += """\
static inline float @scaled(float x, double mean, double deviation) {
  return @clamp((float)(((double)x - mean) / deviation), 30.f);
}

static inline float @known(float x, double mean, double deviation) {
  return @pick(x == x, @scaled(x, mean, deviation), 0.f);
}

"""
        if any(f.categories is not None for f in self._series.features):
            out += """\
/* Categories count from 1; 0 is one that is missing. */
static inline int @code(float x, int count) { return x >= 0.f && x < (float)count ? (int)x + 1 : 0; }

/* 0, or NaN for a number that is no category, and one that is missing where none was in the training. */
static inline float @unknown(float x, int count, int marked) {
  const int is_one = x >= 0.f && x < (float)count && (float)(int)x == x;
  return is_one || (x != x && marked) ? 0.f : @from_bits(0x7fc00000u);
}

"""
        return out

    def _simulate(self, net: Net) -> str:
        scale, Q = self._series.scale, len(self.model.levels)
        wide, H = -(-Q // UNIT) * UNIT, net.outputs
        return f"""\
{self._reads()}{self._spread_out()}static inline void @step(@ *self, const float *x, float *y) {{
  double v[{Q}] = {{0.}};
  for (int member = 0; member < {net.members}; member++) {{
    float in[{net.inputs}], out[{wide}];
{self._reading(self._series.features, "x", "in", 0, 4)}\
    const float *h = {net.call};
    @dense(out, @head_w + member * {wide * H}, @head_b + member * {wide}, h, {H}, {wide // UNIT});
    @spread_out(out, 0.f);
    for (int q = 0; q < {Q}; q++) v[q] += (double)out[q];
  }}
  for (int q = 0; q < {Q}; q++) v[q] = {scale.center!r} + {scale.floor!r} * v[q] / {net.members}.;
{self._calibrated("@shift", repr(scale.floor))}\
  for (int q = 0; q < {Q}; q++) y[q] = (float)v[q];
}}
"""

    def _state(self) -> str:
        series = self._series
        seen = (
            f"  float seen[{series.window}][{self._own}]; /* what is known of the steps of the window */\n" if self._own else ""
        )
        return f"  double past[{series.reach}]; /* of the target, the newest last */\n{seen}  int count; /* steps so far */\n"

    def _measure(self) -> str:
        """Anchor and spread of a window, see `runtime.window.measure`."""
        series = self._series
        W, scale = series.window, series.scale
        if scale.anchor == "last":
            inner = f"""\
  double full[{W}], all = 0., far = 0.;
  for (int t = 0; t < {W}; t++) {{
    if (v[t] == v[t]) last = v[t];
    full[t] = last, all += last;
  }}
  for (int t = 0; t < {W}; t++) far += (full[t] - all / {W}.) * (full[t] - all / {W}.);
  w->anchor = last;
  w->spread = @sqrt(far / {W}.);
"""
        else:
            inner = f"""\
  double season = 0., far = 0.;
  int some = 0;
  for (int t = 0; t < {W}; t++)
    if (v[t] == v[t]) {{
      last = v[t], far += (v[t] - w->mean) * (v[t] - w->mean);
      if (t >= {W - min(W, series.period)}) season += v[t], some++;
    }}
  w->anchor = some ? season / some : last;
  w->spread = @sqrt(far / w->known);
  if (w->spread < {scale.share!r} * w->size) w->spread = {scale.share!r} * w->size;
"""
        return f"""\
/* A window: mean, mean size and number of its known values; the first one; the unit in which the network reads it. */
typedef struct @window {{ double mean, size, first, anchor, spread; int known; }} @window;

static inline void @measure(const double *v, @window *w) {{
  memset(w, 0, sizeof *w);
  for (int t = {W - 1}; t >= 0; t--)
    if (v[t] == v[t]) w->mean += v[t], w->size += v[t] < 0. ? -v[t] : v[t], w->known++, w->first = v[t];
  if (!w->known) return;
  w->mean /= w->known, w->size /= w->known;
  double last = w->first;
{inner}\
  if (w->spread < {scale.floor!r}) w->spread = {scale.floor!r};
}}

static inline float @of(double v, const @window *w) {{ return @clamp((float)((v - w->anchor) / w->spread), 30.f); }}

"""

    def _window(self, net: Net) -> str:
        """C that runs a member over the window: `h` is what it puts out in the end."""
        series = self._series
        W, seasons = series.window, series.seasons
        reach = series.reach
        begin = "0.f" if series.scale.anchor == "season" else "@of(w.first, &w)"
        lags = "".join(
            f"      in[{2 + k}] = @of(self->past[{reach - W} + t - {season}], &w);\n"
            f"      in[{2 + k}] = @pick(in[{2 + k}] == in[{2 + k}], in[{2 + k}], 0.f);\n"
            for k, season in enumerate(seasons)
        )
        reading = self._reading(series.features, "self->seen[t]", "in", 2 + len(seasons))
        c = "    memset(self->c, 0, sizeof self->c);\n" if net.cells else ""
        return f"""\
    const float *h = 0;
    float value = {begin};
    memset(self->h, 0, sizeof self->h);
{c}    for (int t = 0; t < {W}; t++) {{
      float in[{net.inputs}];
      const float now = @of(past[t], &w);
      value = @pick(now == now, now, value);
      in[0] = value, in[1] = (float)(now != now);
{lags}{reading}      h = {net.call};
    }}
"""

    def _decoder(self, net: Net) -> str:
        """C that adds the quantiles of a member to `total`."""
        header = self.model.header
        K, Q, D, H = header.series.horizon, len(self.model.levels), header.decoder.width, net.outputs
        wide = -(-Q // UNIT) * UNIT
        if header.decoder.kind == "linear":
            all_ = -(-K * Q // UNIT) * UNIT
            return f"""\
    float out[{all_}];
    @dense(out, @head_w + member * {all_ * H}, @head_b + member * {all_}, h, {H}, {all_ // UNIT});
    for (int k = 0; k < {K * Q}; k++) total[k] += (double)out[k];
"""
        U, deep = header.ahead, -(-D // UNIT) * UNIT
        lags = ""
        for n, lag in enumerate(header.series.lags):
            near = next((m for m in reversed(range(n)) if header.series.lags[m].season == lag.season), 0 if n else None)
            place = f"{header.series.reach} + k - {lag.season} * (k / {lag.season} + {1 + lag.back})"
            lags += f"      u[{1 + 2 * n}] = @of(self->past[{place}], &w);\n"
            lags += f"      u[{2 + 2 * n}] = (float)(u[{1 + 2 * n}] != u[{1 + 2 * n}]);\n"
            other = "0.f" if near is None else f"u[{1 + 2 * near}]"
            lags += f"      u[{1 + 2 * n}] = @pick(u[{2 + 2 * n}] == 0.f, u[{1 + 2 * n}], {other});\n"
        x = f"(x + {1 + self._own} + k * {self._ahead})"
        reading = self._reading(header.series.of("future"), x, "u", 1 + 2 * len(header.series.lags))
        return f"""\
    float all[{H + CONTEXT}];
    memcpy(all, h, {H} * sizeof *all);
    const double level = w.size > {header.series.scale.floor!r} ? w.size : {header.series.scale.floor!r};
    all[{H}] = @log((float)(w.spread / level));
    all[{H + 1}] = 1.f - (float)({header.series.window} - w.known) / {header.series.window}.f;
    all[{H + 2}] = @of(w.mean, &w);
    for (int k = 0; k < {K}; k++) {{
      float u[{U}], z[{deep}], out[{wide}], base = 0.f;
      u[0] = (float)(k + 1) / {K}.f;
{lags}{reading}\
      const int at = member * {K} + k;
      @dense(z, @head_w + at * {deep * (H + CONTEXT)}, @head_b + at * {deep}, all, {H + CONTEXT}, {deep // UNIT});
      for (int b = 0; b < {deep // UNIT}; b++) @rows(z + b * 16, @ahead_w + member * {deep * U} + b * {16 * U}, u, {U});
      for (int d = 0; d < {D}; d++) z[d] = @tanh(z[d]);
      for (int n = 0; n < {U}; n++) base = @fma(@skip[member * {U} + n], u[n], base);
      @dense(out, @out_w + member * {wide * D}, @out_b + member * {wide}, z, {D}, {wide // UNIT});
      @spread_out(out, base);
      for (int q = 0; q < {Q}; q++) total[k * {Q} + q] += (double)out[q];
    }}
"""

    def _forecast(self, net: Net) -> str:
        series, header = self._series, self.model.header
        W, K, Q, reach = series.window, series.horizon, len(self.model.levels), series.reach
        seen = ""
        if self._own:
            seen = f"""\
  memmove(self->seen, self->seen + 1, {W - 1} * sizeof *self->seen);
  memcpy(self->seen[{W - 1}], x + 1, sizeof *self->seen);
"""
        linear = header.decoder.kind == "linear"
        ordered = (
            f"""\
    for (int q = 1; q < {Q}; q++)
      for (int r = q; r > 0 && v[r] < v[r - 1]; r--) {{
        const double other = v[r];
        v[r] = v[r - 1], v[r - 1] = other;
      }}
"""
            if linear
            else ""
        )
        above = below = ""
        if series.positive:
            above = f"  int below = 0;\n  for (int t = 0; t < {reach}; t++) below |= self->past[t] < 0.;\n"
            below = f"    for (int q = 0; q < {Q}; q++) v[q] = v[q] < 0. && !below ? 0. : v[q];\n"
        return f"""\
{self._reads()}{self._spread_out()}{self._measure()}\
/* Takes the next step and forecasts those behind it; NaN until the window is full, and where it holds nothing known. */
static inline void @step(@ *self, const float *x, float *y) {{
  const double *past = self->past + {reach - W};
  double total[{K * Q}] = {{0.}};
  @window w;
  if (!self->count)
    for (int t = 0; t < {reach}; t++) self->past[t] = (double)@from_bits(0x7fc00000u);
  memmove(self->past, self->past + 1, {reach - 1} * sizeof *self->past);
  self->past[{reach - 1}] = (double)x[0];
{seen}\
  if (self->count < {W}) self->count++;
  @measure(past, &w);
  if (self->count < {W} || !w.known) {{
    for (int k = 0; k < {K * Q}; k++) y[k] = @from_bits(0x7fc00000u);
    return;
  }}
  for (int member = 0; member < {net.members}; member++) {{
{self._window(net)}{self._decoder(net)}  }}
{above}\
  for (int k = 0; k < {K}; k++) {{
    double *v = total + k * {Q};
    for (int q = 0; q < {Q}; q++) v[q] = w.anchor + w.spread * v[q] / {net.members}.;
{ordered}{self._calibrated(f"@shift + k * {Q}", "w.spread")}{below}\
    for (int q = 0; q < {Q}; q++) y[k * {Q} + q] = (float)v[q];
  }}
}}
"""

    def _recorded(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and what comes of them, float32 [T, I] and [T, O]; NaN until the window is full."""
        model, series = self.model, self._series
        if self.int8:
            model = replace(model, networks=tuple(recorded.Eight(n.cell, n.layers) for n in model.networks))
        panel = recorded.drawn(model, (0 if model.header.decoder.kind == "simulate" else series.window) + STEPS)
        return recorded.inputs(model, panel), recorded.answers(model, panel)
