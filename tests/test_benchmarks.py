"""The way speeds are measured: blocks in turn, medians of neighbours, equal numbers first, refused on a busy machine."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

import bench
import parts
import protocol
import report
from contest import Arena, Bar, Budget, Contest, Measured, Row, differences
from job import Job, Shape, flop, given, real_steps
from protocol import Timing
from worker import Failed

TINY: Shape = (3, 2, 4, 5)
SHORT = Budget(blocks=2, seconds=1e-4, strict=False)


# --- the protocol -----------------------------------------------------------------------------------------------------


class Bench:
    """Contestants that take the time they say, and a log of what was run."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def block(self, name: str, seconds: float) -> protocol.Block:
        def run(count: int) -> float:
            self.log.append(name * count)
            return seconds * count

        return run


def test_blocks_are_filled_and_taken_in_turn_with_a_rest_before_each() -> None:
    run = Bench()
    blocks = {"a": run.block("a", 0.05), "b": run.block("b", 0.1)}
    assert {name: protocol.calls_per_block(block, 0.2) for name, block in blocks.items()} == {"a": 4, "b": 2}
    run.log.clear()
    timing = protocol.interleave(blocks, blocks=3, seconds=0.2, rest=lambda seconds: run.log.append("."))
    assert "".join(run.log).endswith(".aaaa.bb" * 3)
    assert timing["a"].median == pytest.approx(0.05)
    assert timing["b"].median == pytest.approx(0.1)
    assert protocol.speedup(timing["b"], timing["a"]) == pytest.approx(2)


def test_a_call_longer_than_a_block_runs_once_a_block() -> None:
    assert protocol.calls_per_block(Bench().block("a", 3.0), 0.2) == 1


def test_a_claim_is_the_median_of_at_least_twenty_blocks() -> None:
    assert Budget().blocks >= 20 and Budget().strict
    assert Budget().seconds == protocol.BLOCK_SECONDS == 0.2


def test_the_speedup_compares_neighbours_so_that_a_drift_cancels() -> None:
    assert protocol.speedup(Timing((1.0, 2.0, 4.0)), Timing((0.5, 1.0, 2.0))) == 2.0


class Busy(protocol.Others):
    """Readings of a machine of one processor: 10 s a look, of which others take `share`."""

    def __init__(self, share: float) -> None:
        self.each, self.at = share, 0.0
        super().__init__()

    def _read(self) -> tuple[float, float, float]:  # type: ignore[override]
        self.at += 10.0
        return self.at * (self.each + 0.2), self.at, self.at * 0.2


def test_what_this_process_uses_is_not_the_others() -> None:
    assert Busy(0.3).share() == pytest.approx(0.3)
    assert Busy(0.0).share() == pytest.approx(0.0)


def test_a_busy_machine_is_refused() -> None:
    with pytest.raises(protocol.Refused) as caught:
        protocol.wait_for_quiet(patience=0, look=0, others=Busy(0.5))
    assert str(caught.value) == "others use 50% of the machine, more than 5%: close them and start again"
    protocol.wait_for_quiet(patience=0, look=0, others=Busy(0.04))


def test_a_peak_that_varies_by_more_than_a_tenth_is_not_steady() -> None:
    assert protocol.steady([100.0, 91.0])
    assert not protocol.steady([100.0, 89.0])


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_the_work_of_a_layer_is_counted_by_its_gates_and_both_products() -> None:
    assert flop(Job("torch", "forward", (1, 1, 1, 1))) == 16
    assert flop(Job("torch", "train", (128, 32, 256, 256))) == 3 * 2 * 128 * 32 * 1024 * 512
    assert flop(Job("torch", "forward", TINY, "GRU")) * 4 == flop(Job("torch", "forward", TINY)) * 3


def test_every_process_draws_the_same_inputs_and_lengths_lie_in_the_batch() -> None:
    a, b = given.__wrapped__(TINY, 4), given.__wrapped__(TINY, 4)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert a.x.dtype == a.w_hh.dtype == np.float32 and a.w_hh.shape == (20, 5)
    assert a.lengths.min() >= 1 and a.lengths.max() <= 3
    assert real_steps(Job("torch", "forward", TINY, how="packed")) == a.lengths.sum()
    assert real_steps(Job("torch", "forward", TINY)) == 6
    resets = given((128, 32, 2, 2), 4).reset
    assert 0.01 < resets.mean() < 0.03


