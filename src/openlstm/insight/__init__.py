"""What a recurrent network remembers and how far its gradients reach: all that the documents speak of, imported on first use.

capture_layers, Place               the recurrent layers of a model as one call ran them
saturation, retention, ...          what can be measured of a place or of a model: one file each in `measure`
required_lag, verdict, advise, ...  what follows from it: `judge`
Watch                               the same during a training
Report                              what `openlstm.xray` returns
"""

from __future__ import annotations

from openlstm._submodules import on_first_use

_HOMES = {
    "batches": "NotMeasurable",
    "capture": "Captured capture_layers",
    "display": "Display",
    "judge.advice": "Advice Candidate Trials advise",
    "judge.horizons": "Horizon Horizons flip_horizon gradient_horizon horizons",
    "judge.lag_measures": "LOSS_THRESHOLDS THRESHOLDS LagMeasures Thresholds measure_lag",
    "judge.required_lag": "RequiredLag required_lag",
    "judge.verdict": "Verdict verdict",
    "measure.ablation": "Ablation ablation",
    "measure.attribution": "Attribution attribution",
    "measure.context_loss": "AblationOptions",
    "measure.flip": "Flip flip",
    "measure.input_influence": "InputInfluence",
    "measure.jacobians": "products sizes step_jacobians",
    "measure.retention": "Retention first_below gate_retention gradient_share half_life retention",
    "measure.saturation": "Saturation saturation",
    "measure.stability": "Stability stability",
    "measure.state_gradient": "StateGradient state_gradient",
    "measure.streaming": "Streaming steps_to_send streaming",
    "measure.text": "Coloured TokenText",
    "measure.tracked_text": "TrackedText track_text",
    "measure.tracking": "Tracking Unit Values Window series track tracking",
    "measure.unit_activity": "UnitActivity unit_activity",
    "measure.weight_gradient": "WeightGradient weight_gradient",
    "place": "Place",
    "report.report": "ModelFacts Report",
    "report.section": "Section",
    "watch": "Snapshot Watch snapshot",
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names.split()}
"""Public name -> the module that has it; `__init__.pyi` says the same to editors and type checkers."""

__getattr__ = on_first_use(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted({*_LAZY, *(name for name in globals() if name.startswith("__"))})
