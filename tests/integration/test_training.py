"""A model with our layer inside takes the way of the same model with torch.nn's: whatever people do to its weights."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from tests.integration.models import EACH, GATES, Change, Model, given, pair, same, way
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import openlstm

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")


@EACH
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}, {"hidden": 17, "num_layers": 3}],
    ids=["one-layer", "two-layers-both-ways", "without-bias", "three-odd-layers"],
)
def test_a_swapped_model_trains_as_before(kind: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(kind, **options)
    same(way(ours), way(theirs))


def _tie_layers(model: Any) -> None:
    model.rnn.weight_hh_l1 = model.rnn.weight_hh_l0
    model.rnn.bias_ih_l1 = model.rnn.bias_ih_l0


def _tie_embedding(model: Any) -> None:
    model.rnn.weight_ih_l0 = model.first.weight  # [tokens, I] is [G*H, I]


def _tie_head(model: Any) -> None:
    model.head.weight = model.first.weight


TIES: dict[str, tuple[Change, bool]] = {
    "two-layers": (_tie_layers, False),
    "an-embedding-and-the-input-weight": (_tie_embedding, True),
    "an-embedding-and-the-head": (_tie_head, True),
}


@EACH
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", list(TIES))
def test_tied_weights_train_as_before(kind: str, name: str, moment: str) -> None:
    """Tied before the swap or after it: one parameter, whose gradient is the sum over its places."""
    tie, tokens = TIES[name]
    options: dict[str, Any] = {"num_layers": 2, "tokens": GATES[kind] * 6 if tokens else 0}
    moments: dict[str, Any] = {moment: tie}
    theirs, ours = pair(kind, **moments, **options)
    assert len(list(ours.parameters())) == len(list(theirs.parameters())) < len(list(Model(kind, **options).parameters()))
    same(way(ours), way(theirs))


def _each(change: Callable[..., Any]) -> Change:
    def run(model: Any) -> None:
        for name in ("weight_hh_l0", "weight_ih_l1", "weight_hh_l1_reverse"):
            change(model.rnn, name)

    return run


PARAMETRISED: dict[str, Callable[..., Any]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old-weight_norm": nn.utils.weight_norm,
    "old-spectral_norm": nn.utils.spectral_norm,
    "pruning": partial(prune.l1_unstructured, amount=0.4),
}


@EACH
@pytest.mark.parametrize("name", list(PARAMETRISED))
def test_parametrised_weights_train_as_before(kind: str, name: str) -> None:
    """spectral_norm refines itself at every reading of a training model: `parametrize.cached()` makes readings countable."""
    theirs, ours = pair(kind, after=_each(PARAMETRISED[name]), num_layers=2, bidirectional=True)
    same(way(ours), way(theirs), 1e-8)
    x = given(ours)
    same([ours.eval()(x)], [theirs.eval()(x)], 1e-8)


@EACH
def test_a_parametrised_layer_is_not_swapped_but_its_weights_can_be_moved(kind: str) -> None:
    """`replace` refuses rather than lose a parametrisation; the state_dict of one layer fits the other."""
    theirs = parametrizations.weight_norm(getattr(nn, kind)(3, 4), "weight_hh_l0")
    with pytest.raises(openlstm.errors.ArgumentError, match="has parametrisations"):
        openlstm.replace(nn.Sequential(theirs))
    ours = parametrizations.weight_norm(getattr(openlstm, kind)(3, 4), "weight_hh_l0")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(5, 2, 3)
    assert torch.allclose(ours(x)[0], theirs(x)[0], atol=1e-6)


class _Dropped(nn.Module):
    """Dropped recurrent weights as the AWD-LSTM has them: the parameter is moved aside, a plain tensor put in its place."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.raw = layer.weight_hh_l0
        del layer._parameters["weight_hh_l0"]

    def forward(self, x: Tensor) -> Any:
        self.layer.weight_hh_l0 = nn.functional.dropout(self.raw, 0.5, self.training)
        return self.layer(x)


def _drop_weights(model: Any) -> None:
    model.rnn = _Dropped(model.rnn)


@EACH
def test_a_weight_that_is_a_plain_tensor_trains_as_before(kind: str) -> None:
    theirs, ours = pair(kind, after=_drop_weights, num_layers=2)
    ways = []
    for model in (ours, theirs):
        torch.manual_seed(3)
        ways.append(way(model))
    same(ways[0], ways[1])


OPTIMISERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "adam-fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=4),
}


