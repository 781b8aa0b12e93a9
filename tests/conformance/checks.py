"""What an LSTM layer has to fulfil, as functions that a right one passes and a wrong one fails: each takes a class.

`tests/mutation/` holds 114 wrong layers against them. Every weight is drawn apart, every state is non-zero, lengths are
uneven, both directions and all layers differ, and each output has a cotangent of its own.

Legend: T time, B batch, I input size, H hidden size, P projected size, R what is fed back, L layers, D directions.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tests.conformance import plain
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from openlstm import cells

Make = Callable[..., Any]  # openlstm.LSTM, or one like it

T, B, I, H = 5, 4, 3, 5
LENGTHS = [3, 5, 0, 4]
TOLERANCE = 1e-10
DEEP = {"num_layers": 2, "bidirectional": True}


def agrees_with_torch(make: Make) -> None:
    """torch.nn.LSTM with the same parameters: outputs, states and every gradient."""
    shapes: list[dict[str, Any]] = [{}, DEEP, {**DEEP, "proj_size": 2}, {"num_layers": 3, "bias": False, "batch_first": True}]
    shapes += [{"hidden_size": 1, "bidirectional": True}, {"input_size": 1, "hidden_size": 17}]
    for options in shapes:
        options = {"input_size": I, "hidden_size": H, "dtype": torch.float64, **options}
        theirs = torch.nn.LSTM(**options)
        ours, generator = _drawn(make, **options), torch.Generator().manual_seed(5)
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(T, B, theirs.input_size, dtype=torch.float64, generator=generator)
        hx = _states(ours, B)
        if ours.batch_first:
            x = x.transpose(0, 1)
        _near(_all(ours, ours, x, *hx), _all(theirs, theirs, x, *hx))
        _near(_all(ours, ours, x), _all(theirs, theirs, x))
    for n in (1, 2):  # one step, one row; no batch axis
        ours, theirs = _drawn(make, I, H, dtype=torch.float64), torch.nn.LSTM(I, H, dtype=torch.float64)
        theirs.load_state_dict(ours.state_dict())
        x, hx = _randn(n, 1, I), _states(ours, 1)
        _near(_all(ours, ours, x, *hx), _all(theirs, theirs, x, *hx))
        _near(_all(ours, ours, x[:, 0], *(s[:, 0] for s in hx)), _all(theirs, theirs, x[:, 0], *(s[:, 0] for s in hx)))


def single_precision_stays_near(make: Make) -> None:
    """float32 is what float64 gives, to 1e-5, and stays float32."""
    wide = _drawn(make, I, H, dtype=torch.float64, **DEEP)
    narrow = make(I, H, **DEEP)
    narrow.load_state_dict(wide.state_dict())
    x, hx = _randn(T, B, I), _states(wide, B)
    found = _all(narrow, narrow, x.float(), *(s.float() for s in hx))
    assert {a.dtype for a in found.values()} == {torch.float32}
    _near({name: a.double() for name, a in found.items()}, _all(wide, wide, x, *hx), 1e-5)


def reads_its_parameters(make: Make) -> None:
    """A change of weights behind its back, a copy, and a pickle are seen at the next call."""
    ours, theirs = _drawn(make, I, H, dtype=torch.float64), torch.nn.LSTM(I, H, dtype=torch.float64)
    x = _randn(T, B, I)
    ours(x)
    for p in ours.parameters():
        p.data.mul_(-0.7)
    theirs.load_state_dict(ours.state_dict())
    _near({"y": ours(x)[0]}, {"y": theirs(x)[0]})
    theirs.load_state_dict({**theirs.state_dict(), "bias_hh_l0": theirs.state_dict()["bias_hh_l0"] + 1})
    ours.load_state_dict(theirs.state_dict())
    buffer = io.BytesIO()
    torch.save(ours.state_dict(), buffer)
    buffer.seek(0)
    again = make(I, H, dtype=torch.float64)
    again.load_state_dict(torch.load(buffer))
    for layer in (ours, again):
        _near({"y": layer(x)[0]}, {"y": theirs(x)[0]})


def lengths_end_rows(make: Make) -> None:
    """A ragged batch is every row cut to its length, forward and backward; what is padded is never read and comes out as 0."""
    for options in ({}, {"bidirectional": True}, {**DEEP, "proj_size": 3}):
        layer = _drawn(make, I, H, dtype=torch.float64, **options)
        x, hx = _randn(T, B, I), _states(layer, B)
        found = _all(layer, _padded_with_nan(layer), x, *hx)
        _near(found, _all(layer, _plainly(layer, lengths=LENGTHS), x, *hx))
        assert not found["y"][_padding().expand_as(found["y"])].any(), "padding that is not zero"


def resets_cut(make: Make) -> None:
    """To zero, to given states, to a state for each step, with lengths too: forward, and no gradient crosses."""
    reset = torch.rand(T, B, generator=torch.Generator().manual_seed(8)) < 0.35
    reset[0, 0] = reset[2, 1] = reset[4, 3] = True
    no = torch.zeros(T, B, dtype=torch.bool)
    for options in ({}, {**DEEP, "proj_size": 2}):
        layer = _drawn(make, I, H, dtype=torch.float64, **options)
        x, hx, fresh = _randn(T, B, I), _states(layer, B), _states(layer, B, seed=9)
        each = tuple(torch.stack([s * (t + 1) for t in range(T)], 1) for s in fresh)
        for rows in ({}, {"lengths": LENGTHS}):
            found = _all(layer, partial(layer, reset=reset, **rows), x, *hx)
            _near(found, _all(layer, _plainly(layer, reset=reset, **rows), x, *hx))
        for given in (fresh, each):
            found = _all(layer, _leading_to(layer, reset), x, *hx, more=given)
            _near(found, _all(layer, _plainly(layer, reset=reset), x, *hx, more=given))
        _near(_all(layer, partial(layer, reset=no), x, *hx), _all(layer, layer, x, *hx))


def nothing_leaks_past_a_reset(make: Make) -> None:
    """NaN in the state, the input or the padding before a boundary does not reach what comes after, in either direction."""
    layer = _drawn(make, I, H, dtype=torch.float64, num_layers=2)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2] = True
    x, hx = _randn(T, B, I), _states(layer, B)
    sick = x.clone()
    sick[:2] = torch.nan
    bad = tuple(torch.full_like(s, torch.nan) for s in hx)
    y, (h, c) = layer(sick, bad, reset=reset)
    after, (h_after, c_after) = layer(x[2:])
    _near({"y": y[2:], "h": h, "c": c}, {"y": after, "h": h_after, "c": c_after})

    def slopes(y: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
        names, values = zip(*layer.named_parameters(), strict=True)
        options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        return dict(zip(names, torch.autograd.grad(y.sum() + h.sum() + 2 * c.sum(), values, **options), strict=True))

    _near(slopes(y[2:], h, c), slopes(after, h_after, c_after))


def packed_is_padded(make: Make) -> None:
    """A PackedSequence in any order, and sequences one behind the other, are the ragged batch, states in the caller's order."""
    layer = _drawn(make, I, H, dtype=torch.float64, **DEEP)
    real = [3, 5, 1, 4]
    x, hx = _randn(T, B, I), _states(layer, B)

    def packed(x: Tensor, hx: Any) -> Any:
        y, state = layer(pack_padded_sequence(x, torch.tensor(real), enforce_sorted=False), hx)
        return pad_packed_sequence(y, total_length=T)[0], state

    expected = _all(layer, _plainly(layer, lengths=real), x, *hx)
    _near(_all(layer, packed, x, *hx), expected)
    for lengths in (real, LENGTHS, [5] * B):
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]

        def one_behind_the_other(x: Tensor, hx: Any, lengths: list[int] = lengths, starts: list[int] = starts) -> Any:
            y, state = layer(torch.cat([x[:n, b] for b, n in enumerate(lengths)]), hx, cu_seqlens=starts)
            return torch.nn.utils.rnn.pad_sequence(list(y.split(lengths))), state

        want = _all(layer, _plainly(layer, lengths=lengths), x, *hx)
        _near(_all(layer, one_behind_the_other, x, *hx), want)


