// The forward pass: one time loop for every cell, over rows reached through pointers.
//
//     z = (b_ih + b_hh) + x W_ih^T + h W_hh^T      summed in this order, k by k
//     h', c' = cell(z, c);  with a projection h' <- h' W_hr^T;  then zoneout
//
// A step goes tile by tile, the cell applied while a tile's sums are in registers; what needs a whole row (projection, zoneout of
// what is fed back) follows when all its tiles are done. A cell that normalises its sums has another step: first the sums of
// whole rows, then their statistics, then the gates.
//
// x W_ih^T does not wait for the step before. Where rows are few, or the weights too many for the cache, it is summed for several
// steps at once; the order of the sum stays the same, and so do the bits.
#pragma once

#include "cells.hpp"
#include "noise.hpp"
#include "norm.hpp"
#include "plan.hpp"

namespace openlstm::OPENLSTM_ISA {

// Both weight matrices by tiles of units, the gates of a unit in one tile: per tile first the biases [blocks * sums][width],
// then the columns of W_ih [I][blocks * gates][width], then those of W_hh [R][blocks * gates][width].
template <class Cell, class T>
struct Tiles {
  static constexpr index units = Cell::blocks * width<T>;  // of a full tile
  static_assert(Cell::blocks == 1 || Cell::apart == 0);
  const Problem<T>& p;

  OPENLSTM_INLINE index count() const { return (p.hidden + units - 1) / units; }
  OPENLSTM_INLINE index size() const { return (Cell::sums + (factors(p.inputs) + factors(p.fed_back())) * Cell::gates) * units; }
  OPENLSTM_INLINE int blocks(index tile) const {
    index left = p.hidden - tile * units;
    return static_cast<int>(left >= units ? Cell::blocks : (left + width<T> - 1) / width<T>);
  }

