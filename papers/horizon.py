"""What a look before training says of networks that are then trained: the study behind docs/horizon.md.

python papers/horizon.py             # train what papers/results/horizon.json lacks, then print the tables
python papers/horizon.py --table     # only the tables of what is there
python papers/horizon.py --look      # draw every network that is there again and look at it; nothing is trained
python papers/horizon.py --jobs 2    # two processes of one thread each; default one

Two looks are asked: that of the last state of the layer alone, and that of the loss, followed through the whole network.
First the networks of `recall` are looked at and trained; from them alone `freeze` draws the two thresholds of each look, which
stand in openlstm.insight.THRESHOLDS and LOSS_THRESHOLDS. Then the networks of other tasks are judged by them, and then
networks that read more than the last state (READERS). Every finished network is written to the JSON at once, and a run that was
cut off goes on where it stopped.

A network counts as trained as soon as one of the checks, every 100 steps on 512 fresh sequences, finds it at least half of the
way from guessing to no error (75 % of two classes, 62.5 % of four). Half way is chosen because results come in two heaps, at
guessing and above, with little between them: a bar at 90 % would call slow learners failures and so make 'blocked' look better.
A network that fails within the budget of its task goes on to three times that budget, whatever the look said. Of the readers
only those that learn within READERS_BUDGET are counted: the question is how many of them the look calls blocked. That it calls
any blocked is seen on `middle`, where what counts is far from all that two of the readers read.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import openlstm
from openlstm import cells
from openlstm.insight.capture import capture_layers
from openlstm.insight.judge import lag_measures
from openlstm.lab.tasks import TASKS as LAB
from openlstm.nn import init

RESULTS = Path(__file__).parent / "results" / "horizon.json"
BATCH, LOOK, FRESH, CLIP, CHECK_EVERY, MORE = 64, 64, 512, 1.0, 100, 3
READERS_BUDGET = 600  # steps of training of a network that reads more than the last state
RATES = (1e-3, 3e-3, 1e-2)
LARGEST = 8_000  # H * lag, for the sake of time, half of it for two layers of two directions; EXTRA goes beyond

Data = tuple[Tensor, Tensor]  # x [T, B, I], the class [B]; what counts is read `lag` steps before the end


def recall(lag: int, batch: int, g: torch.Generator) -> Data:
    """Keep the sign of the first value through noise of a third of its size (openlstm.lab)."""
    x, answer = LAB["recall"].batch(lag, batch, g)
    return x, answer.long()


def marked(lag: int, batch: int, g: torch.Generator) -> Data:
    """Keep the sign of the first value through values of the same size; a second channel marks the first step."""
    x = torch.zeros(lag + 1, batch, 2)
    x[..., 0] = torch.randn(lag + 1, batch, generator=g)
    x[0, :, 1] = 1.0
    return x, (x[0, :, 0] > 0).long()


def latch(lag: int, batch: int, g: torch.Generator) -> Data:
    """Overwrite a sign, then keep it (openlstm.lab)."""
    x, answer = LAB["latch"].batch(lag, batch, g)
    return x, answer.long()


def symbol(lag: int, batch: int, g: torch.Generator) -> Data:
    """Keep which of four symbols came first; four others follow at random. One-hot, eight symbols."""
    answer = torch.randint(4, (batch,), generator=g)
    rest = torch.randint(4, 8, (lag, batch), generator=g)
    return F.one_hot(torch.cat([answer[None], rest]), 8).float(), answer


def first(lag: int, batch: int, g: torch.Generator) -> Data:
    """Keep which of eight tokens came first; any of the eight follow. Token ids [T, B]."""
    x = torch.randint(8, (lag + 1, batch), generator=g)
    return x, x[0]


def middle(lag: int, batch: int, g: torch.Generator) -> Data:
    """Keep which of eight tokens stood in the middle, as far from the first step as from the last. Token ids [T, B]."""
    x = torch.randint(8, (2 * lag + 1, batch), generator=g)
    return x, x[lag]


class Task(NamedTuple):
    """A generator, its sizes, and the steps of training after which a network is asked for the first time to have learnt it.

    tokens: x are ids, `inputs` the number of tokens.
    """

    batch: Callable[[int, int, torch.Generator], Data]
    inputs: int
    classes: int
    budget: int
    tokens: bool = False


TASKS = {
    "recall": Task(recall, 1, 2, 500),
    "marked": Task(marked, 2, 2, 500),
    "latch": Task(latch, 2, 2, 1000),
    "symbol": Task(symbol, 8, 4, 500),
    "first": Task(first, 8, 8, READERS_BUDGET, tokens=True),
    "middle": Task(middle, 8, 8, READERS_BUDGET, tokens=True),
}
FROZEN_ON = "recall"

BEGINNINGS: dict[str, Callable[[int, int, int], Any]] = {  # (inputs, H, lag) -> layer
    "rnn": lambda i, h, lag: openlstm.RNN(i, h),
    "rnn orthogonal": lambda i, h, lag: init.orthogonal(openlstm.RNN(i, h)),
    "rnn identity": lambda i, h, lag: init.identity(openlstm.RNN(i, h, nonlinearity="relu")),
    "gru": lambda i, h, lag: openlstm.GRU(i, h),
    "gru chrono": lambda i, h, lag: init.chrono(openlstm.GRU(i, h), lag),
    "lstm": lambda i, h, lag: openlstm.LSTM(i, h),
    "lstm forget-bias=1": lambda i, h, lag: init.forget_bias(openlstm.LSTM(i, h), 1.0),
    "lstm forget-bias=2": lambda i, h, lag: init.forget_bias(openlstm.LSTM(i, h), 2.0),
    "lstm forget-bias=3": lambda i, h, lag: init.forget_bias(openlstm.LSTM(i, h), 3.0),
    "lstm chrono": lambda i, h, lag: init.chrono(openlstm.LSTM(i, h), lag),
    "lstm 1997": lambda i, h, lag: openlstm.LSTM(i, h, cell=cells.LSTM1997()),
}
DRAWS = {"recall": 6, "marked": 5, "latch": 5, "symbol": 5}  # networks of each beginning


@dataclass(frozen=True)
class Plan:
    """A network that is to be looked at and trained."""

    task: str
    beginning: str
    hidden: int
    lag: int
    rate: float
    seed: int
    reader: str = "last"


@dataclass(frozen=True)
class Network(Plan):
    """What the looks said and what became of it.

    share, flip: of the last state of the layer. loss_share, loss_flip: of the loss.
    reached: the step of the check that found it trained, None if none did within three times the budget.
    accuracy: at that check, or at the end. seconds: of one core.
    """

    share: float = 0.0
    flip: float = 0.0
    loss_share: float = 0.0
    loss_flip: float = 0.0
    reached: int | None = None
    accuracy: float = 0.0
    seconds: float = 0.0

    @property
    def by_loss(self) -> Network:
        """With the measures of the loss in the place of those of the last state."""
        return replace(self, share=self.loss_share, flip=self.loss_flip)

    @property
    def trained(self) -> bool:
        """Within three times the budget."""
        return self.reached is not None

    @property
    def in_budget(self) -> bool:
        """Within the budget itself."""
        return self.reached is not None and self.reached <= TASKS[self.task].budget

    @property
    def gated(self) -> bool:
        """Whether it has gates; of a vanilla RNN the verdict is never 'blocked'."""
        return not self.beginning.startswith("rnn")

    def low(self, limits: lag_measures.Thresholds) -> bool:
        """Below both thresholds."""
        return self.share < limits.share and self.flip < limits.flip

    def blocked(self, limits: lag_measures.Thresholds) -> bool:
        """The verdict, by these thresholds."""
        return self.gated and self.low(limits)


EXTRA = [  # larger than what is drawn
    Plan("marked", "lstm", 128, 200, 3e-3, 9001),
    Plan("marked", "lstm chrono", 128, 200, 3e-3, 9002),
    Plan("symbol", "gru", 128, 200, 1e-3, 9003),
    Plan("symbol", "lstm chrono", 16, 500, 1e-2, 9004),
    Plan("latch", "lstm forget-bias=1", 16, 500, 3e-3, 9005),
    Plan("latch", "lstm chrono", 16, 500, 1e-2, 9006),
]


def plans() -> list[Plan]:
    """All networks, those of `recall` first; drawn once for all by their own seeds."""
    out: list[Plan] = []
    for t, (task, count) in enumerate(DRAWS.items()):
        for k in range(count):
            for b, beginning in enumerate(BEGINNINGS):
                rng = np.random.default_rng([t, b, k])
                while True:
                    hidden = int(rng.choice([16, 32, 64, 128], p=[0.35, 0.35, 0.2, 0.1]))
                    lag = int(rng.choice([20, 60, 120, 200, 500], p=[0.25, 0.3, 0.2, 0.15, 0.1]))
                    if hidden * lag <= LARGEST:
                        break
                out.append(Plan(task, beginning, hidden, lag, float(rng.choice(RATES)), 1000 * t + 100 * k + b))
    return out + EXTRA + _readers()


READERS = ("both ends", "maximum", "stack", "attention", "residual", "skip")
READERS_TASKS = ("first", "symbol", "marked")
READERS_CELLS = {"lstm": openlstm.LSTM, "gru": openlstm.GRU}
READERS_DRAWS = 11  # networks of each reader, task and cell
EMBEDDED = 16  # floats of a token
FAR = ("both ends", "skip")  # readers that do not read the middle either
FAR_DRAWS = 5  # networks of each of them and cell


def _readers() -> list[Plan]:
    """Networks that read more than the last state."""
    out: list[Plan] = []
    for r, reader in enumerate(READERS):
        for t, task in enumerate(READERS_TASKS):
            for b, beginning in enumerate(READERS_CELLS):
                for k in range(READERS_DRAWS):
                    rng = np.random.default_rng([r, t, b, k])
                    while True:
                        hidden, lag = (
                            int(rng.choice([16, 32, 64])),
                            int(rng.choice([20, 60, 120, 200], p=[0.15, 0.35, 0.35, 0.15])),
                        )
                        if hidden * lag <= (LARGEST // 2 if reader == "stack" else LARGEST):
                            break
                    rate, seed = float(rng.choice(RATES[1:])), 10_000 + 1000 * r + 100 * t + 50 * b + k
                    out.append(Plan(task, beginning, hidden, lag, rate, seed, reader))
    for r, reader in enumerate(FAR):
        for b, beginning in enumerate(READERS_CELLS):
            for k in range(FAR_DRAWS):
                rng = np.random.default_rng([9, r, b, k])
                hidden, rate = int(rng.choice([16, 32])), float(rng.choice(RATES))
                out.append(Plan("middle", beginning, hidden, 60, rate, 20_000 + 100 * r + 50 * b + k, reader))
    return out


class Reader(nn.Module):
    """A recurrent layer and a linear one that reads the class from what a reader makes of its outputs.

    last        h after the last step
    both ends   two directions, the last h of each
    maximum     the largest output of each unit over all steps
    stack       two layers of two directions, the mean of their outputs over all steps
    attention   the outputs of all steps, weighted by the softmax of a score that is learnt
    residual    the same of outputs to which the inputs were added
    skip        h after the last step, and the first input itself
    """

    def __init__(
        self, layer: nn.Module, hidden: int, classes: int, reader: str = "last", inputs: int = 0, tokens: int = 0
    ) -> None:
        super().__init__()
        self.layer, self.reader = layer, reader
        two = reader in ("both ends", "stack")
        self.head = nn.Linear((1 + two) * hidden + (inputs if reader == "skip" else 0), classes)
        self.embed = nn.Embedding(tokens, inputs) if tokens else nn.Identity()
        self.score = nn.Linear(hidden, 1) if reader in ("attention", "residual") else None
        self.add = nn.Linear(inputs, hidden) if reader == "residual" else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, state = self.layer(x)
        h = state[0] if isinstance(state, tuple) else state
        if self.reader == "last":
            return self.head(h[-1])
        if self.reader == "both ends":
            return self.head(torch.cat([h[0], h[1]], 1))
        if self.reader == "skip":
            return self.head(torch.cat([h[-1], x[0]], 1))
        if self.reader == "maximum":
            return self.head(y.amax(0))
        if self.reader == "stack":
            return self.head(y.mean(0))
        assert self.score is not None
        y = y if self.add is None else y + self.add(x)
        return self.head((self.score(y).softmax(0) * y).sum(0))


def build(plan: Plan) -> Reader:
    """The network of a plan, before any training."""
    task = TASKS[plan.task]
    torch.manual_seed(plan.seed)
    if plan.reader == "last":
        return Reader(BEGINNINGS[plan.beginning](task.inputs, plan.hidden, plan.lag), plan.hidden, task.classes)
    inputs = EMBEDDED if task.tokens else task.inputs
    two = plan.reader in ("both ends", "stack")
    layers = 2 if plan.reader == "stack" else 1
    layer = READERS_CELLS[plan.beginning](inputs, plan.hidden, layers, bidirectional=two)
    return Reader(layer, plan.hidden, task.classes, plan.reader, inputs, task.inputs if task.tokens else 0)


def looks(plan: Plan, model: Reader) -> dict[str, float]:
    """Both looks at a network: of the last state of its layer (of two directions the forward one), and of its loss."""
    x, answer = TASKS[plan.task].batch(plan.lag, LOOK, _generator(plan.seed, 0))
    own = lag_measures.LastState(capture_layers(model, x).places).measured(plan.lag)
    loss = lag_measures.measure_lag(model, (x, answer), plan.lag, loss=F.cross_entropy)
    return {"share": own.share, "flip": own.flip.ratio, "loss_share": loss.share, "loss_flip": loss.flip.ratio}


def study(plan: Plan) -> Network:
    """Build, look, train."""
    begin = time.process_time()
    model = build(plan)
    measures: dict[str, Any] = looks(plan, model)
    reached, accuracy = _train(model, TASKS[plan.task], plan)
    outcome: dict[str, Any] = {"reached": reached, "accuracy": accuracy, "seconds": time.process_time() - begin}
    return Network(**asdict(plan), **measures, **outcome)


def _train(model: Reader, task: Task, plan: Plan) -> tuple[int | None, float]:
    """Steps until trained, and the accuracy."""
    data, fresh = _generator(plan.seed, 1), _generator(plan.seed, 2)
    adam = torch.optim.Adam(model.parameters(), plan.rate, fused=True)  # one pass over all weights
    enough = (1 + 1 / task.classes) / 2
    accuracy = math.nan
    quick = plan.reader != "last" and plan.task != "middle"
    budget, check_every = (READERS_BUDGET, CHECK_EVERY // 2) if quick else (MORE * task.budget, CHECK_EVERY)
    for step in range(1, budget + 1):
        x, answer = task.batch(plan.lag, BATCH, data)
        adam.zero_grad()
        F.cross_entropy(model(x), answer).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if norm.isfinite():  # an exploded gradient is left out, not taken
            adam.step()
        if step % check_every == 0:
            with torch.no_grad():
                x, answer = task.batch(plan.lag, FRESH, fresh)
                accuracy = float((model(x).argmax(1) == answer).float().mean())
            if accuracy >= enough:
                return step, accuracy
    return None, accuracy


def _generator(seed: int, purpose: int) -> torch.Generator:
    """Independent streams for the look (0), training (1) and the checks (2)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0] >> 1))


