// The backward pass: backpropagation through time for every cell, in blocks of steps.
//
//     dz, dc = cell'(dh + dy, dc);   dh = dz W_hh   (cut at resets);   dx = dz W_ih
//     dW_ih = sum dz^T x;   dW_hh = sum dz^T h_before;   db = sum dz    over all rows and steps
//     dw_ch = sum dz c    of the gates with a peephole, c before the step, for the output gate after it
//     dnorm = sum dn s, sum dn    of what was normalised, s, and dL/d of what that became
//
// Where a cell wants W x and W h apart, dz has a block for each of the two sums: those of W x first in memory, those of W h last.
//
// Each part first takes its own rows through a block's steps and lays their dz, x and h into memory that all parts share; then,
// after the block's one barrier, it sums its own rows of the weights' gradients. Sums over tokens run by falling time and, within
// a step, in the order of rows; a block's sum is added as one number. Blocks depend on T and B alone, so the gradients do not
// depend on the number of threads or on the vectors' width, nor on being worked out stretch by stretch, cut between two blocks.
// Gradients of norms are summed for every row of a block first.
#pragma once

#include "cells.hpp"
#include "noise.hpp"
#include "norm.hpp"
#include "plan.hpp"

namespace openlstm::OPENLSTM_ISA {

// The tokens of a block: one for each row in each of so many steps.
struct Tokens {
  index steps, most;
  OPENLSTM_INLINE Tokens(index T, index B) : steps(B > 0 && B < 512 ? 512 / B : 1), most(smaller(steps, T) * B) {}
};

// What the parts of one call share: packed weights, and for two blocks in turn what the sums over tokens need.
template <class T>
struct Shared {
  T *w_ih, *w_hh, *w_hr;   // panels of the weights as they are, for dx, dh and the projection's input
  T *dz[2], *g[2], *c[2];  // [tokens, sums*H]; dL/d(projection) [tokens, P]; for peepholes c before and after [tokens, 2*H]
  T *x[2], *h[2], *m[2];   // panels [tokens, I], [tokens, R], [tokens, H]
  T* norm[2];              // every row's gradients of norms [B, 14*H]: weights of x, both biases, weights of h, weights and biases of c
};

template <class T>
struct BackwardPlan {
  const Backward<T>& b;
  const Order<T>& order;
  const T* zeros;
  Tokens tokens;
  Shared<T> shared;
};

// Where the blocks of dz lie: the position of the block of sum s (z's order), so that those of W x and those of W h are runs.
template <class Cell>
struct Blocks {
  static constexpr int first_h = Cell::apart;  // the blocks of W h begin here, those of W x at 0; each has `gates`
  static constexpr OPENLSTM_INLINE int of_sum(int s) {
    constexpr int together = Cell::gates - Cell::apart;
    return !Cell::apart ? s : s < together ? s + Cell::apart : s < Cell::gates ? s - together : s;
  }
  // The gate in the weights that block k of W x (or of W h, counted from first_h) belongs to.
  static constexpr OPENLSTM_INLINE int gate_of_x(int k) { return !Cell::apart ? k : k < Cell::apart ? Cell::gates - Cell::apart + k : k - Cell::apart; }
  static constexpr OPENLSTM_INLINE int gate_of_h(int k) { return k; }
};

template <class T>
OPENLSTM_INLINE bool any(const T* p, index n) {
  for (index k = 0; k < n; k++)
    if (p[k] != T(0)) return true;  // also NaN
  return false;
}
template <class X, class T>
OPENLSTM_INLINE void add(const X* from, T* to, index n) {
  for (index k = 0; k < n; k += width<T>) store(to + k, load(to + k, n - k) + load(from + k, n - k), n - k);
}

// One part's way through its rows.
template <class Cell, class T>
class RowsBackward {
 public:
  OPENLSTM_INLINE RowsBackward(const BackwardPlan<T>& plan, const Part& part)
      : plan_(plan),
        b_(plan.b),
        begin_{plan.b, plan.zeros},
        share_(plan.order, plan.b.batch, part),
        most_(smaller(plan.tokens.steps, plan.b.taken()) * share_.count()),
        dm_(b_.projected ? share_.count() * b_.hidden : 0),
        kept_(b_.noise.zoneout_h > 0 ? share_.count() * b_.fed_back() : 0),
        seen_(b_.hidden_mask ? b_.fed_back() : 0),
        work_(Cell::whole ? 6 * b_.hidden : 0),
        raw_(Cell::peepholes && b_.noise.zoneout_c > 0 ? share_.count() * b_.hidden : 0),
        rooms_(in_factor > 1 ? share_.count() * h_rooms() + most_ * dx_rooms() : 0),
        pointers_(4 * most_ + 5 * share_.count()) {
    const index R = b_.fed_back(), H = b_.hidden;
    for (index j = 0; j < share_.count(); j++) {
      index b = row(j);
      start(b_.dh_n, b_.dh0, b, R);
      if (Cell::highway) start(carries() ? b_.dc_n : nullptr, b_.dc0, b, H);
    }
  }

