"""Tables and series: read and checked; every problem is named, and no value is invented.

Names are imported on first use: a process that forecasts from arrays does without the readers of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openlstm._submodules import on_first_use

if TYPE_CHECKING:  # the same names for editors and type checkers
    from openlstm.data.columns import Columns as Columns
    from openlstm.data.columns import Format as Format
    from openlstm.data.files import native_frame as native_frame
    from openlstm.data.panel import Covariate as Covariate
    from openlstm.data.panel import Note as Note
    from openlstm.data.panel import Panel as Panel
    from openlstm.data.reading import read_panel as read_panel
    from openlstm.data.report import Report as Report
    from openlstm.data.report import check as check

_HOMES = {
    "columns": "Columns Format",
    "files": "native_frame",
    "panel": "Covariate Note Panel",
    "reading": "read_panel",
    "report": "Report check",
}

__getattr__ = on_first_use(__name__, {name: home for home, names in _HOMES.items() for name in names.split()})
