// The kernels of the LSTM's variants (Greff et al. 2017), compiled like sequence.cpp once for each instruction set.
#include "kernels.hpp"

namespace openlstm::OPENLSTM_ISA {

// In the order of `KERNELS` in src/openlstm/engine/cpu.py, each with peepholes and without.
#define OPENLSTM_BOTH(T, variant) kernels_of<Lstm<T, Variant::variant, true>, T>, kernels_of<Lstm<T, Variant::variant, false>, T>
#define OPENLSTM_ALL(T)                         \
  {kernels_of<Lstm<T, Variant::none, true>, T>, \
   OPENLSTM_BOTH(T, nig),                       \
   OPENLSTM_BOTH(T, nfg),                       \
   OPENLSTM_BOTH(T, nog),                       \
   OPENLSTM_BOTH(T, niaf),                      \
   OPENLSTM_BOTH(T, noaf),                      \
   OPENLSTM_BOTH(T, cifg),                      \
   kernels_of<Lstm<T, Variant::fgr, true>, T>}

extern const CellKernels<float> variants_single[variant_cells];
const CellKernels<float> variants_single[variant_cells] = OPENLSTM_ALL(float);
#ifndef OPENLSTM_BFLOAT16
extern const CellKernels<double> variants_twofold[variant_cells];
const CellKernels<double> variants_twofold[variant_cells] = OPENLSTM_ALL(double);
#endif

}  // namespace openlstm::OPENLSTM_ISA