def peepholes_and_clipping(make: Make) -> None:
    """`cells.Peephole`, and a bound on the cell that some units reach and others do not."""
    for cell in (cells.Peephole(), cells.LSTM(clip=0.4), cells.Peephole(clip=0.3)):
        layer = _drawn(make, I, H, dtype=torch.float64, cell=cell, bidirectional=True)
        x, hx = _randn(T, B, I), _states(layer, B)
        found = _all(layer, layer, x, *hx)
        _near(found, _all(layer, _plainly(layer), x, *hx))
        assert cell.clip is None or 0 < (found["c_n"].abs() == cell.clip).double().mean() < 1


def layer_normalisation(make: Make) -> None:
    """`cells.LayerNormLSTM` against torch's own layer_norm in a loop: stacked, both ways, projected, ragged, clipped."""
    for options in ({}, {**DEEP, "proj_size": 3}, {"bias": False, "cell": cells.LayerNormLSTM(clip=0.4)}):
        layer = _drawn(make, I, H, dtype=torch.float64, **{"cell": cells.LayerNormLSTM(), **options})
        x, hx = _randn(T, B, I), _states(layer, B)
        _near(_all(layer, layer, x, *hx), _all(layer, _plainly(layer), x, *hx))
        _near(_all(layer, _padded_with_nan(layer), x, *hx), _all(layer, _plainly(layer, lengths=LENGTHS), x, *hx))


