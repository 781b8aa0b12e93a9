"""Text: what detectors say, what a search finds, safe colours, and a unit of a trained model that knows of quotations."""

from __future__ import annotations

import html.parser
import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.insight import char_model
from torch import Tensor, nn

from openlstm.errors import ArgumentError, ShapeError
from openlstm.insight.capture import capture_layers
from openlstm.insight.edit import edit
from openlstm.insight.measure.text import TokenText, characters, visible
from openlstm.insight.measure.tracking import Tracking, Window, series


def said(text: str, name: str) -> str:
    """A detector under its text, one sign a character."""
    return "".join(f"{int(v):x}" for v in characters(text)[name])


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("inside quotes", 'a "bc" d "e"', "001110000110"),
        ("inside quotes", "a “bc” d", "00111000"),
        ("inside quotes", 'bc" d "e"', "110000110"),  # it began inside
        ("inside quotes", 'a "bc\nd" e', "0011111000"),
        ("inside quotes", 'a "bc\n\nd "e', "00111100011"),  # an empty line closes
        ("inside quotes", '"a" 5" x', "11000000"),  # inches do not open
        ("inside quotes", "it's", "0000"),
        ("inside brackets", "f(a[0])b", "01111100"),
        ("inside brackets", "a)b(c", "00011"),
        ("position in line", "abc\nde\n\nf", "123012001"),
        ("characters left in the line", "abc\nde\n\nf", "210210010"),
        ("length of the line before", "abc\nde\n\nf", "000333200"),
        ("indentation", "a\n  b c\n\td", "0012222011"),
        ("position in word", "ab c\nd", "120101"),
        ("since sentence end", "a. b! c", "1012012"),
        ("since empty line", "a\n\nb", "1201"),
    ],
)
def test_what_is_true_after_every_character(name: str, text: str, wanted: str) -> None:
    assert said(text, name) == wanted


def test_tokens_of_several_characters_say_what_is_true_at_their_end() -> None:
    strings = ['He "', "said", '" Not', "\n", "", "."]
    text = TokenText([[0, 1, 2, 3, 5, -1], [1, 4, 1, 1, 1, 1]], strings)
    assert text.rows == ('He "said" Not\n.', "said" * 5)
    found = text.detectors()
    assert found["inside quotes"].T.tolist() == [[1, 1, 0, 0, 0, 0], [0] * 6]
    assert found["position in line"].T.tolist() == [[4, 8, 13, 0, 1, 1], [4, 4, 8, 12, 16, 20]]
    assert found["upper case"].T.tolist()[0] == [1, 0, 1, 0, 0, 0]
    assert found["sentence end"].T.tolist()[0] == [0, 0, 0, 0, 1, 0]
    assert {a.shape for a in found.values()} == {(6, 2)}


def test_a_search_marks_every_token_that_a_match_touches() -> None:
    text = TokenText([[0, 1, 2, 0], [2, 2, 1, 0]], ["ab", "c", "de"])
    assert text.rows == ("abcdeab", "dedecab")
    assert text.search("bcd").T.tolist() == [[True, True, True, False], [False] * 4]
    assert text.search("de").T.tolist() == [[False, False, True, False], [True, True, False, False]]
    assert text.search("x*").sum() == 0  # an empty match touches nothing
    with pytest.raises(ArgumentError) as error:
        text.search("(a")
    assert str(error.value) == (
        "TokenText.search: cannot search for this: missing ), unterminated subpattern at position 0\n"
        "  got       '(a'\n  expected  a regular expression\n"
        "  hint      put a backslash before ( ) [ ] { } . * + ? | to mean the character itself"
    )


