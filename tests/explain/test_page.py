"""The page: complete, in order, self-contained, computed when it is made, and whole or not there at all."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tests.explain.lecture import computed

from openlstm import explain
from openlstm.errors import ArgumentError, source
from openlstm.explain import diagram, gates, gradients, page, step
from openlstm.explain.charts import Panel, number, panels
from openlstm.explain.formulas import equation, inline
from openlstm.insight.display import LIGHT

ACCENT = f"var(--accent, {LIGHT['accent']})"

HEADINGS = [
    "The vanilla RNN, and why its gradient vanishes",
    "The layer has to stay: a highway around it",
    "The forget gate",
    "The input gate",
    "The output gate, and what the three have in common",
    "The overall step",
    "A longer memory than the vanilla RNN",
    "No guarantee",
]
FIGURES = 20


class Reader(HTMLParser):
    """Checks that every element is closed, and collects what the tests ask for."""

    VOID = {"meta", "br", "wbr", "link", "img", "hr", "input"}

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


class Words(HTMLParser):
    """What a reader reads, in its order, with every letter of an equation or a drawing on its own; code is left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.path: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", "".join(self.said))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in Reader.VOID:
            self.path.append((tag, dict(attrs)))
        self.said.append(" " if tag in ("i", "sub", "sup", "tspan", "text", "td", "span") else "")
        if tag == "circle" and dict(attrs).get("class") == "dot":
            self.said.append("⊙")

    def handle_endtag(self, tag: str) -> None:
        self.path.pop()
        self.said.append(" " if tag in ("i", "sub", "sup", "tspan", "text", "td", "span", "p", "figcaption", "li") else "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.path.pop()

    def handle_data(self, data: str) -> None:
        hidden = any(tag in ("code", "style", "title") or at.get("id") == "sentences" for tag, at in self.path)
        narrow = any(at.get("class") == "narrow" for _, at in self.path)
        if not hidden and not narrow:
            self.said.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, list[str]]:
    path = tmp_path_factory.mktemp("page") / "explain.html"
    sections, said = computed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "compute", lambda *_: sections)
        summary = explain.write(path)
    return summary, path.read_text(encoding="utf-8"), said


@pytest.mark.slow
def test_the_sections_come_in_the_order_of_the_lecture(made: tuple[dict, str, list[str]]) -> None:
    summary, html, said = made
    assert Reader(html).headings == [*HEADINGS, "All letters again"]
    assert [s["title"] for s in summary["sections"]] == HEADINGS == said


