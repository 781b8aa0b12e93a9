"""Equations in the field's notation as MathML, which browsers draw by themselves, from a line of text.

h_t = tanh(W_{hh} h_{t-1} + b)        sub- and superscripts: _x, _{...}, ^x, ^{...}
{∂h_t}/{∂h_{t-1}}                     a fraction: {...}/{...}
[a & b ; c & d]                       a matrix
~                                     a wide space
"""

from __future__ import annotations

import re
from html import escape

from markupsafe import Markup

UPRIGHT = {"tanh", "diag", "σ", "log", "sign"}
_TOKEN = re.compile(r"[A-Za-zσ]+|∂[A-Za-z]|[0-9]+(?:\.[0-9]+)?|\S")


def mathml(text: str) -> Markup:
    """One equation.

    >>> mathml("c_t")
    Markup('<math display="block"><msub><mi>c</mi><mi>t</mi></msub></math>')
    """
    tokens = _TOKEN.findall(text)
    return Markup(f'<math display="block">{_row(tokens)}</math>')


def _row(tokens: list[str], end: str | None = None) -> str:
    """Everything up to `end`; takes what it reads from `tokens`."""
    out = ""
    while tokens and tokens[0] != end:
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
            return f"<mfrac>{base}{_group(tokens)}</mfrac>"
    else:
        base = _atom(tokens.pop(0))
    scripts = {}
    while tokens and tokens[0] in "_^":
        kind = tokens.pop(0)
        scripts[kind] = _group(tokens) if tokens[0] == "{" else _atom(tokens.pop(0))
    if len(scripts) == 2:
        return f"<msubsup>{base}{scripts['_']}{scripts['^']}</msubsup>"
    if scripts:
        ((kind, script),) = scripts.items()
        return f"<msub>{base}{script}</msub>" if kind == "_" else f"<msup>{base}{script}</msup>"
    return base


def _group(tokens: list[str]) -> str:
    tokens.pop(0)
    return f"<mrow>{_row(tokens, '}')}</mrow>"


def _matrix(tokens: list[str]) -> str:
    tokens.pop(0)
    inside = tokens[: tokens.index("]")]
    del tokens[: len(inside) + 1]
    rows = [[entry.split() for entry in row.split("&")] for row in " ".join(inside).split(";")]
    table = "".join("<mtr>" + "".join(f"<mtd>{_row(entry)}</mtd>" for entry in row) + "</mtr>" for row in rows)
    return f'<mrow><mo>(</mo><mtable displaystyle="true">{table}</mtable><mo>)</mo></mrow>'


def _atom(token: str) -> str:
    if token == "~":
        return '<mspace width="1.6em"/>'
    if token[0] == "∂" and len(token) == 2:
        return f"<mrow><mo>∂</mo><mi>{token[1]}</mi></mrow>"
    if token in UPRIGHT:
        return f'<mi mathvariant="normal">{token}</mi>'
    if token[0].isdigit():
        return f"<mn>{token}</mn>"
    if token.isalpha():
        return f"<mi>{token}</mi>"
    return f"<mo>{escape(token.replace('-', '−'))}</mo>"
