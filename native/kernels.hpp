// The kernels of one cell, as an entry of the tables in sequence.cpp and variants.cpp.
#pragma once

#include "backward.hpp"
#include "forward.hpp"

namespace openlstm::OPENLSTM_ISA {

template <class Cell, class T>
constexpr CellKernels<T> kernels_of = {forward<Cell, T>, backward<Cell, T>, packed_size<Cell, T>, pack<Cell, T>};

}  // namespace openlstm::OPENLSTM_ISA
