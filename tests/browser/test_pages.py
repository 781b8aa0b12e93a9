"""The pages in headless Chromium: a quiet console, no request, as many marks as figures, both themes, phone, print, keys."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.browser.chrome import DESKTOP, MISSING, PHONE, Page, chrome
from tests.explain.lecture import computed, figure
from tests.insight import char_model
from tests.support import daily
from torch import nn

import openlstm
from openlstm import lab
from openlstm.explain import page as lecture_page
from openlstm.insight.report import Report
from openlstm.lab import picture
from openlstm.tasks import xray as look
from openlstm.tasks.forecast import Forecaster

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


def forecast_report() -> Report:
    """A forecaster of a daily series with a week in it."""
    t = np.arange(260)
    panel = daily(np.sin(2 * np.pi * t / 7) + 0.01 * t)
    made = Forecaster(7, members=1, hidden_size=12, steps=100).fit(panel, quiet=True)
    return look.forecaster(made.model_.header, made.tensors_, panel, name="daily.safetensors")


def text_report() -> Report:
    """A character model trained for seconds."""
    model = char_model.trained(150)
    rows = char_model.held_out(model, rows=8, length=201)

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return openlstm.xray(model, (rows[:, :-1], rows[:, 1:]), loss=loss, tokens=model.strings, name="characters")


def untrained_report() -> Report:
    """A bare layer as torch begins it, asked for a lag that it cannot learn."""
    torch.manual_seed(0)
    return openlstm.xray(openlstm.LSTM(2, 24, 2, bidirectional=True), torch.randn(130, 32, 2), lag=100)


MAKE: dict[str, Callable[[], Report]] = {"forecast": forecast_report, "text": text_report, "untrained": untrained_report}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chrome() as opened:
        yield opened


@pytest.fixture(scope="module", params=list(MAKE))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    report = MAKE[request.param]()
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.to_html(path)
    return report, path


@pytest.fixture(scope="module")
def lecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "explain.html"
    path.write_text(lecture_page.render(computed()[0], 0), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the lab, with the networks whose names are longest."""
    path = tmp_path_factory.mktemp("page") / "recall.html"
    picture.save(lab.run("recall", 5, seeds=2, steps=20, arms=["rnn-identity", "gru", "lstm-advice", "lstm-chrono"]), path)
    return path


SETTINGS = [(size, dark) for size in (DESKTOP, PHONE) for dark in (False, True)]


@pytest.mark.parametrize(("size", "dark"), SETTINGS, ids=["desktop", "desktop dark", "phone", "phone dark"])
def test_a_report_is_quiet_asks_for_nothing_and_fits(
    page: Page, made: tuple[Report, Path], size: tuple[int, int], dark: bool
) -> None:
    opens_quietly(page, made[1], size, dark)


@pytest.mark.parametrize(("size", "dark"), SETTINGS, ids=["desktop", "desktop dark", "phone", "phone dark"])
def test_the_lecture_is_quiet_asks_for_nothing_and_fits(page: Page, lecture: Path, size: tuple[int, int], dark: bool) -> None:
    opens_quietly(page, lecture, size, dark)


@pytest.mark.parametrize(("size", "dark"), SETTINGS, ids=["desktop", "desktop dark", "phone", "phone dark"])
def test_an_experiment_is_quiet_asks_for_nothing_and_fits(
    page: Page, experiment: Path, size: tuple[int, int], dark: bool
) -> None:
    opens_quietly(page, experiment, size, dark)


