// The GRU.
#include "cells/kernel.hpp"

namespace openlstm::OPENLSTM_ISA {

// Cho et al. 2014 in the form of Chung et al. 2014 that cuDNN made common: the reset gate acts on the product.
//     r, u = sigmoid(z);  n = tanh(z_nx + r z_nh);  h' = (1 - u) n + u h
template <class T>
struct Gru : Plain {
  using V = Vec<T>;
  static constexpr int gates = 3, separate = 1, sums = 4, saved = 4, candidate = 2;
  static constexpr bool h_is_cell = true;
  enum { R, U, X, H };  // X becomes n, H stays W_hn h + b_hn

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[sums][N], const V (&)[N], const V (&)[3][N]) {
    sigmoid<T>(z[R]), sigmoid<T>(z[U]);
    OPENLSTM_EACH(k) z[X][k] = fma(z[R][k], z[H][k], z[X][k]);
    tanh<T>(z[X]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[sums][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = fma(z[U][k], c[k], fma(-z[U][k], z[X][k], z[X][k]));  // u = 1 keeps h to the last bit
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&)[sums][N], V (&)[N], const V (&)[3][N]) {}

  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, saved, N>& at, Gradients<T, sums, N>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V r = at.s[R][k], u = at.s[U][k], n = at.candidate(X, k), d = at.dh[k] + at.dc[k];
      V dn = at.through_mask(d * (one - u), k) * fma(-n, n, one);
      out.dz[U][k] = d * (u * (one - u)) * (at.c_before[k] - at.s[X][k]);
      out.dz[X][k] = dn;
      out.dz[H][k] = dn * r;
      out.dz[R][k] = dn * (r * (one - r)) * at.s[H][k];
      out.dc[k] = d * u;
    }
  }
};

template <class T>
constexpr CellKernel<T> cells[] = {
    cell_kernel<Gru<T>, T>("gru"),
};

OPENLSTM_FAMILY(gru)

}  // namespace openlstm::OPENLSTM_ISA
