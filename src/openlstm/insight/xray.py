"""`openlstm.xray`: every diagnostic of this package over one model and its data, in order, as one report.

A diagnostic that cannot be computed becomes a section that says why; the others go on. The model is called a few times and left
as it was: parameters, gradients, modes, random state.

Legend: T time, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openlstm.errors import ArgumentError, DtypeError, OpenLSTMError, message
from openlstm.insight.look import Place, first_non_finite, look
from openlstm.insight.report.report import Report, Section, told
from openlstm.insight.words import number, sentence
from openlstm.nn.batch import RECURRENT, Loss, formed, leaves, mapped

ROWS = 256  # most rows of the data that are looked at
STEPS = 1 << 18  # most steps of all rows together
FEW = 8  # rows for the diagnostics that cost many passes
HEAVY = 2e9  # steps times rows times units squared: from here on candidates are tried on LIGHT rows
LIGHT = 8
LEARNT = 0.9  # of the loss with the last step alone: a network below it has learnt to use its past


def xray(
    model: nn.Module,
    data: Any,
    *,
    lag: int | None = None,
    loss: Any = None,
    before: bool | None = None,
    tokens: Any = None,
    columns: Mapping[str, Any] | None = None,
    watch: Any = None,
    layers: str | Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    name: str | None = None,
) -> Report:
    """Say what a network remembers, for how long, and what to change.

    Before training the verdict is whether a lag is blocked, with advice that was measured; after training it is how many steps
    of context the network uses. Everything else is shown beside it, for every layer and direction.

    Args:
        model: a recurrent layer of openlstm or torch.nn, or any module that holds some.
        data: its inputs, as `model(*data)` or `loss(model, *data)` takes them: a tensor, a PackedSequence, a tuple whose last
            is the target, a dict of keywords, or a DataLoader, of which the first batch is taken. A large batch is thinned out,
            and the report says so.
        lag: steps between what has to be remembered and the answer, counted from the end of each row; None for the lag that the
            data need.
        loss: `loss(model, *data)`, a scalar, or `loss(output, target)` such as `torch.nn.CrossEntropyLoss()`. The verdict
            follows it to wherever it leads; without it a random probe of the model's output, or of the last state of a layer.
            What the network uses cannot be measured without it.
        before: True for a network before training, False after it. None asks the loss: a network that does better with its past
            than without is looked at as a trained one. Of any other it is not known, and the report says so: its verdict is
            that of a training that begins from these weights.
        tokens: the strings of the token ids that the model reads (or an `insight.text.TokenText`, or (ids, strings)): the text
            is shown in the colours of the units that track something in it.
        columns: name -> array [T, B] (or as the inputs are laid out), what the units are compared with.
        watch: an `insight.watch.Watch` that listened to the training.
        layers: only these, as in `insight.look`.
        features: names of the inputs of a step.
        name: what the report calls the model; its class if None.

    Returns:
        A `Report`: `report.word`, `report["retention"].results`, `report.to_html("report.html")`; a notebook shows it.

    Raises:
        DtypeError: if `model` is no module.
        ArgumentError: if it holds no recurrent layer, one did not run, the data are empty, or an argument has no such value.

    >>> import openlstm
    >>> report = xray(openlstm.LSTM(1, 8), torch.randn(60, 4, 1), lag=40)
    >>> report.word, report["reach"].error is None
    ('blocked', True)
    """
    begin = time.perf_counter()
    data, loss, taken = formed(model, data, loss, "xray")
    _check(model, data, lag)
    notes = list(taken)
    data, columns, rows = _thinned(model, data, columns, notes)
    looked = look(model, data, loss, layers=layers, finite=False)
    places = looked.places
    about = _about(model, name, places)
    broken = [found for p in places if (found := _not_finite(p)) is not None]
    if broken:
        return _broken(about, lag, broken, notes, before, time.perf_counter() - begin)
    target = _target(data, loss, places)
    made = _Sections(places)
    ablated = None if before else made.model("ablation", lambda: _ablation(model, data, loss, places[0], lag))
    stage = _stage(before, ablated, notes)
    if stage == "before" or stage == "unknown" and ablated is None:  # what an untrained network uses says nothing
        made.found.pop("ablation", None)
    verdict, reason = _guarded(lambda: _verdict(model, data, lag, loss, target, layers)) if stage != "after" else (None, "")
    reason = sentence(reason) if reason else reason
    needs = getattr(verdict, "needed", None) or _guarded(lambda: _needed(places[0], target))[0]
    if lag is None:
        lag = getattr(verdict, "lag", None)
    advice = None
    if stage != "after" and verdict is not None:
        advice, why = _guarded(lambda: _advice(model, data, verdict, loss, target, places))
        if why:
            notes.append(f"No advice: {why.splitlines()[0]}.")
    made.lag = lag
    if getattr(verdict, "of", "") == "the last state":  # the threshold of that share, and of no other
        made.threshold = verdict.thresholds.share  # type: ignore[union-attr]
    if needs is not None:
        made.model("needed", lambda: needs)
    free = _feeds_back(data, loss, looked.outputs)
    for word, measure in _PLACES.items():
        made.places(word, measure if word != "stability" else _of_place("stability", "stability", feeds_back=free))
    if stage != "before":
        made.send(ablated)
    made.model("attribution", lambda: _attribution(model, data, loss, places, features))
    if columns:
        made.places("tracking", lambda p: _tracking(p, columns, target))
    if tokens is not None:
        made.model("text", lambda: _text(data, tokens, places, rows))
    if watch is not None:
        made.model("training", lambda: _watched(watch))
    ladder, why = _guarded(lambda: _ladder(model, data, loss, places, needs, ablated, lag, stage))
    if why:
        notes.append(f"No ladder: {why.splitlines()[0]}.")
    order = _ORDER if stage != "after" else ("ablation", *(w for w in _ORDER if w != "ablation"))
    sections = tuple(made.found[w] for w in order if w in made.found)
    return Report(about, stage, lag, verdict, reason, ladder, advice, sections, tuple(notes), time.perf_counter() - begin)


_SECTIONS: dict[str, tuple[str, str]] = {
    "needed": (
        "What the data need",
        "A linear model sees the last steps only, more and more of them, and is judged on rows it has not seen. Where its "
        "error stops falling is the lag that the data ask for, as far as a linear model can tell. Without a target it is asked "
        "for the next step of the inputs.",
    ),
    "reach": (
        "Gradient by lag",
        "A network learns from a step only as far as the gradient comes back to it. Shown is the share of the gradient of the "
        "joint state (h, c) that is left so many steps before the last, and the part that stayed on the highway. Before "
        "training a share near zero rules a lag out; after training it is no defect: a memory that is latched has a vanishing "
        "gradient.",
    ),
    "retention": (
        "What the cells keep",
        "The gates multiply the cell at every step. Shown is how much of it is left after so many steps, as a mean over "
        "products, and the half-life of every unit. A short half-life alone rules nothing out: the recurrence can write a "
        "memory again.",
    ),
    "gates": (
        "The gates",
        "Each point is a unit: to the right it is closed more often, upwards open more often. In the corner at the bottom left "
        "a gate is always half open; on the diagonal it is always at one end. Below, all values of the gate.",
    ),
    "stability": (
        "Stability",
        "The Lyapunov exponents say how fast a small difference of the state grows or fades from step to step. Above zero it "
        "grows, and gradients explode; far below zero it fades, and with it every memory that is not latched.",
    ),
    "ledger": (
        "Where the learning signal comes from",
        "The gradient of the weights is a sum over steps. Shown is which part of it comes from the last so many steps.",
    ),
    "health": (
        "Units",
        "Dead units do not move, closed ones never show their cell, pegged ones stand at the end of their range. The effective "
        "rank is the number of independent directions in which the state moves.",
    ),
    "ablation": (
        "What the network uses",
        "The loss of the same network when it sees the last steps only. What it uses is the smallest context from which on the "
        "loss is the one with all steps, within 1 % on either side.",
    ),
    "attribution": (
        "Attribution",
        "Integrated gradients: how much each input at each lag moved the output away from what it is for a baseline: zeros, or "
        "for tokens other tokens of the row. The sum must give the whole difference; the completeness gap says how closely it "
        "does.",
    ),
    "tracking": (
        "What the units follow",
        "Units beside the columns of the data: the closest pairs. A unit that follows a column carries it.",
    ),
    "text": (
        "The text in colours",
        "Every character in the colour of one unit when it was read: one hue above zero, the other below, the stronger the "
        "farther from it.",
    ),
    "streaming": (
        "Streaming",
        "Step by step must give what the whole sequence gives. Shown is how far the state of a cold start is from a warm one. "
        "What has to be sent first is said by the loss, where there is one: answers may agree before states do.",
    ),
    "training": (
        "During training",
        "The same measures while it trained: a horizon that collapses in the first steps asks for a warm-up or a smaller rate.",
    ),
}
"""Heading and explanation of each section."""

_ORDER = "needed reach retention gates stability ledger health ablation attribution tracking text streaming training".split()


class _Sections:
    """Sections as they are made; what fails says why."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.of = places
        self.found: dict[str, Section] = {}
        self.lag: int | None = None
        self.threshold: float | None = None

    def model(self, word: str, measure: Callable[[], Any]) -> Any:
        """A measure of the whole model."""
        result, error = _guarded(measure)
        self._add(word, {} if result is None else {"model": result}, error or None)
        return result

    def places(self, word: str, measure: Callable[[Place], Any]) -> None:
        """A measure of every place; one that fails does not stop the others, one that has nothing to measure says so."""
        results, errors = {}, []
        for place in self.of:
            result, error = _guarded(lambda place=place: measure(place))
            if result is not None:
                results[place.name] = result
            elif error:
                errors.append(error if error.startswith(place.name) else f"{place.name}: {error}")
        self._add(word, results, "\n".join(dict.fromkeys(errors)) or None)

    def send(self, used: Any) -> None:
        """What to send to a stream that begins cold: as much as the network uses, where that is known."""
        from openlstm.insight.streaming import sending

        section = self.found["streaming"]
        advice = sending(section.results.values(), used)
        if advice:
            finding = "\n".join([section.finding, advice]) if section.finding else advice
            self.found["streaming"] = replace(section, finding=finding, extra={"advice": advice})

    def _add(self, word: str, results: Mapping[str, Any], error: str | None) -> None:
        title, about = _SECTIONS[word]
        finding = told({n: str(getattr(r, "finding", "") or "") for n, r in results.items()})
        extra = {"threshold": self.threshold} if word == "reach" else {}
        self.found[word] = Section(word, title, about, results, finding, error, word if results else "", self.lag, extra)