  // Steps [first, last) in the order of processing, from the last to the first; K tokens in all.
  OPENLSTM_INLINE void block(index first, index last, index K, int turn) {
    tokens_ = 0;
    index slot = 0;
    if constexpr (Cell::whole)
      for (index j = 0; j < share_.count(); j++) clear(norm_sums(j, turn), norm_rows * b_.hidden);
    for (index n = last - 1; n >= first; n--) {
      index t = step_at(b_, n), alive = plan_.order.alive(t);
      step(t, share_.alive(alive), slot, K, turn);
      slot += alive;
    }
    if (b_.dx) multiply<Into::store>(dz_rows(), dx_rows(), tokens_, G * b_.hidden, plan_.shared.w_ih, b_.inputs);
  }

 private:
  static constexpr index G = Cell::gates, S = Cell::sums, norm_rows = 3 * G + 2;
  using Places = Blocks<Cell>;

  OPENLSTM_INLINE index row(index j) const { return plan_.order.row(share_.position(j)); }
  OPENLSTM_INLINE const T** dz_rows() { return const_cast<const T**>(pointers_ + 0); }
  OPENLSTM_INLINE Given<T>** dx_rows() { return reinterpret_cast<Given<T>**>(pointers_ + most_); }
  OPENLSTM_INLINE T** all_dz() { return pointers_ + 2 * most_; }  // of one step, dead rows too
  OPENLSTM_INLINE T** dh_rows() { return pointers_ + 2 * most_ + share_.count(); }
  OPENLSTM_INLINE T** g_rows() { return pointers_ + 2 * most_ + 2 * share_.count(); }
  OPENLSTM_INLINE T** dm_rows() { return pointers_ + 2 * most_ + 3 * share_.count(); }
  OPENLSTM_INLINE const T** dz_h_rows() { return const_cast<const T**>(pointers_ + 2 * most_ + 4 * share_.count()); }
  // Whether there is a c beside h; the highway of a GRU is h itself, unless h is not what its cell puts out (projection).
  OPENLSTM_INLINE bool carries() const { return Cell::highway && (!Cell::merged || b_.has_cell); }

  // Where rows are put that do not lie as factors, or hold no numbers of type T: for each row of a step x, h before
  // it and after it, dz of W h, and what is projected; for each of a block dz of W x.
  OPENLSTM_INLINE index h_rooms() const { return b_.inputs + 2 * b_.fed_back() + factors(G * b_.hidden) + factors(b_.projected); }
  OPENLSTM_INLINE index dx_rooms() const { return b_.dx ? factors(G * b_.hidden) : 0; }
  OPENLSTM_INLINE T* x_room(index j) const { return rooms_ + j * h_rooms(); }
  OPENLSTM_INLINE T* h_room(index j) const { return x_room(j) + b_.inputs; }
  OPENLSTM_INLINE T* y_room(index j) const { return h_room(j) + b_.fed_back(); }
  OPENLSTM_INLINE T* dz_room(index j) const { return y_room(j) + b_.fed_back(); }
  OPENLSTM_INLINE T* g_room(index j) const { return dz_room(j) + factors(G * b_.hidden); }
  OPENLSTM_INLINE T* dx_room(index token) const { return rooms_ + share_.count() * h_rooms() + token * dx_rooms(); }

  OPENLSTM_INLINE static void start(const T* given, T* out, index b, index n) {
    if (given)
      copy(given + b * n, out + b * n, n);
    else
      clear(out + b * n, n);
  }