  OPENLSTM_INLINE void pack(index tile, T* out) const {
    constexpr index W = width<T>;
    constexpr int G = Cell::gates, together = G - Cell::apart;
    index B = blocks(tile), stride = B * G * W;
    if (tile * units + B * W > p.hidden) clear(out, size());
    for (index block = 0; block < B; block++)
      for (index gate = 0; gate < G; gate++) {
        index unit = tile * units + block * W, n = smaller(W, p.hidden - unit), first = gate * p.hidden + unit;
        T* at = out + (block * G + gate) * W;
        for (index k = 0; k < n; k++) {
          T b_ih = p.b_ih ? p.b_ih[first + k] : T(0), b_hh = p.b_hh ? p.b_hh[first + k] : T(0);
          at[k] = gate < together ? b_ih + b_hh : b_ih;
          if (gate >= together) at[Cell::apart * W + k] = b_hh;
        }
        at += B * Cell::sums * W;
        transpose_factors<T>([&](index r) { return p.w_ih + (first + r) * p.inputs; }, n, p.inputs, at, stride);
        at += factors(p.inputs) * stride;
        transpose_factors<T>([&](index r) { return p.w_hh + (first + r) * p.fed_back(); }, n, p.fed_back(), at, stride);
      }
  }
};

// Pointers to the rows of one step, in the order of a part's share.
template <class T>
struct Pointers {
  const T **x, **h, **c;             // what goes in; x as factors
  const T** seen;                    // h as the sums see it: behind the locked mask, as factors
  T **y, **m, **c_out, **gates;      // what comes out: what is fed back, and the cell's own output, which is y unless a
                                     // projection makes it; those not kept are null
  uint32_t *zone_h, *zone_c, *drop;  // keys of each row's random numbers at this step
  T **of_x, **of_h;                  // raw sums [gates*H] of a cell that normalises them
};

// The cell on U vectors of units of M rows, those of a row M apart: z are the sums on entry.
template <class Cell, class T, int M, int U = 1, int S, int N>
OPENLSTM_INLINE void apply_cell(Vec<T> (&z)[S][N], const Pointers<T>& at, index first_row, index first_unit, const Problem<T>& p) {
  static_assert(N == U * M && (U == 1 || !Cell::peepholes));
  constexpr int saved = Cell::whole ? Cell::gates : Cell::saved;
  static_assert(saved <= S);
  const index H = p.hidden;
  auto row = [&](int k) { return first_row + k % M; };
  auto unit = [&](int k) { return first_unit + k / M * width<T>; };
  auto lanes = [&](int k) { return H - unit(k); };
  const Noise& noise = p.noise;
  Vec<T> c[N] = {}, peephole[3];
  for (int j = 0; j < Cell::peepholes; j++) peephole[j] = load(p.w_ch + j * H + first_unit, H - first_unit);
  if constexpr (Cell::highway)
    for (int k = 0; k < N; k++) c[k] = load(at.c[row(k)] + unit(k), lanes(k));
  Cell::activate(z, c, peephole);
  if constexpr (Cell::candidate >= 0)
    if (noise.candidate > 0 && noise.training)
      for (int k = 0; k < N; k++) {
        Bits<T> drop = happens<T>(at.drop[row(k)], unit(k), Noise::threshold(noise.candidate));
        z[Cell::candidate][k] = drop ? Vec<T>{} : z[Cell::candidate][k] * splat(T(1 / (1 - noise.candidate)));
      }
  Cell::update(z, c);
  if constexpr (Cell::highway) {
    if (p.clipped())
      for (int k = 0; k < N; k++) c[k] = clamp(c[k], p.clip);
    if (at.c_out)
      for (int k = 0; k < N; k++) {
        Vec<T> carried = c[k];
        if (noise.zoneout_c > 0) carried = zone<T>(noise, noise.zoneout_c, at.zone_c[row(k)], unit(k), load(at.c[row(k)] + unit(k), lanes(k)), carried);
        store(at.c_out[row(k)] + unit(k), carried, lanes(k));
      }
  }
  if constexpr (!Cell::whole) Cell::output(z, c, peephole);  // otherwise c' is handed on, to be normalised
  if (Cell::saved && at.gates)
    for (int k = 0; k < N; k++)
      for (int s = 0; s < saved; s++) store(at.gates[row(k)] + s * H + unit(k), z[s][k], lanes(k));
  for (int k = 0; k < N; k++) store(at.m[row(k)] + unit(k), c[k], lanes(k));
  if constexpr (Cell::feedback > 1)
    for (int k = 0; k < N; k++)
      for (int j = 1; j < Cell::feedback; j++) store(at.m[row(k)] + j * H + unit(k), z[Cell::fed[j - 1]][k], lanes(k));
}

// acc = biases + x W_ih^T for U tiles of M rows.
template <class Cell, class T, int M, int B, int U = 1>
OPENLSTM_INLINE void sum_inputs(Vec<T> (&acc)[U * M][B * Cell::gates], const T* const* x, const Problem<T>& p, const T* packed) {
  constexpr index W = width<T>;
  constexpr int N = B * Cell::gates;
  const index apart = Tiles<Cell, T>{p}.size();
  for (int u = 0; u < U; u++)
    for (int n = 0; n < N; n++) {
      Vec<T> bias = load(packed + u * apart + n * W);
      for (int m = 0; m < M; m++) acc[u * M + m][n] = bias;
    }
  packed += B * Cell::sums * W;
  product<T, M, N, U>(acc, x, factors(p.inputs), packed, apart);
}

// The same, put down for later: [row][N][width].
template <class Cell, class T, int M, int B>
static void keep_inputs(const T* const* x, const Problem<T>& p, const T* packed, T* out) {
  constexpr index W = width<T>;
  constexpr int N = B * Cell::gates;
  Vec<T> acc[M][N];
  sum_inputs<Cell, T, M, B>(acc, x, p, packed);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) store(out + (m * N + n) * W, acc[m][n]);
}

// What keep_inputs put down for a tile, and how far from it what it put down for the next one is; or null.
template <class T>
struct Inputs {
  const T* data;
  index apart;
};

// How many tiles of M rows are worked on at once: where rows are few, the sums and gates of a single one wait for themselves.
template <class Cell>
constexpr int tiles_at_once(int M) {
  return Cell::blocks > 1 || Cell::peepholes ? 1 : max_rows / M < 4 ? max_rows / M : 4;
}

// f(Count<n>, first) for U things two by two, there or back: two tiles are sums enough.
template <int U, class F>
OPENLSTM_INLINE void in_pairs(bool back, F f) {
  static_assert(U <= 4);
  if constexpr (U <= 2) {
    f(Count<U>{}, 0);
  } else {
    if (!back) f(Count<2>{}, 0);
    f(Count<U - 2>{}, 2);
    if (back) f(Count<2>{}, 0);
  }
}

