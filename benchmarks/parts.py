"""The parts of the benchmark: which jobs meet on which shapes, and what each figure should be."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from contest import Bar, Contest, Measured, Row
from job import HEADS, NETWORKS, Job, Shape, flop, real_steps

SHAPES: tuple[Shape, ...] = (  # T, B, I, H
    (1, 1, 64, 64),
    (1, 1, 256, 256),
    (1, 64, 256, 256),
    (100, 1, 32, 64),
    (100, 32, 32, 64),
    (128, 32, 128, 128),
    (35, 20, 200, 200),
    (128, 32, 256, 256),
    (128, 64, 512, 512),
    (365, 256, 32, 256),
    (1000, 32, 2, 128),
    (50, 7, 13, 100),
)
PAIR: tuple[Shape, ...] = ((128, 32, 128, 128), (128, 32, 256, 256))  # where the variants are measured
RAGGED: tuple[Shape, ...] = ((128, 32, 256, 256), (365, 256, 32, 256))
LOOPS: tuple[Shape, ...] = ((100, 32, 32, 64), (35, 20, 200, 200), (128, 32, 128, 128), (128, 32, 256, 256))
COMPILED = LOOPS[:2]  # each takes about a minute to compile
NORMED: tuple[Shape, ...] = ((100, 32, 32, 64), *PAIR)
NORMED_COST = 1.25  # times the plain LSTM, training, at PAIR
NORMED_AIM: dict[str, dict[Shape, float]] = {  # training, times a loop in Python
    "loop": {(100, 32, 32, 64): 8.0, (128, 32, 256, 256): 3.0},
    "compiled": {(100, 32, 32, 64): 2.0},
    "compiled step": {(100, 32, 32, 64): 2.0, (128, 32, 256, 256): 2.0},
}
RECURRENCE_AIM: dict[Shape, dict[str, float]] = {  # training, times a loop in Python
    (100, 32, 32, 64): {"SLSTM": 10.0, "MinGRU": 8.0, "MinLSTM": 8.0, "JANET": 8.0, "IndRNN": 8.0},
    (128, 32, 256, 256): {"SLSTM": 4.0},
}
RECURRENCE_COST = 1.3  # times the plain LSTM for each multiply-add, of the sLSTM in training
STEPS: dict[Shape, dict[str, float | None]] = {  # one row, one step: times ONNX Runtime with its state in and out, times torch
    (1, 1, 64, 64): {"onnxruntime": 3.0, "torch": 20.0},
    (1, 1, 256, 256): {"onnxruntime": 1.3, "torch": 20.0},
}
STEPS_INT8: tuple[Shape, ...] = ((1, 1, 256, 256), (1, 1, 512, 512))
STEPS_INT8_AIM: dict[str, float | None] = {
    "float32": 1.7,
    "onnxruntime": 1.5,
}  # times our float32, times ONNX Runtime in 8 bits
ONE_ROW: tuple[Shape, ...] = ((100, 1, 32, 64), (100, 1, 256, 256), (100, 1, 512, 512))
LONG: Shape = (4096, 32, 32, 128)  # what checkpoints are measured on
HALF: tuple[Shape, ...] = ((128, 32, 256, 256), (365, 256, 32, 256), (64, 32, 512, 512), (35, 20, 1024, 1024))
HALF_AIM = {"forward": 1.6, "train": 1.4}  # times float32, at HALF
HALF_TOLERANCE = 0.03  # of numbers with 8 bits, over as many steps
TIREX: tuple[Shape, ...] = ((512, 1, 32, 512), (512, 64, 32, 512), (2048, 1, 32, 512), (2048, 64, 32, 512))
TIREX_TOLERANCE = 1e-5
CELLS: tuple[Shape, ...] = ((1, 1, 64, 64), (1, 1, 256, 256), (1, 64, 256, 256))

LARGE: tuple[Shape, ...] = ((128, 32, 256, 256), (128, 64, 512, 512))
PEAK_AIM = {"forward": 0.90, "train": 0.82}  # at LARGE
MEAN_AIM = {"forward": 1.3, "train": 1.5}  # times torch, the geometric mean over shapes with T > 1
BEST_AIM = 0.97  # times the best peer, T > 1
TORCH_AIM: dict[tuple[str, Shape], float] = {
    ("train", (1000, 32, 2, 128)): 1.9,
    ("train", (100, 32, 32, 64)): 1.5,
    ("train", (365, 256, 32, 256)): 1.5,
    **{("forward", shape): 1.0 for shape in SHAPES if shape[0] == 1},
}
VARIANTS: dict[str, tuple[str, str, float | None]] = {  # name: cell, how, at most so many times the plain LSTM
    "gates handed out": ("LSTM", "gates", 1.10),
    "resets, 2 %": ("LSTM", "reset", 1.10),
    "Peephole": ("Peephole", "", 1.10),
    "NIG": ("NIG", "", 1.10),
    "NFG": ("NFG", "", 1.10),
    "NOG": ("NOG", "", 1.10),
    "NIAF": ("NIAF", "", 1.10),
    "NOAF": ("NOAF", "", 1.10),
    "CIFG": ("CIFG", "", 1.10),
    "clipping": ("LSTM", "clip", 1.10),
    "zoneout": ("LSTM", "zoneout", 1.25),
    "locked dropout": ("LSTM", "locked", 1.25),
    "FGR": ("FGR", "", None),
}
AT_A_TIME = 4  # variants beside one plain LSTM, so that it is never far away in time
MODES = ("forward", "train")


@dataclass(frozen=True)
class Part:
    """A table: its title, its contests, and figures over all of its rows."""

    title: str
    contests: tuple[Contest, ...]
    overall: Callable[[list[Row]], tuple[Bar, ...]] = lambda rows: ()


def row(m: Measured, name: str, *bars: Bar, label: str = "") -> Row:
    """One line about the contestant `name`, with every time that was taken, and why one is missing."""
    job = m.jobs[name]
    notes = tuple(f"{who}: {why}" for who, why in m.missing.items())
    return Row(label or job.cell, job.mode, job.shape, m.seconds(), bars, None, notes, m.others)


def pair(m: Measured, base: str, name: str, *bars: Bar, column: str) -> Row:
    """One line about `name` beside what it is compared with, whose column is `column`; the bars only where it ran."""
    ran = name in m.times
    times = {column: m.times[base].median} | ({"this": m.times[name].median} if ran else {})
    notes = () if ran else (f"{name}: {m.missing[name]}",)
    return Row(name, m.jobs[name].mode, m.jobs[name].shape, times, bars, None, notes, m.others)


def worked(m: Measured, name: str, r: Row) -> Row:
    """The row with the work that `name` did in a second."""
    return replace(r, gflops=m.gflops(name)) if name in m.times else r


def speeds(m: Measured, ours: str, aims: dict[str, float | None]) -> list[Bar]:
    """Times the speed of every peer that ran."""
    if ours not in m.times:
        return []
    return [Bar(peer, m.speed(ours, peer), aim) for peer, aim in aims.items() if peer in m.times]


def beside_peers(m: Measured) -> list[Row]:
    """openlstm beside torch, the best of all, and the peak."""
    job = m.jobs["openlstm"]
    aim = BEST_AIM if job.shape[0] > 1 else None
    bars = speeds(m, "openlstm", {"torch": TORCH_AIM.get((job.mode, job.shape))})
    bars += [Bar("best", min(m.speed("openlstm", n) for n in m.times if n != "openlstm"), aim)]
    bars += [Bar("peak", m.gflops("openlstm") / m.peak, PEAK_AIM[job.mode] if job.shape in LARGE else None)]
    return [worked(m, "openlstm", row(m, "openlstm", *bars))]


def over_torch(rows: Iterable[Row], aim: float | None = None) -> tuple[Bar, ...]:
    """The geometric mean of the speed beside torch over shapes with more than one step."""
    found = [bar.value for r in rows if r.shape[0] > 1 for bar in r.bars if bar.name == "torch"]
    return (Bar("geometric mean beside torch, T > 1", statistics.geometric_mean(found), aim),) if found else ()


def layer(mode: str) -> Part:
    """The plain LSTM beside every library, on every shape."""
    names = ("openlstm", "torch", "onnxruntime", "flax") if mode == "forward" else ("openlstm", "torch", "flax")

    def contest(shape: Shape) -> Contest:
        return Contest({name: Job(name, mode, shape) for name in names}, beside_peers, alike=names)

    what = "forward" if mode == "forward" else "a training step: forward, backward, all weight gradients, dx"
    contests = tuple(contest(shape) for shape in SHAPES)
    return Part(f"The plain LSTM, {what}", contests, lambda rows: over_torch(rows, MEAN_AIM[mode]))


def cell() -> Part:
    """One step of LSTMCell."""

    def rows(m: Measured) -> list[Row]:
        return [worked(m, "openlstm", row(m, "openlstm", *speeds(m, "openlstm", {"torch": 1.0})))]

    names = ("openlstm", "torch")
    jobs = ({name: Job(name, "forward", shape, "LSTMCell") for name in names} for shape in CELLS)
    return Part("LSTMCell, one step, forward", tuple(Contest(j, rows, alike=names) for j in jobs))


def step() -> Part:
    """One step of one row from packed weights."""

    def contest(shape: Shape) -> Contest:
        def rows(m: Measured) -> list[Row]:
            return [row(m, "openlstm", *speeds(m, "openlstm", STEPS[shape]), label="Stepper")]

        jobs = {"openlstm": Job("openlstm", "forward", shape, how="step")}
        jobs |= {name: Job(name, "forward", shape) for name in ("onnxruntime", "torch")}
        return Contest(jobs, rows, alike=tuple(jobs))

    return Part("One step of one row, weights packed once: openlstm.engine.Stepper", tuple(map(contest, STEPS)))


def step_int8() -> Part:
    """One step of one row from weights in 8 bits."""

    def contest(shape: Shape) -> Contest:
        def rows(m: Measured) -> list[Row]:
            return [row(m, "int8", *speeds(m, "int8", STEPS_INT8_AIM), label="Stepper")]

        jobs = {"int8": Job("openlstm", "forward", shape, how="step int8")}
        jobs |= {"float32": Job("openlstm", "forward", shape, how="step")}
        jobs |= {"onnxruntime": Job("onnxruntime", "forward", shape, how="int8")}
        return Contest(jobs, rows, alike=tuple(jobs), tolerance=HALF_TOLERANCE)

    title = "One step of one row, weights in 8 bits: beside float32, and ONNX Runtime's DynamicQuantizeLSTM"
    return Part(title, tuple(map(contest, STEPS_INT8)))


def one_row() -> Part:
    """A single sequence: its units on two threads, and beside the others."""

    def contest(mode: str, shape: Shape) -> Contest:
        def rows(m: Measured) -> list[Row]:
            peers = [n for n in m.times if n not in ("openlstm", "1 thread")]
            best = min(m.speed("openlstm", n) for n in peers)
            bars = (
                Bar("threads", m.speed("openlstm", "1 thread"), 1.5 if shape[3] == 512 and mode == "forward" else None),
                Bar("best", best, 1.5 if shape == ONE_ROW[0] else None),
            )
            return [row(m, "openlstm", *bars)]

        names = ("openlstm", "torch", "onnxruntime", "flax") if mode == "forward" else ("openlstm", "torch", "flax")
        jobs = {name: Job(name, mode, shape) for name in names}
        jobs["1 thread"] = Job("openlstm", mode, shape, threads=1)
        return Contest(jobs, rows, alike=tuple(jobs))

    return Part("A single row", tuple(contest(mode, shape) for mode in MODES for shape in ONE_ROW))


def checkpoint() -> Part:
    """Only every k-th state kept, beside everything kept."""
    ways = {f"every {k}": f"checkpoint {k}" for k in (64, 256)}

    def rows(m: Measured) -> list[Row]:
        return [pair(m, "all", name, Bar("cost", m.speed("all", name), 1.40, at_most=True), column="all") for name in ways]

    jobs = {"all": Job("openlstm", "train", LONG)} | {
        name: Job("openlstm", "train", LONG, how=how) for name, how in ways.items()
    }
    return Part("Checkpoints: the time of keeping few states", (Contest(jobs, rows, alike=tuple(jobs)),))


def half() -> Part:
    """bfloat16 beside torch's and beside float32."""

    def rows(m: Measured) -> list[Row]:
        aims: dict[str, float | None] = {"torch": 1.0, "float32": HALF_AIM[m.jobs["float32"].mode]}
        return [row(m, "bfloat16", *speeds(m, "bfloat16", aims), label="LSTM")]

    def contest(mode: str, shape: Shape) -> Contest:
        jobs = {name: Job(who, mode, shape, how="bfloat16") for name, who in (("bfloat16", "openlstm"), ("torch", "torch"))}
        jobs["float32"] = Job("openlstm", mode, shape)
        return Contest(jobs, rows, alike=tuple(jobs), tolerance=HALF_TOLERANCE)

    return Part("bfloat16 beside torch's, and beside float32", tuple(contest(mode, shape) for mode in MODES for shape in HALF))


