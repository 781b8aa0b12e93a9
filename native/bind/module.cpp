// The module openlstm._native: addresses and strides in, nothing else; src/openlstm/engine/backends/cpu.py gives it its shape.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/fields.hpp"
#include "bind/python.hpp"
#include "loop/loop.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/threads.hpp"
#include "runtime/workspace.hpp"

namespace openlstm {

namespace {

using Address = std::uintptr_t;

template <class T>
T* to(Address address) {
  return reinterpret_cast<T*>(address);
}

// f(the kernels for numbers of this type), in the instruction set in use.
template <class F>
void with_kernels(const std::string& type, F f) {
  if (type == "float32") return f(in_use().float32);
  if (type == "float64") return f(in_use().float64);
  if (type != "bfloat16") throw nb::value_error("openlstm._native: expected float32, float64 or bfloat16");
  if (!for_bfloat16()) throw nb::value_error((std::string("openlstm._native: the instruction set ") + in_use().name + " has no kernels for bfloat16").c_str());
  f(*for_bfloat16());
}

template <class T, class X>
const CellKernel<T>& cell_of(const Kernels<T, X>& kernels, const std::string& name) {
  const CellKernel<T>* cell = kernels.cell(name.c_str());
  if (!cell) throw nb::value_error(("openlstm._native: no kernel is called " + name + "; call it through openlstm.engine.backends.cpu").c_str());
  return *cell;
}

void run_forward(const std::string& cell, const std::string& type, nb::dict call) {
  with_kernels(type, [&]<class T, class X>(const Kernels<T, X>& kernels) {
    const CellKernel<T>& kernel = cell_of(kernels, cell);
    const auto f = read_call<Forward<T, X>>(call);
    Unlocked unlocked;
    forward(kernels, kernel, f);
  });
}

void run_backward(const std::string& cell, const std::string& type, nb::dict call) {
  with_kernels(type, [&]<class T, class X>(const Kernels<T, X>& kernels) {
    const CellKernel<T>& kernel = cell_of(kernels, cell);
    const auto b = read_call<Backward<T, X>>(call);
    Unlocked unlocked;
    backward(kernels, kernel, b);
  });
}

// The names of the cells that have kernels.
std::vector<std::string> cells() {
  std::vector<std::string> names;
  const Kernels<float>& kernels = in_use().float32;
  for (int f = 0; f < kernels.family_count; f++)
    for (int k = 0; k < kernels.families[f]->count; k++) names.emplace_back(kernels.families[f]->cells[k].name);
  return names;
}

constexpr const char* bfloat16_names[] = {"", "avx512bf16", "amx", "amxtest"};
std::string name_of(Bfloat16 which) { return bfloat16_names[static_cast<int>(which)]; }

// Those that run here.
std::vector<std::string> bfloat16s() {
  std::vector<std::string> names;
  for (int k = 1; k < 4; k++)
    if (runs_here(static_cast<Bfloat16>(k))) names.emplace_back(bfloat16_names[k]);
  return names;
}
// The name of those that were asked for before; None if these do not run here, and then nothing has changed.
std::optional<std::string> use_bfloat16(const std::string& name) {
  const std::string before = name_of(asked_bfloat16());
  for (int k = 0; k < 4; k++)
    if (name == bfloat16_names[k] && use(static_cast<Bfloat16>(k))) return before;
  return std::nullopt;
}
std::pair<std::string, std::string> bfloat16_in_use() { return {name_of(which_bfloat16()), why_bfloat16()}; }
bool has_bfloat16(const std::string& cell) { return for_bfloat16() && for_bfloat16()->cell(cell.c_str()); }

// What would be chosen elsewhere, for tests.
std::pair<std::string, std::string> choose_for(const std::string& isa, bool amx_built, bool avx512bf16_built, bool amx, bool avx512bf16, bool intel,
                                               int refused) {
  const Bfloat16Facts facts{isa.c_str(), amx_built, avx512bf16_built, amx, avx512bf16, intel, refused};
  return {name_of(choose_bfloat16(facts)), why_bfloat16(facts)};
}

// An array over a block of the workspace, which it gives back when nothing refers to it any more.
nb::object empty(nb::tuple shape, bool float64) {
  std::vector<std::size_t> sizes;
  std::size_t n = float64 ? sizeof(double) : sizeof(float);
  for (nb::handle size : shape) n *= sizes.emplace_back(nb::cast<std::size_t>(size));
  void* block = allocate(n ? n : 1);
  nb::capsule owner(block, [](void* p) noexcept { release(p); });
  if (float64) return nb::cast(nb::ndarray<nb::numpy, double>(static_cast<double*>(block), sizes.size(), sizes.data(), owner));
  return nb::cast(nb::ndarray<nb::numpy, float>(static_cast<float*>(block), sizes.size(), sizes.data(), owner));
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  const InstructionSet* all[most_isas];
  int n = compiled(all);
  for (int k = 0; k < n; k++)
    if (runs_here(*all[k])) names.emplace_back(all[k]->name);
  return names;
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  const InstructionSet* all[most_isas];
  int n = compiled(all);
  for (int k = 0; k < n; k++) names.emplace_back(all[k]->name);
  return names;
}

void apply(const std::string& type, const std::string& name, Address in, Address out, index n) {
  with_kernels(type, [&]<class T, class X>(const Kernels<T, X>& kernels) {
    const auto& rows = *kernels.rows;
    auto f = name == "exp" ? rows.exp : name == "sigmoid" ? rows.sigmoid : name == "tanh" ? rows.tanh : name == "logsigmoid" ? rows.log_sigmoid : nullptr;
    if (!f) throw nb::value_error("openlstm._native.apply: expected exp, sigmoid, tanh or logsigmoid");
    f(to<const T>(in), to<T>(out), n);
  });
}

// Operations per second of `threads` threads that do nothing but multiply-adds, for about `seconds`.
double peak(int threads, double seconds, const std::string& type) {
  struct Job {
    double (*peak)(index rounds);
    double seconds;
    double rates[256];
  } job{nullptr, seconds, {}};
  with_kernels(type, [&](const auto& kernels) { job.peak = kernels.products->peak; });
  if (threads < 1 || threads > 256) throw nb::value_error("openlstm._native.peak: expected 1 to 256 threads");
  Unlocked unlocked;
  parallel(
      threads,
      [](void* context, const Part& part) {
        using Clock = std::chrono::steady_clock;
        Job& job = *static_cast<Job*>(context);
        part.wait();
        double done = 0, elapsed = 0;
        auto start = Clock::now();
        do {
          done += job.peak(10000);
          elapsed = std::chrono::duration<double>(Clock::now() - start).count();
        } while (elapsed < job.seconds);
        job.rates[part.id] = done / elapsed;
      },
      &job);
  double total = 0;
  for (int k = 0; k < threads; k++) total += job.rates[k];
  return total;
}

}  // namespace
}  // namespace openlstm