def test_numbers_are_compared_relative_to_their_size() -> None:
    a = {"y": np.array([3.0, 4.0]), "z": np.zeros(2), "s": np.zeros(3), "only": np.zeros(1)}
    b = {"y": np.array([3.0, 4.5]), "z": np.array([0.0, 0.5]), "s": np.zeros(2)}
    assert differences(b, a) == {"y": pytest.approx(0.1), "z": 0.5, "s": float("inf")}
    assert not np.nan <= differences({"y": np.array([np.nan])}, {"y": np.array([1.0])})["y"]


# --- the libraries ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    found = Arena(threads=1)
    yield found
    found.close()


def meet(arena: Arena, jobs: dict[str, Job]) -> Measured:
    return arena.run(Contest(jobs, lambda m: [], alike=tuple(jobs)), 1.0, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [TINY, (1, 1, 3, 7)])
def test_every_library_computes_the_same_forward(arena: Arena, shape: Shape) -> None:
    names = ("openlstm", "torch", "onnxruntime", "flax", "loop")
    measured = meet(arena, {name: Job(name, "forward", shape) for name in names})
    assert list(measured.times) == list(names) and not measured.missing
    assert all(seconds > 0 for seconds in measured.seconds().values())
    assert {"openlstm", "torch", "onnxruntime", "flax", "jax"} <= set(arena.versions())


