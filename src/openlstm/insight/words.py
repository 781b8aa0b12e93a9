"""Numbers in sentences: what every finding needs."""

from __future__ import annotations

import numpy as np


def number(x: float, digits: int = 2) -> str:
    """A number as one would say it.

    >>> number(0.0), number(0.00012), number(12.345), number(1234.5), number(float("inf"))
    ('0', '0.00012', '12', '1200', 'inf')
    """
    if not np.isfinite(x):
        return str(float(x))
    if x == 0:
        return "0"
    if 1e-4 <= abs(x) < 1e6:
        text = np.format_float_positional(float(f"{x:.{digits - 1}e}"), trim="-")
        return text
    return f"{x:.{digits - 1}e}"


def percent(x: float) -> str:
    """A share in percent: `number(100 x) %`."""
    return f"{number(100 * x)} %"


def steps(n: float | None) -> str:
    """A count of steps.

    >>> steps(1), steps(12), steps(float("inf")), steps(6.58)
    ('1 step', '12 steps', 'more steps than there are', '6.6 steps')
    """
    if n is None or not np.isfinite(n):
        return "more steps than there are"
    return "1 step" if n == 1 else f"{int(n)} steps" if float(n).is_integer() else f"{number(float(n))} steps"


def some(n: int, of: int, what: str = "unit") -> str:
    """`3 of 32 units`."""
    return f"{n} of {of} {what}{'' if of == 1 else 's'}"


def sentence(error: str) -> str:
    r"""An error as one sentence: of one in the form of `openlstm.errors.message` without who raised it.

    >>> sentence("me: too long\n  got       T=3\n  expected  T < 3\n  hint      take less")
    'Too long (got T=3, expected T < 3): take less.'
    """
    what, *rest = error.split("\n  ")
    if len(rest) == 3:
        got, expected, hint = (line[10:] for line in rest)
        what = f"{what.partition(': ')[2]} (got {got}, expected {expected}): {hint}"
        what = what[0].upper() + what[1:]
    return what if what.endswith(".") else f"{what}."


def unmeasured(lag: int | None, why: str) -> str:
    """What is said about changes where the measures could not be taken; `why` is a sentence.

    >>> unmeasured(20, "It failed.")
    'Nothing was measured of lag 20, so that nothing can be advised: It failed.'
    """
    return f"Nothing was measured{'' if lag is None else f' of lag {lag}'}, so that nothing can be advised: {why}"