  OPENLSTM_INLINE void step(index t, index alive, index slot, index K, int turn) {
    const index R = b_.fed_back(), H = b_.hidden;
    const Shared<T>& shared = plan_.shared;
    const index live_before = tokens_;
    index live = 0;
    for (index j = 0; j < share_.count(); j++) {
      index b = row(j);
      T *dh = b_.dh0 + b * R, *dc = carries() ? b_.dc0 + b * H : nullptr;
      if (j >= alive) {
        if (b_.dx) clear(b_.dx.at(t, b), b_.inputs);
        if (b_.h_steps) clear(b_.h_steps.at(t, b), R);
        if (b_.c_steps) clear(b_.c_steps.at(t, b), H);
        continue;
      }
      if (b_.dy) add(b_.dy.at(t, b), dh, R);
      if (b_.h_steps) copy(dh, b_.h_steps.at(t, b), R);
      if (b_.c_steps && dc) copy(dc, b_.c_steps.at(t, b), H);
      // A step that nothing depends on contributes exact zeros, whatever its numbers are: 0 * NaN would be NaN.
      bool matters = any(dh, R) || (dc && any(dc, H));
      const index at = slot + share_.position(j);
      T* dz = shared.dz[turn] + at * S * H;
      all_dz()[j] = matters ? dz : nullptr;
      const T *h_before, *c_before;
      before(t, j, h_before, c_before);
      pack_row<T>(matters ? as_numbers(b_.x.at(t, b), b_.inputs, x_room(j)) : nullptr, at, K, b_.inputs, shared.x[turn]);
      if (b_.hidden_mask) {
        times<T>(h_before, b_.hidden_mask + b * R, seen_, R);
        h_before = seen_;
      }
      pack_row<T>(matters ? h_before : nullptr, at, K, R, shared.h[turn]);
      if (!matters) {
        clear(dz, S * H);
        if (b_.dx) clear(b_.dx.at(t, b), b_.inputs);
        continue;
      }
      if (b_.dx) dx_rows()[live_before + live] = b_.dx.at(t, b);
      g_rows()[live] = dh_rows()[live] = dh;
      if (b_.projected) dm_rows()[live] = dm_ + live * H;
      if (b_.noise.zoneout_h > 0) unzone(t, b, dh, kept_ + live * R);
      live++;
    }
    if (b_.projected) {
      for (index j = 0; j < live; j++) dz_h_rows()[j] = as_factors(static_cast<const T*>(g_rows()[j]), b_.projected, g_room(j));
      multiply<Into::store>(dz_h_rows(), dm_rows(), live, b_.projected, shared.w_hr, H);
      for (index j = 0; j < alive; j++) projection_token(t, j, slot + share_.position(j), K, turn);
    }
    live = 0;
    for (index j = 0; j < alive; j++) {
      if (!all_dz()[j]) continue;
      const T* dm = b_.projected ? dm_rows()[live] : g_rows()[live];
      if constexpr (Cell::whole)
        whole(t, j, dm, all_dz()[j], norm_sums(j, turn));
      else
        cell(t, j, dm, all_dz()[j]);
      const T *dz_x = all_dz()[j], *dz_h = dz_x + Places::first_h * H;
      if (b_.dx) dz_x = dz_rows()[live_before + live] = as_factors(dz_x, G * H, dx_room(live_before + live));
      dz_h_rows()[live] = b_.dx && !Cell::apart ? dz_x : as_factors(dz_h, G * H, dz_room(live));
      live++;
    }
    multiply<Into::store>(dz_h_rows(), dh_rows(), live, G * H, shared.w_hh, R);
    for (index j = 0, n = 0; j < alive; j++) {
      if (!all_dz()[j]) continue;
      T* dh = dh_rows()[n];
      if (b_.hidden_mask) times<T>(dh, b_.hidden_mask + row(j) * R, dh, R);
      if (b_.noise.zoneout_h > 0) add<T>(kept_ + n * R, dh, R);
      if (Cell::merged && !carries()) add<T>(b_.dc0 + row(j) * H, dh, H), clear(b_.dc0 + row(j) * H, H);
      n++;
    }
    if constexpr (Cell::peepholes > 0)
      for (index j = 0; j < alive; j++) cells_token(t, j, shared.c[turn] + (slot + share_.position(j)) * 2 * H);
    for (index j = 0; j < alive; j++)
      if (begin_.cut(t, row(j))) cut(t, row(j));
    tokens_ += live;
  }

  // The state that step t of the j-th row began with.
  OPENLSTM_INLINE void before(index t, index j, const T*& h, const T*& c) const {
    const index R = b_.fed_back(), H = b_.hidden, b = row(j);
    c = nullptr;
    if (begin_.cut(t, b)) {
      h = begin_.reset_h(t, b);
      if (carries()) c = begin_.reset_c(t, b);
    } else if (begin_.first(t, b)) {
      h = b_.h0 + b * R;
      if (carries()) c = b_.c0 + b * H;
    } else {
      h = as_numbers(b_.y.at(begin_.before(t), b), R, h_room(j));
      if (carries()) c = b_.c.at(begin_.before(t), b);
    }
    if (!carries()) c = h;
  }

  // dL/dh of a step's result, split into what passes by where zoneout kept the old value and what the cell answers for.
  OPENLSTM_INLINE void unzone(index t, index b, T* dh, T* kept) const {
    const Noise& noise = b_.noise;
    const uint32_t key = key_of(noise, Kind::zoneout_h, t, b);
    for (index u = 0; u < b_.fed_back(); u += width<T>) {
      const index lanes = b_.fed_back() - u;
      Vec<T> d = load(dh + u, lanes), zero{};
      store(kept + u, zone<T>(noise, noise.zoneout_h, key, u, d, zero), lanes);
      store(dh + u, zone<T>(noise, noise.zoneout_h, key, u, zero, d), lanes);
    }
  }

