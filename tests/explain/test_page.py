"""The page: complete, in order, self-contained, computed when it is made, and whole or not there at all."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from openlstm import explain
from openlstm._errors import ArgumentError
from openlstm.explain import page
from openlstm.explain.formulas import mathml

HEADINGS = [
    "The vanilla RNN, and why its gradient vanishes",
    "The highway and the cell state",
    "The forget gate",
    "The input gate",
    "The output gate",
    "The overall step",
    "Kept for ever, and started afresh",
    "The model learns it from the data, if it is needed",
    "No guarantee",
]


class Reader(HTMLParser):
    """Checks that every element is closed, and collects what the tests ask for."""

    VOID = {"meta", "br", "link", "img", "hr", "input"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, list[str]]:
    path, said = tmp_path_factory.mktemp("page") / "explain.html", []
    summary = explain.write(path, on_progress=said.append)
    return summary, path.read_text(encoding="utf-8"), said


def test_the_sections_come_in_the_order_of_the_lecture(made: tuple[dict, str, list[str]]) -> None:
    summary, html, said = made
    assert Reader(html).headings == [*HEADINGS, "Where to go from here"]
    assert [s["title"] for s in summary["sections"]] == HEADINGS == said


def test_the_page_needs_nothing_but_itself(made: tuple[dict, str, list[str]]) -> None:
    html = made[1]
    reader = Reader(html)
    assert "script" not in reader.tags and "link" not in reader.tags and "img" not in reader.tags
    assert all(a.startswith("#") for a in reader.addresses)
    assert all(a[1:] in reader.ids for a in reader.addresses)
    assert not re.search(r"url\((?!#)|@import", html)
    outside = set(re.findall(r"https?://[^\"'\s)]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of namespaces, not fetched


def test_no_two_elements_share_an_id_but_the_arrow_of_the_two_wirings(made: tuple[dict, str, list[str]]) -> None:
    ids = Reader(made[1]).ids
    assert {i for i in ids if ids.count(i) > 1} <= {"arrow"}


def test_every_figure_has_a_title_a_drawing_for_each_width_labelled_axes_and_its_finding(
    made: tuple[dict, str, list[str]],
) -> None:
    summary, html, _ = made
    figures = [f for s in summary["sections"] for f in s["figures"]]
    assert len(figures) == 12
    blocks = re.findall(r"<figure id=.*?</figure>", html, re.DOTALL)
    assert len(blocks) == len(figures)
    for figure, block in zip(figures, blocks, strict=True):
        assert f"<h3>{figure['title']}</h3>".replace("'", "&#39;") in block
        assert re.search(r"\d", figure["finding"])  # a number, computed
        assert block.count('class="wide"') == block.count('class="narrow"') == 1
        if "Jacobians fades" not in figure["title"]:  # matrices have no axes
            assert re.search(r">(step t|steps back, k|lag k, in steps)</text>", block)


def test_every_section_but_the_gates_own_numbers_shows_its_equation(made: tuple[dict, str, list[str]]) -> None:
    parts = re.split(r'<section id="section-', made[1])[1:]
    assert len(parts) == 9 and all("<math" in part for part in parts)


def test_colours_come_from_the_page_so_that_light_and_dark_both_work(made: tuple[dict, str, list[str]]) -> None:
    html = made[1]
    assert "prefers-color-scheme: dark" in html
    drawings = re.findall(r'<div class="(?:wide|narrow)".*?</div>', html, re.DOTALL)
    assert len(drawings) == 24
    assert not any(re.search(r'(?:fill|stroke)="#', d) for d in drawings)


def test_the_findings_are_on_the_page_as_they_were_computed(made: tuple[dict, str, list[str]]) -> None:
    summary, html, _ = made
    for section in summary["sections"]:
        for figure in section["figures"]:
            assert figure["finding"].replace("'", "&#39;") in html


def test_figures_are_computed_not_stored() -> None:
    """Another seed draws other weights: curves and sentences change."""
    make = dict((name, f) for name, _, f in page.SECTIONS)
    for name in ("vanishing", "guarantee", "ever"):
        a, b = make[name](0)[0], make[name](5)[0]
        assert a[0].draw(600).to_json() != b[0].draw(600).to_json()
        assert [f.finding for f in a] != [f.finding for f in b]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "explain.html"
    old.write_text("the page of yesterday")
    monkeypatch.setattr(page, "compute", lambda *a: [])
    monkeypatch.setattr(page, "render", lambda *a: "half a page")
    monkeypatch.setattr(page.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        explain.write(old)
    assert [p.name for p in tmp_path.iterdir()] == ["explain.html"]
    assert old.read_text() == "the page of yesterday"


def test_a_folder_that_is_not_there_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "compute", lambda *a: pytest.fail("computed"))
    with pytest.raises(ArgumentError) as error:
        explain.write("no/such/folder/explain.html")
    assert str(error.value) == (
        "no/such/folder/explain.html: its folder does not exist\n"
        "  got       no/such/folder\n"
        "  expected  an existing folder\n"
        "  hint      mkdir -p no/such/folder"
    )


def test_a_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as error:
        explain.write(tmp_path / "explain.html", seed=-1)
    assert str(error.value) == (
        "explain: seed is too small\n  got       seed=-1\n  expected  at least 0\n  hint      pass seed=0 or more"
    )
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_names_its_pip_command() -> None:
    code = "import sys; sys.modules['altair'] = None\ntry:\n    import openlstm.explain\nexcept ImportError as e:\n    print(e)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (
        "explain: needs the package altair, which is not installed\n"
        "  got       no module named altair\n"
        "  expected  the extra 'report'\n"
        "  hint      pip install 'openlstm[report]'"
    )


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("h_{t-1}", "<msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>"),
        ("h_t^2", "<msubsup><mi>h</mi><mi>t</mi><mn>2</mn></msubsup>"),
        (
            "{∂c}/{∂h}",
            "<mfrac><mrow><mrow><mo>∂</mo><mi>c</mi></mrow></mrow><mrow><mrow><mo>∂</mo><mi>h</mi></mrow></mrow></mfrac>",
        ),
        ("tanh(x)", '<mi mathvariant="normal">tanh</mi><mo>(</mo><mi>x</mi><mo>)</mo>'),
        ("a < b", "<mi>a</mi><mo>&lt;</mo><mi>b</mi>"),
        (
            "[a & b]",
            '<mrow><mo>(</mo><mtable displaystyle="true"><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr></mtable>'
            "<mo>)</mo></mrow>",
        ),
    ],
)
def test_equations(text: str, inside: str) -> None:
    assert mathml(text) == f'<math display="block">{inside}</math>'