def derivatives_twice(make: Make) -> None:
    """First and second derivatives by every input and weight against differences."""
    layer = _drawn(make, 2, 2, dtype=torch.float64, bidirectional=True)
    names, values = zip(*layer.named_parameters(), strict=True)
    reset = torch.tensor([[False, False], [True, False]])

    def call(x: Tensor, h: Tensor, c: Tensor, *w: Tensor) -> Any:
        y, state = torch.func.functional_call(layer, dict(zip(names, w, strict=True)), (x, (h, c)), {"reset": reset})
        return y, *state

    given = [a.detach().requires_grad_() for a in (_randn(2, 2, 2), *_states(layer, 2), *values)]
    assert torch.autograd.gradcheck(call, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, given, fast_mode=True)


def dropout_is_torchs(make: Make) -> None:
    """Masks between layers: with one seed those of torch.nn.LSTM, new ones at every call, none in eval."""
    options: dict[str, Any] = {"input_size": I, "hidden_size": H, "dropout": 0.5, "dtype": torch.float64, **DEEP}
    ours, theirs = _drawn(make, **options), torch.nn.LSTM(**options)
    theirs.load_state_dict(ours.state_dict())
    x, hx = _randn(T, B, I), _states(ours, B)
    results = []
    for layer in (ours, theirs):
        torch.manual_seed(3)
        results.append({"first": layer(x, hx)[0], "second": layer(x, hx)[0], "eval": layer.eval()(x, hx)[0]})
    assert not torch.equal(results[0]["first"], results[0]["second"]), "the same mask twice"
    _near(*results)


def noise_in_the_recurrence(make: Make) -> None:
    """Locked, recurrent and weight dropout, zoneout: what the definition says at their ends, new draws, quiet in eval."""
    x = _randn(T, B, I)
    for name in ("input_dropout", "hidden_dropout", "recurrent_dropout", "weight_dropout", "zoneout_h", "zoneout_c"):
        layer = _drawn(make, I, H, dtype=torch.float64, num_layers=2, **{name: 0.5})
        hx = _states(layer, B)
        torch.manual_seed(4)
        first, second = layer(x, hx)[0], layer(x, hx)[0]
        torch.manual_seed(4)
        assert torch.equal(layer(x, hx)[0], first), f"{name} does not repeat"
        assert not torch.equal(second, first), f"{name} drew the same mask twice"
        quiet = {"noise": {name: 0.5, "training": False}} if name.startswith("zoneout") else {}
        layer.eval()
        _near(_all(layer, layer, x, *hx), _all(layer, _plainly(layer, **quiet), x, *hx))

    def at_the_end(options: dict[str, float], noise: dict[str, Any]) -> None:
        layer = _drawn(make, I, H, dtype=torch.float64, **options)
        hx = _states(layer, B)
        _near(_all(layer, layer, x, *hx), _all(layer, _plainly(layer, noise=noise), x, *hx))

    at_the_end({"zoneout_h": 1.0}, {"zoneout_h": 1.0})  # every unit keeps its old value
    at_the_end({"zoneout_c": 1.0}, {"zoneout_c": 1.0})
    at_the_end({"recurrent_dropout": 1.0}, {"candidate": 1.0})  # nothing enters the cell, what it holds stays
    at_the_end({"hidden_dropout": 1.0}, {"hidden": torch.zeros(B, H, dtype=torch.float64)})  # nothing is fed back
    rates = ("input_dropout", "hidden_dropout", "recurrent_dropout", "weight_dropout", "zoneout_h", "zoneout_c")
    layer = _drawn(make, I, H, dtype=torch.float64, **{name: 0.4 for name in rates})
    hx, seed = _states(layer, B), 8

    def loss(x: Tensor) -> Tensor:
        torch.manual_seed(seed)
        y, (h, c) = layer(x, hx)
        return (y * _randn(*y.shape)).sum() + (h * c).sum()

    leaf, v = x.clone().requires_grad_(), _randn(*x.shape, seed=9)
    (slope,) = torch.autograd.grad(loss(leaf), leaf)
    with torch.no_grad():
        difference = (loss(x + 1e-6 * v) - loss(x - 1e-6 * v)) / 2e-6
    _near({"slope": (slope * v).sum()}, {"slope": difference}, 1e-7)  # backward saw the masks of forward
    half = _drawn(make, I, 400, hidden_dropout=0.5, dtype=torch.float64)
    half.bias_ih_l0.data[800:1200] = 3.0  # h of one sign, so that a missing 1/(1-p) shows in the mean
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(half, name).fill_(0.002)
        noisy, quiet = half(x)[0][-1].mean(), half.eval()(x)[0][-1].mean()
    assert abs(noisy / quiet - 1) < 0.05, "masks that are not scaled"


