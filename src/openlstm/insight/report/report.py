"""What `openlstm.xray` returns: the verdict, the ladder of lags, the advice, and one section a diagnostic.

A report holds numbers; pictures are drawn when they are asked for, so that numbers alone need no plot library.
"""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from openlstm._files import writable, write_whole
from openlstm.insight.words import sentence, unmeasured

if TYPE_CHECKING:
    from openlstm.insight.report.display import Display


WIDTH = 120  # characters of a line where a report is printed

STAGES = {
    "before": "looked at before training: what can be learnt",
    "after": "looked at after training: what is used",
    "unknown": "whether it has been trained is not known",
}


@dataclass(frozen=True)
class Section:
    """One diagnostic: what was measured, by the name of the place, the sentence it comes to, or why it could not be computed.

    name: a short word, for `report["gates"]`.
    about: what the diagnostic is, for somebody who meets it for the first time.
    results: place -> result, one of the dataclasses of `openlstm.insight`; a result of the whole model stands under "model".
    error: why there is nothing, or why a part is missing; None if all went well.
    draw: the function of `insight.report.drawings` that makes its pictures.
    """

    name: str
    title: str
    about: str
    results: Mapping[str, Any]
    finding: str
    error: str | None = None
    draw: str = ""
    lag: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def displays(self) -> tuple[Display, ...]:
        """The pictures; none where nothing could be computed.

        Raises:
            MissingExtraError: without altair or vl-convert.
        """
        if not self.results or not self.draw:
            return ()
        from openlstm.insight.report.drawings import drawings

        return drawings(self)

    @property
    def display(self) -> Display | None:
        """The first of the pictures."""
        return next(iter(self.displays), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "finding": self.finding,
            "error": self.error,
            "results": {place: plain(result) for place, result in self.results.items()},
        }

    def _repr_html_(self) -> str:
        from html import escape

        lines = [f"<h3>{escape(self.title)}</h3>", *(d._repr_html_() for d in self.displays)]
        if self.error:
            lines.append(f"<p>Not computed: {escape(self.error)}</p>")
        return "".join(lines)


