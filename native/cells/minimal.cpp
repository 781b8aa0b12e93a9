// Cells with fewer gates than the LSTM, whose cell state is h itself.
#include "cells/kernel.hpp"

namespace openlstm::OPENLSTM_ISA {

// z + 1/2 where z >= 0, else sigmoid(z); NaN stays NaN.
template <class T, int N>
OPENLSTM_INLINE void positive(Vec<T> (&z)[N]) {
  Vec<T> low[N];
  OPENLSTM_EACH(k) low[k] = z[k];
  sigmoid<T>(low);
  OPENLSTM_EACH(k) z[k] = z[k] >= T(0) ? z[k] + T(0.5) : low[k];
}
// Its slope, from its value.
template <class T>
OPENLSTM_INLINE Vec<T> positive_slope(Vec<T> g) {
  const Vec<T> one = splat(T(1));
  return g >= T(0.5) ? one : g * (one - g);
}

// Feng et al. 2024: u = sigmoid(z), g = positive(z);  h' = (1 - u) h + u g. Its sums do not see h.
template <class T>
struct MinGru : Plain {
  using V = Vec<T>;
  enum { U, G };
  static constexpr int gates = 2, sums = 2, saved = 2, candidate = G;
  static constexpr bool h_is_cell = true;
  static constexpr Recurrence recurrence = Recurrence::none;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[2][N], const V (&)[N], const V (&)[3][N]) {
    sigmoid<T>(z[U]), positive<T>(z[G]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[2][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = fma(z[U][k], z[G][k], fma(-z[U][k], c[k], c[k]));
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&)[2][N], V (&)[N], const V (&)[3][N]) {}

  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, saved, N>& at, Gradients<T, sums, N>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V u = at.s[U][k], d = at.dh[k] + at.dc[k];
      out.dz[U][k] = d * (u * (one - u)) * (at.s[G][k] - at.c_before[k]);
      out.dz[G][k] = at.through_mask(d * u, k) * positive_slope<T>(at.candidate(G, k));
      out.dc[k] = d * (one - u);
    }
  }
};

// Feng et al. 2024: p, q = sigmoid(z), i = p / (p + q), f = q / (p + q), g = positive(z);  h' = f h + i g. Its sums do not see h.
// f = sigmoid(log q - log p): two gates that are both closed share as any others do.
template <class T>
struct MinLstm : Plain {
  using V = Vec<T>;
  enum { I, F, G, P, Q };
  static constexpr int gates = 3, sums = 3, saved = 5, room = 5, candidate = G;
  static constexpr bool h_is_cell = true;
  static constexpr Recurrence recurrence = Recurrence::none;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[room][N], const V (&)[N], const V (&)[3][N]) {
    V log_p[N], log_q[N], odds[N], against[N];
    exp_minus_abs<T>(z[I], z[P]), exp_minus_abs<T>(z[F], z[Q]);
    log_share_of<T>(z[I], z[P], log_p), log_share_of<T>(z[F], z[Q], log_q);
    share_of<T>(z[I], z[P]), share_of<T>(z[F], z[Q]);
    OPENLSTM_EACH(k) odds[k] = log_q[k] - log_p[k], against[k] = -odds[k];
    exp_minus_abs<T>(odds, z[F]);
    OPENLSTM_EACH(k) z[I][k] = z[F][k];
    share_of<T>(against, z[I]), share_of<T>(odds, z[F]);
    positive<T>(z[G]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[room][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = fma(z[F][k], c[k], z[I][k] * z[G][k]);
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&)[room][N], V (&)[N], const V (&)[3][N]) {}

  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, saved, N>& at, Gradients<T, sums, N>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V i = at.s[I][k], f = at.s[F][k], d = at.dh[k] + at.dc[k], odds = d * (i * f) * (at.c_before[k] - at.s[G][k]);
      out.dz[I][k] = -odds * (one - at.s[P][k]);
      out.dz[F][k] = odds * (one - at.s[Q][k]);
      out.dz[G][k] = at.through_mask(d * i, k) * positive_slope<T>(at.candidate(G, k));
      out.dc[k] = d * f;
    }
  }
};

// van der Westhuizen & Lasenby 2018: f = sigmoid(z), i = 1 - sigmoid(z - beta) = sigmoid(beta - z), g = tanh(z);  h' = f h + i g.
template <class T>
struct Janet : Plain {
  using V = Vec<T>;
  enum { F, G, I };
  static constexpr int gates = 2, sums = 2, saved = 3, room = 3, candidate = G;
  static constexpr bool h_is_cell = true, has_beta = true;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[room][N], const V (&)[N], const V (&)[3][N]) {
    OPENLSTM_EACH(k) z[I][k] = z[I][k] - z[F][k];  // beta stands there
    sigmoid<T>(z[F]), sigmoid<T>(z[I]), tanh<T>(z[G]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[room][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = fma(z[F][k], c[k], z[I][k] * z[G][k]);
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&)[room][N], V (&)[N], const V (&)[3][N]) {}

  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, saved, N>& at, Gradients<T, sums, N>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V f = at.s[F][k], i = at.s[I][k], g = at.candidate(G, k), d = at.dh[k] + at.dc[k];
      out.dz[F][k] = d * (f * (one - f)) * at.c_before[k] - d * (i * (one - i)) * at.s[G][k];
      out.dz[G][k] = at.through_mask(d * i, k) * fma(-g, g, one);
      out.dc[k] = d * f;
    }
  }
};

template <class T>
constexpr CellKernel<T> cells[] = {
    cell_kernel<MinGru<T>, T>("mingru"),
    cell_kernel<MinLstm<T>, T>("minlstm"),
    cell_kernel<Janet<T>, T>("janet"),
};

OPENLSTM_FAMILY(minimal)

}  // namespace openlstm::OPENLSTM_ISA
