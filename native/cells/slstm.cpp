// The sLSTM.
#include "cells/kernel.hpp"

namespace openlstm::OPENLSTM_ISA {

// Beck et al. 2024: an exponential input gate, what it adds up to, n, and a maximum, m, that keeps the exponentials in range.
//     s, o = sigmoid(z);  g = tanh(z);  k = log s + m;  m' = max(z_i, k), z_i where n = 0;  i = exp(z_i - m');  f = exp(k - m')
//     c' = f c + i g;  n' = f n + i;  h' = o c' / n'
// One of i and f is 1 and the other exp(-|z_i - k|). Where n = 0, f meets zeros; there it is at most 1.
template <class T>
struct Slstm : Plain {
  using V = Vec<T>;
  enum { I, F, G, O, S, M };  // gates, and m' behind them
  enum { c_, n_, m_ };        // states
  static constexpr int gates = 4, sums = 4, saved = 5, room = 6, candidate = G, states = 3;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[room][N], const V (&c)[states][N], const V (&)[3][N]) {
    const V one = splat(T(1));
    V kept[N], ahead[N], e[N];
    exp_minus_abs<T>(z[F], z[S]);
    log_share_of<T>(z[F], z[S], kept);
    share_of<T>(z[F], z[S]);
    OPENLSTM_EACH(k) kept[k] = kept[k] + c[m_][k], ahead[k] = z[I][k] - kept[k];
    exp_minus_abs<T>(ahead, e);
    OPENLSTM_EACH(k) {
      const auto first = (c[n_][k] == T(0)) | ~(ahead[k] < T(0));  // also where one of the two is NaN
      z[M][k] = first ? z[I][k] : kept[k];
      z[F][k] = ahead[k] < T(0) ? one : e[k];
      z[I][k] = first ? one + (z[I][k] - z[I][k]) : e[k];
    }
    tanh<T>(z[G]), sigmoid<T>(z[O]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[room][N], V (&c)[states][N]) {
    OPENLSTM_EACH(k) {
      c[c_][k] = fma(z[F][k], c[c_][k], z[I][k] * z[G][k]);
      c[n_][k] = fma(z[F][k], c[n_][k], z[I][k]);
      c[m_][k] = z[M][k];
    }
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&z)[room][N], V (&c)[states][N], const V (&)[3][N]) {
    OPENLSTM_EACH(k) c[c_][k] = z[O][k] * c[c_][k] / c[n_][k];
  }

  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, saved, N, states>& at, Gradients<T, sums, N, states>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {  // products in this order: a closed gate must not meet an overflow, 0 * inf is NaN
      const V i = at.s[I][k], f = at.s[F][k], o = at.s[O][k], g = at.candidate(G, k), c = at.c_before[c_][k], n = at.c_before[n_][k];
      const V shown = at.dh[k] * o / at.c[n_][k], dc = at.dc[c_][k] + shown, dn = at.dc[n_][k] - shown * at.c[c_][k] / at.c[n_][k];
      const V of_i = i * fma(at.s[G][k], dc, dn);
      V of_f = f * fma(c, dc, n * dn);
      of_f = n == T(0) && f == one ? V{} : of_f;    // cut at 1 it has no slope
      const V rest = at.dc[m_][k] - (of_i + of_f);  // what m' gives to the one of the two that it is
      const auto first = i == one;
      out.dz[I][k] = first ? of_i + rest : of_i;
      out.dc[m_][k] = first ? of_f : of_f + rest;
      out.dz[F][k] = out.dc[m_][k] * (one - at.s[S][k]);
      out.dz[G][k] = at.through_mask(dc * i, k) * fma(-g, g, one);
      out.dz[O][k] = shown * (one - o) * at.c[c_][k];
      out.dc[c_][k] = f * dc, out.dc[n_][k] = f * dn;
    }
  }
};

template <class T>
constexpr CellKernel<T> cells[] = {
    cell_kernel<Slstm<T>, T>("slstm"),
};

OPENLSTM_FAMILY(slstm)

}  // namespace openlstm::OPENLSTM_ISA