def loop() -> Part:
    """A cell in Python and its loop, eager and compiled."""

    def rows(m: Measured) -> list[Row]:
        r = row(m, "openlstm", *speeds(m, "openlstm", {"loop": None, "compiled": None}))
        if "compiled" not in m.first:
            return [r]
        told = f"{r.mode} {r.shape}: the first call of the compiled loop took {m.first['compiled']:.0f} s"
        return [replace(r, notes=(*r.notes, told))]

    def contest(mode: str, shape: Shape) -> Contest:
        jobs = {"openlstm": Job("openlstm", mode, shape), "loop": Job("loop", mode, shape)}
        if shape in COMPILED:
            jobs["compiled"] = Job("loop", mode, shape, how="compiled")
        return Contest(jobs, rows, alike=tuple(jobs))

    return Part("An LSTM cell in a Python loop", tuple(contest(mode, shape) for mode in MODES for shape in LOOPS))


def norm() -> Part:
    """Layer normalisation inside the cell: beside the plain LSTM, and beside a loop in Python."""

    def rows(m: Measured) -> list[Row]:
        job, bars = m.jobs["openlstm"], []
        train = job.mode == "train"
        if "openlstm" in m.times and "LSTM" in m.times:
            bars = [
                Bar("cost", m.speed("LSTM", "openlstm"), NORMED_COST if train and job.shape in PAIR else None, at_most=True)
            ]
        aims = {peer: found.get(job.shape) if train else None for peer, found in NORMED_AIM.items()}
        r = row(m, "openlstm", *bars, *speeds(m, "openlstm", aims))
        told = [
            f"{r.mode} {r.shape}: the first call of the {what} took {m.first[how]:.0f} s"
            for how, what in (("compiled", "compiled loop"), ("compiled step", "loop over a compiled step"))
            if how in m.first
        ]
        return [replace(r, notes=(*r.notes, *told))]

    def contest(mode: str, shape: Shape) -> Contest:
        jobs = {name: Job(name, mode, shape, "LayerNormLSTM") for name in ("openlstm", "loop")}
        if shape in NORMED_AIM["compiled step"]:
            jobs["compiled step"] = Job("loop", mode, shape, "LayerNormLSTM", how="compiled step")
        if shape in COMPILED:
            jobs["compiled"] = Job("loop", mode, shape, "LayerNormLSTM", how="compiled")
        return Contest({**jobs, "LSTM": Job("openlstm", mode, shape)}, rows, alike=tuple(jobs))

    title = "Layer normalisation in the cell: beside the plain LSTM, and a cell in a Python loop"
    return Part(title, tuple(contest(mode, shape) for mode in MODES for shape in NORMED))


