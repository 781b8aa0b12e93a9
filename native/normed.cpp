// The kernels of the LSTM with layer normalisation, compiled like sequence.cpp once for each instruction set.
#include "backward.hpp"
#include "forward.hpp"

namespace openlstm::OPENLSTM_ISA {

template <class T>
constexpr CellKernels<T> kernels_of = {forward<LayerNormLstm<T>, T>, backward<LayerNormLstm<T>, T>};

extern const CellKernels<float> normed_single[normed_cells];
extern const CellKernels<double> normed_twofold[normed_cells];
const CellKernels<float> normed_single[normed_cells] = {kernels_of<float>};
const CellKernels<double> normed_twofold[normed_cells] = {kernels_of<double>};

}  // namespace openlstm::OPENLSTM_ISA
