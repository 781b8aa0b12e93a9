"""TiRex-2, a forecaster of sLSTM and mLSTM blocks, on a CPU: its loop over time swapped for ours, then fed value by value.

    model = tirex2.load_model("NX-AI/TiRex-2", device="cpu").model
    swap(model)                       # the same forecasts, sooner
    stream = Stream(model, context)   # then stream.append(values) for every new value, without the whole context again

This program draws random weights, since trained ones are not its business; its sizes are smaller than TiRex-2's.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

import openlstm


class Recurrence(nn.Module):
    """In place of one of its sLSTM layers: its input weights and its norm, with `openlstm.LSTM` between them."""

    state: Any = None  # what a call begins with: (h, c, n, m), each [1, B, H]; None for zeros
    carries = False  # whether a call leaves its last state there

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        kernel, bias = theirs.get_R(), theirs.get_bias()  # [heads, K, 4, K] from unit, gate, to unit; [heads, 4, K]
        self.heads, K = kernel.shape[:2]
        H = self.heads * K
        # In this order they are i, f, g, o: what is called fgate feeds the input gate, and igate the forget gate.
        self.sums = nn.ModuleList([theirs.fgate, theirs.igate, theirs.zgate, theirs.ogate])
        self.lstm: Any = openlstm.LSTM(4 * H, H, cell=openlstm.cells.SLSTM(self.heads), input_projection=False)
        with torch.no_grad():
            self.lstm.weight_hh_l0.copy_(kernel.permute(2, 0, 3, 1).reshape(4 * H, K))
            self.lstm.bias_ih_l0.copy_(bias.transpose(0, 1).flatten())
            self.lstm.bias_hh_l0.zero_()
        self.norm = theirs.group_norm

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H] -> [B, T, H]."""
        sums = torch.cat([gate(x) for gate in self.sums], -1).transpose(0, 1)  # [T, B, 4H]
        y, state = self.lstm(sums, self.state)
        if self.carries:
            self.state = state
        return self.norm(y.transpose(0, 1).unflatten(-1, (self.heads, -1)))


class Matrix(nn.Module):
    """Its mLSTM (whose gates never see h, so that it runs in parallel over time) with a state that can be carried."""

    state: Any = None
    carries = False

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs

    def forward(self, **gates: Tensor) -> Tensor:
        """q, k, v, i, f as it takes them."""
        if not self.carries:
            return self.theirs(**gates)
        begin = dict(zip(("c_initial", "n_initial", "m_initial"), self.state or (), strict=False))
        h, self.state = self.theirs(**gates, **begin, return_last_states=True, mode="inference")
        return h


def swap(model: nn.Module) -> None:
    """Swap the recurrence of every block of a TiRex2 model, in place; trained weights have to be loaded before."""
    for mixer in model.modules():
        cell: Any = getattr(mixer, "fwd_cell", None)
        if hasattr(cell, "get_R"):
            mixer.fwd_cell = mixer.rev_cell = Recurrence(cell)  # they share their weights
        elif hasattr(cell, "mlstm_backend"):
            cell.mlstm_backend = Matrix(cell.mlstm_backend)


class Frozen:
    """Its scaler, with what it found in a first context for whatever comes after it."""

    def __init__(self, scaler: Any, context: Tensor) -> None:
        self.scaler, self.found = scaler, scaler.scale(context)[1]

    def scale(self, x: Tensor) -> tuple[Tensor, Any]:
        """x [V, T] -> the same scaled, and how it was."""
        mean, deviation, binary = self.found
        z = (x - mean) / deviation
        squashed = torch.arcsinh(z) if self.scaler.use_arcsinh else z
        return (squashed if binary is None else torch.where(binary, z, squashed)), self.found

    def re_scale(self, x: Tensor, found: Any) -> Tensor:
        """The way back, of forecasts [V, Q, T]."""
        return self.scaler.re_scale(x, found)


