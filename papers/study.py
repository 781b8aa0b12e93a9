"""What the scripts beside this one share: claims of a paper, networks trained for them, and a table of both.

A script states its claims, trains one network per seed and hands the rest to `run`: results are kept seed by seed, so that an
interrupted study goes on where it was; the table sets the published number beside the mean, the smallest and the largest
reached; what is not reached is printed so, with what the look before training said.

Legend: T time, B batch, O outputs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

import openlstm
from openlstm.engine import native
from openlstm.insight.judge.lag_measures import THRESHOLDS
from openlstm.insight.judge.verdict import verdict
from openlstm.lab.trial import Learner as Learner
from openlstm.lab.trial import generator as generator
from openlstm.nn import LSTM


@dataclass(frozen=True)
class Trial:
    """What became of one network.

    value: what the claim counts, see `Claim.number`.
    solved: whether this network alone meets the paper's criterion.
    sequences: training sequences it saw.
    seconds: processor time of training and test on one core.
    look: what `before` said.
    more: whatever else is worth keeping.
    """

    seed: int
    value: float
    solved: bool
    sequences: int
    seconds: float
    look: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A number of a paper and what counts as reaching it.

    seeds: how many networks.
    number: what `Trial.value` is.
    lag: the steps that the gradient has to bridge.
    met: whether these networks reach it.
    shown: what was reached, in the paper's own terms.
    differences: from the paper's protocol.
    """

    key: str
    what: str
    published: str
    bar: str
    seeds: int
    number: str
    lag: int
    met: Callable[[Sequence[Trial]], bool]
    shown: Callable[[Sequence[Trial]], str]
    differences: str


Train = Callable[[str, int], Trial]
"""train(key of the claim, seed) -> what became of that network."""


class Reader(nn.Module):
    """A recurrent layer and a linear layer that reads its last real step: x [T, B, I] -> [B, O]."""

    def __init__(self, layer: LSTM, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, outputs)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.read(self.layer(x, lengths=lengths)[1])

    def read(self, state: Any) -> Tensor:
        """The outputs [B, O] of a final state (h, c) as the layer gives it."""
        return self.head(state[0][-1])


def before(layer: LSTM, x: Tensor, lag: int) -> dict[str, Any]:
    """The verdict before training (`insight.verdict`) at the claim's lag: its word, the share of the gradient, the input flip.

    >>> import openlstm
    >>> before(openlstm.LSTM(1, 8), torch.randn(101, 32, 1, generator=generator(0)), 100)["word"]
    'blocked'
    """
    v = verdict(layer, x, lag)
    return {"word": v.word, "share": float(v.share), "flip": float(v.flip)}


def median_of(trials: Sequence[Trial]) -> str:
    """What was reached, where the bar is on the median."""
    return f"{median(t.value for t in trials):.2g} (median of {len(trials)})"


def summary(claim: Claim, trials: Sequence[Trial]) -> dict[str, Any]:
    """What the table and the file say of a claim.

    >>> claim = Claim("a", "task", "1", "all", 2, "error", 5, lambda ts: all(t.solved for t in ts), lambda ts: "", "none")
    >>> seen = {"word": "not blocked", "share": 0.5, "flip": 0.1}
    >>> found = summary(claim, [Trial(k, 2.0 * k + 1, k < 1, 9, 1.0, seen) for k in (0, 1)])
    >>> found["mean"], found["met"]
    (2.0, False)
    """
    values = [t.value for t in trials]
    return {
        "what": claim.what,
        "published": claim.published,
        "reached": claim.shown(trials),
        "bar": claim.bar,
        "met": claim.met(trials),
        "number": claim.number,
        "mean": fmean(values),
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "networks": len(trials),
        "solved": sum(t.solved for t in trials),
        "sequences": fmean(t.sequences for t in trials),
        "seconds": sum(t.seconds for t in trials),
        "look": capture_layers(claim, trials),
        "differences": claim.differences,
        "trials": [asdict(t) for t in trials],
    }


def capture_layers(claim: Claim, trials: Sequence[Trial]) -> str:
    """What the look before training said, in a sentence."""
    words = [t.look["word"] for t in trials]
    said = " and ".join(f"'{word}' of {words.count(word)}" for word in dict.fromkeys(words))
    share, flip = (median(t.look[name] for t in trials) for name in ("share", "flip"))
    limit = THRESHOLDS
    return (
        f"the look before training says {said} at lag {claim.lag} (medians: share of the gradient {share:.1e}, blocked below "
        f"{limit.share:g}; input flip {flip:.1e}, below {limit.flip:g})"
    )


