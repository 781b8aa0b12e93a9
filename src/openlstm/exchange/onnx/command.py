"""`openlstm xray model.onnx --feeds x.npz`: the recurrent layers of a model of ONNX, on the inputs that they really get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openlstm._terminal import print_json, say, status
from openlstm.errors import ArgumentError, DataError
from openlstm.exchange.contents import Archive, damaged, reading
from openlstm.exchange.onnx.graph import Graph
from openlstm.exchange.read import read


def look(
    model: Path, feeds: Path, carry: list[str], page: Path | None, options: dict[str, Any], as_json: bool, quiet: bool
) -> None:
    """Write a page for each layer that ran, and say what was found.

    Raises:
        DataError: for feeds that are no arrays of numpy.
        ArgumentError: for a `carry` that is not OUTPUT=INPUT, inputs of another model, or a file that is not ONNX.
    """
    pairs = [(out, name) for out, _, name in (one.partition("=") for one in carry)]
    for one, (out, name) in zip(carry, pairs, strict=True):
        if not out or not name:
            raise ArgumentError.of("xray", "--carry names no two tensors", one, "OUTPUT=INPUT", "--carry stateN=state")
    graph, arrays = read(model), read_feeds(feeds)
    if not isinstance(graph, Graph):
        got, hint = "weights alone", f"openlstm.xray(openlstm.read({str(model)!r})[{next(iter(graph))!r}], x) in Python"
        raise ArgumentError.of(str(model), "has no graph that could run on FEEDS", got, "a model of ONNX", hint)
    with status("looking ...", quiet):
        reports = graph.xray(arrays, carry=dict(pairs), **options)
        places = {name: _place(page, k) for k, name in enumerate(reports)}
        for name, place in places.items():
            if place is not None:
                reports[name].to_html(place)
    if as_json:
        found = {name: {"page": str(places[name]) if page else None, **report.to_dict()} for name, report in reports.items()}
        return print_json({"model": str(model), "layers": found})
    for name, report in reports.items():
        say(f"{name}: {report.word}. {report.finding}")
        for section in report.sections:
            if section.finding:
                say(f"  {section.title}: {section.finding}".replace("\n", "\n    "))  # a line for each direction
        for note in report.notes:
            say(f"  note: {note}")
    if page is not None:
        say(f"Wrote {', '.join(map(str, places.values()))}: open in a browser.")


def _place(page: Path | None, k: int) -> Path | None:
    """The page of a layer: the first has the name that was asked for, the others a number behind it."""
    return page if page is None or not k else page.with_name(f"{page.stem}-{k + 1}{page.suffix}")


def read_feeds(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, none of them pickled, whose sizes fit its own.

    Raises:
        DataError: for another file, or one that is not there.
    """
    who = str(path)
    expected, hint = "an .npz file of numpy", "numpy.savez('x.npz', input=array, ..)"
    if not path.is_file():
        raise DataError.of(who, "is not there", "no such file", expected, hint)
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise damaged(who, "another kind of file", expected, hint)
        Archive(file, who)
        file.seek(0)
        with reading(who, expected, hint), np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
