"""The data of `latch` is what its protocol says."""

import torch

from openlstm.lab.tasks.latch import latch_batch


def draw(lag: int = 120, batch: int = 500, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return latch_batch(lag, batch, torch.Generator().manual_seed(seed))


def test_three_marks_among_the_first_twenty_steps_one_at_step_20_none_after() -> None:
    x, _ = draw()
    marks = x[..., 1]
    assert x.shape == (141, 500, 2) and x.dtype == torch.float32
    assert set(marks.unique().tolist()) == {0.0, 1.0}
    assert (marks[:20].sum(0) == 3).all()
    assert (marks[20] == 1).all()
    assert (marks[21:] == 0).all()


def test_early_marks_fall_on_every_step_alike() -> None:
    x, _ = draw(1, 20_000)
    share = x[:20, :, 1].mean(1)  # [20]
    assert ((share - 3 / 20).abs() < 0.015).all()  # 6 standard errors


def test_the_answer_is_the_sign_at_the_last_mark() -> None:
    x, answer = draw()
    assert torch.equal(answer, (x[20, :, 0] > 0).float())
    assert 0.4 < answer.mean() < 0.6


def test_the_signal_is_standard_normal_at_every_step() -> None:
    x, _ = draw(30, 20_000)
    signal = x[..., 0]
    assert (signal.mean(1).abs() < 0.05).all() and ((signal.std(1) - 1).abs() < 0.05).all()


def test_no_other_step_tells_the_answer() -> None:
    """Distractors and early marks are independent of the answer: nothing but the last mark can be used."""
    x, answer = draw(30, 20_000)
    signs = answer * 2 - 1
    correlation = (x[..., 0] * signs[None]).mean(1)  # [T]
    others = torch.cat([correlation[:20], correlation[21:]])
    assert (others.abs() < 0.05).all()
    assert correlation[20] > 0.7  # the mean of |N(0, 1)| is 0.80


def test_the_same_generator_gives_the_same_sequences() -> None:
    assert torch.equal(draw(seed=3)[0], draw(seed=3)[0])
    assert not torch.equal(draw(seed=3)[0], draw(seed=4)[0])
