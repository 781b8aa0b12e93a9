"""The report of an X-ray: sections, pictures, page; a plot library is loaded when something is drawn."""

from openlstm.insight.report.report import ModelFacts as ModelFacts
from openlstm.insight.report.report import Report as Report
from openlstm.insight.report.section import Section as Section
