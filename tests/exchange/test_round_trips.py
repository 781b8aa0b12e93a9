"""A layer goes from format to format, and comes back with the matrices it had and the sum of its biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import openlstm
from openlstm.exchange.stack import Stack

for _package in ("h5py", "msgpack", "onnx"):
    pytest.importorskip(_package, reason="opens one of the formats: pip install 'openlstm[exchange]'")

OURS = Path(__file__).parents[1] / "golden" / "forecast_lstm_v3.safetensors"
WAY = {"keras": ".keras", "flax": ".msgpack", "onnx": ".onnx", "torch": ".pt"}


def only(path: Path) -> Any:
    (layer,) = openlstm.read(path).values()
    return layer


@pytest.mark.parametrize("order", [tuple(WAY), tuple(WAY)[::-1]], ids=["there", "back"])
@pytest.mark.parametrize(
    "theirs",
    [nn.LSTM(3, 5), nn.GRU(3, 5), nn.RNN(3, 5), nn.LSTM(3, 5, bidirectional=True), nn.GRU(4, 3, bidirectional=True)],
    ids=["lstm", "gru", "rnn", "lstm both", "gru both"],
)
def test_matrices_go_through_all_formats_unchanged(theirs: Any, order: tuple[str, ...], tmp_path: Path) -> None:
    torch.save(theirs.state_dict(), tmp_path / "begin.pt")
    layer = only(tmp_path / "begin.pt")
    for to in order:
        path = tmp_path / f"m{WAY[to]}"
        openlstm.export(layer, to=to, path=path)
        layer = only(path)
    for a, b in zip(*(cast(Any, Stack.of(one)).weights[0] for one in (layer, theirs)), strict=True):
        assert (a.w_ih == b.w_ih).all() and (a.w_hh == b.w_hh).all()
        H = theirs.hidden_size
        if isinstance(theirs, nn.GRU):  # the biases of the candidate are two everywhere
            assert (a.b_ih[2 * H :] == b.b_ih[2 * H :]).all() and (a.b_hh[2 * H :] == b.b_hh[2 * H :]).all()
        assert (a.b_ih[: 2 * H] + a.b_hh[: 2 * H] == b.b_ih[: 2 * H] + b.b_hh[: 2 * H]).all()


def test_the_layers_of_a_model_of_ours_go_through_all_formats_unchanged(tmp_path: Path) -> None:
    given = openlstm.read(OURS)
    name = next(iter(given))
    for to, ending in WAY.items():
        path = tmp_path / f"m{ending}"
        openlstm.export(given[name], to=to, path=path)
        found = [w for stack in openlstm.read(path).stacks.values() for (w,) in stack.weights]
        for a, (b,) in zip(found, given.stacks[name].weights, strict=True):
            assert np.array_equal(a.w_ih, b.w_ih) and np.array_equal(a.w_hh, b.w_hh)
            assert np.array_equal(cast(Any, a.b_ih) + a.b_hh, cast(Any, b.b_ih) + b.b_hh)
