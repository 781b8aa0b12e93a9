// The LSTM with layer normalisation.
#include "cells/kernel.hpp"
#include "cells/norm.hpp"

namespace openlstm::OPENLSTM_ISA {

// Ba, Kiros & Hinton 2016: the LSTM whose sums of W x and of W h are normalised over all gates of a row before they are added,
// and whose cell is normalised, n = N(c'), before the output gate shows it:  h' = o tanh(n). A step keeps the four gates and,
// behind them, the raw sums of W x and of W h.
template <class T>
struct LayerNormLstm : Plain {
  using V = Vec<T>;
  enum { I, F, G, O };
  static constexpr int gates = 4, separate = 4, sums = 8, saved = 12, candidate = G;
  static constexpr bool needs_row = true;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[gates][N], const V (&)[N], const V (&)[3][N]) {
    sigmoid<T>(z[I]), sigmoid<T>(z[F]), tanh<T>(z[G]), sigmoid<T>(z[O]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[gates][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = fma(z[F][k], c[k], z[I][k] * z[G][k]);
  }
  // n becomes h'.
  template <int N>
  static OPENLSTM_INLINE void show(const V (&o)[N], V (&n)[N]) {
    tanh<T>(n);
    OPENLSTM_EACH(k) n[k] = o[k] * n[k];
  }

  // dL/dh' -> dL/dz of the output gate, and dL/dn in place of n.
  template <int N>
  static OPENLSTM_INLINE void backward_show(const V (&o)[N], const V (&dh)[N], V (&n)[N], V (&dz)[N]) {
    const V one = splat(T(1));
    tanh<T>(n);
    OPENLSTM_EACH(k) {
      dz[k] = dh[k] * (o[k] * (one - o[k])) * n[k];
      n[k] = dh[k] * o[k] * fma(-n[k], n[k], one);
    }
  }
  // dL/dc', all of it, in at.dc -> dL/dz of the other gates, and dL/dc.
  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, gates, N>& at, Gradients<T, gates, N>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V i = at.s[I][k], f = at.s[F][k], g = at.s[G][k], d = abs<T>(at.c[k]) >= at.limit ? V{} : at.dc[k];
      out.dz[I][k] = d * (i * (one - i)) * g;
      out.dz[F][k] = d * (f * (one - f)) * at.c_before[k];
      out.dz[G][k] = at.through_mask(d * i, k) * fma(-at.candidate(G, k), at.candidate(G, k), one);
      out.dc[k] = d * f;
    }
  }
};

// So many rows go through a phase before the next one begins, so that one row's sums need not wait for another's.
constexpr index rows_of_a_phase = 8;

// The raw sums of a row, from its tiles to where backward reads them: behind its gates, those of W x first. Gives the means of both.
template <class Cell, class T>
OPENLSTM_INLINE void collect_sums(const CellStep<T>& p, index row, T& mean_x, T& mean_h) {
  constexpr int G = Cell::gates;
  const index H = p.hidden;
  T* raw = p.gates[row] + G * H;
  Lanes<T> x[G], h[G];
  in_lanes<T>(H, [&](index part, index unit) OPENLSTM_ALWAYS {
    const T* sums = sums_at<Cell>(p, row, unit);
#pragma GCC unroll 8
    for (int s = 0; s < Cell::sums; s++) {
      const Vec<T> sum = only<T>(load(sums + s * width<T>), H - unit);
      Vec<T>& all = (s < G ? x[s % G] : h[s % G]).sum[part];
      all = all + sum;
      store(raw + s * H + unit, sum, H - unit);
    }
  });
  mean_x = total_of(x) / static_cast<T>(G * H), mean_h = total_of(h) / static_cast<T>(G * H);
}