class Reader(html.parser.HTMLParser):
    """The tags and the text of a page, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = [
    "<script>alert(1)</script>",
    '" onmouseover="x',
    "&amp;",
    "</pre>",
    "\x00\x1b",
    "a\n",
    "\u202eb",
    "</span><img src=x>",
]


def test_coloured_text_cannot_become_markup() -> None:
    text = TokenText([list(range(len(HOSTILE)))], HOSTILE)
    page = text.colour(np.linspace(-1, 1, len(HOSTILE)), name='<b>"').to_html()
    reader = Reader()
    reader.feed(page)
    assert reader.tags == ["pre", *["span"] * len(HOSTILE)]
    assert reader.text == "".join(visible(token) for token in HOSTILE)
    assert all(set(a) <= {"title", "style"} for a in reader.attributes[1:])
    assert "\x00" not in page and "\u202e" not in page  # nor can it turn the rest of the line round


def test_colours_follow_sign_and_size() -> None:
    text = TokenText([[0, 0, 0, 0]], ["a"])
    page = text.colour([2.0, -1.0, 0.0, float("nan")]).to_html()
    styles = [a.get("style") for a in _attributes(page)]
    assert styles == ["background:rgb(31 95 209 / 0.75)", "background:rgb(212 87 15 / 0.375)", None, None]
    assert [a["title"] for a in _attributes(page)] == ["2", "-1", "0", "nan"]
    assert "rgb(1 2 3 / 0.75)" in text.colour([2.0, -1.0, 0, 0]).to_html(high="1 2 3")
    assert text.colour([0.0] * 4).to_html().count("style") == 0


def _attributes(page: str) -> list[dict[str, str | None]]:
    reader = Reader()
    reader.feed(page)
    return reader.attributes[1:]


def test_a_part_of_a_row_and_what_is_past_its_end() -> None:
    text = TokenText([[0, 1, 2], [2, 1, -1]], "abc")
    values = np.arange(6.0).reshape(3, 2)
    part = text.colour(values, "f", row=1, begin=1)
    assert (part.tokens, part.values, part.begin, part.row) == (("b",), (3.0,), 1, 1)
    assert text.colour(values, row=0, end=2).tokens == ("a", "b")
    assert json.loads(json.dumps(part.to_dict()))["values"] == [3.0]
    assert text.around(Window(0, 0, 2, 1, 3, 0.5)) == ("b", "c", "")


def refused(kind: type[Exception], run: Any) -> str:
    with pytest.raises(kind) as error:
        run()
    return str(error.value)


def test_what_does_not_fit_is_said() -> None:
    text = TokenText([[0, 1, 2], [2, 1, 0]], "abc")
    assert refused(ShapeError, lambda: text.colour(np.zeros((2, 3)))) == (
        "TokenText.colour: the values do not fit the text\n  got       values: float64[2, 3]\n"
        "  expected  [3, 2] = [T, B]\n  hint      its axes are swapped: use .T"
    )
    assert refused(ArgumentError, lambda: text.colour(np.zeros((3, 2)), row=2)) == (
        "TokenText.colour: no row 2\n  got       row=2\n  expected  0 .. 1\n  hint      count from 0"
    )
    assert refused(ArgumentError, lambda: TokenText([[0, 7]], "abc")) == (
        "TokenText: 7 has no string\n  got       id 7\n  expected  one of 3 ids\n"
        "  hint      pass the string of every id that occurs; negative ids are past the end of a row"
    )
    assert refused(ArgumentError, lambda: TokenText([[0.5]], "abc")) == (
        "TokenText: ids are not integers\n  got       ids: float64[1, 1]\n  expected  int64 [B, T]\n  hint      use ids.long()"
    )
    assert refused(ShapeError, lambda: TokenText(np.zeros((1, 1, 1), int), "abc")) == (
        "TokenText: ids need one or two axes\n  got       ids: int64[1, 1, 1]\n  expected  [B, T] or [T]\n"
        "  hint      one id for each step of each row"
    )


def found_by(model: char_model.CharModel, ids: Tensor) -> tuple[Tracking, Any]:
    place = capture_layers(model, ids).places[0]
    return TokenText(ids, model.strings).track(place, patterns=["ing"]), place


@pytest.mark.slow
def test_a_trained_model_has_a_unit_that_knows_of_quotations_and_one_that_counts_the_line() -> None:
    model = char_model.trained()
    ids = char_model.held_out(model)
    found, place = found_by(model, ids)
    quotes, line = found.of("inside quotes"), found.of("position in line")
    assert abs(quotes.r) > 0.7 and quotes.iou > 0.7 and abs(quotes.r) > 2 * quotes.chance
    assert abs(line.r) > 0.5 and abs(line.r) > 2 * line.chance
    assert found.of("matches /ing/").above_chance
    before, _ = found_by(char_model.untrained(), ids)
    assert abs(before.of("inside quotes").r) < 0.5 and abs(before.of("position in line").r) < 0.4  # it was learnt
    c = series(place, "c", [quotes.unit])[..., 0]
    inside = TokenText(ids, model.strings).detectors()["inside quotes"] > 0
    assert np.sign(c[inside].mean() - c[~inside].mean()) == np.sign(quotes.r)
    page = TokenText(ids, model.strings).coloured(place, "c", quotes.unit, row=2).to_html()
    assert page.count("<span") == ids.shape[1]


@pytest.mark.slow
def test_the_unit_that_was_found_is_the_one_that_the_model_uses() -> None:
    """Without it words end as if they stood elsewhere; without most others they do not."""
    model = char_model.trained()
    ids = char_model.held_out(model)
    unit = found_by(model, ids)[0].of("inside quotes").unit
    text = TokenText(ids, model.strings)
    endings = torch.from_numpy(text.search(r"(?<=[a-z]{4})(ed|ing)\b")).T  # [B, T]
    first = endings[:, 1:] & ~endings[:, :-1]

    def loss() -> float:
        with torch.no_grad():
            each = nn.functional.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
        return each[first].mean().item()

    plain, worse = loss(), []
    for j in range(model.lstm.hidden_size):
        with edit(model, "lstm.0.c", ablate=True, units=j):
            worse.append(loss() - plain)
    assert np.argsort(worse)[-3:].tolist().count(unit) == 1
    assert worse[unit] > 5 * abs(np.median(worse))
    assert loss() == plain
