"""Before training: is a lag blocked? Two measures, two thresholds, one word.

Legend: T time, B batch, I input size, H hidden size, s the state (h, c) joined, or h for a cell without a highway.

    share = mean_b || dL/ds_{T-lag} || / mean_b || dL/ds_T ||       L = sum_b v_b . h_T,  v_b a random unit vector
    flip  = mean_b || h_T' - h_T || / rms_b || h_T - mean h_T ||    the input at T-lag mirrored (`insight.flip`)

    blocked       share < THRESHOLDS.share  and  flip < THRESHOLDS.flip
    no verdict    it would be blocked, but nearer lags carry the information, the input at the lag never differs, or no layer
                  has a gate: training moves the few weights of a vanilla RNN to where gradients pass, and of those with a share
                  of 1e-12 and less some learnt `recall`
    not blocked   otherwise

s_T is the state after the last step, and h_T and c_T are independent coordinates of it (`insight.reach`). Of several layers the
one that does best speaks, since any of them may carry the lag; of both directions the forward one. At most 64 rows and the last
2 lag + 33 steps are looked at; a single long sequence is cut into rows.

'Blocked' is a law with exceptions that are counted (docs/horizon.md); 'not blocked' promises nothing: it means that these two
measures saw no obstacle. Neither is asked of a trained network, whose latched bit has a vanishing gradient: there `ablation`.

Source: Bengio, Simard & Frasconi 1994; thresholds and their limits: papers/horizon.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from openlstm._errors import ArgumentError, message
from openlstm.engine.operators import plain_types
from openlstm.insight import needed as needs
from openlstm.insight.flip import Flip, flip
from openlstm.insight.look import Loss, Place, look
from openlstm.insight.needed import Needed
from openlstm.insight.reach import reach
from openlstm.insight.words import plain
from openlstm.nn.form import Arguments
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
"""A tenth of the smallest value of any network with gates that learnt `recall`; no other task was asked (papers/horizon.py)."""


@dataclass(frozen=True)
class Verdict:
    """The word for one lag, and the numbers behind it.

    word: "blocked", "not blocked" or "no verdict".
    share, flip: as defined above.
    place: the layer that does best.
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

    @property
    def finding(self) -> str:
        """One sentence."""
        return f"Lag {self.lag}: {self.word}. {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        needed = None if self.needed is None else self.needed.to_dict()
        return {**plain(replace(self, needed=None)), "thresholds": self.thresholds._asdict(), "needed": needed}


class Measured(NamedTuple):
    """The two measures, which layer does best, and whether any layer has gates."""

    share: float
    flip: Flip
    place: str
    gated: bool


def verdict(
    model: nn.Module | Place,
    data: Any = None,
    lag: int | None = None,
    *,
    loss: Loss | None = None,
    target: Any = None,
    needed: Needed | None = None,
) -> Verdict:
    """Say of an untrained network whether a lag is blocked.

    Args:
        model: a recurrent layer, a module that holds some, or a `Place` that `look` found (then `data` is not read).
        data, loss: as in `look`; a loss is only needed where the model cannot be called without its target.
        lag: steps between what has to be remembered and the last step; None for the lag that the data need.
        target: what is to be learnt, [B] or [B, D] for the end of the sequences or [T, B, D]; with 100 sequences or more a
            linear model says what nearer lags tell of it. Without it the inputs are asked what they tell of themselves.
        needed: an answer of `insight.needed` that is there already.

    Raises:
        ArgumentError: for a lag outside the sequences, rows of different lengths, fewer than two rows, or no lag in sight.

    >>> import openlstm
    >>> _ = torch.manual_seed(0)
    >>> layer, x = openlstm.LSTM(1, 32), torch.randn(121, 32, 1)
    >>> verdict(layer, x, lag=120).word, verdict(openlstm.nn.init.chrono(layer, 120), x, lag=120).word
    ('blocked', 'not blocked')
    """
    places = forward_places(model, data, loss)
    if needed is None:
        needed = _needed(places[0].x, target, lag)
    if lag is None:
        if needed is None or needed.lag is None:
            got, hint = "lag=None", "say which lag matters: lag=120"
            raise ArgumentError(message("verdict", "the data do not show which lag they need", got, "a lag", hint))
        lag = needed.lag
    found = measure_places(places, lag)
    return judge(found, lag, needed)


def judge(found: Measured, lag: int, needed: Needed | None = None, thresholds: Thresholds = THRESHOLDS) -> Verdict:
    """The word for two measures."""
    numbers = (
        f"the share of the gradient that reaches it is {found.share:.1e} (blocked below {thresholds.share:g}), "
        f"a flipped input moves the last state by {found.flip.ratio:.1e} of its spread (below {thresholds.flip:g})"
    )
    low = found.share < thresholds.share and found.flip.ratio < thresholds.flip
    if not low:
        word, reason = "not blocked", f"{numbers[0].upper()}{numbers[1:]}: nothing here rules out that it is learnt."
    elif not found.flip.changed:
        word, reason = "no verdict", f"The input {lag} steps back is the same in every sequence: there is nothing to remember."
    elif not found.gated:
        word = "no verdict"
        reason = f"{numbers[0].upper()}{numbers[1:]}; of a vanilla RNN such numbers do not tell, take a layer with gates."
    elif needed is not None and needed.nearer(lag) >= NEARER:
        told = f"a linear model of nearer lags already tells {needed.nearer(lag):.0%} of what one of all lags tells"
        word = "no verdict"
        reason = f"{told}, so that a network can learn its way back step by step; {numbers}."
        reason = reason[0].upper() + reason[1:]
    else:
        word, reason = "blocked", f"{numbers[0].upper()}{numbers[1:]}: training hears nothing of it."
    return Verdict(word, lag, found.share, found.flip.ratio, thresholds, reason, found.place, needed)


