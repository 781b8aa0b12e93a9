// One small struct per cell: its traits, its step and the derivative of its step, on one vector of units.
//
// Traits: gates (blocks of H rows in the weights, in the order i, f, g, o), saved (activated gates kept for backward),
// blocks (vectors of units in one register tile: gates * blocks is 3 or 4), highway (a cell state c beside h).
// `src/openlstm/cells.py` holds the equations and the papers; the names here are the same.
#pragma once

#include "vec.hpp"

namespace openlstm::OPENLSTM_ISA {

// Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; the variant NP of Greff et al. 2017.
template <class T>
struct Lstm {
  using V = Vec<T>;
  static constexpr int gates = 4, saved = 4, blocks = 1;
  static constexpr bool highway = true;

  static OPENLSTM_INLINE void forward(const V (&z)[4], V c, V (&s)[4], V& c_new, V& h_new) {
    V i = sigmoid<T>(z[0]), f = sigmoid<T>(z[1]), g = tanh<T>(z[2]), o = sigmoid<T>(z[3]);
    c_new = fma(f, c, i * g);
    h_new = output(o, c_new);
    s[0] = i, s[1] = f, s[2] = g, s[3] = o;
  }
  static OPENLSTM_INLINE V output(V o, V c) { return o * tanh<T>(c); }
  // What h' was before a projection, from what was saved.
  static OPENLSTM_INLINE V output(const V (&s)[4], V c) { return output(s[3], c); }

  // dc: dL/dc' along the highway comes in, dL/dc goes out.
  static OPENLSTM_INLINE void backward(const V (&s)[4], V c_prev, V c, V /*h*/, V dh, V& dc, V (&dz)[4]) {
    V i = s[0], f = s[1], g = s[2], o = s[3], tanh_c = tanh<T>(c), one = splat(T(1));
    V d = fma(dh * o, fma(-tanh_c, tanh_c, one), dc);
    dz[0] = d * g * i * (one - i);
    dz[1] = d * c_prev * f * (one - f);
    dz[2] = d * i * fma(-g, g, one);
    dz[3] = dh * tanh_c * o * (one - o);
    dc = d * f;
  }
};

// Elman 1990: h' = tanh(z).
template <class T>
struct RnnTanh {
  using V = Vec<T>;
  static constexpr int gates = 1, saved = 0, blocks = 4;
  static constexpr bool highway = false;

  static OPENLSTM_INLINE void forward(const V (&z)[1], V, V (&)[1], V&, V& h_new) { h_new = tanh<T>(z[0]); }
  static OPENLSTM_INLINE void backward(const V (&)[1], V, V, V h, V dh, V&, V (&dz)[1]) { dz[0] = dh * fma(-h, h, splat(T(1))); }
};

// Le, Jaitly & Hinton 2015: h' = max(z, 0); NaN stays NaN.
template <class T>
struct RnnRelu {
  using V = Vec<T>;
  static constexpr int gates = 1, saved = 0, blocks = 4;
  static constexpr bool highway = false;

  static OPENLSTM_INLINE void forward(const V (&z)[1], V, V (&)[1], V&, V& h_new) { h_new = z[0] < T(0) ? V{} : z[0]; }
  static OPENLSTM_INLINE void backward(const V (&)[1], V, V, V h, V dh, V&, V (&dz)[1]) { dz[0] = h > T(0) ? dh : V{}; }
};

}  // namespace openlstm::OPENLSTM_ISA
