"""The page of a report: complete, self-contained, small, and honest about what could not be computed."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.insight import planted

from openlstm.errors import ArgumentError
from openlstm.insight.report import ModelFacts, Report, Section, page
from openlstm.insight.report.report import Stage
from openlstm.insight.results import Asked, plain


def section(name: str, results: dict[str, Any], error: str | None = None, lag: int | None = 40) -> Section:
    return Section(name, results, "A finding.", error, Asked(lag))


def report(units: int = 6, places: tuple[str, ...] = ("0",), stage: Stage = "before", lags: int = 60) -> Report:
    each = {
        "state_gradient": lambda: planted.state_gradient(lags),
        "retention": lambda: planted.retention(units, lags),
        "gates": lambda: planted.saturation(units),
        "stability": planted.stability,
        "weight_gradient": lambda: planted.weight_gradient(lags),
        "units": lambda: planted.unit_activity(units),
        "streaming": lambda: planted.streaming(lags),
    }
    sections = [section(name, {p: make() for p in places}) for name, make in each.items()]
    sections += [section(n, {"model": getattr(planted, n)()}) for n in ("required_lag", "ablation", "attribution")]
    about = ModelFacts("a <model>", "0 (LSTM, 6 units)", "192", "60 steps × 4 rows")
    judged = (planted.verdict(), "", planted.horizons(), planted.advice())
    return Report(about, stage, 40, *judged, tuple(sections), ("A note.",), 1.5)


class Reader(HTMLParser):
    """Checks that every element is closed, and collects what the tests ask for."""

    VOID = {"meta", "br", "link", "img", "hr", "input"}
    BARE = {"path", "line", "rect", "circle"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return report().to_html()


def test_the_page_needs_nothing_but_itself_and_is_small(html: str) -> None:
    reader = Reader(html)
    addresses = [v for _, attrs in reader.found for k, v in attrs.items() if k in ("src", "href", "data", "action") and v]
    ids = [str(attrs["id"]) for _, attrs in reader.found if attrs.get("id")]
    assert all(a.startswith(("#", "data:")) for a in addresses)
    assert all(a[1:] in ids for a in addresses if a.startswith("#") and len(a) > 1)
    assert sorted(ids) == sorted(set(ids))
    assert set(re.findall(r"https?://[^\"'\s)<]+", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(html.encode()) < page.LARGEST


def test_the_first_screen_says_verdict_horizons_and_advice_before_any_section(html: str) -> None:
    first, rest = html.split('<nav aria-label="Diagnostics"')
    assert ">■</span> Blocked" in first and "Lag 40: blocked." in first and 'id="horizons"' in first
    assert "--init chrono=120" in first and "A note." in first
    assert [s.name for s in report().sections] == re.findall(r'<section id="section-(?!tried)(\w+)">', rest)


def test_every_figure_has_a_title_two_drawings_its_words_its_sentence_and_its_figures_to_download(html: str) -> None:
    blocks = re.findall(r"<figure id=.*?</figure>", html, re.DOTALL)
    assert len(blocks) == 2 + 10 + 2  # horizons and candidates; one each, but two of retention and of health
    for block in blocks:
        reader = Reader(block)
        assert [d["class"] for d in reader.all("div") if d.get("role") == "img"] == ["drawing wide", "drawing narrow"]
        assert all(d["aria-label"] for d in reader.all("div") if d.get("role") == "img")
        assert "<figcaption>" in block and reader.all("table") and reader.all("th")
        assert reader.all("path"), "a blank chart"
        (link,) = reader.all("a")
        header, raw = str(link["href"]).split(",")
        data = base64.b64decode(raw)
        text = (gzip.decompress(data) if "gzip" in header else data).decode()
        assert len(text.splitlines()) >= 2 and str(link["download"]).endswith((".csv", ".csv.gz"))


def test_words_of_a_model_cannot_become_markup(html: str) -> None:
    assert "a &lt;model&gt;" in html and "<model>" not in html


def test_both_themes_print_and_phones_have_their_rules(html: str) -> None:
    style = html[html.index("<style>") : html.index("</style>")]
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", "prefers-reduced-motion", ":focus-visible"):
        assert rule in style
    assert '<html lang="en">' in html and 'name="viewport"' in html


def test_a_section_that_failed_says_why_instead_of_showing_a_blank_chart() -> None:
    failed = report().__class__(
        **{
            **vars(report()),
            "sections": (
                section("gates", {}, "rnn.0: no gates"),
                section("state_gradient", {"0": planted.state_gradient()}, "b"),
            ),
        }
    )
    html = failed.to_html()
    gates, reach = re.findall(r'<section id="section-(?:gates|state_gradient)">.*?</section>', html, re.DOTALL)
    assert "<b>Not computed.</b> rnn.0: no gates" in gates and "<svg" not in gates
    assert "<b>Partly not computed.</b> b" in reach and "<svg" in reach


def test_nothing_at_all_is_still_a_page() -> None:
    empty = Report(ModelFacts("m"), "before", None, None, "It broke.", None, None, ())
    html = empty.to_html()
    assert "No verdict" in html and "It broke." in html and "It could not be drawn" in html
    Reader(html)


def test_a_trained_network_raises_no_alarm() -> None:
    trained = report(stage="after")
    html = trained.to_html()
    assert trained.word == "uses 30 steps" and "Uses 30 steps" in html and "word bad" not in html


def test_the_largest_report_is_under_two_megabytes() -> None:
    places = tuple(f"encoder.lstm.{k}{end}" for k in range(6) for end in ("", "_reverse"))
    assert len(report(1024, places, lags=2000).to_html().encode()) < page.LARGEST


def test_a_page_is_written_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "report.html"
    old.write_text("yesterday")
    assert report().to_html(old) == old.read_text(encoding="utf-8")
    old.write_text("yesterday")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report().to_html(old)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"] and old.read_text() == "yesterday"


def test_a_path_that_cannot_be_written_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "render", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ArgumentError) as caught:
        report().to_html(tmp_path / "no" / "report.html")
    assert str(caught.value) == (
        f"{tmp_path / 'no' / 'report.html'}: its folder does not exist\n  got       {tmp_path / 'no'}\n"
        f"  expected  an existing folder\n  hint      mkdir -p {tmp_path / 'no'}"
    )
    with pytest.raises(ArgumentError, match="is a folder"):
        report().to_html(tmp_path)


def test_a_report_as_json_and_in_a_notebook_and_by_name() -> None:
    r = report()
    as_dict = json.loads(json.dumps(r.to_dict(), allow_nan=False))
    assert as_dict["word"] == "blocked" and [s["name"] for s in as_dict["sections"]] == [s.name for s in r.sections]
    assert r._repr_html_().startswith("<iframe srcdoc=") and "<script" not in r._repr_html_()
    assert r["gates"].display is not None and "<svg" in r["gates"]._repr_html_()
    with pytest.raises(KeyError, match="there are state_gradient, retention"):
        r["nonsense"]
    assert repr(r).splitlines()[0] == "X-ray of a <model>: blocked (looked at before training: what can be learnt)"


def test_plain() -> None:
    assert plain({"a": np.array([1, -np.inf]), "b": [np.bool_(True), np.int64(3)]}) == {"a": [1.0, None], "b": [True, 3]}
