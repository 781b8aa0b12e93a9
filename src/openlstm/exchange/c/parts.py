"""What models of every decoder have in C: columns as the network reads them, matrices, quantiles that do not cross.

Legend: K steps of the horizon, Q quantiles, M members.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from openlstm.engine.rounded import check_rounded
from openlstm.exchange.c import code, recorded
from openlstm.exchange.c.cells import step
from openlstm.exchange.c.net import UNIT, Net, Program, array, blocks
from openlstm.model_file import Feature, Series
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


@dataclass(frozen=True)
class Parts(ABC):
    """A model on its way to C, of one kind of decoder."""

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
            model = replace(model, networks=tuple(recorded.Eight(n.cell, n.layers) for n in model.networks))
        panel = recorded.drawn(model, self.warmup + STEPS)
        tables = [
            array(f"@embed{k}", self.tensor(f"embed.{k}"))
            for k, f in enumerate(self.series.features)
            if f.categories is not None
        ]
        if self.calibrates:
            tables.append(array("@shift", model.tensors["calibration.network"]))
        arrays = FAST + "\n".join([*tables, *self.arrays()])
        rows = code.SUMS.format(name="rows", unit=UNIT, gates=1, stride=0)
        functions = "\n".join([rows, code.DENSE, self.functions(net)])
        told = recorded.inputs(model, panel), recorded.answers(model, panel)
        return Program(net, self.about(), self.state(), arrays, functions, *told)

    @property
    @abstractmethod
    def warmup(self) -> int:
        """Steps before the first answer."""

    @abstractmethod
    def about(self) -> tuple[str, ...]:
        """What x and y are."""

    @abstractmethod
    def state(self) -> str:
        """Fields beside the states of the layers."""

    @abstractmethod
    def arrays(self) -> list[str]:
        """The matrices of the decoder."""

    @abstractmethod
    def functions(self, net: Net) -> str:
        """C of a step."""

    @property
    def calibrates(self) -> bool:
        """Whether quantiles are moved by what was learned on validation."""
        return bool(self.model.header.forecasters[0].enough)

    @property
    def series(self) -> Series:
        return self.model.header.series

    @property
    def ahead(self) -> int:
        """Numbers of x for each step of the horizon."""
        return 2 * len(self.series.calendar) + len(self.series.of("future"))

    @property
    def own(self) -> int:
        """Numbers of x for the step itself, beside the target."""
        return 2 * len(self.series.calendar) + len(self.series.features)

    def tensor(self, name: str, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Of all members, float32 [M, ...]."""
        found = np.stack([self.model.weights(m)[0][name] for m in range(len(self.model.networks))])
        return found.reshape(len(found), *shape) if shape else found

    def columns(self) -> list[str]:
        """What x holds of the step itself, beside the target."""
        codes = lambda f: ", ".join(f"{k} {name}" for k, name in enumerate(f.categories or ()))  # noqa: E731
        of = lambda f: f.name if f.categories is None else f"{f.name} ({codes(f)})"  # noqa: E731
        return self.calendar() + [of(f) for f in self.series.features]

    def calendar(self) -> list[str]:
        """What x holds of the calendar."""
        return [f"{wave} of the {cycle}" for cycle in self.series.calendar for wave in ("sine", "cosine")]

    def levels(self) -> str:
        """What y holds."""
        return "the quantiles " + ", ".join(f"{q:g}" for q in self.model.levels)

    def reading(self, features: Iterable[Feature], x: str, to: str, at: int, indent: int = 6) -> str:
        """C that writes what the network reads of the calendar and the features, `x` as they are given, behind `to[at]`."""
        width = 2 * len(self.series.calendar)
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
            rows, n = len(f.categories) + 1, self.series.features.index(f)  # type: ignore[arg-type]
            place = f"(member * {rows} + @code({x}[{k}], {rows - 1})) * {f.width}"
            out.append(f"memcpy({to} + {at}, @embed{n} + {place}, {f.width} * sizeof *{to});")
            out.append(f"{to}[{at}] += @unknown({x}[{k}], {rows - 1}, {int(f.marked)});")
            at += f.width
        return "".join(f"{' ' * indent}{line}\n" for line in out)

    def dense(self, name: str, w: np.ndarray, b: np.ndarray | None = None) -> list[str]:
        """Matrices [..., N, K] in blocks, and their biases [..., N]."""
        N, inner = w.shape[-2:]
        made = np.stack([blocks(one[None], UNIT).ravel() for one in w.reshape(-1, N, inner)])
        wide = np.pad(np.zeros(w.shape[:-1], np.float32) if b is None else b, [(0, 0)] * (w.ndim - 2) + [(0, -N % UNIT)])
        return [array(f"@{name}_w", made)] + ([] if b is None else [array(f"@{name}_b", wide)])

    def spread_out(self) -> str:
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
        if not self.calibrates:
            return text
        return f"""{text}\
/* Moves quantiles by what was learned on validation, in spreads; none crosses the one beside it. */
static inline void @calibrate(double *v, const float *shift, double spread) {{
  for (int q = 0; q < {Q}; q++) v[q] += (double)shift[q] * spread;
  for (int q = {middle - 1}; q >= 0; q--) v[q] = v[q] > v[q + 1] ? v[q + 1] : v[q];
  for (int q = {middle + 1}; q < {Q}; q++) v[q] = v[q] < v[q - 1] ? v[q - 1] : v[q];
}}

"""

    def calibrated(self, shift: str, spread: str) -> str:
        return f"  @calibrate(v, {shift}, {spread});\n" if self.calibrates else ""

    def reads(self) -> str:
        """Numbers and categories as the network reads them."""
        out = ""
        if any(f.categories is None for f in self.series.features):
            out += """\
static inline float @scaled(float x, double mean, double deviation) {
  return @clamp((float)(((double)x - mean) / deviation), 30.f);
}

static inline float @known(float x, double mean, double deviation) {
  return @pick(x == x, @scaled(x, mean, deviation), 0.f);
}

"""
        if any(f.categories is not None for f in self.series.features):
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
