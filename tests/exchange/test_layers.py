"""`Layers` is a mapping that makes our layers when they are asked for, and prints what a file holds."""

from __future__ import annotations

import pytest
import torch

import openlstm
from openlstm import cells
from openlstm.errors import ArgumentError
from openlstm.exchange.layers import Layers
from openlstm.exchange.stack import Stack


def test_layers_come_by_name_in_their_order_and_are_made_once() -> None:
    found = Layers("a.pt", [Stack.of(torch.nn.GRU(2, 3), "z"), Stack.of(torch.nn.LSTM(2, 3), "a")])
    assert list(found) == ["z", "a"] and len(found) == 2 and "z" in found and "y" not in found
    assert isinstance(found["z"], openlstm.GRU) and found["z"] is found["z"]


def test_the_table_names_every_option_every_note_and_what_is_left() -> None:
    layer = openlstm.LSTM(2, 6, 2, False, True, bidirectional=True, proj_size=3)
    given = [Stack.of(layer, "one"), Stack.of(openlstm.LSTM(2, 6, cell=cells.Peephole(2.0), dtype=torch.float64), "")]
    options = "projected to 3, 2 layers, both directions, batch first, no biases"
    assert repr(Layers("a.pt", given, ["it is old"], {"three": "an unknown cell; keep it in torch"})).splitlines() == [
        f"name               layer{' ' * 84}parameters",
        f"one                LSTM 2 -> 6, {options}, float32         744",
        f"(the file itself)  Peephole(clip=2.0) 2 -> 6, float64{' ' * 62}258",
        "note: it is old",
        "not expressed: three: an unknown cell; keep it in torch",
    ]


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(KeyError) as caught:
        Layers("a.pt", [Stack.of(torch.nn.GRU(2, 3), "z")])["y"]
    assert caught.value.args[0] == ("a.pt: has no layer 'y'\n  got       'y'\n  expected  'z'\n  hint      name one of these")
    with pytest.raises(ArgumentError) as none:
        Layers("a.pt", [])
    assert str(none.value) == (
        "a.pt: holds no recurrent layer\n"
        "  got       nothing recurrent\n"
        "  expected  an LSTM, a GRU or an RNN\n"
        "  hint      name the file that holds the weights of an LSTM, a GRU or an RNN"
    )
    with pytest.raises(ArgumentError) as left:
        Layers("a.pt", [], left={"x": "it has hooks; remove them", "y": "it is no cell; keep it"})
    assert str(left.value) == (
        "a.pt: holds no recurrent layer that can be expressed\n"
        "  got       x: it has hooks; remove them\n"
        "            y: it is no cell; keep it\n"
        "  expected  an LSTM, a GRU or an RNN\n"
        "  hint      each line says what would work instead"
    )