@EACH
@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_every_optimiser_takes_the_same_steps(kind: str, name: str) -> None:
    theirs, ours = pair(kind, num_layers=2)
    # Adam divides by the root of what may be tiny: last bits grow
    same(way(ours, optimiser=OPTIMISERS[name]), way(theirs, optimiser=OPTIMISERS[name]), 1e-7)


@EACH
def test_an_optimiser_made_before_the_swap_keeps_its_moments(kind: str) -> None:
    torch.manual_seed(0)
    theirs = Model(kind).double()
    ours = copy.deepcopy(theirs)
    adams = [torch.optim.Adam(model.parameters(), 0.01) for model in (theirs, ours)]

    def step(model: Any, adam: Any) -> None:
        adam.zero_grad()
        model(given(model)).square().sum().backward()
        adam.step()

    for _ in range(2):
        step(theirs, adams[0])
        step(ours, adams[1])
    openlstm.replace(ours)
    for _ in range(2):
        step(theirs, adams[0])
        step(ours, adams[1])
    same(list(ours.parameters()), list(theirs.parameters()), 1e-8)


@EACH
def test_gradients_are_clipped_by_the_same_norm(kind: str) -> None:
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    same(way(ours, clip=1e-3), way(theirs, clip=1e-3))


@EACH
def test_frozen_layers_stay_frozen(kind: str) -> None:
    def freeze(model: Any) -> None:
        model.rnn.requires_grad_(False)
        model.rnn.bias_hh_l0.requires_grad_(True)

    theirs, ours = pair(kind, after=freeze)
    same(way(ours), way(theirs))
    assert ours.rnn.weight_hh_l0.grad is None and ours.rnn.bias_hh_l0.grad is not None


@EACH
def test_dropout_between_layers_draws_the_same_masks(kind: str) -> None:
    theirs, ours = pair(kind, num_layers=3, dropout=0.4)
    ways = []
    for model in (ours, theirs):
        torch.manual_seed(3)
        ways.append(way(model))
    same(*ways)


@EACH
def test_dropout_can_be_changed_and_hooks_see_what_torchs_would(kind: str) -> None:
    """`model.rnn.dropout = rate`, `.train()` of the layer alone for Monte-Carlo dropout, forward hooks."""
    theirs, ours = pair(kind, num_layers=2)
    seen: list[list[Tensor]] = []
    for model in (ours, theirs):
        model.rnn.dropout = 0.7
        model.eval()
        model.rnn.train()

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            y, state = output
            seen.append([arguments[0], y, *(state if isinstance(state, tuple) else (state,))])

        model.rnn.register_forward_hook(hook)
        torch.manual_seed(3)
        model(given(model))
    same(seen[0], seen[1])
    assert float((seen[0][1] - pair(kind, num_layers=2)[0].rnn(seen[0][0])[0]).detach().norm()) > 0.01


def _every_weight(layer: Any) -> list[Tensor]:
    return [w for group in layer.all_weights for w in group]


@EACH
@pytest.mark.parametrize("bias", [True, False])
def test_all_weights_and_flatten_parameters_work_as_torchs(kind: str, bias: bool) -> None:
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, bias=bias)
    wanted, found = _every_weight(theirs.rnn), _every_weight(ours.rnn)
    assert [len(group) for group in ours.rnn.all_weights] == [len(group) for group in theirs.rnn.all_weights]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert {id(w) for w in found} == {id(p) for p in ours.rnn.parameters()}
    assert [id(w) for w in ours.rnn._flat_weights] == [id(w) for w in found]  # private, and yet much looked at
    for model in (theirs, ours):
        model.rnn.flatten_parameters()
    same(way(ours), way(theirs))


@EACH
def test_a_checkpoint_fits_both_ways(kind: str) -> None:
    """Names, order, shapes: a state_dict of one loads into the other, from a file without pickled classes."""
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    way(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = [Model(kind, num_layers=2, bidirectional=True).double() for _ in range(2)]
    openlstm.replace(fresh[1])
    for model, assign in ((theirs, False), (fresh[0], True), (fresh[1], True)):
        missing = model.load_state_dict(saved, strict=True, assign=assign)
        assert not missing.missing_keys and not missing.unexpected_keys
        same([model(given(model))], [ours(given(ours))])
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*rnn.weight_hh_l1_reverse"):
        ours.load_state_dict({k: v for k, v in saved.items() if not k.endswith("weight_hh_l1_reverse")})


@EACH
def test_copies_of_a_model_go_their_own_way(kind: str) -> None:
    theirs, ours = pair(kind, num_layers=2)
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    wanted = way(theirs)
    same(way(ours), wanted)
    for each in copies:
        same(way(each), wanted)


@EACH
def test_models_in_several_threads_do_not_meet(kind: str) -> None:
    """As DataParallel does it: each thread a replica and a share of the rows, outputs gathered, gradients summed."""
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    x = given(ours, rows=8)
    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(lambda rows: ours(rows), x.split(2)))
        torch.cat(shares).square().sum().backward()
    theirs(x).square().sum().backward()
    same(
        [torch.cat(shares).detach(), *[p.grad for p in ours.parameters()]], [theirs(x), *[p.grad for p in theirs.parameters()]]
    )


