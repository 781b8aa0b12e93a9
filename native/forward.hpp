// The forward pass: one time loop for every cell, over rows reached through pointers.
//
//     z = (b_ih + b_hh) + x W_ih^T + h W_hh^T      summed in this order, k by k
//     h', c' = cell(z, c);  with a projection h' <- h' W_hr^T
//
// Two bodies of a step. The tile applies the gates while a tile's sums are in registers. The row first sums a whole row, then
// applies the cell to it, for cells and layers that need all units together (projection).
#pragma once

#include "cells.hpp"
#include "plan.hpp"

namespace openlstm::OPENLSTM_ISA {

// Both weight matrices by tiles of units, the gates of a unit in one tile: per tile [1 + I + R][blocks * gates][width], first
// the sum of the biases, then the columns of W_ih, then those of W_hh.
template <class Cell, class T>
struct Tiles {
  static constexpr index units = Cell::blocks * width<T>;  // of a full tile
  const Problem<T>& p;

  OPENLSTM_INLINE index count() const { return (p.hidden + units - 1) / units; }
  OPENLSTM_INLINE index depth() const { return 1 + p.inputs + p.fed_back(); }
  OPENLSTM_INLINE index size() const { return depth() * Cell::gates * units; }
  OPENLSTM_INLINE int blocks(index tile) const {
    index left = p.hidden - tile * units;
    return static_cast<int>(left >= units ? Cell::blocks : (left + width<T> - 1) / width<T>);
  }

  OPENLSTM_INLINE void pack(index tile, T* out) const {
    constexpr index W = width<T>;
    index B = blocks(tile), stride = B * Cell::gates * W;
    if (tile * units + B * W > p.hidden) clear(out, depth() * stride);
    for (index block = 0; block < B; block++)
      for (index gate = 0; gate < Cell::gates; gate++) {
        index unit = tile * units + block * W, n = smaller(W, p.hidden - unit), first = gate * p.hidden + unit;
        T* at = out + (block * Cell::gates + gate) * W;
        for (index k = 0; k < n; k++) at[k] = p.b_ih ? p.b_ih[first + k] + p.b_hh[first + k] : T(0);
        at += stride;
        transpose([&](index r) { return p.w_ih + (first + r) * p.inputs; }, n, 0, p.inputs, at, stride);
        at += p.inputs * stride;
        transpose([&](index r) { return p.w_hh + (first + r) * p.fed_back(); }, n, 0, p.fed_back(), at, stride);
      }
  }
};

// Pointers to the rows of one step, in the order of a part's share.
template <class T>
struct Pointers {
  const T **x, **h, **c;        // what goes in
  T **h_out, **c_out, **gates;  // what comes out; gates null if not kept
  T** z;                        // sums, for the row body
};

// The cell on the same vector of units of N rows: z are the sums on entry, h' goes to h_out.
template <class Cell, class T, int N>
OPENLSTM_INLINE void apply_cell(Vec<T> (&z)[Cell::gates][N], const Pointers<T>& at, index row, T* const* h_out, index unit, index hidden) {
  static_assert(Cell::saved <= Cell::gates);
  const index lanes = hidden - unit;
  Vec<T> c[N] = {};
  if constexpr (Cell::highway)
    for (int k = 0; k < N; k++) c[k] = load(at.c[row + k] + unit, lanes);
  Cell::update(z, c);
  if constexpr (Cell::highway)
    for (int k = 0; k < N; k++) store(at.c_out[row + k] + unit, c[k], lanes);
  if (Cell::saved && at.gates)
    for (int k = 0; k < N; k++)
      for (int s = 0; s < Cell::saved; s++) store(at.gates[row + k] + s * hidden + unit, z[s][k], lanes);
  Cell::output(z, c);
  for (int k = 0; k < N; k++) store(h_out[k] + unit, c[k], lanes);
}

enum class Body { tile, row };

template <class Cell, class T, Body body, int M, int B>
static void step_tile(const Pointers<T>& at, index row, const Problem<T>& p, const T* packed, index unit) {
  constexpr index W = width<T>;
  constexpr int G = Cell::gates, N = B * G;
  Vec<T> acc[M][N];
  for (int n = 0; n < N; n++) {
    Vec<T> bias = load(packed + n * W);
    for (int m = 0; m < M; m++) acc[m][n] = bias;
  }
  packed += N * W;
  product<T, M, N>(acc, at.x + row, p.inputs, packed);
  product<T, M, N>(acc, at.h + row, p.fed_back(), packed);
  if constexpr (body == Body::row) {
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) {
        index u = unit + n / G * W;
        store(at.z[row + m] + n % G * p.hidden + u, acc[m][n], p.hidden - u);
      }
  } else {
    for (int block = 0; block < B; block++) {
      Vec<T> z[G][M];
      for (int m = 0; m < M; m++)
        for (int g = 0; g < G; g++) z[g][m] = acc[m][block * G + g];
      apply_cell<Cell>(z, at, row, at.h_out + row, unit + block * W, p.hidden);
    }
  }
}

