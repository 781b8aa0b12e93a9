"""openlstm as a job: the layer, its cells and options, ragged batches, resets, many networks at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

import openlstm
import tirex
from job import HEADS, NETWORKS, Job, inputs
from openlstm import cells
from openlstm.call import Call
from openlstm.engine import Stepper, native
from openlstm.engine.run import run
from openlstm.reference import State, Weights
from peers import RECURRENCES, bfloat16_job, cell_job, module_job, packed_job, tensors, with_weights
from worker import Built, Missing

CLIP = 0.5  # low enough that cells are clipped
RATE = 0.1
OPTIONS: dict[str, dict[str, Any]] = {
    "zoneout": {"zoneout_h": RATE, "zoneout_c": RATE},
    "locked": {"input_dropout": RATE, "hidden_dropout": RATE},
}


def build(job: Job, threads: int) -> Built:
    """A job of openlstm, on its own number of threads where it names one."""
    if job.how.startswith("tirex"):
        built = tirex.build(job, ours=True)
    elif job.how.startswith("many"):
        built = many(job)
    else:
        built = step(job) if job.how.startswith("step") else layer_job(job, make(job))
    return built._replace(prepare=lambda: openlstm.set_num_threads(job.threads or threads))


def make(job: Job) -> Any:
    """The layer or cell, ready to train; a drop-in for a torch module has the weights that the torch module has.

    Raises:
        Missing: where the engine cannot run it and the readable reference would.
    """
    _, _, I, H = job.shape
    if job.cell in ("LSTM", "GRU", "RNN", "LSTMCell"):
        options = {"cell": cells.LSTM(clip=CLIP)} if job.how == "clip" else OPTIONS.get(job.how, {})
        if job.how.startswith("checkpoint"):
            options = {"checkpoint": int(job.how.split()[1])}
        module = with_weights(getattr(openlstm, job.cell)(I, H, **options), job)
    else:
        cell = getattr(cells, job.cell)(**({"heads": HEADS[job.cell]} if job.cell in HEADS else {}))
        module = (openlstm.LSTM if cell.has_cell else openlstm.RNN)(I, H, cell=cell)
        module = with_weights(module, job) if job.cell in ("LayerNormLSTM", *RECURRENCES) else module
    used = module.backend_used(torch.zeros(1, 1, I) if job.cell != "LSTMCell" else torch.zeros(1, I))
    if used != "cpu":
        raise Missing(f"this build runs it on the {used} backend")
    return module


def layer_job(job: Job, module: Any) -> Built:
    """One call of a layer in the way that `how` names."""
    if job.cell == "LSTMCell":
        return cell_job(job, module)
    if job.how == "packed":
        return packed_job(job, module)
    if job.how == "cu_seqlens":
        return end_to_end(job, module)
    if job.how == "bfloat16":
        if not native.has_bfloat16(module.cell):
            raise Missing("this processor has no AVX512-BF16: it runs as float32")
        return bfloat16_job(job, module)
    x, dy = tensors(job)
    given, options = inputs(job), {}
    if job.how == "lengths":
        options["lengths"] = torch.from_numpy(given.lengths)
        dy = torch.from_numpy(given.beside(given.dy))
    if job.how == "reset":
        options["reset"] = torch.from_numpy(given.reset)
    if job.cell in RECURRENCES:
        return module_job(job, module, lambda module, x: first(module(x)), x, dy)
    if job.how == "gates":
        return module_job(job, module, open_layer if job.mode == "train" else traced, x, dy)
    return module_job(job, module, lambda module, x: module(x, **options), x, dy)


def first(found: tuple[Any, Any]) -> tuple[Any, Any]:
    """y and h, of a layer with whatever states."""
    y, state = found
    return y, state[0] if isinstance(state, tuple) else state


def traced(module: Any, x: Any) -> tuple[Any, Any]:
    """A forward pass that hands out all gates and cell states."""
    t = openlstm.trace(module, x)
    return t.y, t.state


def open_layer(module: Any, x: Any) -> tuple[Any, Any]:
    """As `traced`, with a graph behind y for the training step."""
    w, zero = module.weights_of(0), x.new_zeros(x.shape[1], module.hidden_size)
    done = run(Call(module.cell, x, w, State(zero, zero.clone()), save=True))
    assert done.saved is not None
    return done.y, tuple(done.state)


def end_to_end(job: Job, module: Any) -> Built:
    """A ragged batch as rows put end to end: [total, I] and `cu_seqlens`."""
    given = inputs(job)
    rows = [(b, int(n)) for b, n in enumerate(given.lengths)]
    x, dy = (torch.from_numpy(np.concatenate([a[:n, b] for b, n in rows])) for a in (given.x, given.dy))
    bounds = torch.from_numpy(np.concatenate([[0], np.cumsum(given.lengths)]))

    def padded(steps: Any) -> Any:
        out = steps.new_zeros(*given.x.shape[:2], steps.shape[-1])
        for b, n in rows:
            out[:n, b] = steps[bounds[b] : bounds[b] + n]
        return out

    return module_job(job, module, lambda module, x: module(x, cu_seqlens=bounds), x, dy, padded)


def step(job: Job) -> Built:
    """One step of packed weights, the state staying where it is; numbers of the first step. `step int8`: weights in 8 bits."""
    x = inputs(job).x[0]
    stepper = Stepper(make(replace(job, how="")).eval(), weights="int8" if job.how == "step int8" else "float32")

    def numbers() -> dict[str, np.ndarray]:
        stepper.reset()
        y = stepper.step(x).copy()
        state = stepper.state
        return {"y": y[None], "h": np.asarray(state.h)[0], "c": np.asarray(state.c)[0]}

    return Built(lambda: stepper.step(x), numbers)


def many(job: Job) -> Built:
    """`many`: small networks with their own weights and inputs in one call of `recur`; `many calls`: one call each."""
    draw, plain = np.random.default_rng(1), inputs(job)

    def each(a: np.ndarray) -> np.ndarray:
        return draw.permuted(np.broadcast_to(a, (NETWORKS, *a.shape)), axis=1)

    x, *weights = (each(a) for a in (plain.x, plain.w_ih, plain.w_hh, plain.b_ih, plain.b_hh))  # [N, ...]
    cell = cells.LSTM()
    singles = [(x[n], Weights(*(w[n] for w in weights))) for n in range(NETWORKS)]

    def together() -> np.ndarray:
        return openlstm.recur(cell, x, Weights(*weights)).y

    def one_by_one() -> list[np.ndarray]:
        return [openlstm.recur(cell, a, w).y for a, w in singles]

    call = together if job.how == "many" else one_by_one
    return Built(call, lambda: {"y": np.asarray(call())})
