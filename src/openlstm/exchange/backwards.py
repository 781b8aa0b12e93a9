"""`Backwards`: a layer that runs from the last step to the first, as other packages have it beside a bidirectional one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlstm.nn.recurrent import Recurrent


class Backwards(nn.Module):
    """A layer of ours from the last step to the first: outputs stand at the steps they belong to, the state is that of step 0.

    Args:
        layer: in one direction.

    A call is `backwards(x, hx, lengths=...)`: with lengths every row begins at its own last step.

    >>> import torch, openlstm
    >>> layer = openlstm.GRU(3, 5)
    >>> x = torch.randn(7, 2, 3)
    >>> bool((Backwards(layer)(x)[0] == layer(x.flip(0))[0].flip(0)).all())
    True
    """

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, hx: Any = None, *, lengths: Tensor | Sequence[int] | None = None) -> tuple[Tensor, Any]:
        """As a call of the layer."""
        time = int(self.layer.batch_first and x.dim() == 3)
        y, state = self.layer(_turned(x, lengths, time), hx, lengths=lengths)
        return _turned(y, lengths, time), state


def _turned(x: Tensor, lengths: Any, time: int) -> Tensor:
    """x with the steps of every row in the other order; what is past a row's length stays where it is."""
    if lengths is None or x.dim() == 2:
        return x.flip(time) if lengths is None else torch.cat([x[: int(lengths)].flip(0), x[int(lengths) :]])
    steps = torch.arange(x.shape[time], device=x.device)[:, None]  # [T, 1]
    ends = torch.as_tensor(lengths, device=x.device)[None, :]
    at = torch.where(steps < ends, ends - 1 - steps, steps)  # [T, B]
    at = at.T if time else at
    return x.gather(time, at[..., None].expand(*at.shape, x.shape[-1]))
