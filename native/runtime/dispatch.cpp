// The table of instruction sets, and the choice among them at run time.
#include "runtime/dispatch.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

// Kernels for bfloat16: none of their own, of all that there is, or the products alone.
#define OPENLSTM_DECLARE_KERNELS(isa)            \
  namespace isa {                                \
  extern const Kernels<float, bfloat16> kernels; \
  }
#ifdef OPENLSTM_HAVE_avx512bf16
OPENLSTM_DECLARE_KERNELS(avx512bf16)
#endif
#ifdef OPENLSTM_HAVE_amxtest
OPENLSTM_DECLARE_KERNELS(amxtest)
#endif
#ifdef OPENLSTM_HAVE_avx512vnni
namespace avx512vnni {
extern const Products<float, eight_bit> products_int8;
}
#endif
#ifdef OPENLSTM_HAVE_amx
namespace amx {
extern const Products<float, bfloat16> products_float32;
extern const Products<float, eight_bit> products_int8;
}  // namespace amx
#endif
#ifdef OPENLSTM_HAVE_amxtest
namespace amxtest {
extern const Products<float, eight_bit> products_int8;
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

// bfloat16 ----------------------------------------------------------------------------------------------------------------

namespace {

constexpr Bfloat16Facts built = {
#ifdef OPENLSTM_HAVE_amx
    .amx_built = true,
#endif
#ifdef OPENLSTM_HAVE_avx512bf16
    .avx512bf16_built = true,
#endif
};

#if defined(__x86_64__)
bool has_amx() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);  // AMX-BF16, AMX-TILE
}

// Linux gives a process the tiles' registers when it asks for them, once for all of its threads; 0 or the error.
int ask_for_tiles() {
  constexpr int request = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tiles) == 0 ? 0 : errno;
}

// Nothing is asked for before somebody wants to multiply in bfloat16, or to know.
Bfloat16Facts look() {
  Bfloat16Facts facts = built;
  facts.amx = has_amx();
  facts.avx512bf16 = __builtin_cpu_supports("avx512bf16");
  facts.intel = __builtin_cpu_is("intel");
  if (facts.amx && facts.amx_built) facts.refused = ask_for_tiles();
  return facts;
}
#else
Bfloat16Facts look() { return built; }
#endif

Bfloat16Facts here() {
  static const Bfloat16Facts found = look();
  Bfloat16Facts facts = found;
  facts.isa = in_use().name;
  return facts;
}

bool amx_runs(const Bfloat16Facts& facts) { return facts.amx && facts.amx_built && !facts.refused && facts.avx512bf16; }

const Kernels<float, bfloat16>* kernels_of([[maybe_unused]] Bfloat16 which) {
#ifdef OPENLSTM_HAVE_amx
  static const Kernels<float, bfloat16> with_amx = {&amx::products_float32, avx512bf16::kernels.rows, avx512bf16::kernels.families,
                                                    avx512bf16::kernels.family_count};
  if (which == Bfloat16::amx) return &with_amx;
#endif
#ifdef OPENLSTM_HAVE_avx512bf16
  if (which == Bfloat16::avx512bf16) return &avx512bf16::kernels;
#endif
#ifdef OPENLSTM_HAVE_amxtest
  if (which == Bfloat16::amxtest) return &amxtest::kernels;
#endif
  return nullptr;
}

std::atomic<Bfloat16> asked{Bfloat16::none};

}  // namespace

Bfloat16 choose_bfloat16(const Bfloat16Facts& facts) {
  if (std::strcmp(facts.isa, "avx512")) return Bfloat16::none;
  if (amx_runs(facts)) return Bfloat16::amx;
  if (facts.avx512bf16 && facts.avx512bf16_built && !facts.intel) return Bfloat16::avx512bf16;
  return Bfloat16::none;
}