# Thresholds


def freeze(networks: Iterable[Network]) -> lag_measures.Thresholds:
    """For each measure alone a tenth of the smallest value that any trained network with gates has, rounded down to one digit.

    A tenth, because other tasks are harder to foresee than this one: what is lost by it are verdicts, not their truth.
    """
    trained = [n for n in networks if n.trained and n.gated]
    return lag_measures.Thresholds(*(_down(min(getattr(n, name) for n in trained) / 10) for name in ("share", "flip")))


def _down(value: float) -> float:
    scale = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.floor(value / scale) * scale:.0e}")


# Tables


def _per(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.1%})" if whole else "")


def table(networks: list[Network], limits: lag_measures.Thresholds) -> str:
    """How the verdicts came out, task by task."""
    lines = [
        "| networks | blocked | of these failed | trained | of these called blocked | not blocked | of these trained |",
        "|---|---|---|---|---|---|---|",
    ]
    others = [n for n in networks if n.task != FROZEN_ON]
    groups = {f"{FROZEN_ON} (frozen on it)": [n for n in networks if n.task == FROZEN_ON]}
    groups |= {task: [n for n in networks if n.task == task] for task in TASKS if task != FROZEN_ON}
    groups["all others"] = others
    groups |= {f"others, {kind}": [n for n in others if n.beginning.split()[0] == kind] for kind in ("rnn", "gru", "lstm")}
    groups |= {f"others, rate {rate:g}": [n for n in others if n.rate == rate] for rate in RATES}
    for name, group in groups.items():
        if group:
            blocked = [n for n in group if n.blocked(limits)]
            open_ = [n for n in group if not n.blocked(limits)]
            trained = [n for n in group if n.trained]
            cells_ = (
                _per(sum(not n.trained for n in blocked), len(blocked)),
                f"{len(trained)}",
                _per(sum(n.blocked(limits) for n in trained), len(trained)),
                f"{len(open_)}",
                _per(sum(n.trained for n in open_), len(open_)),
            )
            lines.append(f"| {name}: {len(group)} | {len(blocked)} | {' | '.join(cells_)} |")
    return "\n".join(lines)


