"""What a recurrent network remembers and how far its gradients reach: numbers computed from a saved forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openlstm._submodules import submodule
from openlstm.insight.census import Census as Census
from openlstm.insight.census import census as census
from openlstm.insight.health import Health as Health
from openlstm.insight.health import health as health
from openlstm.insight.jacobians import products as products
from openlstm.insight.jacobians import sizes as sizes
from openlstm.insight.jacobians import step_jacobians as step_jacobians
from openlstm.insight.ledger import Ledger as Ledger
from openlstm.insight.ledger import ledger as ledger
from openlstm.insight.look import Looked as Looked
from openlstm.insight.look import Place as Place
from openlstm.insight.look import look as look
from openlstm.insight.reach import Reach as Reach
from openlstm.insight.reach import reach as reach
from openlstm.insight.retention import Kept as Kept
from openlstm.insight.retention import first_below as first_below
from openlstm.insight.retention import gradient_share as gradient_share
from openlstm.insight.retention import half_life as half_life
from openlstm.insight.retention import keep as keep
from openlstm.insight.retention import retention as retention
from openlstm.insight.stability import Stability as Stability
from openlstm.insight.stability import stability as stability
from openlstm.insight.streaming import Streaming as Streaming
from openlstm.insight.streaming import streaming as streaming
from openlstm.insight.watch import Watch as Watch

if not TYPE_CHECKING:  # for which an attribute of the package would be anything

    def __getattr__(name: str) -> Any:
        """Import a submodule on first use."""
        found = submodule(__name__, name)
        if found is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return found
