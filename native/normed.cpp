// The kernels of the LSTM with layer normalisation, compiled like sequence.cpp once for each instruction set.
#include "kernels.hpp"

namespace openlstm::OPENLSTM_ISA {

extern const CellKernels<float> normed_single[normed_cells];
const CellKernels<float> normed_single[normed_cells] = {kernels_of<LayerNormLstm<float>, float>};
#ifndef OPENLSTM_BFLOAT16
extern const CellKernels<double> normed_twofold[normed_cells];
const CellKernels<double> normed_twofold[normed_cells] = {kernels_of<LayerNormLstm<double>, double>};
#endif

}  // namespace openlstm::OPENLSTM_ISA
