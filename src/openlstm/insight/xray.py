"""`openlstm.xray`: every diagnostic of this package over one model and its data, in order, as one report.

A diagnostic that cannot be computed becomes a section that says why; the others go on. The model is called a few times and left
as it was: parameters, gradients, modes, random state.

Legend: T time, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from openlstm.errors import OpenLSTMError
from openlstm.insight import xray_inputs as inputs
from openlstm.insight.batches import NotMeasurable, parts_of
from openlstm.insight.capture import capture_layers
from openlstm.insight.finite import bad_input, first_non_finite
from openlstm.insight.judge.advice import Advice, Trials, advise
from openlstm.insight.judge.horizons import Horizons, flip_horizon, gradient_horizon, horizons
from openlstm.insight.judge.lag_measures import lag_measures
from openlstm.insight.judge.required_lag import RequiredLag, required_lag
from openlstm.insight.judge.verdict import Verdict, aligned, verdict
from openlstm.insight.measure.ablation import Ablation, AblationOptions, ablation
from openlstm.insight.measure.attribution import Attribution, attribution
from openlstm.insight.measure.retention import retention
from openlstm.insight.measure.saturation import saturation
from openlstm.insight.measure.stability import stability
from openlstm.insight.measure.state_gradient import state_gradient
from openlstm.insight.measure.streaming import Streaming, steps_to_send, streaming
from openlstm.insight.measure.tracked_text import track_text
from openlstm.insight.measure.tracking import tracking
from openlstm.insight.measure.unit_activity import unit_activity
from openlstm.insight.measure.weight_gradient import weight_gradient
from openlstm.insight.place import Place
from openlstm.insight.report.report import ModelFacts, Report, Stage
from openlstm.insight.report.section import Section, texts
from openlstm.insight.results import Asked, Result, by_place
from openlstm.insight.watch import Watch
from openlstm.insight.words import number, sentence
from openlstm.nn.batch import RECURRENT, Loss, formed

FEW = 8  # rows for the diagnostics that cost many passes
HEAVY = 2e9  # steps times rows times units squared: from here on candidates are tried on FEW rows
LEARNT = 0.9  # of the loss with the last step alone: a network below it has learnt to use its past

R = TypeVar("R")


def xray(
    model: nn.Module,
    data: Any,
    *,
    lag: int | None = None,
    loss: Any = None,
    before: bool | None = None,
    tokens: Any = None,
    columns: inputs.Columns | None = None,
    watch: Watch | None = None,
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
        tokens: the strings of the token ids that the model reads (or a `TokenText`, or (ids, strings)): the text
            is shown in the colours of the units that track something in it.
        columns: name -> array [T, B] (or as the inputs are laid out), what the units are compared with.
        watch: a `Watch` that listened to the training.
        layers: only these, as in `capture_layers`.
        features: names of the inputs of a step.
        name: what the report calls the model; its class if None.

    Returns:
        A `Report`: `report.word`, `report["retention"].results`, `report.to_html("report.html")`; a notebook shows it.

    Raises:
        DtypeError: if `model` is no module.
        ArgumentError: if it holds no recurrent layer, one did not run, the data are empty, or an argument has no such value.

    >>> import openlstm, torch
    >>> report = xray(openlstm.LSTM(1, 8), torch.randn(60, 4, 1), lag=40)
    >>> report.word, report["state_gradient"].error is None
    ('blocked', True)
    """
    begin = time.perf_counter()
    data, loss, taken = formed(model, data, loss, "xray")
    inputs.check(model, data, lag)
    data, columns, rows, fewer = inputs.thinned(model, data, columns)
    notes = [*taken, *([fewer] if fewer else [])]
    captured = capture_layers(model, data, loss, layers=layers, finite=False)
    places = captured.places
    about = inputs.facts(model, name, places)
    broken = [bad for p in places if (bad := bad_input(p) or first_non_finite(p)) is not None]
    if broken:
        return _broken(about, lag, broken, notes, before, time.perf_counter() - begin)
    target = inputs.target_of(data, loss, places[0])
    made = _Sections(places)
    used = None if before else made.of_model("ablation", lambda: _ablation(model, data, loss, places[0], lag))
    stage, note = _stage(before, used)
    notes += [note] if note else []
    if stage == "before" or stage == "unknown" and used is None:  # what an untrained network uses says nothing
        made.found.pop("ablation", None)
    found, reason = None, ""
    if stage != "after":
        found, reason = _or_why(lambda: verdict(model, data, lag, loss=loss, target=target, layers=layers))
    required = None if found is None else found.required
    if required is None:
        required = _or_why(lambda: _required(places[0], target))[0]
    if lag is None and found is not None:
        lag = found.lag
    advice, why = None, ""
    if found is not None:
        advice, why = _or_why(lambda: _advice(model, data, found, loss, target, places))
    notes += [f"No advice: {why.splitlines()[0]}."] if why else []
    of_state = found is not None and found.of == "the last state"  # the threshold of that share, and of no other
    made.asked = Asked(lag, found.thresholds.share if found is not None and of_state else None)
    if required is not None:
        made.of_model("required_lag", lambda: required)
    for word, measure in _OF_PLACES.items():
        made.of_places(word, measure)
    stable = partial(stability, feeds_back=inputs.feeds_back(data, loss, captured.outputs))
    made.of_places("stability", _unless(lambda place: place.no_stability, stable))
    if stage != "before":
        made.say_what_to_send(used)
    made.of_model("attribution", lambda: _attribution(model, data, loss, places, features))
    if columns:
        made.of_places("tracking", lambda p: tracking(p, inputs.steps_first(p, columns), target=target))
    if tokens is not None:
        made.of_model("text", lambda: track_text(tokens, parts_of(data)[0], places, rows))
    if watch is not None:
        made.of_model("training", lambda: _watched(watch))
    lags = _horizons(model, data, loss, places, lag, required, used if stage == "after" else None)
    order = texts() if stage != "after" else ("ablation", *(word for word in texts() if word != "ablation"))
    sections = tuple(made.found[word] for word in order if word in made.found)
    reason = sentence(reason) if reason else reason
    seconds = round(time.perf_counter() - begin, 3)
    return Report(about, stage, lag, found, reason, lags, advice, sections, tuple(notes), seconds)


