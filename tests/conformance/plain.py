"""Every cell as its paper writes it: one row after the other, step by step, in torch, which differentiates it.

Slow and plain on purpose, and made of nothing that runs a cell in openlstm, so that a mistake there cannot be here as well.
(Random draws are the exception: `openlstm.noise.events` says which units they hit; tests/test_noise.py holds those.)

Legend: T time, B batch, I input size, H hidden size, R what is fed back, L layers, D directions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from openlstm import noise as N
from openlstm.noise import Noise

GATES = {
    "lstm": "ifgo",
    "peephole": "ifgo",
    "nig": "fgo",
    "nfg": "igo",
    "nog": "ifg",
    "niaf": "ifgo",
    "noaf": "ifgo",
    "cifg": "igo",
    "fgr": "ifgo",
    "lstm1997": "igo",
    "lstm_ln": "ifgo",
    "gru": "rzn",
    "rnn": "h",
    "slstm": "ifgo",
    "mingru": "ug",
    "minlstm": "ifg",
    "janet": "fg",
    "indrnn": "h",
}
"""The blocks of rows of the weights, a letter each."""


class End(NamedTuple):
    """What one layer in one direction gives."""

    y: Tensor  # [T, B, R]
    h: Tensor  # [B, R]
    c: Tensor | None  # [B, C]
    seen: dict[str, Tensor]  # gates and the cell state by name, each [T, B, H], zero past a row's length


class Nudge(NamedTuple):
    """Zeros added to the state after each step: what flows back to them is dL/dh_t and dL/dc_t."""

    h: Tensor  # [T, B, R]
    c: Tensor | None  # [T, B, C]


def run(
    cell: Any,
    x: Tensor,
    w: Any,
    h0: Tensor,
    c0: Tensor | None,
    *,
    lengths: Any = None,
    reset: Any = None,
    fresh: Any = None,
    reverse: bool = False,
    noise: Noise | None = None,
    nudge: Nudge | None = None,
) -> End:
    """One layer in one direction; `fresh` is (h, c), each [B, .] or [T, B, .], what a reset leads to."""
    T, B = x.shape[:2]
    H = len(w.w_ch) // len(_peepholes(cell)) if w.w_ch is not None else w.w_hr.shape[1] if w.w_hr is not None else None
    H = H or (len(w.norm) // 18 if w.norm is not None else None)
    H = H or (h0.shape[1] // 4 if cell.name == "fgr" else h0.shape[1])
    ys, hs, cs, gates = [], [], [], []
    zones = [[_zone(noise, kind, t, B, n) for t in range(T)] for kind, n in ((0, h0.shape[1]), (1, H))]
    masks = [N.candidate_mask(noise, t, x.new_zeros(B, H)) if noise is not None else None for t in range(T)]
    for b in range(B):
        n = T if lengths is None else int(lengths[b])
        h, c = h0[b], None if c0 is None else c0[b]
        y: list[Tensor] = [torch.zeros_like(h0[b])] * T
        seen: list[dict[str, Tensor]] = [{}] * T
        for t in reversed(range(n)) if reverse else range(n):
            boundary = t + 1 if reverse else t  # reset[k] stands between k-1 and k
            if reset is not None and boundary < n and bool(reset[boundary, b]):
                h, c = _fresh(fresh, boundary, b, h, c)
            shown = h if noise is None or not noise.training or noise.hidden is None else noise.hidden[b] * h
            made, c_new, seen[t] = _unit(cell, x[t, b], h, shown, c, w, H, _of(masks[t], b))
            h_new = made if w.w_hr is None else w.w_hr @ made
            h = _zoned(noise, "zoneout_h", zones[0][t], b, h, h_new)
            zone = zones[1][t]
            zone = zone if zone is None else zone.repeat(1, len(cell.states))  # of a unit all states or none
            c = None if c is None or c_new is None else _zoned(noise, "zoneout_c", zone, b, c, c_new)
            if nudge is not None:
                h = h + nudge.h[t, b]
                c = c if c is None or nudge.c is None else c + nudge.c[t, b]
            y[t] = h
            seen[t] |= {} if c is None else dict(zip(cell.states, c.split(H), strict=True))
        ys.append(torch.stack(y) if T else x.new_zeros(0, h0.shape[1]))
        hs.append(h)
        cs.append(c)
        gates.append(seen)
    c = None if c0 is None else torch.stack([c for c in cs if c is not None]) if B else c0
    names = next((list(at) for row in gates for at in row if at), [])
    named = {g: torch.stack([torch.stack([at.get(g, x.new_zeros(H)) for at in row]) for row in gates], 1) for g in names}
    return End(torch.stack(ys, 1) if B else x.new_zeros(T, 0, h0.shape[1]), torch.stack(hs) if B else h0, c, named)


def layers(
    layer: Any, x: Tensor, h0: Tensor, c0: Any, *, fresh: Any = None, noise: dict[str, Any] | None = None, **rows: Any
) -> Any:
    """A whole layer of openlstm, read from its parameters: y [T, B, D*R], h_n and c_n [L*D, B, .].

    `fresh` is (h, c), each [L*D, B, .] or [L*D, T, B, .]; `noise` are fields of `Noise`, the same for all.
    """
    D, hs, cs = 1 + layer.bidirectional, [], []
    for at in range(layer.num_layers):
        ys = []
        for direction in range(D):
            k = at * D + direction
            one = None if fresh is None else (fresh[0][k], None if fresh[1] is None else fresh[1][k])
            given = None if noise is None else Noise(**{"stream": 2 * at + direction, **noise})
            c = None if c0 is None else c0[k]
            end = run(
                layer.cell,
                x,
                layer.weights_of(at, direction),
                h0[k],
                c,
                fresh=one,
                reverse=bool(direction),
                noise=given,
                **rows,
            )
            ys.append(end.y)
            hs.append(end.h)
            cs.append(end.c)
        x = torch.cat(ys, -1)
    return x, torch.stack(hs), None if c0 is None else torch.stack(cs)


def _unit(
    cell: Any, x: Tensor, h: Tensor, shown: Tensor, c: Any, w: Any, H: int, mask: Any
) -> tuple[Tensor, Any, dict[str, Tensor]]:
    """x [I], the state and the h that the sums see -> h', c', gates; every cell by name."""
    if cell.name == "lstm_ln":
        return _normalising_unit(
            cell, x if w.w_ih is None else w.w_ih @ x, w.w_hh @ shown, c, w, H, 1.0 if mask is None else mask
        )
    of_x, of_h, start = {}, {}, 0
    for gate in GATES[cell.name]:
        shared = cell.cells_per_gate if gate != "g" else 1
        rows = slice(start, start + H // shared)
        start = rows.stop
        columns = slice(0, H) if cell.name == "fgr" and gate == "g" else slice(None)
        a = x[rows] if w.w_ih is None else w.w_ih[rows] @ x
        if cell.recurrence == "none":
            b = torch.zeros_like(a)
        elif w.w_hh.shape[1] != len(shown):  # unit u sees the units of its own head
            K, units = w.w_hh.shape[1], range(rows.stop - rows.start)
            heads = [u * shared // K for u in units]
            b = torch.stack([w.w_hh[rows.start + u] @ shown[k * K : (k + 1) * K] for u, k in zip(units, heads, strict=True)])
        else:
            b = w.w_hh[rows, columns] @ shown[columns]
        if w.b_ih is not None:
            a = a + w.b_ih[rows]
        if w.b_hh is not None:
            b = b + w.b_hh[rows]
        of_x[gate], of_h[gate] = (s.repeat_interleave(shared) for s in (a, b))
    z = {gate: of_x[gate] + of_h[gate] for gate in of_x}
    mask = 1.0 if mask is None else mask
    if cell.name in _MINIMAL:
        return _minimal_unit(cell, z, h, mask)
    if cell.name == "slstm":
        return _exponential_unit(z, c.split(H), mask)
    if cell.name in ("rnn", "indrnn"):
        return (torch.tanh(z["h"]) if cell.nonlinearity == "tanh" else torch.relu(z["h"])), None, {}
    if cell.name == "gru":
        r, u = torch.sigmoid(z["r"]), torch.sigmoid(z["z"])
        n = mask * torch.tanh(of_x["n"] + r * of_h["n"])
        new = (1 - u) * n + u * (h if c is None else c)
        return new, None if c is None else new, {"r": r, "z": u, "n": n, "m": of_h["n"]}
    names = _peepholes(cell)
    p = {gate: w.w_ch[k * H : (k + 1) * H] for k, gate in enumerate(names)}
    i = torch.sigmoid(z["i"] + p.get("i", 0.0) * c) if "i" in z else torch.ones(H, dtype=x.dtype)
    if cell.name == "cifg":
        f = 1 - i
    else:
        f = torch.sigmoid(z["f"] + p.get("f", 0.0) * c) if "f" in z else torch.ones(H, dtype=x.dtype)
    g = mask * (z["g"] if cell.name == "niaf" else torch.tanh(z["g"]))
    new = f * c + i * g
    if cell.clip is not None:  # no gradient where the bound is reached, also exactly
        new = torch.where(new.abs() >= cell.clip, new.detach().clamp(-cell.clip, cell.clip), new)
    o = torch.sigmoid(z["o"] + p.get("o", 0.0) * new) if "o" in z else torch.ones(H, dtype=x.dtype)
    out = o * (new if cell.name == "noaf" else torch.tanh(new))
    gates = {"i": i, "f": f, "g": g, "o": o}
    return (torch.cat([out, i, f, o]) if cell.name == "fgr" else out), new, {gate: gates[gate] for gate in GATES[cell.name]}


_MINIMAL = ("mingru", "minlstm", "janet")


def _minimal_unit(cell: Any, z: dict[str, Tensor], h: Tensor, mask: Any) -> tuple[Tensor, None, dict[str, Tensor]]:
    """Cells whose only state is h: minGRU and minLSTM (Feng et al. 2024), JANET (van der Westhuizen & Lasenby 2018)."""
    if cell.name == "janet":
        f, g = torch.sigmoid(z["f"]), mask * torch.tanh(z["g"])
        i = 1 - torch.sigmoid(z["f"] - cell.beta)
        return f * h + i * g, None, {"f": f, "g": g, "i": i}
    g = mask * torch.where(z["g"] >= 0, z["g"] + 0.5, torch.sigmoid(z["g"]))
    if cell.name == "mingru":
        u = torch.sigmoid(z["u"])
        return (1 - u) * h + u * g, None, {"u": u, "g": g}
    p, q = torch.sigmoid(z["i"]), torch.sigmoid(z["f"])
    i, f = p / (q + p), q / (q + p)
    return f * h + i * g, None, {"i": i, "f": f, "g": g, "p": p, "q": q}


def _exponential_unit(z: dict[str, Tensor], states: Any, mask: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """sLSTM (Beck et al. 2024): where nothing has been summed up yet, m' is z_i."""
    c, n, m = states
    s = torch.sigmoid(z["f"])
    held = torch.log(s) + m
    new_m = torch.where(n == 0, z["i"], torch.maximum(z["i"], held))
    i, f = torch.exp(z["i"] - new_m), torch.exp(held - new_m).clamp(max=1)
    g, o = mask * torch.tanh(z["g"]), torch.sigmoid(z["o"])
    new_c, new_n = f * c + i * g, f * n + i
    return o * new_c / new_n, torch.cat([new_c, new_n, new_m]), {"i": i, "f": f, "g": g, "o": o, "s": s}


