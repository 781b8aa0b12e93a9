"""What `openlstm.xray` returns: the verdict, the horizons, the advice, and one section a diagnostic.

A report holds numbers; pictures are drawn when they are asked for, so that numbers alone need no plot library.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass, replace
from html import escape
from typing import ClassVar, Literal

from openlstm._files import writable, write_whole
from openlstm.insight.judge.advice import Advice
from openlstm.insight.judge.horizons import Horizons
from openlstm.insight.judge.verdict import Verdict
from openlstm.insight.measure.ablation import Ablation
from openlstm.insight.report.section import Section
from openlstm.insight.results import Record
from openlstm.insight.words import sentence, unmeasured

Stage = Literal["before", "after", "unknown"]

WIDTH = 120  # characters of a line where a report is printed

STAGES: dict[Stage, str] = {
    "before": "looked at before training: what can be learnt",
    "after": "looked at after training: what is used",
    "unknown": "whether it has been trained is not known",
}


@dataclass(frozen=True)
class ModelFacts(Record):
    """What was looked at, in words for the head of a report; "" for what is not known."""

    name: str
    layers: str = ""
    parameters: str = ""
    data: str = ""


@dataclass(frozen=True)
class Report(Record):
    """What a network remembers, for how long, and what to change.

    model: what was looked at.
    stage: "before" training (the verdict is what can be learnt), "after" (the verdict is what is used), or "unknown": nobody
        said which, no loss tells, and the verdict is what can be learnt if training begins from these weights.
    verdict: None where it could not be computed (`reason` says why).
    horizons: the lags that matter.
    advice: None after training, and where nothing is blocked.
    notes: what else a reader has to know: rows left out, what was assumed.

    >>> import openlstm, torch
    >>> report = openlstm.xray(openlstm.LSTM(1, 8), torch.randn(60, 4, 1), lag=40)
    >>> report.verdict.word
    'blocked'
    """

    shown: ClassVar[tuple[str, ...]] = ("word", "finding")

    model: ModelFacts
    stage: Stage
    lag: int | None
    verdict: Verdict | None
    reason: str
    horizons: Horizons | None
    advice: Advice | None
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
            return "no verdict" if self.uses is None else f"uses {self.uses:,} step{'s' * (self.uses != 1)}"
        return "no verdict" if self.verdict is None else self.verdict.word

    @property
    def uses(self) -> int | None:
        """How many steps of context the network uses; None where that was not measured."""
        found = (result for section in self.sections for result in section.results.values())
        return next((int(result.uses) for result in found if isinstance(result, Ablation)), None)

    @property
    def serving(self) -> str:
        """What to send to a stream that starts from an empty state; "" where that was not measured."""
        section = self._section("streaming")
        return "" if section is None else section.asked.advice

    @property
    def finding(self) -> str:
        """The verdict as a sentence."""
        if self.stage == "after":
            section = self._section("ablation")
            return self.reason if section is None else section.finding or section.error or self.reason
        return self.reason if self.verdict is None else self.verdict.finding

    @property
    def change(self) -> str:
        """What to change, as far as that was measured."""
        if self.advice is not None:
            return self.advice.finding
        if self.stage == "after":
            if self.uses is None:
                return unmeasured(None, sentence(self.finding))
            return f"Nothing in the network: after training only what it uses counts, and that is the verdict. {self.serving}"
        if self.verdict is None or self.verdict.of == "nothing":
            return unmeasured(self.lag, sentence(self.reason if self.verdict is None else self.verdict.reason))
        if self.word == "not blocked":
            return "Nothing has to change: nothing is blocked at this lag. That does not promise that it will be learnt."
        return "No advice was measured."

    def noted(self, *notes: str) -> Report:
        """The same report with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def _section(self, name: str) -> Section | None:
        return next((section for section in self.sections if section.name == name), None)

    def __getitem__(self, name: str) -> Section:
        """A section by its name, as in `report["gates"]`."""
        section = self._section(name)
        if section is None:
            raise KeyError(f"no section {name!r}; there are {', '.join(s.name for s in self.sections)}")
        return section

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

        horizons = self.horizons.display(self.lag) if self.horizons is not None and self.horizons.lags else None
        tried = self.advice.display() if self.advice is not None and self.advice.tried else None
        page = render(self, self.sections, horizons, tried)
        if path is not None:
            write_whole(path, page.encode())
        return page

    def _repr_html_(self) -> str:
        """In a notebook the page stands in a frame of its own, so that its styles stay inside."""
        frame = 'width="100%" height="760" style="border:1px solid #8884;border-radius:.6em"'
        return f'<iframe srcdoc="{escape(self.to_html())}" title="openlstm X-ray" {frame}></iframe>'

    def __repr__(self) -> str:
        texts = {"verdict": self.finding}
        best = None if self.advice is None else self.advice.best
        if best is not None:
            texts["advice"] = f"{best.name}: {best.line}" + (f", or --init {best.flag}" if best.flag else "")
        said = {s.name: s.finding or f"not computed: {s.error}" for s in self.sections}
        texts |= {name: text for name, text in said.items() if text != self.finding}  # one may be the verdict
        lines = [f"X-ray of {self.model.name}: {self.word} ({self.heading})"]
        for name, text in [*texts.items(), *(("note", note) for note in self.notes)]:
            parts = [part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH, break_on_hyphens=False)]
            lines += [f"  {name if k == 0 else '':<15} {part}" for k, part in enumerate(parts)]
        return "\n".join(lines)