def rules(networks: list[Network], limits: lag_measures.Thresholds) -> str:
    """Other rules beside the verdict, on the judged tasks; all but the last of networks with gates."""
    others = [n for n in networks if n.task != FROZEN_ON]
    tried: dict[str, Callable[[Network], bool]] = {
        "share and flip of the last state": lambda n: n.low(limits),
        "share and flip of the loss": lambda n: n.by_loss.low(lag_measures.LOSS_THRESHOLDS),
        "share alone": lambda n: n.share < limits.share,
        "flip alone": lambda n: n.flip < limits.flip,
        "share < 1e-3 and flip < 7e-3": lambda n: n.share < 1e-3 and n.flip < 7e-3,
        "share < 1e-3": lambda n: n.share < 1e-3,
        "share < 0.1 (a tenfold drop)": lambda n: n.share < 0.1,
    }
    lines = ["| blocked if | blocked | of these failed | trained networks called blocked |", "|---|---|---|---|"]

    def row(name: str, group: list[Network], rule: Callable[[Network], bool]) -> str:
        blocked, trained = [n for n in group if rule(n)], [n for n in group if n.trained]
        right = _per(sum(not n.trained for n in blocked), len(blocked))
        return f"| {name} | {len(blocked)} | {right} | {_per(sum(rule(n) for n in trained), len(trained))} |"

    lines += [row(name, [n for n in others if n.gated], rule) for name, rule in tried.items()]
    for group, what in ((others, "the other tasks"), (networks, FROZEN_ON)):
        rnns = [n for n in group if not n.gated and (n.task == FROZEN_ON) == (what == FROZEN_ON)]
        lines.append(row(f"share and flip, vanilla RNNs on {what}", rnns, lambda n: n.low(limits)))
    return "\n".join(lines)


