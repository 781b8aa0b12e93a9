"""Every random state that a training may draw from: saved, restored, and left as it was found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def state() -> dict[str, Any]:
    """The global random states of torch (of its GPUs too), numpy and Python, as plain values and tensors."""
    found = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(legacy=False), "python": random.getstate()}
    return found | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def restore(found: dict[str, Any]) -> None:
    """Set the random states to those that `state` gave."""
    torch.set_rng_state(found["torch"])
    np.random.set_state(found["numpy"])
    random.setstate(found["python"])
    if "cuda" in found:
        torch.cuda.set_rng_state_all(found["cuda"])


@contextmanager
def kept(seed: int) -> Iterator[None]:
    """Inside, all of them begin at `seed`; afterwards every random state is what it was before.

    >>> before = torch.get_rng_state()
    >>> with kept(1):
    ...     drawn = torch.rand(2), random.random()
    >>> bool((before == torch.get_rng_state()).all())
    True
    """
    before = state()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        restore(before)