  OPENLSTM_INLINE void cell(index t, index j, const T* dh, T* dz) const {
    if (b_.noise.candidate > 0 && b_.noise.training)
      cell_of<true>(t, j, dh, dz);
    else
      cell_of<false>(t, j, dh, dz);
  }
  template <bool masked>
  OPENLSTM_INLINE void cell_of(index t, index j, const T* dh, T* dz) const {
    if constexpr (!masked || Cell::candidate >= 0) {
      const index H = b_.hidden, b = row(j);
      Row at{};
      at.raw = raw_ ? raw_ + j * H : nullptr;
      before(t, j, at.h_before, at.c_before);
      at.gates = Cell::saved ? b_.gates.at(t, b) : nullptr;
      const T* y = as_numbers(b_.y.at(t, b), b_.fed_back(), y_room(j));
      at.c = carries() ? b_.c.at(t, b) : y;
      at.h = b_.projected ? b_.m.at(t, b) : y;
      at.dh = dh, at.dz = dz;
      at.dfed = b_.dh0 + b * b_.fed_back() + H;
      at.dc = Cell::highway ? b_.dc0 + b * H : nullptr;
      if (b_.noise.zoneout_c > 0) at.zone_c = key_of(b_.noise, Kind::zoneout_c, t, b);
      if (masked) at.drop = key_of(b_.noise, Kind::candidate, t, b);
      index u = 0;
      if constexpr (!masked)
        for (; u + max_rows * width<T> <= H; u += max_rows * width<T>) vectors<max_rows, masked>(u, at);
      for (; u < H; u += width<T>) vectors<1, masked>(u, at);
    }
  }

  // What the derivative of one row's step reads and writes.
  struct Row {
    const T *h_before, *c_before, *gates, *c, *h, *dh, *dfed;
    T *dc, *dz, *raw;
    uint32_t zone_c, drop;
  };

  // The cell's derivative on N vectors of units, from unit u on.
  template <int N, bool masked>
  OPENLSTM_INLINE void vectors(index u, const Row& row) const {
    const index H = b_.hidden;
    const Noise& noise = b_.noise;
    Around<T, Cell::saved, N, masked> at = {};
    Flow<T, S, N> out;
    Vec<T> passes[N] = {};
    for (int k = 0; k < N; k++) {
      index unit = u + k * width<T>, n = H - unit;
      for (int j = 0; j < Cell::saved; j++) at.s[j][k] = load(row.gates + j * H + unit, n);
      if constexpr (Cell::highway) at.c_before[k] = load(row.c_before + unit, n), at.c[k] = load(row.c + unit, n), at.dc[k] = load(row.dc + unit, n);
      at.h[k] = load(row.h + unit, n), at.dh[k] = load(row.dh + unit, n);
      for (int j = 0; j + 1 < Cell::feedback; j++) at.dfed[j][k] = load(row.dfed + j * H + unit, n);
      for (int j = 0; j < Cell::peepholes; j++) at.peephole[j][k] = load(b_.w_ch + j * H + unit, n);
      if constexpr (masked) {
        Bits<T> drop = happens<T>(row.drop, unit, Noise::threshold(noise.candidate));
        at.mask[k] = drop ? Vec<T>{} : splat(T(1 / (1 - noise.candidate)));
      }
    }
    at.keep = T(1 - noise.candidate);
    if constexpr (Cell::highway)
      if (noise.zoneout_c > 0) {  // what was kept is what is carried: the cell's own c' is worked out again
        Vec<T> raw[N], z[S][N];
        for (int j = 0; j < Cell::saved; j++)
          for (int k = 0; k < N; k++) z[j][k] = at.s[j][k];
        for (int k = 0; k < N; k++) raw[k] = at.c_before[k];
        Cell::update(z, raw);
        for (int k = 0; k < N; k++) {
          Vec<T> zero{}, d = at.dc[k];
          at.c[k] = b_.clipped() ? clamp(raw[k], b_.clip) : raw[k];
          if (row.raw) store(row.raw + u + k * width<T>, at.c[k], b_.hidden - u - k * width<T>);
          passes[k] = zone<T>(noise, noise.zoneout_c, row.zone_c, u + k * width<T>, d, zero);
          at.dc[k] = zone<T>(noise, noise.zoneout_c, row.zone_c, u + k * width<T>, zero, d);
        }
      }
    if constexpr (!Cell::highway)
      if (noise.zoneout_h > 0 && !noise.training) unmix<N>(u, row, at.h);
    at.limit = b_.clipped() ? b_.clip : b_.clip - b_.clip;  // infinity less infinity is NaN
    Cell::backward(at, out);
    for (int k = 0; k < N; k++) {
      index unit = u + k * width<T>, n = H - unit;
      if constexpr (Cell::highway) store(row.dc + unit, noise.zoneout_c > 0 ? out.dc[k] + passes[k] : out.dc[k], n);
      for (int j = 0; j < S; j++) store(row.dz + Places::of_sum(j) * H + unit, out.dz[j][k], n);
    }
  }

  // The cell's own output, from the expectation that zoneout made of it: y = p h_before + (1 - p) h.
  template <int N>
  OPENLSTM_INLINE void unmix(index u, const Row& row, Vec<T> (&h)[N]) const {
    if (b_.projected) return;  // there h is the cell's own
    for (int k = 0; k < N; k++) {
      index unit = u + k * width<T>;
      Vec<T> kept = splat(T(b_.noise.zoneout_h)) * load(row.h_before + unit, b_.hidden - unit);
      h[k] = (h[k] - kept) / splat(T(1 - b_.noise.zoneout_h));
    }
  }

  OPENLSTM_INLINE T* norm_sums(index j, int turn) const { return plan_.shared.norm[turn] + row(j) * norm_rows * b_.hidden; }

