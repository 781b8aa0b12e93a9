// The backward pass: backpropagation through time for every cell, in blocks of steps.
//
//     dz, dc = cell'(dh + dy, dc);   dh = dz W_hh   (cut at resets);   dx = dz W_ih
//     dW_ih = sum dz^T x;   dW_hh = sum dz^T h_before;   db = sum dz    over all rows and steps
//
// Each part first takes its own rows through a block's steps and lays their dz, transposed, and their x and h into memory that
// all parts share; then, after the block's one barrier, its own rows of the weights' gradients. Sums over tokens run by falling
// time and, within a step, in the order of rows; a block's sum is added as one number. Blocks depend on T and B alone, so the
// gradients do not depend on the number of threads or on the vectors' width.
#pragma once

#include "cells.hpp"
#include "plan.hpp"

namespace openlstm::OPENLSTM_ISA {

// Rows of numbers whose columns are the tokens of a block.
struct Tokens {
  static constexpr index lanes = 16;  // sums over tokens run in this many lanes, whatever the vectors
  index steps, most, stride;          // of a block
  OPENLSTM_INLINE Tokens(index T, index B)
      : steps(B > 0 && B < 512 ? 512 / B : 1), most(smaller(steps, T) * B), stride((most + lanes - 1) / lanes * lanes + lanes) {}
};

// What the parts of one call share: packed weights, and for two blocks in turn what the sums over tokens need.
template <class T>
struct Shared {
  T *w_ih, *w_hh, *w_hr;  // panels of the weights as they are, for dx, dh and the projection's input
  T *dz[2], *g[2];        // transposed [G*H, stride] and [P, stride]
  T *x[2], *h[2], *m[2];  // panels [tokens, I], [tokens, R], [tokens, H]
};

template <class T>
struct BackwardPlan {
  const Backward<T>& b;
  const Order<T>& order;
  const T* zeros;
  Tokens tokens;
  Shared<T> shared;
};

template <class T>
OPENLSTM_INLINE bool any(const T* p, index n) {
  for (index k = 0; k < n; k++)
    if (p[k] != T(0)) return true;  // also NaN
  return false;
}
template <class T>
OPENLSTM_INLINE void add(const T* from, T* to, index n) {
  for (index k = 0; k < n; k += width<T>) store(to + k, load(to + k, n - k) + load(from + k, n - k), n - k);
}

// The sum of p[0..n), lane by lane in 16 lanes and those by halves; p is padded with zeros to a multiple of 16.
template <class T>
OPENLSTM_INLINE T sum_in_lanes(const T* p, index n) {
  constexpr index L = Tokens::lanes, W = width<T> < L ? width<T> : L;
  T lanes[L];
  Vec<T> acc[L / W] = {};
  for (index k = 0; k < n; k += L)
    for (index v = 0; v < L / W; v++) acc[v] = acc[v] + load(p + k + v * W);
  for (index v = 0; v < L / W; v++) store(lanes + v * W, acc[v]);
  for (index half = L / 2; half > 0; half /= 2)
    for (index k = 0; k < half; k++) lanes[k] = lanes[k] + lanes[k + half];
  return lanes[0];
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
        most_(smaller(plan.tokens.steps, plan.b.steps) * share_.count()),
        dz_(most_ * G * b_.hidden),
        m_(b_.projected ? 2 * share_.count() * b_.hidden : 0),
        pointers_(4 * most_ + 4 * share_.count()) {
    const index R = b_.fed_back(), H = b_.hidden;
    for (index j = 0; j < share_.count(); j++) {
      index b = row(j);
      start(b_.dh_n, b_.dh0, b, R);
      if (Cell::highway) start(b_.dc_n, b_.dc0, b, H);
      if (b_.dreset_h) clear(b_.dreset_h + b * R, R);
      if (b_.dreset_c) clear(b_.dreset_c + b * H, H);
    }
  }

  // Steps [first, last) in the order of processing, from the last to the first; K tokens in all.
  OPENLSTM_INLINE void block(index first, index last, index K, int turn) {
    tokens_ = 0;
    index slot = 0;
    for (index n = last - 1; n >= first; n--) {
      index t = step_at(b_, n), alive = plan_.order.alive(t);
      step(t, share_.alive(alive), slot, K, turn);
      slot += alive;
    }
    if (b_.dx) multiply<Into::store>(dz_rows(), dx_rows(), tokens_, G * b_.hidden, plan_.shared.w_ih, b_.inputs);
  }

 private:
  static constexpr index G = Cell::gates;

  OPENLSTM_INLINE index row(index j) const { return plan_.order.row(share_.position(j)); }
  OPENLSTM_INLINE const T** dz_rows() { return const_cast<const T**>(pointers_ + 0); }
  OPENLSTM_INLINE T** dx_rows() { return pointers_ + most_; }
  OPENLSTM_INLINE T** all_dz() { return pointers_ + 2 * most_; }  // of one step, dead rows too
  OPENLSTM_INLINE T** dh_rows() { return pointers_ + 2 * most_ + share_.count(); }
  OPENLSTM_INLINE T** g_rows() { return pointers_ + 2 * most_ + 2 * share_.count(); }
  OPENLSTM_INLINE T** dm_rows() { return pointers_ + 2 * most_ + 3 * share_.count(); }

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
      T *dh = b_.dh0 + b * R, *dc = Cell::highway ? b_.dc0 + b * H : nullptr;
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
      T* dz = dz_ + (live_before + live) * G * H;
      all_dz()[j] = matters ? dz : nullptr;
      const T *h_before, *c_before;
      before(t, b, h_before, c_before);
      index at = slot + share_.position(j);
      pack_row<T>(matters ? b_.x.at(t, b) : nullptr, at, K, b_.inputs, shared.x[turn]);
      pack_row<T>(matters ? h_before : nullptr, at, K, R, shared.h[turn]);
      if (!matters) {
        if (b_.dx) clear(b_.dx.at(t, b), b_.inputs);
        continue;
      }
      dz_rows()[live_before + live] = dz;
      if (b_.dx) dx_rows()[live_before + live] = b_.dx.at(t, b);
      g_rows()[live] = dh_rows()[live] = dh;
      if (b_.projected) dm_rows()[live] = m_ + live * H;
      live++;
    }
    if (b_.projected) {
      multiply<Into::store>(const_cast<const T**>(g_rows()), dm_rows(), live, b_.projected, shared.w_hr, H);
      projection_tokens(t, alive, slot, K, turn);
    }
    live = 0;
    for (index j = 0; j < alive; j++) {
      if (!all_dz()[j]) continue;
      cell(t, row(j), b_.projected ? dm_rows()[live] : g_rows()[live], all_dz()[j]);
      live++;
    }
    multiply<Into::store>(dz_rows() + live_before, dh_rows(), live, G * H, shared.w_hh, R);
    share_.in_runs(alive, [&](index j, index n) {
      transpose([&](index r) { return all_dz()[j + r] ? all_dz()[j + r] : plan_.zeros; }, n, 0, G * H, shared.dz[turn] + slot + share_.position(j),
                plan_.tokens.stride);
    });
    for (index j = 0; j < alive; j++)
      if (begin_.cut(t, row(j))) cut(row(j));
    tokens_ += live;
  }

  // The state that step t of row b began with.
  OPENLSTM_INLINE void before(index t, index b, const T*& h, const T*& c) const {
    const index R = b_.fed_back(), H = b_.hidden;
    if (begin_.cut(t, b)) {
      h = begin_.reset_h(b), c = begin_.reset_c(b);
    } else if (begin_.first(t, b)) {
      h = b_.h0 + b * R, c = b_.c0 + b * H;
    } else {
      h = b_.y.at(begin_.before(t), b), c = Cell::highway ? b_.c.at(begin_.before(t), b) : nullptr;
    }
  }

  OPENLSTM_INLINE void cell(index t, index b, const T* dh, T* dz) const {
    const index H = b_.hidden;
    const T *h_before, *c_before, *h = b_.projected ? dh : b_.y.at(t, b);
    before(t, b, h_before, c_before);
    const T *gates = Cell::saved ? b_.gates.at(t, b) : nullptr, *c = Cell::highway ? b_.c.at(t, b) : nullptr;
    T* dc = Cell::highway ? b_.dc0 + b * H : nullptr;
    index u = 0;
    for (; u + max_rows * width<T> <= H; u += max_rows * width<T>) vectors<max_rows>(u, gates, c_before, c, h, dh, dc, dz);
    for (; u < H; u += width<T>) vectors<1>(u, gates, c_before, c, h, dh, dc, dz);
  }

  // The cell's derivative on N vectors of units, from unit u on.
  template <int N>
  OPENLSTM_INLINE void vectors(index u, const T* gates, const T* c_before, const T* c, const T* h, const T* dh, T* dc, T* dz) const {
    const index H = b_.hidden;
    Vec<T> s[G][N] = {}, out[G][N], c0[N] = {}, c1[N] = {}, d[N] = {}, h1[N], g[N];
    for (int k = 0; k < N; k++) {
      index at = u + k * width<T>, n = H - at;
      for (int j = 0; j < Cell::saved; j++) s[j][k] = load(gates + j * H + at, n);
      if constexpr (Cell::highway) c0[k] = load(c_before + at, n), c1[k] = load(c + at, n), d[k] = load(dc + at, n);
      h1[k] = load(h + at, n), g[k] = load(dh + at, n);
    }
    Cell::backward(s, c0, c1, h1, g, d, out);
    for (int k = 0; k < N; k++) {
      index at = u + k * width<T>, n = H - at;
      if constexpr (Cell::highway) store(dc + at, d[k], n);
      for (int j = 0; j < G; j++) store(dz + j * H + at, out[j][k], n);
    }
  }

  // dW_hr = sum g^T m: the gradients of h' = m W_hr^T, transposed, and m, which is worked out again.
  OPENLSTM_INLINE void projection_tokens(index t, index alive, index slot, index K, int turn) {
    const index H = b_.hidden, P = b_.projected;
    share_.in_runs(alive, [&](index j, index n) {
      transpose([&](index r) { return all_dz()[j + r] ? static_cast<const T*>(b_.dh0 + row(j + r) * P) : plan_.zeros; }, n, 0, P,
                plan_.shared.g[turn] + slot + share_.position(j), plan_.tokens.stride);
    });
    T* m = m_ + share_.count() * H;
    for (index j = 0; j < alive; j++) {
      if (all_dz()[j]) remember(t, row(j), m);
      pack_row<T>(all_dz()[j] ? m : nullptr, slot + share_.position(j), K, H, plan_.shared.m[turn]);
    }
  }
  OPENLSTM_INLINE void remember(index t, index b, T* m) const {
    if constexpr (Cell::highway) {
      const T *gates = b_.gates.at(t, b), *c = b_.c.at(t, b);
      for (index u = 0; u < b_.hidden; u += width<T>) {
        index n = b_.hidden - u;
        Vec<T> s[G][1], h[1] = {load(c + u, n)};
        for (int k = 0; k < Cell::saved; k++) s[k][0] = load(gates + k * b_.hidden + u, n);
        Cell::output(s, h);
        store(m + u, h[0], n);
      }
    }
  }

  // Nothing crosses a reset; what arrives there belongs to the state that was put in place.
  OPENLSTM_INLINE void cut(index b) const {
    const index R = b_.fed_back(), H = b_.hidden;
    if (b_.dreset_h) add(b_.dh0 + b * R, b_.dreset_h + b * R, R);
    clear(b_.dh0 + b * R, R);
    if (!Cell::highway) return;
    if (b_.dreset_c) add(b_.dc0 + b * H, b_.dreset_c + b * H, H);
    clear(b_.dc0 + b * H, H);
  }

  const BackwardPlan<T>& plan_;
  const Backward<T>& b_;
  Begin<T> begin_;
  Share<T> share_;
  index most_;         // of the part's tokens in a block
  index tokens_ = 0;   // of them that matter, so far
  Scratch<T> dz_, m_;  // [tokens, G*H]; dm and m of one step
  Scratch<T*> pointers_;
};