template <class Cell, class T>
static void norm_forward(const CellStep<T>& all) {
  constexpr int G = Cell::gates;
  const index H = all.hidden, GH = G * H;
  const T *w_x = all.norm, *b_x = w_x + GH, *w_h = b_x + GH, *b_h = w_h + GH, *w_c = b_h + GH, *b_c = w_c + H;
  for (index begin = 0; begin < all.rows; begin += rows_of_a_phase) {
    CellStep<T> p = all;
    p.rows = min(rows_of_a_phase, all.rows - begin);
    p.sums += begin * p.between_rows, p.c += begin, p.out += begin, p.gates += begin;
    if (p.c_out) p.c_out += begin;
    p.zoneout_c += begin, p.dropped += begin;
    Moments<T> x[rows_of_a_phase], h[rows_of_a_phase], cell[rows_of_a_phase];
    for (index row = 0; row < p.rows; row++) collect_sums<Cell>(p, row, x[row].mean, h[row].mean);
    for (index row = 0; row < p.rows; row++) x[row] = moments<G>(p.gates[row] + GH, H, x[row].mean), h[row] = moments<G>(p.gates[row] + 2 * GH, H, h[row].mean);
    in_groups<T>(p.rows, 0, H, p.rows > 1, [&](const auto& at) __attribute__((always_inline)) {
      constexpr int N = at_once;
      Vec<T> z[G][N];
      for (int k = 0; k < N; k++) {
        const index row = at.row[k], left = at.lanes(k);
        const T *of_x = p.gates[row] + GH, *of_h = of_x + GH;
        for (int g = 0; g < G; g++) {
          const index n = g * H + at.unit[k];
          const Vec<T> bias = load(b_x + n, left) + load(b_h + n, left);
          z[g][k] = fma(h[row].of(load(of_h + n, left)), load(w_h + n, left), fma(x[row].of(load(of_x + n, left)), load(w_x + n, left), bias));
        }
      }
      apply_cell<Cell>(z, p, at);
    });
    for (index row = 0; row < p.rows; row++) cell[row] = moments<1>(p.out[row], H);  // c', which stands in the place of the output
    in_groups<T>(p.rows, 0, H, p.rows > 1, [&](const auto& at) __attribute__((always_inline)) {
      constexpr int N = at_once;
      Vec<T> o[N], n[N];
      for (int k = 0; k < N; k++) {
        const index row = at.row[k], unit = at.unit[k], left = at.lanes(k);
        o[k] = load(p.gates[row] + (G - 1) * H + unit, left);
        n[k] = fma(cell[row].of(load(p.out[row] + unit, left)), load(w_c + unit, left), load(b_c + unit, left));
      }
      Cell::show(o, n);
      for (int k = 0; k < N; k++) store(p.out[at.row[k]] + at.unit[k], n[k], at.lanes(k));
    });
  }
}

// dL/ds = scale (dn w - mean(dn w) - n mean(dn w n)),  n = N(s), for a row of n numbers.
template <class T>
OPENLSTM_INLINE void through_norm(const T* dn, const T* s, const T* w, const Moments<T>& of, T mean_1, T mean_n, T* out, index n) {
  for (index k = 0; k < n; k += width<T>) {
    index left = n - k;
    Vec<T> back = load(dn + k, left) * load(w + k, left) - mean_1;
    store(out + k, fma(-of.of(load(s + k, left)), splat(mean_n), back) * splat(of.scale), left);
  }
}