@EACH
def test_data_parallel_without_a_device_is_the_model(kind: str) -> None:
    theirs, ours = pair(kind)
    x = given(ours)
    same([nn.DataParallel(ours)(x)], [theirs(x)])


@EACH
def test_averaged_models_are_averaged_alike(kind: str) -> None:
    theirs, ours = pair(kind)
    found = []
    for model in (ours, theirs):
        averaged = torch.optim.swa_utils.AveragedModel(model)
        for n in range(2):
            with torch.no_grad():
                model.rnn.weight_hh_l0.add_(0.1 * n)
            averaged.update_parameters(model)
        found.append([averaged(given(model))])
    same(*found)


def _named_initialiser(m: nn.Module) -> None:
    """What half of all repositories contain, in the form that asks for names of parameters."""
    for name, p in m.named_parameters(recurse=False):
        if "weight_hh" in name:
            nn.init.orthogonal_(p)
        elif "weight_ih" in name:
            nn.init.xavier_uniform_(p)
        elif "bias_ih" in name:
            nn.init.zeros_(p)


@EACH
def test_initialisers_that_look_at_names_set_the_same_weights(kind: str) -> None:
    theirs, ours = pair(kind, after=lambda model: model.apply(_named_initialiser), num_layers=2)
    same(list(ours.parameters()), list(theirs.parameters()), 0.0)
    same(way(ours), way(theirs))


@EACH
def test_initialisers_that_look_at_classes_have_to_run_before_the_swap(kind: str) -> None:
    """isinstance(m, nn.LSTM) and isinstance(m, nn.RNNBase) are False: torch.compile refuses subclasses of them."""
    theirs, ours = pair(kind)
    assert isinstance(theirs.rnn, nn.RNNBase) and not isinstance(ours.rnn, nn.RNNBase)
    assert type(ours.rnn).__name__ == type(theirs.rnn).__name__  # code that compares names of classes works
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size"):
        assert getattr(ours.rnn, name) == getattr(theirs.rnn, name), name


@EACH
def test_under_autocast_the_numbers_are_near_those_of_float32(kind: str) -> None:
    """Both layers return bfloat16 there; ours rounds what it multiplies alone, so its outputs are no farther from the truth."""
    theirs, ours = (model.float() for model in pair(kind, num_layers=2))
    x = given(theirs)
    truth = theirs(x).detach()
    outputs = []
    for model in (ours, theirs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
            inner = model.rnn(model.first(x))[0]
        y.float().square().sum().backward()
        assert y.dtype == torch.bfloat16  # the head's
        assert inner.dtype == torch.bfloat16
        assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
        outputs.append(y.detach())
    error = [float((y.float() - truth).norm() / truth.norm()) for y in outputs]
    assert error[0] <= error[1] + 2e-3 and error[0] < 2e-2
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=0.1, atol=0.05)


@EACH
def test_under_autocast_a_state_may_have_either_type(kind: str) -> None:
    theirs, ours = (model.float() for model in pair(kind))
    for model in (theirs, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, state = model.rnn(torch.randn(2, 3, 6))
            y, _ = model.rnn(torch.randn(2, 3, 6), state)  # its own, carried on
            assert y.isfinite().all()


@EACH
def test_under_autocast_a_state_made_by_another_layer(kind: str) -> None:
    """An encoder's linear layer gives bfloat16 there; torch.nn's layer takes it."""
    theirs, ours = (model.float() for model in pair(kind))
    bridge = nn.Linear(5, 6)
    for model in (theirs, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = bridge(torch.randn(2, 5)).unsqueeze(0)
            assert h.dtype == torch.bfloat16
            model.rnn(torch.randn(2, 3, 6), (h, h) if kind == "LSTM" else h)


def test_under_autocast_a_single_step_takes_a_state_of_another_type() -> None:
    ours, theirs = openlstm.LSTMCell(6, 5), nn.LSTMCell(6, 5)
    x, h = torch.randn(2, 6), torch.randn(2, 5, dtype=torch.bfloat16)
    for cell in (theirs, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert cell(x, (h, h))[0].isfinite().all()
