"""The command line as a user meets it: results on standard output, everything else on standard error, honest exit statuses."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import openlstm
from openlstm import cli
from openlstm.data import Columns, read_panel
from openlstm.engine import native
from openlstm.errors import source

FIT = ["--horizon", "7", "--members", "1", "--hidden-size", "8", "--steps", "20", "--batch-size", "16"]


def write(path: Path, n: int = 150) -> Path:
    t = np.arange(n)
    values = 20 + 0.1 * t + 3 * np.sin(2 * np.pi * t / 7)
    values[[30, 31]] = np.nan
    frame = pl.DataFrame({"date": np.datetime64("2001-01-01", "D") + t, "sales": values}).with_columns(
        pl.col("sales").fill_nan(None)
    )
    (frame.write_parquet if path.suffix == ".parquet" else frame.write_csv)(path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, the same as Parquet, and a model of it."""
    folder = tmp_path_factory.mktemp("cli")
    write(folder / "a.csv")
    write(folder / "a.parquet")
    command = [
        "fit",
        "forecast",
        str(folder / "a.csv"),
        "--time",
        "date",
        "--target",
        "sales",
        *FIT,
        "-o",
        str(folder / "m.safetensors"),
        "-q",
    ]
    assert cli.main(command) == 0
    return folder


class Ran:
    """What a command printed, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *command: object) -> None:
        capsys.readouterr()
        self.status = cli.main([str(c) for c in command])
        self.out, self.err = capsys.readouterr()


def test_fit_says_what_it_read_and_how_it_compares(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(
        capsys, "fit", "forecast", place / "a.csv", "--time", "date", "--target", "sales", *FIT, "-o", place / "n.safetensors"
    )
    assert ran.status == 0
    assert "note: 2 values of sales are missing: 2001-01-31 to 2001-02-01\n" in ran.err
    assert "note: 1 series, 136 steps, one each day; season 7\n" in ran.err and "training" in ran.err
    for text in (
        "sales: 7 days ahead, 2 origins, 2001-05-17 to 2001-05-30",
        "seasonal naive + drift",
        "linear window",
        "ETS",
        "LSTM",
        "Saved",
    ):
        assert text in ran.out
    assert openlstm.load(place / "n.safetensors").horizon == 7
    assert (place / "n.safetensors").read_bytes() == (place / "m.safetensors").read_bytes()  # the same seed, the same file


def test_fit_as_json_is_one_object_and_nothing_else(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(
        capsys,
        "fit",
        "forecast",
        place / "a.parquet",
        "--time",
        "date",
        "--target",
        "sales",
        *FIT,
        "-o",
        place / "j.safetensors",
        "--json",
    )
    assert ran.status == 0
    found = json.loads(ran.out)
    assert found["header"]["series"]["period"] == 7 and found["header"]["series"]["window"] == 22
    assert {"LSTM", "best", "naive"} <= {s["name"] for s in found["evaluation"]["scores"]}
    assert found["notes"][0].startswith("2 values of sales are missing") and found["config"] == str(place / "j.yml")


def test_holdout_0_trains_on_everything_and_says_that_there_is_no_score(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(
        capsys,
        "fit",
        "forecast",
        place / "a.csv",
        "--time",
        "date",
        "--target",
        "sales",
        *FIT,
        "--holdout",
        0,
        "-o",
        place / "z.safetensors",
        "-q",
    )
    assert ran.status == 0 and "Nothing was held out" in ran.out
    assert openlstm.load(place / "z.safetensors").header.training.last.startswith("2001-05-30")
    ran = Ran(capsys, "evaluate", place / "z.safetensors", place / "a.csv")
    assert ran.status == 1 and "there is nothing to evaluate on:" in ran.err


def test_predict_writes_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.csv")
    assert ran.status == 0
    table = pl.read_csv(io.StringIO(ran.out))
    assert table.columns == ["date", "forecast", "lower_80", "upper_80"]
    assert table["date"].to_list()[0] == "2001-05-31" and len(table) == 7
    assert (table["lower_80"] <= table["forecast"]).all() and (table["forecast"] <= table["upper_80"]).all()
    assert "note: 2 values of sales are missing" in ran.err

    ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.parquet", "--json")
    found = json.loads(ran.out)
    assert [r["forecast"] for r in found["forecast"]] == table["forecast"].to_list()

    for name in ("out.csv", "out.parquet"):
        ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.csv", "-o", place / name)
        assert ran.status == 0 and ran.out == "" and f"wrote 7 rows to {place / name}" in ran.err
    assert pl.read_csv(place / "out.csv").equals(table)
    assert pl.read_parquet(place / "out.parquet").equals(table.with_columns(pl.col("date").str.to_datetime()))


@pytest.mark.parametrize(("level", "unit"), [(0.0, 1.0), (1e9, 1.0), (0.0, 1e39), (0.0, 1e90), (0.0, 1e-60)])
def test_every_output_gives_the_numbers_of_the_model(
    level: float, unit: float, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written is read back bit for bit, at any level and in any unit."""
    model = openlstm.load(place / "m.safetensors")
    table = pl.read_csv(place / "a.csv").with_columns(level + unit * pl.col("sales"))
    table.write_csv(place / "level.csv")
    made = model.predict(table["sales"].fill_null(float("nan")).to_numpy(), start="2001-01-01")
    expected = np.array([made.median[0], *(a[0] for a in made.bands[80])])
    assert len(np.unique(expected[0])) == 7 and np.isfinite(expected).all()
    command = ("predict", place / "m.safetensors", place / "level.csv")
    for name in ("level-out.csv", "level-out.parquet"):
        assert Ran(capsys, *command, "-o", place / name).status == 0
    columns = ["forecast", "lower_80", "upper_80"]
    lines = [line.split(",")[1:] for line in Ran(capsys, *command).out.splitlines()[1:]]
    rows = json.loads(Ran(capsys, *command, "--json").out)["forecast"]
    written = {
        "stdout": np.array([[float(v) for v in line] for line in lines]).T,
        "json": np.array([[row[name] for name in columns] for row in rows]).T,
        "csv": np.array([read_panel(place / "level-out.csv", Columns("date", name)).values for name in columns]),
        "parquet": np.array([read_panel(place / "level-out.parquet", Columns("date", name)).values for name in columns]),
    }
    for name, values in written.items():
        assert (values == expected).all(), name


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_the_dates_of_a_forecast_can_be_read_back(place: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    """Of hours, some at midnight: all in one form."""
    t = np.datetime64("2001-01-01T00", "us") + np.arange(300) * np.timedelta64(1, "h")
    pl.DataFrame({"date": t, "sales": np.sin(np.arange(300.0))}).write_csv(place / "hours.csv")
    fit = ("fit", "forecast", place / "hours.csv", "--time", "date", "--target", "sales", *FIT, "--window", 9, "-q")
    assert Ran(capsys, *fit, "--horizon", 30, "-o", place / "hours.safetensors").status == 0
    out = place / f"hours-out{ending}"
    assert Ran(capsys, "predict", place / "hours.safetensors", place / "hours.csv", "-o", out).status == 0
    read = read_panel(out, Columns("date", "forecast"))
    assert (read.times(0) == t[-1] + np.arange(1, 31) * np.timedelta64(1, "h")).all() and not read.notes


@pytest.mark.parametrize("power", [100, 101, 154, 200, 300])
def test_numbers_of_any_size_give_a_forecast_or_an_error(power: int, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pl.read_csv(place / "a.csv").with_columns(pl.col("sales") * 10.0**power / 100)
    table.write_csv(place / "large.csv")
    largest = float(table["sales"].max())  # type: ignore[arg-type]
    fit = ("fit", "forecast", place / "large.csv", "--time", "date", "--target", "sales", *FIT, "-q", "--json")
    commands = [
        (*fit, "-o", place / "large.safetensors"),
        ("predict", place / "m.safetensors", place / "large.csv", "--json"),
        ("evaluate", place / "m.safetensors", place / "large.csv", "-q", "--json"),
        ("xray", place / "m.safetensors", place / "large.csv", "-q", "--json"),
    ]
    for command in commands:
        ran = Ran(capsys, *command)
        if largest <= 1e100:
            assert ran.status == 0, ran.err
            json.loads(ran.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        else:
            assert ran.status == 1 and ran.out == "" and "is too large to compute with" in ran.err


def test_a_wrong_time_format_is_one_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for told in ("%m/%d", "%Q", "%Y-%m-%d %H", "", "%d.%m.%Y"):
        ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.csv", "--time-format", told)
        assert ran.status == 1 and ran.out == "" and "Traceback" not in ran.err, told
        assert ran.err.startswith("error ") and "hint" in ran.err and "format" in ran.err, told


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (MemoryError("Unable to allocate 8.00 TiB"), "error openlstm: the memory does not suffice"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "error openlstm: the memory does not"),
        (PermissionError(13, "Permission denied", "a.csv"), "error a.csv: cannot be read or written\n  got       Permission"),
        (OSError(28, "No space left on device"), "error openlstm: cannot be read or written\n  got       No space left"),
    ],
)
def test_what_the_system_refuses_is_told_in_our_form(
    error: Exception, first: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("openlstm.data.reading.read_panel", fail)
    ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.csv")
    assert ran.status == 1 and ran.out == "" and ran.err.startswith(first) and "\n  hint      " in ran.err


def test_a_fault_of_ours_is_not_hidden(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("openlstm.data.reading.read_panel", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main(["predict", str(place / "m.safetensors"), str(place / "a.csv")])


def test_a_network_beyond_the_memory_is_one_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ("fit", "forecast", place / "a.csv", "--time", "date", "--target", "sales", "--horizon", 7, "-q")
    ran = Ran(capsys, *fit, "--hidden-size", 10**8, "-o", place / "big.safetensors")  # beyond any address
    assert ran.status == 1 and "hint" in ran.err and "Traceback" not in ran.err
    assert not (place / "big.safetensors").exists()


def test_predict_needs_no_torch(place: Path) -> None:
    code = (
        "import sys; from openlstm.cli import main\n"
        f"assert main(['predict', {str(place / 'm.safetensors')!r}, {str(place / 'a.csv')!r}]) == 0\n"
        "heavy = {'torch', 'lightning_fabric', 'altair', 'statsmodels'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.startswith("date,forecast,lower_80,upper_80\n2001-05-31,")


def test_evaluate_prints_the_errors_and_the_verdict(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "evaluate", place / "m.safetensors", place / "a.csv")
    assert ran.status == 0 and "LSTM" in ran.out and ("LOSES" in ran.out or "smaller error than every baseline" in ran.out)
    found = json.loads(Ran(capsys, "evaluate", place / "m.safetensors", place / "a.csv", "--json").out)
    assert found["held_out"]["first"] == "2001-05-17" and found["held_out"]["origins"] == 2
    assert "LSTM" in found["verdict"]


def test_errors_are_printed_once_without_traceback(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.csv", "--target", "sale")
    assert ran.status == 1 and ran.out == ""
    assert ran.err == (
        "error a.csv: there is no column 'sale'\n  got       'sale'\n  expected  one of date, sales\n"
        "  hint      did you mean 'sales'?\n"
    )
    for command in (
        ("predict", place / "no.safetensors", place / "a.csv"),
        ("evaluate", place / "a.csv", place / "a.csv"),
        (
            "fit",
            "forecast",
            place / "a.csv",
            "--time",
            "date",
            "--target",
            "sales",
            "--horizon",
            90,
            "-o",
            place / "bad.safetensors",
        ),
        (
            "fit",
            "forecast",
            place / "a.csv",
            "--time",
            "sales",
            "--target",
            "sales",
            "--horizon",
            7,
            "-o",
            place / "bad.safetensors",
        ),
        ("lab", "latch", "--arms", "gruu"),
    ):
        ran = Ran(capsys, *command, "--json") if command[0] != "fit" else Ran(capsys, *command)
        assert ran.status == 1 and ran.out == "", command
        assert ran.err.count("error ") == 1 and "hint" in ran.err and "Traceback" not in ran.err, command
    assert not (place / "bad.safetensors").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(
        capsys,
        "fit",
        "forecast",
        place / "a.csv",
        "--time",
        "date",
        "--target",
        "sales",
        *FIT,
        "-o",
        place / "no" / "m.safetensors",
    )
    folder = place / "no"
    assert ran.status == 1
    assert ran.err == (
        f"error {folder / 'm.safetensors'}: its folder does not exist\n  got       {folder}\n"
        f"  expected  an existing folder\n  hint      mkdir -p {folder}\n"
    )
    ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.csv", "-o", place / "out.xlsx")
    assert ran.status == 1 and "has an unknown file extension\n  got       '.xlsx'\n  expected  .csv or .parquet" in ran.err
    ran = Ran(capsys, "predict", place / "m.safetensors", place / "a.csv", "-o", place)
    assert ran.status == 1 and "is a folder" in ran.err


@pytest.mark.parametrize("folder", ["file", "/proc"])
@pytest.mark.parametrize(
    "command",
    [
        ["fit", "forecast", "a.csv", "--time", "date", "--target", "sales", *FIT, "-o", "m.safetensors"],
        ["predict", "m.safetensors", "a.csv", "-o", "out.csv"],
        ["predict", "m.safetensors", "a.csv", "-o", "out.parquet"],
        ["xray", "m.safetensors", "a.csv", "-o", "page.html"],
        ["explain", "-o", "page.html"],
        ["lab", "latch", "-o", "picture.svg"],
        ["demo", "-o", "folder"],
    ],
    ids=lambda c: " ".join(c[:2]),
)
def test_every_output_is_tried_before_the_work(
    command: list[str], folder: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file as a folder, and a folder in which not even root makes a file."""
    if not Path("/proc/self").exists():
        pytest.skip("no such folder here")
    monkeypatch.chdir(place)
    Path("file").touch()
    for work in ("data.read_panel", "lab.run", "explain.page.compute", "demo._co2"):
        monkeypatch.setattr(f"openlstm.{work}", lambda *_, **__: pytest.fail("worked before the output was tried"))
    ran = Ran(capsys, *command[:-1], Path(folder) / command[-1])
    assert ran.status == 1 and ran.out == ""
    assert ran.err.startswith(f"error {Path(folder) / command[-1]}: ") and "\n  hint      " in ran.err


def test_an_output_that_is_replaced_keeps_its_rights_and_its_link(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("kept.safetensors", "kept.csv", "kept.html"):
        (place / name).touch(0o600)
        (place / f"link-{name}").symlink_to(name)
    fit = ("fit", "forecast", place / "a.csv", "--time", "date", "--target", "sales", *FIT, "-q")
    assert Ran(capsys, *fit, "-o", place / "link-kept.safetensors").status == 0
    assert Ran(capsys, "predict", place / "m.safetensors", place / "a.csv", "-o", place / "link-kept.csv").status == 0
    assert Ran(capsys, "xray", place / "m.safetensors", "-q", "-o", place / "link-kept.html").status == 0
    for name in ("kept.safetensors", "kept.csv", "kept.html"):
        assert (place / f"link-{name}").is_symlink() and (place / name).stat().st_size > 0
        assert (place / name).stat().st_mode & 0o777 == 0o600


def test_what_is_read_is_never_written_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = place / "a.csv"
    before = table.read_bytes()
    ran = Ran(capsys, "predict", place / "m.safetensors", table, "-o", table)
    assert ran.status == 1
    assert ran.err == (
        f"error {table}: is the input, which would be overwritten\n  got       {table} as input and as output\n"
        "  expected  another file\n  hint      for example new-a.csv\n"
    )
    assert Ran(capsys, "fit", "forecast", table, "--time", "date", "--target", "sales", *FIT, "-o", table).status == 1
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["predict"],
        ["nonsense"],
        ["fit", "forecast", "a.csv", "--horizon", "0"],
        ["predict", "a", "b", "--unknown"],
        ["lab", "latch", "--lag", "0"],
    ],
)
def test_wrong_usage_exits_with_status_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, *command)
    assert ran.status == 2 and ran.out == "" and "Usage: openlstm" in ran.err


def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "--help")
    assert ran.status == 0
    for command in ("check", "fit", "predict", "evaluate", "inspect", "xray", "demo", "explain", "lab", "doctor"):
        assert f"\n  {command} " in ran.out
    assert Ran(capsys, "--version").out == f"{openlstm.__version__}\n"
    for command in (
        ["fit", "forecast"],
        ["predict"],
        ["evaluate"],
        ["xray"],
        ["demo"],
        ["explain"],
        ["lab", "latch"],
        ["doctor"],
    ):
        ran = Ran(capsys, *command, "--help")
        assert ran.status == 0 and "--json" in ran.out, command


def test_lab_latch_prints_a_table_or_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--lag", 5, "--steps", 2, "--jobs", 1]
    ran = Ran(capsys, "lab", "latch", *options, "--seeds", 2, "--arms", "rnn,lstm-chrono", "--json")
    assert ran.status == 0
    found = json.loads(ran.out)
    assert (found["lag"], found["steps"], found["seeds"]) == (5, 2, 2)
    assert [arm["name"] for arm in found["arms"]] == ["rnn", "lstm-chrono"]
    assert all(len(arm["scores"]) == 2 for arm in found["arms"])
    ran = Ran(capsys, "lab", "latch", *options, "--arms", "rnn", "-q")
    assert "latch, lag 5: the sign at the last of four marks" in ran.out and "50% is guessing" in ran.out and ran.err == ""


def test_doctor_reports_the_engine_and_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(Ran(capsys, "doctor", "--json").out)
    assert found["openlstm"] == openlstm.__version__ and found["packages"]["numpy"] == np.__version__
    assert found["engine"]["backend"] in found["engine"]["backends"] and found["engine"]["threads"] >= 1
    ran = Ran(capsys, "doctor")
    assert ran.status == 0 and ("instruction set" in ran.out or not found["engine"]["native"])
    assert "Nothing is missing." in ran.out or "pip install" in ran.out


@pytest.mark.parametrize("variable", ["OPENLSTM_ISA", "OPENLSTM_BACKEND", "OPENLSTM_NUM_THREADS"])
def test_doctor_finds_a_wrong_variable_and_goes_on(variable: str) -> None:
    """In a process of its own: these variables are read once."""
    if variable != "OPENLSTM_BACKEND" and not native.available():
        pytest.skip("read by the compiled extension's side")
    command = [sys.executable, "-c", "import sys; from openlstm.cli import main; sys.exit(main())", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, variable: "mmx"})
    found = json.loads(done.stdout)
    assert done.returncode == 1 and list(found["wrong"]) == [variable] and "mmx" in found["wrong"][variable]
    assert found["packages"]["numpy"] and found["environment"][variable] == "mmx"
    shown = subprocess.run(command[:-1], capture_output=True, text=True, env={**os.environ, variable: "mmx"})
    assert shown.returncode == 1 and "mmx" in shown.stdout and "hint" in shown.stdout


def test_doctor_names_the_command_for_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from openlstm import doctor

    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("polars", "torch") else real(name))
    missing = json.loads(Ran(capsys, "doctor", "--json").out)["missing"]
    assert missing["polars"] == f"pip install '{source()}[data]'" and missing["torch"] == f"pip install '{source()}[torch]'"
    assert f"missing polars: pip install '{source()}[data]'" in Ran(capsys, "doctor").out