// U tiles of M rows and B vectors of units.
template <class Cell, class T, int M, int B, int U>
static void step_tile(const Pointers<T>& at, index row, const Problem<T>& p, const T* packed, index unit, Inputs<T> inputs, bool back) {
  constexpr index W = width<T>;
  constexpr int G = Cell::gates, S = Cell::sums, N = B * G, together = G - Cell::apart;
  static_assert(B == 1 || U == 1);
  const index apart = Tiles<Cell, T>{p}.size();
  Vec<T> acc[U * M][N], more[U * M][N];
  if (inputs.data) {
    for (int m = 0; m < U * M; m++)
      for (int n = 0; n < N; n++) acc[m][n] = load(inputs.data + m / M * inputs.apart + (m % M * N + n) * W);
  } else {
    sum_inputs<Cell, T, M, B, U>(acc, at.x + row, p, packed);
  }
  const T* w_hh = packed + (B * S + factors(p.inputs) * N) * W;
  if constexpr (Cell::apart)
    for (int m = 0; m < U * M; m++)
      for (int n = 0; n < N; n++) more[m][n] = n < together ? acc[m][n] : load(packed + m / M * apart + (n + Cell::apart) * W);
  in_pairs<U>(back, [&](auto tiles, int u) {
    const T* panels = w_hh + u * apart;
    product<T, M, N, decltype(tiles)::value>((Cell::apart ? more : acc) + u * M, at.seen + row, factors(p.fed_back()), panels, apart);
  });
  for (int block = 0; block < B; block++) {
    Vec<T> z[S][U * M];
    for (int m = 0; m < U * M; m++)
      for (int s = 0; s < S; s++) {
        if constexpr (Cell::apart)
          z[s][m] = s < together ? more[m][s] : s < G ? acc[m][s] : more[m][s - Cell::apart];
        else
          z[s][m] = acc[m][block * G + s];
      }
    apply_cell<Cell, T, M, U>(z, at, row, unit + block * W, p);
  }
}

// f(Count<n>), for n in 1 .. most.
template <int most, class F>
OPENLSTM_INLINE void with_count(index n, F f) {
  if constexpr (most == 1)
    f(Count<1>{});
  else
    n == most ? f(Count<most>{}) : with_count<most - 1>(n, f);
}

// f(Count<blocks of this tile>).
template <class Cell, class T, class F>
OPENLSTM_INLINE void with_blocks(const Problem<T>& p, index tile, F f) {
  with_count<Cell::blocks>(Tiles<Cell, T>{p}.blocks(tile), f);
}

// All rows of `count` tiles, at most tiles_at_once.
template <class Cell, class T>
static void step_rows(const Pointers<T>& at, index rows, const Problem<T>& p, const T* packed, index tile, index count, Inputs<T> inputs, bool back) {
  with_blocks<Cell>(p, tile, [&](auto blocks) {
    constexpr int B = decltype(blocks)::value;
    constexpr index each = B * Cell::gates * width<T>;
    in_tiles(rows, [&](auto height, index first) {
      constexpr int M = decltype(height)::value;
      const Inputs<T> own{inputs.data ? inputs.data + first * each : nullptr, inputs.apart};
      with_count<tiles_at_once<Cell>(M)>(
          count, [&](auto tiles) { step_tile<Cell, T, M, B, decltype(tiles)::value>(at, first, p, packed, tile * Tiles<Cell, T>::units, own, back); });
    });
  });
}

// The gates of M rows from their raw sums, of[2 * row] and of[2 * row + 1] being the moments of those of x and of h; bias is that
// of both. What stands in the place of the output is c' then.
template <class Cell, class T, int M>
static void normed_gates(const Pointers<T>& at, index row, const Problem<T>& p, const Moments<T>* of, const T* bias) {
  constexpr int G = Cell::gates;
  const index H = p.hidden;
  for (index unit = 0; unit < H; unit += width<T>) {
    const index n = H - unit;
    Vec<T> z[G][M];
    for (int g = 0; g < G; g++) {
      const index at_gate = g * H + unit;
      Vec<T> b = load(bias + at_gate, n), w_x = load(p.norm + at_gate, n), w_h = load(p.norm + 2 * G * H + at_gate, n);
      for (int m = 0; m < M; m++) {
        Vec<T> x = of[2 * (row + m)].of(load(at.of_x[row + m] + at_gate, n)), h = of[2 * (row + m) + 1].of(load(at.of_h[row + m] + at_gate, n));
        z[g][m] = fma(h, w_h, fma(x, w_x, b));
      }
    }
    apply_cell<Cell, T, M>(z, at, row, unit, p);
  }
}

