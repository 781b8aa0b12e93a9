// A cell's entry in the table of its file.
#pragma once

#include "cells/row.hpp"

namespace openlstm::OPENLSTM_ISA {

template <class Cell, class T>
constexpr CellKernel<T> cell_kernel(const char* name) {
  CellKernel<T> kernel = {name, traits_of<Cell>(), cell_forward<Cell, T>, cell_backward<Cell, T>, nullptr};
  if constexpr (in_factor == 1 && at_once > 1) kernel.row = cell_row<Cell, T>;
  return kernel;
}

// The end of a file of cells, whose table `cells<T>` stands before it.
#define OPENLSTM_COUNTED(T) {cells<T>, sizeof cells<T> / sizeof *cells<T>}
#define OPENLSTM_FAMILY_OF(family, T, type) \
  extern const Family<T> family##_##type;   \
  const Family<T> family##_##type = OPENLSTM_COUNTED(T);
#ifdef OPENLSTM_BFLOAT16
#define OPENLSTM_FAMILY(family) OPENLSTM_FAMILY_OF(family, float, float32)
#else
#define OPENLSTM_FAMILY(family) OPENLSTM_FAMILY_OF(family, float, float32) OPENLSTM_FAMILY_OF(family, double, float64)
#endif

}  // namespace openlstm::OPENLSTM_ISA