  // The step's derivative for a cell that normalises its sums; `sums` are the row's gradients of norms.
  OPENLSTM_INLINE void whole(index t, index j, const T* dh, T* dz, T* sums) const {
    if (b_.noise.candidate > 0 && b_.noise.training)
      whole_row<true>(t, j, dh, dz, sums);
    else
      whole_row<false>(t, j, dh, dz, sums);
  }
  template <bool masked>
  OPENLSTM_INLINE void whole_row(index t, index j, const T* dh, T* out, T* sums) const {
    const index H = b_.hidden, b = row(j), GH = G * H;
    const Noise& noise = b_.noise;
    T *dz = work_, *dn = dz + GH, *own = dn + H;
    const T *gates = b_.gates.at(t, b), *of_x = gates + GH, *of_h = of_x + GH, *c = b_.c.at(t, b), *h_before, *c_before;
    const T *w_x = b_.norm, *w_h = w_x + 2 * GH, *w_c = w_h + 2 * GH, *b_c = w_c + H;
    T *dc = b_.dc0 + b * H, *dw_x = sums, *db = dw_x + GH, *dw_h = db + GH, *dw_c = dw_h + GH, *db_c = dw_c + H;
    before(t, j, h_before, c_before);
    const T* next = begin_.first(t, b) ? gates : b_.gates.at(begin_.before(t), b);  // too short stretches for a processor to foresee
    const uint32_t zone_c = noise.zoneout_c > 0 ? key_of(noise, Kind::zoneout_c, t, b) : 0;
    const uint32_t drop = masked ? key_of(noise, Kind::candidate, t, b) : 0;
    if (noise.zoneout_c > 0) {  // what was kept is what is carried: the cell's own c' is worked out again
      for (index u = 0; u < H; u += width<T>) {
        Vec<T> z[G][1], raw[1] = {load(c_before + u, H - u)};
        for (int g = 0; g < G; g++) z[g][0] = load(gates + g * H + u, H - u);
        Cell::update(z, raw);
        store(own + u, b_.clipped() ? clamp(raw[0], b_.clip) : raw[0], H - u);
      }
      c = own;
    }
    const Moments<T> x = moments<G>(of_x, H), h = moments<G>(of_h, H), shown = moments<1>(c, H);

    in_tiles((H + width<T> - 1) / width<T>, [&](auto vectors, index first) OPENLSTM_ALWAYS {  // what h' = o tanh(n) gives to o and to n
      constexpr int N = decltype(vectors)::value;
      Vec<T> o[N], d[N], n[N], dz_o[N];
      for (int k = 0; k < N; k++) {
        index u = (first + k) * width<T>, left = H - u;
        o[k] = load(gates + (G - 1) * H + u, left), d[k] = load(dh + u, left);
        n[k] = fma(shown.of(load(c + u, left)), load(w_c + u, left), load(b_c + u, left));
      }
      Cell::backward_show(o, d, n, dz_o);
      for (int k = 0; k < N; k++) {
        index u = (first + k) * width<T>, left = H - u;
        store(dz + (G - 1) * H + u, dz_o[k], left), store(dn + u, n[k], left);
      }
    });
    Lanes<T> of_1, of_n;
    in_lanes<T>(H, [&](index part, index u) OPENLSTM_ALWAYS {
      index left = H - u;
      Vec<T> d = load(dn + u, left), n = only<T>(shown.of(load(c + u, left)), left), dw = d * load(w_c + u, left);
      store(dw_c + u, fma(d, n, load(dw_c + u, left)), left);
      store(db_c + u, d + load(db_c + u, left), left);
      of_1.sum[part] = of_1.sum[part] + dw, of_n.sum[part] = fma(dw, n, of_n.sum[part]);
    });
    const T per_unit = static_cast<T>(H), mean_1 = of_1.total() / per_unit, mean_n = of_n.total() / per_unit;

    Lanes<T> x_1, x_n, h_1, h_n;
    in_lanes<T>(H, [&](index part, index u) OPENLSTM_ALWAYS {
      index left = H - u;
      Around<T, G, 1, masked> at;
      Flow<T, G, 1> flow;
#pragma GCC unroll 12
      for (int s = 0; s < Cell::saved; s++) __builtin_prefetch(next + s * H + u, 0, 2);
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) at.s[g][0] = load(gates + g * H + u, left);
      at.c_before[0] = load(c_before + u, left), at.c[0] = load(c + u, left);
      Vec<T> passes{}, zero{}, along = load(dc + u, left);
      if (noise.zoneout_c > 0) {
        passes = zone<T>(noise, noise.zoneout_c, zone_c, u, along, zero);
        along = zone<T>(noise, noise.zoneout_c, zone_c, u, zero, along);
      }
      Vec<T> n = shown.of(at.c[0]), back = load(dn + u, left) * load(w_c + u, left) - mean_1;  // the products that were summed
      at.dc[0] = fma(fma(-n, splat(mean_n), back), splat(shown.scale), along);
      if constexpr (masked) at.mask[0] = happens<T>(drop, u, Noise::threshold(noise.candidate)) ? zero : splat(T(1 / (1 - noise.candidate)));
      at.keep = T(1 - noise.candidate);
      at.limit = b_.clipped() ? b_.clip : b_.clip - b_.clip;  // infinity less infinity is NaN
      Cell::backward(at, flow);
      store(dc + u, noise.zoneout_c > 0 ? flow.dc[0] + passes : flow.dc[0], left);
      flow.dz[G - 1][0] = load(dz + (G - 1) * H + u, left);
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) {
        const index k = g * H + u;
        Vec<T> d = only<T>(flow.dz[g][0], left), n_x = only<T>(x.of(load(of_x + k, left)), left), n_h = only<T>(h.of(load(of_h + k, left)), left);
        Vec<T> d_x = d * load(w_x + k, left), d_h = d * load(w_h + k, left);
        store(dz + k, d, left);
        store(dw_x + k, fma(d, n_x, load(dw_x + k, left)), left);
        store(db + k, d + load(db + k, left), left);
        store(dw_h + k, fma(d, n_h, load(dw_h + k, left)), left);
        x_1.sum[part] = x_1.sum[part] + d_x, x_n.sum[part] = fma(d_x, n_x, x_n.sum[part]);
        h_1.sum[part] = h_1.sum[part] + d_h, h_n.sum[part] = fma(d_h, n_h, h_n.sum[part]);
      }
    });
    const T per_sum = static_cast<T>(GH);
    through_norm(dz, of_x, w_x, x, x_1.total() / per_sum, x_n.total() / per_sum, out, GH);
    through_norm(dz, of_h, w_h, h, h_1.total() / per_sum, h_n.total() / per_sum, out + GH, GH);
  }

  // dL/ds = scale (dn w - mean(dn w) - n mean(dn w n)),  n = N(s), for a row of n numbers.
  OPENLSTM_INLINE static void through_norm(const T* dn, const T* s, const T* w, const Moments<T>& of, T mean_1, T mean_n, T* out, index n) {
    for (index k = 0; k < n; k += width<T>) {
      index left = n - k;
      Vec<T> back = load(dn + k, left) * load(w + k, left) - mean_1;
      store(out + k, fma(-of.of(load(s + k, left)), splat(mean_n), back) * splat(of.scale), left);
    }
  }

  // c before step t and the cell's own c' after it (before zoneout).
  OPENLSTM_INLINE void cells_token(index t, index j, T* out) {
    const index H = b_.hidden;
    if (!all_dz()[j]) return clear(out, 2 * H);
    const T *h, *c;
    before(t, j, h, c);
    copy(c, out, H);
    copy(raw_ ? static_cast<const T*>(raw_ + j * H) : b_.c.at(t, row(j)), out + H, H);
  }

  // dW_hr = sum g^T m: the gradients of h' = m W_hr^T, and m.
  OPENLSTM_INLINE void projection_token(index t, index j, index at, index K, int turn) {
    const index b = row(j), P = b_.projected;
    T* g = plan_.shared.g[turn] + at * P;
    if (all_dz()[j])
      copy(static_cast<const T*>(b_.dh0 + b * P), g, P);
    else
      clear(g, P);
    pack_row<T>(all_dz()[j] ? b_.m.at(t, b) : nullptr, at, K, b_.hidden, plan_.shared.m[turn]);
  }

  // Nothing crosses a reset; what arrives there belongs to the state that was put in place.
  OPENLSTM_INLINE void cut(index t, index b) const {
    const index R = b_.fed_back(), H = b_.hidden;
    if (b_.dreset_h) add(b_.dh0 + b * R, b_.dreset_h.at(begin_.crossed(t), b), R);
    clear(b_.dh0 + b * R, R);
    if (!carries()) return;
    if (b_.dreset_c) add(b_.dc0 + b * H, b_.dreset_c.at(begin_.crossed(t), b), H);
    clear(b_.dc0 + b * H, H);
  }

  const BackwardPlan<T>& plan_;
  const Backward<T>& b_;
  Begin<T> begin_;
  Share<T> share_;
  index most_;              // of the part's tokens in a block
  index tokens_ = 0;        // of them that matter, so far
  Scratch<T> dm_;           // dL/dm of one step
  Scratch<T> kept_, seen_;  // of one step: what of dL/dh passes by; of one row: h as the sums see it
  Scratch<T> work_;         // of one row: dL/dz, dL/d of the normalised cell, and c' before zoneout
  Scratch<T> raw_;          // of one step: c' before zoneout, which the output gate's peephole saw
  Scratch<T> rooms_;
  Scratch<T*> pointers_;
};