// h' of M rows in the place of c', whose moments are of[row].
template <class Cell, class T, int M>
static void normed_output(const Pointers<T>& at, index row, const Problem<T>& p, const Moments<T>* of) {
  const index H = p.hidden;
  const T *w_c = p.norm + 4 * Cell::gates * H, *b_c = w_c + H;
  for (index unit = 0; unit < H; unit += width<T>) {
    const index lanes = H - unit;
    Vec<T> w = load(w_c + unit, lanes), b = load(b_c + unit, lanes), o[M], n[M];
    for (int m = 0; m < M; m++) {
      o[m] = load(at.gates[row + m] + (Cell::gates - 1) * H + unit, lanes);
      n[m] = fma(of[row + m].of(load(at.m[row + m] + unit, lanes)), w, b);
    }
    Cell::show(o, n);
    for (int m = 0; m < M; m++) store(at.m[row + m] + unit, n[m], lanes);
  }
}

// The weights of a cell that normalises its sums: panels of both products, then the bias of both norms.
template <class Cell, class T>
struct WholePack {
  const Problem<T>& p;
  T* at;
  OPENLSTM_INLINE index columns() const { return Cell::gates * p.hidden; }
  OPENLSTM_INLINE T* w_ih() const { return at; }
  OPENLSTM_INLINE T* w_hh() const { return at + panel_size<T>(p.inputs, columns()); }
  OPENLSTM_INLINE T* bias() const { return w_hh() + panel_size<T>(p.fed_back(), columns()); }
  OPENLSTM_INLINE index size() const { return panel_size<T>(p.inputs, columns()) + panel_size<T>(p.fed_back(), columns()) + columns(); }
  OPENLSTM_INLINE void pack(const Part& part) const {
    const Slice mine(Panels<T>(columns()).count, part), own(columns(), part);
    pack_transposed(p.w_ih, p.inputs, mine.first, mine.last, columns(), w_ih());
    pack_transposed(p.w_hh, p.fed_back(), mine.first, mine.last, columns(), w_hh());
    for (index k = own.first; k < own.last; k++) bias()[k] = p.norm[columns() + k] + p.norm[3 * columns() + k];
  }
};

// What all parts share.
template <class T>
struct ForwardPlan {
  const Forward<T>& f;
  const Order<T>& order;
  const T* zeros;
  T* to_pack;       // where the weights go that come unpacked, or null
  const T* packed;  // Tiles, or a WholePack
  const T* w_hr;    // panels of the projection, or null
  T* c;             // [B, H], where cell states live if they are not kept
  T* h;             // [2, B, R], where h lives if y does not hold it as it is: this step's and the one's before
  bool by_units;    // every part takes all rows and its own units: one row, one step
  index ahead;      // steps whose inputs are summed at once
  bool one_step;    // each tile is used once: packed one after the other into the same place
};