@pytest.mark.slow
def test_the_page_needs_nothing_but_itself(made: tuple[dict, str, list[str]]) -> None:
    html = made[1]
    reader = Reader(html)
    assert "script" not in reader.tags and "img" not in reader.tags
    assert all(a.startswith("#") or a == "data:," for a in reader.addresses)  # the second is the empty icon
    assert all(a[1:] in reader.ids for a in reader.addresses if a != "data:,")
    assert not re.search(r"url\((?!#)|@import", html)
    outside = set(re.findall(r"https?://[^\"'\s)]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of namespaces, not fetched


@pytest.mark.slow
def test_no_two_elements_share_an_id(made: tuple[dict, str, list[str]]) -> None:
    ids = Reader(made[1]).ids
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_every_figure_has_a_title_a_drawing_for_each_width_labelled_axes_and_its_finding(
    made: tuple[dict, str, list[str]],
) -> None:
    summary, html, _ = made
    figures = [f for s in summary["sections"] for f in s["figures"]]
    assert len(figures) == FIGURES
    blocks = re.findall(r"<figure id=.*?</figure>", html, re.DOTALL)
    assert len(blocks) == len(figures)
    for figure, block in zip(figures, blocks, strict=True):
        assert f'<p class="title">{figure["title"]}</p>'.replace("'", "&#39;") in block
        assert re.search(r"\d", figure["finding"])  # a number, computed
        assert block.count('class="wide"') == block.count('class="narrow"') == 1
        if "Jacobians fades" not in figure["title"]:  # matrices have no axes, and a text has letters
            assert re.search(r">(step t|steps back, k|lag k, in steps|lag, in steps|forget gate f)</text>", block)


@pytest.mark.slow
def test_every_section_shows_equations_and_the_diagram(made: tuple[dict, str, list[str]]) -> None:
    parts = re.split(r'<section id="section-', made[1])[1:]
    assert len(parts) == 8
    assert all('class="equation"' in part and 'class="wiring"' in part for part in parts)


@pytest.mark.slow
def test_the_overall_step_is_six_lines_of_equations_and_no_code(made: tuple[dict, str, list[str]]) -> None:
    part = made[1].split('<section id="section-step">')[1].split("</section>")[0]
    lines = re.findall(r'class="equation" role="math" aria-label="(\w)_t = ', part)
    assert lines == ["f", "i", "g", "o", "c", "h"]
    assert "<pre" not in made[1] and "def " not in part


@pytest.mark.slow
def test_colours_come_from_the_page_so_that_light_and_dark_both_work(made: tuple[dict, str, list[str]]) -> None:
    html = made[1]
    assert "prefers-color-scheme: dark" in html
    drawings = re.findall(r'<div class="(?:wide|narrow)".*?</div>', html, re.DOTALL)
    drawings += re.findall(r'<svg[^>]*class="wiring".*?</svg>', html, re.DOTALL)
    assert len(drawings) == 2 * FIGURES + 8
    assert not any(re.search(r'(?:fill|stroke|color)="#', d) for d in drawings)


@pytest.mark.slow
def test_the_findings_are_on_the_page_as_they_were_computed(made: tuple[dict, str, list[str]]) -> None:
    summary, html, _ = made
    for section in summary["sections"]:
        for figure in section["figures"]:
            assert figure["finding"].replace("'", "&#39;") in html


SAID = (
    (1, "how else could information, or a gradient, travel between steps that are far apart?"),
    (1, "each time it was multiplied by the same W hh"),
    (2, "a sum knows no relation between the two"),
    (2, "The layer relates the input to the past. It cannot be dropped."),
    (2, "a highway is laid around it: a second hidden state, the cell state c t"),
    (2, "On the branch that leads from the sum to h t stands one more non-linearity, tanh ( c t )"),
    (3, "even a long memory has to be controlled. Think of reading several sentences."),
    (3, "When one ends and the next begins, what went before has to be forgotten"),
    (3, "From the input and the hidden state it decides"),
    (4, "The same can be done on the side of the input."),
    (4, "The cell state is basically the sum of the previous state and the input"),
    (5, "controls what of the cell reaches h t"),
    (5, "All three gates are built alike: a fully connected layer of h t −1 and x t"),
    (5, "a sigmoid, so that the result lies between zero and one; and a multiplication. They are ratios"),
    (6, "they determine h t and c t . The gates say how much of the old stays and how much of the new enters."),
    (7, "the cell is kept, indefinitely"),
    (7, "it forgets completely and takes only what is new: a new sentence begins"),
    (7, "The model learns it from the data, if it is needed"),
    (8, "does not guarantee that no gradient vanishes or explodes"),
    (8, "it makes long dependencies easier to learn"),
    (8, "practical in the range that one is interested in"),
    (8, "nine in ten answers were right for the vanilla RNN up to a lag of"),
)
"""Number of the section -> what is said there, of all that the lecture states."""


@pytest.mark.slow
def test_every_statement_of_the_lecture_is_said(made: tuple[dict, str, list[str]]) -> None:
    parts = [Words(part).text for part in re.findall(r'<section id="section-.*?</section>', made[1], re.DOTALL)]
    assert len(parts) == 8
    missing = [(number, words) for number, words in SAID if words not in parts[number - 1]]
    assert missing == []


DEFINED = {
    "t": r"We count the steps with t\b",
    "x": r"call the input at that step x\b",
    "h": r"and the state after it h\b",
    "W": r"layer with weights W xh and W hh and biases b\b",
    "b": r"layer with weights W xh and W hh and biases b\b",
    "T": r"a mistake at the last step, T\b",
    "k": r"what it read k steps earlier",
    "J": r"the step’s Jacobian, J\b",
    "∂": r"With ∂ for a derivative",
    "c": r"the cell state c\b",
    "g": r"called the candidate g\b",
    "f": r"the forget gate f\b",
    "σ": r"The sigmoid σ squeezes",
    "⊙": r"and ⊙ multiplies number by number",
    "i": r"the input gate i\b",
    "o": r"The output gate o\b",
    "z": r"whose sum we call z\b",
    "s": r"call them s\b",
}
"""Letter -> where it is defined; a subscript of several letters, as in W xh, is a name, not a letter."""


@pytest.mark.slow
def test_no_letter_is_used_before_it_is_defined(made: tuple[dict, str, list[str]]) -> None:
    text = Words(made[1]).text
    first: dict[str, int] = {}
    for found in re.finditer(r"(?<![\w’'])([a-zA-Zσ]|∂|⊙)(?![\w’'])", text):
        if found[1] not in ("a", "A", "I"):  # words
            first.setdefault(found[1], found.start())
    assert set(first) == set(DEFINED)
    for letter, place in first.items():
        definition = re.search(DEFINED[letter], text)
        assert definition is not None, letter
        assert definition.start() <= place < definition.end(), f"{letter}: {text[max(0, place - 60) : place + 20]}"


def test_figures_are_computed_not_stored() -> None:
    """Another seed draws other weights: curves and sentences change."""
    for part in (gradients.vanishing, gradients.no_guarantee, gates.for_ever, gates.running_sum, step.same_form):
        (a, _), (b, _) = part(0), part(5)
        name = next(iter(a))
        assert a[name].draw(600).to_json() != b[name].draw(600).to_json()
        assert [f.finding for f in a.values()] != [f.finding for f in b.values()]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "explain.html"
    old.write_text("the page of yesterday")
    monkeypatch.setattr(page, "compute", lambda *a: [])
    monkeypatch.setattr(page, "render", lambda *a: "half a page")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
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


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
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
        f"  hint      pip install '{source()}[report]'"
    )


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("h_{t-1}", "<i>h</i><sub><i>t</i>−1</sub>"),
        ("h_t^2", '<i>h</i><span class="scripts"><sup>2</sup><sub><i>t</i></sub></span>'),
        ("{∂c}/{∂h}", '<span class="fraction"><span>∂<i>c</i></span><span>∂<i>h</i></span></span>'),
        ("tanh(x)", '<span class="name">tanh</span>(<i>x</i>)'),
        ("a < b", "<i>a</i>&lt;<i>b</i>"),
        ("a - b", '<i>a</i><wbr><span class="sign">−</span><i>b</i>'),
        (
            "[a & b ; c & d]",
            '<span class="matrix" style="grid-template-columns:repeat(2,auto)">'
            "<span><i>a</i></span><span><i>b</i></span><span><i>c</i></span><span><i>d</i></span></span>",
        ),
    ],
)
def test_equations_become_html_with_signs_and_indices(text: str, inside: str) -> None:
    assert inline(text) == f'<span class="math">{inside}</span>'
    assert equation(text).endswith(f">{inside}</div>")


