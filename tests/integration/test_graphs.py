"""Programs made of a model: export and compilation with free sizes; what TorchScript, fx and quantisation make of it."""

from __future__ import annotations

import copy
import io
from typing import Any

import onnxruntime
import pytest
import torch
from tests.integration.models import EACH, given, pair, same, way
from torch import Tensor, fx, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.ao.nn.quantized import dynamic
from torch.export import Dim
from torch.fx.proxy import TraceError
from torch.jit.frontend import NotSupportedError

import openlstm

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),  # torch's own, of everything in this file
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec.*:FutureWarning"),
]
SIZES = ((4, 7), (1, 2), (9, 3), (2, 31))
OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one-layer", "two-layers-both-ways"]
)


@EACH
@OPTIONS
def test_an_exported_model_runs_at_other_sizes(kind: str, options: dict[str, Any]) -> None:
    """T and B stay free, in a file too; torch.nn's layer fixes T. The program gives the model's bits and torch.nn's numbers."""
    theirs, ours = pair(kind, **options)
    theirs, ours = theirs.eval(), ours.eval()
    free = {"x": {0: Dim("B", min=1), 1: Dim("T", min=2)}}
    program = torch.export.export(ours, (given(ours, 5, 6),), dynamic_shapes=free)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for run in (program.module(), torch.export.load(file).module()):
        for rows, steps in SIZES:
            x = given(ours, rows, steps)
            assert torch.equal(run(x), ours(x))
            same([run(x)], [theirs(x)], 1e-11)


@EACH
def test_an_exported_layer_carries_its_state(kind: str) -> None:
    """State in, state out: what a server calls chunk by chunk."""
    theirs, ours = (model.rnn for model in pair(kind, num_layers=2))

    class Chunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = ours

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
            y, state = self.rnn(x, (h, c) if kind == "LSTM" else h)
            return (y, *state) if kind == "LSTM" else (y, state, c.clone())

    def example(rows: int, steps: int) -> tuple[Tensor, ...]:
        torch.manual_seed(rows)
        x, h, c = torch.randn(rows, steps, 6), torch.randn(2, rows, 6), torch.randn(2, rows, 6)
        return x.double(), h.double(), c.double()

    rows, steps = Dim("B", min=1), Dim("T", min=2)
    program = torch.export.export(Chunk(), example(3, 4), dynamic_shapes=({0: rows, 1: steps}, {1: rows}, {1: rows}))
    for rows, steps in SIZES:
        x, h, c = example(rows, steps)
        y, state = theirs(x, (h, c) if kind == "LSTM" else h)
        same(list(program.module()(x, h, c)), [y, *(state if kind == "LSTM" else (state, c))], 1e-11)


@EACH
def test_a_compiled_model_trains_at_any_size(kind: str) -> None:
    """One graph, at most twice compiled; torch.nn's layer would break it."""
    theirs, ours = pair(kind, num_layers=2)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend=counter)
    for rows, steps in ((4, 7), (3, 2), (9, 5), (2, 31)):  # a size of 1 is a constant to torch.compile
        x = given(ours, rows, steps)
        found = []
        for model, run in ((ours, compiled), (theirs, theirs)):
            model.zero_grad()
            y = run(x)
            y.square().mean().backward()
            found.append([y, *[p.grad.clone() for p in model.parameters()]])
        same(found[0], found[1], 1e-10)
    assert counter.frame_count <= 2


@EACH
def test_a_compiled_training_goes_the_same_way(kind: str) -> None:
    theirs, ours = pair(kind)
    torch._dynamo.reset()
    same(way(torch.compile(ours, backend="aot_eager")), way(theirs))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the layer compares sizes
@EACH
def test_tracing_for_torchscript_needs_no_grad(kind: str) -> None:
    """Without gradients a trace holds the operator and runs at other sizes; with gradients it would hold a Python function."""
    theirs, ours = (model.eval() for model in pair(kind))
    with torch.no_grad():
        traced = torch.jit.trace(ours, (given(ours),))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        runs: list[Any] = [traced, torch.jit.load(file)]
        for run in runs:
            for rows, steps in SIZES:
                x = given(ours, rows, steps)
                same([run(x)], [theirs(x)], 1e-11)
    with pytest.raises(Exception, match="Tracer|tracing|Graphs differed"):
        torch.jit.trace(ours, (given(ours),))


@EACH
def test_torchscript_cannot_read_the_layer(kind: str) -> None:
    """It reads a Python of its own, without keyword-only arguments or several input forms; `to_torch` gives one it can read."""
    theirs, ours = pair(kind)
    with pytest.raises((NotSupportedError, ValueError)):  # whatever it stumbles over first
        torch.jit.script(ours)
    ours.rnn = openlstm.nn.to_torch(ours.rnn)
    assert torch.equal(torch.jit.script(ours)(given(ours)), theirs(given(ours)))