def recurrences() -> Part:
    """Cells with heads, or without a matrix of the recurrence: beside a loop in Python, and by the work of the plain LSTM."""

    def rows(m: Measured) -> list[Row]:
        job, bars = m.jobs["openlstm"], []
        train = job.mode == "train"
        if "openlstm" in m.times and "LSTM" in m.times:
            each = m.speed("LSTM", "openlstm") * flop(m.jobs["LSTM"]) / flop(job)
            bars = [Bar("each", each, RECURRENCE_COST if train and job.cell in HEADS else None, at_most=True)]
        aim = RECURRENCE_AIM.get(job.shape, {}).get(job.cell) if train else None
        return [row(m, "openlstm", *bars, *speeds(m, "openlstm", {"loop": aim}))]

    def contest(mode: str, shape: Shape, cell: str) -> Contest:
        jobs = {who: Job(who, mode, shape, cell) for who in ("openlstm", "loop")}
        return Contest({**jobs, "LSTM": Job("openlstm", mode, shape)}, rows, alike=tuple(jobs))

    title = (
        "Heads, elementwise recurrence and none: the time of a multiply-add beside the plain LSTM, and a cell in a Python loop"
    )
    pairs = [(shape, cell) for shape, aims in RECURRENCE_AIM.items() for cell in aims]
    return Part(title, tuple(contest(mode, shape, cell) for mode in MODES for shape, cell in pairs))


