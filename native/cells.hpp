// One small struct per cell: its traits, its step and the derivative of its step, on one vector of units.
//
// Traits: gates (blocks of H rows in the weights, in the order i, f, g, o), saved (activated gates kept for backward),
// blocks (vectors of units in one register tile: gates * blocks is 3 or 4), highway (a cell state c beside h).
// A step works on N vectors at once, gate by gate, each z turned into its gate in place. It comes in two halves, update:
// (z, c) -> c', and output: c' -> h'. A cell without a highway hands z on instead of c'.
#pragma once

#include "vec.hpp"

namespace openlstm::OPENLSTM_ISA {

// Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; the variant NP of Greff et al. 2017.
template <class T>
struct Lstm {
  using V = Vec<T>;
  static constexpr int gates = 4, saved = 4, blocks = 1;
  static constexpr bool highway = true;

  template <int N>
  static OPENLSTM_INLINE void update(V (&z)[4][N], V (&c)[N]) {
    sigmoid<T>(z[0]), sigmoid<T>(z[1]), tanh<T>(z[2]), sigmoid<T>(z[3]);
    OPENLSTM_EACH(k) c[k] = fma(z[1][k], c[k], z[0][k] * z[2][k]);
  }
  template <int N>
  static OPENLSTM_INLINE void output(const V (&s)[4][N], V (&c)[N]) {
    tanh<T>(c);
    OPENLSTM_EACH(k) c[k] = s[3][k] * c[k];
  }

  // dc: dL/dc' along the highway comes in, dL/dc goes out.
  template <int N>
  static OPENLSTM_INLINE void backward(const V (&s)[4][N], const V (&c_prev)[N], const V (&c)[N], const V (&)[N], const V (&dh)[N], V (&dc)[N], V (&dz)[4][N]) {
    V tanh_c[N], one = splat(T(1));
    OPENLSTM_EACH(k) tanh_c[k] = c[k];
    tanh<T>(tanh_c);
    OPENLSTM_EACH(k) {
      V i = s[0][k], f = s[1][k], g = s[2][k], o = s[3][k];
      V d = fma(dh[k] * o, fma(-tanh_c[k], tanh_c[k], one), dc[k]);
      dz[0][k] = d * g * i * (one - i);
      dz[1][k] = d * (f * (one - f)) * c_prev[k];  // in this order: a closed gate must not meet an overflow, 0 * inf is NaN
      dz[2][k] = d * i * fma(-g, g, one);
      dz[3][k] = dh[k] * tanh_c[k] * o * (one - o);
      dc[k] = d * f;
    }
  }
};

// Elman 1990: h' = tanh(z).
template <class T>
struct RnnTanh {
  using V = Vec<T>;
  static constexpr int gates = 1, saved = 0, blocks = 4;
  static constexpr bool highway = false;

  template <int N>
  static OPENLSTM_INLINE void update(V (&z)[1][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = z[0][k];
  }
  template <int N>
  static OPENLSTM_INLINE void output(const V (&)[1][N], V (&z)[N]) {
    tanh<T>(z);
  }
  template <int N>
  static OPENLSTM_INLINE void backward(const V (&)[1][N], const V (&)[N], const V (&)[N], const V (&h)[N], const V (&dh)[N], V (&)[N], V (&dz)[1][N]) {
    OPENLSTM_EACH(k) dz[0][k] = dh[k] * fma(-h[k], h[k], splat(T(1)));
  }
};

// Le, Jaitly & Hinton 2015: h' = max(z, 0); NaN stays NaN.
template <class T>
struct RnnRelu {
  using V = Vec<T>;
  static constexpr int gates = 1, saved = 0, blocks = 4;
  static constexpr bool highway = false;

  template <int N>
  static OPENLSTM_INLINE void update(V (&z)[1][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = z[0][k];
  }
  template <int N>
  static OPENLSTM_INLINE void output(const V (&)[1][N], V (&z)[N]) {
    OPENLSTM_EACH(k) z[k] = z[k] < T(0) ? V{} : z[k];
  }
  template <int N>
  static OPENLSTM_INLINE void backward(const V (&)[1][N], const V (&)[N], const V (&)[N], const V (&h)[N], const V (&dh)[N], V (&)[N], V (&dz)[1][N]) {
    OPENLSTM_EACH(k) dz[0][k] = h[k] > T(0) ? dh[k] : V{};
  }
};

}  // namespace openlstm::OPENLSTM_ISA
