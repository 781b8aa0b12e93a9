// One step at a time with nothing allocated: a stack of layers whose weights are packed once, and the states they carry.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bind/fields.hpp"
#include "bind/packed.hpp"
#include "bind/python.hpp"
#include "runtime/dispatch.hpp"

namespace openlstm {

namespace {

// A layer in one direction: the call of a step, and its packed weights.
template <class T, class X>
struct Layer {
  Forward<T, X> f;  // h0 and c0 are the state
  PackedWeights<T, X> weights;
  Block<T> h_new, c_new;  // the new state, until every layer has made its step
  Block<X> y;             // what the next layer reads, where it is not h_new
  index c_size;           // numbers of its states but h

  Layer(const Kernels<T, X>& kernels, const CellKernel<T>& cell, nb::dict given) : f(read_call<Forward<T, X>>(given)), weights(kernels, cell, f) {
    const index outputs = f.batch * f.fed_back();
    c_size = f.c0 ? f.batch * cell.traits.states * f.hidden : 0;
    h_new = block_of<T>(outputs), c_new = block_of<T>(c_size);
    if constexpr (std::is_same_v<T, X>)
      f.y = {h_new.get(), 0, f.fed_back()};
    else
      y = block_of<X>(outputs), f.y = {y.get(), 0, f.fed_back()}, f.h_n = h_new.get();
    f.c_n = c_new.get();
  }

  void put_h(T* to) const { std::memcpy(to, h_new.get(), static_cast<std::size_t>(f.batch * f.fed_back()) * sizeof(T)); }
  void put_c(T* to) const { std::memcpy(to, f.c_n, static_cast<std::size_t>(c_size) * sizeof(T)); }
};

// The layers of one type; a step runs them one after the other. Nothing that others see is written before all of them have ended:
// x may be the y of the step before, and a step that fails changes nothing.
struct Steps {
  virtual ~Steps() = default;
  virtual void step(const void* x) = 0;
};
template <class T, class X>
struct Stack : Steps {
  const Kernels<T, X>& kernels;
  const CellKernel<T>& cell;
  T* y;  // [B, R]
  std::vector<Layer<T, X>> layers{};
  Block<X> x_given;  // where x is rounded

  Stack(const Kernels<T, X>& kernels, const CellKernel<T>& cell, nb::list given, std::uintptr_t y) : kernels(kernels), cell(cell), y(reinterpret_cast<T*>(y)) {
    for (nb::handle layer : given) layers.emplace_back(kernels, cell, nb::cast<nb::dict>(layer));
    if constexpr (!std::is_same_v<T, X>) x_given = block_of<X>(batch() * inputs());
  }
  index batch() const { return layers[0].f.batch; }
  index inputs() const { return layers[0].f.inputs; }
  double work() const {  // multiply-adds of a step
    double sum = 0;
    for (const auto& layer : layers) sum += static_cast<double>(layer.f.batch * layer.f.hidden * (layer.f.inputs + layer.f.recurrent));
    return sum * cell.traits.gates;
  }
  const X* rounded(const T* x) const {
    if constexpr (std::is_same_v<T, X>) {
      return x;
    } else {
      kernels.products->convert(x, x_given.get(), batch() * inputs());
      return x_given.get();
    }
  }
  void step(const void* given) override {
    const X* x = rounded(static_cast<const T*>(given));
    index row = inputs();
    for (Layer<T, X>& layer : layers) {
      layer.f.x = {x, 0, row};
      forward(kernels, cell, layer.f);
      x = layer.f.y.data, row = layer.f.fed_back();
    }
    for (const Layer<T, X>& layer : layers) {
      layer.put_h(const_cast<T*>(layer.f.h0));
      if (layer.f.c0) layer.put_c(const_cast<T*>(layer.f.c0));
    }
    layers.back().put_h(y);
  }
};

class Stepper {
 public:
  // type: of x and of the sums, or what float32 is multiplied in, int8 or bfloat16; layers: for each its call (fields.hpp), with the state as h0 and c0; state:
  // the arrays that those lie in, kept alive; y: the last layer's outputs, handed out at every step, and their address; fit: turns an x that is not a plain
  // array of the right type and size into one, or says what is wrong with it.
  Stepper(const std::string& cell, const std::string& type, nb::list layers, nb::object state, nb::object y, std::uintptr_t output, nb::object fit)
      : state_(std::move(state)), y_(std::move(y)), fit_(std::move(fit)) {
    auto build = [&]<class T, class X>(const Kernels<T, X>& kernels) {
      const CellKernel<T>* found = kernels.cell(cell.c_str());
      if (!found || layers.size() == 0) throw nb::value_error("openlstm._native.Stepper: unknown cell, or no layers; use openlstm.engine.Stepper");
      auto stack = std::make_unique<Stack<T, X>>(kernels, *found, layers, output);
      batch_ = stack->batch(), bytes_ = batch_ * stack->inputs() * static_cast<index>(sizeof(T));
      long_ = stack->work() > 1 << 17;  // long enough for other threads of Python to be let in
      format_ = sizeof(T) == sizeof(double) ? "d" : "f";
      stack_ = std::move(stack);
    };
    if (type == "bfloat16" && !for_bfloat16()) throw nb::value_error("openlstm._native.Stepper: nothing multiplies in bfloat16 here");
    type == "float64" ? build(in_use().float64) : type == "int8" ? build(for_int8()) : type == "bfloat16" ? build(*for_bfloat16()) : build(in_use().float32);
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
    if (view.len != bytes_ || !view.format || std::strcmp(view.format, format_) != 0 || view.ndim > 2) return false;
    return view.ndim == 2 ? view.shape[1] * view.itemsize * batch_ == bytes_ : batch_ == 1;
  }

  bool run(nb::handle x) {
    const View view(x);
    if (!view.there || !fits(view.buffer)) return false;
    const Turn turn(*this);
    std::optional<Unlocked> unlocked;
    if (long_) unlocked.emplace();
    stack_->step(view.buffer.buf);
    return true;
  }

  bool long_ = false, busy_ = false;
  index batch_ = 0, bytes_ = 0;  // of x
  nb::object state_, y_, fit_;
  const char* format_ = "f";  // of x, as Python's buffers call it
  std::unique_ptr<Steps> stack_;
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