// One part's way through time.
template <class Cell, class T>
class RowsForward {
 public:
  OPENLSTM_INLINE RowsForward(const ForwardPlan<T>& plan, const Part& part)
      : plan_(plan),
        f_(plan.f),
        part_(part),
        begin_{plan.f, plan.zeros},
        share_(plan.order, plan.f.batch, plan.by_units ? Part{0, 1, nullptr} : part),
        own_(tiles().count(), part),
        keep_(f_.c || f_.gates),
        one_step_(plan.one_step),
        one_tile_(one_step_ ? tiles().size() : 0),
        m_(f_.projected && !f_.m ? share_.count() * f_.hidden : 0),
        seen_(f_.hidden_mask ? share_.count() * f_.fed_back() : 0),
        as_factors_(pairs ? share_.count() * (factors(f_.fed_back()) + factors(f_.hidden) + plan.ahead * factors(f_.inputs)) : 0),
        inputs_(Cell::whole      ? (keep_ ? 0 : plan.ahead * share_.count() * Cell::gates * f_.hidden)
                : plan.ahead > 1 ? (last_tile() - first_tile()) * plan.ahead * share_.count() * sums_each
                                 : 0),
        gates_(Cell::whole && !keep_ ? share_.count() * Cell::saved * f_.hidden : 0),
        moments_(Cell::whole ? 2 * share_.count() : 0),
        coming_(Cell::whole || plan.ahead > 1 ? plan.ahead * share_.count() : 0),
        coming_to_(Cell::whole ? plan.ahead * share_.count() : 0),
        keys_(3 * share_.count()),
        pointers_(((Cell::whole ? 10 : 8) + pairs) * share_.count()) {
    const index n = share_.count(), H = f_.hidden;
    auto in = [&](index k) { return const_cast<const T**>(pointers_ + k * n); };
    auto out = [&](index k) { return pointers_ + k * n; };
    at_.x = in(0), at_.h = in(1), at_.c = in(2), at_.seen = f_.hidden_mask || pairs ? in(3) : in(1);
    at_.y = out(4), at_.m = f_.projected ? out(5) : out(4);
    at_.c_out = carries() ? out(6) : nullptr, at_.gates = keep_ && Cell::saved ? out(7) : nullptr;
    if constexpr (Cell::whole) at_.gates = out(7), at_.of_x = out(8), at_.of_h = out(9);
    shown_ = pairs && f_.projected ? in(Cell::whole ? 10 : 8) : const_cast<const T**>(at_.m);
    at_.zone_h = keys_, at_.zone_c = keys_ + n, at_.drop = keys_ + 2 * n;
    for (index j = 0; j < n; j++) {
      at_.h[j] = f_.h0 ? f_.h0 + row(j) * f_.fed_back() : plan.zeros;
      if (Cell::highway) at_.c[j] = !carries() ? at_.h[j] : f_.c0 ? f_.c0 + row(j) * H : plan.zeros;
      if (f_.hidden_mask) at_.seen[j] = seen_ + j * f_.fed_back();
      if (f_.projected) at_.m[j] = m_ + j * H;
      if (Cell::whole && !keep_) at_.gates[j] = gates_ + j * Cell::saved * H;
    }
  }

  OPENLSTM_INLINE void run() {
    for (index n = 0; n < f_.taken(); n++) {
      if ((Cell::whole || plan_.ahead > 1) && n % plan_.ahead == 0) look_ahead(n);
      step(n);
    }
    finish();
  }

 private:
  static constexpr bool pairs = in_factor > 1;
  static constexpr index sums_each = Cell::blocks * Cell::gates * width<T>;  // of the inputs of one row and tile

  OPENLSTM_INLINE Tiles<Cell, T> tiles() const { return {f_}; }
  OPENLSTM_INLINE index row(index j) const { return plan_.order.row(share_.position(j)); }
  OPENLSTM_INLINE index first_tile() const { return plan_.by_units ? own_.first : 0; }
  OPENLSTM_INLINE index last_tile() const { return plan_.by_units ? own_.last : tiles().count(); }
  // Whether there is a c beside h. The highway of a GRU is h itself, unless h is not what its cell puts out (projection).
  OPENLSTM_INLINE bool carries() const { return Cell::highway && (!Cell::merged || f_.has_cell); }

  // The sums of the inputs of steps n, n + 1, ..., tile by tile.
  OPENLSTM_INLINE void look_ahead(index n) {
    const index last = smaller(n + plan_.ahead, f_.taken());
    index count = 0;
    for (index s = n; s < last; s++) {
      const index t = step_at(f_, s), alive = share_.alive(plan_.order.alive(t));
      for (index j = 0; j < alive; j++) {
        if constexpr (Cell::whole) coming_to_[count] = sums_of_x(t, row(j), count);
        coming_[count] = x_factors(t, row(j), count), count++;
      }
    }
    ready_ = 0;
    if constexpr (Cell::whole) {
      WholePack<Cell, T> pack{f_, const_cast<T*>(plan_.packed)};
      return multiply<Into::store>(static_cast<const T* const*>(coming_), static_cast<T* const*>(coming_to_), count, f_.inputs, pack.w_ih(), pack.columns());
    }
    for (index tile = first_tile(); tile < last_tile(); tile++) {
      const T* packed = plan_.packed + tile * tiles().size();
      T* out = inputs_ + (tile - first_tile()) * plan_.ahead * share_.count() * sums_each;
      with_blocks<Cell>(f_, tile, [&](auto blocks) {
        constexpr int B = decltype(blocks)::value;
        in_tiles(count, [&](auto height, index first) {
          keep_inputs<Cell, T, decltype(height)::value, B>(coming_ + first, f_, packed, out + first * B * Cell::gates * width<T>);
        });
      });
    }
  }

  // A row of x as factors; where it does not lie so already, it is put into the room number `slot`.
  OPENLSTM_INLINE const T* x_factors(index t, index b, index slot) const {
    return as_factors(f_.x.at(t, b), f_.inputs, as_factors_ + share_.count() * (factors(f_.fed_back()) + factors(f_.hidden)) + slot * factors(f_.inputs));
  }

