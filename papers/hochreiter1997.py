"""Hochreiter & Schmidhuber 1997, "Long short-term memory", experiments 4 (adding, T = 100) and 6a (temporal order).

python -m papers.hochreiter1997                                    # both tasks, ten networks each
python -m papers.hochreiter1997 --claims adding --seeds 1          # a part of it
python -m papers.hochreiter1997 --save --json hochreiter1997.json  # goes on from papers/results/, writes every number

The network is the paper's: the cell of 1997 without forget gate, two blocks of two cells, input gates that begin nearly closed,
logistic outputs, squared error at the end of a sequence. A network counts as solved when at least the 2,000 sequences it saw
last were all processed rightly, with a mean error below the paper's bound, within twice the paper's mean number of training
sequences, and then at most 3 of 2,560 fresh ones are wrong (the most that the paper reports).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from papers.study import Claim, Learner, Reader, Trial, before, generator, run
from torch import Tensor

from openlstm import LSTM, cells

Batch = tuple[Tensor, Tensor, Tensor]
"""x [T, B, I], lengths [B], targets [B, O]."""

BATCH, RATE = 10, 2e-2
PAPERS_OWN, FRESH, MOST_WRONG = 2000, 2560, 3


class Task(NamedTuple):
    """One experiment."""

    make: Callable[[int, torch.Generator], Batch]
    inputs: int
    outputs: int
    input_gates: tuple[float, float]  # biases with which the two blocks begin
    bound: float  # a sequence is processed rightly if every output is nearer to its target than this
    mean_error: float  # bound of the mean error over the recent sequences
    published: int  # training sequences
    weights: int  # of the paper's network
    recent: int  # so many sequences processed rightly in a row end training; 2,000 in the paper
    online: bool  # the paper's own way, one step of rate 0.5 after each sequence; else Adam in batches of ten
    lag: int  # the least number of steps from the last thing that matters to the end of the sequence


def adding(batch: int, generator: torch.Generator, T: int = 100) -> Batch:
    """Values in -1..1 on channel 0; channel 1 marks two of them with 1, the first and the last step with -1, the rest with 0.

    One mark is among the first ten steps, the other among the first T/2 - 1 that are still unmarked. The target is
    0.5 + (X_1 + X_2) / 4, where a marked first step counts as 0. Lengths are uniform in T .. T + T/10.

    >>> x, lengths, target = adding(4, torch.Generator().manual_seed(0))
    >>> x.shape[1:], bool(((lengths >= 100) & (lengths <= 110)).all()), target.shape
    (torch.Size([4, 2]), True, torch.Size([4, 1]))
    """
    lengths = torch.randint(T, T + T // 10 + 1, (batch,), generator=generator)
    x = torch.zeros(int(lengths.max()), batch, 2)
    x[..., 0] = torch.rand(x.shape[:2], generator=generator) * 2 - 1
    rows = torch.arange(batch)
    first = torch.randint(10, (batch,), generator=generator)
    other = torch.randint(T // 2 - 2, (batch,), generator=generator)
    other = other + (other >= first).long()  # any of the first T/2 - 1 but `first`
    x[0, :, 1] = -1.0
    x[lengths - 1, rows, 1] = -1.0
    target = torch.full((batch, 1), 0.5)
    for mark in (first, other):
        counts = (mark > 0).float()
        x[mark, rows, 1] = counts * 1.0 - (1 - counts)  # the first step stays at -1, and its value is 0
        x[mark, rows, 0] *= counts
        target[:, 0] += x[mark, rows, 0] / 4
    return x, lengths, target


def temporal_order(batch: int, generator: torch.Generator) -> Batch:
    """Symbols E, B, a, b, c, d, X, Y one by one: E first, B last, X or Y at t_1 in 10..20 and t_2 in 50..60, else a, b, c or d.

    Which of XX, XY, YX, YY it was is the answer, one of four. Lengths are uniform in 100..110.

    >>> x, lengths, target = temporal_order(4, torch.Generator().manual_seed(0))
    >>> x.shape[1:], target.sum(1).tolist()
    (torch.Size([4, 8]), [1.0, 1.0, 1.0, 1.0])
    """
    lengths = torch.randint(100, 111, (batch,), generator=generator)
    symbols = torch.randint(2, 6, (int(lengths.max()), batch), generator=generator)
    rows = torch.arange(batch)
    symbols[0], symbols[lengths - 1, rows] = 0, 1
    answer = torch.zeros(batch, dtype=torch.long)
    for lowest in (10, 50):
        which = torch.randint(2, (batch,), generator=generator)
        symbols[lowest + torch.randint(11, (batch,), generator=generator), rows] = 6 + which
        answer = 2 * answer + which
    return torch.nn.functional.one_hot(symbols, 8).float(), lengths, torch.nn.functional.one_hot(answer, 4).float()


TASKS = {
    "adding": Task(adding, 2, 1, (-3.0, -6.0), 0.04, 0.01, 74_000, 93, 5000, False, 50),
    "temporal-order": Task(temporal_order, 8, 4, (-2.0, -4.0), 0.3, 0.1, 31_390, 156, 2000, True, 39),
}


def network(task: Task, seed: int) -> Reader:
    """Two blocks of two cells of 1997; weights and biases from -0.1 .. 0.1, but for the biases of the input gates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Reader(LSTM(task.inputs, 4, cell=cells.LSTM1997(cells_per_gate=2)), task.outputs)
        for p in net.parameters():
            torch.nn.init.uniform_(p, -0.1, 0.1)
        w = net.layer.weights_of(0)
        assert w.b_ih is not None and w.b_hh is not None  # bias=True
        with torch.no_grad():
            w.b_hh.zero_()
            w.b_ih[:2] = torch.tensor(task.input_gates)
    return net


