"""The report of an X-ray: sections, pictures, page; a plot library is loaded when something is drawn."""

from openlstm.insight.report.report import Report as Report
from openlstm.insight.report.report import Section as Section
