// The class openlstm._native.Stepper, which src/openlstm/engine/stepper.py gives its shape.
#pragma once

#include <nanobind/nanobind.h>

namespace openlstm {

void bind_stepper(nanobind::module_& m);

}  // namespace openlstm
