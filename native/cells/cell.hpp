// What every cell is made of: its step and the derivative of its step on N vectors of units, and the loops that feed them.
//
// A cell is a struct with traits (kernels.hpp, Traits) and four functions. Its sums z come gate by gate, in the order i, f, g, o;
// a separate gate has two, at the end. A step turns each z into its gate in place, in three parts, so that the engine can act
// between them (recurrent dropout, clipping, zoneout):
//     activate: (z, c) -> gates      update: (gates, c) -> c'      output: (gates, c') -> h'
// A cell without a cell state hands z on instead of c'. `backward` is the derivative of all three. c is an array of N vectors; of a
// cell with more states c[state] is, and h' takes the place of the first.
#pragma once

#include "kernels.hpp"
#include "vector/functions.hpp"
#include "vector/noise.hpp"

namespace openlstm::OPENLSTM_ISA {

// Vectors that are worked on together: one alone is a chain of operations that wait for each other, more than two do not fit the
// registers. Without multiply-adds in hardware nothing is gained.
constexpr int at_once = OPENLSTM_ROWS >= 3 ? 2 : 1;

// The traits of most cells.
struct Plain {
  static constexpr int separate = 0, peepholes = 0, feedback = 1, states = 1;
  static constexpr int candidate = -1;  // the gate that recurrent dropout acts on
  static constexpr int room = 0;        // vectors that a step works on, where they are more than its sums
  static constexpr bool has_cell = true, h_is_cell = false, needs_row = false, has_beta = false;
  static constexpr Recurrence recurrence = Recurrence::dense;
};

// N vectors of each cell state, as a cell takes them: an array of vectors, or of such arrays; and those of one state.
template <class T, int states, int N>
struct StatesOf {
  typedef Vec<T> All[states][N];
};
template <class T, int N>
struct StatesOf<T, 1, N> {
  typedef Vec<T> All[N];
};
template <class T, int states, int N>
using StateVectors = typename StatesOf<T, states, N>::All;
template <int states, class C>
OPENLSTM_INLINE auto& state_of(C& c, [[maybe_unused]] int state) {
  if constexpr (states == 1)
    return c;
  else
    return c[state];
}

// What a step's derivative starts from. The candidate that was saved is the product with its mask, 0 or 1 / (1 - p), where there
// is recurrent dropout; elsewhere the mask is 1.
template <class T, int saved, int N, int states = 1>
struct Known {
  Vec<T> s[saved ? saved : 1][N];          // saved gates
  StateVectors<T, states, N> c_before, c;  // the state before, and c'
  Vec<T> h[N];                             // the cell's own output
  Vec<T> dh[N];                            // dL/dh'
  StateVectors<T, states, N> dc;           // what reaches c' from the next step
  Vec<T> dfed[3][N];                       // dL/d(the gates that are fed back)
  Vec<T> peephole[3][N];                   // w_ch
  Vec<T> mask[N];
  T keep;   // 1 - p
  T limit;  // c' was clipped there; NaN, at which no comparison is true, for no limit