template <class Cell, class T, Body body>
static void step_rows(const Pointers<T>& at, index rows, const Problem<T>& p, const T* packed, index tile) {
  Tiles<Cell, T> tiles{p};
  index unit = tile * tiles.units;
  auto with_blocks = [&](auto blocks) {
    in_tiles(rows, [&](auto height, index first) { step_tile<Cell, T, body, decltype(height)::value, decltype(blocks)::value>(at, first, p, packed, unit); });
  };
  if constexpr (Cell::blocks == 1) {
    with_blocks(Count<1>{});
  } else {
    switch (tiles.blocks(tile)) {
      case 1: with_blocks(Count<1>{}); break;
      case 2: with_blocks(Count<2>{}); break;
      case 3: with_blocks(Count<3>{}); break;
      default: with_blocks(Count<4>{});
    }
  }
}

// The row body's second half: the cell over each whole row, then the projection.
template <class Cell, class T>
static void finish_rows(const Pointers<T>& at, index rows, const Problem<T>& p, T* m, const T** m_rows, const T* w_hr) {
  for (index row = 0; row < rows; row++) {
    T* h_out = m + row * p.hidden;
    m_rows[row] = h_out;
    for (index unit = 0; unit < p.hidden; unit += width<T>) {
      Vec<T> z[Cell::gates][1];
      for (int g = 0; g < Cell::gates; g++) z[g][0] = load(at.z[row] + g * p.hidden + unit, p.hidden - unit);
      apply_cell<Cell>(z, at, row, &h_out, unit, p.hidden);
    }
  }
  multiply<Into::store>(m_rows, at.h_out, rows, p.hidden, w_hr, p.projected);
}

// What all parts share.
template <class T>
struct ForwardPlan {
  const Forward<T>& f;
  const Order<T>& order;
  const T* zeros;
  T* packed;      // Tiles
  T* w_hr;        // panels of the projection, or null
  T* c;           // [B, H], where cell states live if they are not kept
  bool by_units;  // every part takes all rows and its own units: one row, one step
};

