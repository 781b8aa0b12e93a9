"""What the config of a Keras model says of its recurrent layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from openlstm.errors import ArgumentError
from openlstm.exchange.cells import SIGMOID, TANH, Activation
from openlstm.exchange.contents import short

GATES = {"LSTM": 4, "CuDNNLSTM": 4, "GRU": 3, "CuDNNGRU": 3, "SimpleRNN": 1}
ACTIVATIONS = {
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "relu": Activation("relu"),
    "linear": Activation("affine", (1.0, 0.0)),
    "softsign": Activation("softsign"),
    "softplus": Activation("softplus"),
    "elu": Activation("elu", (1.0,)),
    "leaky_relu": Activation("leakyrelu", (0.2,)),
}
"""What Keras's activations are here; beside them `hard_sigmoid`, which is another one since Keras 3."""


@dataclass(frozen=True)
class Config:
    """What a config says of one recurrent layer."""

    kind: str
    options: dict[str, Any]
    merge: str | None = ""  # how the two directions are merged; "" where there is one


def config_layers(config: Any) -> tuple[dict[str, Config], dict[str, str]]:
    """What a config says of its recurrent layers, by name; and what it has that is none of ours."""
    known: dict[str, Config] = {}
    unknown: dict[str, str] = {}
    counts: dict[str, int] = {}
    aliases: dict[str, Config] = {}
    left = [config]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += reversed(one)
        if not isinstance(one, dict):
            continue
        kind, options = one.get("class_name"), one.get("config")
        if not isinstance(kind, str) or not isinstance(options, dict):
            left += reversed(list(one.values()))
            continue
        name = str(options.get("name"))
        made = None
        if kind in GATES:
            made = Config(kind, options)
        elif kind == "Bidirectional" and isinstance(inside := options.get("layer"), dict) and inside.get("class_name") in GATES:
            merge, back = options.get("merge_mode"), _dict(options.get("backward_layer"))
            if back and (back.get("class_name") != inside["class_name"] or _computed(back) != _computed(inside)):
                unknown[name] = "its two directions are of different kinds; take them for two layers in Keras"
                continue
            made = Config(str(inside["class_name"]), _dict(inside.get("config")), None if merge is None else str(merge))
        elif kind == "RNN" and isinstance(cell := options.get("cell"), dict) and str(cell.get("class_name"))[:-4] in GATES:
            made = Config(str(cell["class_name"])[:-4], {**options, **_dict(cell.get("config"))})
        elif re.search(r"LSTM|GRU|RNN", kind) and kind != "StackedRNNCells":
            unknown[name] = f"{kind} is none of LSTM, GRU and SimpleRNN; keep it in Keras"
        if made is None:
            left.append(options)
            continue
        known[name] = made
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", re.sub(r"(RNN|LSTM|GRU)", lambda m: m[0].capitalize(), kind)).lower()
        count = counts[snake] = counts.get(snake, -1) + 1
        aliases[f"{snake}_{count}" if count else snake] = made  # what the first versions of Keras 3 call it
    return {**known, **{name: one for name, one in aliases.items() if name not in known}}, unknown


def _computed(layer: dict[str, Any]) -> dict[str, Any]:
    """What of a layer's config changes the numbers, but for the direction."""
    return only(_dict(layer.get("config")), "units", "activation", "recurrent_activation", "use_bias", "reset_after")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def only(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """These of the options, where they are."""
    return {name: options[name] for name in names if name in options}


def usual_options(name: str, G: int, bias: Any, version: str | None) -> dict[str, Any]:
    """The activations of a layer in a file of weights alone; Keras before 2.3 took another one for the gates."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version or "")[:2])
    if G > 1 and version and "-tf" not in version and numbers < (2, 3):
        hint = "save the whole model, or pass the file through Keras of today"
        got = f"weights of Keras {short(version, 20)} without a config"
        raise ArgumentError.of(name, "may have hard_sigmoid or sigmoid gates", got, "a config", hint)
    return {"activation": "tanh", "recurrent_activation": "sigmoid"}


def activation(name: str, options: dict[str, Any], key: str, version: str | None) -> Activation:
    """The activation that a layer names under a key, or that it has by itself.

    Raises:
        ArgumentError: for one that is not known here.
    """
    given = options.get(key, {"activation": "tanh", "recurrent_activation": "sigmoid"}[key])
    if isinstance(given, dict):
        given = given.get("config") if isinstance(given.get("config"), str) else given.get("class_name")
    if given == "hard_sigmoid" and version:
        return Activation("hardsigmoid", (1 / 6, 0.5) if int(re.findall(r"\d+", version + "0")[0]) >= 3 else (0.2, 0.5))
    if given is None:
        given = "linear"
    if not isinstance(given, str) or given not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise ArgumentError.of(name, "an activation that is not known here", f"{key}={given!r}", expected, "keep it in Keras")
    return ACTIVATIONS[given]
