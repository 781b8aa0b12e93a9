// Which instruction sets this build has, which of them this processor runs, and the one in use.
#pragma once

#include <string>

#include "kernels.hpp"

namespace openlstm {

constexpr int most_isas = 8;

int compiled(const InstructionSet* (&out)[most_isas]);  // the best last; gives their number
bool runs_here(const InstructionSet& kernels);
const InstructionSet& in_use();
bool use(const char* name);  // false if this processor or this build has it not

// What multiplies bfloat16: AMX; else AVX512-BF16 where it is faster than float32, which it was on AMD's processors (1.9 times) and
// was not on Intel's (.6 times); else nothing, and float32 runs, rounded once. AMX takes the rows and cells of AVX512-BF16, and all
// of them go with the instruction set AVX-512. `amxtest` is for tests: tiles in plain loops.
enum class Bfloat16 { none, avx512bf16, amx, amxtest };

struct Bfloat16Facts {
  const char* isa = "";                              // in use
  bool amx_built = false, avx512bf16_built = false;  // kernels are in this build
  bool amx = false, avx512bf16 = false;              // this processor has it
  bool intel = false;
  int refused = 0;  // the error with which Linux keeps its tiles from this process
};

Bfloat16 choose_bfloat16(const Bfloat16Facts& facts);
std::string why_bfloat16(const Bfloat16Facts& facts);  // in words

const Kernels<float, bfloat16>* for_bfloat16();  // null where nothing multiplies in it
Bfloat16 which_bfloat16();
std::string why_bfloat16();
bool runs_here(Bfloat16 which);
Bfloat16 asked_bfloat16();  // by `use`
bool use(Bfloat16 which);   // `none`: the choice is made by what is here again; false if it does not run here

// What multiplies in 8 bits: AMX, else VNNI, where AVX-512 is in use and this processor has them; else what the instruction set in
// use has itself. All of them give the same bits. `amxtest` is for tests.
enum class Int8 { best, plain, avx512vnni, amx, amxtest };

const Kernels<float, eight_bit>& for_int8();
Int8 which_int8();
bool runs_here(Int8 which);
Int8 asked_int8();  // by `use`
bool use(Int8 which);

}  // namespace openlstm
