// The kernels of one instruction set: this file is compiled once for each, with -DOPENLSTM_ISA=<its name>. The variants of the
// LSTM are in variants.cpp, so that two processors can compile at once.
#include "kernels.hpp"

namespace openlstm::OPENLSTM_ISA {

template <class T, class F>
OPENLSTM_INLINE void elementwise(const T* in, T* out, index n, F f) {
  for (index k = 0; k < n; k += width<T>) {
    Vec<T> x[1] = {load(in + k, n - k)};
    f(x);
    store(out + k, x[0], n - k);
  }
}
template <class T>
static void apply_exp(const T* in, T* out, index n) {
  elementwise(in, out, n, [](Vec<T>(&x)[1]) { exp<T>(x); });
}
template <class T>
static void apply_sigmoid(const T* in, T* out, index n) {
  elementwise(in, out, n, [](Vec<T>(&x)[1]) { sigmoid<T>(x); });
}
template <class T>
static void apply_tanh(const T* in, T* out, index n) {
  elementwise(in, out, n, [](Vec<T>(&x)[1]) { tanh<T>(x); });
}

// Multiply-adds on registers alone, in as many chains as the product's tile has: the limit of what the product can reach.
template <class T>
static double peak(index rounds) {
  constexpr int chains = 4 * max_rows;
  Vec<T> acc[chains], a = splat(T(0.999)), b = splat(T(1e-3));
#pragma GCC unroll 24
  for (int n = 0; n < chains; n++) acc[n] = splat(T(n));  // all different, lest the compiler work out one of them only
  for (index k = 0; k < rounds; k++)
#pragma GCC unroll 24
    for (int n = 0; n < chains; n++) acc[n] = multiply_add(a, b, acc[n]);
  Vec<T> sum{};
  for (int n = 0; n < chains; n++) sum = sum + acc[n];
  volatile T sink = sum[0];
  (void)sink;
  return 2. * in_factor * chains * static_cast<double>(width<T>) * static_cast<double>(rounds);
}

template <class T>
constexpr CellKernels<T> main_kernels[main_cells] = {kernels_of<Lstm<T>, T>, kernels_of<Rnn<T, false>, T>, kernels_of<Rnn<T, true>, T>, kernels_of<Gru<T>, T>};

extern const CellKernels<float> variants_single[variant_cells], normed_single[normed_cells];
extern const CellKernels<double> variants_twofold[variant_cells], normed_twofold[normed_cells];

#ifdef OPENLSTM_FEW
#define OPENLSTM_CELLS(T, type) main_kernels<T>, nullptr, nullptr
#else
#define OPENLSTM_CELLS(T, type) main_kernels<T>, variants_##type, normed_##type
#endif

#ifdef OPENLSTM_BFLOAT16
extern const KernelsOf<float, bfloat16> kernels;
const KernelsOf<float, bfloat16> kernels = {OPENLSTM_CELLS(float, single), apply_exp<float>, apply_sigmoid<float>, apply_tanh<float>, peak<float>};
#else
#define OPENLSTM_NAME_(isa) #isa
#define OPENLSTM_NAME(isa) OPENLSTM_NAME_(isa)
extern const Kernels kernels;
const Kernels kernels = {OPENLSTM_NAME(OPENLSTM_ISA),
                         {OPENLSTM_CELLS(float, single), apply_exp<float>, apply_sigmoid<float>, apply_tanh<float>, peak<float>},
                         {OPENLSTM_CELLS(double, twofold), apply_exp<double>, apply_sigmoid<double>, apply_tanh<double>, peak<double>}};
#endif

}  // namespace openlstm::OPENLSTM_ISA
