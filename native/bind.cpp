// The module openlstm._native: addresses and strides in, nothing else; src/openlstm/engine/cpu.py gives it its shape.
#include "bind.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "engine.hpp"
#include "threads.hpp"
#include "workspace.hpp"

namespace nb = nanobind;

namespace openlstm {

namespace {

using Address = std::uintptr_t;

template <class T>
T* to(Address address) {
  return reinterpret_cast<T*>(address);
}

struct Arguments {
  nb::handle tuple;
  std::size_t next = 0;
  nb::handle take() { return PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(next++)); }
  index number() { return PyLong_AsSsize_t(take().ptr()); }
  double real() { return PyFloat_AsDouble(take().ptr()); }
  template <class T>
  T* pointer() {
    return to<T>(static_cast<Address>(PyLong_AsUnsignedLongLong(take().ptr())));
  }
  template <class T>
  Rows<T> rows() {
    T* data = pointer<T>();
    index step = number(), row = number();
    return {data, step, row};
  }
};

// The fields of Problem, in its order.
template <class T, class X>
void read(Arguments& a, Problem<T, X>& p) {
  p.steps = a.number(), p.batch = a.number(), p.inputs = a.number(), p.hidden = a.number(), p.projected = a.number();
  p.reverse = a.number() != 0, p.first = a.number(), p.last = a.number();
  p.w_ih = a.pointer<const X>(), p.w_hh = a.pointer<const X>(), p.b_ih = a.pointer<const T>(), p.b_hh = a.pointer<const T>();
  p.w_hr = a.pointer<const X>(), p.w_ch = a.pointer<const T>(), p.norm = a.pointer<const T>();
  p.x = a.rows<const X>();
  p.h0 = a.pointer<const T>(), p.c0 = a.pointer<const T>();
  p.lengths = a.pointer<const int64_t>(), p.reset = a.pointer<const uint8_t>();
  p.reset_h = a.rows<const T>(), p.reset_c = a.rows<const T>();
  p.threads = static_cast<int>(a.number());
  p.clip = static_cast<T>(a.real());
  p.noise.zoneout_h = a.real(), p.noise.zoneout_c = a.real(), p.noise.candidate = a.real();
  p.noise.seed = PyLong_AsUnsignedLongLong(a.take().ptr()), p.noise.stream = a.number(), p.noise.training = a.number() != 0;
  p.hidden_mask = a.pointer<const T>(), p.feedback = a.number(), p.has_cell = a.number() != 0;
}

template <class T, class X>
void run_forward(const KernelsOf<T, X>& kernels, int cell, Arguments a) {
  Forward<T, X> f{};
  read(a, f);
  f.y = a.rows<X>(), f.gates = a.rows<T>(), f.c = a.rows<T>(), f.m = a.rows<T>();
  f.h_n = a.pointer<T>(), f.c_n = a.pointer<T>();
  Unlocked unlocked;
  kernels.of(cell)->forward(f);
}

template <class T, class X>
void run_backward(const KernelsOf<T, X>& kernels, int cell, Arguments a) {
  Backward<T, X> b{};
  read(a, b);
  b.y = a.rows<const X>(), b.gates = a.rows<const T>(), b.c = a.rows<const T>(), b.m = a.rows<const T>();
  b.dy = a.rows<const X>();
  b.dh_n = a.pointer<const T>(), b.dc_n = a.pointer<const T>();
  b.dx = a.rows<X>();
  b.dw_ih = a.pointer<T>(), b.dw_hh = a.pointer<T>(), b.db_ih = a.pointer<T>(), b.db_hh = a.pointer<T>();
  b.dw_hr = a.pointer<T>(), b.dw_ch = a.pointer<T>(), b.dnorm = a.pointer<T>(), b.go_on = a.number() != 0;
  b.dh0 = a.pointer<T>(), b.dc0 = a.pointer<T>(), b.dreset_h = a.rows<T>(), b.dreset_c = a.rows<T>();
  b.h_steps = a.rows<T>(), b.c_steps = a.rows<T>();
  Unlocked unlocked;
  kernels.of(cell)->backward(b);
}

constexpr std::size_t forward_numbers = 53, backward_numbers = 81;

// f(the kernels for numbers of this type).
template <class F>
void with_kernels(int cell, const std::string& type, nb::tuple arguments, std::size_t expected, F f) {
  const Kernels& kernels = in_use();
  if (cell < 0 || cell >= cells || arguments.size() != expected)
    throw nb::value_error(("openlstm._native: " + std::to_string(arguments.size()) + " arguments for cell " + std::to_string(cell) + ", expected " +
                           std::to_string(expected) + "; call it through openlstm.engine.cpu")
                              .c_str());
  auto run = [&](const auto* found) {
    if (!found || !found->of(cell))
      throw nb::value_error((std::string("openlstm._native: the instruction set ") + kernels.name + " has no kernel of this cell for " + type).c_str());
    f(*found);
  };
  if (type == "bfloat16") return run(for_bfloat16());
  type == "float64" ? run(&kernels.twofold) : run(&kernels.single);
}

void forward(int cell, const std::string& type, nb::tuple arguments) {
  with_kernels(cell, type, arguments, forward_numbers, [&](const auto& kernels) { run_forward(kernels, cell, {arguments}); });
}

void backward(int cell, const std::string& type, nb::tuple arguments) {
  with_kernels(cell, type, arguments, backward_numbers, [&](const auto& kernels) { run_backward(kernels, cell, {arguments}); });
}

// Whether a cell has kernels for bfloat16, in the instruction set in use.
bool has_bfloat16(int cell) { return for_bfloat16() && cell >= 0 && cell < cells && for_bfloat16()->of(cell); }

// An array over a block of the workspace, which it gives back when nothing refers to it any more.
nb::object empty(nb::tuple shape, bool twofold) {
  std::vector<std::size_t> sizes;
  std::size_t n = twofold ? sizeof(double) : sizeof(float);
  for (nb::handle size : shape) n *= sizes.emplace_back(nb::cast<std::size_t>(size));
  void* block = take(n ? n : 1);
  nb::capsule owner(block, [](void* p) noexcept { give(p); });
  if (twofold) return nb::cast(nb::ndarray<nb::numpy, double>(static_cast<double*>(block), sizes.size(), sizes.data(), owner));
  return nb::cast(nb::ndarray<nb::numpy, float>(static_cast<float*>(block), sizes.size(), sizes.data(), owner));
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  const Kernels* all[most_isas];
  int n = compiled(all);
  for (int k = 0; k < n; k++)
    if (runs_here(*all[k])) names.emplace_back(all[k]->name);
  return names;
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  const Kernels* all[most_isas];
  int n = compiled(all);
  for (int k = 0; k < n; k++) names.emplace_back(all[k]->name);
  return names;
}

template <class T>
void apply(const KernelsOf<T>& kernels, const std::string& name, Address in, Address out, index n) {
  auto f = name == "exp" ? kernels.exp : name == "sigmoid" ? kernels.sigmoid : name == "tanh" ? kernels.tanh : nullptr;
  if (!f) throw nb::value_error("openlstm._native.apply: expected exp, sigmoid or tanh");
  f(to<const T>(in), to<T>(out), n);
}

// Operations per second of `threads` threads that do nothing but multiply-adds, for about `seconds`.
double peak(int threads, double seconds, const std::string& type) {
  struct Job {
    double (*peak)(index rounds);
    double seconds;
    double rates[256];
  } job{type == "float64" ? in_use().twofold.peak : in_use().single.peak, seconds, {}};
  if (type == "bfloat16") {
    if (!for_bfloat16()) throw nb::value_error("openlstm._native.peak: no kernels for bfloat16 here");
    job.peak = for_bfloat16()->peak;
  }
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
          done += job.peak(100000);
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
  m.def("forward", forward);
  m.def("backward", backward);
  m.def("has_bfloat16", has_bfloat16);
  m.def("empty", empty);
  m.def("isa", [] { return std::string(in_use().name); });
  m.def("isas", isas);
  m.def("compiled_isas", compiled_isas);
  m.def("use_isa", [](const std::string& name) { return use(name.c_str()); });
  m.def("apply", [](const std::string& name, Address in, Address out, openlstm::index n, bool twofold) {
    const Kernels& kernels = in_use();
    twofold ? apply(kernels.twofold, name, in, out, n) : apply(kernels.single, name, in, out, n);
  });
  m.def("peak", peak);
  m.def("borrow_openmp", [](Address parallel, Address number, Address count) { borrow_openmp(to<void>(parallel), to<void>(number), to<void>(count)); });
  m.def("set_workspace_limit", set_workspace_limit);
  m.def("workspace_limit", workspace_limit);
  m.def("workspace_bytes", workspace_bytes);
  m.def("set_poison", set_poison);
  m.def("refuse_block", refuse_block);
  bind_stepper(m);
}
