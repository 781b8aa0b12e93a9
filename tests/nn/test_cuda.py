"""The CUDA backend: its arithmetic on any device, and the layers on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.twins import everything, far, states, twins

from openlstm import cells, reference
from openlstm.call import Call
from openlstm.cells import Cell
from openlstm.engine import SUPPORT, choose, pieces
from openlstm.engine.backends import cuda
from openlstm.errors import BackendError
from openlstm.reference import State, Weights

T, B, I, H = 7, 5, 4, 6
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
KERNELS = [cells.LSTM(), cells.GRU(), cells.VanillaRNN("tanh"), cells.VanillaRNN("relu")]
EACH = pytest.mark.parametrize("cell", KERNELS, ids=lambda c: c.kernel)
BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True])
LENGTHS = torch.tensor([7, 0, 3, 7, 1])


def problem(cell: Cell, P: int = 0, bias: bool = True) -> tuple[torch.Tensor, Weights, State]:
    torch.manual_seed(0)
    rows, R = len(cell.gates) * H, P or H
    shapes = [(rows, I), (rows, R), (rows,) if bias else None, (rows,) if bias else None, (P, H) if P else None]
    weights = Weights(*(None if s is None else torch.randn(s, dtype=torch.float64) / 2 for s in shapes))
    return torch.randn(T, B, I, dtype=torch.float64), weights, state(cell, R)


def state(cell: Cell, R: int = H, seed: int = 1, *steps: int) -> State:
    torch.manual_seed(seed)
    h = torch.randn(*steps, B, R, dtype=torch.float64)
    return State(h, torch.randn(*steps, B, H, dtype=torch.float64) if cell.has_cell else None)


def resets() -> torch.Tensor:
    reset = torch.rand(T, B, generator=torch.Generator().manual_seed(4)) < 0.4
    reset[0] = torch.tensor([True, True, False, False, True])
    return reset


def results(
    module: Any, cell: Cell, x: Any, weights: Weights, begin: State, fresh: State | None, **rows: Any
) -> dict[str, Any]:
    """Outputs, states and every gradient."""
    leaves = {"x": x, **weights._asdict(), **begin._asdict()}
    leaves |= {} if fresh is None else {"fresh_h": fresh.h, "fresh_c": fresh.c}
    given = {name: a.clone().requires_grad_() for name, a in leaves.items() if a is not None}
    w = Weights(*(given.get(name) for name in Weights._fields))  # type: ignore[arg-type]
    into = None if fresh is None else State(given["fresh_h"], given.get("fresh_c"))
    run = module.forward(Call(cell, given["x"], w, State(given["h"], given.get("c")), reset_state=into, **rows))
    ends = [a for a in (run.y, *run.state) if a is not None]
    torch.manual_seed(7)
    torch.autograd.backward(ends, [torch.randn_like(a) for a in ends])
    out = dict(zip(("y", "h_n", "c_n"), (end.detach() for end in ends), strict=False))
    return {**out, **{f"d{name}": a.grad for name, a in given.items() if a.grad is not None}}


@BOTH_WAYS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("P", [0, 2])
@EACH
def test_the_fused_call_is_the_reference(cell: Cell, P: int, bias: bool, reverse: bool) -> None:
    """torch's kernel on the CPU takes the same arguments as the one on a GPU."""
    x, weights, begin = problem(cell, P if cell.has_cell else 0, bias)
    a, b = (results(module, cell, x, weights, begin, None, reverse=reverse) for module in (cuda, reference))
    assert far(a, b, 1e-11) == {}