std::string why_bfloat16(const Bfloat16Facts& facts) {
  if (std::strcmp(facts.isa, "avx512")) return std::string("it goes with the instruction set avx512, and ") + facts.isa + " is in use";
  if (amx_runs(facts)) return "this processor has it";
  std::string why = !facts.amx                ? "no AMX in this processor"
                    : !facts.amx_built        ? "no AMX in this build"
                    : facts.refused == ENOSPC ? "AMX refused by Linux: a thread's stack for signals is too small"
                    : facts.refused           ? std::string("AMX refused by Linux: ") + std::strerror(facts.refused)
                                              : "AMX without AVX512-BF16 in this processor";
  if (choose_bfloat16(facts) == Bfloat16::avx512bf16) return why;
  return why + (!facts.avx512bf16         ? "; no AVX512-BF16 in this processor"
                : !facts.avx512bf16_built ? "; no AVX512-BF16 in this build"
                                          : "; AVX512-BF16 slower than float32 on Intel's");
}

const Kernels<float, bfloat16>* for_bfloat16() { return kernels_of(which_bfloat16()); }

Bfloat16 which_bfloat16() {
  const Bfloat16 which = asked;
  return which == Bfloat16::none ? choose_bfloat16(here()) : which;
}
Bfloat16 asked_bfloat16() { return asked; }

std::string why_bfloat16() { return asked == Bfloat16::none ? why_bfloat16(here()) : "asked for"; }

bool runs_here(Bfloat16 which) {
  if (!kernels_of(which)) return false;
  if (which == Bfloat16::amx) return amx_runs(here());
#if defined(__x86_64__)
  if (which == Bfloat16::avx512bf16) return here().avx512bf16;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return false;
}

bool use(Bfloat16 which) {
  if (which != Bfloat16::none && !runs_here(which)) return false;
  asked = which;
  return true;
}

// 8 bits ------------------------------------------------------------------------------------------------------------------

namespace {

// Null where this build has them not.
const Kernels<float, eight_bit>* kernels_of(Int8 which) {
#define OPENLSTM_WITH(products, isa) \
  static const Kernels<float, eight_bit> kernels = {&products, isa::kernels.int8.rows, isa::kernels.int8.families, isa::kernels.int8.family_count};
#ifdef OPENLSTM_HAVE_avx512vnni
  if (which == Int8::avx512vnni) {
    OPENLSTM_WITH(avx512vnni::products_int8, avx512)
    return &kernels;
  }
#endif
#ifdef OPENLSTM_HAVE_amx
  if (which == Int8::amx) {
    OPENLSTM_WITH(amx::products_int8, avx512)
    return &kernels;
  }
#endif
#ifdef OPENLSTM_HAVE_amxtest
  if (which == Int8::amxtest) {
    OPENLSTM_WITH(amxtest::products_int8, wide)
    return &kernels;
  }
#endif
  return which == Int8::plain ? &in_use().int8 : nullptr;
}

std::atomic<Int8> asked_in_8_bits{Int8::best};

}  // namespace

bool runs_here(Int8 which) {
  if (which == Int8::best || which == Int8::plain) return true;
  if (!kernels_of(which)) return false;
#if defined(__x86_64__)
  if (which == Int8::amxtest) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (std::strcmp(in_use().name, "avx512")) return false;
  if (which == Int8::avx512vnni) return __builtin_cpu_supports("avx512vnni");
  unsigned a, b, c, d;
  const bool whole = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 25 & 1);  // AMX-INT8
  return whole && amx_runs(here());
#else
  return false;
#endif
}

Int8 which_int8() {
  const Int8 asked = asked_in_8_bits;
  if (asked != Int8::best && runs_here(asked)) return asked;
  return runs_here(Int8::amx) ? Int8::amx : runs_here(Int8::avx512vnni) ? Int8::avx512vnni : Int8::plain;
}

const Kernels<float, eight_bit>& for_int8() { return *kernels_of(which_int8()); }

Int8 asked_int8() { return asked_in_8_bits; }

bool use(Int8 which) {
  if (!runs_here(which)) return false;
  asked_in_8_bits = which;
  return true;
}

}  // namespace openlstm