def beginnings(networks: list[Network], limits: lag_measures.Thresholds) -> str:
    """Each beginning on the judged tasks."""
    lines = ["| beginning | networks | blocked | trained |", "|---|---|---|---|"]
    for name in BEGINNINGS:
        group = [n for n in networks if n.task != FROZEN_ON and n.beginning == name]
        lines.append(f"| {name} | {len(group)} | {sum(n.blocked(limits) for n in group)} | {sum(n.trained for n in group)} |")
    return "\n".join(lines)


def readers(networks: list[Network]) -> str:
    """Networks that read more than the last state, and how many of those that learnt each look calls blocked."""
    lines = [
        "| networks | learnt | called blocked by the loss | by the last state alone | smallest share, flip of the loss |",
        "|---|---|---|---|---|",
    ]
    groups = {name: [n for n in networks if n.reader == name] for name in READERS}
    groups |= {kind: [n for n in networks if n.beginning == kind] for kind in READERS_CELLS}
    groups |= {f"lag {lag}": [n for n in networks if n.lag == lag] for lag in sorted({n.lag for n in networks})}
    groups["all"] = networks
    for name, group in groups.items():
        learnt = [n for n in group if n.trained]
        if learnt:
            wrong = _per(sum(n.by_loss.blocked(lag_measures.LOSS_THRESHOLDS) for n in learnt), len(learnt))
            alone = _per(sum(n.blocked(lag_measures.THRESHOLDS) for n in learnt), len(learnt))
            least = f"{min(n.loss_share for n in learnt):.1e}, {min(n.loss_flip for n in learnt):.1e}"
            lines.append(f"| {name}: {len(group)} | {len(learnt)} | {wrong} | {alone} | {least} |")
    return "\n".join(lines)


