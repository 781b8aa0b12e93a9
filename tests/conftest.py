"""How every test runs: one thread for the libraries beside us, the same drawn cases every time."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads torch: tests run side by side

from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "openlstm", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("wide", deadline=None, max_examples=1000)  # pytest --hypothesis-profile=wide
settings.load_profile("openlstm")
