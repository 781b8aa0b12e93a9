"""`Forecaster`: one network over all series of a table, baselines beside it, and bands calibrated on validation windows.

    x, context, anchor, spread = what `runtime.window` reads of a window
    h = last output of the recurrent layers over x                          # [N, H]
    quantiles = anchor + spread * decoder(h, context, what is known ahead)  # [N, K, Q]

How `fit` goes: a first network is trained without the last steps of each series; on these it is scored beside the baselines,
bands are calibrated, the length of the training is chosen. Then the members are trained on all that is known.

Legend: S series, N windows, H hidden size, K steps of the horizon, Q quantiles.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from openlstm import model_file
from openlstm._terminal import tell
from openlstm.cells import BY_NAME
from openlstm.data import Columns, Format, read_panel
from openlstm.data.panel import Panel
from openlstm.errors import ArgumentError, DataError
from openlstm.model_file import Header
from openlstm.runtime.model import Model, build
from openlstm.runtime.prediction import Prediction
from openlstm.runtime.simulate import Simulation
from openlstm.tasks import choice, outline, recipe, simulation, trainings
from openlstm.tasks.again import Start, arguments, seen_tensors
from openlstm.tasks.evaluation import Evaluation, evaluate
from openlstm.tasks.examples import Examples
from openlstm.tasks.groups import held_out
from openlstm.tasks.network import Net, make, network
from openlstm.tasks.simulation import Efficiency
from openlstm.tasks.trainings import Keeping
from openlstm.train.options import check_precision
from openlstm.train.progress import clock_time

QUANTILES = (0.1, 0.5, 0.9)
"""The median, and the 80 % band around it."""

NEEDED = ("horizon", "members", "paths")

LONGEST_PERIOD = 10**6


class Forecaster:
    """A forecaster of one or many series, of `members` networks whose forecasts are averaged.

    The constructor stores, `fit` validates; `get_params`, `set_params` and `sklearn.base.clone` work as in scikit-learn.

    Args:
        horizon: how many steps to forecast.
        time, target: the columns of dates and of numbers; None for `ds` and `y`, or the only ones that can be meant.
        series: the columns (or the one) that name a series; `unique_id` if there is one and nothing is given.
        future, past, static: columns known ahead (a price), known up to now (the weather), and of the whole series (a region).
        wide: every column but the dates is a series of its own.
        period: steps in a season; guessed from the sampling interval if None (weekly 52, monthly 12, daily 7, hourly 24).
        size: "auto": what is None below is chosen from the amount of data, see `tasks.recipe`.
        window: steps the network reads.
        cell: a name from `cells.BY_NAME`: "lstm", "gru", "rnn_tanh", "peephole", ...
        hidden_size, num_layers: units of each layer, and layers on top of each other.
        decoder: "direct" forecasts all steps at once; "recursive" the distribution of one after the other, and draws paths;
            "simulate" tells the target from the `future` and `static` columns of the same steps, never from its own past.
        distribution: of "recursive": "normal" (if None), "student-t", or "negative binomial" for counts.
        paths: of "recursive": so many are drawn for each forecast.
        warmup: of "simulate": steps at the beginning of a window that are not trained on; half of it if None.
        members: networks that differ in their seed alone.
        quantiles: what is forecast, 0.5 among them.
        baselines: keep the baselines in the model, and weigh them against the network on validation windows.
        init: of the weights, as `nn.init.apply` takes it: "default", "forget-bias=1", "chrono=104", "orthogonal", ...
        steps: of the optimiser, for each member.
        batch_size, learning_rate, weight_decay: of the optimiser.
        precision: of what recurrent layers multiply while they are trained: "float32"; "bfloat16"; "auto", the faster one here.
        seed: member k takes the seed `seed + k`. The same seed gives the same model on the same machine.
        init_model: a model file to train on with: columns, scales and sizes are those of it.

    After `fit`: `model_` (as `openlstm.load` gives it), `panel_` (all that was read), `known_` (what was not held out),
    `recipe_`, `histories_`, `notes_`, `warnings_`, `held_out_` (bool [S], the series that were not trained on).

    >>> from openlstm.model_file import Step
    >>> t = np.arange(120)
    >>> panel = Panel.of([np.sin(2 * np.pi * t / 7) + 0.1 * t], "2001-01-01", Step(unit="second", count=86400))
    >>> forecaster = Forecaster(7, members=1, hidden_size=8, steps=20).fit(panel, holdout=14, quiet=True)
    >>> forecaster.predict().median.shape
    (1, 7)
    """

    def __init__(
        self,
        horizon: int = 1,
        *,
        time: str | None = None,
        target: str | None = None,
        series: str | tuple[str, ...] = (),
        future: str | tuple[str, ...] = (),
        past: str | tuple[str, ...] = (),
        static: str | tuple[str, ...] = (),
        wide: bool = False,
        period: int | None = None,
        size: str = "auto",
        window: int | None = None,
        cell: str = "lstm",
        hidden_size: int | None = None,
        num_layers: int | None = None,
        decoder: str = "direct",
        distribution: str | None = None,
        paths: int = 200,
        warmup: int | None = None,
        members: int = 3,
        quantiles: tuple[float, ...] = QUANTILES,
        baselines: bool = True,
        init: str = "forget-bias=1",
        steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        precision: str = "float32",
        seed: int = 0,
        init_model: str | os.PathLike[str] | None = None,
    ) -> None:
        self.horizon, self.time, self.target, self.series = horizon, time, target, series
        self.future, self.past, self.static, self.wide = future, past, static, wide
        self.period, self.size, self.window, self.cell = period, size, window, cell
        self.hidden_size, self.num_layers, self.members = hidden_size, num_layers, members
        self.decoder, self.distribution, self.paths, self.warmup = decoder, distribution, paths, warmup
        self.quantiles, self.baselines, self.init, self.steps = quantiles, baselines, init, steps
        self.batch_size, self.learning_rate, self.weight_decay, self.seed = batch_size, learning_rate, weight_decay, seed
        self.precision, self.init_model = precision, init_model
        self._read: Start | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name, as scikit-learn asks for them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Forecaster:
        """Set arguments of the constructor.

        Raises:
            ArgumentError: for a name that is none of them.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                what, hint = f"has no parameter {name!r}", "see help(openlstm.Forecaster)"
                raise ArgumentError.of("Forecaster.set_params", what, repr(name), ", ".join(known), hint)
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = {n: v for n, v in self.get_params().items() if v != inspect.signature(type(self)).parameters[n].default}
        return f"Forecaster({', '.join(f'{n}={v!r}' for n, v in changed.items())})"

    def fit(
        self,
        data: Any,
        *,
        holdout: int = 0,
        groups: str | Sequence[bool] | None = None,
        form: Format | None = None,
        future_data: Any = None,
        checkpoints: str | os.PathLike[str] | None = None,
        resume: bool = False,
        checkpoint_every: float = 30.0,
        log: str | os.PathLike[str] | None = None,
        tensorboard: str | os.PathLike[str] | None = None,
        watch: bool = False,
        quiet: bool = False,
    ) -> Forecaster:
        """Train on all but the last `holdout` steps of each series, and on none of the series that are held out.

        Args:
            data: a path, a frame of pandas, polars or pyarrow, or a `Panel`.
            holdout: steps at the end of each series that are not looked at, for `evaluate`.
            groups: a column that names a group of series, one of `series` or `static`: of its groups one in five is held out,
                drawn with the seed; or for each series whether it is held out.
            form: how the file is written, where that is not found by itself.
            future_data: a path or frame with the covariates known ahead, for the steps behind the past.
            checkpoints: a folder in which the training saves itself every `checkpoint_every` seconds; `save` removes it.
            resume: go on from the checkpoints there, with the same bits; without any, begin.
            log: a file to which every step and epoch is added, one JSON object a line; see `train.JsonLines`.
            tensorboard: a folder for TensorBoard's curves of them.
            watch: look at every network while it trains: its horizon is told, and `watches_` has an `insight.Watch` of each.
            quiet: show no progress (it goes to standard error).

        Raises:
            DataError: if the data cannot be used, or are too short for the horizon.
            ArgumentError: for an argument that cannot be.
            CheckpointError: if the checkpoints are damaged, or of another training.
            TrainingError: if a loss or a gradient is not finite.
        """
        keeping = Keeping(checkpoints, resume, checkpoint_every, log, tensorboard, watch, quiet)
        start = self._start()
        self._check()
        self.panel_ = panel = self.read(data, form=form, future_data=future_data)
        asked = self if start is None else start.asked(self)
        self.held_out_ = held_out(panel, groups, self.seed)
        known = panel.only(~self.held_out_) if self.held_out_.any() else panel
        self.known_ = known = known.at(np.maximum(known.history - holdout, 0)) if holdout else known
        if not (panel.history > holdout).any():
            what = "every step of every series is held out"
            got = f"{int(panel.history.max(initial=0))} steps, holdout={holdout}"
            raise DataError.of("fit", what, got, "steps to train on", "give longer series, or a smaller --holdout or --horizon")
        made = asked._recipe(known)
        self.recipe_ = made = made if start is None else start.unseen(known, made)
        header = outline.header(asked, known, made)
        header = header if start is None else start.header(header)
        told = [] if start is None else [start.tell(known)]
        self.notes_ = [*(note.text for note in panel.notes), *told, *made.tell(known, header.series.horizon)]
        kept, nets = self._trained(header, start, keeping)
        self.warnings_, self.left_out_ = kept.warnings, kept.left_out
        seen = seen_tensors(known, start)
        self.tensors_ = {**trainings.tensors(nets), **kept.tensors, **seen}
        how = {
            "epochs": tuple(h.best.number for h in self.histories_),
            "series": len(seen["series.last"]),
            "name_bytes": len(seen["series.names"]),
        }
        training = header.training.changed(**how)
        self.header_ = outline.valid({**model_file.plain(header), "training": training, "forecasters": kept.forecasters})
        self.model_ = build(self.header_, self.tensors_)
        return self

    @property
    def steps_ahead(self) -> int:
        """The horizon; that of the model that is trained on with, if there is one."""
        start = self._start()
        return self.horizon if start is None else start.model.horizon

    def _start(self) -> Start | None:
        """The model that is trained on with; read once."""
        if self.init_model is None:
            return None
        if self._read is None or self._read.path != str(self.init_model):
            self._read = Start.of(self.init_model)
        return self._read

    def _trained(self, header: Header, start: Start | None, keeping: Keeping) -> tuple[choice.Choice, list[Net]]:
        """What stands beside the networks, and the networks."""
        known, made, members = self.known_, self.recipe_, header.network.members
        units = outline.units(header, known)
        everything = Examples(header, known, np.zeros(len(known), np.int64), units)
        first = Examples(header, known, made.validation, units) if made.validation.any() else everything
        validated = len(first.validation) > 0
        way = trainings.options(made, self.seed + members, weight_decay=self.weight_decay)
        seconds = trainings.seconds(header, everything, way) * made.steps * (members + validated)
        self.notes_ += trainings.note(header, made)
        self.notes_.append(f"about {clock_time(seconds)} of training")
        tell([f"note: {note}" for note in self.notes_], keeping.quiet)
        old = None if start is None else start.model.tensors
        about = trainings.about(header, known, made, old)
        net_of = lambda k, seed: make(header, seed) if old is None else network(header, old, k)  # noqa: E731
        with trainings.trainings(keeping, about, members + validated) as session:
            parts, net = trainings.EPOCHS, make(header, self.seed)
            if validated:
                net, history = session.train("validation", net_of(0, way.seed), first, way)
                parts = trainings.length(history)
            kept = self._kept(header, net, first, start if not validated else None)
            found = []
            for k in range(members):
                own = trainings.options(made, self.seed + k, weight_decay=self.weight_decay, parts=parts)
                found.append(session.train(f"member {k + 1}", net_of(k, own.seed), everything, own))
            self.watches_, self._checkpoints = session.watches, session.checkpoints
        self.histories_ = [history for _, history in found]
        return kept, [net for net, _ in found]

    def _kept(self, header: Header, net: Net, first: Examples, start: Start | None) -> choice.Choice:
        """Baselines, bands and weights, by what the first network did on the validation windows."""
        if start is not None:
            return start.choice()
        one = header.changed(network=header.network.changed(members=1))
        judged = build(one, trainings.tensors([net]))
        if header.decoder.kind == "simulate":
            return simulation.choose(judged, self.known_, self.recipe_.validation, first.units)
        return choice.choose(judged, first, self.known_, self.recipe_.validation, baselines=self.baselines)

    def predict(self, data: Any = None, *, use: str = "network") -> Prediction:
        """Forecast the steps after the past of `data`; of the data it was fitted to, held-out steps included, if None."""
        return self._fitted().predict(self.panel_ if data is None else data, use=use)

    def simulate(self, data: Any = None) -> Simulation:
        """Every step of `data` from its covariates, of the decoder `simulate`; of the data it was fitted to if None."""
        return self._fitted().simulate(self.panel_ if data is None else data)

    def evaluate(self, data: Any = None, **options: Any) -> Evaluation:
        """Score it beside its baselines on the steps of `data` it has not seen; see `tasks.evaluation.evaluate`."""
        model = self._fitted()
        return evaluate(model, self.panel_ if data is None else model.panel(data), **options)

    def plot(self, data: Any = None, *, use: str = "network", path: str | os.PathLike[str] | None = None) -> Any:
        """A picture of the past and the forecast with its bands; many series as small ones.

        Args:
            data, use: as of `predict`.
            path: a .png, .svg or .html file to write as well.

        Returns:
            A `Display`, which a notebook shows.

        Raises:
            MissingExtraError: without altair or vl-convert.
        """
        from openlstm.tasks.pictures import plot, save

        model = self._fitted()
        panel = self.panel_ if data is None else model.panel(data)
        drawn = plot(panel, model.predict(panel, use=use))
        if path is not None:
            save(drawn, str(path))
        return drawn

    def efficiency(self, data: Any = None) -> Efficiency:
        """NSE and KGE of what it simulates, on the steps of `data` it has not seen; see `tasks.simulation.evaluate`."""
        model = self._fitted()
        return simulation.evaluate(model, self.panel_ if data is None else model.panel(data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file that `openlstm.load` reads; an existing file is replaced as a whole or not at all.

        Checkpoints of the training are removed.
        """
        model_file.write(path, self._fitted().header, self.tensors_)
        if self._checkpoints is not None:
            self._checkpoints.finish()
            self._checkpoints = None

    def _check(self) -> None:
        """Refuse what no training can be made of, before the data are read."""
        for name in (*NEEDED, "period", "window", "hidden_size", "num_layers", "steps", "batch_size", "warmup"):
            value = getattr(self, name)
            if value is None and name not in NEEDED:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                what, got = f"{name} must be a whole number of at least 1", f"{name}={value!r}"
                raise ArgumentError.of("Forecaster", what, got, "1, 2, 3, ...", f"pass a {name} above zero")
        if self.period is not None and self.period > LONGEST_PERIOD:
            what, got = "period is not what a model file can hold", f"period={self.period}"
            raise ArgumentError.of("Forecaster", what, got, f"at most {LONGEST_PERIOD}", "pass another period")
        if self.cell not in BY_NAME:
            what, expected = f"unknown cell {self.cell!r}", ", ".join(BY_NAME)
            raise ArgumentError.of("Forecaster", what, repr(self.cell), expected, "use cell='lstm'")
        outline.check_decoder(self)
        check_precision("Forecaster", self.precision)
        if self.size != "auto":
            what, hint = "size is chosen from the data, or part by part", "size='auto', or hidden_size, window, steps, ..."
            raise ArgumentError.of("Forecaster", what, f"size={self.size!r}", "'auto'", hint)
        from openlstm.nn import LSTM, init

        if self.init != "default" and "rnn" not in self.cell:
            init.apply(
                LSTM(1, 1, cell=BY_NAME["lstm"]), self.init
            )  # what is misspelt is told now, not after the data were read

    def _recipe(self, known: Panel) -> recipe.Recipe:
        made = recipe.choose(known, self.horizon, period=self.period, window=self.window)
        made = made.simulating(known, self.window) if self.decoder == "simulate" else made
        names = ("hidden_size", "num_layers", "steps", "batch_size", "learning_rate", "precision")
        return replace(made, **{name: value for name in names if (value := getattr(self, name)) is not None})

    def read(self, data: Any, *, form: Format | None = None, future_data: Any = None) -> Panel:
        """The data as `fit` sees them, whose arguments these are."""
        if isinstance(data, Panel):
            self.form_ = form or getattr(self, "form_", Format())
            return data
        self.form_ = form or Format()
        if (start := self._start()) is not None:
            return start.read(data, self.form_, future_data, self.time, self.target)
        given = (self.series, self.future, self.past, self.static)
        ids, future, past, static = ((c,) if isinstance(c, str) else tuple(c) for c in given)
        columns = Columns(self.time, self.target, ids, future, past, static, self.wide)
        return read_panel(data, columns, self.form_, future_data=future_data)

    def _fitted(self) -> Model:
        if "model_" not in vars(self):
            what, hint = "is not fitted yet", "forecaster.fit(data), then this"
            raise ArgumentError.of("Forecaster", what, "no model", "a call of fit first", hint)
        return self.model_


def like(header: Header, **changed: Any) -> Forecaster:
    """A forecaster with the arguments of one that was saved, for data that are a panel already."""
    return Forecaster(**{**arguments(header), **changed})
