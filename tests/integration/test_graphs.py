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


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@EACH
def test_an_export_to_onnx_names_the_way_out_which_works(kind: str, dynamo: bool) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    theirs, ours = (model.float().eval() for model in pair(kind))
    x = given(ours)
    said = (
        f"{kind}: ONNX has no operator for this layer\n"
        "  got       torch.onnx.export\n"
        "  expected  a model with layers of torch.nn\n"
        "  hint      export openlstm.nn.to_torch(copy.deepcopy(model)): the same parameters in torch.nn's layers"
    )
    programs = [ours, torch.export.export(ours, (x,))] if dynamo else [ours]
    written: Any = io.BytesIO()  # torch takes it, though its types say a path
    for program in programs:
        with pytest.raises(Exception) as caught:
            torch.onnx.export(program, (x,), written, dynamo=dynamo)
        assert said in str(caught.value)
    torch.onnx.export(openlstm.nn.to_torch(copy.deepcopy(ours)), (x,), written, dynamo=dynamo)
    session = onnxruntime.InferenceSession(written.getvalue(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert torch.allclose(torch.from_numpy(found), theirs(x), atol=1e-5)
    assert type(ours.rnn) is getattr(openlstm, kind) and torch.allclose(ours(x), theirs(x), atol=1e-5)


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
