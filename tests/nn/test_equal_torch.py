"""Every constructor argument and every input form: outputs, states and all gradients are those of torch.nn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, TOLERANCE, everything, far, states, twins
from tests.support import pairs
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import openlstm

T, B, I, H = 5, 3, 4, 6


KINDS = {
    "LSTM": ("LSTM", {}),
    "LSTM-projected": ("LSTM", {"proj_size": 2}),
    "GRU": ("GRU", {}),
    "RNN-tanh": ("RNN", {"nonlinearity": "tanh"}),
    "RNN-relu": ("RNN", {"nonlinearity": "relu"}),
}
SHAPES = [
    pytest.param(
        kind, {**options, "num_layers": layers, "bidirectional": both}, id=f"{name}-L{layers}-{'both' if both else 'one'}"
    )
    for name, (kind, options) in KINDS.items()
    for layers, both in itertools.product((1, 2), (True, False))
]
"""Every layer, in every number of layers and directions: these meet all, what else can be asked for meets each in turn."""

ASKED = {
    "kind,options": SHAPES,
    "bias": [pytest.param(True, id="bias"), pytest.param(False, id="nobias")],
    "batch_first": [pytest.param(True, id="batch"), pytest.param(False, id="time")],
}
DTYPES = [pytest.param(dtype, id=str(dtype).removeprefix("torch.")) for dtype in TOLERANCE]


def batch(layer: Any, rows: int = B) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn((rows, T, I) if layer.batch_first else (T, rows, I), dtype=torch.float64)


@pairs(**ASKED, dtype=DTYPES, backend=BACKENDS)
def test_a_batch_gives_the_outputs_states_and_gradients_of_torch(
    kind: str, options: dict[str, Any], bias: bool, batch_first: bool, dtype: torch.dtype, backend: str
) -> None:
    ours, theirs = twins(kind, I, H, dtype=dtype, backend=backend, bias=bias, batch_first=batch_first, **options)
    x, hx = batch(ours), states(ours, B)
    assert far(everything(ours, x, hx), everything(theirs, x, hx), TOLERANCE[dtype]) == {}
    assert ours.backend_used(x.to(dtype)) == backend


@pairs(**ASKED, dtype=DTYPES)
def test_a_single_sequence_gives_those_of_torch(
    kind: str, options: dict[str, Any], bias: bool, batch_first: bool, dtype: torch.dtype
) -> None:
    ours, theirs = twins(kind, I, H, dtype=dtype, bias=bias, batch_first=batch_first, **options)
    x, hx = batch(ours)[0] if ours.batch_first else batch(ours)[:, 0], states(ours, None)
    assert far(everything(ours, x, hx), everything(theirs, x, hx), TOLERANCE[dtype]) == {}
    assert far(everything(ours, x), everything(theirs, x), TOLERANCE[dtype]) == {}


@pairs(**ASKED, dtype=DTYPES)
def test_ragged_lengths_are_what_packing_gives(
    kind: str, options: dict[str, Any], bias: bool, batch_first: bool, dtype: torch.dtype
) -> None:
    ours, theirs = twins(kind, I, H, dtype=dtype, bias=bias, batch_first=batch_first, **options)
    x, hx, lengths = batch(ours), states(ours, B), [2, 5, 3]

    def packing(x: torch.Tensor, hx: Any) -> Any:
        """torch.nn's way to a ragged batch."""
        packed = pack_padded_sequence(x, torch.tensor(lengths), theirs.batch_first, enforce_sorted=False)
        y, state = theirs(packed, hx)
        return pad_packed_sequence(y, theirs.batch_first)[0], state

    wanted = everything(theirs, x, hx, run=packing)
    for given in (lengths, torch.tensor(lengths), torch.tensor(lengths, dtype=torch.int32)):
        assert far(everything(ours, x, hx, lengths=given), wanted, TOLERANCE[dtype]) == {}


