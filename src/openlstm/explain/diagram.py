"""The wiring as SVG: first the vanilla RNN's, then the LSTM's, with some of its parts lit and the others pale.

Both are drawn on the same plan, so that one sees what the LSTM adds: the layer below, what leaves it to the right, and for the
LSTM the highway above. Colours are CSS variables of the page; in a file of its own the picture takes those of the light theme.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from html import escape
from typing import NamedTuple

from openlstm.insight.display import LIGHT, number

WIDTH, HEIGHT = 440, 350
PARTS = ("layer", "highway", "tanh", "forget", "input", "output")
"""Of the LSTM, in the order of the lecture. "layer" is the fully connected layer of the candidate g, "tanh" the branch from the
highway to h."""

ROAD, BUS, OUT, RAMP = 56, 296, 150, 132  # heights: the highway, x and h below, the branch to h, where i meets g
FORGET, INPUT, LAYER, OUTPUT, BRANCH = 104, 172, 240, 312, 366  # columns
PALE = "var(--pale, #c2c0bb)"
BOX = (200, 56, 54)  # top, width and height of a layer with what it is squeezed by


class Wiring(NamedTuple):
    """A drawing; a notebook shows it as it is."""

    svg: str

    def _repr_svg_(self) -> str:
        """On a white card, as a notebook may be dark."""
        return self.svg.replace("<svg ", f'<svg style="max-width:31em;background:{LIGHT["card"]}" ', 1)


def rnn(*, title: str = "One step of a vanilla RNN") -> Wiring:
    """One step of the vanilla RNN: its one layer, lit, and the way of the gradient back through it."""
    box = _box(LAYER, "tanh") + _wire((LAYER, BOX[0]), (LAYER, OUT), (WIDTH - 12, OUT)) + _wire((LAYER, BUS), (LAYER, _under()))
    back = _wire((WIDTH - 30, OUT + 13), (LAYER + 13, OUT + 13), (LAYER + 13, BOX[0] - 3), back=True) + _wire(
        (LAYER + 13, _under() + 4), (LAYER + 13, BUS + 13), (70, BUS + 13), back=True
    )
    words = "".join(f'<tspan x="{LAYER + 42}" dy="17">{line}</tspan>' for line in ("the gradient,", "on its way back"))
    back += f'<text y="{BOX[0] + 4}" font-size="13" fill="{_color("s2")}">{words}</text>'
    body = _ends(LAYER) + _part(box, True) + back + _letter("h_t", WIDTH - 12, OUT - 10, end=True)
    return _whole(title, body, top=OUT - 34)


def lstm(
    lit: Collection[str] = PARTS,
    *,
    known: Collection[str] = PARTS,
    numbers: Mapping[str, float] | None = None,
    title: str = "One step of an LSTM",
) -> Wiring:
    """One step of the LSTM.

    Args:
        lit: the parts it is about, of `PARTS`; the others are pale.
        known: the parts whose letters may stand there, because the reader has met them.
        numbers: x, h, c, i, f, g, o, c_new, h_new of one step, written on the wires.
        title: what a screen reader says.
    """

    def gate(name: str, x: float) -> str:
        return _box(x, "σ" if name in known else "gate") + _wire((x, BUS), (x, _under()))

    shown = _wire((BRANCH + 13, OUT), (WIDTH - 12, OUT))
    parts = {
        "highway": _road() + _sign("+", LAYER, ROAD),
        "layer": _box(LAYER, "tanh")
        + _wire((LAYER, BUS), (LAYER, _under()))
        + _wire((LAYER, BOX[0]), (LAYER, RAMP + 13))
        + _wire((LAYER, RAMP - 13), (LAYER, ROAD + 14)),
        "tanh": _wire((BRANCH, ROAD + 4), (BRANCH, 82))
        + _rect(BRANCH - 24, 82, 48, 27)
        + _inside("tanh", BRANCH, 100)
        + _wire((BRANCH, 109), (BRANCH, OUT - 13))
        + shown,
        "forget": gate("forget", FORGET) + _wire((FORGET, BOX[0]), (FORGET, ROAD + 14)) + _sign("×", FORGET, ROAD),
        "input": gate("input", INPUT) + _wire((INPUT, BOX[0]), (INPUT, RAMP), (LAYER - 14, RAMP)) + _sign("×", LAYER, RAMP),
        "output": gate("output", OUTPUT)
        + _wire((OUTPUT, BOX[0]), (OUTPUT, OUT), (BRANCH - 14, OUT))
        + _sign("×", BRANCH, OUT)
        + shown,
    }
    order = sorted(parts, key=lambda name: name != "highway" and 1 + (name in lit))  # the road below, what is lit above
    body = _ends(OUTPUT) + "".join(_part(parts[name], name in lit) for name in order)
    body += _letter("c_{t-1}", 12, ROAD - 18) + _letter("c_t", WIDTH - 12, ROAD - 18, end=True)
    body += _letter("h_t", WIDTH - 12, OUT - 10, end=True)
    letters = {"forget": ("f_t", FORGET - 8, True), "input": ("i_t", INPUT - 8, True)}
    letters |= {"layer": ("g_t", LAYER + 8, False), "output": ("o_t", OUTPUT + 8, False)}
    for name, (letter, x, end) in letters.items():
        if name in known:
            body += _part(_letter(letter, x, 172, end=end), name in lit)
    if numbers:
        n = numbers
        at = [("f", FORGET - 8, 190, True), ("i", INPUT - 8, 190, True), ("g", LAYER + 8, 190, False)]
        at += [("o", OUTPUT + 8, 190, False), ("c", 50, ROAD - 18, False), ("c_new", WIDTH - 34, ROAD - 18, True)]
        at += [("h_new", WIDTH - 12, OUT + 20, True), ("h", 58, BUS - 12, False), ("x", 76, HEIGHT - 14, False)]
        body += "".join(_value(n[name], x, y, end) for name, x, y, end in at)
        body += _value(n["i"] * n["g"], LAYER + 8, 100, False)
    return _whole(title, body)


def _ends(last: float) -> str:
    """x and h, which enter below and lead to every layer up to the column `last`."""
    wires = f'<path d="M12 {BUS}H{last}M44 {HEIGHT - 12}V{BUS}" fill="none" stroke="{_color("soft")}" stroke-width="1.4"/>'
    dot = f'<circle cx="44" cy="{BUS}" r="3.2" fill="{_color("soft")}"/>'
    return wires + dot + _letter("h_{t-1}", 12, BUS - 12) + _letter("x_t", 54, HEIGHT - 14)


def _part(drawn: str, lit: bool) -> str:
    color, words = (_color("accent"), _color("ink")) if lit else (PALE, PALE)
    return f'<g stroke="{color}" color="{words}" fill="none" stroke-width="{1.9 if lit else 1.3}">{drawn}</g>'


def _box(x: float, squeeze: str) -> str:
    """A fully connected layer, and above it what its sums are squeezed by."""
    top, width, height = BOX
    middle = top + height / 2
    left = x - width / 2
    line = f'<path d="M{left:g} {middle:g}h{width}"/>'
    return _rect(left, top, width, height) + line + _inside(squeeze, x, middle - 9) + _inside("layer", x, middle + 18)


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width}" height="{height}" rx="6" fill="{_color("card")}"/>'


def _sign(sign: str, x: float, y: float) -> str:
    return f'<circle cx="{x}" cy="{y}" r="13" fill="{_color("card")}"/>' + _text(sign, x, y + 6, size=18)


def _inside(words: str, x: float, y: float) -> str:
    return _text(words, x, y, size=13)


def _road() -> str:
    head = f"M{WIDTH - 24} {ROAD - 9} {WIDTH - 10} {ROAD} {WIDTH - 24} {ROAD + 9}"
    return f'<path d="M12 {ROAD}H{WIDTH - 14}{head}" stroke-width="6" stroke-linecap="round" stroke-linejoin="round"/>'


def _wire(*points: tuple[float, float], back: bool = False) -> str:
    """A line through the points with a head at its end."""
    (x0, y0), (x1, y1) = points[-2:]
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    head = f"M{x1 - 7 * dx + 4 * dy:g} {y1 - 7 * dy + 4 * dx:g} {x1:g} {y1:g} {x1 - 7 * dx - 4 * dy:g} {y1 - 7 * dy - 4 * dx:g}"
    line = "M" + " ".join(f"{x:g} {y:g}" for x, y in points)
    if not back:
        return f'<path d="{line}{head}"/>'
    style = f'stroke="{_color("s2")}" fill="none" stroke-width="1.9"'
    return f'<path d="{line}" {style} stroke-dasharray="6 4"/><path d="{head}" {style}/>'


def _letter(text: str, x: float, y: float, *, end: bool = False) -> str:
    """A letter with its subscript."""
    base, _, below = text.partition("_")
    below = re.sub(r"[{}]", "", below).replace("-", "−")
    inner = f'{base}<tspan font-size="11.5" dy="4">{below}</tspan>'
    anchor = ' text-anchor="end"' if end else ""
    style = 'font-size="17" font-style="italic" fill="currentColor" stroke="none"'
    return f'<text class="letter" x="{x:g}" y="{y:g}"{anchor} {style}>{inner}</text>'


def _value(value: float, x: float, y: float, end: bool) -> str:
    anchor = ' text-anchor="end"' if end else ""
    style = f'font-size="12.5" font-weight="600" fill="{_color("s2")}"'
    return f'<text x="{x:g}" y="{y:g}"{anchor} {style}>{number(value)}</text>'


def _text(words: str, x: float, y: float, *, size: float) -> str:
    style = f'font-size="{size:g}" text-anchor="middle" fill="currentColor" stroke="none"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{words}</text>'


def _under() -> float:
    return BOX[0] + BOX[2]


def _color(name: str) -> str:
    return f"var(--{name}, {LIGHT[name]})"


def _whole(title: str, body: str, top: float = 8) -> Wiring:
    size = f'viewBox="0 {top:g} {WIDTH} {HEIGHT - top:g}" font-family="system-ui, sans-serif"'
    says = f'role="img" aria-label="{escape(title, quote=True)}"'
    inked = f'<g color="{_color("ink")}">{body}</g>'
    return Wiring(f'<svg xmlns="http://www.w3.org/2000/svg" class="wiring" {says} {size}>{inked}</svg>')
