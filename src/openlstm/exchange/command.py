"""The command `openlstm export`: thin, and light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openlstm._terminal import Json, output_option, print_json, say

KINDS = "A model file of `openlstm fit`, or any file with recurrent layers that openlstm reads."


def export(
    source: Annotated[Path, typer.Argument(metavar="MODEL_OR_FILE", help=KINDS, show_default=False)],
    to: Annotated[str, typer.Option("--to", help="onnx, c, torch, keras or flax.", show_default=False)],
    output: Annotated[Path | None, output_option("The file to write. Without it the name of the input, here.")] = None,
    layer: Annotated[str | None, typer.Option(help="Which one, where a file holds several layers.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="What the functions of a C header begin with.", show_default=False)] = None,
    weights: Annotated[str | None, typer.Option(help="Of a C header: float32 or int8.", show_default=False)] = None,
    lengths: Annotated[bool, typer.Option("--lengths", help="Of a layer as ONNX: take the lengths of its rows too.")] = False,
    opset: Annotated[int | None, typer.Option(help="Of ONNX: 13 to 22, 17 if left out.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Write a layer or a model for another runtime: ONNX, one header of C99, torch, Keras, Flax.

    Example:
      openlstm export model.safetensors --to c -o model.h
    """
    from openlstm.exchange.export import TARGETS
    from openlstm.exchange.export import export as write

    ending = TARGETS[to].endings[0] if to in TARGETS else ""
    place = output or Path(source.stem + ending)
    given = {"name": name, "weights": weights, "lengths": lengths or None, "opset": opset}
    options = {key: value for key, value in given.items() if value is not None}
    write(source, to, place, layer=layer, **options)
    if as_json:
        return print_json({"source": str(source), "to": to, "output": str(place), "bytes": place.stat().st_size})
    say(f"Wrote {place}, {place.stat().st_size:,} bytes.")