// A part's own rows of the weights' gradients, in one block.
template <class T>
class Sums {
 public:
  OPENLSTM_INLINE explicit Sums(index most)
      : stride_((factors(most) + 15) / 16 * 16 + 16), turned_(chunk * stride_), paired_(in_factor > 1 ? factors(most) * chunk : 0), pointers_(2 * chunk) {}

  // dw[r] += sum over the K tokens of d[token][place(r)] x[token], x in panels. `place` keeps runs of `run` rows together.
  template <class Place>
  OPENLSTM_INLINE void add_product(const T* d, index width_of_d, index K, Slice rows, index run, Place place, const T* panels, T* dw, index columns) {
    for (index first = rows.first, last; first < rows.last; first = last) {
      last = smaller(smaller(first + chunk, rows.last), (first / run + 1) * run);
      turn(d + place(first), width_of_d, K, last - first);
      const T** in = const_cast<const T**>(pointers_ + 0);
      T** out = pointers_ + chunk;
      for (index k = 0; k < last - first; k++) in[k] = turned_ + k * stride_, out[k] = dw + (first + k) * columns;
      multiply<Into::add>(in, out, last - first, K, panels, columns);
    }
  }

  // db[r] += sum over the K tokens of d[token][place + r] (times c[token][r], where c is given).
  OPENLSTM_INLINE static void add_column(const T* d, index width_of_d, const T* c, index width_of_c, index K, T* db, index n) {
    index r = 0;
    for (; r + 8 * width<T> <= n; r += 8 * width<T>) columns<8>(d + r, width_of_d, c ? c + r : c, width_of_c, K, db + r, n - r);
    for (; r < n; r += width<T>) columns<1>(d + r, width_of_d, c ? c + r : c, width_of_c, K, db + r, n - r);
  }

