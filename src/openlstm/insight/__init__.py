"""What a recurrent network remembers and how far its gradients reach: numbers computed from a saved forward pass."""

from openlstm.insight.jacobians import products as products
from openlstm.insight.jacobians import sizes as sizes
from openlstm.insight.jacobians import step_jacobians as step_jacobians
from openlstm.insight.retention import first_below as first_below
from openlstm.insight.retention import gradient_share as gradient_share
from openlstm.insight.retention import half_life as half_life
from openlstm.insight.retention import retention as retention
