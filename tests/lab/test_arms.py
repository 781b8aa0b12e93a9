"""Every arm begins as its name says, and reads what a task asks."""

import pytest
import torch

from openlstm.lab.arms import ARMS, SIDE_BY_SIDE, build
from openlstm.lab.tasks import TASKS, Task
from openlstm.lab.tasks.latch import latch_batch
from openlstm.lab.trial import Learner, learn
from openlstm.nn import RNN

H, LAG = 32, 120


def forget_bias(name: str) -> torch.Tensor:
    w = build(name, H, LAG, 0).layer.weights_of(0)
    assert w.b_ih is not None and w.b_hh is not None
    return (w.b_ih + w.b_hh)[H : 2 * H].detach()


def test_the_arms_in_the_order_of_the_table() -> None:
    assert list(ARMS) == [
        "rnn",
        "rnn-orthogonal",
        "rnn-identity",
        "lstm-1997",
        "gru",
        "lstm",
        "lstm-forget-1",
        "lstm-forget-3",
        "lstm-advice",
        "lstm-chrono",
    ]
    assert SIDE_BY_SIDE == tuple(ARMS)[:-1]  # nobody but the advised one is told the lag


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


def test_the_cell_of_1997_has_no_forget_gate_and_can_learn() -> None:
    model = build("lstm-1997", H, 5, 0)
    assert model.layer.cell.gates == ("i", "g", "o")
    before = [p.detach().clone() for p in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    learner = Learner(model)
    for _ in range(3):
        learn(learner, model, *latch_batch(5, 16, generator))
    for old, new in zip(before, model.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_following_the_advice_chrono_is_the_chrono_arm() -> None:
    advised, chrono = build("lstm-advice", H, LAG, 3, advice=f"chrono={LAG}"), build("lstm-chrono", H, LAG, 3)
    assert all(torch.equal(p, q) for p, q in zip(advised.parameters(), chrono.parameters(), strict=True))
    plain, none = build("lstm", H, LAG, 3), build("lstm-advice", H, LAG, 3)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), none.parameters(), strict=True))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm-1997"])
def test_what_a_network_answers_fits_every_task(name: str, task: Task) -> None:
    x, *target = task.batch(task.least + 3, 5, torch.Generator().manual_seed(0))
    model = build(name, 7, 4, 0, task)
    outputs = model(x)
    shape = [5] if task.where == "last step" else [len(x), 5]
    assert list(outputs.shape) == (shape if task.outputs == 1 else [*shape, task.outputs])
    assert torch.equal(outputs, model.answer(*model.layer(x)))
    task.loss(outputs, *target).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