@pytest.mark.parametrize("which", ["lecture", "experiment"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_label_touches_another_or_leaves_its_card(
    page: Page, which: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    page.open(request.getfixturevalue(which), size=size)
    assert page.collisions() == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_equations_are_set_as_equations_and_none_is_cut_off(page: Page, lecture: Path, size: tuple[int, int]) -> None:
    page.open(lecture, size=size)
    cut = "[...document.querySelectorAll('.equations')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    assert page.ask(cut) == []
    boxes = "(s) => [...document.querySelectorAll(s)].map(e => [...e.children].map(c => c.getBoundingClientRect().toJSON()))"
    fractions, scripts = (page.ask(f"({boxes})(arguments[0])", s) for s in (".equation .fraction", ".equation .scripts"))
    assert len(fractions) > 8 and scripts
    for above, below in [*fractions, *scripts]:
        assert above["bottom"] <= below["top"] + 1 and above["height"] > 5 and below["height"] > 5
    entries = page.ask(f"({boxes})('.matrix')")
    for a, b, c, d in entries:
        assert a["right"] < b["left"] and a["bottom"] < c["top"] and b["bottom"] < d["top"] and c["right"] < d["left"]
    lowered = page.ask(
        "[...document.querySelectorAll('.equation > i + sub')].map(e => [e.getBoundingClientRect().bottom, "
        "e.previousElementSibling.getBoundingClientRect().bottom, e.getBoundingClientRect().height, "
        "e.previousElementSibling.getBoundingClientRect().height])"
    )
    assert len(lowered) > 20 and all(sub - base > -0.35 * size_ and low < size_ for sub, base, low, size_ in lowered)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_larger_an_entry_of_a_matrix_the_farther_is_its_colour_from_the_paper(
    page: Page, lecture: Path, dark: bool
) -> None:
    page.open(lecture, dark=dark)
    words = page.ask("document.querySelector('#section-vanishing').innerText")
    assert "the stronger the colour, the larger the entry" in words and "pale" not in words
    seen = page.ask(
        "[...document.querySelectorAll('#jacobians .wide [data-mark=mark-rect] > path')].map(e => "
        "[Number(e.getAttribute('fill-opacity') ?? 1), getComputedStyle(e).fill])"
    )
    card = page.ask("getComputedStyle(document.querySelector('#jacobians')).backgroundColor")
    data = figure("jacobians").data
    assert len(seen) == len(data["value"])
    sizes = np.abs(data["value"])
    matrix = np.array(data["matrix"])
    top, least = sizes.max(), min(sizes[matrix == name].max() for name in set(matrix)) / 10  # of a logarithmic scale
    for (opacity, fill), size in zip(seen, sizes, strict=True):
        assert opacity == pytest.approx(np.log(max(size, least) / least) / np.log(top / least), abs=0.01)
        assert abs(luminance(fill) - luminance(card)) > 0.15  # the full colour stands out from the card in this theme


def opens_quietly(page: Page, path: Path, size: tuple[int, int], dark: bool) -> None:
    page.requests()
    page.open(path, size=size, dark=dark)
    assert page.logs() == []
    assert page.requests() == [path.as_uri()]
    assert page.ask("document.documentElement.scrollWidth") <= size[0]  # nothing to be pushed sideways
    shown = page.ask("[...document.querySelectorAll('figure .wide')].map(e => getComputedStyle(e).display !== 'none')")
    assert shown and set(shown) == {size == DESKTOP}
    paper, ink = (luminance(page.ask(f"getComputedStyle(document.body).{name}")) for name in ("backgroundColor", "color"))
    assert (paper < 0.1 and ink > 0.6) if dark else (paper > 0.9 and ink < 0.15)
    heights = page.ask(
        "[...document.querySelectorAll('figure .wide svg, figure .narrow svg')].map(e => e.getBoundingClientRect().height)"
    )
    assert sum(h > 20 for h in heights) == len(heights) / 2  # of each pair of drawings one is seen


def luminance(color: str) -> float:
    red, green, blue = (int(n) / 255 for n in re.findall(r"\d+", color)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def expected(report: Report) -> dict[str, Counter[str]]:
    """Marks by figure, counted from the results themselves."""

    def lags(results: dict[str, Any], most: int, per: int = 1) -> int:
        total = 0
        for r in results.values():
            n = len(r.lags) - 1  # lag 0 has no place on a log axis
            total += n if n <= most else len({round(w) for w in np.geomspace(1, n, most)})
        return per * total

    by = {s.name: dict(s.results) for s in report.sections}
    out: dict[str, Counter[str]] = {}
    n = len(by["state_gradient"])
    curves = by["state_gradient"] if n > 2 else {f"{k}{j}": r for k, r in by["state_gradient"].items() for j in range(2)}
    many = lags(curves, 90 if len(curves) <= 2 else 36)
    out["state_gradient"] = Counter(symbol=many, line=many)
    out["retention-1"] = Counter(symbol=sum(min(len(r.half_life), 240 // n) for r in by["retention"].values()))
    out["gates"] = Counter(symbol=sum(len(r.gates) * min(r.low.shape[1], 240 // n) for r in by["gates"].values()))
    out["stability"] = Counter(symbol=sum(int(np.isfinite(r.exponents).sum()) for r in by["stability"].values()))
    out["horizons"] = Counter(symbol=len(report.horizons.lags) if report.horizons else 0)
    if "ablation" in by and by["ablation"]:
        (r,) = by["ablation"].values()
        out["ablation"] = Counter(symbol=len(r.contexts), line=len(r.contexts))
    (r,) = by["attribution"].values()
    out["attribution"] = Counter(rect=min(r.values.shape[0], 48) * min(r.values.shape[1], 12))
    units = "units-1" if any(r.top for r in by["units"].values()) else "units"
    out[units] = Counter(rect=5 * len(by["units"]))
    if report.advice is not None and report.advice.tried:
        out["advice"] = Counter(symbol=2 * len(report.advice.tried))
    return out


def test_as_many_marks_as_there_are_figures(page: Page, made: tuple[Report, Path]) -> None:
    report, path = made
    page.open(path)
    ids = page.ask("[...document.querySelectorAll('figure')].map(f => f.id)")
    wanted = expected(report)
    assert set(wanted) <= set(ids)
    for name, marks in wanted.items():
        found = page.marks(name)
        assert {kind: found.get(kind, 0) for kind in marks} == dict(marks), name
    for name in ids:  # and no chart is blank
        assert sum(page.marks(name).values()) > 0, name


def test_every_section_is_there_and_none_is_empty(page: Page, made: tuple[Report, Path]) -> None:
    report, path = made
    page.open(path)
    for section in report.sections:
        text = page.ask("document.querySelector(arguments[0]).innerText", f"#section-{section.name}")
        assert section.title in text
        assert bool(section.error) == ("Not computed." in text or "Partly not computed." in text)
        assert section.finding.splitlines()[0][:60].split(": ", 1)[-1] in text if section.finding else section.error


def test_the_first_screen_holds_verdict_advice_and_horizons(page: Page, made: tuple[Report, Path]) -> None:
    page.open(made[1])
    for place in (".verdict .word", ".advice", "#horizons .wide svg"):
        assert page.ask("document.querySelector(arguments[0]).getBoundingClientRect().top", place) < DESKTOP[1] - 150


def test_a_screen_reader_hears_what_every_chart_shows(page: Page, made: tuple[Report, Path]) -> None:
    page.open(made[1])
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    images = [n for n in nodes if n.get("role", {}).get("value") in ("image", "img") and not n.get("ignored")]
    figures = page.ask("document.querySelectorAll('figure').length")
    assert len(images) == figures and all(len(n["name"]["value"]) > 20 for n in images)
    headings = page.ask("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(headings[:-1], headings[1:], strict=True))


def test_the_keyboard_reaches_everything(page: Page, made: tuple[Report, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(made[1])
    reached = []
    for _ in range(12):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.ask("document.activeElement.className || document.activeElement.tagName"))
    assert reached[0] == "skip" and "SUMMARY" in reached
    summary = page.driver.find_element("css selector", "figure summary")
    summary.send_keys(Keys.ENTER)
    assert page.ask("document.querySelector('figure details').open")


def test_the_figures_are_downloaded_from_the_page_itself(page: Page, made: tuple[Report, Path]) -> None:
    page.open(made[1])
    text = page.ask("fetch(document.querySelector('#state_gradient a[download]').href).then(r => r.blob()).then(b => b.size)")
    assert text > 100 and page.logs() == []


def test_it_prints_without_what_only_a_screen_has(page: Page, made: tuple[Report, Path]) -> None:
    page.open(made[1], dark=True)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert page.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert luminance(page.ask("getComputedStyle(document.body).backgroundColor")) == pytest.approx(1.0)
    assert luminance(page.ask("getComputedStyle(document.body).color")) < 0.15  # ink on paper, whatever the screen's theme is
    pdf = page.pdf()
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000


def test_what_stands_at_a_printed_figure_is_no_larger_than_the_text(page: Page, lecture: Path) -> None:
    page.open(lecture)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = "parseFloat(getComputedStyle(document.querySelector(arguments[0])).fontSize)"
    text, *small = (page.ask(size, where) for where in ("p:not([class])", "figcaption", ".legend", "td"))
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert text == pytest.approx(14) and max(small) < text


def test_the_text_takes_the_colours_of_the_unit_that_is_chosen(page: Page, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import Select

    report = text_report()
    report.to_html(tmp_path / "text.html")
    (reading,) = report["text"].results.values()
    page.open(tmp_path / "text.html")
    assert "".join(reading.tokens)[:50].replace("\n", "↵\n") in page.ask("document.querySelector('#text-tokens').textContent")

    def colours() -> list[int]:
        return page.ask(
            "[...document.querySelector('#text-tokens').children].map(s => (s.dataset.s === '-' ? -1 : 1) * "
            "parseInt(s.style.getPropertyValue('--v') || '0'))"
        )

    first = reading.units[0].values
    assert colours() == list(next(iter(first.values())))
    Select(page.driver.find_element("css selector", "#text-by")).select_by_visible_text("f")
    assert colours() == list(first["f"])
    Select(page.driver.find_element("css selector", "#text-unit")).select_by_index(3)
    assert colours() == list(reading.units[3].values["f"])
    page.driver.find_element("css selector", "#text-search").send_keys("quotes")
    chosen = page.ask("document.querySelector('#text-unit').selectedOptions[0].text")
    assert "quotes" in chosen and page.logs() == []


def in_spec(spec: dict[str, Any], data: Any = None) -> Counter[str]:
    """Marks that a chart asks for: a bar or cell for each row, a corner of a line for each, two where the line has steps."""
    data = spec.get("data", data)
    found: Counter[str] = Counter()
    for kind in ("layer", "concat", "hconcat", "vconcat"):
        for part in spec.get(kind, ()):
            found += in_spec(part, data)
    if "mark" in spec:
        mark, rows = spec["mark"], len(json.loads(data["values"]))
        kind = str({"bar": "rect", "circle": "symbol"}.get(mark["type"], mark["type"]))
        found[kind] += 2 * rows if mark.get("interpolate") == "step" else rows
    return found


def test_the_lecture_shows_as_many_marks_as_it_has_figures(page: Page, lecture: Path) -> None:
    page.open(lecture)
    figures = {name: f for section in computed()[0] for name, f in section["figures"].items()}
    assert page.ask("[...document.querySelectorAll('figure[id]')].map(f => f.id)") == list(figures)
    for name, drawn in figures.items():
        wanted, found = in_spec(drawn.draw(660).to_dict(validate=False)), page.marks(name)
        assert {kind: found.get(kind, 0) for kind in wanted} == dict(wanted), name
