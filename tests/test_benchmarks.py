"""The way speeds are measured: interleaved, medians of neighbouring blocks, refused on a busy machine."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import bench
import protocol


class Clock:
    """A clock that stands still but for the work that is done on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float):
        def call() -> None:
            self.log.append(name)
            self.now += seconds

        return call


def test_blocks_are_filled_and_taken_in_turn() -> None:
    clock = Clock()
    calls = {"a": clock.work("a", 0.05), "b": clock.work("b", 0.1)}
    counts = {name: protocol.calls_per_block(call, 0.2, clock) for name, call in calls.items()}
    assert counts == {"a": 4, "b": 2}
    clock.log.clear()
    timing = protocol.interleave(calls, blocks=3, seconds=0.2, clock=clock)
    assert "".join(clock.log).endswith("aaaabb" * 3)
    assert timing["a"].median == pytest.approx(0.05)
    assert timing["b"].median == pytest.approx(0.1)
    assert protocol.speedup(timing["b"], timing["a"]) == pytest.approx(2)


def test_a_call_longer_than_a_block_runs_once_a_block() -> None:
    clock = Clock()
    assert protocol.calls_per_block(clock.work("a", 3.0), 0.2, clock) == 1


def test_the_speedup_compares_neighbours_so_that_a_drift_cancels() -> None:
    drifting = protocol.Timing((1.0, 2.0, 4.0)), protocol.Timing((0.5, 1.0, 2.0))
    assert protocol.speedup(*drifting) == 2.0


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


def test_the_work_of_a_layer_is_counted_as_four_gates_of_two_products() -> None:
    assert bench.flop(1, 1, 1, 1) == 16
    assert bench.flop(128, 32, 256, 256) == 2 * 128 * 32 * 1024 * 512


def row(what: str, shape: tuple[int, ...], speedup: float, seconds: float) -> bench.Row:
    return bench.Row(what, shape, 10**9, seconds * speedup, seconds, speedup, 0.0, peak=100.0)


def test_rows_below_their_aim_are_named() -> None:
    good = [row("forward", (1, 1, 64, 64), 0.97, 1.0), row("cell", (1, 64), 1.0, 1.0)]
    assert bench.verdict(good).startswith("All 2 rows reach their aim")
    slow = row("train", (1, 1, 64, 64), 0.96, 1.0)
    assert bench.verdict([*good, slow]) == "1 of 3 rows stay below their aim: train (1, 1, 64, 64) 0.96x."
    far = row("forward", bench.PEAK_SHAPE, 1.2, 1 / 84)  # 84 of 100 GFLOP/s
    near = row("forward", bench.PEAK_SHAPE, 1.2, 1 / 85.1)
    assert (far.good, near.good) == (False, True)


@pytest.mark.parametrize("what, shape", [("forward", (3, 2, 4, 5)), ("train", (3, 2, 4, 5)), ("cell", (2, 4))])
def test_both_libraries_run_the_same_weights(what: str, shape: tuple[int, ...]) -> None:
    calls = {"forward": bench.forward_calls, "train": bench.train_calls, "cell": bench.cell_calls}[what](*shape)
    assert list(calls) == ["torch", "openlstm"]
    assert bench.same_numbers(calls)


def test_the_page_of_results_tells_how_to_repeat_them() -> None:
    about = {**bench.setting(2, quick=False), "peak_gflops": 100.0}
    text = bench.page(about, [row("forward", (1, 1, 64, 64), 1.5, 0.01)])
    assert "| forward | 1,1,64,64 | 15.0 ms | 10.0 ms | 66.7 | 100.0 | 100% | 1.50x |" in text
    assert about["machine"] in text and f"torch {about['versions']['torch']}" in text and "2 threads" in text


@pytest.mark.parametrize("value, words", [(9.6e-6, "9.60 us"), (1.234e-4, "123 us"), (0.0417, "41.7 ms"), (1.06, "1.06 s")])
def test_durations_have_three_digits_and_a_unit(value: float, words: str) -> None:
    assert bench.seconds(value) == words


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    rows = [row("forward", s, 440.3, 1.23456e-5) for s in bench.SHAPES] + [row("cell", (64, 256), 0.5, 1.2)]
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(bench.table(rows))
    text = screen.export_text()
    assert "…" not in text
    assert "128,64,512,512" in text and "440.30x" in text and "0.50x *" in text
