"""Rows of different lengths without packing, and episodes that begin anew in the middle of a sequence."""

import torch

import openlstm

torch.manual_seed(0)
lstm = openlstm.LSTM(3, 8)

# A ragged batch: outputs behind a row's end are exactly zero, h and c are those of its last real step.
x = torch.randn(50, 4, 3)
lengths = [50, 31, 7, 0]
y, (h, c) = lstm(x, lengths=lengths)
alone, _ = lstm(x[:31, 1:2])
print("a row in a batch is the row alone: ", torch.allclose(y[:31, 1:2], alone, atol=1e-6))
print("behind its end it is zero:         ", bool((y[31:, 1] == 0).all()))
assert torch.allclose(y[:31, 1:2], alone, atol=1e-6) and bool((y[31:, 1] == 0).all())

# Episodes of an agent: row 2 starts a new one before step 20. Nothing of the old one is left, and no gradient crosses.
reset = torch.zeros(50, 4, dtype=torch.bool)
reset[20, 2] = True
x.requires_grad_()
y, _ = lstm(x, reset=reset)
fresh, _ = lstm(x[20:, 2:3])
y[-1, 2].sum().backward()
print("after a reset the row starts afresh:", torch.allclose(y[20:, 2:3], fresh, atol=1e-6))
assert x.grad is not None
print("gradient before and after the reset:", float(x.grad[:20, 2].norm()), float(x.grad[20:, 2].norm()))
assert float(x.grad[:20, 2].norm()) == 0.0 < float(x.grad[20:, 2].norm())
