"""What to change about a blocked lag, found by trying: every way to begin is measured as the verdict measures, none is trusted.

    candidates   forget-bias=1, 2, 3, 5; chrono=lag (T_max = 2 lag, Tallec & Ollivier 2018); orthogonal; identity (vanilla RNN)
    read         how well the input at the lag can be read off h_T by a linear model:  r = sqrt(max(0, R^2)), where R^2 is that
                 of ridge regression of x_{T-lag} on h_T, every row judged by the fit to the others
    best         the candidate that reads best among those that are not blocked and read at least READABLE; where none does, the
                 first in the order above that is not blocked: chrono, which is made for the lag

Neither the gradient's share nor the flip ranks: both are large where a state moves a lot, in a direction that depends on all
the other inputs, so that nobody can tell which way the one that counts pointed (forget bias 3 and 5 on `latch`). r is about
0.5 for the gates that learn it and at most 0.25 for those that do not. It takes PROBE rows; where the data hold fewer, each
step of a new row is taken from a row of the data at random, which leaves what is read and what distracts as they were.

Training may undo a good beginning within ten steps. With a loss the best candidate is given a trial of TRIAL steps of Adam on
the data at hand; where its flip ratio falls below a tenth of what it was, a warm-up and a smaller rate are tried.

Legend: T time, B batch, H hidden size.

Source: measured (docs/horizon.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from openlstm.errors import ArgumentError
from openlstm.insight import charts
from openlstm.insight.batches import NotMeasurable, calling, each, parts_of
from openlstm.insight.calls import ours
from openlstm.insight.capture import capture_layers, recurrent_layers
from openlstm.insight.display import ALARM, SOFT, Chart, Display, alt
from openlstm.insight.judge.lag_measures import LagMeasures, LastState, final_state, lag_measures, rows_of
from openlstm.insight.judge.required_lag import RequiredLag
from openlstm.insight.judge.verdict import Verdict, decide, verdict
from openlstm.insight.place import Place
from openlstm.insight.results import Record
from openlstm.insight.words import unmeasured
from openlstm.nn import init
from openlstm.nn.batch import Loss, formed

PROBE = 1024  # rows by which it is measured what can be read
READABLE = 0.15  # r below which nothing can be said to be read: at the best of five ridges noise gives up to 0.1
RIDGES = (1e-4, 1e-2, 1e-1, 1.0, 10.0)  # of the mean variance of the directions of h_T; the best is taken
TRIAL = 20  # steps of training that the best candidate is given
RATE = 3e-3
CLIP = 1.0
WARM_UP = 100  # steps of the warm-up that is recommended
COLLAPSED = 0.1  # of the flip before the trial: below it the horizon has collapsed


@dataclass(frozen=True)
class Trials:
    """How candidates are tried.

    Fields:
        steps: of Adam in the trial of the best one; 0 for none.
        rate: of Adam.
        rows: by which it is measured what can be read.
        seed: of what the candidates draw.
        always: try them even where nothing is blocked.
    """

    steps: int = TRIAL
    rate: float = RATE
    rows: int = PROBE
    seed: int = 0
    always: bool = False


@dataclass(frozen=True)
class Candidate(Record):
    """One change, and what it did.

    flag: for `--init`; None for a change of the training.
    line: the Python that makes it, to `layer`, to the one recurrent layer of `model`, or to all of them.
    share, flip, verdict, read: before any training.
    share_after, flip_after: after the trial; None where there was none.
    apply: makes the change to a module, in place, and returns it.
    """

    shown: ClassVar[tuple[str, ...]] = ("score",)

    name: str
    flag: str | None
    line: str
    share: float
    flip: float
    verdict: str
    read: float = 0.0
    share_after: float | None = None
    flip_after: float | None = None
    apply: Callable[[Any], Any] = field(default=lambda module: module, repr=False, compare=False)

    @property
    def score(self) -> float:
        """By which candidates are ranked."""
        return 0.0 if self.verdict != "not blocked" or self.read < READABLE else self.read


@dataclass(frozen=True)
class Advice(Record):
    """The verdict of the network as it is, what was tried, and the best of it.

    best: None where nothing is blocked, or nothing helps.
    notes: sentences on what no flag sets: warm-up, rate, window, another cell.
    """

    shown: ClassVar[tuple[str, ...]] = ("finding",)

    verdict: Verdict
    tried: tuple[Candidate, ...]
    best: Candidate | None
    notes: tuple[str, ...] = ()

    @property
    def finding(self) -> str:
        """What to do, in a sentence or two."""
        if self.best is not None:
            how = f"--init {self.best.flag}, or in Python {self.best.line}"
            gain = f"what was there {self.verdict.lag} steps ago can be read off the last state with r = {self.best.read:.2f}"
            text = f"Lag {self.verdict.lag} is blocked; best of {len(self.tried)} changes is {self.best.flag} ({how}): {gain}"
            text += f", the share of the gradient that reaches it is {self.best.share:.2g}."
        elif self.verdict.word == "blocked":
            text = f"Lag {self.verdict.lag} is blocked, and none of {len(self.tried)} ways to begin opens it."
        elif self.verdict.of == "nothing":
            text = unmeasured(self.verdict.lag, self.verdict.reason)
        elif self.verdict.word == "no verdict":
            text = f"Lag {self.verdict.lag}: no verdict, and so no change is advised for it."
        else:
            text = f"Lag {self.verdict.lag}: {self.verdict.word}; nothing has to be changed for it."
        return " ".join([text, *self.notes])

    def display(self) -> Display:
        """The share of the gradient and the input flip of every candidate, against the thresholds."""
        return _drawn(self)


def advise(
    model: nn.Module,
    data: Any,
    lag: int | None = None,
    loss: Any = None,
    *,
    target: Any = None,
    required: RequiredLag | None = None,
    window: int | None = None,
    trials: Trials = Trials(),
) -> Advice:
    """Say whether a lag is blocked, and if it is, what opens it.

    The model is left as it is: everything is tried on copies.

    Args:
        model, data, lag, loss, target, required: as in `verdict`. A loss allows a trial of a few training steps.
        window: the steps through which training goes back (truncated backpropagation); None if through all.
        trials: how candidates are tried.

    Raises:
        ArgumentError: as `verdict`.

    >>> import openlstm
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(141, 64, 2)
    >>> advise(openlstm.LSTM(2, 32), x, lag=120).best.flag  # every step a full-size distractor
    'chrono=120'
    """
    data, loss, _ = formed(model, data, loss, "advise")
    own = verdict(model, data, lag, loss=loss, target=target, required=required)
    lag = own.lag
    notes: list[str] = []
    if window is not None and window <= lag:
        lost = f"Training goes back {window} steps, so that no gradient ever reaches lag {lag}"
        notes.append(f"{lost}: take windows of {lag + 1} or more.")
    if own.word != "blocked" and not trials.always:
        if own.word == "no verdict" and not _gated(model):
            notes.append(_another(model, lag))
        return Advice(own, (), None, tuple(notes))
    trying = _Trying(model, data, loss, own, trials)
    tried = [c for flag in flags(lag) if (c := trying.candidate(flag)) is not None]
    open_ = [c for c in tried if c.verdict == "not blocked"]
    if not open_:
        notes.append(_another(model, lag))
        return Advice(own, tuple(tried), None, tuple(notes))
    first = max(open_, key=lambda c: c.score)  # the first of them where none can be read
    if first.score == 0.0:
        notes.append(f"No linear model reads the lag off any of them; {first.flag} is taken since its gates are made for it.")
    best = trying.trained(first, trials.rate)
    tried[tried.index(first)] = best
    if best.flip_after is not None and best.flip_after < COLLAPSED * best.flip:
        softer, text = _softer(trying, best)
        tried += softer
        notes.append(text)
    return Advice(own, tuple(tried), best, tuple(notes))


def flags(lag: int) -> tuple[str, ...]:
    """The ways to begin that are tried for a lag; those that do not fit the cell are left out."""
    return (f"chrono={max(1, lag)}", *(f"forget-bias={b}" for b in (1, 2, 3, 5)), "orthogonal", "identity")


def readable(places: list[Place], lag: int, *, rows: int = PROBE, seed: int = 0) -> float:
    """How well the input at a lag can be read off the last state of a module: r of ridge regression, every row left out once.

    Args:
        places: forward places; the last module that ran is asked.
        lag: as in `verdict`.
        rows: to measure by; where the data hold fewer, each step of a row is taken from a row of the data at random.
    """
    own = rows_of([p for p in places if p.path == places[-1].path], lag)
    x = own[0].x
    T, B, _ = x.shape
    at = T - 1 - lag
    g = torch.Generator().manual_seed(seed)
    pick = torch.randint(B, (T, rows), generator=g).to(x.device)
    pick[at] = torch.arange(rows, device=x.device) % B
    many = x.gather(1, pick[..., None].expand(-1, -1, x.shape[2]))
    row = torch.randint(B, (rows,), generator=g).to(x.device)
    own = [p.calling(state=each(p.state, lambda s: s[row]), reset=None) for p in own]
    h, y = (a - a.mean(0) for a in (final_state(own, many).double(), many[at].double()))  # [N, R], [N, I]
    spread = y.pow(2).sum()
    if spread == 0:
        return 0.0
    values, vectors = torch.linalg.eigh(h.T @ h)
    z = h @ vectors  # [N, R], columns at right angles
    best = torch.zeros((), dtype=h.dtype)
    for ridge in RIDGES:
        shrunk = 1 / (values.clamp(min=0) + ridge * values.mean() + 1e-300)  # [R]
        leverage = (z.square() * shrunk).sum(1) + 1 / rows
        left = (y - z @ (shrunk[:, None] * (z.T @ y))) / (1 - leverage).clamp(min=1e-6)[:, None]
        best = torch.maximum(best, 1 - left.square().sum() / spread)
    return float(best.sqrt())


class _Trying:
    """What a candidate is measured with."""

    def __init__(self, model: nn.Module, data: Any, loss: Loss | None, own: Verdict, trials: Trials) -> None:
        self.model, self.data, self.loss, self.trials = model, data, loss, trials
        self.lag, self.required = own.lag, own.required
        self.name = _named(model)

    def candidate(self, flag: str) -> Candidate | None:
        """One way to begin, measured; None where the cell has no such way."""
        choice = init.parse(flag)
        try:
            model = self._begin(choice)
        except ArgumentError:
            return None
        found, places = self._measured(model)
        if found is None:
            return None
        word = decide(found, self.lag, self.required).word
        read = readable(LastState(places).places, self.lag, rows=self.trials.rows, seed=self.trials.seed)
        name = flag.replace("=", " ")
        line = choice.line.replace("layer", self.name) if self.name else f"openlstm.nn.init.apply(model, {flag!r})"
        numbers = (found.share, found.flip.ratio, word, read)
        return Candidate(name, flag, line, *numbers, apply=lambda module: init.apply(module, choice))

    def trained(self, c: Candidate, rate: float, warm_up: int = 0) -> Candidate:
        """The same with its measures after the trial."""
        if not self.trials.steps or self.loss is None or c.flag is None:
            return c
        model = self._begin(init.parse(c.flag))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.trials.seed)
            self._train(model, rate, warm_up)
        found, _ = self._measured(model)
        return c if found is None else replace(c, share_after=found.share, flip_after=found.flip.ratio)

    def _measured(self, model: nn.Module) -> tuple[LagMeasures | None, tuple[Place, ...]]:
        """The measures, None where they cannot be taken."""
        places = capture_layers(model, self.data, self.loss).places
        try:
            return lag_measures(model, self.data, self.loss, places, self.lag).measured(self.lag), places
        except NotMeasurable:
            return None, places

    def _begin(self, choice: init.Choice) -> nn.Module:
        model = copy.deepcopy(self.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.trials.seed)
            return init.apply(model, choice)

    def _train(self, model: nn.Module, rate: float, warm_up: int) -> None:
        assert self.loss is not None
        data = parts_of(self.data)
        own = [p for p in model.parameters() if p.requires_grad]
        adam = torch.optim.Adam(own, rate)
        model.train()
        with torch.enable_grad(), calling("in a few steps of training"):
            for step in range(self.trials.steps):
                adam.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / warm_up) if warm_up else rate
                adam.zero_grad()
                self.loss(model, *data).backward()
                if nn.utils.clip_grad_norm_(own, CLIP).isfinite():
                    adam.step()


def _softer(trying: _Trying, best: Candidate) -> tuple[list[Candidate], str]:
    """A warm-up and a smaller rate, where the horizon of the best way to begin collapses at the full rate."""
    assert best.flag is not None and best.flip_after is not None
    rate = trying.trials.rate
    ratio = f"from {best.flip:.2g} to {best.flip_after:.2g}"
    fell = f"After {trying.trials.steps} steps at rate {rate:g} the flip ratio falls {ratio}"
    warm = f"torch.optim.lr_scheduler.LinearLR(optimizer, 1 / {WARM_UP}, total_iters={WARM_UP})"
    slow = f"torch.optim.Adam(model.parameters(), {rate / 10:g})"
    changes = {f"warm-up of {WARM_UP} steps": (rate, WARM_UP, warm), f"rate {rate / 10:g}": (rate / 10, 0, slow)}
    found = []
    for name, (slower, warm_up, line) in changes.items():
        found.append(replace(trying.trained(best, slower, warm_up), name=name, flag=None, line=line))
    good = max(found, key=lambda c: c.flip_after or 0.0)
    if (good.flip_after or 0.0) < COLLAPSED * best.flip:
        return found, f"{fell}, with a warm-up and with a tenth of the rate too: watch the first steps of training."
    return found, f"{fell}; with a {good.name} it is {good.flip_after:.2g}: {good.line}."


def _another(model: nn.Module, lag: int) -> str:
    """What is left where nothing helps."""
    if not _gated(model):
        return f"A vanilla RNN has no gate that could keep: take openlstm.LSTM with --init chrono={lag}."
    return "Shorten the lag: fewer and longer steps, or a column that holds what has to be remembered."


def _named(model: nn.Module) -> str:
    """How the recurrent layer is called in Python; "" where there are several."""
    path, *more = recurrent_layers(model)
    if more:
        return ""
    if not path:
        return "layer"
    plain_names = all(part.isidentifier() for part in path.split("."))
    return f"model.{path}" if plain_names else f"model.get_submodule({path!r})"


def _gated(model: nn.Module) -> bool:
    return any(ours(m).cell.saved for m in recurrent_layers(model).values())


def _drawn(advice: Advice) -> Display:

    tried = [c for c in advice.tried if np.isfinite(c.share) or np.isfinite(c.flip)]
    names = [c.name for c in tried]
    best = None if advice.best is None else advice.best.name
    titles = {"share": "share of the gradient that reaches the lag", "flip": "input flip: signal to noise"}

    def panel(which: str, width: float, labels: bool) -> Chart:
        values, level = {c.name: float(getattr(c, which)) for c in tried}, getattr(advice.verdict.thresholds, which)
        low, high = charts.decade_span([*values.values(), level])
        rows = [
            {"n": n, "v": charts.within(v, low, high), "k": "best" if n == best else "tried", "d": f"{n}: {charts.number(v)}"}
            for n, v in values.items()
            if np.isfinite(v)
        ]
        y = alt.Y("n:N", sort=names, title=None, axis=alt.Axis(labels=labels, grid=True, labelLimit=170))
        color = alt.Color("k:N", scale=alt.Scale(domain=["best", "tried"], range=[ALARM, SOFT]), legend=None)
        shape = alt.Shape("k:N", scale=alt.Scale(domain=["best", "tried"], range=["diamond", "circle"]), legend=None)
        point = alt.Chart(charts.data(rows)).mark_point(filled=True, size=100, opacity=1)
        x = alt.X("v:Q", title=titles[which], **charts.log_axis(low, high, 4))
        rule = alt.Chart(charts.data([{"v": level}])).mark_rule(color=SOFT, strokeDash=[3, 3]).encode(alt.X("v:Q"))
        return (rule + point.encode(x, y, color, shape, description="d:N")).properties(width=width, height=24 * len(names))

    def drawn(width: int) -> Chart:
        if width < 500:
            return alt.vconcat(*(panel(which, width - 150, True) for which in titles), spacing=22)
        side = (width - 170) / 2 - 10
        return alt.hconcat(panel("share", side, True), panel("flip", side, False), spacing=18)

    columns = ("name", "flag", "line", "share", "flip", "read", "verdict")
    table = {c: [getattr(t, c) for t in advice.tried] for c in columns}
    free = sum(c.verdict != "blocked" for c in advice.tried)
    said = f"{free} of {len(advice.tried)} candidates are not blocked." + (f" {best} is the one recommended." if best else "")
    return Display("Every candidate by both measures", drawn, table, said)
