"""The operator under torch's machinery: gradients of every kind, vmap, compile, export; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.nn.twins import BACKENDS, everything, far, states, twins
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import openlstm
from openlstm.call import Call
from openlstm.engine.operators import options_of
from openlstm.errors import BackendError, ShapeError

T, B, I, H = 3, 2, 2, 2
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),  # torch's own, on its first jvp
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),  # torch's own, in torch.compile
]
KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
EACH = pytest.mark.parametrize("backend", BACKENDS)
RESET = torch.tensor([[False, False], [False, True], [True, False]])

Ran = Callable[..., tuple[Tensor, ...]]


def pure(layer: Any, **call: Any) -> tuple[Ran, list[Tensor]]:
    """The layer as a function of x, the states and every parameter; and a value for each of these."""
    names = [name for name, _ in layer.named_parameters()]
    hx = states(layer, B)
    hx = list(hx) if isinstance(hx, tuple) else [hx]

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        start = rest[0] if len(hx) == 1 else tuple(rest[: len(hx)])
        y, state = functional_call(layer, dict(zip(names, rest[len(hx) :], strict=True)), (x, start), call)
        return y, *([state] if len(hx) == 1 else state)

    torch.manual_seed(0)
    values = [torch.randn(T, B, I, dtype=torch.float64), *hx, *(p.detach() for p in layer.parameters())]
    return run, [v.clone().requires_grad_() for v in values]


def squares(run: Ran) -> Callable[..., Tensor]:
    return lambda *values: sum((out * out).sum() for out in run(*values))  # type: ignore[return-value]


CALLS = [
    pytest.param({}, {}, id="plain"),
    pytest.param({"proj_size": 1}, {}, id="projection"),
    pytest.param({"bidirectional": True, "bias": False}, {"lengths": [3, 2], "reset": RESET}, id="lengths-and-reset"),
]


@EACH
@pytest.mark.parametrize(("options", "call"), CALLS)
def test_first_and_second_derivatives_of_an_lstm_are_right(options: dict[str, Any], call: dict[str, Any], backend: str) -> None:
    layer, _ = twins("LSTM", I, H, backend=backend, **options)
    run, values = pure(layer, **call)
    assert gradcheck(run, values)
    assert gradgradcheck(run, values)


@EACH
def test_first_and_second_derivatives_of_a_vanilla_rnn_are_right(backend: str) -> None:
    layer, _ = twins("RNN", I, H, backend=backend, num_layers=2)
    run, values = pure(layer)
    assert gradcheck(run, values)
    assert gradgradcheck(run, values)


@EACH
def test_derivatives_of_the_state_that_resets_lead_to_are_right(backend: str) -> None:
    layer, _ = twins("LSTM", I, H, backend=backend)
    x = torch.randn(T, B, I, dtype=torch.float64)

    def run(h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        y, state = layer(x, reset=RESET, reset_state=(h, c))
        return y, *state

    values = [s.requires_grad_() for s in states(layer, B)]
    assert gradcheck(run, values)
    assert gradgradcheck(run, values)


@KINDS
def test_a_third_derivative_is_that_of_the_reference(kind: str) -> None:
    ours, theirs = twins(kind, I, H)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)

    def third(layer: Any) -> Tensor:
        g = layer(x)[0].sin().sum()
        for _ in range(3):
            g = torch.autograd.grad(g, x, create_graph=True)[0].square().sum()
        return g

    assert torch.allclose(third(ours), third(theirs), rtol=1e-9)


@KINDS
@EACH
def test_torch_func_gives_gradients_and_hessians(kind: str, backend: str) -> None:
    ours, theirs = twins(kind, I, H, backend=backend)
    f, values = pure(ours)
    g, _ = pure(theirs)
    mine, other = grad(squares(f), argnums=tuple(range(len(values))))(*values), torch.autograd.grad(squares(g)(*values), values)
    for a, b in zip(mine, other, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    x, *rest = values
    wanted: Any = torch.autograd.functional.hessian(lambda x: squares(g)(x, *rest), x)
    assert torch.allclose(jacrev(jacrev(lambda x: squares(f)(x, *rest)))(x), wanted, rtol=1e-9, atol=1e-11)


@KINDS
@EACH
def test_vmap_gives_gradients_per_sample(kind: str, backend: str) -> None:
    ours, theirs = twins(kind, I, H, backend=backend)
    params = {name: p.detach() for name, p in ours.named_parameters()}
    xs = torch.randn(5, T, 1, I, dtype=torch.float64)

    def loss(layer: Any) -> Callable[..., Tensor]:
        return lambda p, x: functional_call(layer, p, (x,))[0].square().sum()

    ys = vmap(lambda x: ours(x)[0])(xs)
    assert torch.allclose(ys, torch.stack([theirs(x)[0] for x in xs]), rtol=1e-10)
    each = vmap(grad(loss(ours)), in_dims=(None, 0))(params, xs)
    for n, x in enumerate(xs):
        one = grad(loss(theirs))(params, x)
        for name in params:
            assert torch.allclose(each[name][n], one[name], rtol=1e-9, atol=1e-12), name


@KINDS
def test_vmap_runs_over_weights_and_twice(kind: str) -> None:
    """An ensemble over a batch of batches."""
    members = [twins(kind, I, H, seed=n)[0] for n in range(3)]
    stacked, _ = torch.func.stack_module_state(members)
    stacked = {name: p.detach() for name, p in stacked.items()}
    xs = torch.randn(2, T, B, I, dtype=torch.float64)

    def one(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(members[0], params, (x,))[0]

    found = vmap(vmap(one, in_dims=(None, 0)), in_dims=(0, None))(stacked, xs)
    wanted = torch.stack([torch.stack([member(x)[0] for x in xs]) for member in members])
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-14)


@KINDS
def test_jacobians_in_reverse_and_batched_gradients_are_right(kind: str) -> None:
    ours, theirs = twins(kind, I, H)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.functional.jacobian(lambda x: theirs(x)[0], x)
    assert torch.allclose(jacrev(lambda x: ours(x)[0])(x), wanted, rtol=1e-9, atol=1e-12)
    y = ours(x)[0]
    eye = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    (batched,) = torch.autograd.grad(y, x, eye, is_grads_batched=True)
    assert torch.allclose(batched.view_as(wanted), wanted, rtol=1e-9, atol=1e-12)


FORWARD_MODE = """\
openlstm: forward-mode differentiation is not available
  got       jvp, jacfwd or a dual tensor
  expected  reverse mode
  hint      use torch.func.jacrev, vjp or backward()"""


@KINDS
@EACH
@pytest.mark.parametrize("gradients", [True, False])
def test_forward_mode_is_an_error_and_never_zeros(kind: str, backend: str, gradients: bool) -> None:
    layer, _ = twins(kind, I, H, backend=backend)
    run, (x, *rest) = pure(layer)
    rest = [r.detach() for r in rest]

    def dual() -> None:
        with forward_ad.dual_level():
            run(forward_ad.make_dual(x.detach(), torch.ones_like(x)), *rest)

    ways = [
        lambda: jvp(lambda x: run(x, *rest), (x.detach(),), (torch.ones_like(x),)),
        lambda: jacfwd(lambda w: run(x, *rest[:-1], w))(rest[-1]),
        dual,
    ]
    with torch.set_grad_enabled(gradients):
        for way in ways:
            with pytest.raises(BackendError) as error:
                way()
            assert str(error.value) == FORWARD_MODE
        assert jvp(lambda a: run(x, *rest)[0] * a, (x.new_ones(1),), (x.new_ones(1),))[1].shape == (
            T,
            B,
            H,
        )  # beside it is fine


def test_forward_mode_of_a_cell_is_an_error() -> None:
    cell = openlstm.LSTMCell(I, H)
    with torch.no_grad(), pytest.raises(BackendError, match="forward-mode"):
        jvp(lambda x: cell(x)[0], (torch.ones(B, I),), (torch.ones(B, I),))


@pytest.mark.parametrize(
    ("kind", "backend", "dynamic"),
    [("LSTM", BACKENDS[0], None), ("LSTM", "reference", True), ("RNN", BACKENDS[0], True), ("RNN", "reference", None)],
)
def test_a_layer_compiles_in_one_graph(kind: str, backend: str, dynamic: bool | None) -> None:
    ours, theirs = twins(kind, I, H, backend=backend, num_layers=2, bidirectional=True)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend=counter)
    for steps, rows in ((5, 3), (6, 7), (8, 9), (11, 12)):  # other sizes than those of the layer, which are constants
        x, hx = torch.randn(steps, rows, I, dtype=torch.float64), states(ours, rows)
        assert far(everything(ours, x, hx, run=compiled), everything(theirs, x, hx), 1e-11) == {}
    assert counter.frame_count <= 2  # the second is the one with free sizes
    with torch.no_grad():
        assert torch.equal(compiled(x)[0], ours(x)[0])


def test_compile_with_lengths_and_resets_gives_the_same_bits() -> None:
    ours, _ = twins("LSTM", I, H, batch_first=True, check_finite=True)
    torch._dynamo.reset()
    x, hx, lengths = torch.randn(B, T, I, dtype=torch.float64), states(ours, B), torch.tensor([3, 2])
    call = {"lengths": lengths, "reset": RESET.T, "reset_state": states(ours, B, seed=9)}
    compiled = torch.compile(lambda x, hx: ours(x, hx, **call), fullgraph=True, backend="aot_eager")
    plain, in_graph = everything(ours, x, hx, **call), everything(ours, x, hx, run=compiled)
    assert all(torch.equal(plain[name], in_graph[name]) for name in plain)
    lengths[0] = 7  # values are checked in the graph too
    with pytest.raises(openlstm.errors.ArgumentError, match=r"lengths\[0\] is 7, but x has 3 steps"):
        compiled(x, hx)


@pytest.mark.long
def test_inductor_compiles_a_layer() -> None:
    ours, theirs = twins("LSTM", I, H, bidirectional=True)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, hx: ours(2 * x, hx), fullgraph=True)
    x, hx = torch.randn(T, B, I, dtype=torch.float64), states(ours, B)
    wanted = everything(theirs, x, hx, run=lambda x, hx: theirs(2 * x, hx))
    assert far(everything(ours, x, hx, run=compiled), wanted, 1e-11) == {}


@KINDS
def test_a_layer_is_exported_with_free_sizes(kind: str) -> None:
    ours, theirs = twins(kind, I, H, num_layers=2)
    sizes = {"input": {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("B", min=2)}}
    program = torch.export.export(ours, (torch.randn(T, B, I, dtype=torch.float64),), dynamic_shapes=sizes)
    assert "openlstm.forward" in str(program.graph)
    x = torch.randn(7, 5, I, dtype=torch.float64)
    assert torch.allclose(program.module()(x)[0], theirs(x)[0], rtol=1e-10, atol=1e-12)


def test_a_layer_is_exported_with_lengths_and_resets() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = twins("LSTM", I, H, bidirectional=True, batch_first=True)[0]

        def forward(self, x: Tensor, lengths: Tensor, reset: Tensor) -> Tensor:
            return self.rnn(x, lengths=lengths, reset=reset)[0]

    def example(rows: int, steps: int) -> tuple[Tensor, ...]:
        lengths = torch.arange(rows) % (steps + 1)
        return torch.randn(rows, steps, I, dtype=torch.float64), lengths, torch.rand(rows, steps) < 0.3

    rows, steps = torch.export.Dim("B", min=2), torch.export.Dim("T", min=2)
    model, sizes = Model(), ({0: rows, 1: steps}, {0: rows}, {0: rows, 1: steps})
    program = torch.export.export(model, example(5, 6), dynamic_shapes=sizes)
    given = example(9, 7)
    assert torch.equal(program.module()(*given), model(*given))


def test_a_traced_graph_computes_and_does_not_remember() -> None:
    layer, _ = twins("LSTM", I, H)
    x = torch.randn(T, B, I, dtype=torch.float64)
    graph = make_fx(lambda x: layer(x)[0])(x)
    assert torch.equal(graph(2 * x), layer(2 * x)[0])


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("steps", [0, 3])
@KINDS
def test_the_operators_are_what_their_schemas_and_shapes_say(kind: str, steps: int, save: bool) -> None:
    """Neither an input nor another output may be aliased, none may be written, and shapes are those promised to compilers."""
    layer, _ = twins(kind, I, H)
    hx = states(layer, B)
    h0, c0 = (hx[0][0], hx[1][0]) if kind == "LSTM" else (hx[0], None)
    x = torch.randn(steps, B, I, dtype=torch.float64)
    weights = [p if p is None else p.detach() for p in layer.weights_of(0)]
    reset = torch.zeros(steps, B, dtype=torch.bool)
    tensors = (x, *weights, h0, c0, torch.full((B,), steps), reset, None, None, None, None)
    options = options_of(Call(layer.cell, x, layer.weights_of(0), save=save))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.openlstm.forward.default, (*tensors, *options), test_utils=checks)
    if save:
        y, h_n, c_n, gates, c, m = torch.ops.openlstm.forward(*tensors, *options)
        back = (y, gates, c, m, torch.randn_like(y), torch.randn_like(h_n), torch.randn_like(c_n) if c0 is not None else None)
        for wanted in (True, False):
            back_options = options_of(Call(layer.cell, x, layer.weights_of(0), reverse=True, save=True))
            arguments = (*tensors, *back, *back_options, wanted)
            torch.library.opcheck(torch.ops.openlstm.backward.default, arguments, test_utils=checks)


def test_nothing_is_kept_that_nobody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []
    layer, _ = twins("LSTM", I, H, backend="reference")
    reference = openlstm.engine.SUPPORT["reference"].module
    forward, backward = reference.forward, reference.backward
    monkeypatch.setattr(reference, "forward", lambda call, **k: (asked.append(("save", call.save)), forward(call, **k))[1])
    monkeypatch.setattr(
        reference, "backward", lambda *a, **k: (asked.append(("dx", k["input_gradient"])), backward(*a, **k))[1]
    )
    x = torch.randn(T, B, I, dtype=torch.float64)
    with torch.no_grad():
        layer(x)
    layer(x)[0].sum().backward()
    layer(x.requires_grad_())[0].sum().backward()
    layer.requires_grad_(False)(x.detach())
    wanted = [("save", False), ("save", True), ("dx", False), ("save", True), ("dx", True), ("save", False)]
    assert asked == wanted


def test_an_unused_part_costs_no_gradient() -> None:
    """A loss on c alone, on h alone, on y alone."""
    ours, theirs = twins("LSTM", I, H)
    x, hx = torch.randn(T, B, I, dtype=torch.float64), states(ours, B)
    for pick in (lambda y, s: y.sum(), lambda y, s: s[0].sum(), lambda y, s: s[1].sum()):
        for layer in (ours, theirs):
            layer.zero_grad()
            pick(*layer(x, hx)).backward()
        grads, wanted = ({name: p.grad for name, p in layer.named_parameters()} for layer in (ours, theirs))
        assert far(grads, wanted, 1e-11) == {}


def test_the_two_biases_gradients_share_no_memory() -> None:
    layer = openlstm.LSTM(3, 4)
    y, _ = layer(torch.randn(5, 2, 3))
    grads = torch.autograd.grad(y.sum(), list(layer.parameters()))
    assert len({g.data_ptr() for g in grads}) == len(grads)


def test_a_tensor_without_memory_of_its_own_is_refused_and_not_read() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    layer = openlstm.LSTM(3, 4)
    w = layer.get_parameter("weight_ih_l0").detach()
    layer.register_parameter("weight_ih_l0", torch.nn.Parameter(TwoTensor(w, w.clone())))
    with torch.no_grad(), pytest.raises(BackendError, match="a (TwoTensor|Parameter) has no memory of its own"):
        layer(torch.randn(5, 2, 3))


def test_lengths_of_another_batch_never_reach_the_kernel() -> None:
    layer = openlstm.LSTM(3, 4)
    x, h = torch.randn(5, 8, 3), torch.zeros(8, 4)
    w = [p.detach() for p in layer.parameters()]
    with pytest.raises(ShapeError, match="lengths ha(s|ve) (the wrong )?shape"):
        options = options_of(Call(layer.cell, x, layer.weights_of(0), backend="cpu"))
        lengths = torch.tensor([4])
        torch.ops.openlstm.forward(x, *w, None, None, None, h, h, lengths, None, None, None, None, None, *options)
