// Steps of a single row: for each tile both products and the cell on their sums in one piece, in registers. Where there is one row
// these are short, and what passes through memory between two calls costs as much as they do.
#pragma once

#include "cells/cell.hpp"
#include "product/panel.hpp"

namespace openlstm::OPENLSTM_ISA {

// U tiles, of `blocks` vectors of units each, up to unit `last`. Sums are begun and added to in the order of any other product.
template <class Cell, class T, int blocks, int U, bool full>
OPENLSTM_INLINE void row_tiles(const RowSteps<T>& p, const CellStep<T>& step, const T* x, const T* sums, const T* h, const WeightTile<T>& tile, index unit,
                               index last) {
  constexpr int G = Cell::gates, A = Cell::separate, S = G + A, N = blocks * G;  // A is 0 where blocks is more than 1
  constexpr index W = width<T>;
  Vec<T> of_x[U][N], of_h[U][N], z[room_of<Cell>][U * blocks];
  const T* begin = x ? tile.bias : sums;
  const index between = x ? p.between_tiles : p.between_sums;
  for (int t = 0; t < U; t++)
    for (int n = 0; n < N; n++) of_x[t][n] = load(begin + t * between + n * W);
  if (x) product<T, 1, N, U>(of_x, &x, 0, p.inputs, tile.w_ih, p.between_tiles);
  for (int t = 0; t < U; t++)
    for (int n = 0; n < N; n++) of_h[t][n] = n + A < N ? of_x[t][n + A] : load(begin + t * between + (n + A) * W);
  if constexpr (Cell::recurrence == Recurrence::dense)
    product<T, 1, N, U>(of_h, &h, 0, p.factors, tile.w_hh, p.between_tiles);
  else if constexpr (Cell::recurrence == Recurrence::elementwise)
    for (int t = 0; t < U; t++)
      for (int n = 0; n < N; n++) {
        const index u = unit + (t * blocks + n / G) * W;
        of_h[t][n] = fma(load(tile.w_hh + t * p.between_tiles + n * W), load(h + u, full ? W : last - u), of_h[t][n]);
      }
  Places<T, full, U * blocks> at;
  at.last = last;
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
  const index H = p.hidden / p.heads, whole = H / units, tiles_of_head = whole + (whole * units < H), groups = whole / U + whole % U + (whole * units < H);
  const T *x = p.x, *sums = p.sums, *h = p.h, *c = p.c;
  T *out = p.out, *c_out = p.c_out, *gates = p.gates;
  const index all = p.hidden;
  const CellStep<T> step{nullptr, 0,       0,      1,       0,      all,    all,  &c, &out, c_out ? &c_out : nullptr, gates ? &gates : nullptr,
                         nullptr, nullptr, p.w_ch, nullptr, p.clip, p.beta, &none};
  for (index s = 0; s < p.steps; s++) {
    const bool back = s % 2;  // what a step reads last is still in the cache when the next one begins with it
    for (index done_heads = 0; done_heads < p.heads; done_heads++) {
      const index head = back ? p.heads - 1 - done_heads : done_heads, first = head * H;
      const T *seen = h + head * p.factors, *of_x = sums + head * tiles_of_head * p.between_sums;
      const auto at = [&](const WeightTile<T>& tile, index u) __attribute__((always_inline)) {
        const index to = (head * tiles_of_head + u) * p.between_tiles;
        return WeightTile<T>{tile.bias + to, tile.w_ih + to, tile.w_hh + to};
      };
      const auto tiles = [&](index u, auto together) __attribute__((always_inline)) {
        row_tiles<Cell, T, blocks, decltype(together)::value, true>(p, step, x, of_x + u * p.between_sums, seen, at(p.first, u), first + u * units, first + H);
      };
      const auto rest = [&]() __attribute__((always_inline)) {
        with_count<blocks>((H - whole * units + width<T> - 1) / width<T>, [&](auto vectors) __attribute__((always_inline)) {
          row_tiles<Cell, T, decltype(vectors)::value, 1, false>(p, step, x, of_x + whole * p.between_sums, seen, at(p.last, 0), first + whole * units,
                                                                 first + H);
        });
      };
      for (index done = 0; done < groups; done++) {
        const index group = back ? groups - 1 - done : done;
        if (group < whole / U)
          tiles(group * U, Count<U>{});
        else if (const index u = whole / U * U + group - whole / U; u < whole)
          tiles(u, Count<1>{});
        else
          rest();
      }
    }
    h = out, c = Cell::h_is_cell && !c_out ? out : c_out;
    x = x ? x + p.between_x : nullptr, sums += p.between_steps;
    out += p.between_out, c_out = c_out ? c_out + p.between_c : nullptr, gates = gates ? gates + p.between_gates : nullptr;
  }
}

}  // namespace openlstm::OPENLSTM_ISA
