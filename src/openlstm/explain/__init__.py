"""The lecture as a program: one page that explains the LSTM with figures computed when it is made."""

from importlib.util import find_spec

from openlstm.errors import missing_extra

for _package in ("altair", "vl_convert", "jinja2"):
    if find_spec(_package) is None:
        raise missing_extra("explain", _package, "report")

from openlstm.explain.page import compute as compute  # noqa: E402
from openlstm.explain.page import write as write  # noqa: E402
