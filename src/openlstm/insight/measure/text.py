"""Tracking over text: what the strings of tokens say, units that track it, and the text coloured by a cell or a gate.

What a detector says at a token is what is true after it was read, so that a unit can know it: behind an opening quotation mark
one is inside. Only "characters left in the line" is not known yet; a network that ends its lines in time has to guess it.

Legend: T time, B batch.

Source: Karpathy, Johnson & Li 2015 (text coloured by a cell; quotes, line position, indentation); Strobelt, Gehrmann, Pfister &
Rush 2018 (search by what a unit does).
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from openlstm import _array as A
from openlstm.errors import ArgumentError, ShapeError, describe
from openlstm.insight.measure.tracking import Tracking, Window, series, tracking
from openlstm.insight.place import Place
from openlstm.insight.results import Record

HIGH, LOW = "31 95 209", "212 87 15"
"""Blue above zero, orange below: red and green are never told apart by colour alone."""

_OPEN, _CLOSE = "([{", ")]}"
_BEGIN, _END, _EITHER = "begin", "end", "either"


@dataclass(frozen=True)
class Coloured(Record):
    """Text with a value for each token.

    Fields:
        name: of what it is coloured by: "lstm.0.c, unit 7".
        row, begin: where in the batch the text stands.
        tokens: the strings.
        values: one for each.
    """

    name: str
    row: int
    begin: int
    tokens: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The largest |value|, which gets the full colour."""
        finite = [abs(v) for v in self.values if np.isfinite(v)]
        return max(finite, default=0.0)

    def to_html(self, high: str = HIGH, low: str = LOW) -> str:
        """A `pre` in which every token lies on its colour; no character of the text can become markup.

        Args:
            high, low: colours of the largest and of its negative, as "r g b".

        >>> Coloured("0.c, unit 1", 0, 0, ("<b>",), (0.5,)).to_html()
        '<pre class="tokens" tabindex="0"><span title="0.5" style="background:rgb(31 95 209 / 0.75)">&lt;b&gt;</span></pre>'
        """
        spans = []
        for token, value in zip(self.tokens, self.values, strict=True):
            share = abs(value) / self.largest if self.largest and np.isfinite(value) else 0.0
            style = f"background:rgb({high if value >= 0 else low} / {0.75 * share:.3g})" if share >= 0.01 else ""
            style = f' style="{style}"' if style else ""
            spans.append(f'<span title="{value:.3g}"{style}>{html.escape(visible(token))}</span>')
        return f'<pre class="tokens" tabindex="0">{"".join(spans)}</pre>'

    _repr_html_ = to_html


