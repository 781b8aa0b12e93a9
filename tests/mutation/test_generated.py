"""Mutants made by a rule from the definition and from the kernels: all are found, but for those that compute the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.mutation import generate, native
from tests.support import NEEDS_NATIVE, ROOT

SAMPLE = 24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_definition_itself_passes() -> None:
    with generate.installed(None) as pair:
        generate.check(*pair)


@pytest.mark.slow
@pytest.mark.parametrize("module", generate.MODULES)
def test_some_mutants_of_the_definition_are_found(module: str) -> None:
    """The same ones every time; `python -m tests.mutation.generate` runs them all."""
    every = generate.mutants(module)
    chosen = random.Random(7).sample([m for m in every if str(m) not in generate.EQUIVALENT], SAMPLE)
    assert [str(m) for m in generate.survivors(chosen)] == []


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("module", generate.MODULES)
def test_every_mutant_of_the_definition_is_found_or_explained(module: str) -> None:
    left = {str(m) for m in generate.survivors(generate.mutants(module))}
    assert left - generate.EQUIVALENT.keys() == set()


@pytest.mark.long
@pytest.mark.timeout(6000)
@NEEDS_NATIVE
def test_some_mutants_of_the_kernels_are_found_or_explained() -> None:
    left = {str(m) for m in native.survivors(native.drawn(24))}
    assert left - native.EQUIVALENT.keys() == set()


def test_the_explanations_belong_to_mutants_that_exist() -> None:
    """An explanation of a line that was rewritten is out of date."""
    assert generate.EQUIVALENT.keys() <= {str(m) for module in generate.MODULES for m in generate.mutants(module)}
    assert native.EQUIVALENT.keys() <= {str(m) for m in native.mutants()}


def test_every_survivor_is_on_the_page() -> None:
    page = " ".join(Path(ROOT / "docs" / "conformance.md").read_text().split())
    for reason in {*generate.EQUIVALENT.values(), *native.EQUIVALENT.values()}:
        assert reason in page, reason


def test_mutants_reach_the_loop_its_backward_and_the_cells() -> None:
    """The generator reaches the loop, its backward, and the cells' equations."""
    of = {module: generate.mutants(module) for module in generate.MODULES}
    assert {"forward", "backward", "step", "sums"} <= {m.where for m in of["reference"]}
    assert {"Memory.forward", "GRU.backward", "FGR.backward", "candidate_slope"} <= {m.where for m in of["cells"]}
    assert len(of["reference"]) > 150 and len(of["cells"]) > 100 and len(native.mutants()) > 80