class _Sections:
    """Sections as they are made; what cannot be measured says why."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.found: dict[str, Section] = {}
        self.asked = Asked()

    def of_model(self, word: str, measure: Callable[[], R]) -> R | None:
        """A measure of the whole model."""
        result, error = _or_why(measure)
        self._add(word, {} if result is None else {"model": result}, error or None)
        return result

    def of_places(self, word: str, measure: Callable[[Place], Result | None]) -> None:
        """A measure of every place; one that has nothing to measure says so, and does not stop the others."""
        results, errors = {}, []
        for place in self.places:
            result, error = _or_why(partial(measure, place))
            if result is not None:
                results[place.name] = result
            elif error:
                errors.append(error if error.startswith(place.name) else f"{place.name}: {error}")
        self._add(word, results, "\n".join(dict.fromkeys(errors)) or None)

    def say_what_to_send(self, used: Ablation | None) -> None:
        """To a stream that starts from an empty state: as much as the network uses, where that is known."""
        section = self.found["streaming"]
        advice = steps_to_send([r for r in section.results.values() if isinstance(r, Streaming)], used)
        if advice:
            finding = "\n".join([section.finding, advice]) if section.finding else advice
            self.found["streaming"] = replace(section, finding=finding, asked=replace(section.asked, advice=advice))

    def _add(self, word: str, results: Mapping[str, Any], error: str | None) -> None:
        self.found[word] = Section(word, results, by_place({n: r.finding for n, r in results.items()}), error, self.asked)


def _or_why(measure: Callable[[], R]) -> tuple[R | None, str]:
    """A result and "", or None and why there is none: errors of this package are what can be expected, any other is a fault."""
    try:
        return measure(), ""
    except OpenLSTMError as error:
        return None, str(error)


def _broken(
    about: ModelFacts, lag: int | None, broken: list[str], notes: list[str], before: bool | None, seconds: float
) -> Report:
    """The report of a network that holds or makes numbers that are not finite: it names the first, and measures nothing."""
    why = f"The first number that is not finite: {broken[0]}."
    hint = "Weights: go back a checkpoint, lower the learning rate, clip gradients. Inputs: fill or mask what is missing."
    error = "Nothing that follows from a number that is not finite means anything.\n" + "\n".join(broken)
    sections = tuple(Section(word, {}, "", error) for word in ("state_gradient", "retention", "gates", "weight_gradient"))
    stage: Stage = "unknown" if before is None else "before" if before else "after"
    return Report(about, stage, lag, None, f"{why} {hint}", None, None, sections, tuple(notes), round(seconds, 3))


def _stage(before: bool | None, used: Ablation | None) -> tuple[Stage, str]:
    """Whether to look at what can be learnt or at what is used, and a note on how that was told."""
    if before is not None:
        return ("before" if before else "after"), ""
    begins = "The verdict is about a training that begins from these weights"
    ask = "Pass before=True or before=False where you know whether it has been trained"
    if used is None:
        return "unknown", f"{begins}, and does not say what a trained network uses. {ask}, and loss= to measure what it uses."
    at = int(used.losses.argmin())
    first, best, k = float(used.losses[0]), float(used.losses[at]), int(used.contexts[at])
    if first - best > (1 - LEARNT) * abs(first):
        seen = f"Its loss is {number(best, 3)} with the last {k} steps and {number(first, 3)} with the last one alone"
        return "after", f"{seen}: it is looked at as a trained network. before=True asks what can be learnt."
    seen = f"With more than the last step its loss is hardly better than with that alone, {number(first, 3)}"
    return "unknown", f"{seen}: it has not been trained, or does not use its past. {begins}. {ask}."


def _ablation(model: nn.Module, data: Any, loss: Loss | None, place: Place, lag: int | None) -> Ablation:
    if loss is None or len(parts_of(data)) < 2:
        how = "xray(model, (x, y), loss=...), or openlstm xray MODEL DATA"
        raise NotMeasurable(f"What a network uses is measured on data with targets and a loss: {how}.")
    return ablation(model, data, loss, lag=lag, options=AblationOptions(lengths=place.lengths))


def _required(place: Place, target: Tensor | None) -> RequiredLag:
    if target is None:
        raise NotMeasurable("there is no target to tell of")
    return required_lag(*aligned(place, target))


def _advice(
    model: nn.Module, data: Any, found: Verdict, loss: Loss | None, target: Tensor | None, places: Sequence[Place]
) -> Advice:
    heavy = max(p.steps * p.rows * p.units**2 for p in places) > HEAVY  # every candidate is a call of its own
    trials = Trials(steps=0, rows=8 * FEW) if heavy else Trials()
    if heavy:
        parts = inputs.first_rows(parts_of(data), places[0], FEW)
        data, target = parts if isinstance(data, (tuple, list)) else parts[0], None
    return advise(model, data, found.lag, loss, target=target, required=found.required, trials=trials)


def _attribution(
    model: nn.Module, data: Any, loss: Loss | None, places: Sequence[Place], features: Sequence[str] | None
) -> Attribution:
    parts = parts_of(data)
    x = parts[:-1] if loss is not None and len(parts) > 1 else parts
    x = x[:1] if isinstance(model, RECURRENT) else x
    own, lengths = inputs.first_rows(x, places[0], FEW), inputs.row_ends(x, places[0])
    lengths = lengths if lengths is None or own is x else lengths[:FEW]
    nested = len(own) == 1 and isinstance(own[0], (tuple, list, Mapping)) and not isinstance(own[0], PackedSequence)
    return attribution(model, own[0] if nested else own, features=features, lengths=lengths)


def _horizons(
    model: nn.Module,
    data: Any,
    loss: Loss | None,
    places: Sequence[Place],
    lag: int | None,
    required: RequiredLag | None,
    used: Ablation | None,
) -> Horizons:
    seen, _ = _or_why(lambda: lag_measures(model, data, loss, places, lag))  # where that fails the verdict says why
    gradient, flip = (None if seen is None else _or_why(partial(f, seen))[0] for f in (gradient_horizon, flip_horizon))
    asked = None if required is not None and required.lag == lag else lag
    window = max(p.steps for p in places)
    return horizons(lag=asked, required=required, window=window, gradient=gradient, flip=flip, used=used)


def _watched(watch: Watch) -> Watch:
    if not watch.snapshots:
        raise NotMeasurable("The watch saw no step of a training.")
    return watch


def _unless(why: Callable[[Place], str | None], measure: Callable[[Place], R]) -> Callable[[Place], R]:
    """The measure, where nothing speaks against it."""

    def measured(place: Place) -> R:
        found = why(place)
        if found is not None:
            raise NotMeasurable(found)
        return measure(place)

    return measured


_OF_PLACES: dict[str, Callable[[Place], Any]] = {
    "state_gradient": state_gradient,
    "retention": _unless(lambda place: place.no_highway, retention),
    "gates": _unless(lambda place: place.no_gates, saturation),
    "weight_gradient": weight_gradient,
    "units": unit_activity,
    "streaming": _unless(lambda place: place.no_stream, streaming),
}
"""What is measured at every place, by the name of its section."""