def train(key: str, seed: int) -> Trial:
    """One network, until it is solved or has seen twice the paper's sequences."""
    task = TASKS[key]
    net, data = network(task, seed), generator(seed, 1)
    x, lengths, _ = task.make(64, generator(seed, 0))
    look = before(net.layer, x[: int(lengths.min())], task.lag)
    batch = 1 if task.online else BATCH
    learner = Learner(net, 0.25, 2.0, plain=True) if task.online else Learner(net, RATE)  # 0.25: the paper halves the error
    errors = torch.full((task.recent,), torch.inf)  # of the sequences seen last, the newest at the end
    seen, solved, as_paper = 0, False, None
    while seen < 2 * task.published and not solved:
        x, lengths, target = task.make(batch, data)
        out = net(x, lengths)
        learner.step(squared(out, target), None if task.online else RATE * min(1.0, 2 - seen / task.published))
        seen += batch
        errors = torch.cat([errors[batch:], worst(out.detach(), target)])
        if errors[-PAPERS_OWN:].max() < task.bound and errors[-PAPERS_OWN:].mean() < task.mean_error:
            as_paper = as_paper or seen
            solved = bool(errors.max() < task.bound)
    with torch.no_grad():
        x, lengths, target = task.make(FRESH, generator(seed, 2))
        error = worst(net(x, lengths), target)
    wrong = int((error >= task.bound).sum())
    more = {"wrong_of_2560": wrong, "first_2000_right_after": as_paper, "mean_error": float(error.mean())}
    return Trial(seed, seen, solved and wrong <= MOST_WRONG, seen, 0.0, look, more)


def squared(out: Tensor, target: Tensor) -> Tensor:
    """The squared error of logistic outputs, summed over outputs, mean over sequences."""
    return (torch.sigmoid(out) - target).square().sum(1).mean()


def worst(out: Tensor, target: Tensor) -> Tensor:
    """The largest absolute error among the outputs of each sequence, [B]."""
    return (torch.sigmoid(out) - target).abs().amax(1)


def all_solved(trials: Sequence[Trial]) -> bool:
    """As in the paper."""
    return all(t.solved for t in trials)


def solved(trials: Sequence[Trial]) -> str:
    """In the paper's terms."""
    done = [t for t in trials if t.solved]
    text = f"{len(done)} of {len(trials)} networks"
    if not done:
        return text
    wrong = fmean(t.more["wrong_of_2560"] for t in done)
    first = fmean(t.more["first_2000_right_after"] for t in done)
    after = f"after {fmean(t.sequences for t in done):,.0f} sequences (2,000 right after {first:,.0f})"
    return f"{text} {after}, {wrong:.1f} of 2,560 wrong"


def claims() -> list[Claim]:
    """Both tasks."""
    names = {"adding": "adding, T = 100", "temporal-order": "temporal order (6a)"}
    steps = {
        True: "one step of rate 0.5 after each sequence, as there, but with the gradient's norm clipped at 1",
        False: f"Adam in batches of {BATCH}, gradient norm clipped at 1, rate {RATE} that falls to 0 over the second half of "
        "the sequences allowed (there one step of rate 0.5 after each sequence)",
    }
    errors = {
        "adding": "trained until 5,000 sequences in a row are right (there 2,000); 'average training error below 0.01' is "
        "taken as the mean absolute error of the last 2,000",
        "temporal-order": "'average error below 0.1' is taken as the mean, over the last 2,000, of a sequence's largest error",
    }
    out = []
    for key, task in TASKS.items():
        weights = sum(p.numel() for name, p in network(task, 0).named_parameters() if name != "layer.bias_hh_l0")
        told = (
            f"{steps[task.online]}; the whole gradient through time (there truncated); cells squashed by tanh (there g in "
            f"-2..2, h in -1..1); gates are not fed back, so {weights} weights and the drop-in's second bias (there "
            f"{task.weights}); {errors[key]}."
        )
        bar = f"as many networks, within {2 * task.published:,} sequences"
        published = f"all networks after {task.published:,} sequences, 1 of 2,560 wrong"
        out.append(Claim(key, names[key], published, bar, 10, "sequences", task.lag, all_solved, solved, told))
    return out


if __name__ == "__main__":
    run("hochreiter1997", "Hochreiter & Schmidhuber 1997, tables 7 and 9", claims(), train, Path(__file__).parent / "results")
