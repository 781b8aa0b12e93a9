"""The pool of work memory: pages that were touched once are used again, since fresh ones cost more than arithmetic."""

from __future__ import annotations

from openlstm.engine import native
from openlstm.errors import ArgumentError


def set_workspace_limit(limit: int) -> None:
    """Keep at most this many bytes of freed memory for the next call; 0 keeps none.

    What is in use does not count. The default is an eighth of the machine's memory, 2 GiB at most.

    Raises:
        ArgumentError: if it is not an integer from 0.

    >>> before = get_workspace_limit()
    >>> set_workspace_limit(1 << 20)
    >>> set_workspace_limit(before)
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise ArgumentError.of(
            "set_workspace_limit", "not a number of bytes", repr(limit), "an integer from 0", "1 << 30 is 1 GiB"
        )
    if native.available():
        native.library.set_workspace_limit(limit)


def get_workspace_limit() -> int:
    """The most bytes of freed memory that are kept."""
    return native.library.workspace_limit() if native.available() else 0


def workspace_bytes() -> int:
    """The bytes of freed memory that are kept at this moment."""
    return native.library.workspace_bytes() if native.available() else 0