template <class Cell, class T>
static void forward_part(const ForwardPlan<T>& plan, const Part& part) {
  const Forward<T>& f = plan.f;
  Tiles<Cell, T> tiles{f};
  Begin<T> begin{f, plan.zeros};
  const index R = f.fed_back(), H = f.hidden;
  const bool keep = static_cast<bool>(f.c) || static_cast<bool>(f.gates);
  const bool one_step = plan.by_units && f.steps == 1;
  // Of the packed weights a part that takes its own units needs no more than these; one step uses a tile once, so it is packed
  // into the same place as the one before, which is still in the cache.
  const Slice all_tiles(tiles.count(), part);
  if (!one_step)
    for (index tile = all_tiles.first; tile < all_tiles.last; tile++) tiles.pack(tile, plan.packed + tile * tiles.size());
  if (plan.w_hr && part.id == 0) pack_transposed(f.w_hr, H, f.projected, plan.w_hr);
  if (!plan.by_units) part.wait();
  const index first_tile = plan.by_units ? all_tiles.first : 0, last_tile = plan.by_units ? all_tiles.last : tiles.count();

  Share<T> share(plan.order, f.batch, plan.by_units ? Part{0, 1, nullptr} : part);
  const index rows = share.count();
  Scratch<T> one_tile(one_step ? tiles.size() : 0), sums(plan.w_hr ? rows * (Cell::gates + 1) * H : 0);
  Scratch<T*> pointers(8 * rows);
  Pointers<T> at{const_cast<const T**>(pointers + 0 * rows),
                 const_cast<const T**>(pointers + 1 * rows),
                 const_cast<const T**>(pointers + 2 * rows),
                 pointers + 3 * rows,
                 pointers + 4 * rows,
                 keep && Cell::saved ? pointers + 5 * rows : nullptr,
                 pointers + 6 * rows};
  const T** m_rows = const_cast<const T**>(pointers + 7 * rows);
  T* m = sums + rows * Cell::gates * H;
  for (index j = 0; j < rows; j++) {
    index b = plan.order.row(share.position(j));
    at.h[j] = f.h0 + b * R;
    at.c[j] = Cell::highway ? f.c0 + b * H : nullptr;
    at.z[j] = sums + j * Cell::gates * H;
  }

  for (index n = 0; n < f.steps; n++) {
    const index t = step_at(f, n), alive = share.alive(plan.order.alive(t));
    for (index j = 0; j < alive; j++) {
      index b = plan.order.row(share.position(j));
      at.x[j] = f.x.at(t, b);
      if (begin.cut(t, b)) {
        at.h[j] = begin.reset_h(b);
        at.c[j] = begin.reset_c(b);
      }
      at.h_out[j] = f.y.at(t, b);
      if (Cell::highway) at.c_out[j] = keep ? f.c.at(t, b) : plan.c + b * H;
      if (at.gates) at.gates[j] = f.gates.at(t, b);
    }
    if (!plan.by_units || part.id == 0)
      for (index j = alive; j < rows; j++) {  // past the row's length
        index b = plan.order.row(share.position(j));
        clear(f.y.at(t, b), R);
        if (keep && Cell::highway) clear(f.c.at(t, b), H);
        if (at.gates) clear(f.gates.at(t, b), Cell::saved * H);
      }
    for (index tile = first_tile; tile < last_tile; tile++) {
      const T* packed = plan.packed + tile * tiles.size();
      if (one_step) {
        tiles.pack(tile, one_tile);
        packed = one_tile;
      }
      if (plan.w_hr)
        step_rows<Cell, T, Body::row>(at, alive, f, packed, tile);
      else
        step_rows<Cell, T, Body::tile>(at, alive, f, packed, tile);
    }
    if (plan.w_hr) finish_rows<Cell>(at, alive, f, m, m_rows, plan.w_hr);
    for (index j = 0; j < alive; j++) {
      at.h[j] = at.h_out[j];
      if (Cell::highway) at.c[j] = at.c_out[j];
    }
    if (plan.by_units && n + 1 < f.steps) part.wait();
  }

  // The final states; a part that takes its own units knows only those.
  const index from = plan.by_units ? first_tile * tiles.units : 0;
  const index to_h = plan.by_units ? smaller(last_tile * tiles.units, H) : R, to_c = plan.by_units ? to_h : H;
  if (from < to_c)
    for (index j = 0; j < rows; j++) {
      index b = plan.order.row(share.position(j));
      if (f.h_n) copy(at.h[j] + from, f.h_n + b * R + from, to_h - from);
      if (f.c_n && Cell::highway) copy(at.c[j] + from, f.c_n + b * H + from, to_c - from);
    }
}

template <class Cell, class T>
static void forward(const Forward<T>& f) {
  Tiles<Cell, T> tiles{f};
  double per_step = static_cast<double>(f.batch * Cell::gates * f.hidden) * static_cast<double>(f.inputs + f.fed_back());
  int threads = useful_threads(f, per_step * static_cast<double>(f.steps), work_per_thread);
  bool by_units = !f.projected && f.steps == 1;
  if (!f.projected && f.steps > 1 && f.batch < 4 * threads) {  // too few rows to share
    int with_barriers = useful_threads(f, per_step, work_per_barrier);
    by_units = with_barriers > 1 && with_barriers * 2 > smaller<index>(threads, f.batch);
    threads = by_units ? smaller(threads, with_barriers) : static_cast<int>(smaller<index>(threads, f.batch > 1 ? f.batch : 1));
  }
  Order<T> order(f);
  bool one_step = by_units && f.steps == 1;
  bool keep = static_cast<bool>(f.c) || static_cast<bool>(f.gates);
  Scratch<T> zeros(f.fed_back() + f.hidden), packed(one_step ? 0 : tiles.count() * tiles.size());
  Scratch<T> w_hr(f.projected ? panel_size<T>(f.hidden, f.projected) : 0), c(keep || !Cell::highway ? 0 : f.batch * f.hidden);
  clear<T>(zeros, f.fed_back() + f.hidden);
  ForwardPlan<T> plan{f, order, zeros, packed, f.projected ? static_cast<T*>(w_hr) : nullptr, c, by_units};
  parallel(threads, [](void* context, const Part& part) { forward_part<Cell>(*static_cast<const ForwardPlan<T>*>(context), part); }, &plan);
}

}  // namespace openlstm::OPENLSTM_ISA
