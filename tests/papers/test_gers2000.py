"""The paper's network has the paper's weights; streams keep to the grammar; a test counts to the first wrong prediction."""

import numpy as np
import pytest
import torch
from papers import gers2000
from papers.study import Learner, generator

from openlstm.lab.tasks.reber import FOLLOWING, POSSIBLE, SYMBOL


class Oracle(torch.nn.Module):
    """Knows the grammar; h is the node, c counts symbols. It says something impossible at symbol `slip` of stream 1."""

    def __init__(self, slip: int = -1) -> None:
        super().__init__()
        self.slip = slip

    def forward(self, x, state=None):
        steps, rows = x.shape[:2]
        node, row = (torch.zeros(rows), torch.arange(rows)) if state is None else (state[0][0, :, 0], state[0][0, :, 1])
        seen = 0 if state is None or not rows else int(state[1][0, 0, 0])
        out = torch.empty(steps, rows, 7)
        for t in range(steps):
            for b in range(rows):
                at = int(node[b])
                coin = SYMBOL[at].tolist().index(int(x[t, b].argmax()))
                node[b] = FOLLOWING[at, coin]
                out[t, b] = torch.from_numpy(POSSIBLE[int(node[b])]) * 40.0 - 20
                if row[b] == 1 and seen + t == self.slip:
                    out[t, b] *= -1
        return out, (torch.stack([node, row.float()], -1)[None], torch.full((1, rows, 1), float(seen + steps)))


@pytest.mark.parametrize(("forget", "count"), [(True, 424), (False, 424 - 4 * 16)])
def test_the_weights_are_counted_as_in_the_paper(forget: bool, count: int) -> None:
    net = gers2000.Predictor(forget)
    assert net.weights() == count
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    out, _ = net(torch.eye(7).repeat(2, 1)[:, None])  # twice: at the first symbol there is nothing to forget
    Learner(net, 0.1).step(out.square().sum())
    moved = sum(int((p != before[name]).sum()) for name, p in net.named_parameters())
    assert moved == count  # every adjustable weight, and nothing else


def test_gates_begin_block_by_block() -> None:
    b = gers2000.Predictor(True).state_dict()["layer.bias_ih_l0"]
    assert b[:4].tolist() == [-0.5, -1.0, -1.5, -2.0]
    assert b[4:8].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert b[8:16].tolist() == [0.0] * 8


def test_a_ring_of_whole_strings() -> None:
    pool = gers2000.Pool(3, 2000, generator(0))
    n = len(pool.nodes)
    x, possible = pool.chunk(torch.tensor([0]), n + 5)  # once around and on
    said, may = x[:, 0].argmax(-1), possible[:, 0]
    assert may[torch.arange(n + 4), said[1:]].all()  # each symbol is one that may follow the one before
    assert all(said[int(b)] == 0 and pool.nodes[int(b) - 1] == 0 for b in pool.begins)
    assert set(pool.begins.tolist()) <= set(pool.starts.tolist())
    assert np.diff([*pool.begins.tolist(), n]).min() >= 2000


def test_short_and_long_strings_come_as_often_as_drawn() -> None:
    pool = gers2000.Pool(1, 60_000, generator(1))
    lengths = np.diff(np.flatnonzero(pool.nodes.numpy() == 0))
    # nine symbols: B x BTXSE x E and B x BPVVE x E, each inner string by three choices out of two
    assert lengths.min() == 9
    assert abs((lengths == 9).mean() - 2 / 8) < 0.02


def test_a_test_counts_to_the_first_wrong_prediction() -> None:
    assert gers2000.test(Oracle(), generator(2), 1200, True) == [1200] * 10  # type: ignore[arg-type]
    lasted = gers2000.test(Oracle(slip=1100), generator(2), 1200, True)  # type: ignore[arg-type]
    assert lasted == [1200, 1100, *[1200] * 8]
    assert min(gers2000.test(Oracle(slip=7), generator(2), 1200, False)) == 7  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["standard", "forget", "decay"])
def test_two_steps_of_training_give_the_same_twice_and_solve_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gers2000.STEPS, key, 2)
    monkeypatch.setattr(gers2000, "LONG", 500)
    a, b = gers2000.train(key, 3), gers2000.train(key, 3)
    assert a == b and not a.solved and a.more["symbols"] == 2 * 50 * 16 and 0 < a.look["share"] < 1
    assert all(0 <= n < 500 for n in a.more["lasted"])
