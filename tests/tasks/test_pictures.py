"""Pictures of forecasts: they draw what is in the numbers, say what they leave out, and stand for themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tasks.fake import Fake, carried, months, zero

from openlstm.errors import ArgumentError
from openlstm.insight.display import DARK, LIGHT, NARROW, WIDE
from openlstm.tasks.evaluation import evaluate
from openlstm.tasks.pictures import plot, plot_evaluation, save
from openlstm.tasks.scores import Evaluation


def walk(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).cumsum()


def model(trained: int, **more: Any) -> Fake:
    return Fake({"LSTM": carried, "zero": zero}, trained, **more)


def evaluated(series: int = 1, length: int = 30, **more: Any) -> Evaluation:
    return evaluate(model(24, **more), months(*(walk(length, k) * (k + 1) for k in range(series))))


def of(picture: Any, line: str) -> list[float]:
    return [v for who, v in zip(picture.data["line"], picture.data["value"], strict=True) if who == line]


def drawn(picture: Any, width: int = WIDE) -> list[dict[str, Any]]:
    """Every layer of every drawing as plain JSON."""
    chart = picture.draw(width).to_dict(validate=False)
    return [layer for part in chart.get("concat", [chart]) for layer in part["layer"]]


def test_the_past_the_forecast_its_bands_the_truth_and_the_others() -> None:
    panel, fake = months(walk(40)), model(34)
    known = panel.at(np.array([34]))
    said = fake.candidates(known)
    picture = plot(known, said["LSTM"], truth=panel, others=[said["zero"]])
    assert of(picture, "measured") == walk(40)[10:37].tolist()  # two seasons, and three steps of truth
    assert of(picture, "LSTM") == [walk(40)[33]] * 3
    assert of(picture, "zero") == [0.0] * 3
    assert of(picture, "upper end of 95 %") == [walk(40)[33] + 2] * 3
    assert of(plot(known, said["LSTM"]), "measured") == walk(40)[10:34].tolist()
    assert (picture.title, picture.finding) == (
        "value: the next 3 months after 2003-10-01",
        "Shaded: the 95 % and the 80 % band.",
    )


def test_a_line_is_broken_where_values_are_missing_and_a_single_one_is_a_dot() -> None:
    values = walk(40)
    values[[20, 22, 30]] = np.nan
    panel = months(values)
    layers = drawn(plot(panel, model(40).predict(panel)))
    lines = [
        row
        for layer in layers
        if layer["mark"]["type"] == "line"
        for row in layer["data"]["values"]
        if row["who"] == "measured"
    ]
    runs = {row["part"]: sum(r["part"] == row["part"] for r in lines) for row in lines}
    assert list(runs.values()) == [4, 7, 9]  # steps 16 to 19, 23 to 29, 31 to 39
    dots = [row for layer in layers if layer["mark"]["type"] == "circle" for row in layer["data"]["values"]]
    assert [row["value"] for row in dots] == [values[21]]


def test_every_origin_is_drawn_and_the_best_baseline_beside_it() -> None:
    found = evaluated()
    picture = plot_evaluation(found)
    assert picture.series == ("measured", "LSTM", "zero")
    assert of(picture, "LSTM") == found.forecasts["LSTM"][:, 2].tolist()
    rules = [layer for layer in drawn(picture) if layer["mark"]["type"] == "rule"]
    assert [len(layer["data"]["values"]) for layer in rules] == [2]
    own = found.score("LSTM")
    assert picture.finding.splitlines() == [
        f"LSTM: MASE {own.mase:.3f}; {100 * (own.coverage[80] or 0):.0f} % of what was measured lies in the 80 % band.",
        "At each dotted line the next 3 months are forecast from what lies to the left.",
        "Shaded: the 95 % and the 80 % band.",
    ]


def test_the_legend_shows_a_dashed_line_dashed() -> None:
    picture = plot_evaluation(evaluated())
    dashes = {entry["label"]: entry["dash"] for entry in picture.legend()}
    assert dashes == {"measured": "none", "LSTM": "none", "zero": "5 3"}
    import vl_convert

    svg = vl_convert.vegalite_to_svg(picture.chart.to_json(validate=False))
    symbols = [part[: part.index("/>")] for part in svg.split("role-legend-symbol")[1:]]
    assert [re.findall(r'stroke-dasharray="([^"]*)"', symbol) for symbol in symbols] == [["1,0"], ["1,0"], ["5,3"]]


def test_many_series_are_chosen_by_their_errors_and_it_is_said_which() -> None:
    found = evaluated(30)
    picture = plot_evaluation(found)
    titles = list(dict.fromkeys(picture.data["series"]))
    errors = found.by_series["LSTM"]["mase"]
    assert [float(re.findall(r"MASE ([\d.]+)", t)[0]) for t in titles] == [
        round(float(e), 3) for e in np.sort(errors)[[0, 1, 2, 13, 14, 15, 27, 28, 29]]
    ]
    said = "9 of 30 series: first the 3 with the smallest MASE, then 3 typical ones, then the 3 with the largest."
    assert said in picture.finding
    panel = found.panel.at(np.full(30, 24))
    prediction = model(24).predict(panel)
    assert said in plot(panel, prediction, evaluation=found).finding
    few = plot(panel, prediction)
    assert "The first 12 of 30 series." in few.finding and len(set(few.data["series"])) == 12


def test_each_of_many_series_has_its_own_scale() -> None:
    found = evaluate(model(24), months(walk(30), 1e6 + walk(30, 1)))
    chart = plot_evaluation(found, others=()).draw(WIDE).to_dict(validate=False)
    assert chart["resolve"]["scale"] == {"x": "independent", "y": "independent"}
    domains = [part["layer"][0]["encoding"]["y"]["scale"]["domain"] for part in chart["concat"]]
    assert domains[0][1] < 100 < 9e5 < domains[1][0]


def test_a_phone_sees_one_series_below_the_other() -> None:
    found = evaluated(5)
    wide, narrow = (plot_evaluation(found).draw(width).to_dict(validate=False) for width in (WIDE, NARROW))
    assert (wide["columns"], narrow["columns"]) == (3, 1)
    assert all(part["width"] < NARROW for part in narrow["concat"])


@pytest.mark.parametrize(
    ("series", "horizon", "size", "levels"),
    [(1, 1, 1e-12, (0.1, 0.5, 0.9)), (1, 4, 1e9, (0.5,)), (2, 2, 1e80, (0.1, 0.5, 0.9)), (13, 1, 1.0, (0.5,))],
)
def test_any_size_draws(series: int, horizon: int, size: float, levels: tuple[float, ...]) -> None:
    """Of constant series too, one step ahead too, with bands and without."""
    panel = months(*(size * walk(9, k) if k % 2 else np.full(9, size) for k in range(series)))
    fake = model(6, horizon=horizon, levels=levels)
    for picture in (plot(panel, fake.predict(panel)), plot_evaluation(evaluate(fake, panel))):
        text = picture.draw(NARROW).to_json(validate=False)
        assert "NaN" not in text and "Infinity" not in text
        assert len({len(column) for column in picture.data.values()}) == 1


def test_forecasts_of_one_step_are_joined() -> None:
    picture = plot_evaluation(evaluated(horizon=1))
    kinds = [layer["mark"]["type"] for layer in drawn(picture)]
    assert "rule" not in kinds and "circle" not in kinds and "area" in kinds
    assert "Each step is forecast from all before it." in picture.finding
    panel = months(walk(30))
    kinds = [layer["mark"]["type"] for layer in drawn(plot(panel, model(24, horizon=1).predict(panel)))]
    assert "rule" in kinds and "circle" in kinds and "area" not in kinds


def test_a_long_evaluation_draws_the_last_origins_and_says_so() -> None:
    picture = plot_evaluation(evaluated(length=24 + 660))
    assert len(of(picture, "LSTM")) == 600 and "The last origins are drawn." in picture.finding
    assert len(of(plot_evaluation(evaluated(length=24 + 600)), "LSTM")) == 600


@pytest.mark.slow
def test_files(tmp_path: Path) -> None:
    found = evaluated(2)
    picture = plot_evaluation(found)
    for dark, theme in ((False, LIGHT), (True, DARK)):
        save(picture, tmp_path / "f.svg", dark=dark)
        svg = (tmp_path / "f.svg").read_text()
        assert theme["card"] in svg and "#0505" not in svg and "value: 3 months ahead" in svg
    save(picture, tmp_path / "f.PNG")
    assert (tmp_path / "f.PNG").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    save(picture, tmp_path / "f.html", found)
    page = (tmp_path / "f.html").read_text()
    assert found.verdict().split("--")[0].strip() in page and page.count('class="won"') == 1
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page
    assert "var(--s1)" in page and "prefers-color-scheme: dark" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.PNG", "f.html", "f.svg"]


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        save(plot_evaluation(evaluated()), tmp_path / "f.pdf")
    assert str(caught.value) == (
        f"{tmp_path / 'f.pdf'}: has an unknown file extension\n"
        "  got       '.pdf'\n"
        "  expected  .png or .svg or .html\n"
        "  hint      for example f.png"
    )
