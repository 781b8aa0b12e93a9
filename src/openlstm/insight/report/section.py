"""One section of a report, and the texts of all of them, which are data (`sections.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from openlstm.insight.display import Display
from openlstm.insight.results import Asked, Record


@cache
def texts() -> dict[str, dict[str, str]]:
    """Title and explanation (`about`) of each section, in the order of the page."""
    return tomllib.loads(Path(__file__).with_name("sections.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Section(Record):
    """One diagnostic: what was measured, by the name of the place, the sentence it comes to, or why it could not be computed.

    name: a short word, for `report["gates"]`.
    results: place -> result, one of the dataclasses of `openlstm.insight`; a result of the whole model stands under "model".
    error: why there is nothing, or why a part is missing; None if all went well.
    asked: what its pictures are told beside the results.
    """

    shown: ClassVar[tuple[str, ...]] = ("title",)

    name: str
    results: Mapping[str, Any]  # of the kind of the section
    finding: str
    error: str | None = None
    asked: Asked = field(default=Asked(), compare=False)

    @property
    def title(self) -> str:
        """The heading."""
        return texts()[self.name]["title"]

    @property
    def about(self) -> str:
        """What the diagnostic is, for somebody who meets it for the first time."""
        return texts()[self.name]["about"]

    @property
    def displays(self) -> tuple[Display, ...]:
        """The pictures; none where nothing could be computed.

        Raises:
            MissingExtraError: without altair or vl-convert.
        """
        first = next(iter(self.results.values()), None)
        return () if first is None else type(first).displays(self.results, self.asked)

    @property
    def display(self) -> Display | None:
        """The first of the pictures."""
        return next(iter(self.displays), None)

    def _repr_html_(self) -> str:
        lines = [f"<h3>{escape(self.title)}</h3>", *(d._repr_html_() for d in self.displays)]
        if self.error:
            lines.append(f"<p>Not computed: {escape(self.error)}</p>")
        return "".join(lines)