class Stream:
    """Forecasts of series that grow: one step of the network for one new value of each.

    A forecast is what `predict(..., pad_context=False, tta_diff=False, tta_sign_flip=False)` makes of the series so far, but
    that three things are held fixed: the scaling is that of the first context; nothing old is ever cut off; and there are no
    covariates, since those known ahead are read backwards from an end that moves. Patches end at the newest value, so that
    every new value shifts them all: the states of all P alignments are kept, and a value advances the one whose patch it ends.

    Args:
        model: after `swap`; in eval mode. It may serve many streams, one call at a time.
        contexts: one tensor [V, T] for each series of V variates that are forecast together.
    """

    @torch.no_grad()
    def __init__(self, model: Any, contexts: list[Tensor]) -> None:
        none, self.patch = [None] * len(contexts), model.input_patch_size
        batch, _, self.calibration = model.postprocessor.transform_input(
            contexts, self.patch, past_covariates=none, past_future_covariates=none, tta_diff=False
        )
        x = batch.pop("x")[:, : -self.patch]  # without the steps to forecast
        self.batch, self.model = batch, copy.copy(model)  # the same layers, with a scaler of its own
        self.model.scaler = Frozen(model.scaler, x)
        self.layers = [layer for layer in model.modules() if isinstance(layer, Recurrence | Matrix)]
        self.states = []
        for missing in range(self.patch):
            seen = x[:, : x.shape[1] - missing]
            self.states.append(self._run(seen, [None] * len(self.layers))[1] if seen.numel() else [None] * len(self.layers))
        self.newest = nn.functional.pad(x, (self.patch, 0), value=torch.nan)[:, -self.patch :]
        self.turn = self.patch - 1  # the alignment that misses the oldest of the newest patch's values

    @torch.no_grad()
    def append(self, values: Tensor, horizon: int | None = None) -> list[Tensor]:
        """The newest value of every variate [V of all series] -> [V, Q, horizon] for each series; a patch far if not said."""
        self.newest = torch.cat([self.newest[:, 1:], values[:, None]], 1)
        y, state = self._run(self.newest, self.states[self.turn])
        self.states[self.turn], self.turn = state, (self.turn - 1) % self.patch
        horizon = self.patch if horizon is None else horizon
        ahead = [y]
        while len(ahead) * self.patch < horizon:  # patches of the future, where nothing is known
            y, state = self._run(torch.full_like(self.newest, torch.nan), state)
            ahead.append(y)
        return self.model.postprocessor.transform_output(torch.cat(ahead, -1)[..., :horizon], horizon, **self.calibration)

    def _run(self, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        """x [V, T] from given states -> what is forecast for the patch after it [V, Q, P], and the states then."""
        for layer, state in zip(self.layers, states, strict=True):
            layer.state, layer.carries = state, True
        try:
            y = self.model({"x": x, **self.batch})[..., -self.patch :]
            return y, [layer.state for layer in self.layers]
        finally:
            for layer in self.layers:
                layer.state, layer.carries = None, False


def untrained(width: int, blocks: int, patch: int, context: int, future: int) -> Any:
    """A TiRex2 with random weights, half of its blocks mLSTM and half sLSTM; its own is (512, 12, 32, 2048, 320)."""
    from tirex2 import TiRex2  # pyright: ignore[reportMissingImports]

    def block(kind: str) -> dict[str, Any]:
        size = {"embedding_dim": width, "num_heads": 4}
        return {"time_mixer": {"model_type": kind, **size}, "variate_mixer": size, "dropout": 0.1, "eps": 1e-7}

    model = TiRex2(
        stack_config={
            "templates": {kind: block(kind) for kind in ("bi-mlstm", "bi-slstm")},
            "recipe": ["bi-mlstm", "bi-slstm"] * (blocks // 2),
        },
        num_blocks=blocks,
        embedding_dim=width,
        input_patch_size=patch,
        output_patch_size=patch,
        quantiles=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        tokenizer_cfg={"output_patch_size": patch, "input_patch_size": patch, "input_patch_stride": patch},
        scaler_cfg={"use_arcsinh": True, "binaryaware": True},
        h_expand=4,
        context_len=context,
        future_len=future,
        input_ff_dim=4 * width,
        act_func="SiLU",
        dropout=0.1,
        stack_out_norm_config={"eps": 1e-7},
        device="cpu",
    )
    for name, parameter in model.named_parameters():
        if name.endswith("_recurrent_kernel_"):  # it begins with zeros, which would hide an exchanged axis
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)
    return model.eval()


def main() -> None:
    """Forecast before and after the swap, then value by value."""
    torch.manual_seed(0)
    from tirex2 import TimeseriesType  # pyright: ignore[reportMissingImports]

    torch.compiler.set_stance("force_eager")  # its patch embedding wants a C++ compiler otherwise
    model = untrained(width=128, blocks=4, patch=8, context=1024, future=64)
    series = torch.randn(2, 1000).cumsum(1)
    swapped = copy.deepcopy(model)
    swap(swapped)
    plain = {"pad_context": False, "tta_diff": False}

    def forecast(model: Any, series: Tensor, horizon: int) -> tuple[Tensor, float]:
        start = time.perf_counter()
        y = model.predict([TimeseriesType(series, None, None)], horizon, **plain)[0]
        return y, 1e3 * (time.perf_counter() - start)

    for each in (model, swapped):  # the first calls are slower
        forecast(each, series, 40)
    (before, slow), (after, fast) = forecast(model, series, 40), forecast(swapped, series, 40)
    difference = float((before - after).norm() / before.norm())
    print(f"two series of 1000, 40 steps ahead: {slow:.1f} ms, swapped {fast:.1f} ms; difference {difference:.0e}")
    assert difference < 1e-5

    stream = Stream(swapped, [series[:, :980]])
    model.scaler = Frozen(model.scaler, series[:, :980])
    for t in range(980, 1000):
        start = time.perf_counter()
        ahead = stream.append(series[:, t])[0]
        step = 1e3 * (time.perf_counter() - start)
        whole, again = forecast(model, series[:, : t + 1], 8)
        difference = float((whole - ahead).norm() / whole.norm())
        assert difference < 1e-5
    print(f"one more value: {step:.1f} ms, by the whole context again {again:.1f} ms; difference {difference:.0e}")


if __name__ == "__main__":
    main()