  // Where the n-th step's h is put: into y, but for numbers that y does not hold as they are.
  OPENLSTM_INLINE T* h_row(index n, index t, index b) const {
    if constexpr (pairs)
      return plan_.h + (n % 2 * f_.batch + b) * f_.fed_back();
    else
      return f_.y.at(t, b);
  }

  // Where the sums of x of the next steps' token number `slot` are put: where backward will look for them.
  OPENLSTM_INLINE T* sums_of_x(index t, index b, index slot) const {
    const index rows = Cell::gates * f_.hidden;
    return keep_ ? f_.gates.at(t, b) + rows : inputs_ + slot * rows;
  }

  OPENLSTM_INLINE void step(index n) {
    const index R = f_.fed_back(), H = f_.hidden, t = step_at(f_, n), alive = share_.alive(plan_.order.alive(t));
    for (index j = 0; j < alive; j++) {
      index b = row(j);
      if (!Cell::whole && plan_.ahead == 1) at_.x[j] = x_factors(t, b, j);
      if (begin_.cut(t, b)) {
        at_.h[j] = begin_.reset_h(t, b);
        at_.c[j] = carries() ? begin_.reset_c(t, b) : at_.h[j];
      }
      at_.y[j] = h_row(n, t, b);
      if (at_.c_out) at_.c_out[j] = keep_ ? f_.c.at(t, b) : plan_.c + b * H;
      if (at_.gates && (keep_ || !Cell::whole)) at_.gates[j] = f_.gates.at(t, b);
      if constexpr (Cell::whole) at_.of_x[j] = sums_of_x(t, b, ready_ + j), at_.of_h[j] = at_.gates[j] + 2 * Cell::gates * H;
      if (f_.projected && f_.m) at_.m[j] = f_.m.at(t, b);
      if (f_.noise.zoneout_h > 0) at_.zone_h[j] = key_of(f_.noise, Kind::zoneout_h, t, b);
      if (f_.noise.zoneout_c > 0) at_.zone_c[j] = key_of(f_.noise, Kind::zoneout_c, t, b);
      if (f_.noise.candidate > 0) at_.drop[j] = key_of(f_.noise, Kind::candidate, t, b);
      if (f_.hidden_mask) times<T>(at_.h[j], f_.hidden_mask + b * R, seen_ + j * R, R);
      if constexpr (pairs) at_.seen[j] = as_factors(f_.hidden_mask ? seen_ + j * R : at_.h[j], R, as_factors_ + j * factors(R));
    }
    if (!plan_.by_units || part_.id == 0)
      for (index j = alive; j < share_.count(); j++) empty(t, row(j));
    if constexpr (Cell::whole)
      whole_rows(alive);
    else
      tile_by_tile(alive, n % 2);
    ready_ += alive;
    if (plan_.w_hr) {
      if constexpr (pairs)
        for (index j = 0; j < alive; j++) shown_[j] = as_factors(at_.m[j], H, as_factors_ + share_.count() * factors(R) + j * factors(H));
      multiply<Into::store>(shown_, at_.y, alive, H, plan_.w_hr, R);
    }
    if (f_.noise.zoneout_h > 0)
      for (index j = 0; j < alive; j++) in_own_units([&](index first, index last) { zone_row(j, first, last); });
    if constexpr (pairs)
      for (index j = 0; j < alive; j++) in_own_units([&](index first, index last) { give_out(at_.y[j] + first, f_.y.at(t, row(j)) + first, last - first); });
    for (index j = 0; j < alive; j++) {
      at_.h[j] = at_.y[j];
      if (Cell::highway) at_.c[j] = at_.c_out ? at_.c_out[j] : at_.h[j];
    }
    if (plan_.by_units && n + 1 < f_.taken()) part_.wait();
  }

  // What look_ahead has put down for a tile.
  OPENLSTM_INLINE Inputs<T> inputs_of(index tile) const {
    if (plan_.ahead == 1) return {nullptr, 0};
    const index apart = plan_.ahead * share_.count() * sums_each;
    return {inputs_ + (tile - first_tile()) * apart + ready_ * tiles().blocks(tile) * Cell::gates * width<T>, apart};
  }

