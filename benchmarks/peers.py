"""Every library the way its users run it: a job as a call, with the same weights, and the numbers that it computes.

`begin(library, threads)` is called once in the library's own process (`worker.py`) and returns what builds a job. Inputs lie in
the library's own arrays before the clock starts.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from job import HEADS, Job, inputs, seen
from worker import Built, Missing

Build = Callable[[Job], Built]

RECURRENCES = ("SLSTM", "MinGRU", "MinLSTM", "JANET", "IndRNN")  # cells with heads, or without a matrix W_hh
NORM_WEIGHT = 0.3  # with 1 a step stretches what two libraries round differently, to 1e-3 within 128 steps


def begin(library: str, threads: int) -> Build:
    """What builds the jobs of a library."""
    if library == "onnxruntime":
        return lambda job: onnxruntime(job, threads)
    if library == "flax":
        return flax
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if library == "openlstm":
        from ours import build

        return lambda job: build(job, threads)
    if library == "tirex":
        import tirex

        return lambda job: tirex.build(job, ours=False)
    return {"torch": torch_nn, "loop": loop}[library]


def versions(library: str) -> dict[str, str]:
    """What a reader needs to know to repeat a run."""
    packages = {
        "flax": ("flax", "jax", "jaxlib"),
        "onnxruntime": ("onnxruntime", "onnx"),
        "loop": ("torch",),
        "tirex": ("torch",),
    }
    found = {name: version(name) for name in packages.get(library, (library,))}
    return {**found, "numpy": np.__version__, "python": platform.python_version()}


# --- torch ------------------------------------------------------------------------------------------------------------


def module_job(job: Job, module: Any, run: Callable[[Any, Any], tuple[Any, Any]], x: Any, dy: Any, padded: Any = None) -> Built:
    """A torch module as a job.

    Args:
        run: (module, x) -> (y, state), y a tensor.
        x, dy: tensors; of an input that is packed, its steps alone.
        padded: such steps as [T, B, .] with zeros.
    """
    import torch

    x.requires_grad_(job.mode == "train")
    leaves = [x, *module.parameters()]
    padded = padded or (lambda steps: steps)

    @torch.inference_mode()
    def forward() -> tuple[Any, Any]:
        return run(module, x)

    def train() -> tuple[Any, Any]:
        for leaf in leaves:
            leaf.grad = None
        y, state = run(module, x)
        y.backward(dy)
        return y, state

    call = train if job.mode == "train" else forward

    def numbers() -> dict[str, np.ndarray]:
        y, state = call()
        h, c = state if isinstance(state, tuple) else (state, None)
        found = {"y": padded(y), "h": h.flatten(0, -2)} | ({} if c is None else {"c": c.flatten(0, -2)})
        if job.mode == "train":
            found |= {"dx": padded(x.grad)} | {"d" + n.removesuffix("_l0"): p.grad for n, p in module.named_parameters()}
        return {name: tensor.detach().float().numpy() for name, tensor in found.items()}

    return Built(call, numbers)


def with_weights(module: Any, job: Job) -> Any:
    """The module with the job's weights, by the names of torch.nn's layers or cells; norms get `NORM_WEIGHT` and bias 0."""
    import torch

    values = {name: torch.from_numpy(w) for name, w in inputs(job).weights.items()}
    if "weight_ih" in module.state_dict():
        values = {name.removesuffix("_l0"): w for name, w in values.items()}
    if job.cell in RECURRENCES:
        values["weight_hh_l0"] = values["weight_hh_l0"][:, : seen(job.cell, job.shape[3])]
        values = {name: w for name, w in values.items() if name in module.state_dict()}
    norms = [name for name in module.state_dict() if name.startswith("norm_")]
    values |= {name: torch.full_like(module.state_dict()[name], NORM_WEIGHT * ("_weight_" in name)) for name in norms}
    module.load_state_dict(values)
    return module


def tensors(job: Job) -> tuple[Any, Any]:
    """x and dy."""
    import torch

    given = inputs(job)
    return torch.tensor(given.x), torch.from_numpy(given.dy)


def bfloat16_job(job: Job, module: Any) -> Built:
    """A layer and its inputs in bfloat16."""
    import torch

    x, dy = (t.bfloat16() for t in tensors(job))
    return module_job(job, module.to(torch.bfloat16), lambda module, x: module(x), x, dy)


def torch_nn(job: Job) -> Built:
    """torch.nn.LSTM, GRU, RNN, LSTMCell. `packed`: a PackedSequence that is there before; `reset`: the usual loop over T."""
    import torch

    T, B, I, H = job.shape
    module = with_weights(getattr(torch.nn, job.cell)(I, H), job)
    x, dy = tensors(job)
    if job.cell == "LSTMCell":
        return cell_job(job, module)
    if job.how == "packed":
        return packed_job(job, module)
    if job.how == "bfloat16":
        return bfloat16_job(job, module)
    if job.how == "reset":
        keep = torch.from_numpy(~inputs(job).reset).float()[:, None, :, None]  # [T, 1, B, 1]

        def stepwise(module: Any, x: Any) -> tuple[Any, Any]:
            h = c = x.new_zeros(1, B, H)
            ys = []
            for now, kept in zip(x, keep, strict=True):
                y, (h, c) = module(now.unsqueeze(0), (h * kept, c * kept))
                ys.append(y)
            return torch.cat(ys), (h, c)

        return module_job(job, module, stepwise, x, dy)
    return module_job(job, module, lambda module, x: module(x), x, dy)


def cell_job(job: Job, module: Any) -> Built:
    """One step from a state that is not zero."""
    import torch

    x, dy = (t[0] for t in tensors(job))
    state = (dy * 0.5, dy * -0.5)

    def run(module: Any, x: Any) -> tuple[Any, Any]:
        h, c = module(x, state)
        return h, (h, c)

    return module_job(job, module, run, torch.clone(x), dy)


def packed_job(job: Job, module: Any) -> Built:
    """A ragged batch as a PackedSequence; packing and unpacking are not timed, which spares whoever needs them."""
    from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

    x, dy = tensors(job)
    import torch

    lengths = torch.from_numpy(inputs(job).lengths)
    pack = pack_padded_sequence(x, lengths, enforce_sorted=False)
    dy = pack_padded_sequence(dy, lengths, enforce_sorted=False).data
    around = pack[1:]

    def run(module: Any, steps: Any) -> tuple[Any, Any]:
        y, state = module(PackedSequence(steps, *around))
        return y.data, state

    def padded(steps: Any) -> Any:
        return pad_packed_sequence(PackedSequence(steps, *around), total_length=len(x))[0]

    return module_job(job, module, run, pack.data, dy, padded)


def loop(job: Job) -> Built:
    """A cell in Python and its loop over T, as one writes it to change something.

    `compiled`: unrolled by torch.compile; `compiled step`: one step by torch.compile, called in the loop.
    """
    import torch

    if job.cell in RECURRENCES:
        return recurrence(job)
    given = inputs(job)
    reset = torch.from_numpy(given.reset) if job.how == "reset" else None

    def over_time(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> tuple[Any, Any]:
        h = c = x.new_zeros(x.shape[1], w_hh.shape[1])
        ys = []
        for t in range(x.shape[0]):
            if reset is not None:
                kept = (~reset[t]).to(x.dtype).unsqueeze(-1)
                h, c = h * kept, c * kept
            z = torch.nn.functional.linear(x[t], w_ih, b_ih) + torch.nn.functional.linear(h, w_hh, b_hh)
            i, f, g, o = z.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            ys.append(h)
        return torch.stack(ys), (h, c)

    def normed_step(x: Any, h: Any, c: Any, *weights: Any) -> tuple[Any, Any]:
        w_ih, w_hh, b_ih, b_hh, w_x, b_x, w_h, b_h, w_c, b_c = weights
        norm, linear = torch.nn.functional.layer_norm, torch.nn.functional.linear
        z = norm(linear(x, w_ih), w_x.shape, w_x, b_x) + norm(linear(h, w_hh), w_h.shape, w_h, b_h) + b_ih + b_hh
        i, f, g, o = z.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(norm(c, w_c.shape, w_c, b_c)), c

    # fullgraph: an error, and not the eager step, should it be compiled too often
    step = torch.compile(normed_step, dynamic=False, fullgraph=True) if job.how == "compiled step" else normed_step

    def normed_over_time(x: Any, *weights: Any) -> tuple[Any, Any]:
        h = c = x.new_zeros(x.shape[1], weights[1].shape[1])
        ys = []
        for t in range(x.shape[0]):
            h, c = step(x[t], h, c, *weights)
            ys.append(h)
        return torch.stack(ys), (h, c)

    normed = job.cell == "LayerNormLSTM"
    steps = normed_over_time if normed else over_time
    run = torch.compile(steps, dynamic=False) if job.how == "compiled" else steps
    module = torch.nn.LSTM(job.shape[2], job.shape[3])  # only a place for the parameters
    for part, n in (("x", 4), ("h", 4), ("c", 1)) if normed else ():
        for kind, value in (("weight", 1.0), ("bias", 0.0)):
            size = n * job.shape[3]
            module.register_parameter(f"norm_{part}_{kind}_l0", torch.nn.Parameter(torch.full((size,), value)))
    module = with_weights(module, job)
    return module_job(job, module, lambda m, x: run(x, *m.parameters()), *tensors(job))


def recurrence(job: Job) -> Built:
    """A loop over T of one of `RECURRENCES`; W_ih x of all steps is a single product."""
    import torch

    B, I, H = job.shape[1:]
    heads, sigmoid = HEADS.get(job.cell, 1), torch.sigmoid

    def positive(z: Any) -> Any:
        return torch.where(z >= 0, z + 0.5, sigmoid(z))

    def slstm(z: Any, h: Any, c: Any) -> tuple[Any, Any]:
        (z_i, z_f, z_g, z_o), (c, n, m) = z.chunk(4, 1), c
        kept = torch.nn.functional.logsigmoid(z_f) + m
        top = torch.where(n == 0, z_i, torch.maximum(z_i, kept))
        i, f = torch.exp(z_i - top), torch.exp(torch.clamp(kept - top, max=0))
        c, n = f * c + i * torch.tanh(z_g), f * n + i
        return sigmoid(z_o) * c / n, (c, n, top)

    def mingru(z: Any, h: Any, c: Any) -> tuple[Any, Any]:
        u = sigmoid(z[:, :H])
        return (1 - u) * h + u * positive(z[:, H:]), c

    def minlstm(z: Any, h: Any, c: Any) -> tuple[Any, Any]:
        i, f = sigmoid(z[:, :H]), sigmoid(z[:, H : 2 * H])
        return (f * h + i * positive(z[:, 2 * H :])) / (f + i), c

    def janet(z: Any, h: Any, c: Any) -> tuple[Any, Any]:
        return sigmoid(z[:, :H]) * h + sigmoid(1 - z[:, :H]) * torch.tanh(z[:, H:]), c

    def indrnn(z: Any, h: Any, c: Any) -> tuple[Any, Any]:
        return torch.tanh(z), c

    step = {"SLSTM": slstm, "MinGRU": mingru, "MinLSTM": minlstm, "JANET": janet, "IndRNN": indrnn}[job.cell]

    def run(module: Any, x: Any) -> tuple[Any, Any]:
        w = dict(module.named_parameters())
        w_hh = w.get("weight_hh_l0")
        bias = w["bias_ih_l0"] + w.get("bias_hh_l0", 0)
        sums, h = torch.nn.functional.linear(x, w["weight_ih_l0"], bias), x.new_zeros(B, H)
        c = (h, h, h)
        blocks = (
            w_hh.view(-1, heads, H // heads, H // heads).permute(1, 3, 0, 2).reshape(heads, H // heads, -1)
            if heads > 1 and w_hh is not None
            else None
        )
        ys = []
        for z in sums.unbind(0):
            if job.cell == "IndRNN" and w_hh is not None:
                z = z + w_hh[:, 0] * h
            elif blocks is not None:  # [heads, B, G, H / heads]
                of_h = (h.view(B, heads, -1).transpose(0, 1) @ blocks).view(heads, B, -1, H // heads)
                z = z + of_h.permute(1, 2, 0, 3).reshape(B, -1)
            elif w_hh is not None:
                z = z + h @ w_hh.T
            h, c = step(z, h, c)
            ys.append(h)
        return torch.stack(ys), h[None]

    from ours import make

    return module_job(job, with_weights(make(job), job), run, *tensors(job))


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def onnxruntime(job: Job, threads: int) -> Built:
    """The LSTM operator alone, forward only, with its state in and out; `int8`: weights in 8 bits, a scale for each row."""
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    from openlstm.weights import reorder

    if (job.mode, job.cell) != ("forward", "LSTM") or job.how not in ("", "int8"):
        raise Missing("only the plain LSTM, forward")
    T, B, I, H = job.shape
    given = inputs(job)
    w, r, *b = (reorder(a, "openlstm", "onnx", H) for a in (given.w_ih, given.w_hh, given.b_ih, given.b_hh))
    weights = {"W": w[None], "R": r[None], "B": np.concatenate(b)[None]}
    node = helper.make_node("LSTM", ["X", *weights, "", "h0", "c0"], ["Y", "h", "c"], hidden_size=H)
    if job.how == "int8":
        scales = {name: (abs(a).max(1) / 127).astype(np.float32) for name, a in (("W", w), ("R", r))}
        weights |= {name: np.rint(a / scales[name][:, None]).astype(np.int8).T[None] for name, a in (("W", w), ("R", r))}
        weights |= {f"{name} scale": scale[None] for name, scale in scales.items()}
        weights |= {f"{name} zero": np.zeros((1, 4 * H), np.int8) for name in scales}
        given_names = ["X", "W", "R", "B", "", "h0", "c0", "", "W scale", "W zero", "R scale", "R zero"]
        more = {"domain": "com.microsoft", "hidden_size": H}
        node = helper.make_node("DynamicQuantizeLSTM", given_names, ["Y", "h", "c"], **more)

    def info(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "lstm",
        [info("X", T, B, I), info("h0", 1, B, H), info("c0", 1, B, H)],
        [info("Y", T, 1, B, H), info("h", 1, B, H), info("c", 1, B, H)],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in weights.items()],
    )
    imports = [helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"X": given.x, "h0": np.zeros((1, B, H), np.float32), "c0": np.zeros((1, B, H), np.float32)}

    def call() -> Any:
        return session.run(None, feed)

    def numbers() -> dict[str, np.ndarray]:
        y, h, c = call()
        return {"y": y[:, 0], "h": h[0], "c": c[0]}

    return Built(call, numbers)


# --- Flax -------------------------------------------------------------------------------------------------------------

FLAX_CELL = "OptimizedLSTMCell"  # one product for all four gates; measured to be as fast as LSTMCell or faster


def flax(job: Job) -> Built:
    """linen.RNN over OptimizedLSTMCell under jax.jit; its bias stands beside the recurrent product alone."""
    import jax
    from flax import linen

    if (job.cell, job.how) != ("LSTM", ""):
        raise Missing("only the plain LSTM")
    given = inputs(job)
    layer = linen.RNN(getattr(linen, FLAX_CELL)(job.shape[3]), time_major=True, return_carry=True)
    leaves: dict[str, Any] = {}
    ih, hh, b = (np.split(a, 4) for a in (given.w_ih, given.w_hh, given.b_ih + given.b_hh))
    for k, gate in enumerate("ifgo"):
        leaves["i" + gate] = {"kernel": jax.numpy.asarray(ih[k].T)}
        leaves["h" + gate] = {"kernel": jax.numpy.asarray(hh[k].T), "bias": jax.numpy.asarray(b[k])}
    parameters = {"params": {"cell": leaves}}
    x, dy = jax.numpy.asarray(given.x), jax.numpy.asarray(given.dy)

    @jax.jit
    def forward(parameters: Any, x: Any) -> Any:
        (c, h), y = layer.apply(parameters, x)  # type: ignore[misc]
        return y, h, c

    @jax.jit
    def train(parameters: Any, x: Any, dy: Any) -> Any:
        out, back = jax.vjp(forward, parameters, x)
        return out, *back((dy, *(jax.numpy.zeros_like(s) for s in out[1:])))

    def call() -> Any:
        return jax.block_until_ready(train(parameters, x, dy) if job.mode == "train" else forward(parameters, x))

    def numbers() -> dict[str, np.ndarray]:
        out, *back = call() if job.mode == "train" else (call(),)
        found: dict[str, Any] = {"y": out[0], "h": out[1], "c": out[2]}
        if back:
            cell, found["dx"] = back[0]["params"]["cell"], back[1]
            found["dweight_ih"] = np.concatenate([cell["i" + gate]["kernel"].T for gate in "ifgo"])
            found["dweight_hh"] = np.concatenate([cell["h" + gate]["kernel"].T for gate in "ifgo"])
            found["dbias_ih"] = found["dbias_hh"] = np.concatenate([cell["h" + gate]["bias"] for gate in "ifgo"])
        return {name: np.asarray(a) for name, a in found.items()}

    return Built(call, numbers)
