"""One step at a time without torch: numpy in, state in, state out, and the same bits as one call over the sequence."""

import numpy as np

import openlstm
from openlstm import State, Weights

random = np.random.default_rng(0)
I, H, T = 4, 16, 200
weights = Weights(*(random.normal(0, 0.3, shape).astype(np.float32) for shape in [(4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]))
x = random.normal(size=(T, 1, I)).astype(np.float32)

cell = openlstm.cells.LSTM()
whole = openlstm.recur(cell, x, weights)

state = State(np.zeros((1, H), np.float32), np.zeros((1, H), np.float32))
for t in range(T):  # as measurements arrive
    step = openlstm.recur(cell, x[t : t + 1], weights, state)
    state = step.state

print("steps:", T, " same bits:", bool((state.h == whole.state.h).all() and (state.c == whole.state.c).all()))
assert np.array_equal(state.h, whole.state.h)