 private:
  static constexpr index chunk = 16 * max_rows;  // rows that are turned at once: their tokens stay in the cache

  // The rows of `turned_` are n columns of d, as factors of K tokens.
  OPENLSTM_INLINE void turn(const T* d, index width_of_d, index K, index n) {
    T *turned = turned_, *paired = paired_;
    if constexpr (in_factor == 1) {
      transpose([&](index token) { return d + token * width_of_d; }, K, 0, n, turned, stride_);
    } else {
      for (index k = 0; k < K; k += 2) {
        const T *even = d + k * width_of_d, *odd = even + width_of_d;
        for (index r = 0; r < n; r += width<T>) {
          const Vec<T> two = side_by_side(load(even + r, n - r), k + 1 < K ? load(odd + r, n - r) : Vec<T>{});
          store(paired + k / 2 * chunk + r, two, n - r);
        }
      }
      transpose([&](index k) { return static_cast<const T*>(paired) + k * chunk; }, factors(K), 0, n, turned, stride_);
    }
  }

  template <int N>
  OPENLSTM_INLINE static void columns(const T* d, index width_of_d, const T* c, index width_of_c, index K, T* db, index n) {
    Vec<T> sum[N] = {};
    for (index token = 0; token < K; token++)
      for (int v = 0; v < N; v++) {
        Vec<T> a = load(d + token * width_of_d + v * width<T>, n - v * width<T>);
        sum[v] = c ? fma(a, load(c + token * width_of_c + v * width<T>, n - v * width<T>), sum[v]) : sum[v] + a;
      }
    for (int v = 0; v < N; v++) store(db + v * width<T>, load(db + v * width<T>, n - v * width<T>) + sum[v], n - v * width<T>);
  }

  const index stride_;
  Scratch<T> turned_;  // [chunk, tokens]
  Scratch<T> paired_;  // [tokens, chunk], two tokens' numbers in one
  Scratch<T*> pointers_;
};

// Panels of w [K, columns], this part's share of them; row k of the panels is row place(k) of w.
template <class T, class Place>
OPENLSTM_INLINE void pack_share(const Given<T>* w, index K, index columns, Place place, T* panels, const Part& part) {
  Slice mine(Panels<T>(columns).count, part);
  pack_panels<T>([&](index k) { return w + place(k) * columns; }, K, mine.first, mine.last, columns, panels);
}

// f(first, n) for the stretches of a slice that do not cross a multiple of `run`.
template <class F>
OPENLSTM_INLINE void in_runs(Slice rows, index run, F f) {
  for (index first = rows.first, last; first < rows.last; first = last) {
    last = smaller((first / run + 1) * run, rows.last);
    f(first, last - first);
  }
}