@pytest.mark.slow
def test_every_library_computes_the_same_gradients(arena: Arena) -> None:
    names = ("openlstm", "torch", "flax", "loop")
    assert not meet(arena, {name: Job(name, "train", TINY) for name in names}).missing
    for name in names:
        arena.worker(name).ask("build", name, Job(name, "train", TINY))
        found = arena.worker(name).ask("numbers", name)
        assert set(found) == {"y", "h", "c", "dx", "dweight_ih", "dweight_hh", "dbias_ih", "dbias_hh"}
    refused = meet(arena, {"torch": Job("torch", "train", TINY), "onnxruntime": Job("onnxruntime", "train", TINY)})
    assert refused.missing == {"onnxruntime": "only the plain LSTM, forward"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", parts.MODES)
def test_ragged_batches_resets_and_other_cells_are_the_same_in_both_libraries(arena: Arena, mode: str) -> None:
    forms = {"lengths": ("openlstm", "lengths"), "packed": ("openlstm", "packed"), "torch": ("torch", "packed")}
    forms["cu_seqlens"] = ("openlstm", "cu_seqlens")
    meet(arena, {name: Job(who, mode, (5, 7, 4, 6), how=how) for name, (who, how) in forms.items()})
    meet(arena, {who: Job(who, mode, (60, 7, 4, 6), how="reset") for who in ("openlstm", "torch", "loop")})
    meet(arena, {how or "plain": Job("openlstm", mode, TINY, how=how) for how in ("", "gates")})
    for cell in ("SLSTM", "MinGRU", "MinLSTM", "JANET", "IndRNN"):
        meet(arena, {who: Job(who, mode, (5, 7, 4, 8), cell) for who in ("openlstm", "loop")})
    for cell in ("GRU", "RNN"):
        meet(arena, {who: Job(who, mode, TINY, cell) for who in ("openlstm", "torch")})
    meet(arena, {who: Job(who, "forward", (1, 2, 5, 5), "LSTMCell") for who in ("openlstm", "torch")})


@pytest.mark.slow
@pytest.mark.parametrize("mode", parts.MODES)
def test_every_variant_runs_or_says_that_the_engine_does_not_have_it(arena: Arena, mode: str) -> None:
    jobs = {name: Job("openlstm", mode, TINY, cell, how) for name, (cell, how, _) in parts.VARIANTS.items()}
    found = arena.run(Contest(jobs, lambda m: []), 1.0, SHORT)
    assert set(found.times) | set(found.missing) == set(jobs)
    assert all(why.startswith("this build runs it on") for why in found.missing.values())


@pytest.mark.slow
def test_many_networks_give_the_same_together_and_one_by_one(arena: Arena) -> None:
    meet(arena, {how: Job("openlstm", "forward", TINY, how=how) for how in ("many", "many calls")})


@pytest.mark.slow
def test_what_is_not_equal_is_not_compared(arena: Arena) -> None:
    jobs = {"openlstm": Job("openlstm", "forward", (60, 7, 4, 6)), "torch": Job("torch", "forward", (60, 7, 4, 6), how="reset")}
    with pytest.raises(protocol.Refused, match=r"^forward 60,7,4,6: \w+ of torch differs from that of openlstm by "):
        meet(arena, jobs)
    assert not meet(arena, {"torch": Job("torch", "forward", TINY)}).missing  # and the process goes on


@pytest.mark.slow
def test_an_error_of_a_library_is_told_with_its_job(arena: Arena) -> None:
    with pytest.raises(Failed, match="(?s)torch could not build .*cell='Nothing'.*AttributeError"):
        meet(arena, {"torch": Job("torch", "forward", TINY, "Nothing")})


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", parts.PARTS)
def test_every_part_compares_jobs_that_it_has(name: str) -> None:
    part = parts.PARTS[name]()
    assert part.contests and part.title
    for contest in part.contests:
        assert set(contest.alike) <= set(contest.jobs)
        assert len({job.mode for job in contest.jobs.values()}) == 1


def test_the_plain_lstm_and_the_other_layers_meet_on_every_shape() -> None:
    for name, modes in (("forward", 1), ("train", 1), ("gru", 2), ("rnn", 2)):
        shapes = [c.jobs["openlstm"].shape for c in parts.PARTS[name]().contests]
        assert shapes == list(parts.SHAPES) * modes
    assert all(set(c.jobs) == {"openlstm", "torch", "onnxruntime", "flax"} for c in parts.layer("forward").contests)


def test_layer_normalisation_has_aims_in_training() -> None:
    train = [c for c in parts.norm().contests if c.jobs["openlstm"].mode == "train"]
    assert [c.jobs["openlstm"].shape for c in train] == list(parts.NORMED)
    (small,) = measured(train[0], **{"openlstm": 1.0, "loop": 9.0, "compiled": 3.0, "compiled step": 4.0, "LSTM": 0.7})
    assert {b.name: b.aim for b in small.bars} == {
        "cost": None,
        "loop": 8.0,
        "compiled": 2.0,
        "compiled step": 2.0,
    } and small.good
    assert small.notes == (
        "train (100, 32, 32, 64): the first call of the compiled loop took 33 s",
        "train (100, 32, 32, 64): the first call of the loop over a compiled step took 33 s",
    )
    (large,) = measured(train[2], **{"openlstm": 1.3, "loop": 9.0, "compiled step": 4.0, "LSTM": 1.0})
    assert {b.name: b.aim for b in large.bars} == {"cost": 1.25, "loop": 3.0, "compiled step": 2.0} and not large.good


def test_a_recurrence_is_told_by_its_multiply_adds() -> None:
    """At (100, 32, 32, 64) an sLSTM of four heads has half of the plain LSTM's."""
    (row,) = measured(only("recurrences", (100, 32, 32, 64), "train"), openlstm=0.6, loop=9.0, LSTM=1.0)
    assert bars(row)["each"].value == pytest.approx(1.2) and bars(row)["loop"].value == pytest.approx(15.0) and row.good


def test_every_variant_is_measured_in_both_modes_beside_a_plain_lstm_of_its_own_round() -> None:
    contests = parts.variants().contests
    for name in parts.VARIANTS:
        assert sum(name in c.jobs for c in contests) == 4
    assert all("LSTM" in c.jobs and len(c.jobs) <= 1 + parts.AT_A_TIME for c in contests)


def measured(contest: Contest, missing: dict[str, str] | None = None, /, **seconds: float) -> list[Row]:
    """The rows of a contest whose calls took so long."""
    times = {name: Timing((s, s, s)) for name, s in seconds.items()}
    first = {name: 33.0 for name in seconds}
    return contest.rows(Measured(contest.jobs, times, first, missing or {}, peak=100.0))


def only(name: str, shape: Shape, mode: str = "forward") -> Contest:
    return next(c for c in parts.PARTS[name]().contests for j in c.jobs.values() if (j.shape, j.mode) == (shape, mode))


def bars(row: Row) -> dict[str, Bar]:
    return {bar.name: bar for bar in row.bars}


def test_the_best_peer_and_the_peak_are_what_the_plain_lstm_is_held_to() -> None:
    shape = (128, 32, 256, 256)
    took = flop(Job("openlstm", "forward", shape)) / 89e9  # 89 of 100 GFLOP/s
    (r,) = measured(only("forward", shape), openlstm=took, torch=2 * took, onnxruntime=0.98 * took, flax=3 * took)
    found = bars(r)
    assert found["torch"].value == pytest.approx(2) and found["torch"].good
    assert found["best"].value == pytest.approx(0.98) and found["best"].good
    assert found["peak"].value == pytest.approx(0.89) and not found["peak"].good
    assert r.gflops == pytest.approx(89) and not r.good
    (slow,) = measured(only("forward", shape), openlstm=took, torch=took, onnxruntime=0.96 * took, flax=took)
    assert not bars(slow)["best"].good


def test_one_step_is_held_to_torch_alone_and_some_shapes_to_more_in_training() -> None:
    (r,) = measured(only("forward", (1, 1, 64, 64)), openlstm=1.0, torch=0.99, onnxruntime=0.1, flax=1.0)
    assert (bars(r)["torch"].good, bars(r)["best"].good) == (False, True)
    (r,) = measured(only("train", (1000, 32, 2, 128), "train"), openlstm=1.0, torch=1.89, flax=5.0)
    assert not bars(r)["torch"].good


def test_the_geometric_mean_leaves_single_steps_out() -> None:
    rows = [Row("LSTM", "forward", s, {}, (Bar("torch", v),)) for s, v in (((1, 1, 1, 1), 9.0), (TINY, 1.0), (TINY, 4.0))]
    (bar,) = parts.layer("forward").overall(rows)
    assert bar.value == pytest.approx(2.0) and bar.good
    assert parts.over_torch([]) == ()


def test_a_variant_is_told_as_times_the_plain_lstm_and_a_missing_one_as_missing() -> None:
    contest = parts.variants().contests[0]
    names = [n for n in contest.jobs if n != "LSTM"]
    first, second, *rest = measured(contest, {n: "why" for n in names[1:]}, LSTM=1.0, **{names[0]: 1.2})
    assert first.seconds == {"LSTM": 1.0, "this": 1.2} and not first.good
    assert bars(first)["cost"].value == pytest.approx(1.2)
    assert second.seconds == {"LSTM": 1.0} and second.bars == () and second.notes == (f"{names[1]}: why",)


def test_a_ragged_batch_is_measured_by_its_real_tokens() -> None:
    shape = (128, 32, 256, 256)
    contest = only("ragged", shape, "train")
    share = real_steps(contest.jobs["lengths"]) / (128 * 32)
    took = {"dense": 1.0, "lengths": 1.1 * share, "cu_seqlens": 1.2 * share, "packed": share}
    rows = {r.label: r for r in measured(contest, **took, **{"torch dense": 1.0, "torch packed": 3.31 * share})}
    assert bars(rows["lengths"])["token"].value == pytest.approx(1.1) and rows["lengths"].good
    assert bars(rows["lengths"])["x torch packed"] == Bar("x torch packed", pytest.approx(3.31 / 1.1), 3.0)  # type: ignore[arg-type]
    assert not rows["cu_seqlens"].good
    assert bars(rows["torch packed"])["token"].value == pytest.approx(3.31)


def test_growth_is_told_for_each_step_and_row() -> None:
    steps, batch = parts.growth().contests[:2]
    (r,) = measured(steps, small=1.0, large=11.1)
    assert bars(r)["cost"].value == pytest.approx(1.11) and not r.good
    (r,) = measured(batch, small=1.0, large=4.0)
    assert bars(r)["cost"].value == pytest.approx(1.0) and r.good


def test_threads_are_held_to_their_aim_where_a_call_is_long() -> None:
    contest = parts.threads().contests[0]
    (r,) = measured(contest, **{"1 thread": 1e-4, "all threads": 0.9e-4})
    assert r.good
    (r,) = measured(contest, **{"1 thread": 1e-2, "all threads": 0.9e-2})
    assert not r.good


def test_a_compiled_loop_tells_how_long_it_took_to_compile() -> None:
    (r,) = measured(only("loop", (100, 32, 32, 64)), openlstm=1.0, loop=9.0, compiled=3.0)
    assert r.notes == ("forward (100, 32, 32, 64): the first call of the compiled loop took 33 s",)
    assert [b.value for b in r.bars] == [9.0, 3.0]


def test_a_library_that_lacks_a_cell_leaves_its_columns_empty() -> None:
    (r,) = measured(only("gru", TINY_GRU), {"openlstm": "not in this build"}, torch=1.0)
    assert r.bars == () and r.gflops is None and r.notes == ("openlstm: not in this build",)


TINY_GRU: Shape = (50, 7, 13, 100)


# --- the report -------------------------------------------------------------------------------------------------------

ABOUT: dict[str, Any] = {
    **bench.setting(2, Budget()),
    "commit": "abc1234",
    "machine": "A Machine, 2 cores",
    "peak_gflops": 100.0,
    "versions": {"openlstm": "0.1.0", "torch": "2.13.0"},
}


def fixed(mode: str = "forward") -> list[Row]:
    names = ("openlstm", "torch", "onnxruntime", "flax") if mode == "forward" else ("openlstm", "torch", "flax")
    out = []
    for k, shape in enumerate(parts.SHAPES):
        aims = (Bar("torch", 123.4, 1.0), Bar("best", 0.5, 0.97), Bar("peak", 0.875))
        out.append(Row("LSTM", mode, shape, {n: 1.23456e-5 * 3**k for n in names}, aims, gflops=1234.5, others=0.01))
    return out


@pytest.mark.parametrize("value, words", [(9.6e-6, "9.60 us"), (1.234e-4, "123 us"), (0.0417, "41.7 ms"), (1.06, "1.06 s")])
def test_durations_have_three_digits_and_a_unit(value: float, words: str) -> None:
    assert report.seconds(value) == words


def test_a_duration_that_rounds_up_takes_the_next_unit() -> None:
    assert report.seconds(999.96e-6) == "1.00 ms"


def test_a_bar_below_its_aim_is_starred() -> None:
    assert Bar("best", 0.96, 0.97).words == "0.96x *"
    assert Bar("cost", 1.11, 1.10, at_most=True).words == "1.11x *"
    assert Bar("cost", 1.10, 1.10, at_most=True).words == "1.10x"
    assert Bar("peak", 0.849, 0.85).words == "85% *"


@pytest.mark.parametrize("mode", parts.MODES)
def test_the_table_of_the_plain_lstm_fits_a_terminal_of_80_columns(mode: str) -> None:
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(report.table("The plain LSTM", fixed(mode)))
    text = screen.export_text()
    assert "…" not in text
    assert "128,64,512,512" in text and "123.40x" in text and "0.50x *" in text and "88%" in text


def test_the_judgement_counts_aims_and_repeats_what_is_missing_once() -> None:
    rows = [replace(r, notes=("flax: why",)) for r in fixed()]
    text = report.remarks(rows, [Bar("mean", 2.0, 1.3)])
    assert text == ["mean: 2.00x (aim 1.3)", "flax: why", "13 of 25 aims are reached; * marks the others."]
    assert report.remarks([replace(r, bars=()) for r in rows], []) == ["flax: why"]


def test_a_part_survives_json_and_keeps_to_its_schema() -> None:
    overall = [Bar("mean", 2.0, 1.3)]
    data = json.loads(json.dumps(report.as_data("A title", ABOUT, fixed(), overall)))
    assert report.from_data(data) == (fixed(), overall)
    assert set(data) == {"title", "about", "rows", "overall"}
    assert set(data["rows"][0]) == {"label", "mode", "shape", "seconds", "gflops", "bars", "notes", "others"}
    assert data["rows"][0]["bars"][1] == {"name": "best", "value": 0.5, "aim": 0.97, "at_most": False, "good": False}
    kept = {"date", "commit", "machine", "instruction_set", "threads", "dtype", "protocol", "claim", "peak_gflops", "versions"}
    assert set(data["about"]) == kept


def test_saving_a_part_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    old = {**ABOUT, "date": "2001-02-03"}
    report.save(tmp_path, "A Machine, 2 cores", {"forward": report.as_data("Forward", old, fixed(), [])})
    written = report.save(tmp_path, "A Machine, 2 cores", {"train": report.as_data("Training", ABOUT, fixed("train"), [])})
    assert [p.name for p in written] == [f"a-machine-2-cores.{end}" for end in ("json", "md", "svg")]
    data = json.loads(written[0].read_text())
    assert data["schema"] == report.SCHEMA and list(data["parts"]) == ["forward", "train"]
    assert data["parts"]["forward"]["about"]["date"] == "2001-02-03"
    text = written[1].read_text()
    assert "| 1,1,64,64 | 12.3 us | 12.3 us | 12.3 us | 12.3 us | 123.40x | 0.50x * | 88% |" in text
    assert "2001-02-03, commit abc1234: A Machine, 2 cores" in text and "torch 2.13.0" in text and "2 threads" in text
    assert text.endswith("\n") and not text.endswith("\n\n") and "no claim" not in text
    assert written[2].read_text().startswith("<svg")


def test_figures_that_are_no_claim_are_marked_and_saved_apart(tmp_path: Path) -> None:
    quick = {**ABOUT, "claim": bench.setting(2, SHORT)["claim"]}
    written = report.save(tmp_path, "M", {"cell": report.as_data("Cell", quick, fixed(), [])})
    assert [p.name for p in written] == ["m-unsafe.json", "m-unsafe.md"]
    assert "made with --unsafe, on a machine that may have been busy: no claim" in written[1].read_text()


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str]:
    app = Typer()
    app.command()(bench.main)
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})
    return done.exit_code, done.output