@BOTH_WAYS
@pytest.mark.parametrize("into", ["no reset", "zero", "one state for a row", "one state for a reset"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
@EACH
def test_ragged_and_reset_rows_are_cut_into_one_packed_call(cell: Cell, lengths: Any, into: str, reverse: bool) -> None:
    x, weights, begin = problem(cell)
    reset = None if into == "no reset" else resets()
    rows = {"lengths": lengths, "reset": reset, "reverse": reverse}
    if into == "one state for a reset":
        fresh = state(cell, H, 2, T)
        expected = _one_by_one(cell, x, weights, begin, fresh, **rows)
        run = cuda.forward(Call(cell, x, weights, begin, reset_state=fresh, **rows))
        assert far({"y": run.y, "h": run.state.h}, expected, 1e-11) == {}
        return
    fresh = state(cell, H, 2) if into == "one state for a row" else None
    a, b = (results(module, cell, x, weights, begin, fresh, **rows) for module in (cuda, reference))
    assert far(a, b, 1e-11) == {}


def _one_by_one(
    cell: Cell, x: torch.Tensor, weights: Weights, begin: State, fresh: State, lengths: Any, reset: Any, reverse: bool
) -> dict[str, Any]:
    """Every step of every row alone, by the reference."""
    y, end = torch.zeros(T, B, H, dtype=x.dtype), begin.h.clone()
    for b in range(B):
        n = T if lengths is None else int(lengths[b])
        s = State(*(None if a is None else a[b : b + 1] for a in begin))
        for t in reversed(range(n)) if reverse else range(n):
            at = t + 1 if reverse else t
            if at < n and reset[at, b]:
                s = State(*(None if a is None else a[at, b : b + 1] for a in fresh))
            s, _ = reference.step(cell, x[t, b : b + 1], s, weights)
            y[t, b] = s.h[0]
        end[b] = s.h[0]
    return {"y": y, "h": end}


def test_no_steps_and_no_lengths_leave_the_state() -> None:
    cell = cells.LSTM()
    x, weights, begin = problem(cell)
    assert cuda.forward(Call(cell, x[:0], weights, begin)).y.shape == (0, B, H)
    run = cuda.forward(Call(cell, x, weights, begin, lengths=torch.zeros(B, dtype=torch.int64)))
    assert not run.y.any() and torch.equal(run.state.h, begin.h)


def test_rows_are_cut_where_their_state_begins_anew() -> None:
    reset = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0]]).bool()
    parts = pieces.cut(4, 2, torch.tensor([4, 3]), reset, False)
    assert parts.lengths.tolist() == [3, 2, 2]  # the longest first
    assert parts.row.tolist() == [1, 0, 0] and parts.first.tolist() == [1, 0, 4]
    assert parts.begin.tolist() == [1, -1, 4]  # row 1 begins with a reset, row 0 with the carried-in state
    assert parts.last.tolist() == [2, 0]
    places, sizes = parts.packed(False)
    assert places.tolist() == [1, 0, 4, 3, 2, 6, 5] and sizes.tolist() == [3, 3, 1]
    back = pieces.cut(4, 2, torch.tensor([4, 3]), reset, True)
    assert back.begin.tolist() == [-1, 4, -1] and back.last.tolist() == [1, 0]


def test_a_batch_of_very_uneven_pieces_is_split_and_never_mostly_padding() -> None:
    lengths = torch.tensor([1000, *[3] * 500])
    parts = pieces.of_sequences(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]]), lengths, int(lengths.sum()))
    groups = [places for _, places in parts.groups()]
    assert len(groups) == 2 and sum(places.numel() for places in groups) <= 4 * int(lengths.sum())
    seen = torch.cat([places.reshape(-1) for places in groups])
    assert sorted(seen[seen >= 0].tolist()) == list(range(int(lengths.sum())))


def test_the_table_says_what_takes_the_reference() -> None:
    """The table is asked with an array that says it lives on a GPU."""

    class There(torch.Tensor):
        @property
        def device(self) -> Any:  # type: ignore[override]
            return torch.device("cuda")

    x = torch.zeros(1, 1, 1).as_subclass(There)
    assert [choose("auto", cell, x) for cell in KERNELS] == ["cuda"] * 4
    cases: list[tuple[Cell, dict[str, Any]]] = [
        (cells.Peephole(), {}),
        (cells.LSTM(clip=1.0), {}),
        (cells.GRU(memory=True), {"projection": True}),
        (cells.LSTM(), {"noise": True}),
        (cells.LSTM(), {"save": True}),
    ]
    for cell, asked in cases:
        assert choose("auto", cell, x, **asked) == "reference"
        with pytest.raises(BackendError, match="backend 'cuda' cannot run this"):
            choose("cuda", cell, x, **asked)
    assert SUPPORT["cuda"].refusal(cells.LSTM(), x, save=True) == (
        "it hands out neither gates nor cell states, which a trace and torch.func need"
    )


@GPU
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layers_on_a_gpu_are_the_reference(kind: str) -> None:
    ours, theirs = twins(kind, I, H, num_layers=2, bidirectional=True)
    ours, theirs = ours.cuda(), theirs.cuda()
    x, hx = torch.randn(T, B, I, dtype=torch.float64).cuda(), states(ours, B)
    there = tuple(s.cuda() for s in hx) if kind == "LSTM" else hx.cuda()
    assert ours.backend_used(x) == "cuda"
    assert far(_cpu(everything(ours, x, there)), _cpu(everything(theirs, x, there)), 1e-11) == {}
    ragged = everything(ours, x, there, lengths=LENGTHS.tolist(), reset=resets().cuda())
    on_cpu = everything(ours.cpu(), x.cpu(), hx, lengths=LENGTHS.tolist(), reset=resets())
    assert far(_cpu(ragged), on_cpu, 1e-10) == {}


def _cpu(results: dict[str, Any]) -> dict[str, Any]:
    return {name: a.cpu() for name, a in results.items()}