def chunks_are_the_whole(make: Make) -> None:
    """A sequence cut anywhere, with the state carried on, and step by step, gives the same numbers and gradients."""
    layer = _drawn(make, I, H, dtype=torch.float64, num_layers=2)
    x, hx = _randn(T, B, I), _states(layer, B)

    def cut(sizes: list[int]) -> Any:
        def call(x: Tensor, hx: Any) -> Any:
            ys = []
            for part in x.split(sizes):
                y, hx = layer(part, hx)
                ys.append(y)
            return torch.cat(ys), hx

        return call

    whole = _all(layer, layer, x, *hx)
    for sizes in ([2, 3], [1] * T):
        _near(_all(layer, cut(sizes), x, *hx), whole)


def rows_are_independent(make: Make) -> None:
    """NaN in one row stays there; another order of rows is the same in another order."""
    layer = _drawn(make, I, H, dtype=torch.float64, **DEEP)
    x, hx, order = _randn(T, B, I), _states(layer, B), [2, 0, 3, 1]
    y, (h, c) = layer(x, hx)
    other, (h2, c2) = layer(x[:, order], tuple(s[:, order] for s in hx))
    _near({"y": other, "h": h2, "c": c2}, {"y": y[:, order], "h": h[:, order], "c": c[:, order]})
    sick = x.clone()
    sick[1, 2] = torch.nan
    _near({"y": layer(sick, hx)[0][:, [0, 1, 3]]}, {"y": y[:, [0, 1, 3]]})


def the_carousel_turns(make: Make) -> None:
    """With f = 1 and i = 0 the cell stays for 1,000 steps, to the last bit, and so does its gradient."""
    layer = _drawn(make, I, H, dtype=torch.float64)
    with torch.no_grad():
        layer.bias_ih_l0.copy_(torch.tensor([-1000.0, 1000.0, 0.0, 0.0], dtype=torch.float64).repeat_interleave(H))
    h, c = _states(layer, B)
    c.requires_grad_()
    _, (_, end) = layer(_randn(1000, B, I), (h, c))
    end.sum().backward()
    assert torch.equal(end, c) and c.grad is not None and bool((c.grad == 1).all())


CHECKS: tuple[Callable[[Make], None], ...] = (
    agrees_with_torch,
    lengths_end_rows,
    resets_cut,
    packed_is_padded,
    peepholes_and_clipping,
    layer_normalisation,
    dropout_is_torchs,
    noise_in_the_recurrence,
    nothing_leaks_past_a_reset,
    rows_are_independent,
    chunks_are_the_whole,
    reads_its_parameters,
    single_precision_stays_near,
    the_carousel_turns,
    derivatives_twice,
)
"""Every check, the one that finds most first."""