@dataclass(frozen=True)
class Report:
    """What a network remembers, for how long, and what to change.

    model: what was looked at: name, parameters, places and the shape of the data.
    stage: "before" training (the verdict is what can be learnt), "after" (the verdict is what is used), or "unknown": nobody
        said which, no loss tells, and the verdict is what can be learnt if training begins from these weights.
    verdict: an `insight.verdict.Verdict`, None where it could not be computed (`reason` says why).
    ladder: an `insight.ladder.Ladder`.
    advice: an `insight.advice.Advice`; None after training, and where nothing is blocked.
    notes: what else a reader has to know: rows left out, what was assumed.

    >>> import openlstm, torch
    >>> report = openlstm.xray(openlstm.LSTM(1, 8), torch.randn(60, 4, 1), lag=40)
    >>> report.verdict.word
    'blocked'
    """

    model: Mapping[str, Any]
    stage: str
    lag: int | None
    verdict: Any
    reason: str
    ladder: Any
    advice: Any
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def heading(self) -> str:
        """What is known of the training."""
        return STAGES[self.stage]

    @property
    def word(self) -> str:
        """The verdict in one or two words."""
        if self.stage == "after":
            uses = self.uses
            return "no verdict" if uses is None else f"uses {uses:,} step{'s' * (uses != 1)}"
        return getattr(self.verdict, "word", "no verdict")

    @property
    def uses(self) -> int | None:
        """How many steps of context the network uses; None where that was not measured."""
        found = next((s for s in self.sections if s.name == "ablation" and s.results), None)
        uses = None if found is None else next(iter(found.results.values())).uses
        return None if uses is None else int(uses)

    @property
    def serving(self) -> str:
        """What to send to a stream that begins cold; "" where that was not measured."""
        found = next((s for s in self.sections if s.name == "streaming"), None)
        return "" if found is None else str(found.extra.get("advice", ""))

    @property
    def finding(self) -> str:
        """The verdict as a sentence."""
        if self.stage == "after":
            found = next((s for s in self.sections if s.name == "ablation"), None)
            return (found.finding or found.error or self.reason) if found else self.reason
        return getattr(self.verdict, "finding", None) or self.reason

    @property
    def change(self) -> str:
        """What to change, as far as that was measured."""
        if self.advice is not None:
            return self.advice.finding
        if self.stage == "after":
            if self.uses is None:
                return unmeasured(None, sentence(self.finding))
            return f"Nothing in the network: after training only what it uses counts, and that is the verdict. {self.serving}"
        if getattr(self.verdict, "of", "nothing") == "nothing":
            return unmeasured(self.lag, sentence(getattr(self.verdict, "reason", self.reason)))
        if self.word == "not blocked":
            return "Nothing has to change: nothing is blocked at this lag. That does not promise that it will be learnt."
        return "No advice was measured."

    def noted(self, *notes: str) -> Report:
        """The same report with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def __getitem__(self, name: str) -> Section:
        """A section by its name, as in `report["gates"]`."""
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(f"no section {name!r}; there are {', '.join(s.name for s in self.sections)}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and words, ready for JSON."""
        return {
            "word": self.word,
            "finding": self.finding,
            "stage": self.stage,
            "lag": self.lag,
            "model": plain(self.model),
            "verdict": plain(self.verdict),
            "ladder": plain(self.ladder),
            "advice": plain(self.advice),
            "sections": [s.to_dict() for s in self.sections],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as one page that needs nothing but itself; written to `path` where that is given.

        Returns:
            The page.

        Raises:
            ArgumentError: if the place cannot be written, as a folder that does not exist; found before the page is made.
            OSError: if the place cannot be written; nothing is left behind.
            MissingExtraError: without altair, vl-convert or jinja2.
        """
        if path is not None:
            writable(path)
        from openlstm.insight.report.page import render

        page = render(self)
        if path is not None:
            write_whole(path, page.encode())
        return page

    def _repr_html_(self) -> str:
        """In a notebook the page stands in a frame of its own, so that its styles stay inside."""
        from html import escape

        frame = 'width="100%" height="760" style="border:1px solid #8884;border-radius:.6em"'
        return f'<iframe srcdoc="{escape(self.to_html())}" title="openlstm X-ray" {frame}></iframe>'

    def __repr__(self) -> str:
        texts = {"verdict": self.finding}
        best = getattr(self.advice, "best", None)
        if best is not None:
            texts["advice"] = f"{best.name}: {best.line}" + (f", or --init {best.flag}" if best.flag else "")
        said = {s.name: s.finding or f"not computed: {s.error}" for s in self.sections}
        texts |= {name: text for name, text in said.items() if text != self.finding}  # one may be the verdict
        lines = [f"X-ray of {self.model.get('name', 'a model')}: {self.word} ({self.heading})"]
        for name, text in [*texts.items(), *(("note", note) for note in self.notes)]:
            parts = [part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH, break_on_hyphens=False)]
            lines += [f"  {name if k == 0 else '':<12} {part}" for k, part in enumerate(parts)]
        return "\n".join(lines)


def plain(value: Any) -> Any:
    """Any result as JSON can hold it: arrays as lists, infinity as the word, NaN as null.

    >>> plain({"a": np.array([1.0, np.inf]), "b": (np.float32(2), float("nan"))})
    {'a': [1.0, 'infinity'], 'b': [2.0, None]}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        value = float(value)
        return value if math.isfinite(value) else None if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    return getattr(value, "__name__", None) or str(value)


def told(said: Mapping[str, str]) -> str:
    r"""Sentences by place in one text: a line each, with the name of the place in front, where there are several.

    >>> told({"0": "0: all is well."}), told({"a": "well.", "b": "b: not so."})
    ('All is well.', 'a: well.\nb: not so.')
    """
    texts = {name: text.removeprefix(f"{name}: ") for name, text in said.items() if text}
    if len(texts) > 1:
        return "\n".join(f"{name}: {text}" for name, text in texts.items())
    return "".join(text[:1].upper() + text[1:] for text in texts.values())


def as_json(report: Report) -> str:
    """The report as one JSON object."""
    return json.dumps(report.to_dict(), allow_nan=False)