@pytest.mark.slow
def test_equations_need_no_mathematical_font(made: tuple[dict, str, list[str]]) -> None:
    """Their characters are those that every font for text has; other signs are drawn."""
    html = made[1]
    assert "<math" not in html
    parts = re.findall(r'<div class="equation".*?</div>|<span class="math">.*?</span>', html, re.DOTALL)
    assert len(parts) > 50
    assert not set(re.sub(r"<[^>]*>", "", "".join(parts))) - {chr(n) for n in range(32, 127)} - set("−·∂σ")


def test_a_part_of_the_diagram_is_lit_and_letters_come_when_they_are_known() -> None:
    for part in diagram.PARTS:
        one = diagram.lstm((part,)).svg
        assert one.count(f'stroke="{ACCENT}"') >= 1
        assert one != diagram.lstm(()).svg and one != diagram.lstm().svg
    assert diagram.lstm(()).svg.count(f'stroke="{ACCENT}"') == 0
    early = Words(diagram.lstm(("highway",), known=("highway", "layer", "tanh")).svg).text
    assert "g" in early.split() and not {"f", "i", "o", "σ"} & set(early.split())
    assert {"f", "i", "g", "o", "σ", "c", "h", "x"} <= set(Words(diagram.lstm().svg).text.split())
    assert diagram.rnn().svg.count("<text") >= 5 and "cell" not in diagram.rnn().svg


def test_the_diagram_shows_the_numbers_of_a_step() -> None:
    fact = step.one_step(3)[1]
    shown = Words(diagram.lstm(numbers=fact).svg).text
    assert all(number(fact[name]) in shown for name in ("x", "h", "c", "i", "f", "g", "o", "c_new", "h_new"))


def test_a_line_along_the_edge_of_its_panel_keeps_its_whole_width() -> None:
    """Only a panel on a scale that was given cuts off what goes beyond it."""

    def cut(domain: tuple[float, float] | None) -> bool:
        panel = Panel("c", {"a": np.full(2, 0.9), "b": np.full(2, -0.6)}, domain=domain)
        return "clip-path" in panels("Retention", "Two levels.", [panel]).svg()

    assert not cut(None) and cut((0.0, 1.0))