@pairs(**ASKED, sorted_already=[pytest.param(True, id="sorted"), pytest.param(False, id="unsorted")], dtype=DTYPES)
def test_a_packed_sequence_gives_those_of_torch_and_its_order(
    kind: str, options: dict[str, Any], bias: bool, batch_first: bool, sorted_already: bool, dtype: torch.dtype
) -> None:
    ours, theirs = twins(kind, I, H, dtype=dtype, bias=bias, batch_first=batch_first, **options)
    torch.manual_seed(3)
    rows = [torch.randn(n, I, dtype=torch.float64) for n in ((5, 3, 2) if sorted_already else (2, 5, 3))]
    x, hx = pack_sequence(rows, enforce_sorted=sorted_already), states(ours, B)
    assert far(everything(ours, x, hx), everything(theirs, x, hx), TOLERANCE[dtype]) == {}
    y, _ = ours(x.to(dtype))
    z, _ = theirs(x)
    assert isinstance(y, PackedSequence)
    for mine, other in zip(y[1:], z[1:], strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)  # type: ignore[arg-type]


@pairs(**ASKED)
def test_state_dicts_go_both_ways(kind: str, options: dict[str, Any], bias: bool, batch_first: bool) -> None:
    options = {**options, "bias": bias, "batch_first": batch_first}
    ours, theirs = getattr(openlstm, kind)(I, H, **options), getattr(nn, kind)(I, H, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert [[tuple(w.shape) for w in ws] for ws in ours.all_weights] == [
        [tuple(w.shape) for w in ws] for ws in theirs.all_weights
    ]


@pairs(**ASKED)
def test_the_same_seed_gives_the_same_start(kind: str, options: dict[str, Any], bias: bool, batch_first: bool) -> None:
    options = {**options, "bias": bias, "batch_first": batch_first}
    torch.manual_seed(5)
    ours = getattr(openlstm, kind)(I, H, **options)
    torch.manual_seed(5)
    theirs = getattr(nn, kind)(I, H, **options)
    for name, p in theirs.named_parameters():
        assert torch.equal(p, ours.get_parameter(name)), name


@pytest.mark.parametrize("form", ["batch", "single", "packed"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_the_same_seed_gives_the_same_dropout(kind: str, form: str) -> None:
    ours, theirs = twins(kind, I, H, num_layers=3, dropout=0.4, bidirectional=True)
    torch.manual_seed(3)
    x: Any = torch.randn(T, B, I, dtype=torch.float64)
    x = {"batch": x, "single": x[:, 0], "packed": pack_padded_sequence(x, torch.tensor([2, 5, 3]), enforce_sorted=False)}[form]
    torch.manual_seed(11)
    dropped = everything(ours, x)
    torch.manual_seed(11)
    assert far(dropped, everything(theirs, x), 1e-11) == {}
    assert far(everything(ours.eval(), x), everything(theirs.eval(), x), 1e-11) == {}
    assert far(everything(ours, x), dropped, 1e-3) != {}  # the masks were there


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_no_steps_or_no_rows_keep_shapes_and_states(kind: str) -> None:
    ours, _ = twins(kind, I, H, num_layers=2, bidirectional=True)
    hx = states(ours, B)
    none = everything(ours, torch.zeros(0, B, I), hx)
    start = hx[0] if kind == "LSTM" else hx
    assert none["y"].shape == (0, B, 2 * H) and torch.equal(none["h"], start)
    assert torch.equal(none["dh0"], everything(ours, torch.zeros(0, B, I), hx)["dh0"]) and float(none["dh0"].norm()) > 0
    assert everything(ours, torch.zeros(T, 0, I))["y"].shape == (T, 0, 2 * H)
    assert everything(ours, torch.zeros(0, 0, I))["h"].shape == (4, 0, H)


def test_views_and_transposed_weights_give_the_same_numbers() -> None:
    """Views, expanded tensors and transposed weights are read as they are."""
    ours, theirs = twins("LSTM", I, H)
    torch.manual_seed(0)
    wide = torch.randn(B, 2 * I, 2 * T, dtype=torch.float64)
    x = wide[:, ::2, ::2].permute(2, 0, 1)
    h = torch.randn(1, 1, H, dtype=torch.float64).expand(1, B, H)
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight_hh_l0 = nn.Parameter(layer.weight_hh_l0.t().contiguous().t())
        y, (hn, cn) = ours(x, (h, h))
        z, (hm, cm) = theirs(x.contiguous(), (h.contiguous(), h.contiguous()))
    assert far({"y": y, "h": hn, "c": cn}, {"y": z, "h": hm, "c": cm}, 1e-11) == {}
    row = torch.randn(1, B, I, dtype=torch.float64)
    assert torch.equal(ours(row.expand(T, B, I))[0], ours(row.repeat(T, 1, 1))[0])
