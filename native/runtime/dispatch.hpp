// Which instruction sets this build has, which of them this processor runs, and the one in use.
#pragma once

#include "kernels.hpp"

namespace openlstm {

constexpr int most_isas = 8;

int compiled(const InstructionSet* (&out)[most_isas]);  // the best last; gives their number
bool runs_here(const InstructionSet& kernels);
const InstructionSet& in_use();
bool use(const char* name);  // false if this processor or this build has it not

const Kernels<float, bfloat16>* for_bfloat16();  // that go with the one in use; null if it or this processor has none

}  // namespace openlstm