def variants() -> Part:
    """What leaves the plain LSTM, beside it."""

    def rows(m: Measured) -> list[Row]:
        out = []
        for name in (n for n in m.jobs if n != "LSTM"):
            bars = [Bar("cost", m.speed("LSTM", name), VARIANTS[name][2], at_most=True)] if name in m.times else []
            out.append(pair(m, "LSTM", name, *bars, column="LSTM"))
        return out

    def contest(mode: str, shape: Shape, names: list[str]) -> Contest:
        jobs = {"LSTM": Job("openlstm", mode, shape)}
        jobs |= {name: Job("openlstm", mode, shape, VARIANTS[name][0], VARIANTS[name][1]) for name in names}
        return Contest(jobs, rows, alike=tuple(n for n in ("LSTM", "gates handed out") if n in jobs))

    names = list(VARIANTS)
    groups = [names[k : k + AT_A_TIME] for k in range(0, len(names), AT_A_TIME)]
    contests = tuple(contest(mode, shape, group) for shape in PAIR for mode in MODES for group in groups)
    return Part("Variants and regularisers beside the plain LSTM", contests)


def other(cell: str) -> Part:
    """GRU or RNN beside torch."""

    def rows(m: Measured) -> list[Row]:
        return [worked(m, "openlstm", row(m, "openlstm", *speeds(m, "openlstm", {"torch": 1.0})))]

    names = ("openlstm", "torch")
    jobs = ({name: Job(name, mode, shape, cell) for name in names} for mode in MODES for shape in SHAPES)
    return Part(f"{cell} beside torch", tuple(Contest(j, rows, alike=names) for j in jobs), over_torch)


