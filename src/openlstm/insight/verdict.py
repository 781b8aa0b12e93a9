"""Before training: is a lag blocked? Two measures, two thresholds, one word.

Legend: T time, B batch, I input size, H hidden size, s the state (h, c) joined, or h for a cell without a highway.

With a loss, or a whole model, what is measured is the way from the inputs to what the loss reads, wherever it leads
(`insight.follow`). A bare layer without a loss, or a `Place`, is asked what of an input is left in its last state:

    share = mean_b || dL/ds_{T-lag} || / mean_b || dL/ds_T ||       L = sum_b v_b . h_T,  v_b a random unit vector
    flip  = mean_b || h_T' - h_T || / rms_b || h_T - mean h_T ||    the input at T-lag mirrored (`insight.flip`)

    blocked       share and flip below the thresholds of the measure
    no verdict    it would be blocked, but nearer lags carry the information, the input at the lag never differs, what is read
                  does not depend on it by construction, or no layer has a gate: training moves the few weights of a vanilla RNN
                  to where gradients pass, and of those with a share of 1e-12 and less some learnt `recall`;
                  or the measures cannot be taken (`follow.Unknown`), as of a bare layer of two directions without a loss
    not blocked   otherwise

s_T is the state after the last step, and h_T and c_T are independent coordinates of it (`insight.reach`). Of several layers the
one that does best speaks, since any of them may carry the lag. Of a last state at most 64 rows and the last 2 lag + 33 steps
are looked at; a single long sequence is cut into rows. The lag is counted from the end of each row.

'Blocked' is a law with exceptions that are counted (docs/horizon.md); 'not blocked' promises nothing: it means that these two
measures saw no obstacle. Neither is asked of a trained network, whose latched bit has a vanishing gradient: there `ablation`.

Source: Bengio, Simard & Frasconi 1994; thresholds and their limits: papers/horizon.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.engine.execute import plain_types
from openlstm.errors import ArgumentError, message
from openlstm.insight import needed as needs
from openlstm.insight.flip import Flip, flip
from openlstm.insight.follow import Followed, Unknown
from openlstm.insight.look import Place, look
from openlstm.insight.needed import Needed
from openlstm.insight.reach import reach
from openlstm.insight.words import plain
from openlstm.nn.batch import RECURRENT, Loss, formed, mapped
from openlstm.nn.form import Inputs
from openlstm.reference import State

ROWS = 64  # most sequences of a look
NEARER = 0.1  # of what a linear model can tell, told by nearer lags: from here on there is no verdict
OWN = 32  # longest context by which the inputs are asked whether they tell of themselves
ENOUGH = 100  # sequences with targets that a linear model needs


class Thresholds(NamedTuple):
    """Below both of them a lag is blocked."""

    share: float
    flip: float


THRESHOLDS = Thresholds(share=5e-6, flip=1e-5)
"""Of the last state: a tenth of the smallest value of any network with gates that learnt `recall`; no other task was asked
(papers/horizon.py)."""

LOSS_THRESHOLDS = Thresholds(share=7e-6, flip=1e-5)
"""Of the loss, drawn in the same way from the same networks before any other was judged."""


class Subject(NamedTuple):
    """What is looked at, whose gradient is followed, what a flip moves, and the thresholds."""

    name: str
    gradient: str
    read: str
    thresholds: Thresholds


LOSS = Subject("the loss", "gradient of the loss", "what the loss reads", LOSS_THRESHOLDS)
OUTPUT = Subject("the output", "gradient of a random probe of the output", "the output", LOSS_THRESHOLDS)
LAST_OUTPUT = Subject("the last output", "gradient of a random probe of the last output", "the last output", LOSS_THRESHOLDS)
LAST_STATE = Subject("the last state", "gradient", "the last state", THRESHOLDS)


@dataclass(frozen=True)
class Verdict:
    """The word for one lag, and the numbers behind it.

    word: "blocked", "not blocked" or "no verdict".
    share, flip: as defined above; NaN where they could not be taken.
    of: what was looked at: "the loss"; "the output" or, of one at every step, "the last output"; "the last state"; "nothing".
    place: the layer whose last state does best; "" where the whole model was followed.
    needed: what a linear model says of the data; None where there was too little of them.
    """

    word: str
    lag: int
    share: float
    flip: float
    thresholds: Thresholds
    reason: str
    place: str = "0"
    needed: Needed | None = None
    of: str = "the last state"

    @property
    def finding(self) -> str:
        """One sentence."""
        return f"Lag {self.lag}: {self.word}. {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        needed = None if self.needed is None else self.needed.to_dict()
        return {**plain(replace(self, needed=None)), "thresholds": self.thresholds._asdict(), "needed": needed}


class Measured(NamedTuple):
    """The two measures.

    place: the layer that does best. gated: whether any layer has gates. of: what was looked at.
    depends: whether what is read depends on the input at the lag at all. rows: that reach back to the lag, and all.
    """

    share: float
    flip: Flip
    place: str
    gated: bool
    of: Subject = LAST_STATE
    depends: bool = True
    rows: tuple[int, int] = (0, 0)

    @property
    def low(self) -> bool:
        """Below both thresholds."""
        return self.share < self.of.thresholds.share and self.flip.ratio < self.of.thresholds.flip


def verdict(
    model: nn.Module | Place,
    data: Any = None,
    lag: int | None = None,
    *,
    loss: Any = None,
    target: Any = None,
    needed: Needed | None = None,
    layers: str | Sequence[str] | None = None,
) -> Verdict:
    """Say of an untrained network whether a lag is blocked.

    Args:
        model: a recurrent layer, a module that holds some, or a `Place` that `look` found (then `data` is not read).
        data, loss: as in `openlstm.xray`. With a loss it is followed; without one the output of a model, the last state of a
            layer.
        lag: steps between what has to be remembered and the last step of a row; None for the lag that the data need.
        target: what is to be learnt, [B] or [B, D] for the end of the sequences or [T, B, D]; with 100 sequences or more a
            linear model says what nearer lags tell of it. Without it the inputs are asked what they tell of themselves.
        needed: an answer of `insight.needed` that is there already.
        layers: only these, as in `look`.

    Raises:
        ArgumentError: for a lag outside the sequences, fewer than two rows, or no lag in sight.

    >>> import openlstm
    >>> _ = torch.manual_seed(0)
    >>> layer, x = openlstm.LSTM(1, 32), torch.randn(121, 32, 1)
    >>> verdict(layer, x, lag=120).word, verdict(openlstm.nn.init.chrono(layer, 120), x, lag=120).word
    ('blocked', 'not blocked')
    """
    if isinstance(model, Place):
        places = (model,)
    else:
        data, loss, _ = formed(model, data, loss, "verdict")
        places = look(model, data, loss, layers=layers).places
    if needed is None:
        needed = _needed(places, target, lag)
    if lag is None:
        if needed is None or needed.lag is None:
            got, hint = "lag=None", "say which lag matters: lag=120"
            raise ArgumentError(message("verdict", "the data do not show which lag they need", got, "a lag", hint))
        lag = needed.lag
    try:
        found = seeing(model, data, loss, places, lag).measured(lag)
    except Unknown as why:
        reason = f"{str(why)[0].upper()}{str(why)[1:]}."
        return Verdict("no verdict", lag, math.nan, math.nan, LOSS_THRESHOLDS, reason, "", needed, "nothing")
    return judge(found, lag, needed)


def judge(found: Measured, lag: int, needed: Needed | None = None) -> Verdict:
    """The word for two measures."""
    _, gradient, read, limits = found.of
    numbers = (
        f"the share of the {gradient} that reaches it is {found.share:.1e} (blocked below {limits.share:g}), "
        f"a flipped input moves {read} by {found.flip.ratio:.1e} of its spread (below {limits.flip:g})"
    )
    if not found.low:
        word, reason = "not blocked", f"{numbers[0].upper()}{numbers[1:]}: nothing here rules out that it is learnt."
    elif not found.flip.changed:
        word, reason = "no verdict", f"The input {lag} steps back is the same in every sequence: there is nothing to remember."
    elif not found.depends:
        word = "no verdict"
        reason = f"By construction {read} does not depend on the input {lag} steps back: the model or the loss leaves it out."
    elif not found.gated:
        word = "no verdict"
        reason = f"{numbers[0].upper()}{numbers[1:]}; of a vanilla RNN such numbers do not tell, take a layer with gates."
    elif needed is not None and needed.nearer(lag) >= NEARER:
        told = f"a linear model of nearer lags already tells {needed.nearer(lag):.0%} of what one of all lags tells"
        word = "no verdict"
        reason = f"{told}, so that a network can learn its way back step by step; {numbers}."
        reason = reason[0].upper() + reason[1:]
    else:
        who = "training" if found.of is LOSS else f"training that reads {read} alone"
        more = "" if found.of is LOSS else " Where more is read, pass the loss."
        word, reason = "blocked", f"{numbers[0].upper()}{numbers[1:]}: {who} hears nothing of it.{more}"
    reach, every = found.rows
    if reach < every:
        reason += f" {reach} of {every} rows reach so far back."
    return Verdict(word, lag, found.share, found.flip.ratio, limits, reason, found.place, needed, found.of.name)


def measure(model: nn.Module | Place, data: Any, lag: int, *, loss: Any = None) -> Measured:
    """The two measures alone.

    Raises:
        ArgumentError: as `verdict`.
        Unknown: where they cannot be taken.
    """
    if isinstance(model, Place):
        return LastState([model]).measured(lag)
    data, loss, _ = formed(model, data, loss, "measure")
    return seeing(model, data, loss, look(model, data, loss).places, lag).measured(lag)


def seeing(
    model: nn.Module | Place, data: Any, loss: Loss | None, places: Sequence[Place], lag: int | None = None
) -> LastState | WholeModel:
    """What takes the measures: of the last state of a bare layer without a loss, else of the whole model.

    Args:
        data, loss: as `nn.batch.formed` gives them.
        places: of `look`.
        lag: that will be asked for, by which a single long sequence is cut into rows.

    Raises:
        ArgumentError: for a single sequence that is too short for it.
        Unknown: where they cannot be taken.
    """
    if isinstance(model, nn.Module) and (loss is not None or not isinstance(model, RECURRENT)):
        whole: nn.Module = getattr(model, "_orig_mod", model)
        if places[0].rows == 1:
            data = _in_rows(data, places[0].steps, places[0].steps // 4 if lag is None else lag)
            places = look(whole, data, loss).places
        if places[0].rows == 1:
            raise ArgumentError(_no_spread(places[0].steps, lag or 0))
        return WholeModel(whole, data, loss, places)
    if any(p.reverse for p in places):
        raise Unknown("the layer runs in two directions, and which of its outputs are read is not known: pass the loss")
    return LastState(places)


def _in_rows(data: Any, steps: int, lag: int) -> Any:
    """A single long sequence [T, 1, ..] or [1, T, ..], and the targets of its steps, as rows that follow each other."""
    _expect_lag(lag, steps)
    window = max(lag + 1, min(2 * lag + 33, steps // 2))
    rows = min(steps // window, ROWS)

    def cut(a: Any) -> Any:
        if not isinstance(a, Tensor):
            return a
        if rows < 2 or tuple(a.shape[:2]) not in ((steps, 1), (1, steps)):
            raise ArgumentError(_no_spread(steps, lag))
        first = a.shape[0] == steps
        some = (a[:, 0] if first else a[0])[-rows * window :].unflatten(0, (rows, window))
        return some.transpose(0, 1) if first else some

    return mapped(data, cut)


def _no_spread(steps: int, lag: int) -> str:
    got, hint = f"1 row of {steps} steps", f"pass a batch, or a sequence of {2 * (lag + 1)} steps or more"
    return message("verdict", "one sequence shows no spread", got, "two rows or more", hint)


class WholeModel(Followed):
    """The measures of `insight.follow`."""

    @property
    def of(self) -> Subject:
        """What is looked at."""
        if self.loss is not None:
            return LOSS
        return OUTPUT if all(read.steps is None for read in self.reads) else LAST_OUTPUT

    def measured(self, lag: int) -> Measured:
        """The two measures."""
        self._expect(lag)
        found = Measured(self.share(lag), self.flip(lag), "", any(p.gates for p in self.places), self.of)
        found = found._replace(rows=(int((self.ends > lag).sum()), self.rows))
        return found._replace(depends=self.depends(lag)) if found.low else found

    def _expect(self, lag: int) -> None:
        _expect_lag(lag, self.steps)
        if lag > self.longest:
            got = f"lag={lag}, {int((self.ends > lag).sum())} of {self.rows} rows are longer"
            raise ArgumentError(_short(got))


class LastState:
    """The measures of the last state of layers: the best share of any place, the best flip of any module."""

    of = LAST_STATE

    def __init__(self, places: Sequence[Place]) -> None:
        first = places[0]
        self.places = [p for p in places if not p.reverse and p.steps == first.steps and p.rows == first.rows]

    @property
    def longest(self) -> int:
        """The longest lag that can be looked at."""
        first = self.places[0]
        return (first.steps // 2 if first.rows == 1 else int(first.ends().sort(descending=True).values[1])) - 1

    def measured(self, lag: int) -> Measured:
        """The two measures."""
        shares = {place.name: reach(rows_of([place], lag)[0], "random").at(lag) for place in self.places}
        best = max(shares, key=lambda name: shares[name])
        first = self.places[0]
        rows = (int((first.ends() > lag).sum()), first.rows)
        return Measured(shares[best], self.flip(lag), best, any(place.gates for place in self.places), rows=rows)

    def shares(self) -> np.ndarray:
        """The share of every lag, of the place that reaches furthest."""
        found = [reach(p, "random").share for p in self.places]
        return max(found, key=lambda share: int((share >= THRESHOLDS.share).sum()))

    def flip(self, lag: int) -> Flip:
        """The input flip at a lag."""
        flips = []
        for path in dict.fromkeys(place.path for place in self.places):
            module = rows_of([p for p in self.places if p.path == path], lag)
            flips.append(flip(lambda x, module=module: final_state(module, x), module[0].x, lag))
        return max(flips, key=lambda f: f.ratio)


def _expect_lag(lag: int, steps: int) -> None:
    if not 0 <= lag < steps:
        raise ArgumentError(_short(f"lag={lag}, T={steps}", "0 <= lag < T"))


def _short(got: str, expected: str = "two rows longer than the lag") -> str:
    hint = "pass sequences longer than the lag, or ask for a shorter one"
    return message("verdict", "the data are shorter than the lag", got, expected, hint)


def rows_of(places: Sequence[Place], lag: int) -> list[Place]:
    """The last steps of some rows of the layers of one module, each up to its own end; a single long sequence as rows."""
    first = places[0]
    _expect_lag(lag, first.steps)
    ends = first.ends()
    kept = (ends > lag).nonzero()[:ROWS, 0]
    if first.rows == 1:
        window = lag + 1
        kept = kept.new_zeros(min(int(ends[0]) // window, ROWS))
        last = ends[0] - window * torch.arange(len(kept), device=ends.device).flip(0)  # [rows], where each row ends
    else:
        last = ends[kept]
        window = min(int(last.min()), 2 * lag + 33) if len(kept) else 0
    if len(kept) < 2:
        if first.rows == 1:
            raise ArgumentError(_no_spread(first.steps, lag))
        raise ArgumentError(_short(f"lag={lag}, {len(kept)} of {first.rows} rows are longer"))
    at = last - window + torch.arange(window, device=ends.device)[:, None]  # [window, rows]

    def steps(a: Tensor | None) -> Any:  # [T, B, ..] -> [window, rows, ..]
        return None if a is None else a[at, kept]

    def start(s: Tensor | None) -> Any:  # of rows that are cut the state is not known
        return None if s is None else torch.where((at[0] == 0)[:, None], s[kept], 0)

    def fresh(s: Tensor | None) -> Any:
        return None if s is None else steps(s) if s.dim() == 3 else s[kept]

    return [
        replace(
            p,
            x=steps(p.x),
            state=State(*(start(s) for s in p.state)),
            reset=steps(p.reset),
            reset_state=None if p.reset_state is None else State(*(fresh(s) for s in p.reset_state)),
            lengths=None,
            noise=None,
            dy=None,
            dstate=None,
        )
        for p in places
    ]


def final_state(places: Sequence[Place], x: Tensor) -> Tensor:
    """h_T [B, R] of the last forward layer of a module, for other inputs."""
    module = places[0].module
    D = module.num_directions
    h = [torch.zeros_like(p.state.h) for p in places for _ in range(D)]
    c = [torch.zeros_like(p.state.c) for p in places for _ in range(D) if p.state.c is not None]
    for p in places:
        h[p.index * D] = p.state.h
        if p.state.c is not None:
            c[p.index * D] = p.state.c
    own = next(module.parameters()).dtype  # of a module in half precision too, whose places are kept in float32
    begin = State(torch.stack(h).to(own), torch.stack(c).to(own) if c else None)
    with torch.no_grad(), plain_types(x):  # a flip of 1e-5 is less than bfloat16 can tell
        return module.run_layers(Inputs(x.to(own), begin, None, places[0].reset, None))[1].h[-D].to(x.dtype)


def _needed(places: Sequence[Place], target: Any, lag: int | None) -> Needed | None:
    """What a linear model says, of the target where there are enough rows with one, else of the inputs themselves."""
    x, target = aligned(places[0], target, lag)
    T, B = x.shape[:2]
    every = getattr(target, "shape", ())[:2] == (T, B)
    if target is not None and (B if not every else B * (T // 2)) >= ENOUGH:
        return needs.needed(x, target)
    longest = min(OWN if lag is None else min(lag, OWN), (T - 1) // 2)
    if longest < 1 or B * (T - longest) < 2 * ENOUGH or target is not None and lag is None:
        return None
    found = needs.needed(x, longest=longest, features=128)
    return None if found.lag is None else found


def aligned(place: Place, target: Any = None, lag: int | None = None) -> tuple[Tensor, Any]:
    """The inputs [T', B', I] of a place, and the targets, of rows that end together.

    Rows of different lengths are cut to the last steps that those longer than the lag have (without one the longer half).
    """
    ends = place.ends()
    if bool((ends == place.steps).all()):
        return place.x, target
    rows = (ends > (int(ends.median()) - 1 if lag is None else lag)).nonzero()[:, 0]
    if not len(rows):
        return place.x[:0], None
    at = ends[rows] - int(ends[rows].min()) + torch.arange(int(ends[rows].min()), device=ends.device)[:, None]
    shape = getattr(target, "shape", ())
    if shape[:2] == (place.steps, place.rows):
        target = target[at, rows]
    elif shape[:1] == (place.rows,):
        target = target[rows]
    return place.x[at, rows], target
