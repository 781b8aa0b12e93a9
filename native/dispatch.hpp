// Which instruction sets this build has, which of them this processor runs, and the one in use.
#pragma once

#include "engine.hpp"

namespace openlstm {

constexpr int most_isas = 8;

int compiled(const Kernels* (&out)[most_isas]);  // the best last; gives their number
bool runs_here(const Kernels& kernels);
const Kernels& in_use();
bool use(const char* name);  // false if this processor or this build has it not

const KernelsOf<float, bfloat16>* for_bfloat16();  // that go with the one in use; null if it or this processor has none

}  // namespace openlstm
