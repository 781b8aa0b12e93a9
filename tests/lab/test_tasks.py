"""The generators of the lab: every task keeps the common laws, and each is what its paper says."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from openlstm.errors import ArgumentError
from openlstm.lab.tasks import TASKS, Task
from openlstm.lab.tasks.reber import SYMBOLS

EACH = pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)


def draw(name: str, size: int, batch: int = 64, seed: int = 0) -> tuple[Tensor, ...]:
    return TASKS[name].batch(size, batch, torch.Generator().manual_seed(seed))


def perfect(task: Task, *target: Tensor) -> Tensor:
    """Outputs of a network that knows every answer."""
    if len(target) == 2:
        return torch.where(target[1], 5.0, -5.0)
    if task.outputs == 1:
        return target[0][..., None] if task.name == "adding" else 10 * target[0][..., None] - 5
    return 10 * torch.nn.functional.one_hot(target[0], task.outputs).float()


@EACH
def test_every_task_is_listed_with_its_question_and_its_source(task: Task) -> None:
    assert TASKS[task.name] is task
    assert task.where in ("last step", "every step") and task.size_name in ("lag", "length")
    assert task.question and task.source and 0 <= task.guessing < 1
    assert all(p.number and p.protocol and re.search(r"\d{4}", p.source) for p in task.published)


@EACH
@pytest.mark.parametrize("batch", [1, 7])
def test_shapes_are_right_at_the_least_an_odd_and_the_default_size(task: Task, batch: int) -> None:
    for size in (task.least, task.least + 2, task.default):
        x, *target = task.batch(size, batch, torch.Generator().manual_seed(0))
        outputs = torch.zeros(batch, task.outputs) if task.where == "last step" else torch.zeros(*x.shape[:2], task.outputs)
        assert x.dtype == torch.float32 and x.shape[1:] == (batch, task.inputs)
        assert task.loss(outputs, *target).shape == () and 0 <= task.score(outputs, *target) <= 1
        assert task.right(outputs, *target).dtype == torch.bool
        assert 0 < task.lag(task.default)


@EACH
def test_the_generator_alone_decides(task: Task) -> None:
    torch.manual_seed(1)
    first = task.batch(task.default, 5, torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = (task.batch(task.default, 5, torch.Generator().manual_seed(seed)) for seed in (3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@EACH
def test_who_knows_every_answer_is_always_right_and_has_a_smaller_loss(task: Task) -> None:
    x, *target = task.batch(task.default, 50, torch.Generator().manual_seed(0))
    known = perfect(task, *target)
    assert task.score(known, *target) == 1.0
    assert task.score(torch.full_like(known, torch.nan), *target) <= task.guessing + 0.15
    assert task.loss(known, *target) < 0.1 * task.loss(torch.zeros_like(known), *target)
    wrong = -known if task.name != "adding" else known + 0.081
    assert task.score(wrong, *target) == 0.0


@EACH
def test_the_look_asks_one_question_at_the_last_step(task: Task) -> None:
    x, *target = task.look(task.default, 9, torch.Generator().manual_seed(0))
    assert task.lag(task.default) < len(x) and x.shape[1:] == (9, task.inputs)
    outputs = torch.zeros(9, task.outputs) if task.where == "last step" else torch.zeros(*x.shape[:2], task.outputs)
    outputs.requires_grad_()
    loss = task.look_loss(outputs, *target)
    loss.backward()
    assert math.isfinite(loss.item()) and outputs.grad is not None
    assert task.where == "last step" or (outputs.grad[:-1] == 0).all() and (outputs.grad[-1] != 0).any()


@EACH
def test_a_size_that_is_too_small_is_refused(task: Task) -> None:
    least, name = task.least, task.size_name
    with pytest.raises(ArgumentError) as error:
        task.batch(least - 1, 2, torch.Generator())
    assert str(error.value) == (
        f"{task.name}: {name} is too small\n  got       {name}={least - 1}\n  expected  at least {least}\n"
        f"  hint      pass {name}={least} or more"
    )


def test_recall_asks_for_the_first_value() -> None:
    x, sign = draw("recall", 20, 4000)
    assert x.shape == (21, 4000, 1) and torch.equal(sign, (x[0, :, 0] > 0).float())
    assert abs(x[0].std() - 1) < 0.05 and abs(x[1:].std() - 0.3) < 0.01


def test_copy_says_the_letters_again_and_its_memoryless_loss_is_the_papers() -> None:
    lag = 1000
    x, target = draw("copy", lag, 3)
    said = x.argmax(-1)
    assert (x.sum(-1) == 1).all() and len(x) == lag + 20
    assert torch.equal(said[:10], target[-10:]) and (said[:10] < 8).all()
    assert (said[10 : lag + 9] == 8).all() and (said[lag + 9] == 9).all() and (said[lag + 10 :] == 8).all()
    outputs = torch.zeros(*x.shape[:2], 9)
    outputs[:-10, :, 8] = 100.0
    outputs[-10:, :, 8] = -100.0
    loss = TASKS["copy"].loss(outputs, target).item()
    assert loss == pytest.approx(10 * math.log(8) / (lag + 20), rel=1e-4) and round(loss, 4) == 0.0204


def test_copy_counts_the_letters_alone() -> None:
    x, target = draw("copy", 5, 4)
    outputs = torch.nn.functional.one_hot(target, 9).float()
    outputs[:-10] = 0.0  # wrong at all the blanks
    outputs[-1] = -outputs[-1]  # and at the last letter
    assert TASKS["copy"].score(outputs, target) == 0.9


@pytest.mark.parametrize("length", [2, 3, 100, 101])
def test_adding_marks_one_step_of_each_half(length: int) -> None:
    x, total = draw("adding", length, 500)
    marks, half = x[..., 1], length // 2
    assert (marks[:half].sum(0) == 1).all() and (marks[half:].sum(0) == 1).all()
    torch.testing.assert_close(total, (x[..., 0] * marks).sum(0))
    assert x[..., 0].min() >= 0 and x[..., 0].max() <= 1


def test_always_saying_1_is_the_baseline_of_adding() -> None:
    _, total = draw("adding", 20, 200_000)
    one = torch.ones(200_000, 1)
    assert abs(TASKS["adding"].loss(one, total).item() - 1 / 6) < 1e-3
    assert abs(TASKS["adding"].score(one, total) - TASKS["adding"].guessing) < 0.005


def test_temporal_order_is_that_of_the_paper_at_length_100() -> None:
    x, target = draw("temporal-order", 100, 3000)
    said = x.argmax(-1)
    assert (x.sum(-1) == 1).all() and (said[0] == 0).all() and (said[-1] == 1).all()
    signs = (said == 2) | (said == 3)
    assert (signs.sum(0) == 2).all()
    steps = signs.float().T.nonzero()[:, 1].view(-1, 2)
    assert steps[:, 0].unique().tolist() == list(range(10, 21)) and steps[:, 1].unique().tolist() == list(range(50, 61))
    first, second = said.gather(0, steps.T) - 2
    assert torch.equal(target, 2 * first + second) and target.bincount().min() > 600
    assert set(said[~signs][3000:-3000].unique().tolist()) == {4, 5, 6, 7}


@pytest.mark.parametrize("length", [10, 13, 57])
def test_temporal_order_has_two_signs_at_every_length(length: int) -> None:
    said = draw("temporal-order", length, 300)[0].argmax(-1)
    assert (((said == 2) | (said == 3)).sum(0) == 2).all()
    assert (said[0] == 0).all() and (said[-1] == 1).all()


_N4 = "(?:XT*VP)*(?:S|XT*VV)"
_INNER = f"B(?:TS*X{_N4}|PT*V(?:P{_N4}|V))E"
STRING = re.compile(f"B(?:T{_INNER}T|P{_INNER}P)E")
"""The grammar a second time, as a regular expression."""


def strings(x: Tensor, following: Tensor) -> list[str]:
    said = x.argmax(-1)
    real = following >= 0
    rows = []
    for b in range(x.shape[1]):
        n = int(real[:, b].sum())
        assert real[:n, b].all() and (x[n:, b] == 0).all()
        assert torch.equal(said[1:n, b], following[: n - 1, b])
        rows.append("".join(SYMBOLS[s] for s in [*said[:n, b].tolist(), int(following[n - 1, b])]))
    return rows


@pytest.mark.parametrize("length", [8, 9, 40])
def test_reber_strings_are_strings_of_the_grammar(length: int) -> None:
    x, following, possible = draw("reber", length, 400)
    found = strings(x, following)
    assert all(STRING.fullmatch(s) for s in found) and max(map(len, found)) <= length + 1
    assert 0.4 < sum(s[1] == "T" for s in found) / 400 < 0.6
    assert (possible.any(-1) == (following >= 0)).all()
    assert possible.gather(-1, following.clamp(min=0)[..., None])[..., 0][following >= 0].all()


def test_what_may_follow_is_what_does_follow() -> None:
    """Over many strings, the symbols seen after a prefix are exactly those said to be possible after it."""
    x, following, possible = draw("reber", 40, 20_000)
    said, seen = defaultdict(set), defaultdict(set)
    for b, s in enumerate(strings(x, following)):
        for t in range(min(7, len(s) - 1)):
            seen[s[: t + 1]].add(s[t + 1])
            said[s[: t + 1]].add("".join(SYMBOLS[k] for k in possible[t, b].nonzero().ravel().tolist()))
    assert all(len(sets) == 1 and set(next(iter(sets))) == seen[prefix] for prefix, sets in said.items())
    assert len(said) > 60


def test_the_inner_string_has_8_symbols_on_average() -> None:
    inner = [len(s) - 4 for s in strings(*draw("reber", 120, 20_000)[:2])]
    assert abs(sum(inner) / len(inner) - TASKS["reber"].lag(40)) < 0.1


def test_continual_reber_is_strings_one_behind_the_other() -> None:
    x, following, possible = draw("continual-reber", 500, 20)
    for stream in strings(x, following):
        whole = re.match(f"(?:{STRING.pattern})*", stream)
        assert whole and len(stream) - whole.end() < 60
        assert whole.end() > 300
    assert (x.sum(-1) == 1).all() and (possible.sum(-1) >= 1).all()


def test_a_string_of_the_stream_is_right_if_each_of_its_steps_is() -> None:
    task = TASKS["continual-reber"]
    x, following, possible = draw("continual-reber", 90, 12)
    outputs = torch.where(possible, 1.0, 0.0)
    wrong = torch.rand(following.shape, generator=torch.Generator().manual_seed(5)) < 0.03
    outputs[wrong] = -outputs[wrong]
    expected = []
    for b, stream in enumerate(strings(x, following)):
        ends = [m.end() for m in STRING.finditer(stream)]
        begins = [1, *ends]  # the target at step t is symbol t + 1; the string that follows an end begins with that target
        for begin, end in zip(begins, [*ends, len(stream)], strict=True):
            if end > begin:
                expected.append(not bool(wrong[begin - 1 : end - 1, b].any()))
    assert sorted(task.right(outputs, following, possible).tolist()) == sorted(expected)
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("name", ["reber", "continual-reber"])
def test_the_look_at_reber_asks_for_the_second_symbol(name: str) -> None:
    task = TASKS[name]
    x, following, _ = task.look(40, 200, torch.Generator().manual_seed(0))
    assert torch.equal(following[0], x[len(x) - 1 - task.lag(40)].argmax(-1))
    assert 60 < (following[0] == SYMBOLS.index("T")).sum() < 140


def test_who_forgets_the_second_symbol_is_right_in_half_of_the_strings() -> None:
    """Two symbols are given the outputs of both at the step that needs memory, with T a little above P."""
    x, following, possible = draw("reber", 40, 3000)
    task = TASKS["reber"]
    outputs = possible.float()
    last = (following >= 0).sum(0) - 2  # the step after the inner string
    rows = torch.arange(3000)
    outputs[last, rows] = 0.0
    outputs[last, rows, SYMBOLS.index("T")] = 1.0
    assert abs(task.score(outputs, following, possible) - task.guessing) < 0.03


def test_parity_asks_for_the_parity_of_every_prefix() -> None:
    x, odd = draw("parity", 17, 30)
    ones = (x[..., 0] > 0).int()
    for t in range(17):
        assert torch.equal(odd[t], (ones[: t + 1].sum(0) % 2).float())
    said = odd.clone()
    said[:-1] = 1 - said[:-1]
    assert TASKS["parity"].score(2 * said - 1, odd) == 1.0  # the last step alone counts


def test_anbn_asks_to_count_the_letters() -> None:
    x, following, possible = draw("anbn", 6, 300)
    seen = set()
    for b in range(300):
        n = int(x[:, b, 1].sum())
        seen.add(n)
        steps = int((following[:, b] >= 0).sum())
        text = "".join("Sab"[k] for k in x[:steps, b].argmax(-1).tolist()) + "abT"[int(following[steps - 1, b])]
        assert text == "S" + "a" * n + "b" * n + "T"
        allowed = ["".join("abT"[k] for k in row.nonzero().ravel().tolist()) for row in possible[:steps, b]]
        assert allowed == ["a"] + ["ab"] * n + ["b"] * (n - 1) + ["T"]
        assert not possible[steps:, b].any()
    assert seen == {1, 2, 3, 4, 5, 6}
