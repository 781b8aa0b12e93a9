// The kernels of one instruction set: this file is compiled once for each, with -DOPENLSTM_ISA=<its name>.
#include "backward.hpp"
#include "forward.hpp"

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
    for (int n = 0; n < chains; n++) acc[n] = fma(acc[n], a, b);
  Vec<T> sum{};
  for (int n = 0; n < chains; n++) sum = sum + acc[n];
  volatile T sink = sum[0];
  (void)sink;
  return 2. * chains * static_cast<double>(width<T>) * static_cast<double>(rounds);
}

template <class T>
constexpr KernelsOf<T> kernels_of() {
  return {{forward<Lstm<T>, T>, forward<RnnTanh<T>, T>, forward<RnnRelu<T>, T>},
          {backward<Lstm<T>, T>, backward<RnnTanh<T>, T>, backward<RnnRelu<T>, T>},
          apply_exp<T>,
          apply_sigmoid<T>,
          apply_tanh<T>,
          peak<T>};
}

#define OPENLSTM_NAME_(isa) #isa
#define OPENLSTM_NAME(isa) OPENLSTM_NAME_(isa)
extern const Kernels kernels;
const Kernels kernels = {OPENLSTM_NAME(OPENLSTM_ISA), kernels_of<float>(), kernels_of<double>()};

}  // namespace openlstm::OPENLSTM_ISA
