"""Layers of ours written as ONNX: every cell, free axes, states from call to call, lengths; against the layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.cli.test_cli import Ran  # noqa: E402
from tests.exchange.drawn_onnx import error, session  # noqa: E402

import openlstm  # noqa: E402
from openlstm import cells  # noqa: E402
from openlstm.cells import Cell, State, Step  # noqa: E402
from openlstm.errors import ArgumentError, BackendError  # noqa: E402
from openlstm.exchange.onnx import build  # noqa: E402
from openlstm.exchange.onnx.read import read  # noqa: E402
from openlstm.exchange.onnx.write import encode, write  # noqa: E402

OPERATORS = {"lstm", "lstm1997", "peephole", "nig", "nfg", "nog", "niaf", "noaf", "cifg", "gru", "rnn"}


def layer(cell: Cell, **options: Any) -> Any:
    kind = openlstm.LSTM if cell.has_cell else openlstm.GRU if cell.name == "gru" else openlstm.RNN
    torch.manual_seed(0)
    return kind(3, 6, cell=cell, **options).eval()  # type: ignore[arg-type]


def compare(made: Any, model: Any, lengths: bool, calls: tuple[tuple[int, int], ...] = ((5, 3), (9, 3), (1, 3))) -> None:
    """Calls of other lengths, each from the state that the one before gave."""
    run, rng = session(model), np.random.default_rng(0)
    first, handed, hx = made.batch_first, {}, None
    for T, B in calls:
        x = rng.standard_normal((B, T, 3) if first else (T, B, 3)).astype(np.float32)
        feeds: dict[str, Any] = {"x": x, **handed}
        if not handed:
            shapes = {i.name: i.shape for i in run.get_inputs() if i.name.endswith("0")}
            feeds |= {
                name: np.zeros([s if isinstance(s, int) else B for s in shape], np.float32) for name, shape in shapes.items()
            }
        ends = rng.integers(1, T + 1, B) if lengths else None
        if lengths:
            feeds["lengths"] = ends
        found = dict(zip([o.name for o in run.get_outputs()], run.run(None, feeds), strict=True))
        with torch.inference_mode():
            y, hx = made(torch.from_numpy(x), hx, lengths=None if ends is None else torch.from_numpy(ends))
        states = hx if isinstance(hx, tuple) else (hx,)
        assert error(found["y"], y) <= 1e-5
        names = [n for n in found if n.endswith("_n")]
        assert all(error(found[n], s) <= 1e-5 for n, s in zip(names, states, strict=True))
        handed = {f"{n[:-2]}0": found[n] for n in names}


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("name", sorted(cells.BY_NAME))
def test_every_cell_gives_the_numbers_of_the_layer(name: str, lengths: bool) -> None:
    cell = cells.BY_NAME[name]
    made = layer(cell, num_layers=2, bidirectional=True, batch_first=lengths)
    model = write(made, lengths=lengths)
    compare(made, model, lengths)
    kinds = {node.op_type for node in model.graph.node} & {"LSTM", "GRU", "RNN", "Scan"}
    assert kinds == {"Scan"} if cell.name not in OPERATORS else len(kinds) == 1 and "Scan" not in kinds


@pytest.mark.parametrize("opset", range(13, 23))
def test_every_opset_from_13_on_is_written(opset: int) -> None:
    for cell in (cells.Peephole(), cells.SLSTM(heads=2)):
        made = layer(cell)
        model = write(made, opset=opset)
        assert model.opset_import[0].version == opset
        compare(made, model, False)


@pytest.mark.parametrize(
    "made",
    [
        layer(cells.LSTM(heads=2)),
        layer(cells.LSTM(cells_per_gate=3)),
        layer(cells.GRU(heads=3)),
        layer(cells.Peephole(clip=0.3), num_layers=2),
        layer(cells.LSTM(), proj_size=2, num_layers=2, bidirectional=True),
        layer(cells.GRU(), proj_size=2),
        layer(cells.VanillaRNN(), proj_size=2),
        layer(cells.GRU(), bias=False),
        layer(cells.LSTM(), zoneout_h=0.3, zoneout_c=0.1, hidden_dropout=0.5),
        layer(cells.SLSTM(), zoneout_c=0.2, bidirectional=True),
    ],
    ids=[
        "heads",
        "blocks",
        "gru-heads",
        "clip",
        "projection",
        "gru-projection",
        "rnn-projection",
        "no-bias",
        "zoneout",
        "slstm",
    ],
)
def test_heads_blocks_clips_projections_and_zoneout_are_written(made: Any) -> None:
    compare(made, write(made), False)


def test_float64_is_written_as_float32() -> None:
    made = layer(cells.LSTM(), dtype=torch.float64)
    model = write(made)
    with torch.no_grad():
        compare(made.float(), model, False)


class Leaky(Cell):
    """A user's cell: c' = f c + (1 - f) g;  h' = c'."""

    name, gates, saved, has_cell = "leaky", ("f", "g"), ("f", "g"), True

    def forward(self, z: Any, before: State, w_ch: Any = None, mask: Any = None) -> Step:
        z_f, z_g = cells.split(z, 2)
        f, g = cells.sigmoid(z_f), cells.tanh(cells.softplus(z_g))
        c = f * before.c + (1 - f) * g
        return Step((f, g), c, c)


@pytest.mark.filterwarnings("ignore:.*has no kernel; running it on the readable reference")
def test_a_cell_of_a_user_is_written_by_its_own_equations() -> None:
    made = layer(Leaky())
    compare(made, write(made), False)


class Odd(Leaky):
    """It uses a function of numpy that has no counterpart."""

    def forward(self, z: Any, before: State, w_ch: Any = None, mask: Any = None) -> Step:
        step = super().forward(z, before)
        return step._replace(h=np.sin(step.h) if not isinstance(step.h, torch.Tensor) else step.h.sin())


def test_a_function_that_cannot_be_written_is_named() -> None:
    with pytest.raises(ArgumentError) as caught:
        write(layer(Odd()))
    assert str(caught.value) == (
        "export to 'onnx': a cell uses what cannot be written down\n"
        "  got       numpy.sin\n"
        "  expected  the functions of `openlstm.cells`: sigmoid, tanh, exp, where, ..\n"
        "  hint      write the cell with these"
    )


def test_what_is_written_is_read_again_with_the_same_matrices() -> None:
    for cell in (cells.LSTM(), cells.Peephole(), cells.CIFG(), cells.NIAF(), cells.GRU(), cells.VanillaRNN("relu")):
        made = layer(cell, bidirectional=True)
        back = next(iter(read(write(made)).values()))
        assert type(back.cell) is type(cell)
        ours, theirs = made.state_dict(), back.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_a_file_is_written_by_export(tmp_path: Any) -> None:
    made = layer(cells.GRU())
    path = tmp_path / "gru.onnx"
    model = openlstm.export(made, "onnx", path)
    assert path.read_bytes() == encode(model)
    assert list(openlstm.read(path)) == ["GRU_0"]


def test_an_opset_that_is_not_written_is_named() -> None:
    for opset in (12, 23, True, "17"):
        with pytest.raises(ArgumentError) as caught:
            write(layer(cells.LSTM()), opset=opset)  # type: ignore[arg-type]
        assert str(caught.value) == (
            "export to 'onnx': unknown opset\n"
            f"  got       opset={opset!r}\n"
            "  expected  13 to 22\n"
            "  hint      opset=17 runs on every ONNX Runtime since 1.12"
        )


def test_a_layer_in_8_bits_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        write(openlstm.quantize(layer(cells.LSTM())))
    assert str(caught.value) == (
        "export to 'onnx': a layer in 8 bits has no operator of ONNX\n"
        "  got       Quantized\n"
        "  expected  a layer of ours, or a fitted model\n"
        "  hint      export the layer that was quantised"
    )


def test_the_command_writes_a_layer_of_a_file(tmp_path: Any, capsys: Any) -> None:
    torch.save({"rnn": layer(cells.LSTM()).state_dict()}, tmp_path / "net.pt")
    out = tmp_path / "net.onnx"
    ran = Ran(capsys, "export", tmp_path / "net.pt", "--to", "onnx", "--lengths", "--opset", 18, "-o", out)
    assert ran.status == 0, ran.err
    model = onnx.load(out)
    assert model.opset_import[0].version == 18 and [i.name for i in model.graph.input] == ["x", "lengths", "h0", "c0"]


def test_a_module_around_layers_is_for_torchs_exporter() -> None:
    with pytest.raises(ArgumentError) as caught:
        write(torch.nn.Sequential(layer(cells.LSTM())))
    assert str(caught.value) == (
        "export to 'onnx': what a module computes is not known here\n"
        "  got       Sequential\n"
        "  expected  a layer of ours, or a fitted model\n"
        "  hint      torch.onnx.export(model, example, dynamo=True), which knows our layers"
    )


def test_a_graph_that_computes_something_else_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the order of two gates were wrong: what is written is run before anybody has it."""
    whole = build.operators.inputs

    def turned(cell: Cell, w: Any, H: int) -> Any:
        found = whole(cell, w, H)
        return found | {"W": np.roll(found["W"], H, axis=0)}

    monkeypatch.setattr(build.operators, "inputs", turned)
    with pytest.raises(BackendError, match="ONNX Runtime computes another y"):
        write(layer(cells.LSTM()))


@pytest.mark.slow
def test_ten_thousand_steps_one_by_one_drift_by_rounding_alone() -> None:
    """The state goes through ONNX Runtime ten thousand times."""
    for cell in (cells.LSTM(), cells.SLSTM()):
        made = layer(cell)
        run = session(write(made))
        x = np.random.default_rng(0).standard_normal((10_000, 1, 3)).astype(np.float32)
        names = [i.name for i in run.get_inputs()]
        feeds = {n: np.zeros((1, 1, 6), np.float32) for n in names}
        ys = []
        for t in range(len(x)):
            y, *ends = run.run(None, {**feeds, "x": x[t : t + 1]})
            feeds = dict(zip([n for n in names if n != "x"], ends, strict=True))
            ys.append(y)
        with torch.inference_mode():
            ours = made(torch.from_numpy(x))[0]
        assert np.abs(np.concatenate(ys) - ours.numpy()).max() <= 1e-4