  // The candidate before its mask, and the way back through the mask.
  OPENLSTM_INLINE Vec<T> candidate(int gate, int k) const { return s[gate][k] * splat(keep); }
  OPENLSTM_INLINE Vec<T> through_mask(Vec<T> d, int k) const { return d * mask[k]; }
};

// What it gives: dL/dz and dL/dc.
template <class T, int sums, int N, int states = 1>
struct Gradients {
  Vec<T> dz[sums][N];
  StateVectors<T, states, N> dc;
};

template <class Cell>
constexpr Traits traits_of() {
  Traits t{Cell::gates,     Cell::separate,  Cell::saved, Cell::peepholes, Cell::feedback, Cell::states, Cell::recurrence, Cell::has_cell,
           Cell::h_is_cell, Cell::needs_row, -1,          {0, 0, 0}};
  if constexpr (Cell::peepholes > 0) {
    for (int k = 0; k < 3; k++) t.sees[k] = Cell::sees[k];
    if (Cell::has_o) t.after = Cell::last_peephole;
  }
  return t;
}

// Where sum s of a row's tile lies (Traits says why).
template <class Cell>
constexpr int place_of(int s) {
  constexpr int together = Cell::gates - Cell::separate;
  return s < together ? s + Cell::separate : s < Cell::gates ? s - together : s;
}

struct Place {
  index row, unit;
};

// The rows and units of vectors that are worked on together. Where they are full, the number of lanes is a constant.
template <class T, bool full, int N = at_once>
struct Places {
  index row[N], unit[N], last;  // units end there
  OPENLSTM_INLINE index lanes(int k) const { return full ? width<T> : last - unit[k]; }
};

// f(Places) for all vectors of some rows, neighbours being rows of one unit or units of one row. A last group that is not complete
// names its last vector again: a cell reads all of a group before it writes any, so that is harmless.
template <class T, bool full, class F>
OPENLSTM_INLINE void in_groups_of(index rows, index first, index last, bool neighbours_are_rows, F f) {
  const index vectors = (last - first + width<T> - 1) / width<T>;
  const index outer = neighbours_are_rows ? vectors : rows, inner = neighbours_are_rows ? rows : vectors;
  const index row_step = neighbours_are_rows, unit_step = neighbours_are_rows ? 0 : width<T>;
  for (index o = 0; o < outer; o++)
    for (index i = 0; i < inner; i += at_once) {
      Places<T, full> at;
      for (int k = 0; k < at_once; k++) {
        const index j = min(i + k, inner - 1);
        at.row[k] = (neighbours_are_rows ? 0 : o) + j * row_step;
        at.unit[k] = first + (neighbours_are_rows ? o * width<T> : 0) + j * unit_step;
      }
      at.last = last;
      f(at);
    }
}
template <class T, class F>
OPENLSTM_INLINE void in_groups(index rows, index first, index last, bool neighbours_are_rows, F f) {
  const index end = first + (last - first) / width<T> * width<T>;
  in_groups_of<T, true>(rows, first, end, neighbours_are_rows, f);
  if (end < last) in_groups_of<T, false>(rows, end, last, rows > 1, f);
}

// Vectors that a step of a cell works on: its sums, and what else it saves or needs.
template <class Cell>
constexpr int room_of = Cell::room > Cell::sums ? Cell::room : Cell::sums;

// The cell on N vectors, whose sums are z on entry; the cell's own output takes the place of c.
template <class Cell, class T, int S, int N, bool full>
OPENLSTM_INLINE void apply_cell(Vec<T> (&z)[S][N], const CellStep<T>& p, const Places<T, full, N>& at) {
  const index H = p.hidden;
  const Noise& noise = *p.noise;
  StateVectors<T, Cell::states, N> c = {};
  Vec<T> peephole[3][N];
  for (int j = 0; j < Cell::peepholes; j++)
    for (int k = 0; k < N; k++) peephole[j][k] = load(p.w_ch + j * H + at.unit[k], at.lanes(k));
  if constexpr (Cell::has_cell)
#pragma GCC unroll 4
    for (int s = 0; s < Cell::states; s++)
      for (int k = 0; k < N; k++) state_of<Cell::states>(c, s)[k] = load(p.c[at.row[k]] + s * H + at.unit[k], at.lanes(k));
  if constexpr (Cell::has_beta)
    for (int k = 0; k < N; k++) z[Cell::sums][k] = splat(p.beta);
  Cell::activate(z, c, peephole);
  if constexpr (Cell::candidate >= 0)
    if (noise.candidate > 0 && noise.training)
      for (int k = 0; k < N; k++) {
        Bits<T> drop = bernoulli<T>(p.dropped[at.row[k]], at.unit[k], Noise::threshold(noise.candidate));
        z[Cell::candidate][k] = drop ? Vec<T>{} : z[Cell::candidate][k] * splat(T(1 / (1 - noise.candidate)));
      }
  Cell::update(z, c);
  Vec<T>(&out)[N] = state_of<Cell::states>(c, 0);
  if constexpr (Cell::has_cell) {
    if (p.clipped())
      for (int k = 0; k < N; k++) out[k] = clamp(out[k], p.clip);
    if (p.c_out)
#pragma GCC unroll 4
      for (int s = 0; s < Cell::states; s++) {
        Vec<T> carried[N];
        for (int k = 0; k < N; k++) carried[k] = state_of<Cell::states>(c, s)[k];
        if (noise.zoneout_c > 0)
          for (int k = 0; k < N; k++)
            carried[k] =
                zoneout<T>(noise, noise.zoneout_c, p.zoneout_c[at.row[k]], at.unit[k], load(p.c[at.row[k]] + s * H + at.unit[k], at.lanes(k)), carried[k]);
        for (int k = 0; k < N; k++) store(p.c_out[at.row[k]] + s * H + at.unit[k], carried[k], at.lanes(k));
      }
  }
  if constexpr (!Cell::needs_row) Cell::output(z, c, peephole);  // otherwise c' is handed on, to be normalised
  constexpr int saved = Cell::needs_row ? Cell::gates : Cell::saved;
  static_assert(saved <= S);
  if (saved && p.gates)
    for (int k = 0; k < N; k++)
      for (int s = 0; s < saved; s++) store(p.gates[at.row[k]] + s * H + at.unit[k], z[s][k], at.lanes(k));
  for (int k = 0; k < N; k++) store(p.out[at.row[k]] + at.unit[k], out[k], at.lanes(k));
  if constexpr (Cell::feedback > 1)
    for (int k = 0; k < N; k++)
      for (int j = 1; j < Cell::feedback; j++) store(p.out[at.row[k]] + j * H + at.unit[k], z[Cell::fed[j - 1]][k], at.lanes(k));
}

// Where the sums of a vector begin.
template <class Cell, class T>
OPENLSTM_INLINE const T* sums_at(const CellStep<T>& p, index row, index unit) {
  constexpr index blocks = panel_vectors / Cell::gates;
  const index vector = (unit - p.first) / width<T>;
  return p.sums + vector / blocks * p.between_sums + row * p.between_rows + vector % blocks * Cell::gates * width<T>;
}

template <class Cell, class T>
static void cell_forward(const CellStep<T>& p) {
  constexpr int S = Cell::gates + Cell::separate, N = at_once;
  const index vectors = (p.last - p.first) / width<T>;
  const bool by_rows = p.rows > 1 && (p.rows % N == 0 || vectors % N != 0);  // where neither is even, a group is worked out in vain
  in_groups<T>(p.rows, p.first, p.last, by_rows, [&](const auto& at) __attribute__((always_inline)) {
    Vec<T> z[room_of<Cell>][N];
    for (int k = 0; k < N; k++) {
      const T* sums = sums_at<Cell>(p, at.row[k], at.unit[k]);
      for (int s = 0; s < S; s++) z[s][k] = load(sums + place_of<Cell>(s) * width<T>);
    }
    apply_cell<Cell>(z, p, at);
  });
}

// The cell's own output h, from the expectation that zoneout made of it: y = p h_before + (1 - p) h.
template <class T>
OPENLSTM_INLINE Vec<T> without_zoneout(const Noise& noise, Vec<T> y, Vec<T> before) {
  return (y - splat(T(noise.zoneout_h)) * before) / splat(T(1 - noise.zoneout_h));
}

// Recurrent dropout: the masks that the candidates of N vectors were multiplied by, and the share that is kept. at(k) is the row and
// the unit of the k-th.
template <class T, int saved, int N, int states, class At>
OPENLSTM_INLINE void know_masks(Known<T, saved, N, states>& known, const CellGradient<T>& p, At at) {
  const Noise& noise = *p.noise;
  const bool masked = noise.candidate > 0 && noise.training;
  known.keep = masked ? T(1 - noise.candidate) : T(1);
  for (int k = 0; k < N; k++) known.mask[k] = splat(T(1));
  if (masked)
    for (int k = 0; k < N; k++) {
      const auto [row, unit] = at(k);
      const Bits<T> drop = bernoulli<T>(p.dropped[row], unit, Noise::threshold(noise.candidate));
      known.mask[k] = drop ? Vec<T>{} : splat(T(1 / (1 - noise.candidate)));
    }
}

template <class Cell, class T>
static void cell_backward(const CellGradient<T>& p) {
  constexpr int S = Cell::gates + Cell::separate, N = at_once, states = Cell::states;
  const index H = p.hidden;
  const Noise& noise = *p.noise;
  const auto of = [](auto& c, int state) __attribute__((always_inline)) -> auto& { return state_of<states>(c, state); };
  in_groups<T>(p.rows, 0, H, H < 2 * width<T>, [&](const auto& places) __attribute__((always_inline)) {
    Known<T, Cell::saved, N, Cell::states> at;
    Gradients<T, S, N, Cell::states> out;
    StateVectors<T, Cell::states, N> passes = {};
    for (int k = 0; k < N; k++) {
      const index row = places.row[k], unit = places.unit[k], n = places.lanes(k);
#pragma GCC unroll 8
      for (int j = 0; j < Cell::saved; j++) at.s[j][k] = load(p.gates[row] + j * H + unit, n);
      if constexpr (Cell::has_cell) {
        const T *c_before = p.c_before[row] + unit, *c = p.c[row] + unit, *dc = p.dc[row] + unit;
#pragma GCC unroll 4
        for (int j = 0; j < states; j++)
          of(at.c_before, j)[k] = load(c_before + j * H, n), of(at.c, j)[k] = load(c + j * H, n), of(at.dc, j)[k] = load(dc + j * H, n);
      }
      at.h[k] = load(p.h[row] + unit, n), at.dh[k] = load(p.dh[row] + unit, n);
#pragma GCC unroll 8
      for (int j = 0; j + 1 < Cell::feedback; j++) at.dfed[j][k] = load(p.dfed[row] + j * H + unit, n);
      for (int j = 0; j < Cell::peepholes; j++) at.peephole[j][k] = load(p.w_ch + j * H + unit, n);
    }
    if constexpr (Cell::candidate >= 0) know_masks(at, p, [&](int k) __attribute__((always_inline)) { return Place{places.row[k], places.unit[k]}; });
    if constexpr (Cell::has_cell)
      if (noise.zoneout_c > 0) {  // what was kept is what is carried: the cell's own c' is worked out again
        StateVectors<T, states, N> own;
        Vec<T> z[room_of<Cell>][N] = {};
#pragma GCC unroll 8
        for (int j = 0; j < Cell::saved; j++)
          for (int k = 0; k < N; k++) z[j][k] = at.s[j][k];
#pragma GCC unroll 4
        for (int j = 0; j < states; j++)
          for (int k = 0; k < N; k++) of(own, j)[k] = of(at.c_before, j)[k];
        Cell::update(z, own);
#pragma GCC unroll 4
        for (int j = 0; j < states; j++)
          for (int k = 0; k < N; k++) {
            const index row = places.row[k], unit = places.unit[k];
            Vec<T> zero{}, d = of(at.dc, j)[k], now = of(own, j)[k];
            of(at.c, j)[k] = now = p.clipped() && j == 0 ? clamp(now, p.clip) : now;
            if (p.own_c && j == 0) store(p.own_c[row] + unit, now, places.lanes(k));
            of(passes, j)[k] = zoneout<T>(noise, noise.zoneout_c, p.zoneout_c[row], unit, d, zero);
            of(at.dc, j)[k] = zoneout<T>(noise, noise.zoneout_c, p.zoneout_c[row], unit, zero, d);
          }
      }
    if constexpr (!Cell::has_cell)
      if (noise.zoneout_h > 0 && !noise.training && p.h_is_output)
        for (int k = 0; k < N; k++) at.h[k] = without_zoneout<T>(noise, at.h[k], load(p.h_before[places.row[k]] + places.unit[k], places.lanes(k)));
    at.limit = p.clipped() ? p.clip : p.clip - p.clip;  // infinity less infinity is NaN
    Cell::backward(at, out);
    for (int k = 0; k < N; k++) {
      const index row = places.row[k], unit = places.unit[k], n = places.lanes(k);
      if constexpr (Cell::has_cell) {
        T* dc = p.dc[row] + unit;
#pragma GCC unroll 4
        for (int j = 0; j < states; j++) store(dc + j * H, noise.zoneout_c > 0 ? of(out.dc, j)[k] + of(passes, j)[k] : of(out.dc, j)[k], n);
      }
      for (int j = 0; j < S; j++) store(p.dz[row] + place_of<Cell>(j) * H + unit, out.dz[j][k], n);
    }
  });
}

}  // namespace openlstm::OPENLSTM_ISA