def onnx_of(program: Any, given: tuple[Any, ...], **options: Any) -> Any:
    """What ONNX Runtime makes of a model that torch has exported: inputs -> the first output."""
    written: Any = io.BytesIO()  # torch takes it, though its types say a path
    torch.onnx.export(program, given, written, dynamo=True, **options)
    session = onnxruntime.InferenceSession(written.getvalue(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda *x: torch.from_numpy(session.run(None, dict(zip(names, (a.numpy() for a in x), strict=True)))[0])


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@EACH
def test_a_model_is_exported_to_onnx_as_it_is(kind: str) -> None:
    """By its module and by the program that torch.export made of it."""
    pytest.importorskip("onnxscript")
    theirs, ours = (model.float().eval() for model in pair(kind, num_layers=2, bidirectional=True))
    x = given(ours)
    for program in (ours, torch.export.export(ours, (x,))):
        assert torch.allclose(onnx_of(program, (x,))(x), theirs(x), atol=1e-5)


class Ragged(nn.Module):
    """A layer over rows of different lengths, with a reset at every step where x begins above 1."""

    def __init__(self, layer: nn.Module, resets: bool) -> None:
        super().__init__()
        self.layer, self.resets = layer, resets

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.layer(x, lengths=lengths, reset=x[..., 0] > 1 if self.resets else None)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("layer", "resets"),
    [
        (openlstm.LSTM(3, 4, cell=openlstm.cells.Peephole(), bidirectional=True), False),
        (openlstm.GRU(3, 4, bidirectional=True), True),
        (openlstm.LSTM(3, 4, cell=openlstm.cells.SLSTM(heads=2)), True),
        (openlstm.LSTM(3, 4, proj_size=2, num_layers=2, zoneout_c=0.2), False),
        (openlstm.RNN(3, 4, cell=openlstm.cells.MinLSTM(), bidirectional=True), False),
    ],
    ids=["operator", "gru-resets", "scan-resets", "projection", "both-ways"],
)
def test_every_cell_is_exported_with_lengths_resets_and_free_axes(layer: Any, resets: bool) -> None:
    pytest.importorskip("onnxscript")
    model = Ragged(layer, resets).eval()
    T, B = Dim("T", min=2, max=99), Dim("B", min=2, max=99)
    example = (torch.randn(5, 2, 3), torch.tensor([5, 3]))
    run = onnx_of(model, example, dynamic_shapes=({0: T, 1: B}, {0: B}))
    x, lengths = torch.randn(8, 4, 3), torch.tensor([8, 1, 6, 4])
    assert torch.allclose(run(x, lengths), model(x, lengths), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@EACH
def test_the_exporter_of_torchscript_names_the_way_out(kind: str) -> None:
    _, ours = (model.float().eval() for model in pair(kind))
    with pytest.raises(openlstm.errors.BackendError) as caught:
        torch.onnx.export(ours, (given(ours),), io.BytesIO(), dynamo=False)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{kind}: the exporter of TorchScript has no translation of this layer\n"
        "  got       torch.onnx.export(dynamo=False)\n"
        "  expected  dynamo=True\n"
        "  hint      torch.onnx.export(.., dynamo=True), or export openlstm.nn.to_torch(copy.deepcopy(model)): the same "
        "parameters in torch.nn's layers"
    )


@pytest.mark.filterwarnings("ignore")
def test_noise_that_is_drawn_is_not_exported() -> None:
    pytest.importorskip("onnxscript")
    layer = openlstm.LSTM(3, 4, zoneout_c=0.1)
    with pytest.raises(Exception, match="LSTM: ONNX has no noise inside the recurrence"):
        torch.onnx.export(layer, (torch.randn(5, 2, 3),), io.BytesIO(), dynamo=True)  # type: ignore[arg-type]


@EACH
def test_a_symbolic_trace_takes_the_layer_as_a_leaf(kind: str) -> None:
    """fx knows torch.nn's modules as leaves; ours has to be named."""
    theirs, ours = pair(kind)
    with pytest.raises(TraceError):
        fx.symbolic_trace(ours)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, getattr(openlstm, kind)) or super().is_leaf_module(m, module_qualified_name)

    graph: Any = fx.GraphModule(ours, Tracer().trace(ours))
    same([graph(given(ours))], [theirs(given(ours))], 1e-11)


@EACH
def test_dynamic_quantisation_passes_the_layer_by(kind: str) -> None:
    """It goes by exact classes: asked for torch.nn's layers it leaves ours, and what is beside them is quantised."""
    theirs, ours = (model.float().eval() for model in pair(kind))
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(ours), {nn.LSTM, nn.GRU, nn.Linear}, dtype=torch.qint8)
    assert type(quantised.rnn) is getattr(openlstm, kind) and not isinstance(quantised.head, nn.Linear)
    x = given(theirs)
    assert torch.allclose(quantised(x), theirs(x), atol=0.05)
    if kind == "LSTM":  # back to torch.nn's layer, and it is quantised as ever
        ours.rnn = ours.rnn.to_torch()
        quantised = torch.ao.quantization.quantize_dynamic(ours, {nn.LSTM}, dtype=torch.qint8)
        assert type(quantised.rnn) is dynamic.LSTM
        assert torch.allclose(quantised(x), theirs(x), atol=0.05)


@EACH
def test_expanded_weights_do_not_know_the_layer_and_func_does(kind: str) -> None:
    """`torch.nn.utils.call_for_per_sample_grads` raises; vmap of grad gives the gradient of each sample."""
    from torch.func import functional_call, grad, vmap
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    theirs, ours = pair(kind)
    x = given(ours)
    with pytest.raises(RuntimeError, match="Expanded Weights"):
        call_for_per_sample_grads(ours)(x)

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(ours, parameters, (row.unsqueeze(0),)).square().sum()

    each = vmap(grad(loss), (None, 0))({name: p.detach() for name, p in ours.named_parameters()}, x)
    for n in range(len(x)):
        theirs.zero_grad()
        theirs(x[n : n + 1]).square().sum().backward()
        same([g[n] for g in each.values()], [p.grad for p in theirs.parameters()], 1e-10)