template <class Cell, class T>
static void backward_part(const BackwardPlan<T>& plan, const Part& part) {
  using Places = Blocks<Cell>;
  const Backward<T>& b = plan.b;
  const Shared<T>& shared = plan.shared;
  const index H = b.hidden, rows = Cell::gates * H, R = b.fed_back(), wide = Cell::sums * H;
  const Slice gates(rows, part), projected(b.projected, part), peepholes(Cell::peepholes * H, part), norms(Cell::whole ? 4 * rows + 2 * H : 0, part);
  // Row r of the weights among the blocks of dz, and the other way round.
  auto in_x = [H](index r) { return Cell::apart ? Places::of_sum(static_cast<int>(r / H)) * H + r % H : r; };
  auto in_h = [H](index r) { return r + Places::first_h * H; };
  auto of_x = [H](index k) { return Cell::apart ? Places::gate_of_x(static_cast<int>(k / H)) * H + k % H : k; };
  auto same = [](index k) { return k; };
  if (!b.go_on) {
    clear(b.dw_ih + gates.first * b.inputs, gates.size() * b.inputs);
    clear(b.dw_hh + gates.first * R, gates.size() * R);
    if (b.db_ih) clear(b.db_ih + gates.first, gates.size());
    if (b.db_hh) clear(b.db_hh + gates.first, gates.size());
    if (b.projected) clear(b.dw_hr + projected.first * H, projected.size() * H);
    if (Cell::peepholes) clear(b.dw_ch + peepholes.first, peepholes.size());
    if (Cell::whole) clear(b.dnorm + norms.first, norms.size());
  }

  pack_share<T>(b.w_hh, rows, R, same, shared.w_hh, part);
  if (b.dx) pack_share<T>(b.w_ih, rows, b.inputs, of_x, shared.w_ih, part);
  if (b.projected) pack_share<T>(b.w_hr, b.projected, H, same, shared.w_hr, part);
  part.wait();

  RowsBackward<Cell, T> mine(plan, part);
  Sums<T> sums(plan.tokens.most);
  int turn = 0;
  for (index last = b.taken(); last > 0; last -= plan.tokens.steps, turn = !turn) {
    index first = last > plan.tokens.steps ? last - plan.tokens.steps : 0, K = 0;
    for (index n = first; n < last; n++) K += plan.order.alive(step_at(b, n));
    mine.block(first, last, K, turn);
    part.wait();  // one is enough: the next block is written elsewhere, the one after it only when all have come here again
    const T* dz = shared.dz[turn];
    sums.add_product(dz, wide, K, gates, H, in_x, shared.x[turn], b.dw_ih, b.inputs);
    sums.add_product(dz, wide, K, gates, H, in_h, shared.h[turn], b.dw_hh, R);
    if (b.projected) sums.add_product(shared.g[turn], b.projected, K, projected, b.projected, same, shared.m[turn], b.dw_hr, H);
    in_runs(gates, H, [&](index r, index n) {
      if (b.db_ih) sums.add_column(dz + in_x(r), wide, nullptr, 0, K, b.db_ih + r, n);
      if (b.db_hh) sums.add_column(dz + in_h(r), wide, nullptr, 0, K, b.db_hh + r, n);
    });
    if constexpr (Cell::peepholes > 0)
      in_runs(peepholes, H, [&](index r, index n) {
        const index which = r / H, unit = r % H, after = which == Cell::last_peephole && Cell::has_o ? H : 0;
        sums.add_column(dz + Cell::sees[which] * H + unit, wide, shared.c[turn] + after + unit, 2 * H, K, b.dw_ch + r, n);
      });
    if constexpr (Cell::whole)
      in_runs(norms, H, [&](index r, index n) {
        const index from = r < 3 * rows ? r : r < 4 * rows ? r - 2 * rows : r - rows;  // the biases of both sums have one gradient
        sums.add_column(shared.norm[turn] + from, 3 * rows + 2 * H, nullptr, 0, b.batch, b.dnorm + r, n);
      });
  }
}

template <class Cell, class T>
static void backward(const Backward<T>& b) {
  const index H = b.hidden, rows = Cell::gates * H, sums = Cell::sums * H, R = b.fed_back();
  Order<T> order(b);
  Tokens tokens(b.taken(), b.batch);
  index widest = sums > R ? sums : R;
  Scratch<T> zeros(widest);
  clear<T>(zeros, widest);
  Scratch<T> w_ih(b.dx ? panel_size<T>(rows, b.inputs) : 0), w_hh(panel_size<T>(rows, R)), w_hr(b.projected ? panel_size<T>(b.projected, H) : 0);
  const index sizes[] = {sums * tokens.most,
                         b.projected * tokens.most,
                         Cell::peepholes ? 2 * H * tokens.most : 0,
                         panel_size<T>(tokens.most, b.inputs),
                         panel_size<T>(tokens.most, R),
                         b.projected ? panel_size<T>(tokens.most, H) : 0,
                         Cell::whole ? (3 * rows + 2 * H) * b.batch : 0};
  index each = 0;
  for (index size : sizes) each += size;
  Scratch<T> blocks(2 * each);
  Shared<T> shared{w_ih, w_hh, w_hr, {}, {}, {}, {}, {}, {}, {}};
  for (int turn = 0; turn < 2; turn++) {
    T* at = blocks + turn * each;
    T** const places[] = {&shared.dz[turn], &shared.g[turn], &shared.c[turn], &shared.x[turn], &shared.h[turn], &shared.m[turn], &shared.norm[turn]};
    for (int k = 0; k < 7; at += sizes[k++]) *places[k] = at;
  }
  BackwardPlan<T> plan{b, order, zeros, tokens, shared};
  double work = 3. * static_cast<double>(b.taken() * b.batch) * static_cast<double>(rows) * static_cast<double>(b.inputs + R);
  int threads = useful_threads(b, work, work_per_thread);
  parallel(threads, [](void* context, const Part& part) { backward_part<Cell>(*static_cast<const BackwardPlan<T>*>(context), part); }, &plan);
}

}  // namespace openlstm::OPENLSTM_ISA