NB_MODULE(_native, m) {
  using namespace openlstm;
  m.doc() = "The compiled engine of openlstm; use it through openlstm.engine.";
  m.def("forward", run_forward);
  m.def("backward", run_backward);
  m.def("cells", cells);
  m.def("has_bfloat16", has_bfloat16);
  m.def("bfloat16", bfloat16_in_use);
  m.def("bfloat16s", bfloat16s);
  m.def("use_bfloat16", use_bfloat16);
  m.def("choose_bfloat16", choose_for, nb::arg("isa"), nb::arg("amx_built"), nb::arg("avx512bf16_built"), nb::arg("amx"), nb::arg("avx512bf16"),
        nb::arg("intel"), nb::arg("refused"));
  m.def("empty", empty);
  m.def("isa", [] { return std::string(in_use().name); });
  m.def("isas", isas);
  m.def("compiled_isas", compiled_isas);
  m.def("use_isa", [](const std::string& name) { return use(name.c_str()); });
  m.def("apply", apply);
  m.def("peak", peak);
  m.def("borrow_openmp", [](Address parallel, Address number, Address count) { borrow_openmp(to<void>(parallel), to<void>(number), to<void>(count)); });
  m.def("set_workspace_limit", set_workspace_limit);
  m.def("workspace_limit", workspace_limit);
  m.def("workspace_bytes", workspace_bytes);
  m.def("set_poison", set_poison);
  m.def("refuse_block", refuse_block);
  bind_stepper(m);
}
