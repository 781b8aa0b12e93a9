"""`Backwards`: a layer that runs from the last step to the first, as other packages have it beside a bidirectional one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlstm.nn.form import Form
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
        form = Form.of(self.layer, x)
        given = form.enter(self.layer, x, hx, lengths, None, None)
        y, state = self.layer(form.leave(_turned(given.x, given.lengths)), hx, lengths=lengths)
        y = y.unsqueeze(1) if not form.batched else y.transpose(0, 1) if form.batch_first else y
        return form.leave(_turned(y, given.lengths)), state


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x [T, B, .] with the steps of every row in the other order; what is past a row's length stays where it is."""
    if lengths is None:
        return x.flip(0)
    T = len(x)
    steps = torch.arange(T, device=x.device)[:, None]  # [T, 1]
    at = torch.where(steps < lengths, (lengths - 1 - steps).clamp(0, T - 1), steps)  # a length beyond T the layer refuses
    return x.gather(0, at[..., None].expand(*at.shape, x.shape[-1]))
