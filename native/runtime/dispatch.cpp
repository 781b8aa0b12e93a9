// The table of instruction sets, and the choice among them at run time.
#include "runtime/dispatch.hpp"

#include <atomic>
#include <cstring>

#define OPENLSTM_ISAS(with) OPENLSTM_WIDE(with) OPENLSTM_SCALAR(with) OPENLSTM_AVX2(with) OPENLSTM_AVX512(with) OPENLSTM_NEON(with)
#ifdef OPENLSTM_HAVE_wide
#define OPENLSTM_WIDE(with) with(wide)
#else
#define OPENLSTM_WIDE(with)
#endif
#ifdef OPENLSTM_HAVE_scalar
#define OPENLSTM_SCALAR(with) with(scalar)
#else
#define OPENLSTM_SCALAR(with)
#endif
#ifdef OPENLSTM_HAVE_avx2
#define OPENLSTM_AVX2(with) with(avx2)
#else
#define OPENLSTM_AVX2(with)
#endif
#ifdef OPENLSTM_HAVE_avx512
#define OPENLSTM_AVX512(with) with(avx512)
#else
#define OPENLSTM_AVX512(with)
#endif
#ifdef OPENLSTM_HAVE_neon
#define OPENLSTM_NEON(with) with(neon)
#else
#define OPENLSTM_NEON(with)
#endif

namespace openlstm {

#define OPENLSTM_DECLARE(isa)          \
  namespace isa {                      \
  extern const InstructionSet kernels; \
  }
OPENLSTM_ISAS(OPENLSTM_DECLARE)

#ifdef OPENLSTM_HAVE_avx512bf16
namespace avx512bf16 {
extern const Kernels<float, bfloat16> kernels;
}
#endif

namespace {

#define OPENLSTM_LIST(isa) &isa::kernels,
constexpr const InstructionSet* all[] = {OPENLSTM_ISAS(OPENLSTM_LIST)};
static_assert(sizeof all / sizeof *all <= most_isas);

const InstructionSet* best() {
  const InstructionSet* found = all[0];
  for (const InstructionSet* kernels : all)
    if (runs_here(*kernels)) found = kernels;
  return found;
}

std::atomic<const InstructionSet*>& current() {
  static std::atomic<const InstructionSet*> kernels{best()};
  return kernels;
}

}  // namespace

int compiled(const InstructionSet* (&out)[most_isas]) {
  int n = 0;
  for (const InstructionSet* kernels : all) out[n++] = kernels;
  return n;
}

bool runs_here(const InstructionSet& kernels) {
#if defined(__x86_64__)
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!std::strcmp(kernels.name, "avx2") || !std::strcmp(kernels.name, "wide")) return avx2;
  if (!std::strcmp(kernels.name, "avx512"))
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
#endif
  return true;
}

const InstructionSet& in_use() { return *current(); }

bool use(const char* name) {
  for (const InstructionSet* kernels : all)
    if (!std::strcmp(kernels->name, name) && runs_here(*kernels)) {
      current() = kernels;
      return true;
    }
  return false;
}

const Kernels<float, bfloat16>* for_bfloat16() {
#ifdef OPENLSTM_HAVE_avx512bf16
  if (!std::strcmp(in_use().name, "avx512") && __builtin_cpu_supports("avx512bf16")) return &avx512bf16::kernels;
#endif
  return nullptr;
}

}  // namespace openlstm
