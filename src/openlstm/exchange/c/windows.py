"""A model that forecasts from a window, in C: the window is measured anew with every value, as `runtime.stream` does.

Legend: W steps of a window, K steps of the horizon, Q quantiles, D width of the decoder, H hidden size, U numbers ahead.
"""

from __future__ import annotations

from openlstm.exchange.c.net import UNIT, Net, array
from openlstm.exchange.c.parts import Parts
from openlstm.model_file.header import CONTEXT


class Forecasting(Parts):
    """A model of the decoder direct, or linear as in files of older versions."""

    @property
    def warmup(self) -> int:
        """W - 1 steps give no answer yet."""
        return self.series.window

    def about(self) -> tuple[str, ...]:
        """What x and y are."""
        series = self.series
        lines = [f"the model of {series.target}, {series.horizon} steps ahead"]
        lines.append(f"x: {'; '.join([series.target, *self.columns()])}")
        if ahead := self.calendar() + [f.name for f in series.of("future")]:
            lines.append(f"   and then, of each of the {series.horizon} steps ahead: {'; '.join(ahead)}")
        lines.append(f"y: of each step ahead {self.levels()}; NaN until there were {series.window} steps")
        return tuple(lines)

    def arrays(self) -> list[str]:
        """The matrices of the decoder."""
        header = self.model.header
        if header.decoder.kind == "linear":
            return self.dense("head", self.tensor("head.weight"), self.tensor("head.bias"))
        K, D, H = header.series.horizon, header.decoder.width, header.network.hidden_size
        head = self.tensor("head.weight", (K, D, H + CONTEXT)), self.tensor("head.bias", (K, D))
        out = self.dense("head", *head) + self.dense("ahead", self.tensor("ahead.weight"))
        out += self.dense("out", self.tensor("out.weight"), self.tensor("out.bias"))
        return [*out, array("@skip", self.tensor("skip.weight"))]

    def state(self) -> str:
        """What the window needs of the past."""
        series = self.series
        seen = f"  float seen[{series.window}][{self.own}]; /* x beside it */\n" if self.own else ""
        return f"  double past[{series.reach}]; /* of the target, the newest last */\n{seen}  int count; /* steps so far */\n"

    def functions(self, net: Net) -> str:
        """C of a step."""
        series, header = self.series, self.model.header
        W, K, Q, reach = series.window, series.horizon, len(self.model.levels), series.reach
        seen = ""
        if self.own:
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
{self.reads()}{self.spread_out()}{self._measure()}\
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
{ordered}{self.calibrated(f"@shift + k * {Q}", "w.spread")}{below}\
    for (int q = 0; q < {Q}; q++) y[k * {Q} + q] = (float)v[q];
  }}
}}
"""

    def _measure(self) -> str:
        """Anchor and spread of a window, see `runtime.window.measure`."""
        series = self.series
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
        series = self.series
        W, seasons = series.window, series.seasons
        reach = series.reach
        begin = "0.f" if series.scale.anchor == "season" else "@of(w.first, &w)"
        lags = "".join(
            f"      in[{2 + k}] = @of(self->past[{reach - W} + t - {season}], &w);\n"
            f"      in[{2 + k}] = @pick(in[{2 + k}] == in[{2 + k}], in[{2 + k}], 0.f);\n"
            for k, season in enumerate(seasons)
        )
        reading = self.reading(series.features, "self->seen[t]", "in", 2 + len(seasons))
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
        x = f"(x + {1 + self.own} + k * {self.ahead})"
        reading = self.reading(header.series.of("future"), x, "u", 1 + 2 * len(header.series.lags))
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
