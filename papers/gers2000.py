"""Gers, Schmidhuber & Cummins 2000, "Learning to forget", table 2: an endless stream of embedded Reber strings.

python -m papers.gers2000                                 # three rows of twenty networks
python -m papers.gers2000 --claims forget --seeds 2       # a part of it
python -m papers.gers2000 --save --json gers2000.json     # goes on from papers/results/, writes every number

The network is the paper's, weight for weight: 7 inputs, 4 blocks of 2 cells that share their gates, 7 logistic outputs that see
the cells and the inputs. 8 cells x (7 + 8) + 12 gates x (7 + 8 + 1) + 7 outputs x (8 + 7 + 1) = 120 + 192 + 112 = 424 weights;
cells have no bias, so those of the candidate rows stay at 0, as does the drop-in's second bias.

A prediction is right if every output is nearer than 0.49 to its target: 1 for a symbol that may follow, 0 for one that may not.
A test feeds ten streams; each ends with the first wrong prediction or after a million right ones. A network is perfect when all
ten reach the million.

Legend: T steps of a chunk, B streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from papers.study import Claim, Learner, Trial, before, generator, run
from torch import Tensor, nn

from openlstm import LSTM, cells
from openlstm.lab.tasks.reber import POSSIBLE, SYMBOLS
from openlstm.lab.tasks.reber import streams as strings

CHUNK, STREAMS, RATE, HALVES = 50, 16, 3e-2, 4000  # steps of truncated BPTT, streams side by side, Adam, steps until it halves
STEPS = {"standard": 6000, "forget": 6000, "decay": 12_000}  # at most; a rate that falls wants longer
ENDS, LONG, TESTS, WRONG = 40, 1_000_000, 10, 0.49
# ENDS: chunks after which a stream ends although nothing was wrong, so that beginnings are never forgotten
EPS = 1e-5  # of Adam: where nothing is wrong any more, nothing moves
LOOK, CLEAN = 50, 0.95  # steps between two looks; share of chunks without error from which a test is worth while
STRINGS, SHORTEST, BLOCK = 20, 9, 4096  # of each row of a pool; symbols of the shortest; rows made at once
SEEN = torch.from_numpy(POSSIBLE).float()  # [nodes, 7]
ONE_HOT = torch.eye(len(SYMBOLS))

State = tuple[Tensor, Tensor]


class Predictor(nn.Module):
    """Four blocks of two cells; the outputs see the cells and the input: x [T, B, 7] -> logits [T, B, 7], state."""

    def __init__(self, forget: bool) -> None:
        super().__init__()
        cell = cells.LSTM(cells_per_gate=2) if forget else cells.LSTM1997(cells_per_gate=2)
        self.layer = LSTM(7, 8, cell=cell)
        self.head = nn.Linear(8 + 7, 7)
        rows = {gate: 8 if gate == "g" else 4 for gate in cell.gates}
        begin = torch.arange(1, 5) * 0.5
        biases = {"i": -begin, "f": begin, "g": torch.zeros(8), "o": -begin}
        for p in self.parameters():
            nn.init.uniform_(p, -0.2, 0.2)
        w = self.layer.weights_of(0)
        assert w.b_ih is not None and w.b_hh is not None  # bias=True
        with torch.no_grad():
            w.b_hh.zero_()
            w.b_ih.copy_(torch.cat([biases[gate] for gate in rows]))
        w.b_hh.requires_grad_(False)
        moves = torch.cat([torch.full((n,), float(gate != "g")) for gate, n in rows.items()])
        w.b_ih.register_hook(lambda gradient: gradient * moves)
        self.fixed = 8

    def weights(self) -> int:
        """How many numbers training adjusts."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad) - self.fixed

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        h, end = self.layer(x, state)
        return self.head(torch.cat([h, x], -1)), end