def _drawn(make: Make, *sizes: Any, **options: Any) -> Any:
    """A layer whose parameters are all different and of middling size."""
    layer = make(*sizes, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.rand(p.shape, dtype=torch.float64, generator=generator) * 1.6 - 0.75)
    return layer


def _randn(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _states(layer: Any, rows: int, seed: int = 6) -> tuple[Tensor, Tensor]:
    k = layer.num_layers * (1 + layer.bidirectional)
    return _randn(k, rows, layer.proj_size or layer.hidden_size, seed=seed), _randn(k, rows, layer.hidden_size, seed=seed + 20)


@dataclass(frozen=True)
class _Plainly:
    """What the layer should do, as a function (x, hx, h and c of resets) -> y, (h_n, c_n)."""

    layer: Any
    rows: dict[str, Any]

    def __call__(self, x: Tensor, hx: Any, *fresh: Tensor) -> Any:
        y, h, c = plain.layers(self.layer, x, *hx, fresh=fresh or None, **self.rows)
        return y, (h, c)

    def key(self, given: dict[str, Tensor]) -> bytes:
        """All that its numbers depend on, to the bit."""
        layer, cell = self.layer, self.layer.cell
        places = [(at, d) for at in range(layer.num_layers) for d in range(1 + layer.bidirectional)]
        weights = {f"{place}{name}": w for place in places for name, w in layer.weights_of(*place)._asdict().items()}
        flat: list[Any] = [type(cell), cell, places, self.rows]
        flat += [*given.items(), *layer.named_parameters(), *weights.items()]
        return pickle.dumps(_bare(flat))


def _bare(a: Any) -> Any:
    """Nested values with the bits of their tensors."""
    if isinstance(a, Tensor):
        return a.shape, a.dtype, a.detach().numpy().tobytes()
    if isinstance(a, (list, tuple)):
        return [_bare(b) for b in a]
    return [(name, _bare(b)) for name, b in a.items()] if isinstance(a, dict) else repr(a)


_KNOWN: dict[bytes, dict[str, Tensor]] = {}
"""What the plain loop gave for a key: the layers that are asked for the same are many, and the loop is slow."""


def _plainly(layer: Any, **rows: Any) -> Callable[..., Any]:
    return _Plainly(layer, rows)


def _leading_to(layer: Any, reset: Tensor) -> Callable[..., Any]:
    return lambda x, hx, *fresh: layer(x, hx, reset=reset, reset_state=fresh)


def _padding() -> Tensor:
    return torch.arange(T)[:, None, None] >= torch.tensor(LENGTHS)[:, None]  # [T, B, 1]


def _padded_with_nan(layer: Any) -> Callable[..., Any]:
    return lambda x, hx: layer(torch.where(_padding(), torch.nan, x), hx, lengths=LENGTHS)


def _all(layer: Any, call: Callable[..., Any], x: Tensor, *hx: Tensor, more: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
    """What call(x, hx, *more) gives, and the gradient of a random combination of it by everything."""
    given = {name: a.detach().clone().requires_grad_() for name, a in zip(("x", "h0", "c0"), (x, *hx), strict=False)}
    given |= {f"more{k}": a.detach().clone().requires_grad_() for k, a in enumerate(more)}
    leaves = {**given, **dict(layer.named_parameters())}
    key = call.key(given) if isinstance(call, _Plainly) else None
    if key in _KNOWN:
        return dict(_KNOWN[key])
    pair: tuple[Any, ...] = ((given["h0"], given["c0"]),) if hx else ()
    y, (h, c) = call(given["x"], *pair, *(given[f"more{k}"] for k in range(len(more))))
    out = {"y": y, "h_n": h, "c_n": c}
    loss = sum((a * _randn(*a.shape, seed=11 + k).to(a.dtype)).sum() for k, a in enumerate(out.values()))
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
    found = {name: a.detach() for name, a in {**out, **{f"d{n}": g for n, g in zip(leaves, grads, strict=True)}}.items()}
    if key is not None:
        _KNOWN[key] = dict(found)
    return found


def _near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    for name, b in expected.items():
        a = found[name]
        assert a.shape == b.shape, f"{name}: shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        off, size = (a.detach() - b.detach()).norm().item(), b.detach().norm().item()
        assert off <= tolerance * size or off <= 1e-14, f"{name} is off by {off / (size or 1):.1e}"
