"""Ways to begin, until `openlstm.nn.init` has them."""

from __future__ import annotations


import torch
from torch import nn


@torch.no_grad()
def forget_bias(layer: nn.Module, value: float) -> None:
    """b_f = value in one bias, 0 in the other."""
    H = layer.hidden_size
    layer.bias_ih_l0[H : 2 * H] = value
    layer.bias_hh_l0.zero_()


@torch.no_grad()
def chrono(layer: nn.Module, lag: int) -> None:
    """b_f = log U(1, 2 lag - 1), b_i = -b_f (Tallec & Ollivier 2018)."""
    H = layer.hidden_size
    b = torch.empty(H).uniform_(1, max(2 * lag - 1, 1 + 1e-6)).log()
    layer.bias_hh_l0.zero_()
    layer.bias_ih_l0[:H] = -b
    layer.bias_ih_l0[H : 2 * H] = b


@torch.no_grad()
def orthogonal(layer: nn.Module) -> None:
    """W_hh orthogonal, biases 0."""
    nn.init.orthogonal_(layer.weight_hh_l0)
    layer.bias_ih_l0.zero_(), layer.bias_hh_l0.zero_()


@torch.no_grad()
def identity(layer: nn.Module) -> None:
    """W_hh = identity, biases 0 (Le, Jaitly & Hinton 2015)."""
    nn.init.eye_(layer.weight_hh_l0)
    layer.bias_ih_l0.zero_(), layer.bias_hh_l0.zero_()
