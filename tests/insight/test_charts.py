"""Every drawing shows as many marks as it has figures, whatever the sizes, and never comes out blank."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.insight import planted

from openlstm.insight.display import DARK, LIGHT, NARROW, WIDE, Display, cell, number
from openlstm.insight.results import Asked
from openlstm.insight.watch import over_training


def marks(display: Display, width: int = WIDE) -> Counter[str]:
    """What the drawing holds: symbols, bars, cells, and the corners of its lines."""
    svg = display.svg(width, "x")
    found: Counter[str] = Counter()
    for group in ElementTree.fromstring(svg).iter():
        kind = group.get("data-mark", "").removeprefix("mark-")
        for path in group if kind else ():
            corners = re.findall("[ML]", path.get("d", ""))
            found[kind] += len(corners) if kind == "line" else 1
    assert "NaN" not in svg and "undefined" not in svg and "Infinity" not in svg
    return found


PLACES = ("lstm.0", "lstm.0_reverse", "lstm.1")


def drawn(*results: Any, at: int = 0, **asked: Any) -> Display:
    """One of the pictures of results of a kind, each at a place of its own."""
    names = PLACES if len(results) == len(PLACES) else [f"{k}" for k in range(len(results))]
    return type(results[0]).displays(dict(zip(names, results, strict=True)), Asked(**asked))[at]


def three(make: Callable[..., Any], *args: Any) -> list[Any]:
    return [make(*args) for _ in PLACES]


WATCHED = {"k10": ([0, 10, 25], [3.0, 0.0, 8.0])}

CASES: dict[str, tuple[Callable[[], Display], dict[str, int]]] = {
    "horizons": (lambda: planted.horizons().display(120), {"symbol": 4}),
    "candidates": (lambda: planted.advice().display(), {"symbol": 6}),
    "saturation": (lambda: drawn(planted.saturation(7)), {"symbol": 4 * 7, "line": 4 * (20 + 20)}),
    "saturation of one unit": (lambda: drawn(planted.saturation(1, ("f",))), {"symbol": 1}),
    "half-lives": (lambda: drawn(planted.retention(9), lag=40), {"symbol": 9}),
    "retention": (lambda: drawn(planted.retention(9, 30), at=1, lag=12), {"symbol": 60, "line": 60}),
    "gradient": (lambda: drawn(planted.state_gradient(60), lag=30, threshold=1e-3), {"symbol": 2 * 59, "line": 2 * 59}),
    "gradient of three": (
        lambda: drawn(*three(planted.state_gradient, 31), lag=30),
        {"symbol": 3 * 30, "line": 3 * 30},
    ),
    "gradient without highway": (lambda: drawn(planted.state_gradient(20, highway=False)), {"symbol": 19, "line": 19}),
    "stability": (lambda: drawn(*three(planted.stability, 8)), {"symbol": 3 * 7}),  # one is -inf
    "gradient of the weights": (lambda: drawn(planted.weight_gradient(25)), {"symbol": 24, "line": 24}),
    "units": (lambda: drawn(*three(planted.unit_activity, 6)), {"rect": 3 * 5}),
    "important units": (lambda: drawn(*three(planted.unit_activity, 6), at=1), {"rect": 9}),
    "ablation": (lambda: drawn(planted.ablation(), lag=12), {"symbol": 6, "line": 6}),
    "required lag": (lambda: drawn(planted.required_lag(30, 12)), {"symbol": 31, "line": 31}),
    "attribution": (lambda: drawn(planted.attribution(30, 3)), {"rect": 90}),
    "tracking": (lambda: drawn(planted.tracking(4)), {"rect": 4}),
    "streaming": (lambda: drawn(planted.streaming(40)), {"symbol": 40, "line": 40}),
    "training": (lambda: over_training(WATCHED, "Horizon", "steps", "It collapses."), {"symbol": 3, "line": 3}),
}


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", CASES)
def test_as_many_marks_as_figures(name: str, width: int) -> None:
    make, wanted = CASES[name]
    found = marks(make(), width)
    for kind, count in wanted.items():
        if (
            name.startswith("saturation") and kind == "line"
        ):  # a step has two corners for each figure, or fewer where it is flat
            assert found["line"] >= 4 * 20
        else:
            assert found[kind] == count


@pytest.mark.parametrize("name", CASES)
def test_the_figures_can_be_read_again(name: str) -> None:
    display = CASES[name][0]()
    rows = list(csv.reader(io.StringIO(display.csv())))
    assert rows[0] == list(display.data) and len(rows) == display.rows + 1 > 1
    assert display.title and display.finding


def test_what_is_not_drawn_is_in_the_figures_and_the_sentence_says_so() -> None:
    display = drawn(*(planted.saturation(512) for _ in range(12)))
    assert "4 more places are in the figures only" in display.finding and "units of each place are drawn" in display.finding
    assert marks(display)["symbol"] == 4 * 8 * 30
    assert display.rows == 12 * 4 * 512
    many = drawn(*(planted.state_gradient(4000) for _ in range(12)))
    assert marks(many)["symbol"] <= 8 * 36 and many.rows == 12 * 4000


def test_values_without_a_place_on_a_log_axis_stand_at_its_edge_and_are_named() -> None:
    svg = drawn(planted.retention(5, 60)).svg(WIDE, "x")
    assert "longer than the 60 steps looked at" in svg
    assert "no end seen" not in planted.horizons().display().svg(WIDE, "x")
    assert "more than 199 steps" in planted.horizons().display().svg(WIDE, "x")


def test_a_curve_that_falls_below_the_axis_leaves_it_instead_of_running_along_its_edge() -> None:
    rows = re.findall(r"[ML]-?[\d.]+,(-?[\d.e+]+)", drawn(planted.state_gradient(200, 0.1)).svg(WIDE, "x"))
    assert max(float(y) for y in rows) > 600  # far below a drawing of 240 px


def test_a_lag_outside_of_the_axis_is_not_drawn() -> None:
    assert "the lag" not in drawn(planted.state_gradient(60), lag=10_000).svg(WIDE, "x")
    assert "the lag: 30" in drawn(planted.state_gradient(60), lag=30).svg(WIDE, "x")


def test_colours_are_the_pages_and_ids_do_not_collide() -> None:
    svg = drawn(planted.saturation()).svg(WIDE, "one")
    assert not re.search(r'(?:fill|stroke)="#', svg) and "var(--s1)" in svg
    assert all(i.startswith("one-") for i in re.findall(r'\bid="([^"]+)"', svg))
    assert not re.search(r"http(?!://www\.w3\.org)", svg)


def test_the_themes_name_the_same_variables_and_ink_can_be_read_on_its_card() -> None:
    assert LIGHT.keys() == DARK.keys()
    for theme in (LIGHT, DARK):
        for name, least in (
            ("ink", 7.0),
            ("soft", 4.5),
            ("accent", 4.5),
            ("alarm", 4.5),
            ("fine", 4.5),
            ("s1", 3.0),
            ("s2", 3.0),
        ):
            assert contrast(theme[name], theme["card"]) >= least, name
            assert contrast(theme[name], theme["paper"]) >= least, name


def contrast(a: str, b: str) -> float:
    """WCAG 2's ratio."""

    def light(color: str) -> float:
        parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_series_differ_in_more_than_their_colour() -> None:
    display = drawn(*three(planted.state_gradient))
    assert [entry["label"] for entry in display.legend()] == ["lstm.0", "lstm.0, backwards", "lstm.1"]
    assert len({entry["dash"] for entry in display.legend()}) == 3


def test_a_picture_in_a_notebook_and_in_a_file(tmp_path: Path) -> None:
    display = drawn(planted.ablation())
    shown = display._repr_html_()
    assert "<svg" in shown and display.finding in shown and 'role="img"' in shown and "<script" not in shown
    for dark in (False, True):
        display.save_png(tmp_path / "a.png", dark=dark)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    spec = json.loads(display.chart.to_json(validate=False))
    assert LIGHT["s1"] in json.dumps(spec) and "#0505" not in json.dumps(spec)


def test_words_of_the_data_cannot_become_markup() -> None:
    nasty = planted.attribution(4, 2, ("<script>alert(1)</script>", "a & b"))
    assert "<script" not in drawn(nasty).svg(WIDE, "x")


@pytest.mark.parametrize("value", [np.float64("nan"), np.inf, 0, True, "x", None])
def test_a_cell_of_a_table_shows_anything(value: Any) -> None:
    assert isinstance(cell(value), str)


def test_numbers_in_sentences() -> None:
    assert number(1234567) == "1.2\u00a0×\u00a010⁶"


def test_both_thresholds_stand_beside_the_candidates() -> None:
    assert planted.advice().display().svg(WIDE, "x").count("mark-rule") == 2