  // There and back again: what a step reads last is still in the cache when the next one begins with it.
  OPENLSTM_INLINE void tile_by_tile(index alive, bool back) {
    if (!alive) return;
    const index n = last_tile() - first_tile(), most = one_step_ ? 1 : tiles_at_once<Cell>(static_cast<int>(smaller<index>(alive, max_rows)));
    for (index done = 0; done < n; done += most) {
      const index count = smaller(most, n - done), tile = back ? last_tile() - done - count : first_tile() + done;
      const T* packed = plan_.packed + tile * tiles().size();
      if (one_step_) {
        tiles().pack(tile, one_tile_);
        packed = one_tile_;
      }
      step_rows<Cell>(at_, alive, f_, packed, tile, count, inputs_of(tile), back);
    }
  }

  // Every phase goes through all rows before the next begins, so that one row's sums need not wait for another's.
  OPENLSTM_INLINE void whole_rows(index alive) {
    const index H = f_.hidden;
    WholePack<Cell, T> pack{f_, const_cast<T*>(plan_.packed)};
    Moments<T>* of = moments_;
    multiply<Into::store>(at_.seen, static_cast<T* const*>(at_.of_h), alive, f_.fed_back(), pack.w_hh(), pack.columns());
    for (index j = 0; j < alive; j++) of[2 * j] = moments<Cell::gates>(at_.of_x[j], H), of[2 * j + 1] = moments<Cell::gates>(at_.of_h[j], H);
    in_tiles(alive, [&](auto height, index first) { normed_gates<Cell, T, decltype(height)::value>(at_, first, f_, of, pack.bias()); });
    for (index j = 0; j < alive; j++) of[j] = moments<1>(at_.m[j], H);
    in_tiles(alive, [&](auto height, index first) { normed_output<Cell, T, decltype(height)::value>(at_, first, f_, of); });
  }

  // Past the row's length.
  OPENLSTM_INLINE void empty(index t, index b) const {
    clear(f_.y.at(t, b), f_.fed_back());
    if (keep_ && carries()) clear(f_.c.at(t, b), f_.hidden);
    if (at_.gates && keep_) clear(f_.gates.at(t, b), Cell::saved * f_.hidden);
    if (f_.m) clear(f_.m.at(t, b), f_.hidden);
  }

  OPENLSTM_INLINE void zone_row(index j, index first, index last) const {
    for (index u = first; u < last; u += width<T>) {
      const index lanes = last - u;
      T* h = at_.y[j] + u;
      store(h, zone<T>(f_.noise, f_.noise.zoneout_h, at_.zone_h[j], u, load(at_.h[j] + u, lanes), load(h, lanes)), lanes);
    }
  }

  // f(first, last) over what this part writes of an output row.
  template <class F>
  OPENLSTM_INLINE void in_own_units(F f) const {
    if (!plan_.by_units) return f(0, f_.fed_back());
    const index first = own_.first * tiles().units, last = smaller(own_.last * tiles().units, f_.hidden);
    if (first < last)
      for (index block = 0; block < Cell::feedback; block++) f(block * f_.hidden + first, block * f_.hidden + last);
  }

  // The final states.
  OPENLSTM_INLINE void finish() const {
    for (index j = 0; j < share_.count(); j++) {
      index b = row(j);
      if (f_.h_n) in_own_units([&](index first, index last) { copy(at_.h[j] + first, f_.h_n + b * f_.fed_back() + first, last - first); });
      if (!f_.c_n || !carries()) continue;
      index first = plan_.by_units ? own_.first * tiles().units : 0, last = plan_.by_units ? smaller(own_.last * tiles().units, f_.hidden) : f_.hidden;
      if (first < last) copy(at_.c[j] + first, f_.c_n + b * f_.hidden + first, last - first);
    }
  }

  const ForwardPlan<T>& plan_;
  const Forward<T>& f_;
  const Part& part_;
  Begin<T> begin_;
  Share<T> share_;
  const Slice own_;      // of the tiles
  const bool keep_;      // gates and states, for backward
  const bool one_step_;  // uses a tile once, so it is packed into the same place as the one before, still in the cache
  Scratch<T> one_tile_, m_, seen_, as_factors_, inputs_, gates_;
  Scratch<Moments<T>> moments_;
  Scratch<const T*> coming_;
  Scratch<T*> coming_to_;
  Scratch<uint32_t> keys_;
  Scratch<T*> pointers_;
  Pointers<T> at_;
  const T** shown_;  // m as factors
  index ready_ = 0;  // rows of `inputs_` that have been used
};

