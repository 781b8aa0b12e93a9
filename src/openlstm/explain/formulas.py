"""Equations in the field's notation as HTML that needs no mathematical font, from a line of text.

h_t = tanh(W_{hh} h_{t-1} + b)        sub- and superscripts: _x, _{...}, ^x, ^{...}
{∂h_t}/{∂h_{t-1}}                     a fraction: {...}/{...}
[a & b ; c & d]                       a matrix
f ⊙ c                                 number by number; the sign is drawn, since few fonts have it
~                                     a wide space

What a browser makes of MathML depends on the fonts of the machine: without a mathematical one, brackets and fractions are
misplaced and italic letters are missing. These spans look the same wherever there is a font at all; the page styles them.
"""

from __future__ import annotations

import re
from html import escape

from markupsafe import Markup

UPRIGHT = {"tanh", "diag", "log", "sign"}
BETWEEN = {"=", "+", "-", "⊙", "⟹"}  # two terms: there is room around it, and a line may end before it
SIGNS = {"⊙": (12, '<circle cx="6" cy="6" r="5"/><circle class="dot" cx="6" cy="6" r="1.2"/>')}
SIGNS["⟹"] = (22, '<path d="M1 4H17M1 8H17M13 1 20 6 13 11"/>')
DRAWN = {sign: f'<svg class="drawn" viewBox="0 0 {width} 12">{shape}</svg>' for sign, (width, shape) in SIGNS.items()}
DRAWN["⋯"] = "···"
_TOKEN = re.compile(r"[A-Za-zσ]+|∂[A-Za-z]|[0-9]+(?:\.[0-9]+)?|\S")


def equation(text: str) -> Markup:
    """One equation on a line of its own; a screen reader says its text.

    >>> equation("c_t")
    Markup('<div class="equation" role="math" aria-label="c_t"><i>c</i><sub><i>t</i></sub></div>')
    """
    said = escape(re.sub(r"[{}]", "", text).replace("~", ""))
    return Markup(f'<div class="equation" role="math" aria-label="{said}">{_row(_TOKEN.findall(text))}</div>')


def inline(text: str) -> Markup:
    """A letter or a short expression inside a sentence.

    >>> inline("h_{t-1}")
    Markup('<span class="math"><i>h</i><sub><i>t</i>−1</sub></span>')
    """
    return Markup(f'<span class="math">{_row(_TOKEN.findall(text))}</span>')


def _row(tokens: list[str], end: str | None = None, roomy: bool = True) -> str:
    """Everything up to `end`; takes what it reads from `tokens`. In scripts there is no room around signs."""
    out = ""
    while tokens and tokens[0] != end:
        if roomy and out and tokens[0] in BETWEEN:
            out += f'<wbr><span class="sign">{_atom(tokens.pop(0))}</span>'
        else:
            out += _scripted(tokens)
    if end:
        tokens.pop(0)
    return out


def _scripted(tokens: list[str]) -> str:
    if tokens[0] == "[":
        return _matrix(tokens)
    if tokens[0] == "{":
        base = _group(tokens)
        if tokens[:2] == ["/", "{"]:
            tokens.pop(0)
            return f'<span class="fraction"><span>{base}</span><span>{_group(tokens)}</span></span>'
    else:
        base = _atom(tokens.pop(0))
    scripts = {}
    while tokens and tokens[0] in "_^":
        kind = tokens.pop(0)
        scripts[kind] = _group(tokens, roomy=False) if tokens[0] == "{" else _atom(tokens.pop(0))
    if len(scripts) == 2:
        return f'{base}<span class="scripts"><sup>{scripts["^"]}</sup><sub>{scripts["_"]}</sub></span>'
    if scripts:
        ((kind, script),) = scripts.items()
        return f"{base}<sub>{script}</sub>" if kind == "_" else f"{base}<sup>{script}</sup>"
    return base


def _group(tokens: list[str], roomy: bool = True) -> str:
    tokens.pop(0)
    return _row(tokens, "}", roomy)


def _matrix(tokens: list[str]) -> str:
    tokens.pop(0)
    inside = tokens[: tokens.index("]")]
    del tokens[: len(inside) + 1]
    rows = [[entry.split() for entry in row.split("&")] for row in " ".join(inside).split(";")]
    entries = "".join(f"<span>{_row(entry)}</span>" for row in rows for entry in row)
    return f'<span class="matrix" style="grid-template-columns:repeat({len(rows[0])},auto)">{entries}</span>'


def _atom(token: str) -> str:
    if token == "~":
        return '<span class="gap"></span>'
    if token in DRAWN:
        return DRAWN[token]
    if token[0] == "∂" and len(token) == 2:
        return f"∂<i>{token[1]}</i>"
    if token in UPRIGHT:
        return f'<span class="name">{token}</span>'
    if token.isalpha():
        return f"<i>{token}</i>"
    if token == ",":
        return ",<wbr> "
    return escape(token.replace("-", "−"))