class TokenText:
    """Token ids and their strings, as a model reads them.

    Args:
        ids: integers [B, T] ([T, B] with batch_first=False, [T] for one row); below zero where a row has ended.
        strings: the string of every id, by position or by key.
        batch_first: the layout of `ids`.

    Raises:
        ShapeError: for ids of another shape.
        ArgumentError: for an id without a string, or ids that are not integers.

    >>> TokenText([[0, 1, 0]], ["a", "b"]).rows
    ('aba',)
    """

    def __init__(self, ids: Any, strings: Sequence[str] | Mapping[int, str], *, batch_first: bool = True) -> None:
        a = np.asarray(A.as_like(ids, np.empty(0)))
        if a.ndim not in (1, 2):
            hint = "one id for each step of each row"
            raise ShapeError.of("TokenText", "ids need one or two axes", f"ids: {describe(a)}", "[B, T] or [T]", hint)
        if a.dtype.kind not in "iu":
            got = f"ids: {describe(a)}"
            raise ArgumentError.of("TokenText", "ids are not integers", got, "int64 [B, T]", "use ids.long()")
        self.ids = a[:, None] if a.ndim == 1 else a.T if batch_first else a  # [T, B]
        known = dict(strings) if isinstance(strings, Mapping) else dict(enumerate(strings))
        missing = sorted({int(k) for k in np.unique(self.ids) if k >= 0} - known.keys())
        if missing:
            got, hint = f"id {missing[0]}", "pass the string of every id that occurs; negative ids are past the end of a row"
            raise ArgumentError.of("TokenText", f"{missing[0]} has no string", got, f"one of {len(known)} ids", hint)
        self.strings = {**known, **{int(k): "" for k in np.unique(self.ids) if k < 0}}

    @cached_property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The strings of every row."""
        return tuple(tuple(self.strings[int(k)] for k in row) for row in self.ids.T)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The text of every row."""
        return tuple("".join(row) for row in self.tokens)

    def detectors(self) -> dict[str, np.ndarray]:
        """What is true after each token, by name, each [T, B].

        >>> TokenText([[1, 0, 0, 1]], ["a", '"']).detectors()["inside quotes"].ravel().tolist()
        [1.0, 1.0, 1.0, 0.0]
        """
        found: dict[str, np.ndarray] = {}
        for b, (text, tokens) in enumerate(zip(self.rows, self.tokens, strict=True)):
            ends = np.cumsum([len(token) for token in tokens])
            for name, values in characters(text).items():
                column = found.setdefault(name, np.zeros(self.ids.shape))
                padded = np.concatenate([[0.0], values])  # before the first character
                column[:, b] = padded[ends]
            for name, kind in KINDS.items():
                column = found.setdefault(name, np.zeros(self.ids.shape))
                column[:, b] = [any(kind(ch) for ch in token) for token in tokens]
        return found

    def search(self, pattern: str) -> np.ndarray:
        """Where a regular expression matches: bool [T, B], true at every token that a match touches.

        Raises:
            ArgumentError: for a pattern that is none.

        >>> TokenText([[0, 1, 0]], ["a", "b"]).search("ba").ravel().tolist()
        [False, True, True]
        """
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            hint = "put a backslash before ( ) [ ] { } . * + ? | to mean the character itself"
            what = f"cannot search for this: {error}"
            raise ArgumentError.of("TokenText.search", what, repr(pattern), "a regular expression", hint) from None
        out = np.zeros(self.ids.shape, bool)
        for b, (text, tokens) in enumerate(zip(self.rows, self.tokens, strict=True)):
            hit = np.zeros(len(text) + 1, np.int64)
            for match in compiled.finditer(text):
                hit[match.start()] += 1
                hit[match.end()] -= 1
            inside = np.concatenate([[0], np.cumsum(np.cumsum(hit)[:-1] > 0)])  # characters of matches before each place
            ends = np.cumsum([0, *(len(token) for token in tokens)])
            out[:, b] = inside[ends[1:]] > inside[ends[:-1]]
        return out

    def track(self, place: Place, *, patterns: Sequence[str] = (), state: str | None = None) -> Tracking:
        """Which unit of a place tracks which detector, and which the matches of your own patterns.

        >>> import torch, openlstm
        >>> from openlstm.insight.capture import capture_layers
        >>> text = TokenText([[0, 1, 1, 0, 1, 0, 0, 1]], ["a", " "])
        >>> place = capture_layers(openlstm.LSTM(1, 2), torch.tensor(text.ids)[..., None].float()).places[0]
        >>> "matches /aa/" in text.track(place, patterns=["aa"]).columns
        True
        """
        columns: dict[str, Any] = self.detectors()
        columns |= {f"matches /{pattern}/": self.search(pattern) for pattern in patterns}
        return tracking(place, columns, lags=(), state=state)

    def coloured(self, place: Place, name: str, unit: int, row: int = 0, begin: int = 0, end: int | None = None) -> Coloured:
        """The text of a row coloured by a unit of a gate or state of a place.

        Raises:
            ArgumentError: for a name, a unit or a row that is not there.
        """
        values = series(place, name, [unit])[..., 0]
        return self.colour(values, f"{place.name}.{name}, unit {unit}", row, begin, end)

    def colour(self, values: Any, name: str = "", row: int = 0, begin: int = 0, end: int | None = None) -> Coloured:
        """The text of a row coloured by values [T, B] ([T] for one row).

        Raises:
            ShapeError: for values of another shape.
            ArgumentError: for a row that is not there.
        """
        a = np.asarray(A.as_like(values, np.empty(0)), np.float64)
        a = a[:, None] if a.ndim == 1 else a
        T, B = self.ids.shape
        if a.shape != (T, B):
            got, hint = f"values: {describe(a)}", "its axes are swapped: use .T" if a.shape == (B, T) else "one for each token"
            raise ShapeError.of("TokenText.colour", "the values do not fit the text", got, f"[{T}, {B}] = [T, B]", hint)
        if not 0 <= row < B:
            raise ArgumentError.of("TokenText.colour", f"no row {row}", f"row={row}", f"0 .. {B - 1}", "count from 0")
        last = int((self.ids[:, row] >= 0).sum()) if end is None else min(end, T)
        tokens = self.tokens[row][begin:last]
        return Coloured(name, row, begin, tokens, tuple(float(v) for v in a[begin:last, row]))

    def around(self, window: Window) -> tuple[str, str, str]:
        """The text of a window: before its step, at it, and after.

        >>> TokenText([[0, 1, 2]], "abc").around(Window(unit=0, row=0, step=1, begin=0, end=3, value=0.9))
        ('a', 'b', 'c')
        """
        row = self.tokens[window.row]
        step = window.step
        return "".join(row[window.begin : step]), row[step], "".join(row[step + 1 : window.end])