def kept(networks: list[Network]) -> tuple[int, int]:
    """Of the judged networks that never learnt and whose last state is called blocked: how many their loss is, and how many."""
    failed = [n for n in networks if n.task != FROZEN_ON and not n.trained and n.blocked(lag_measures.THRESHOLDS)]
    return sum(n.by_loss.blocked(lag_measures.LOSS_THRESHOLDS) for n in failed), len(failed)


def show(networks: list[Network]) -> None:
    """Everything that docs/horizon.md quotes."""
    last = [n for n in networks if n.reader == "last"]
    own = [n for n in last if n.task == FROZEN_ON]
    by_loss = [n.by_loss for n in last]
    for name, group, limits in (("last state", own, lag_measures.THRESHOLDS), ("loss", by_loss, lag_measures.LOSS_THRESHOLDS)):
        if any(n.trained for n in group):
            drawn = freeze([n for n in group if n.task == FROZEN_ON])
            print(f"thresholds of the {name}, drawn from {len(own)} networks of {FROZEN_ON}: {drawn}; in use: {limits}")
    limits = lag_measures.THRESHOLDS
    print(
        "", "By the loss:", table(by_loss, lag_measures.LOSS_THRESHOLDS), "By the last state:", table(last, limits), sep="\n\n"
    )
    print("", rules(last, limits), beginnings(last, limits), sep="\n\n")
    print("\nNever learnt and called blocked by the last state, and by the loss too:", _per(*kept(last)))
    print("", readers([n for n in networks if n.reader != "last" and n.task != "middle"]), sep="\n\n")
    far = [n.by_loss for n in networks if n.task == "middle"]
    blocked = [n for n in far if n.blocked(lag_measures.LOSS_THRESHOLDS)]
    print(f"\nThe middle, read at both ends: {len(far)} networks, {_per(len(blocked), len(far))} called blocked by the loss,")
    print(f"{_per(sum(not n.trained for n in blocked), len(blocked))} of these failed")
    for n in networks:
        if n.task != FROZEN_ON and n.trained and n.by_loss.blocked(lag_measures.LOSS_THRESHOLDS):
            print(f"\nwrongly called blocked by the loss: {n}")
    print(f"\n{len(networks)} networks, {sum(n.seconds for n in networks) / 60:.0f} minutes of one thread")


