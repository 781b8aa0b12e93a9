"""The tables, the picture and the command of the lab show the numbers of the result, and say what was not learnt."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from openlstm import lab
from openlstm.cli import main
from openlstm.errors import ArgumentError
from openlstm.lab import picture, show
from openlstm.lab.advised import Advised
from openlstm.lab.experiment import Progress, Running
from openlstm.lab.facts import FACTS

LATCH = lab.tasks.TASKS["latch"]
ADVICE = Advised(
    120,
    "blocked",
    "chrono=120",
    "openlstm.nn.init.chrono(layer, 120)",
    ({"name": "chrono", "flag": "chrono=120", "line": "", "share": 0.2, "flip": 0.1, "verdict": "not blocked"},),
    "Lag 120 is blocked; best of 1 changes is chrono=120 (--init chrono=120).",
)
ROWS = (
    lab.Row("rnn", "RNN, default", (0.5, 0.52), (1e-27, 0.0)),
    lab.Row("lstm-advice", "LSTM + advice (chrono=120)", (0.98, 0.97), (0.2, 0.3)),
)


def result(rows: tuple[lab.Row, ...] = ROWS, advice: Advised | None = ADVICE, task: str = "latch") -> lab.Result:
    arms, seeds = tuple(row.name for row in rows), range(len(rows[0].scores))
    return lab.Result(lab.tasks.TASKS[task], 120, seeds, 1000, arms, 32, 1.0, rows, advice)


def text(what: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_holds_the_numbers_the_advice_and_who_learnt_it() -> None:
    shown = text(show.result_table(result()))
    assert "97.5%" in shown and "97.0%–98.0%" in shown and "51.0%" in shown and "50% is guessing" in shown
    assert "advice: Lag 120 is blocked" in shown and "--init chrono=120" in shown
    assert "Learnt by: LSTM + advice (chrono=120). The best of the others: 51.0% (RNN, default)." in shown


def test_what_nobody_learnt_is_said() -> None:
    shown = text(show.result_table(result(ROWS[:1], None)))
    assert "None of them learnt it in 1,000 steps; the best is RNN, default with 51.0% right answers" in shown


@pytest.mark.parametrize("task", lab.tasks.TASKS)
def test_published_numbers_stand_beside(task: str) -> None:
    shown = text(show.result_table(result(task=task)))
    assert all(p.number in shown and p.source in shown for p in lab.tasks.TASKS[task].published)
    assert "published: " in shown


def test_the_live_table_shows_how_far_every_network_is() -> None:
    running = {"rnn": [Running(2, 40, 0.75, 1e-9)], "lstm-advice": []}
    p = Progress(LATCH, 120, range(3), 1000, tuple(running), 32, 3, 30.0, {"rnn": ROWS[0]}, running, None)
    shown = text(show.progress_table(p))
    assert "3 of 6 networks, about 30 s left" in shown and "2 done" in shown and "step 40" in shown
    assert "█" * 10 in shown and "█" * 11 not in shown  # half of the way from guessing to perfect


def values(chart: dict) -> list[dict]:
    """The data of every layer of a picture."""
    if "data" in chart and "values" in chart["data"]:
        return chart["data"]["values"]
    return [v for key in ("layer", "hconcat") for part in chart.get(key, []) for v in values(part)]


@pytest.mark.parametrize(("width", "way"), [(680, "hconcat"), (330, "vconcat")])
def test_the_picture_has_a_dot_a_seed_a_tick_an_arm_and_a_line_in_both_panels(width: int, way: str) -> None:
    first, second = picture.draw(result(), width).to_dict()[way]
    for panel in (first, second):
        assert [len(layer["data"]["values"]) for layer in panel["layer"]] == [1, 4, 2]
    dots = second["layer"][1]["data"]["values"]
    assert [d["score"] for d in dots] == [0.5, 0.52, 0.98, 0.97]
    assert [d["share"] for d in dots] == [picture.FLOOR, picture.FLOOR, 0.2, 0.3]  # zero has no place on a log axis
    assert second["layer"][0]["data"]["values"] == [{"score": 0.5}]


def test_the_figures_behind_the_picture_are_what_was_measured() -> None:
    """Only the drawing moves a share to the edge of its axis, and says so."""
    shown = picture.display(result())
    measured = [share for row in result().rows for share in row.shares]
    assert shown.data["share of the gradient before"] == measured and min(measured) < picture.FLOOR
    assert shown.finding.endswith("Shares below 10⁻¹² stand at the left edge.")


@pytest.mark.parametrize("kind", picture.KINDS)
def test_the_picture_is_drawn_in_every_form(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"latch{kind}"
    picture.save(result(), path)
    data = path.read_bytes()
    if kind == ".png":
        assert data[:4] == b"\x89PNG"
    elif kind == ".svg":
        assert b"LSTM + advice" in data and data.count(b"<path") > 8 and b"lag 120, H = 32, 2 seeds" in data
        assert b"#0505" not in data and b"#0101" not in data  # no stand-in for a colour
    else:
        assert b"</html>" in data and b"<script" not in data and not re.search(rb'(src|href)="http', data)


def test_the_page_is_like_the_others_and_says_all_that_the_table_says() -> None:
    page = picture.page(result())
    assert (
        "prefers-color-scheme: dark" in page and page.count('class="drawing wide"') == page.count('class="drawing narrow"') == 1
    )
    assert not re.search(r'(?:fill|stroke)="#', page)  # the theme gives the colours
    said = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)))
    for words in (show.verdict(result()), "Lag 120 is blocked; best of 1 changes", "51.0%", "97.5%", "97.0%–98.0%", "25 %"):
        assert words in said, words
    assert "50 % is guessing" in said and "no number" in said
    again = "openlstm lab latch --lag 120 --seeds 2 --steps 1000 --hidden 32 --seed 0 --arms rnn,lstm-advice -o latch.html"
    assert again in said


@pytest.mark.parametrize("task", lab.tasks.TASKS)
def test_every_task_has_a_page_with_what_was_published(task: str) -> None:
    page = html.unescape(picture.page(result(task=task, advice=None)))
    assert lab.tasks.TASKS[task].question in page
    assert all(p.number in page and p.source in page for p in lab.tasks.TASKS[task].published)


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.svg").mkdir()
    for name, words in {
        "a.gif": "has an unknown file extension",
        "no/a.svg": "does not exist",
        "b.svg": "is a folder",
    }.items():
        with pytest.raises(ArgumentError, match=words):
            picture.save(result(), tmp_path / name)


def test_the_help_knows_what_the_tasks_know() -> None:
    assert list(FACTS) == list(lab.tasks.TASKS)
    for name, entry in FACTS.items():
        task = lab.tasks.TASKS[name]
        assert entry[:5] == (task.size_name, task.default, task.least, task.hidden, task.steps), name


def test_every_arm_is_named_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "latch", "--help"]) == 0
    help_ = "".join(capsys.readouterr().out.split())
    assert all(f"{arm}," in help_ or f"{arm}." in help_ for arm in lab.ARMS)


@pytest.mark.parametrize("task", lab.tasks.TASKS)
def test_every_task_is_a_command(task: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    size, least = FACTS[task].size_name, FACTS[task].least
    options = [f"--{size}", str(least + 2), "--steps", "20", "--arms", "rnn,gru", "--jobs", "1", "--json"]
    assert main(["lab", task, *options, "-o", str(tmp_path / "a.svg")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experiment"] == task and found[size] == least + 2
    assert [arm["name"] for arm in found["arms"]] == ["rnn", "gru"]
    assert (tmp_path / "a.svg").stat().st_size > 1000
    assert main(["lab", task, f"--{size}", str(least - 1)]) == 2