def test_red_tests_are_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def red() -> None:
        raise protocol.Refused("tests fail:\nFAILED test_law")

    monkeypatch.setattr(bench, "refuse_on_red_tests", red)
    monkeypatch.setattr(protocol, "peak", lambda *a, **k: pytest.fail("measured all the same"))
    code, text = command("--only", "cell")
    assert code == 1 and "refused: tests fail:\nFAILED test_law" in text


@pytest.mark.slow
def test_tests_are_red_when_one_of_them_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.os, "cpu_count", lambda: 1)  # as many processes does it start
    place = tmp_path / "test_it.py"
    place.write_text("def test_it():\n    assert True\n")
    bench.refuse_on_red_tests((str(place),))
    place.write_text("def test_it():\n    assert False\n")
    with pytest.raises(protocol.Refused, match="(?s)tests fail:.*test_it"):
        bench.refuse_on_red_tests((str(place),))


def test_a_claim_is_measured_in_one_way_alone() -> None:
    code, text = command("--blocks", "2")
    assert code == 2 and "--blocks and --block-seconds need --unsafe" in text
    code, text = command("--only", "nothing")
    assert code == 2 and "no part nothing; there are forward, train" in text
    code, text = command("--threads", "1000")
    assert code == 2 and "--threads is 1 to" in text


@pytest.mark.slow
def test_a_part_runs_from_the_command_line_and_says_that_it_is_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = bench.Arena(1)  # both commands take the same processes
    monkeypatch.setattr(bench, "Arena", lambda threads: kept)
    end = kept.close
    monkeypatch.setattr(kept, "close", lambda: None)
    try:
        part_from_the_command_line()
    finally:
        end()


def part_from_the_command_line() -> None:
    arguments = ("--unsafe", "--only", "cell", "--threads", "1", "--blocks", "1", "--block-seconds", "1e-5")
    code, text = command(*arguments, "--json")
    assert code == 0, text
    found = json.loads(text[text.index('{"schema"') :].splitlines()[0])
    assert found["parts"]["cell"]["about"]["claim"] is False
    assert [tuple(r["shape"]) for r in found["parts"]["cell"]["rows"]] == list(parts.CELLS)
    assert all(r["seconds"]["openlstm"] > 0 and r["seconds"]["torch"] > 0 for r in found["parts"]["cell"]["rows"])
    code, text = command(*arguments)
    assert code == 0 and "no claim" in text and "LSTMCell, one step" in text
