"""`openlstm xray`: a page, a summary in the terminal, JSON; --before, --lag and --apply; bad input told in one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import openlstm
from openlstm import cli, model_file
from openlstm.model_file import Header
from openlstm.tasks import xray as look
from openlstm.tasks.forecast import Forecaster, like

FIT = ["--horizon", "7", "--members", "1", "--hidden-size", "8", "--steps", "40", "-q"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table and a model of it."""
    folder = tmp_path_factory.mktemp("xray")
    t = np.arange(180)
    values = 20 + 3 * np.sin(2 * np.pi * t / 7) + 0.1 * np.random.default_rng(0).standard_normal(180)
    values[[60, 61]] = np.nan
    frame = pl.DataFrame({"date": np.datetime64("2001-01-01", "D") + t, "sales": values})
    frame.with_columns(pl.col("sales").fill_nan(None)).write_csv(folder / "a.csv")
    frame[:8].write_csv(folder / "short.csv")
    fit = ["fit", "forecast", str(folder / "a.csv"), "--time", "date", "--target", "sales", *FIT]
    assert cli.main([*fit, "-o", str(folder / "m.safetensors")]) == 0
    assert cli.main([*fit, "--init", "chrono=14", "-o", str(folder / "c.safetensors")]) == 0
    return folder


def quick(header: Header, **changed: Any) -> Forecaster:
    """The forecaster that is trained again, for a moment only."""
    return like(header, **{**changed, "steps": 20})


