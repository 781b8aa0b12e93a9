"""Tables and series: read and checked; every problem is named, and no value is invented."""

from openlstm.data.check import Report as Report
from openlstm.data.check import check as check
from openlstm.data.columns import Columns as Columns
from openlstm.data.columns import Format as Format
from openlstm.data.files import native_frame as native_frame
from openlstm.data.panel import Covariate as Covariate
from openlstm.data.panel import Note as Note
from openlstm.data.panel import Panel as Panel
from openlstm.data.reading import read_panel as read_panel