class Pool:
    """Streams of whole strings, one behind the other on a ring, cheap to cut chunks from.

    Args:
        count: how many; `begins` says where.
        symbols: at least so many in each.
    """

    def __init__(self, count: int, symbols: int, generator: torch.Generator) -> None:
        rows = -(-symbols // (STRINGS * SHORTEST))  # of each stream
        blocks = [self._block(min(BLOCK, count * rows - k), generator) for k in range(0, count * rows, BLOCK)]
        self.symbols, self.nodes, lengths = (torch.from_numpy(np.concatenate(a)) for a in zip(*blocks, strict=True))
        self.begins = (lengths.cumsum(0) - lengths)[::rows]
        self.starts = (torch.nonzero(self.nodes == 0)[:, 0] + 1) % len(self.nodes)  # of strings

    @staticmethod
    def _block(rows: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first strings of `rows` streams: symbols, the node after each, how many of each row; none is cut off."""
        symbols, node = strings(STRINGS * 25, rows, generator)
        ends = node[1:] == 0
        passed = np.cumsum(ends, 0) - ends
        assert passed[-1].min() >= STRINGS, "a row did not reach the end of its last string"
        wanted = (passed < STRINGS).T
        return symbols.T[wanted].astype(np.uint8), node[1:].T[wanted].astype(np.uint8), wanted.sum(1)

    def chunk(self, place: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """x [steps, B, 7] from the places [B] on, and what may follow each symbol [steps, B, 7]."""
        at = (place + torch.arange(steps)[:, None]) % len(self.nodes)
        return ONE_HOT[self.symbols[at].long()], SEEN[self.nodes[at].long()]

    def somewhere(self, count: int, generator: torch.Generator) -> Tensor:
        """Places where a string begins, [count]."""
        return self.starts[torch.randint(len(self.starts), (count,), generator=generator)]


def test(net: Predictor, generator: torch.Generator, long: int, patient: bool) -> list[int]:
    """How many symbols each of ten streams lasts, `long` at most; without patience all end when the first of them does."""
    pool = Pool(TESTS, long, generator)
    place, alive, lasted = pool.begins, torch.arange(TESTS), [long] * TESTS
    state, done = None, 0
    with torch.no_grad():
        while done < long and len(alive):
            steps = min(1000, long - done)
            x, possible = pool.chunk(place + done, steps)
            out, (h, c) = net(x, state)
            wrong = ((torch.sigmoid(out) - possible).abs() >= WRONG).any(-1)  # [steps, alive]
            failed = wrong.any(0)
            for row in torch.nonzero(failed)[:, 0].tolist():
                lasted[int(alive[row])] = done + int(wrong[:, row].int().argmax())
            if failed.any() and not patient:
                break
            stays = ~failed
            alive, place, state, done = alive[stays], place[stays], (h[:, stays], c[:, stays]), done + steps
    return lasted


def train(key: str, seed: int) -> Trial:
    """One network, for STEPS[key] steps at most."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Predictor(forget=key != "standard")
    chance, fresh = generator(seed, 1), generator(seed, 2)
    pool = Pool(1, 2_000_000, generator(seed, 0))
    look = before(net.layer, pool.chunk(pool.somewhere(64, chance), 100)[0], LAG)
    learner = Learner(net, RATE, eps=EPS)
    place, state = pool.somewhere(STREAMS, chance), None
    begun, steps, survived, lasted, age = STREAMS, 0, 0.0, [0] * TESTS, torch.arange(STREAMS)
    while steps < STEPS[key]:
        x, possible = pool.chunk(place, CHUNK)
        out, state = net(x, state)
        rate = RATE * 0.5 ** (steps / HALVES) if key == "decay" else RATE
        learner.step(loss_of(out, possible), rate)
        steps += 1
        with torch.no_grad():
            right = ((torch.sigmoid(out) - possible).abs() < WRONG).all(-1).all(0)  # [B]
            goes_on = right & (age < ENDS)
            state = (state[0].detach() * goes_on[:, None], state[1].detach() * goes_on[:, None])
            place = torch.where(goes_on, place + CHUNK, pool.somewhere(STREAMS, chance))
            age = torch.where(goes_on, age + 1, 1)
        begun += STREAMS - int(goes_on.sum())
        survived = 0.99 * survived + 0.01 * float(right.float().mean())
        if (
            steps % LOOK == 0
            and survived > CLEAN
            and all(min(test(net, fresh, n, False)) == n for n in (LONG // 50, LONG // 10))
        ):
            lasted = test(net, fresh, LONG, False)
            if min(lasted) == LONG:
                break
    if min(lasted) < LONG:
        lasted = test(net, fresh, LONG, True)
    more = {"streams": begun, "symbols": steps * CHUNK * STREAMS, "chunks_without_error": round(survived, 4), "lasted": lasted}
    mean = fmean(lasted)
    return Trial(seed, mean, mean == LONG, begun, 0.0, look, more)


def loss_of(out: Tensor, possible: Tensor) -> Tensor:
    """Cross entropy of each output on its own."""
    return nn.functional.binary_cross_entropy_with_logits(out, possible)


LAG = 8  # an inner string of 8 symbols on average lies between the symbol that has to be kept and where it is needed


def shown(trials: Sequence[Trial]) -> str:
    """The paper's three columns: perfect, good (a mean above 1,000 symbols), the rest."""
    perfect = [t for t in trials if t.solved]
    good = [t for t in trials if not t.solved and t.value > 1000]
    rest = [t for t in trials if not t.solved and t.value <= 1000]
    n = len(trials)
    text = f"{len(perfect) / n:.0%} perfect"
    text += f" (after {fmean(t.more['symbols'] for t in perfect):,.0f} symbols)" if perfect else ""
    text += f", {len(good) / n:.0%} good" + (f" <{fmean(t.value for t in good):,.0f}>" if good else "")
    return text + f", {len(rest) / n:.0%} rest" + (f" <{fmean(t.value for t in rest):,.0f}>" if rest else "")


def share_of_perfect(trials: Sequence[Trial]) -> float:
    """Between 0 and 1."""
    return sum(t.solved for t in trials) / len(trials)


def claims() -> list[Claim]:
    """The rows of the paper's table that are run here."""
    rows = {
        "standard": ("LSTM without forget gates", "0 % perfect, 1 % good <1,166>, 99 % rest <37>", 0.0),
        "forget": ("LSTM with forget gates", "18 % perfect (18,889 streams), 29 % good <39,171>, 53 % rest <145>", 0.18),
        "decay": ("the same, learning rate falling", "62 % perfect (14,087 streams), 6 % good <68,464>, 32 % rest <30>", 0.62),
    }
    out = []
    for key, (what, published, least) in rows.items():
        count = Predictor(key != "standard").weights()
        falls = f", which halves every {HALVES:,} steps (there x 0.99 a symbol, anew in each stream)" if key == "decay" else ""
        told = (
            f"{count} weights; {STREAMS} streams side by side in chunks of {CHUNK} symbols, state carried over and the "
            f"gradient cut between chunks (there symbol by symbol, gradient truncated to the cells); a stream begins anew with "
            f"state 0 after a chunk with a wrong prediction, or after {ENDS} chunks (there at once, or after 100,000 symbols); "
            f"Adam {RATE} with eps {EPS}{falls}, gradient norm clipped at 1 (there rate 0.5); cross entropy (there squared "
            f"error); at most {STEPS[key]:,} steps = {STEPS[key] * CHUNK * STREAMS:,} symbols (there 30,000 streams); tested "
            f"every {LOOK} steps once {CLEAN:.0%} of the chunks are without error (there after each stream)."
        )
        bar = f"{least:.0%} perfect, as published" if key == "standard" else f"at least {least:.0%} perfect"
        met = (lambda ts: share_of_perfect(ts) == 0) if key == "standard" else _at_least(least)
        out.append(Claim(key, what, published, bar, 20, "mean symbols of ten test streams", LAG, met, shown, told))
    return out


def _at_least(least: float):
    return lambda trials: share_of_perfect(trials) >= least


if __name__ == "__main__":
    run("gers2000", "Gers, Schmidhuber & Cummins 2000, table 2", claims(), train, Path(__file__).parent / "results")
