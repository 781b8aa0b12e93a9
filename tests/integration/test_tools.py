"""Tools that walk over a model's layers: counters, trainers, explainers. What they see of ours beside torch.nn's.

Optional packages are tested where they are installed; docs/compatibility.md names the versions that were tried.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tests.integration.models import EACH, GATES, given, pair, same
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import openlstm


def optional(name: str) -> Any:
    """A package, or the test is skipped; its own warnings at import are its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def trained_once(model: Any, optimiser: Any, backward: Any) -> list[Tensor]:
    optimiser.zero_grad()
    y = model(given(model).float())
    backward(y.square().mean())
    optimiser.step()
    return [y, *model.parameters()]


@EACH
def test_parameters_are_counted_alike(kind: str) -> None:
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    count = [sum(p.numel() for p in model.parameters()) for model in (theirs, ours)]
    assert count[0] == count[1]
    assert [tuple(p.shape) for p in ours.rnn.parameters()] == [tuple(p.shape) for p in theirs.rnn.parameters()]


@EACH
def test_torch_counts_no_operations_of_either_layer(kind: str) -> None:
    """FlopCounterMode knows products of matrices; torch.nn's layer on CPU and ours are operators it does not know."""
    totals = []
    for model in pair(kind):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.float()(given(model).float())
        totals.append(counter.get_total_flops())
    assert totals[1] == 2 * 4 * 7 * (5 * 6 + 6 * 3)  # the linear layers
    if kind == "LSTM":
        assert totals[0] == totals[1]


@EACH
def test_lightning_fabric_trains_as_with_torchs_layer(kind: str) -> None:
    fabric = optional("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    found = []
    for model in pair(kind):
        model = model.float()
        wrapped, optimiser = fabric.setup(model, torch.optim.Adam(model.parameters(), 0.01))
        found.append(trained_once(wrapped, optimiser, fabric.backward))
    same(found[1], found[0], 1e-4)


@EACH
def test_accelerate_trains_as_with_torchs_layer(kind: str) -> None:
    accelerator = optional("accelerate").Accelerator(cpu=True)
    found = []
    for model in pair(kind):
        model = model.float()
        wrapped, optimiser = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 0.01))
        found.append(trained_once(wrapped, optimiser, accelerator.backward))
    same(found[1], found[0], 1e-4)


@EACH
def test_torchinfo_shows_the_same_table(kind: str) -> None:
    torchinfo = optional("torchinfo")
    tables = []
    for model in pair(kind, num_layers=2):
        shown = torchinfo.summary(model, input_data=given(model), verbose=0)
        lines = [(line.class_name, line.num_params, line.output_size) for line in shown.summary_list]
        tables.append((shown.total_params, shown.total_mult_adds, lines))
    assert tables[0] == tables[1]


@EACH
def test_counters_by_class_are_told_of_ours(kind: str) -> None:
    """thop looks classes up in a table; a class it does not find counts nothing, so ours has to be put in."""
    thop = optional("thop")
    hooks = {name: getattr(thop.rnn_hooks, f"count_{name.lower()}") for name in ("LSTM", "GRU", "RNN")}
    counts = []
    for module, model in zip((nn, openlstm), pair(kind, num_layers=2), strict=True):
        own = {getattr(module, kind): hooks[kind]}
        counts.append(thop.profile(model, (given(model),), verbose=False, custom_ops=own))
    assert counts[0] == counts[1] and counts[0][0] > GATES[kind]


@EACH
def test_fvcore_counts_the_rest_of_the_model(kind: str) -> None:
    nn_ = optional("fvcore.nn")
    totals = []
    for model in pair(kind):
        analysis = nn_.FlopCountAnalysis(model, given(model)).unsupported_ops_warnings(False).tracer_warnings("none")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            totals.append((analysis.total(), dict(nn_.parameter_count(model))))
    assert totals[0] == totals[1]


@EACH
def test_captum_attributes_through_the_layer(kind: str) -> None:
    attr = optional("captum.attr")
    found = []
    for model in pair(kind, num_layers=2):
        gradients = attr.IntegratedGradients(lambda x, model=model: model(x)[:, -1])
        found.append([gradients.attribute(given(model), target=1)])
    same(found[1], found[0], 1e-9)


@EACH
def test_opacus_takes_its_own_layers_only(kind: str) -> None:
    """Its validator names torch.nn's and passes ours; its gradient sampler takes neither. Its own layers load the weights."""
    layers = optional("opacus.layers")
    theirs, ours = (model.rnn for model in pair(kind, num_layers=2))
    private = getattr(layers, f"DP{kind}")(6, 6, num_layers=2, batch_first=True).double()
    private.load_state_dict(ours.state_dict())
    x = torch.randn(4, 7, 6, dtype=torch.float64)
    same([private(x)[0]], [theirs(x)[0]], 1e-9)


@pytest.mark.parametrize("swap", [False, True])
def test_torchrl_wraps_the_layer(swap: bool) -> None:
    modules, tensordict = optional("torchrl.modules"), optional("tensordict")
    torch.manual_seed(0)
    lstm = nn.LSTM(6, 6, batch_first=True)
    module = modules.LSTMModule(
        lstm=openlstm.LSTM.from_torch(lstm) if swap else lstm,
        in_keys=["x", "h", "c"],
        out_keys=["y", ("next", "h"), ("next", "c")],
    )
    x, state = torch.randn(4, 6), torch.randn(2, 4, 1, 6)
    begins = torch.zeros(4, 1, dtype=torch.bool)
    out = module(tensordict.TensorDict({"x": x, "h": state[0], "c": state[1], "is_init": begins}, [4]))
    y, (h, c) = lstm(x.unsqueeze(1), (state[0].transpose(0, 1), state[1].transpose(0, 1)))
    assert torch.allclose(out["y"], y.squeeze(1), atol=1e-6)
    assert torch.allclose(out["next", "c"].squeeze(1), c.squeeze(0), atol=1e-6)