def ragged() -> Part:
    """Rows of lengths uniform over 1..T: the time of a real token."""
    forms = {"lengths": 1.15, "cu_seqlens": 1.15, "packed": None}

    def rows(m: Measured) -> list[Row]:
        T, B, _, _ = m.jobs["dense"].shape
        padding = T * B / real_steps(m.jobs["lengths"])  # a dense call's tokens for each real one
        out = []
        for name, aim in [*forms.items(), ("torch packed", None)]:
            base, bars = "torch dense" if name.startswith("torch") else "dense", []
            if name in m.times:
                bars = [Bar("token", padding * m.speed(base, name), aim, at_most=True)]
                rival = 3.0 if name == "lengths" and m.jobs[name].mode == "train" else None
                bars += [] if name == "torch packed" else [Bar("x torch packed", m.speed(name, "torch packed"), rival)]
            out.append(pair(m, base, name, *bars, column="dense"))
        return out

    def contest(mode: str, shape: Shape) -> Contest:
        jobs = {"dense": Job("openlstm", mode, shape)}
        jobs |= {how: Job("openlstm", mode, shape, how=how) for how in forms}
        jobs |= {"torch dense": Job("torch", mode, shape), "torch packed": Job("torch", mode, shape, how="packed")}
        return Contest(jobs, rows, alike=(*forms, "torch packed"))

    title = "Ragged batches: the time of a real token beside a dense one's, and the speed beside torch's PackedSequence"
    return Part(title, tuple(contest(mode, shape) for shape in RAGGED for mode in MODES))


def resets() -> Part:
    """Resets at 2 % of the steps beside the usual loop over T."""

    def rows(m: Measured) -> list[Row]:
        aim = 5.0 if m.jobs["openlstm"].mode == "train" else None
        return [row(m, "openlstm", *speeds(m, "openlstm", {"torch loop": aim, "own loop": None}))]

    def contest(mode: str) -> Contest:
        places = {"openlstm": "openlstm", "torch loop": "torch", "own loop": "loop"}
        return Contest({n: Job(who, mode, PAIR[0], how="reset") for n, who in places.items()}, rows, alike=tuple(places))

    return Part("Resets beside a loop over T: of torch.nn.LSTM, and of a cell in Python", tuple(map(contest, MODES)))


