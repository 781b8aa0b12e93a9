// The time loops: one cell over a sequence, forward and backward. They are compiled once; kernels.hpp is all they know of an
// instruction set.
#pragma once

#include "kernels.hpp"

namespace openlstm {

// T and X are float, double, or float with X bfloat16 or, forward only, eight_bit.
template <class T, class X>
void forward(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Forward<T, X>& call);
template <class T, class X>
void backward(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Backward<T, X>& call);

// The weights as forward wants them, for calls that come again and again.
template <class T, class X>
index packed_size(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Problem<T, X>& problem);  // elements
template <class T, class X>
void pack(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Problem<T, X>& problem, T* packed);

}  // namespace openlstm