// The weights' gradients of one block, for the part's own rows of a matrix: dw[r] += sum over tokens dz[r] x.
template <class T>
OPENLSTM_INLINE void sum_tokens(const T* dz, index stride, index K, Slice rows, const T* panels, T* dw, index columns, T** scratch) {
  const T** in = const_cast<const T**>(scratch);
  T** out = scratch + rows.size();
  for (index k = 0; k < rows.size(); k++) {
    in[k] = dz + (rows.first + k) * stride;
    out[k] = dw + (rows.first + k) * columns;
  }
  multiply<Into::add>(in, out, rows.size(), K, panels, columns);
}

// Panels of w [K, columns], this part's share of them.
template <class T>
OPENLSTM_INLINE void pack_share(const T* w, index K, index columns, T* panels, const Part& part) {
  constexpr index each = 4 * width<T>;
  Slice mine((columns + each - 1) / each, part);
  pack_panels<T>([&](index k) { return w + k * columns; }, K, mine.first * each, smaller(mine.last * each, columns), columns, panels);
}

template <class Cell, class T>
static void backward_part(const BackwardPlan<T>& plan, const Part& part) {
  const Backward<T>& b = plan.b;
  const Shared<T>& shared = plan.shared;
  const index rows = Cell::gates * b.hidden, R = b.fed_back(), stride = plan.tokens.stride;
  const Slice gates(rows, part), projected(b.projected, part);
  clear(b.dw_ih + gates.first * b.inputs, gates.size() * b.inputs);
  clear(b.dw_hh + gates.first * R, gates.size() * R);
  clear(b.db + gates.first, gates.size());
  if (b.projected) clear(b.dw_hr + projected.first * b.hidden, projected.size() * b.hidden);

  pack_share(b.w_hh, rows, R, shared.w_hh, part);
  if (b.dx) pack_share(b.w_ih, rows, b.inputs, shared.w_ih, part);
  if (b.projected) pack_share(b.w_hr, b.projected, b.hidden, shared.w_hr, part);
  part.wait();

  RowsBackward<Cell, T> mine(plan, part);
  Scratch<T*> pointers(2 * (gates.size() + projected.size()));
  int turn = 0;
  for (index last = b.steps; last > 0; last -= plan.tokens.steps, turn = !turn) {
    index first = last > plan.tokens.steps ? last - plan.tokens.steps : 0, K = 0;
    for (index n = first; n < last; n++) K += plan.order.alive(step_at(b, n));
    mine.block(first, last, K, turn);
    part.wait();  // one is enough: the next block is written elsewhere, the one after it only when all have come here again
    T* dz = shared.dz[turn];
    sum_tokens<T>(dz, stride, K, gates, shared.x[turn], b.dw_ih, b.inputs, pointers);
    sum_tokens<T>(dz, stride, K, gates, shared.h[turn], b.dw_hh, R, pointers);
    for (index r = gates.first; r < gates.last; r++) {
      clear(dz + r * stride + K, Tokens::lanes - 1);
      b.db[r] = b.db[r] + sum_in_lanes(dz + r * stride, K);
    }
    if (b.projected) sum_tokens<T>(shared.g[turn], stride, K, projected, shared.m[turn], b.dw_hr, b.hidden, pointers);
  }
}