def _normalising_unit(
    cell: Any, of_x: Tensor, of_h: Tensor, c: Tensor, w: Any, H: int, mask: Any
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The LSTM with torch's own layer normalisation of the sums [4H] of x and of h, and of c'."""
    w_x, b_x, w_h, b_h, w_c, b_c = w.norm.split([4 * H, 4 * H, 4 * H, 4 * H, H, H])
    z = layer_norm(of_x, (4 * H,), w_x, b_x, 1e-5) + layer_norm(of_h, (4 * H,), w_h, b_h, 1e-5)
    if w.b_ih is not None:
        z = z + w.b_ih + w.b_hh
    i, f, g, o = z.split(H)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), mask * torch.tanh(g), torch.sigmoid(o)
    new = f * c + i * g
    if cell.clip is not None:
        new = torch.where(new.abs() >= cell.clip, new.detach().clamp(-cell.clip, cell.clip), new)
    seen = {"i": i, "f": f, "g": g, "o": o}
    for letter, sums in (("x", of_x), ("h", of_h)):
        seen |= {letter + gate: part for gate, part in zip("ifgo", sums.split(H), strict=True)}
    return o * torch.tanh(layer_norm(new, (H,), w_c, b_c, 1e-5)), new, seen


def _of(a: Any, b: int) -> Any:
    return None if a is None else a[b]


def _peepholes(cell: Any) -> str:
    bare = ("lstm", "lstm1997", "lstm_ln", "gru", "rnn", "indrnn", "slstm", *_MINIMAL)
    plain = cell.name in bare or not getattr(cell, "peephole", True)
    return "" if plain else GATES[cell.name].replace("g", "")


def _fresh(fresh: Any, t: int, b: int, h: Tensor, c: Any) -> Any:
    if fresh is None:
        return torch.zeros_like(h), None if c is None else torch.zeros_like(c)
    at = [None if s is None else s[t, b] if s.dim() == 3 else s[b] for s in fresh]
    return at[0], at[1]


def _zone(noise: Noise | None, kind: int, t: int, B: int, n: int) -> Tensor | None:
    return None if noise is None else N.events(noise, kind, t, torch.zeros(B, n))


def _zoned(noise: Noise | None, rate: str, zone: Tensor | None, b: int, old: Tensor, new: Tensor) -> Tensor:
    p = 0.0 if noise is None else getattr(noise, rate)
    if not p or zone is None or noise is None:
        return new
    return torch.where(zone[b], old, new) if noise.training else p * old + (1 - p) * new
