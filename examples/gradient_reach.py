"""How much of a gradient arrives n steps back: a fresh LSTM, one with open forget gates, one made for the lag."""

import torch

import openlstm

LAG = 100


def reach(layer: openlstm.LSTM) -> float:
    """The size of dL/dc at the first step beside its size at the last, for a loss on the last cell state alone."""
    x = torch.randn(LAG, 16, 8)
    dc = openlstm.trace(layer, x, loss=lambda y, state: state[1].sum())["0.dc"]  # [T, B, H]
    return float(dc[0].norm() / dc[-1].norm())


torch.manual_seed(0)
layers = {
    "as torch.nn.LSTM begins": openlstm.LSTM(8, 32),
    "forget bias 1": openlstm.LSTM(8, 32),
    "forget bias 3": openlstm.LSTM(8, 32),
    f"gates drawn for a lag of {LAG}": openlstm.LSTM(8, 32),
}
plain, one, three, drawn = layers.values()
openlstm.nn.init.forget_bias(one, 1.0)
openlstm.nn.init.forget_bias(three, 3.0)
openlstm.nn.init.chrono(drawn, LAG)

shares = {name: reach(layer) for name, layer in layers.items()}
for name, share in shares.items():
    print(f"{name:<28} {share:8.1e} of the gradient arrives {LAG} steps back")
assert reach(drawn) > 1e-2 > reach(plain)
