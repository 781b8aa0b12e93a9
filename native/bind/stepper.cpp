// One step at a time with nothing allocated: a stack of layers whose weights are packed once, and the states they carry.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bind/fields.hpp"
#include "bind/python.hpp"
#include "loop/loop.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/workspace.hpp"

namespace openlstm {

namespace {

struct Release {
  void operator()(void* block) const { release(block); }
};
template <class T>
using Block = std::unique_ptr<T, Release>;  // of n numbers

template <class T>
Block<T> block_of(index n, const T* from = nullptr) {
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
  Block<T> block(n ? static_cast<T*>(allocate(bytes)) : nullptr);
  if (n && from) std::memcpy(block.get(), from, bytes);
  return block;
}

// A layer in one direction: the call of a step, its packed weights, and copies of what the cell reads unpacked.
template <class T>
struct Layer {
  Forward<T> f;                                    // h0 and c0 are the state
  Block<T> packed, peepholes, norm, h_new, c_new;  // the new state, until every layer has made its step
  index c_size;

  Layer(const Kernels<T>& kernels, const CellKernel<T>& cell, nb::dict given) : f(read_call<Forward<T>>(given)) {
    const index H = f.hidden, C = cell.traits.states * H, rows = cell.traits.gates * H;
    packed = block_of<T>(packed_size(kernels, cell, f) + 1);
    pack(kernels, cell, f, packed.get());
    peepholes = block_of(cell.traits.peepholes * H, f.w_ch), norm = block_of(f.norm ? 4 * rows + 2 * H : 0, f.norm);
    h_new = block_of<T>(f.batch * f.fed_back()), c_new = block_of<T>(f.c0 ? f.batch * C : 0);
    c_size = f.batch * C;
    f.packed = packed.get(), f.w_ch = peepholes.get(), f.norm = norm.get();
    f.y = {h_new.get(), 0, f.fed_back()}, f.c_n = c_new.get();
    f.w_hh = f.b_ih = f.b_hh = f.w_hr = nullptr;  // the caller may let go of them, and of w_ih, which only says that x is multiplied
  }

  void put_h(T* to) const { std::memcpy(to, f.y.data, static_cast<std::size_t>(f.batch * f.fed_back()) * sizeof(T)); }
  void put_c(T* to) const { std::memcpy(to, f.c_n, static_cast<std::size_t>(c_size) * sizeof(T)); }
};

// The layers of one type; a step runs them one after the other. Nothing that others see is written before all of them have ended:
// x may be the y of the step before, and a step that fails changes nothing.
template <class T>
struct Stack {
  const Kernels<T>& kernels;
  const CellKernel<T>& cell;
  T* y;  // [B, R]
  std::vector<Layer<T>> layers{};

  Stack(const Kernels<T>& kernels, const CellKernel<T>& cell, nb::list given, std::uintptr_t y) : kernels(kernels), cell(cell), y(reinterpret_cast<T*>(y)) {
    for (nb::handle layer : given) layers.emplace_back(kernels, cell, nb::cast<nb::dict>(layer));
  }
  index batch() const { return layers[0].f.batch; }
  index inputs() const { return layers[0].f.inputs; }
  double work() const {  // multiply-adds of a step
    double sum = 0;
    for (const auto& layer : layers) sum += static_cast<double>(layer.f.batch * layer.f.hidden * (layer.f.inputs + layer.f.recurrent));
    return sum * cell.traits.gates;
  }
  void step(const T* x) {
    index row = inputs();
    for (Layer<T>& layer : layers) {
      layer.f.x = {x, 0, row};
      forward(kernels, cell, layer.f);
      x = layer.f.y.data, row = layer.f.fed_back();
    }
    for (const Layer<T>& layer : layers) {
      layer.put_h(const_cast<T*>(layer.f.h0));
      if (layer.f.c0) layer.put_c(const_cast<T*>(layer.f.c0));
    }
    layers.back().put_h(y);
  }
};

class Stepper {
 public:
  // layers: for each its call (fields.hpp), with the state as h0 and c0; state: the arrays that those lie in, kept alive; y: the last
  // layer's outputs, handed out at every step, and their address; fit: turns an x that is not a plain array of the right type and
  // size into one, or says what is wrong with it.
  Stepper(const std::string& cell, const std::string& type, nb::list layers, nb::object state, nb::object y, std::uintptr_t output, nb::object fit)
      : state_(std::move(state)), y_(std::move(y)), fit_(std::move(fit)) {
    auto build = [&]<class T>(const Kernels<T>& kernels, std::unique_ptr<Stack<T>>& stack) {
      const CellKernel<T>* found = kernels.cell(cell.c_str());
      if (!found || layers.size() == 0) throw nb::value_error("openlstm._native.Stepper: unknown cell, or no layers; use openlstm.engine.Stepper");
      stack = std::make_unique<Stack<T>>(kernels, *found, layers, output);
      batch_ = stack->batch(), bytes_ = batch_ * stack->inputs() * static_cast<index>(sizeof(T));
      long_ = stack->work() > 1 << 17;  // long enough for other threads of Python to be let in
    };
    type == "float64" ? build(in_use().float64, float64_) : build(in_use().float32, float32_);
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
    if (view.len != bytes_ || !view.format || std::strcmp(view.format, float64_ ? "d" : "f") != 0 || view.ndim > 2) return false;
    return view.ndim == 2 ? view.shape[1] * view.itemsize * batch_ == bytes_ : batch_ == 1;
  }

  bool run(nb::handle x) {
    const View view(x);
    if (!view.there || !fits(view.buffer)) return false;
    const Turn turn(*this);
    std::optional<Unlocked> unlocked;
    if (long_) unlocked.emplace();
    if (float64_)
      float64_->step(static_cast<const double*>(view.buffer.buf));
    else
      float32_->step(static_cast<const float*>(view.buffer.buf));
    return true;
  }

  bool long_ = false, busy_ = false;
  index batch_ = 0, bytes_ = 0;  // of x
  nb::object state_, y_, fit_;
  std::unique_ptr<Stack<float>> float32_;
  std::unique_ptr<Stack<double>> float64_;
};

}  // namespace

void bind_stepper(nb::module_& m) {
  nb::class_<Stepper>(m, "Stepper")
      .def(nb::init<const std::string&, const std::string&, nb::list, nb::object, nb::object, std::uintptr_t, nb::object>())
      .def("step", &Stepper::step)
      .def("acquire", &Stepper::acquire)
      .def("release", &Stepper::release);
}

}  // namespace openlstm
