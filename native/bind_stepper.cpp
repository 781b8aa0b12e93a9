// One step at a time with nothing allocated: a stack of layers whose weights are packed once, and the states they carry.
#include <nanobind/nanobind.h>

#include <cstring>
#include <vector>

#include "dispatch.hpp"

namespace nb = nanobind;

namespace openlstm {

void bind_stepper(nb::module_& m);

namespace {

using Address = std::uintptr_t;

// A layer in one direction: the problem of a step, its packed weights, and copies of what the cell reads unpacked.
template <class T>
struct Layer {
  Forward<T> f{};
  T *packed = nullptr, *peepholes = nullptr, *norm = nullptr;

  Layer(const CellKernels<T>& kernels, nb::tuple a, index batch, int threads) {
    std::size_t next = 0;
    auto number = [&] { return nb::cast<index>(a[next++]); };
    auto pointer = [&] { return reinterpret_cast<T*>(nb::cast<Address>(a[next++])); };
    f.steps = f.last = 1, f.batch = batch, f.threads = threads;
    f.inputs = number(), f.hidden = number(), f.projected = number(), f.feedback = number(), f.has_cell = number() != 0;
    f.w_ih = pointer(), f.w_hh = pointer(), f.b_ih = pointer(), f.b_hh = pointer(), f.w_hr = pointer();
    const T* w_ch = pointer();
    f.norm = pointer();
    index peephole_size = number(), norm_size = number();
    f.clip = static_cast<T>(nb::cast<double>(a[next++]));
    T *h = pointer(), *c = pointer(), *y = pointer();  // [B, R], [B, H], [B, R]
    f.h0 = h, f.c0 = c, f.c_n = c;                     // a unit's old c is read before its new one is written
    f.y = {y, 0, f.fed_back()};
    packed = static_cast<T*>(take(static_cast<std::size_t>(kernels.packed_size(f) + 1) * sizeof(T)));
    kernels.pack(f, packed);
    f.packed = packed;
    peepholes = copy(w_ch, peephole_size), norm = copy(f.norm, norm_size);
    f.w_ch = peepholes, f.norm = norm, f.w_ih = f.w_hh = f.b_ih = f.b_hh = f.w_hr = nullptr;  // the caller may let go of them
  }
  Layer(Layer&& other) noexcept : f(other.f), packed(other.packed), peepholes(other.peepholes), norm(other.norm) {
    other.packed = other.peepholes = other.norm = nullptr;
  }
  Layer& operator=(Layer&&) = delete;
  ~Layer() {
    for (T* block : {packed, peepholes, norm})
      if (block) give(block);
  }

 private:
  static T* copy(const T* from, index n) {
    if (n == 0) return nullptr;
    T* out = static_cast<T*>(take(static_cast<std::size_t>(n) * sizeof(T)));
    std::memcpy(out, from, static_cast<std::size_t>(n) * sizeof(T));
    return out;
  }
};

// The layers of one type; a step runs them one after the other.
template <class T>
struct Stack {
  void (*forward)(const Forward<T>&) = nullptr;
  std::vector<Layer<T>> layers;

  void build(const KernelsOf<T>& kernels, int cell, nb::list described, index batch, int threads) {
    forward = kernels.of(cell)->forward;
    for (nb::handle layer : described) layers.emplace_back(*kernels.of(cell), nb::cast<nb::tuple>(layer), batch, threads);
  }
  void step(const T* x) {
    index row = layers[0].f.inputs;
    for (Layer<T>& layer : layers) {
      layer.f.x = {x, 0, row};
      forward(layer.f);
      x = layer.f.y.data, row = layer.f.fed_back();
      std::memcpy(const_cast<T*>(layer.f.h0), x, static_cast<std::size_t>(layer.f.batch * row) * sizeof(T));
    }
  }
};

class Stepper {
 public:
  // layers: for each the numbers that `Layer` reads; y: the last layer's outputs, handed out at every step; unfit: what turns
  // an x that is not a plain array of the right type and size into one, or says what is wrong with it.
  Stepper(int cell, bool twofold, nb::list layers, index batch, int threads, nb::object y, nb::object unfit)
      : twofold_(twofold), y_(std::move(y)), unfit_(std::move(unfit)) {
    const Kernels& kernels = in_use();
    if (cell < 0 || cell >= cells || !kernels.single.of(cell)) throw nb::value_error("openlstm._native.Stepper: unknown cell; use openlstm.engine.Stepper");
    double work = 0;
    if (twofold) {
      double_.build(kernels.twofold, cell, layers, batch, threads);
      for (auto& layer : double_.layers) work += static_cast<double>(layer.f.hidden * (layer.f.inputs + layer.f.fed_back()));
      bytes_ = batch * double_.layers[0].f.inputs * static_cast<index>(sizeof(double));
    } else {
      single_.build(kernels.single, cell, layers, batch, threads);
      for (auto& layer : single_.layers) work += static_cast<double>(layer.f.hidden * (layer.f.inputs + layer.f.fed_back()));
      bytes_ = batch * single_.layers[0].f.inputs * static_cast<index>(sizeof(float));
    }
    long_ = work * static_cast<double>(batch) > 1 << 15;  // long enough for other threads of Python to be let in
  }

  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  nb::object step(nb::handle x) {
    if (!run(x)) {
      nb::object fit = unfit_(x);  // raises where x cannot be used
      if (!run(fit)) throw nb::type_error("openlstm._native.Stepper: x is not an array of the right type and size");
    }
    return y_;
  }

 private:
  bool run(nb::handle x) {
    Py_buffer view;
    if (!PyObject_CheckBuffer(x.ptr())) return false;
    if (PyObject_GetBuffer(x.ptr(), &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) != 0) {
      PyErr_Clear();
      return false;
    }
    bool fits = view.len == bytes_ && view.format && std::strcmp(view.format, twofold_ ? "d" : "f") == 0 && view.ndim <= 2;
    if (fits && view.ndim == 2) fits = view.shape[1] * view.itemsize * batch() == bytes_;
    if (fits && view.ndim < 2) fits = batch() == 1;
    if (fits) {
      PyThreadState* state = long_ ? PyEval_SaveThread() : nullptr;
      if (twofold_)
        double_.step(static_cast<const double*>(view.buf));
      else
        single_.step(static_cast<const float*>(view.buf));
      if (state) PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&view);
    return fits;
  }
  index batch() const { return twofold_ ? double_.layers[0].f.batch : single_.layers[0].f.batch; }

  bool twofold_, long_ = false;
  index bytes_ = 0;  // of x
  nb::object y_, unfit_;
  Stack<float> single_;
  Stack<double> double_;
};

}  // namespace

void bind_stepper(nb::module_& m) {
  nb::class_<Stepper>(m, "Stepper").def(nb::init<int, bool, nb::list, openlstm::index, int, nb::object, nb::object>()).def("step", &Stepper::step);
}

}  // namespace openlstm