def table(found: Iterable[dict[str, Any]]) -> str:
    """Markdown: a row for each claim, then what is not reached and why, then the differences."""
    found = list(found)
    lines = [
        "| | published | reached | bar | | mean of the networks (smallest - largest) | training sequences | core seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in found:
        said = "reached" if s["met"] else "**not reached**"
        numbers = f"{s['number']}: {_short(s['mean'])} ({_short(s['min'])} - {_short(s['max'])}), {s['networks']} networks"
        cells = (
            s["what"],
            s["published"],
            s["reached"],
            s["bar"],
            said,
            numbers,
            f"{s['sequences']:,.0f}",
            f"{s['seconds']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    missed = [f"- {s['what']}: not reached; {s['look']}." for s in found if not s["met"]]
    differences = [f"- {s['what']}: {s['differences']}" for s in found]
    return "\n".join(
        [*lines, "", *missed, *([""] if missed else []), "Differences from the paper's protocol:", "", *differences]
    )


def run(
    name: str, title: str, claims: Sequence[Claim], train: Train, results: Path, arguments: Sequence[str] | None = None
) -> dict[str, Any]:
    """The command line of a script: train what is missing, print the table, write the files asked for.

    Args:
        name: of the file under `results`.
        title: of the paper.
        claims, train: what to show and how.
        results: the folder of saved results; with --save every trial goes there as soon as it is done, and is not repeated.
        arguments: of the command line; `sys.argv` if None.

    Returns:
        What was found, as written by --json.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, help="networks per claim (default: as in the saved results)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--claims", nargs="+", choices=[c.key for c in claims], default=[c.key for c in claims])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    parser.add_argument("--save", action="store_true", help=f"keep trials in {results.name}/{name}.json and go on from there")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    openlstm.set_num_threads(1)
    kept = results / f"{name}.json"
    known = _read(kept) if args.save else {}
    found: dict[str, Any] = {}
    for claim in (c for c in claims if c.key in args.claims):
        trials = known.setdefault(claim.key, {})
        seeds = range(args.first_seed, args.first_seed + (args.seeds or claim.seeds))
        for seed in seeds:
            if seed in trials:
                continue
            begin = time.process_time()
            trial = train(claim.key, seed)
            trials[seed] = Trial(**{**asdict(trial), "seconds": round(time.process_time() - begin, 1)})
            said = "solved" if trial.solved else "not solved"
            sys.stderr.write(
                f"{claim.what}, seed {seed}: {claim.number} {_short(trial.value)}, {said}, {trials[seed].seconds} s\n"
            )
            sys.stderr.flush()
            if args.save:
                _write(kept, _document(title, claims, known))
        found[claim.key] = summary(claim, [trials[seed] for seed in seeds])
    print(table(found.values()))
    document = {"title": title, "made_with": _made_with(), "claims": found}
    if args.save:
        _write(kept, _document(title, claims, known))
    if args.json:
        _write(args.json, document)
    return document


def _document(title: str, claims: Sequence[Claim], known: dict[str, dict[int, Trial]]) -> dict[str, Any]:
    done = {c.key: summary(c, [known[c.key][seed] for seed in sorted(known[c.key])]) for c in claims if known.get(c.key)}
    return {"title": title, "made_with": _made_with(), "claims": done}


def _made_with() -> dict[str, str]:
    isa = native.isa() if native.available() else "reference"
    return {"openlstm": openlstm.__version__, "torch": torch.__version__.split("+")[0], "instruction_set": isa, "threads": "1"}


def _read(path: Path) -> dict[str, dict[int, Trial]]:
    """claim -> seed -> trial of a file that `_write` wrote; nothing if there is none."""
    if not path.exists():
        return {}
    claims = json.loads(path.read_text())["claims"]
    return {key: {t["seed"]: Trial(**t) for t in claim["trials"]} for key, claim in claims.items()}


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(new, path)


def _short(value: float) -> str:
    """A number of any size, readable.

    >>> _short(74000.0), _short(0.0123), _short(1.0), _short(0.0)
    ('74,000', '0.0123', '1', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