# Running


def load(path: Path) -> list[Network]:
    """The networks in a file of results, none if it is not there."""
    if not path.exists():
        return []
    names = {f.name for f in fields(Network)}
    return [Network(**{k: v for k, v in n.items() if k in names}) for n in json.loads(path.read_text())["networks"]]


def save(path: Path, networks: list[Network]) -> None:
    """Write all networks, one a line, in one move."""
    own = [n for n in networks if n.task == FROZEN_ON]
    head = {
        "batch": BATCH,
        "look": LOOK,
        "fresh": FRESH,
        "clip": CLIP,
        "budget": {name: task.budget for name, task in TASKS.items()},
        "more": MORE,
        "frozen_on": len(own),
        "torch": torch.__version__,
    }
    rows = ",\n".join(json.dumps(asdict(n)) for n in networks)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(f'{{"protocol": {json.dumps(head)},\n"networks": [\n{rows}\n]}}\n')
    os.replace(new, path)


def _one_thread() -> None:
    torch.set_num_threads(1)
    openlstm.set_num_threads(1)


def run(todo: list[Plan], done: list[Network], path: Path, jobs: int) -> list[Network]:
    """Train what is missing, saving each as it is finished; with one job in this process."""

    def keep(n: Network) -> None:
        done.append(n)
        save(path, done)
        how = f"trained at {n.reached}" if n.trained else f"failed ({n.accuracy:.2f})"
        name = f"{n.task} {n.beginning} {n.reader}, H={n.hidden}, lag {n.lag}, rate {n.rate:g}"
        measures = f"loss: share {n.loss_share:8.1e} flip {n.loss_flip:8.1e}"
        print(f"{len(done):>3} {name:<58} {measures}  {how}, {n.seconds:.0f} s", flush=True)

    if jobs == 1:
        _one_thread()
        for plan in todo:
            keep(study(plan))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, _one_thread) as pool:  # says so when a process dies, unlike a Pool
            for done_one in as_completed([pool.submit(study, plan) for plan in todo]):
                keep(done_one.result())
    return done


def main() -> None:
    """Train what is missing and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--look", action="store_true", help="look again at what is there, and train nothing")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    done = load(args.json)
    known = {Plan(**{f.name: getattr(n, f.name) for f in fields(Plan)}) for n in done}
    if args.look:
        _one_thread()
        done = [replace(n, **looks(n, build(n))) for n in done]
        save(args.json, done)
    elif not args.table:
        todo = [p for p in plans() if p not in known and p.task in args.tasks]
        done = run(todo, done, args.json, args.jobs)
    show(done)


if __name__ == "__main__":
    main()