template <class Cell, class T>
OPENLSTM_INLINE void norm_backward_row(const CellGradient<T>& p, index row) {
  constexpr int G = Cell::gates;
  const index H = p.hidden, GH = G * H;
  const Noise& noise = *p.noise;
  T *dz = p.room, *dn = dz + GH, *own = dn + H, *dc = p.dc[row], *out = p.dz[row];
  const T *gates = p.gates[row], *of_x = gates + GH, *of_h = of_x + GH, *c = p.c[row], *c_before = p.c_before[row], *dh = p.dh[row];
  const T *w_x = p.norm, *w_h = w_x + 2 * GH, *w_c = w_h + 2 * GH, *b_c = w_c + H;
  T *dw_x = p.dnorm[row], *db = dw_x + GH, *dw_h = db + GH, *dw_c = dw_h + GH, *db_c = dw_c + H;
  const uint32_t zone_c = noise.zoneout_c > 0 ? p.zoneout_c[row] : 0;
  if (noise.zoneout_c > 0) {  // what was kept is what is carried: the cell's own c' is worked out again
    for (index u = 0; u < H; u += width<T>) {
      Vec<T> z[G][1], raw[1] = {load(c_before + u, H - u)};
      for (int g = 0; g < G; g++) z[g][0] = load(gates + g * H + u, H - u);
      Cell::update(z, raw);
      store(own + u, p.clipped() ? clamp(raw[0], p.clip) : raw[0], H - u);
    }
    c = own;
  }
  const Moments<T> x = moments<G>(of_x, H), h = moments<G>(of_h, H), shown = moments<1>(c, H);

  in_groups<T>(1, 0, H, false, [&](const auto& places) __attribute__((always_inline)) {  // what h' = o tanh(n) gives to o and to n
    constexpr int N = at_once;
    Vec<T> o[N], d[N], n[N], dz_o[N];
    for (int k = 0; k < N; k++) {
      const index u = places.unit[k], left = places.lanes(k);
      o[k] = load(gates + (G - 1) * H + u, left), d[k] = load(dh + u, left);
      n[k] = fma(shown.of(load(c + u, left)), load(w_c + u, left), load(b_c + u, left));
    }
    Cell::backward_show(o, d, n, dz_o);
    for (int k = 0; k < N; k++) {
      const index u = places.unit[k], left = places.lanes(k);
      store(dz + (G - 1) * H + u, dz_o[k], left), store(dn + u, n[k], left);
    }
  });
  Lanes<T> of_1, of_n;
  in_lanes<T>(H, [&](index part, index u) __attribute__((always_inline)) {
    index left = H - u;
    Vec<T> d = load(dn + u, left), n = only<T>(shown.of(load(c + u, left)), left), dw = d * load(w_c + u, left);
    store(dw_c + u, fma(d, n, load(dw_c + u, left)), left);
    store(db_c + u, d + load(db_c + u, left), left);
    of_1.sum[part] = of_1.sum[part] + dw, of_n.sum[part] = fma(dw, n, of_n.sum[part]);
  });
  const T per_unit = static_cast<T>(H), mean_1 = of_1.total() / per_unit, mean_n = of_n.total() / per_unit;

  Lanes<T> x_1, x_n, h_1, h_n;
  in_lanes<T>(H, [&](index part, index u) __attribute__((always_inline)) {
    index left = H - u;
    Known<T, G, 1> at;
    Gradients<T, G, 1> flow;
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) at.s[g][0] = load(gates + g * H + u, left);
    at.c_before[0] = load(c_before + u, left), at.c[0] = load(c + u, left);
    Vec<T> passes{}, zero{}, along = load(dc + u, left);
    if (noise.zoneout_c > 0) {
      passes = zoneout<T>(noise, noise.zoneout_c, zone_c, u, along, zero);
      along = zoneout<T>(noise, noise.zoneout_c, zone_c, u, zero, along);
    }
    Vec<T> n = shown.of(at.c[0]), back = load(dn + u, left) * load(w_c + u, left) - mean_1;  // the products that were summed
    at.dc[0] = fma(fma(-n, splat(mean_n), back), splat(shown.scale), along);
    know_masks(at, p, [&](int) __attribute__((always_inline)) { return Place{row, u}; });
    at.limit = p.clipped() ? p.clip : p.clip - p.clip;  // infinity less infinity is NaN
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

template <class Cell, class T>
static void norm_backward(const CellGradient<T>& p) {
  for (index row = 0; row < p.rows; row++) norm_backward_row<Cell>(p, row);
}

template <class T>
constexpr CellKernel<T> cells[] = {
    {"lstm_ln", traits_of<LayerNormLstm<T>>(), norm_forward<LayerNormLstm<T>, T>, norm_backward<LayerNormLstm<T>, T>, nullptr},
};

OPENLSTM_FAMILY(layer_norm)

}  // namespace openlstm::OPENLSTM_ISA
