// Steps of a single row: for each tile both products and the cell on their sums in one piece, in registers. Where there is one row
// these are short, and what passes through memory between two calls costs as much as they do.
#pragma once

#include "cells/cell.hpp"
#include "product/panel.hpp"

namespace openlstm::OPENLSTM_ISA {

// U tiles, of `blocks` vectors of units each. Sums are begun and added to in the order of any other product.
template <class Cell, class T, int blocks, int U, bool full>
OPENLSTM_INLINE void row_tiles(const RowSteps<T>& p, const CellStep<T>& step, const T* x, const T* sums, const T* h, const WeightTile<T>& tile, index unit) {
  constexpr int G = Cell::gates, A = Cell::separate, S = G + A, N = blocks * G;  // A is 0 where blocks is more than 1
  constexpr index W = width<T>;
  Vec<T> of_x[U][N], of_h[U][N], z[S][U * blocks];
  const T* begin = x ? tile.bias : sums;
  const index between = x ? p.between_tiles : p.between_sums;
  for (int t = 0; t < U; t++)
    for (int n = 0; n < N; n++) of_x[t][n] = load(begin + t * between + n * W);
  if (x) product<T, 1, N, U>(of_x, &x, 0, p.inputs, tile.w_ih, p.between_tiles);
  for (int t = 0; t < U; t++)
    for (int n = 0; n < N; n++) of_h[t][n] = n + A < N ? of_x[t][n + A] : load(begin + t * between + (n + A) * W);
  product<T, 1, N, U>(of_h, &h, 0, p.factors, tile.w_hh, p.between_tiles);
  Places<T, full, U * blocks> at;
  at.last = p.hidden;
  for (int t = 0; t < U; t++)
    for (int b = 0; b < blocks; b++) {
      const int k = t * blocks + b;
      at.row[k] = 0, at.unit[k] = unit + k * W;
      for (int s = 0; s < S; s++) {
        const int place = place_of<Cell>(s);
        z[s][k] = place < A ? of_x[t][place] : of_h[t][b * G + place - A];
      }
    }
  apply_cell<Cell>(z, step, at);
}

template <class Cell, class T>
static void cell_row(const RowSteps<T>& p) {
  constexpr int blocks = panel_vectors / Cell::gates, U = blocks < at_once ? at_once / blocks : 1;
  constexpr index units = blocks * width<T>;
  constexpr Noise none{};
  const index H = p.hidden, whole = H / units, groups = whole / U + whole % U + (whole * units < H);
  const T *x = p.x, *sums = p.sums, *h = p.h, *c = p.c;
  T *out = p.out, *c_out = p.c_out, *gates = p.gates;
  CellStep<T> step{nullptr, 0, 0, 1, 0, H, H, &c, &out, c_out ? &c_out : nullptr, gates ? &gates : nullptr, nullptr, nullptr, p.w_ch, nullptr, p.clip, &none};
  for (index s = 0; s < p.steps; s++) {
    auto tiles = [&](index u, auto together) __attribute__((always_inline)) {
      const index at = u * p.between_tiles;
      const WeightTile<T> tile{p.first.bias + at, p.first.w_ih + at, p.first.w_hh + at};
      row_tiles<Cell, T, blocks, decltype(together)::value, true>(p, step, x, sums + u * p.between_sums, h, tile, u * units);
    };
    auto rest = [&]() __attribute__((always_inline)) {
      with_count<blocks>((H - whole * units + width<T> - 1) / width<T>, [&](auto vectors) __attribute__((always_inline)) {
        row_tiles<Cell, T, decltype(vectors)::value, 1, false>(p, step, x, sums + whole * p.between_sums, h, p.last, whole * units);
      });
    };
    const bool back = s % 2;  // what a step reads last is still in the cache when the next one begins with it
    for (index done = 0; done < groups; done++) {
      const index group = back ? groups - 1 - done : done;
      if (group < whole / U)
        tiles(group * U, Count<U>{});
      else if (const index u = whole / U * U + group - whole / U; u < whole)
        tiles(u, Count<1>{});
      else
        rest();
    }
    h = out, c = Cell::h_is_cell && !c_out ? out : c_out;
    x = x ? x + p.between_x : nullptr, sums += p.between_steps;
    out += p.between_out, c_out = c_out ? c_out + p.between_c : nullptr, gates = gates ? gates + p.between_gates : nullptr;
  }
}

}  // namespace openlstm::OPENLSTM_ISA
