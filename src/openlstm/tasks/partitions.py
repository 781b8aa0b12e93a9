"""`--engine ray`: predict and evaluate over partitions of the series, in processes of Ray on this machine or a cluster.

    driver   which series there are, in their order -> partitions
    worker   the rows of its series -> panel -> forecast -> a Parquet file
    driver   these files, in their order -> the output

A series is forecast to the same bits whatever stands beside it, so the result is that of one process. A part that is written
twice, as its worker died, is the same.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openlstm._files import folder_beside, writing
from openlstm.data.columns import terms
from openlstm.data.files import native_frame
from openlstm.data.panel import Note, Panel
from openlstm.data.parquet import Pair, Plan, Source
from openlstm.runtime.model import Model
from openlstm.runtime.prediction import Prediction
from openlstm.runtime.simulate import Simulation
from openlstm.tasks.evaluation import Ask
from openlstm.tasks.workers import Engine, Workers, workers

LOCAL = Engine()
MOST_ROWS = 1_000_000
"""Of a partition, but for a series that is longer."""


class Written(NamedTuple):
    """What `predict` wrote: how many rows, whose forecast, and what is to be known of the data."""

    rows: int
    source: str
    notes: list[Note]


def ask(model: Model, panel: Panel, use: str) -> Prediction | Simulation:
    """The forecast of a model, or what it simulates."""
    return model.simulate(panel) if model.header.decoder.kind == "simulate" else model.predict(panel, use=use)


def predict(
    model: Model,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    engine: Engine = LOCAL,
    *,
    future_data: str | os.PathLike[str] | None = None,
    use: str = "network",
    options: Mapping[str, str | None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Forecast the series of a Parquet table partition by partition into a Parquet file; no process holds the whole of either.

    Args:
        data, future_data: a file, a folder of files, or a pattern. All machines of a cluster see them, and the folder of the
            output.
        engine: where partitions are worked on; this machine if left out.
        use, options: as of `Model.predict` and `Model.panel`.
        on_progress: called with how many partitions are done, and how many there are.

    Raises:
        DataError: for a table that cannot be read part by part, see `data.parquet`, or cannot be used.
        ArgumentError: for a `use` that the model does not hold; for an address at which no Ray answers.
        BackendError: if Ray does not start, or its workers die again and again.
        MissingExtraError: without Ray.
    """
    if model.header.decoder.kind != "simulate":
        model.called(use)
    ahead = None if future_data is None else Source.of(Path(future_data))
    plan = Plan.of(Source.of(Path(data)), terms(model.header.series, options), ahead)
    with folder_beside(output) as folder, workers(engine) as ray:
        pairs = plan.divide(ray.partitions, MOST_ROWS)
        files = [folder / f"{k}.parquet" for k in range(len(pairs))]
        done: list[Written] = []
        found = ray.map(partial(_predict, model, use, options), zip(pairs, files, strict=True))
        for number in range(len(pairs) + 1):
            if on_progress:
                on_progress(number, len(pairs))
            done += islice(found, 1)
        _join(files, output)
    return Written(sum(part.rows for part in done), done[0].source, _together([part.notes for part in done]))


def _predict(model: Model, use: str, options: Mapping[str, str | None] | None, job: tuple[Pair, Path]) -> Written:
    """Forecast one partition into a file."""
    (data, ahead), file = job
    panel = model.panel(data.read(), future_data=None if ahead is None else ahead.read(), options=options)
    forecast = ask(model, panel, use)
    frame = native_frame(forecast.columns(), None)
    with writing(file) as whole:
        frame.write_parquet(whole)
    return Written(len(frame), forecast.source, list(panel.notes))


def _join(files: list[Path], output: str | os.PathLike[str]) -> None:
    """The rows of all files in one, without ever holding all of them."""
    import polars as pl

    with writing(output) as file:
        pl.scan_parquet(files).sink_parquet(file)


def _together(notes: list[list[Note]]) -> list[Note]:
    """One note of each kind; of several partitions that have it, the text of the first and the sum.

    >>> _together([[Note("gaps", 1, "1 step is absent: 2001-01-20")], [Note("gaps", 2, "2 steps are absent: ...")]])[0].text
    '1 step is absent: 2001-01-20; 3 in all partitions'
    """
    kinds: dict[str, list[Note]] = {}
    for note in (note for part in notes for note in part):
        kinds.setdefault(note.kind, []).append(note)
    total = {kind: sum(note.count for note in some) for kind, some in kinds.items()}
    more = {kind: f"; {total[kind]:,} in all partitions" * (len(some) > 1) for kind, some in kinds.items()}
    return [Note(kind, total[kind], some[0].text + more[kind]) for kind, some in kinds.items()]


def over_series(ray: Workers, ask: Ask, panels: Iterable[Panel]) -> Iterator[dict[str, Prediction]]:
    """What a function says of each panel, in their order, asked about partitions of its series; see `evaluation.evaluate`."""
    sizes: deque[int] = deque()

    def parts() -> Iterator[Panel]:
        for panel in panels:
            sizes.append(min(ray.partitions, len(panel)))
            yield from (panel.only(some) for some in np.array_split(np.arange(len(panel)), sizes[-1]))

    found = ray.map(ask, parts())
    for first in found:
        every = [first, *islice(found, sizes.popleft() - 1)]
        yield {name: _joined([one[name] for one in every]) for name in first}


def _joined(parts: list[Prediction]) -> Prediction:
    """The predictions of several panels as one."""
    seconds = [part.seconds for part in parts]
    return replace(
        parts[0],
        keys=tuple(key for part in parts for key in part.keys),
        times=np.concatenate([part.times for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        seconds=None if None in seconds else sum(s for s in seconds if s is not None),
    )
