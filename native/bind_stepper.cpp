// One step at a time with nothing allocated: a stack of layers whose weights are packed once, and the states they carry.
#include <nanobind/nanobind.h>

#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bind.hpp"
#include "dispatch.hpp"

namespace nb = nanobind;

namespace openlstm {

namespace {

using Address = std::uintptr_t;

struct Give {
  void operator()(void* block) const { give(block); }
};
template <class T>
using Block = std::unique_ptr<T, Give>;  // of n numbers

template <class T>
Block<T> block_of(index n, const T* from = nullptr) {
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
  Block<T> block(n ? static_cast<T*>(take(bytes)) : nullptr);
  if (n && from) std::memcpy(block.get(), from, bytes);
  return block;
}

// A layer in one direction: the problem of a step, its packed weights, and copies of what the cell reads unpacked.
template <class T>
struct Layer {
  Forward<T> f{};
  T *h, *c;                                        // [B, R], [B, H], the state
  Block<T> packed, peepholes, norm, h_new, c_new;  // the new state, until every layer has made its step

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
    f.h0 = h = pointer(), f.c0 = c = pointer();
    packed = block_of<T>(kernels.packed_size(f) + 1);
    kernels.pack(f, packed.get());
    peepholes = block_of(peephole_size, w_ch), norm = block_of(norm_size, f.norm);
    h_new = block_of<T>(batch * f.fed_back()), c_new = block_of<T>(c ? batch * f.hidden : 0);
    f.packed = packed.get(), f.w_ch = peepholes.get(), f.norm = norm.get();
    f.y = {h_new.get(), 0, f.fed_back()}, f.c_n = c_new.get();
    f.w_ih = f.w_hh = f.b_ih = f.b_hh = f.w_hr = nullptr;  // the caller may let go of them
  }

  void put_h(T* to) const { std::memcpy(to, f.y.data, static_cast<std::size_t>(f.batch * f.fed_back()) * sizeof(T)); }
  void put_c(T* to) const { std::memcpy(to, f.c_n, static_cast<std::size_t>(f.batch * f.hidden) * sizeof(T)); }
};

// The layers of one type; a step runs them one after the other. Nothing that others see is written before all of them have ended:
// x may be the y of the step before, and a step that fails changes nothing.
template <class T>
struct Stack {
  void (*forward)(const Forward<T>&) = nullptr;
  std::vector<Layer<T>> layers;
  T* y = nullptr;  // [B, R]

  void build(const KernelsOf<T>& kernels, int cell, nb::list described, index batch, int threads, Address output) {
    y = reinterpret_cast<T*>(output);
    forward = kernels.of(cell)->forward;
    for (nb::handle layer : described) layers.emplace_back(*kernels.of(cell), nb::cast<nb::tuple>(layer), batch, threads);
  }
  void step(const T* x) {
    index row = layers[0].f.inputs;
    for (Layer<T>& layer : layers) {
      layer.f.x = {x, 0, row};
      forward(layer.f);
      x = layer.f.y.data, row = layer.f.fed_back();
    }
    for (const Layer<T>& layer : layers) {
      layer.put_h(layer.h);
      if (layer.c) layer.put_c(layer.c);
    }
    layers.back().put_h(y);
  }
};

class Stepper {
 public:
  // layers: for each the numbers that `Layer` reads; state: the arrays that those lie in, kept alive; y: the last layer's outputs,
  // handed out at every step, and their address; fit: turns an x that is not a plain array of the right type and size into one,
  // or says what is wrong with it.
  Stepper(int cell, bool twofold, nb::list layers, index batch, int threads, nb::object state, nb::object y, Address output, nb::object fit)
      : twofold_(twofold), state_(std::move(state)), y_(std::move(y)), fit_(std::move(fit)) {
    const Kernels& kernels = in_use();
    if (cell < 0 || cell >= cells || !kernels.single.of(cell)) throw nb::value_error("openlstm._native.Stepper: unknown cell; use openlstm.engine.Stepper");
    double work = 0;
    if (twofold) {
      double_.build(kernels.twofold, cell, layers, batch, threads, output);
      for (auto& layer : double_.layers) work += static_cast<double>(layer.f.hidden * (layer.f.inputs + layer.f.fed_back()));
      bytes_ = batch * double_.layers[0].f.inputs * static_cast<index>(sizeof(double));
    } else {
      single_.build(kernels.single, cell, layers, batch, threads, output);
      for (auto& layer : single_.layers) work += static_cast<double>(layer.f.hidden * (layer.f.inputs + layer.f.fed_back()));
      bytes_ = batch * single_.layers[0].f.inputs * static_cast<index>(sizeof(float));
    }
    long_ = work * static_cast<double>(batch) > 1 << 15;  // long enough for other threads of Python to be let in
  }

  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  nb::object step(nb::handle x) {
    if (!run(x)) {
      nb::object fit = fit_(x);  // raises where x cannot be used
      if (!run(fit)) throw nb::type_error("openlstm._native.Stepper: x is not an array of the right type and size");
    }
    return y_;
  }

  // As a lock of Python's, for who reads or writes the state. The interpreter's lock guards `busy_`.
  bool acquire(bool) { return !std::exchange(busy_, true); }
  void release() { busy_ = false; }

 private:
  // An x, while its memory is looked at.
  struct View {
    Py_buffer buffer{};
    bool there;
    explicit View(nb::handle x) : there(PyObject_CheckBuffer(x.ptr()) && PyObject_GetBuffer(x.ptr(), &buffer, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) == 0) {
      if (!there) PyErr_Clear();
    }
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    ~View() {
      if (there) PyBuffer_Release(&buffer);
    }
  };

  // The one call that is at work.
  struct Turn {
    Stepper& stepper;
    explicit Turn(Stepper& stepper) : stepper(stepper) {
      if (!stepper.acquire(false)) stepper.fit_.attr("busy")();  // raises
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { stepper.release(); }
  };

  bool fits(const Py_buffer& view) const {
    if (view.len != bytes_ || !view.format || std::strcmp(view.format, twofold_ ? "d" : "f") != 0 || view.ndim > 2) return false;
    return view.ndim == 2 ? view.shape[1] * view.itemsize * batch() == bytes_ : batch() == 1;
  }

  bool run(nb::handle x) {
    const View view(x);
    if (!view.there || !fits(view.buffer)) return false;
    const Turn turn(*this);
    std::optional<Unlocked> unlocked;
    if (long_) unlocked.emplace();
    if (twofold_)
      double_.step(static_cast<const double*>(view.buffer.buf));
    else
      single_.step(static_cast<const float*>(view.buffer.buf));
    return true;
  }
  index batch() const { return twofold_ ? double_.layers[0].f.batch : single_.layers[0].f.batch; }

  bool twofold_, long_ = false, busy_ = false;
  index bytes_ = 0;  // of x
  nb::object state_, y_, fit_;
  Stack<float> single_;
  Stack<double> double_;
};

}  // namespace

void bind_stepper(nb::module_& m) {
  nb::class_<Stepper>(m, "Stepper")
      .def(nb::init<int, bool, nb::list, openlstm::index, int, nb::object, nb::object, Address, nb::object>())
      .def("step", &Stepper::step)
      .def("acquire", &Stepper::acquire)
      .def("release", &Stepper::release);
}

}  // namespace openlstm
