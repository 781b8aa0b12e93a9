// The vanilla RNN, and the one whose units see themselves alone.
#include "cells/kernel.hpp"

namespace openlstm::OPENLSTM_ISA {

// Elman 1990: h' = tanh(z). Le, Jaitly & Hinton 2015: h' = max(z, 0); NaN stays NaN. Li et al. 2018: z = W x + b + u h, by units.
template <class T, bool relu, bool independent = false>
struct Rnn : Plain {
  using V = Vec<T>;
  static constexpr int gates = 1, sums = 1, saved = 0;
  static constexpr bool has_cell = false;
  static constexpr Recurrence recurrence = independent ? Recurrence::elementwise : Recurrence::dense;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&)[1][N], const V (&)[N], const V (&)[3][N]) {}
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[1][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = z[0][k];
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&)[1][N], V (&z)[N], const V (&)[3][N]) {
    if constexpr (relu)
      OPENLSTM_EACH(k) z[k] = z[k] < T(0) ? V{} : z[k];
    else
      tanh<T>(z);
  }
  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, saved, N>& at, Gradients<T, sums, N>& out) {
    OPENLSTM_EACH(k) {
      if constexpr (relu)
        out.dz[0][k] = at.h[k] > T(0) ? at.dh[k] : V{};
      else
        out.dz[0][k] = at.dh[k] * fma(-at.h[k], at.h[k], splat(T(1)));
    }
  }
};

template <class T>
constexpr CellKernel<T> cells[] = {
    cell_kernel<Rnn<T, false>, T>("rnn_tanh"),
    cell_kernel<Rnn<T, true>, T>("rnn_relu"),
    cell_kernel<Rnn<T, false, true>, T>("indrnn_tanh"),
    cell_kernel<Rnn<T, true, true>, T>("indrnn_relu"),
};

OPENLSTM_FAMILY(rnn)

}  // namespace openlstm::OPENLSTM_ISA