def measure(model: nn.Module | Place, data: Any, lag: int, *, loss: Loss | None = None) -> Measured:
    """The two measures alone.

    Raises:
        ArgumentError: as `verdict`.
    """
    return measure_places(forward_places(model, data, loss), lag)


def measure_places(places: list[Place], lag: int) -> Measured:
    """The two measures of forward places: the best share of any, the best flip of any module."""
    shares = {place.name: reach(rows_of([place], lag)[0], "random").at(lag) for place in places}
    best = max(shares, key=lambda name: shares[name])
    flips = []
    for path in dict.fromkeys(place.path for place in places):
        module = rows_of([p for p in places if p.path == path], lag)
        flips.append(flip(lambda x, module=module: final_state(module, x), module[0].x, lag))
    return Measured(shares[best], max(flips, key=lambda f: f.ratio), best, any(place.gates for place in places))


def forward_places(model: nn.Module | Place, data: Any, loss: Loss | None = None) -> list[Place]:
    """The forward directions of a model, those that see as many steps as the first one."""
    found = [model] if isinstance(model, Place) else [p for p in look(model, data, loss).places if not p.reverse]
    first = found[0]
    if first.lengths is not None and not bool((first.lengths == first.steps).all()):
        got, hint = "rows of different lengths", "pass rows of one length, the last steps of each"
        raise ArgumentError(message("verdict", "a lag is counted from the end of the rows", got, "rows of length T", hint))
    return [p for p in found if p.steps == first.steps and p.rows == first.rows]


def rows_of(places: list[Place], lag: int) -> list[Place]:
    """The last steps of some rows of the layers of one module; a single long sequence as rows."""
    x = places[0].x
    T, B = x.shape[:2]
    if not 0 <= lag < T:
        got, hint = f"lag={lag}, T={T}", "pass sequences longer than the lag, or ask for a shorter one"
        raise ArgumentError(message("verdict", "the data are shorter than the lag", got, "0 <= lag < T", hint))
    window = lag + 1 if B == 1 else min(T, 2 * lag + 33)
    rows = min(T // window if B == 1 else B, ROWS)
    if rows < 2:
        got, hint = f"{B} row of {T} steps", f"pass a batch, or a sequence of {2 * (lag + 1)} steps or more"
        raise ArgumentError(message("verdict", "one sequence shows no spread", got, "two rows or more", hint))

    def some(a: Tensor | None, axis: int) -> Tensor | None:  # the rows, on this axis
        if a is None:
            return None
        return a.expand(*(rows if k == axis else -1 for k in range(a.dim()))) if B == 1 else a.narrow(axis, 0, rows)

    def steps(a: Tensor) -> Tensor:  # [T, B, ...] -> [window, rows, ...]
        if B > 1:
            return a[-window:, :rows]
        return a[-window * rows :, 0].unflatten(0, (rows, window)).transpose(0, 1)

    def start(state: State | None, fresh: bool) -> State | None:
        if state is None or (fresh and state.h.dim() == 3):
            return None
        kept = State(*(some(s, 0) for s in state))
        return kept if fresh or (window == T and B > 1) else State(*(None if s is None else s * 0 for s in kept))

    return [
        replace(
            p,
            x=steps(p.x).contiguous(),
            state=start(p.state, False),
            reset=None if p.reset is None else steps(p.reset).contiguous(),
            reset_state=start(p.reset_state, True),
            lengths=None,
            noise=None,
            dy=None,
            dstate=None,
        )
        for p in places
    ]


def final_state(places: list[Place], x: Tensor) -> Tensor:
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
        return module.layers(Arguments(x.to(own), begin, None, places[0].reset, None))[1].h[-D].to(x.dtype)


def _needed(x: Tensor, target: Any, lag: int | None) -> Needed | None:
    """What a linear model says, of the target where there are enough rows with one, else of the inputs themselves."""
    T, B = x.shape[:2]
    every = getattr(target, "shape", ())[:2] == (T, B)
    if target is not None and (B if not every else B * (T // 2)) >= ENOUGH:
        return needs.needed(x, target)
    longest = min(OWN if lag is None else min(lag, OWN), (T - 1) // 2)
    if longest < 1 or B * (T - longest) < 2 * ENOUGH or target is not None and lag is None:
        return None
    found = needs.needed(x, longest=longest, features=128)
    return None if found.lag is None else found