// The weights as a run wants them: tiles (or a WholePack), behind them the panels of the projection.
template <class Cell, class T>
OPENLSTM_INLINE index weights_size(const Problem<T>& p) {
  if constexpr (Cell::whole) {
    return WholePack<Cell, T>{p, nullptr}.size();
  } else {
    Tiles<Cell, T> tiles{p};
    return tiles.count() * tiles.size();
  }
}
template <class Cell, class T>
static index packed_size(const Problem<T>& p) {
  return weights_size<Cell, T>(p) + (p.projected ? panel_size<T>(p.hidden, p.projected) : 0);
}
template <class Cell, class T>
OPENLSTM_INLINE void pack_part(const Problem<T>& p, T* packed, const Part& part) {
  if constexpr (Cell::whole) {
    WholePack<Cell, T>{p, packed}.pack(part);
  } else {
    Tiles<Cell, T> tiles{p};
    const Slice own(tiles.count(), part);
    for (index tile = own.first; tile < own.last; tile++) tiles.pack(tile, packed + tile * tiles.size());
  }
  if (p.projected && part.id == 0) pack_transposed(p.w_hr, p.hidden, 0, Panels<T>(p.projected).count, p.projected, packed + weights_size<Cell, T>(p));
}
template <class Cell, class T>
static void pack(const Problem<T>& p, T* packed) {
  pack_part<Cell, T>(p, packed, Part{0, 1, nullptr});
}

template <class Cell, class T>
static void forward_part(const ForwardPlan<T>& plan, const Part& part) {
  if (plan.to_pack) {
    pack_part<Cell, T>(plan.f, plan.to_pack, part);
    if (!plan.by_units) part.wait();  // a part that takes its own units needs no more than it packed
  }
  RowsForward<Cell, T>(plan, part).run();
}

// How many steps' inputs to sum at once: a full register tile where rows are few; where the weights do not stay in a processor's
// own cache (1 to 2 MB), so many that W_ih is fetched rarely, and so few that their sums stay there.
template <class T>
OPENLSTM_INLINE index steps_ahead(const Problem<T>& p, index rows, index weights) {
  if (p.taken() == 1 || rows == 0) return 1;
  const bool large = weights * static_cast<index>(sizeof(T)) > 1 << 20;
  return smaller<index>(rows < max_rows ? 4 * max_rows / rows : large ? 4 : 1, p.taken());
}

template <class Cell, class T>
static void forward(const Forward<T>& f) {
  double per_step = static_cast<double>(f.batch * Cell::gates * f.hidden) * static_cast<double>(f.inputs + f.fed_back());
  int threads = useful_threads(f, per_step * static_cast<double>(f.taken()), work_per_thread);
  const bool whole = f.projected || Cell::whole;  // a row's units cannot be shared out
  bool by_units = !whole && f.taken() == 1;
  if (!whole && f.taken() > 1 && f.batch < 4 * threads) {  // too few rows to share
    int with_barriers = useful_threads(f, per_step, f.batch == 1 ? work_of_one_row : work_per_barrier);
    by_units = with_barriers > 1 && with_barriers * 2 > smaller<index>(threads, f.batch);
    threads = by_units ? smaller(threads, with_barriers) : static_cast<int>(smaller<index>(threads, f.batch > 1 ? f.batch : 1));
  }
  Order<T> order(f);
  bool one_step = by_units && f.taken() == 1 && !f.packed;
  bool keep = static_cast<bool>(f.c) || static_cast<bool>(f.gates);
  const index weights = weights_size<Cell, T>(f);
  index ahead = steps_ahead(f, by_units ? f.batch : f.batch / threads, weights);
  Scratch<T> zeros(f.fed_back() + f.hidden), to_pack(one_step || f.packed ? 0 : packed_size<Cell, T>(f));
  Scratch<T> c(keep || !Cell::highway ? 0 : f.batch * f.hidden), h(in_factor > 1 ? 2 * f.batch * f.fed_back() : 0);
  clear<T>(zeros, f.fed_back() + f.hidden);
  const T* packed = f.packed ? f.packed : to_pack;
  ForwardPlan<T> plan{f, order, zeros, to_pack, packed, f.projected ? packed + weights : nullptr, c, h, by_units, ahead, one_step};
  parallel(threads, [](void* context, const Part& part) { forward_part<Cell>(*static_cast<const ForwardPlan<T>*>(context), part); }, &plan);
}

}  // namespace openlstm::OPENLSTM_ISA
