"""Every arm begins as its name says, and the cell of 1997 stays without a forget gate while it learns."""

import pytest
import torch

from openlstm.lab.arms import ARMS, build
from openlstm.lab.experiment import Learner
from openlstm.lab.sequences import latch_batch
from openlstm.nn import RNN, trace

H, LAG = 32, 120


def forget_bias(name: str) -> torch.Tensor:
    w = build(name, H, LAG, 0).layer.weights_of(0)
    assert w.b_ih is not None and w.b_hh is not None
    return (w.b_ih + w.b_hh)[H : 2 * H].detach()


def test_the_eight_arms_in_the_order_of_the_table() -> None:
    assert list(ARMS) == [
        "rnn",
        "rnn-orthogonal",
        "rnn-identity",
        "lstm-1997",
        "lstm",
        "lstm-forget-1",
        "lstm-forget-3",
        "lstm-chrono",
    ]


@pytest.mark.parametrize("name", ARMS)
def test_the_same_seed_builds_the_same_network_and_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    a, b, c = build(name, H, LAG, 0), build(name, H, LAG, 0), build(name, H, LAG, 1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.layer.weights_of(0).w_ih, c.layer.weights_of(0).w_ih)


def test_recurrent_weights_of_the_vanilla_arms() -> None:
    orthogonal, identity = (build(name, H, LAG, 0).layer for name in ("rnn-orthogonal", "rnn-identity"))
    w = orthogonal.weights_of(0).w_hh
    torch.testing.assert_close(w @ w.T, torch.eye(H), atol=1e-5, rtol=0)
    assert torch.equal(identity.weights_of(0).w_hh, torch.eye(H))
    assert isinstance(identity, RNN) and identity.cell.kernel == "rnn_relu"


def test_forget_biases_are_not_added_twice() -> None:
    assert forget_bias("lstm-forget-1").unique().tolist() == [1.0]
    assert forget_bias("lstm-forget-3").unique().tolist() == [3.0]


def test_chrono_covers_time_constants_up_to_twice_the_lag() -> None:
    steps = 1 + forget_bias("lstm-chrono").exp()  # 1/(1 - f)
    assert ((steps >= 2 - 1e-4) & (steps <= 2 * LAG)).all()
    assert 0.25 < (steps > LAG).float().mean() < 0.75
    w = build("lstm-chrono", H, LAG, 0).layer.weights_of(0)
    assert w.b_ih is not None and w.b_hh is not None
    b = w.b_ih + w.b_hh
    assert torch.equal(b[:H], -b[H : 2 * H])


def test_the_cell_of_1997_has_f_exactly_1_before_and_after_training() -> None:
    model = build("lstm-1997", H, 5, 0)
    before = [p.detach().clone() for p in model.layer.weights_of(0) if p is not None]
    generator = torch.Generator().manual_seed(0)
    learner = Learner(model)
    for _ in range(5):
        learner.step(*latch_batch(5, 16, generator))
    f = trace(model.layer, latch_batch(5, 16, generator)[0])["0.f"]
    assert (f == 1).all()
    after = [p.detach() for p in model.layer.weights_of(0) if p is not None]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[H : 2 * H], new[H : 2 * H])  # what belongs to f has not moved by a bit
        assert not torch.equal(old[:H], new[:H])  # the rest has