def threads() -> Part:
    """One thread beside all, where there are rows enough."""

    def rows(m: Measured) -> list[Row]:
        long = m.times["all threads"].median >= 1e-3
        return [row(m, "all threads", Bar("threads", m.speed("all threads", "1 thread"), 1.8 if long else None))]

    def contest(mode: str, shape: Shape) -> Contest:
        jobs = {"1 thread": Job("openlstm", mode, shape, threads=1), "all threads": Job("openlstm", mode, shape)}
        return Contest(jobs, rows, alike=tuple(jobs))

    shapes = [shape for shape in SHAPES if shape[1] >= 16]
    return Part("One thread beside all", tuple(contest(mode, shape) for mode in MODES for shape in shapes))


def growth() -> Part:
    """Ten times the steps, four times the rows."""
    steps = ("a step, T 1000 to 10000", 1.10, (1000, 32, 128, 128), (10000, 32, 128, 128))
    batch = ("a row, B 24 to 96", 1.05, (128, 24, 128, 128), (128, 96, 128, 128))

    def contest(mode: str, label: str, aim: float, small: Shape, large: Shape) -> Contest:
        def rows(m: Measured) -> list[Row]:
            times = (large[0] * large[1]) / (small[0] * small[1])
            return [row(m, "small", Bar("cost", m.speed("small", "large") / times, aim, at_most=True), label=label)]

        return Contest({n: Job("openlstm", mode, s) for n, s in (("small", small), ("large", large))}, rows)

    contests = tuple(contest(mode, *what) for mode in MODES for what in (steps, batch))
    return Part("Growth: the cost of a step and of a row in a larger call", contests)


def many() -> Part:
    """Many small networks at once."""

    def rows(m: Measured) -> list[Row]:
        return [row(m, "one call", *speeds(m, "one call", {"a call each": None}), label=f"{NETWORKS} networks")]

    def contest(shape: Shape) -> Contest:
        ways = {"one call": "many", "a call each": "many calls"}
        return Contest({n: Job("openlstm", "forward", shape, how=how) for n, how in ways.items()}, rows, alike=tuple(ways))

    shapes: tuple[Shape, ...] = ((50, 1, 4, 16), (50, 8, 4, 16), (100, 8, 8, 32))
    return Part(f"{NETWORKS} small networks in one call", tuple(map(contest, shapes)))


def tirex() -> Part:
    """TiRex-2: the recurrence of an sLSTM block, a whole forecast, and a forecast for one more value."""

    def contest(what: str, shape: Shape) -> Contest:
        def rows(m: Measured) -> list[Row]:
            aims: dict[str, float | None] = {"tirex": None, "compiled": None}
            if what == "recurrence":
                aims = {"tirex": 5.0, "compiled": 2.0}
            return [row(m, "openlstm", *speeds(m, "openlstm", aims), label=f"TiRex-2: {what}")]

        jobs = {"openlstm": Job("openlstm", "forward", shape, how=f"tirex {what}")}
        whole = what.replace("value", "forecast")  # it has no other way
        jobs["tirex"] = Job("tirex", "forward", shape, how=f"tirex {whole}")
        if shape in (TIREX[:3] if what == "recurrence" else TIREX[:2]):  # the others take many minutes to compile
            jobs["compiled"] = Job("tirex", "forward", shape, how=f"tirex {whole} compiled")
        return Contest(jobs, rows, alike=tuple(jobs) if what == whole else (), tolerance=TIREX_TOLERANCE)

    title = "TiRex-2 with random weights: one block's recurrence, a forecast, and a forecast for one more value"
    return Part(title, tuple(contest(what, shape) for what in ("recurrence", "forecast", "value") for shape in TIREX))


PARTS: dict[str, Callable[[], Part]] = {
    "forward": lambda: layer("forward"),
    "train": lambda: layer("train"),
    "cell": cell,
    "loop": loop,
    "norm": norm,
    "recurrences": recurrences,
    "variants": variants,
    "gru": lambda: other("GRU"),
    "rnn": lambda: other("RNN"),
    "ragged": ragged,
    "resets": resets,
    "threads": threads,
    "growth": growth,
    "many": many,
    "step": step,
    "int8": step_int8,
    "one-row": one_row,
    "checkpoint": checkpoint,
    "bfloat16": half,
    "tirex": tirex,
}