class _Nothing(Exception):
    """There is nothing to measure here, and why."""


def _guarded(measure: Callable[[], Any]) -> tuple[Any, str]:
    """A result and "", or None and why there is none. A report is made even where a part of it goes wrong."""
    try:
        return measure(), ""
    except (_Nothing, OpenLSTMError) as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001  a fault of ours must not take the other sections with it
        return None, f"{type(error).__name__}: {error}"


def _check(model: Any, data: Any, lag: Any) -> None:
    if not isinstance(model, nn.Module):
        got = f"model: {type(model).__name__}"
        hint = "pass the model or the layer; a model file: `openlstm xray FILE`"
        raise DtypeError(message("xray", "not a module", got, "a torch.nn.Module", hint))
    if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 1):
        hint = "count the steps between what has to be remembered and the answer"
        raise ArgumentError(message("xray", "the lag is no whole number of steps", f"lag={lag!r}", "lag >= 1", hint))
    parts = leaves(data)
    if not parts or any(isinstance(a, Tensor) and 0 in a.shape for a in parts):
        got = ", ".join(str(list(a.shape)) for a in parts if hasattr(a, "shape")) or "nothing"
        raise ArgumentError(message("xray", "the data are empty", got, "at least one row and one step", "pass a batch"))


def _thinned(
    model: nn.Module, data: Any, columns: Mapping[str, Any] | None, notes: list[str]
) -> tuple[Any, Mapping[str, Any] | None, Sequence[int] | None]:
    """A batch of at most ROWS rows, spread evenly, where it is plain which axis the rows are on; a note says so."""
    parts = leaves(data)
    firsts = {bool(m.batch_first) for m in model.modules() if isinstance(m, RECURRENT)}
    x = parts[0]
    if not all(isinstance(a, Tensor) for a in parts) or len(firsts) != 1:
        return data, columns, None
    if x.dim() < 2 or (x.dim() == 2 and isinstance(model, RECURRENT)):
        return data, columns, None
    axis = 0 if firsts.pop() else 1
    rows, steps = x.shape[axis], x.shape[1 - axis]
    most = max(2, min(ROWS, STEPS // max(steps, 1)))
    if rows <= most:
        return data, columns, None
    kept = torch.from_numpy(np.unique(np.linspace(0, rows - 1, most).round().astype(np.int64)))

    def thin(a: Any) -> Any:
        a = torch.as_tensor(a)
        if a.shape[:2] == x.shape[:2]:
            return a.index_select(axis, kept.to(a.device))
        at = next((k for k in (0, 1) if k < a.dim() and a.shape[k] == rows), None)
        return a if at is None else a.index_select(at, kept.to(a.device))

    notes.append(f"{len(kept):,} of {rows:,} rows were looked at, spread evenly.")
    thinner = None if columns is None else {name: thin(a) for name, a in columns.items()}
    return mapped(data, thin), thinner, kept.tolist()


def _about(model: nn.Module, name: str | None, places: Sequence[Place]) -> dict[str, Any]:
    """What was looked at, for the head of the report."""
    count = sum(p.numel() for p in model.parameters())
    shapes = dict.fromkeys(f"{p.steps:,} steps × {p.rows:,} rows" for p in places)
    return {
        "name": name or type(model).__name__,
        "layers": ", ".join(p.title.replace("()", "") for p in places),
        "parameters": f"{count:,}",
        "data": "; ".join(shapes),
    }


def _not_finite(place: Place) -> str | None:
    """Where the first number that is not finite is, the inputs before the gates."""
    if not bool(place.x.isfinite().all()):
        t, b, n = (~place.x.isfinite()).nonzero()[0].tolist()
        return f"{place.name}: input {n} is {float(place.x[t, b, n])} at step {t}, row {b}"
    return first_non_finite(place)


def _broken(
    about: Mapping[str, Any], lag: int | None, broken: list[str], notes: list[str], before: bool | None, seconds: float
) -> Report:
    """The report of a network that holds or makes numbers that are not finite: it names the first, and measures nothing."""
    why = f"The first number that is not finite: {broken[0]}."
    hint = "Weights: go back a checkpoint, lower the learning rate, clip gradients. Inputs: fill or mask what is missing."
    error = "Nothing that follows from a number that is not finite means anything.\n" + "\n".join(broken)
    sections = tuple(
        Section(w, *_SECTIONS[w], results={}, finding="", error=error) for w in ("reach", "retention", "gates", "ledger")
    )
    stage = "unknown" if before is None else "before" if before else "after"
    return Report(about, stage, lag, None, f"{why} {hint}", None, None, sections, tuple(notes), seconds)


def _target(data: Any, loss: Loss | None, places: Sequence[Place]) -> Any:
    """What is to be learnt: the last of the data, where it has a row for each sequence and no gaps."""
    if loss is None or not isinstance(data, (tuple, list)) or len(data) < 2 or not isinstance(data[-1], Tensor):
        return None
    y, (T, B) = data[-1], (places[0].steps, places[0].rows)
    if y.is_floating_point() and not bool(y.isfinite().all()):
        return None
    if y.dim() >= 2 and y.shape[:2] == (B, T) and T != B:
        return y.transpose(0, 1)
    if y.shape[:1] == (B,) or y.shape[:2] == (T, B):
        return y if y.dim() <= 2 or y.shape[:2] == (T, B) else y.flatten(1)
    return None


def _stage(before: bool | None, ablated: Any, notes: list[str]) -> str:
    """Whether to look at what can be learnt or at what is used."""
    if before is not None:
        return "before" if before else "after"
    begins = "The verdict is about a training that begins from these weights"
    ask = "Pass before=True or before=False where you know whether it has been trained"
    if ablated is None:
        notes.append(f"{begins}, and does not say what a trained network uses. {ask}, and loss= to measure what it uses.")
        return "unknown"
    at = int(ablated.losses.argmin())
    first, best, k = float(ablated.losses[0]), float(ablated.losses[at]), int(ablated.contexts[at])
    if first - best > (1 - LEARNT) * abs(first):
        seen = f"Its loss is {number(best, 3)} with the last {k} steps and {number(first, 3)} with the last one alone"
        notes.append(f"{seen}: it is looked at as a trained network. before=True asks what can be learnt.")
        return "after"
    seen = f"With more than the last step its loss is hardly better than with that alone, {number(first, 3)}"
    notes.append(f"{seen}: it has not been trained, or does not use its past. {begins}. {ask}.")
    return "unknown"


def _verdict(model: nn.Module, data: Any, lag: int | None, loss: Loss | None, target: Any, layers: Any) -> Any:
    from openlstm.insight.verdict import verdict

    return verdict(model, data, lag, loss=loss, target=target, layers=layers)


def _advice(model: nn.Module, data: Any, verdict: Any, loss: Loss | None, target: Any, places: Sequence[Place]) -> Any:
    from openlstm.insight.advice import advise

    parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
    work = max(p.steps * p.rows * p.units**2 for p in places)
    options: dict[str, Any] = {"needed": verdict.needed}
    if work > HEAVY:  # every candidate is a look of its own
        parts, target = _few(parts, places[0], LIGHT), None
        options |= {"probe": 8 * LIGHT, "trial": 0}
    some = parts if isinstance(data, (tuple, list)) else parts[0]
    return advise(model, some, verdict.lag, loss, target=target, **options)


def _needed(place: Place, target: Any) -> Any:
    from openlstm.insight.needed import needed
    from openlstm.insight.verdict import aligned

    if target is None:
        raise _Nothing("there is no target to tell of")
    return needed(*aligned(place, target))


def _ladder(
    model: nn.Module,
    data: Any,
    loss: Loss | None,
    places: Sequence[Place],
    needs: Any,
    ablated: Any,
    lag: int | None,
    stage: str,
) -> Any:
    from openlstm.insight.ladder import flip_rung, gradient_rung, ladder
    from openlstm.insight.verdict import seeing

    seen, _ = _guarded(lambda: seeing(model, data, loss, places, lag))  # where that fails the verdict says why
    reached = _guarded(lambda: gradient_rung(seen))[0] if seen else None
    flipped = _guarded(lambda: flip_rung(seen))[0] if seen else None
    asked = None if needs is not None and getattr(needs, "lag", None) == lag else lag
    window = max(p.steps for p in places)
    used = ablated if stage == "after" else None
    return ladder(lag=asked, needed=needs, window=window, gradient=reached, flip_lag=flipped, used=used)


def _ablation(model: nn.Module, data: Any, loss: Loss | None, place: Place, lag: int | None) -> Any:
    from openlstm.insight.ablation import ablation

    if loss is None or not isinstance(data, (tuple, list)) or len(data) < 2:
        how = "xray(model, (x, y), loss=...), or openlstm xray MODEL DATA"
        raise _Nothing(f"What a network uses is measured on data with targets and a loss: {how}.")
    return ablation(model, data, loss, lengths=place.lengths, lag=lag)


def _feeds_back(data: Any, loss: Loss | None, outputs: Any) -> bool:
    """Whether what the model gives, or is to give, has the form of its input at every step."""
    parts: list[Any] = list(data) if isinstance(data, (tuple, list)) and not isinstance(data, PackedSequence) else [data]
    given = parts[-1] if loss is not None and len(parts) > 1 else outputs[0] if isinstance(outputs, tuple) else outputs
    x = parts[0]
    return isinstance(x, Tensor) and isinstance(given, Tensor) and x.dim() > 1 and x.shape == given.shape


def _attribution(
    model: nn.Module, data: Any, loss: Loss | None, places: Sequence[Place], features: Sequence[str] | None
) -> Any:
    from openlstm.insight.attribution import attribution

    parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
    x = parts[:-1] if loss is not None and len(parts) > 1 else parts
    x = x[:1] if isinstance(model, RECURRENT) else x
    own = _few(x, places[0])
    nested = len(own) == 1 and isinstance(own[0], (tuple, list, Mapping)) and not isinstance(own[0], PackedSequence)
    lengths = _ends(x, places[0])
    lengths = lengths if lengths is None or own is x else lengths[:FEW]
    return attribution(model, own[0] if nested else own, features=features, lengths=lengths)


def _ends(x: tuple[Any, ...], place: Place) -> Tensor | None:
    """Where the rows of the inputs end, as far as the layer was told: its steps have to be theirs."""
    if place.lengths is None:
        return None
    given = [a for a in leaves(x) if isinstance(a, Tensor)]
    told = any(a.shape == place.lengths.shape and bool((a == place.lengths.to(a.device)).all()) for a in given)
    return place.lengths if told or any(place.steps in a.shape[:2] for a in given) else None


def _tracking(place: Place, columns: Mapping[str, Any], target: Any) -> Any:
    from openlstm.insight.tracking import tracking

    def steps_first(a: Any) -> Any:
        a = torch.as_tensor(np.asarray(a))
        turned = place.module.batch_first and tuple(a.shape[:2]) == (place.rows, place.steps)
        return a.transpose(0, 1) if turned else a

    return tracking(place, {name: steps_first(a) for name, a in columns.items()}, target=target)


def _text(data: Any, tokens: Any, places: Sequence[Place], rows: Sequence[int] | None) -> Any:
    from openlstm.insight.report.reading import read

    return read(tokens, data[0] if isinstance(data, (tuple, list)) else data, places, rows)


def _watched(watch: Any) -> Any:
    if not watch.glimpses:
        raise _Nothing("The watch saw no step of a training.")
    return watch


def _few(parts: tuple[Any, ...], place: Place, rows: int = FEW) -> tuple[Any, ...]:
    """A few rows of the inputs, where it is plain which axis rows are on."""
    found = leaves(parts)
    if place.rows <= rows or not all(isinstance(a, (Tensor, PackedSequence)) for a in found):
        return parts

    def few(a: Any) -> Any:
        if isinstance(a, PackedSequence):
            padded, lengths = pad_packed_sequence(a)
            return pack_padded_sequence(padded[:, :rows], lengths[:rows], enforce_sorted=False)
        axis = next((k for k in (0, 1) if a.dim() > k and a.shape[k] == place.rows), None)
        if a.shape[:2] == (place.steps, place.rows):
            axis = 1
        return a if axis is None else a.narrow(axis, 0, rows)

    return mapped(parts, few)


def _of_place(module: str, function: str, why: str = "", **options: Any) -> Callable[[Place], Any]:
    """A diagnostic of one place, loaded when it is asked for; where it gives nothing, `why` is the attribute that says why."""

    def measure(place: Place) -> Any:
        from importlib import import_module

        result = getattr(import_module(f"openlstm.insight.{module}"), function)(place, **options)
        if result is None and why:
            raise _Nothing(getattr(place, why) or f"{place.name}: nothing to measure")
        return result

    return measure


def _streaming(place: Place) -> Any:
    from openlstm.insight.streaming import streaming

    if place.reverse:
        raise _Nothing(f"{place.name}: a backward direction needs the end of the data before it can begin.")
    return streaming(place)


_PLACES: dict[str, Callable[[Place], Any]] = {
    "reach": _of_place("reach", "reach"),
    "retention": _of_place("retention", "keep", "no_highway"),
    "gates": _of_place("census", "census", "no_gates"),
    "stability": _of_place("stability", "stability"),
    "ledger": _of_place("ledger", "ledger"),
    "health": _of_place("health", "health"),
    "streaming": _streaming,
}
"""What is measured at every place, by the word of its section."""
