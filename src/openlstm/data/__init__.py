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
from openlstm.data.series import Series as Series
from openlstm.data.series import from_arrays as from_arrays
from openlstm.data.series import read_series as read_series
from openlstm.data.split import Split as Split
from openlstm.data.split import split_by_time as split_by_time
from openlstm.data.table import Table as Table
from openlstm.data.table import read_table as read_table
from openlstm.data.windows import cut as cut
from openlstm.data.windows import origins as origins