KINDS = {
    "space": lambda ch: ch.isspace(),
    "line end": lambda ch: ch == "\n",
    "upper case": lambda ch: ch.isupper(),
    "digit": lambda ch: ch.isdigit(),
    "punctuation": lambda ch: unicodedata.category(ch).startswith("P"),
    "sentence end": lambda ch: ch in ".!?\u3002",
}
"""What a token is if one of its characters is it."""


FEATURES = """inside quotes, inside brackets, position in line, characters left in the line, length of the line before,
indentation, position in word, since sentence end, since empty line""".replace("\n", " ").split(", ")
"""What `characters` tells of each of them."""


def characters(text: str) -> dict[str, np.ndarray]:
    """What is true after every character of a text, by name, each [len(text)].

    A straight quotation mark opens before a word and closes behind one; where that cannot be told it does the other. Curved
    ones say it themselves. A text whose first mark closes began inside. An empty line closes all.

    >>> characters('a "b"')["inside quotes"].tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0]
    """
    n = len(text)
    out = {name: np.zeros(n) for name in FEATURES}
    marks = _marks(text)
    quoted = next((kind == _END for kind in marks if kind), False)
    depth, position, before, indent, blank, word, sentence, paragraph = 0, 0, 0, 0, True, 0, 0, 0
    for k, ch in enumerate(text):
        if ch == "\n":
            empty = blank
            quoted, depth = (False, 0) if empty else (quoted, depth)
            paragraph = 0 if empty else paragraph + 1
            before, position, indent, blank = position, 0, 0, True
        else:
            position, paragraph = position + 1, paragraph + 1
            blank = blank and ch.isspace()
            indent += blank
        quoted = {_BEGIN: True, _END: False, _EITHER: not quoted}.get(marks[k], quoted)
        depth = max(depth + (ch in _OPEN) - (ch in _CLOSE), 0)
        word = 0 if ch.isspace() else word + 1
        sentence = 0 if ch in ".!?" else sentence + 1
        now = (quoted, depth > 0, position, 0, before, indent, word, sentence, paragraph)
        for name, value in zip(FEATURES, now, strict=True):
            out[name][k] = value
    left = 0
    for k in reversed(range(n)):
        out["characters left in the line"][k] = left
        left = 0 if text[k] == "\n" else left + 1
    return out


def _marks(text: str) -> list[str]:
    """What every character does to a quotation, "" for nothing."""
    out = [{"\u201c": _BEGIN, "\u201d": _END}.get(ch, "") for ch in text]
    for k, ch in enumerate(text):
        if ch != '"':
            continue
        before, after = text[k - 1] if k else " ", text[k + 1] if k + 1 < len(text) else " "
        opens = not after.isspace() and (before.isspace() or before in _OPEN + "-\u2014")
        closes = not before.isspace() and (after.isspace() or not after.isalnum())
        out[k] = _EITHER if opens == closes else _BEGIN if opens else _END
    return out


def visible(token: str) -> str:
    """A token as it can be shown: line ends and control characters get a sign.

    >>> visible("a\\n"), visible("\\t"), visible("\\x00")
    ('a\\u21b5\\n', '\\u2192\\t', '\\\\x00')
    """
    signs = {"\n": "\u21b5\n", "\t": "\u2192\t"}
    return "".join(signs.get(ch, repr(ch)[1:-1] if unicodedata.category(ch)[0] == "C" else ch) for ch in token)