class Ran:
    """What a command printed, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *command: object) -> None:
        capsys.readouterr()
        self.status = cli.main([str(c) for c in command])
        self.out, self.err = capsys.readouterr()


def test_the_page_is_written_and_its_summary_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = place / "report.html"
    ran = Ran(capsys, "xray", place / "m.safetensors", place / "a.csv", "-o", page)
    assert ran.status == 0 and f"Wrote {page}" in ran.out
    assert ran.out.startswith(("Uses ", "No verdict")) and "gradient" in ran.out
    html = page.read_text(encoding="utf-8")
    assert "X-ray of m.safetensors" in html and "looked at after training" in html


def test_terminal_page_and_json_say_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = place / "same.html"
    command = ("xray", place / "m.safetensors", place / "a.csv", "--lag", 33, "-q")
    found = json.loads(Ran(capsys, *command, "--json").out)
    shown = "".join(Ran(capsys, *command, "-o", page).out.split())
    html = "".join(page.read_text(encoding="utf-8").split())
    by = {s["name"]: s for s in found["sections"]}
    uses = by["ablation"]["results"]["model"]["uses"]
    assert found["word"] == f"uses {uses} step{'s' * (uses != 1)}" and found["finding"] == by["ablation"]["finding"]
    assert by["streaming"]["finding"].splitlines()[-1].startswith((f"Send {uses} step", "It does better", "Started"))
    for sentence in (found["finding"], by["streaming"]["finding"].splitlines()[-1], *found["notes"]):
        assert "".join(sentence.split()) in shown and "".join(sentence.split()) in html
    assert shown.count("".join(found["finding"].split())) == 1
    lags = {r["name"]: r["lag"] for r in found["horizons"]["lags"]}
    assert lags["asked"] == 33 and lags["used"] == uses
    assert any("Windows are scaled by all of their" in note for note in found["notes"])


def test_before_is_the_same_network_before_its_first_step(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("xray", place / "m.safetensors", place / "a.csv", "--json", "-q")
    after, before = (json.loads(Ran(capsys, *command, *more).out) for more in ((), ("--before",)))
    assert (after["stage"], before["stage"]) == ("after", "before")
    assert after["page"] is None and before["verdict"]["word"] == before["word"]
    assert [s["name"] for s in after["sections"]][0] == "ablation"
    share = {k: next(s for s in d["sections"] if s["name"] == "state_gradient") for k, d in (("a", after), ("b", before))}
    assert share["a"]["results"]["recurrent.0"]["share"] != share["b"]["results"]["recurrent.0"]["share"]


def test_the_way_the_weights_began_is_kept_and_taken_up_again(place: Path) -> None:
    header, tensors = model_file.read(place / "c.safetensors")
    assert header.training.init == "chrono=14"
    net = look.network(header)
    bias = net.recurrent.bias_ih_l0.detach()  # type: ignore[union-attr]
    assert bool((bias[:8] == -bias[8:16]).all()) and bool((bias[8:16] > 0).any())  # b_i = -b_f
    assert all(bool((a == b).all()) for a, b in zip(net.parameters(), look.network(header).parameters(), strict=True))
    trained = dict(look.network(header, tensors).named_parameters())
    assert bool((trained["head.bias"].detach().numpy() == tensors["member.0.head.bias"]).all())


def test_without_data_the_inputs_are_noise_and_the_report_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(Ran(capsys, "xray", place / "m.safetensors", "--before", "--json", "-q").out)
    assert found["lag"] == 7 and "the inputs are noise" in " ".join(found["notes"])
    after = json.loads(Ran(capsys, "xray", place / "m.safetensors", "--json", "-q").out)
    assert after["word"] == "no verdict" and "openlstm xray MODEL DATA" in after["finding"]


def test_a_lag_beyond_the_window_is_told_in_the_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "xray", place / "m.safetensors", place / "a.csv", "--lag", 999, "--before", "-o", place / "far.html")
    assert ran.status == 0 and ran.out.startswith("No verdict") and "lag=999" in ran.out
    assert "No verdict" in (place / "far.html").read_text(encoding="utf-8")


def test_apply_trains_with_the_advice_and_writes_a_new_model_beside_the_old(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "like", quick)
    command = ("xray", place / "m.safetensors", place / "a.csv", "--lag", 29, "--apply", "--json", "-q")
    found = json.loads(Ran(capsys, *command).out)
    if found["word"] == "blocked":
        new = Path(found["advised"]["model"])
        assert new.parent == place and new != place / "m.safetensors"
        assert openlstm.load(new).header.training.init == found["advised"]["init"] == found["advice"]["best"]["flag"]
        assert set(found["advised"]["mase"]) == {"as it was", found["advised"]["init"]}
    else:
        assert found["advised"] is None


def test_apply_writes_what_is_advised(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an advice that is given, so that it does not hang on what this small network is."""
    from types import SimpleNamespace

    monkeypatch.setattr(look, "like", quick)
    header, _ = model_file.read(place / "m.safetensors")
    series = openlstm.load(place / "m.safetensors").panel(place / "a.csv")
    report = SimpleNamespace(advice=SimpleNamespace(best=SimpleNamespace(flag="forget-bias=2")))
    done = look.apply(report, header, series, place / "m.safetensors", quiet=True)  # type: ignore[arg-type]
    assert done is not None and Path(done["model"]).name == "m-forget-bias-2.safetensors"
    new = openlstm.load(done["model"]).header
    assert new.training.init == "forget-bias=2" and new.training.last == header.training.last
    assert new.series.window == header.series.window and set(done["mase"]) == {"as it was", "forget-bias=2"}
    assert look.apply(SimpleNamespace(advice=None), header, series, place / "m.safetensors") is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.safetensors", "a.csv"], "there is no such file"),
        (["a.csv", "a.csv"], "cannot be read: truncated, damaged, or not a safetensors file"),
        (["m.safetensors", "short.csv"], "no window holds a known value and a known target"),
        (["m.safetensors", "a.csv", "--target", "sale"], "there is no column 'sale'"),
        (["m.safetensors", "a.csv", "-o", "no/report.html"], "its folder does not exist"),
        (["m.safetensors", "a.csv", "-o", "report.pdf"], "has an unknown file extension"),
        (["m.safetensors", "--apply"], "--apply trains, so it needs the data"),
    ],
)
def test_bad_input_is_one_error(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(place)
    before = sorted(p.name for p in place.iterdir())
    ran = Ran(capsys, "xray", *arguments)
    assert ran.status == 1 and ran.out == "" and words in ran.err
    assert ran.err.count("error ") == 1 and "Traceback" not in ran.err and "hint" in ran.err
    assert sorted(p.name for p in place.iterdir()) == before


def test_an_unknown_initialisation_is_refused_before_the_data_are_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ("fit", "forecast", place / "a.csv", "--time", "date", "--target", "sales", *FIT, "-o", place / "x.safetensors")
    ran = Ran(capsys, *fit, "--init", "crono=14")
    assert ran.status == 1 and "no such way to begin: 'crono=14'" in ran.err and not (place / "x.safetensors").exists()
    assert Ran(capsys, *fit, "--init", "identity").status == 1
    assert Ran(capsys, "xray", place / "m.safetensors", "--lag", 0).status == 2