template <class Cell, class T>
static void backward(const Backward<T>& b) {
  const index rows = Cell::gates * b.hidden, R = b.fed_back();
  Order<T> order(b);
  Tokens tokens(b.steps, b.batch);
  index widest = rows > R ? rows : R;
  Scratch<T> zeros(widest);
  clear<T>(zeros, widest);
  Scratch<T> w_ih(b.dx ? panel_size<T>(rows, b.inputs) : 0), w_hh(panel_size<T>(rows, R)), w_hr(b.projected ? panel_size<T>(b.projected, b.hidden) : 0);
  index dz = rows * tokens.stride, x = panel_size<T>(tokens.most, b.inputs), h = panel_size<T>(tokens.most, R);
  index g = b.projected * tokens.stride, m = b.projected ? panel_size<T>(tokens.most, b.hidden) : 0, each = dz + x + h + g + m;
  Scratch<T> blocks(2 * each);
  Shared<T> shared{w_ih, w_hh, w_hr, {}, {}, {}, {}, {}};
  for (int turn = 0; turn < 2; turn++) {
    T* at = blocks + turn * each;
    shared.dz[turn] = at, shared.x[turn] = at + dz, shared.h[turn] = at + dz + x, shared.g[turn] = at + dz + x + h, shared.m[turn] = at + dz + x + h + g;
  }
  BackwardPlan<T> plan{b, order, zeros, tokens, shared};
  double work = 3. * static_cast<double>(b.steps * b.batch) * static_cast<double>(rows) * static_cast<double>(b.inputs + R);
  int threads = useful_threads(b, work, work_per_thread);
  parallel(threads, [](void* context, const Part& part) { backward_part<Cell>(*static_cast<const BackwardPlan<T>*>(context), part); }, &plan);
}

}  // namespace openlstm::OPENLSTM_ISA
