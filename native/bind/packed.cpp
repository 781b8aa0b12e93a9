// A layer in one direction whose weights are kept in 8 bits: packed once, run over sequences, and given back as they were rounded.
#include "bind/packed.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "bind/fields.hpp"
#include "bind/python.hpp"
#include "loop/tiles.hpp"
#include "runtime/dispatch.hpp"

namespace openlstm {

namespace {

// It stays with the kernels that it was packed for, whatever is in use later.
class Packed {
 public:
  Packed(const std::string& cell, nb::dict given)
      : kernels_(for_int8()), cell_(find(kernels_, cell)), f_(read_call<Forward<float, eight_bit>>(given)), weights_(kernels_, cell_, f_) {}

  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;

  // A call without weights.
  void forward(nb::dict call) const {
    auto f = read_call<Forward<float, eight_bit>>(call);
    if (f.inputs != f_.inputs || f.hidden != f_.hidden || f.projected != f_.projected) throw nb::value_error("openlstm._native.Packed: another layer's call");
    f.packed = f_.packed, f.w_ch = f_.w_ch, f.w_ih = f_.w_ih, f.recurrent = f_.recurrent, f.heads = f_.heads;
    const Unlocked unlocked;
    openlstm::forward(kernels_, cell_, f);
  }

  // The matrices w_ih, w_hh, w_hr as they were rounded, in float, into memory at these addresses.
  void unpack(std::uintptr_t w_ih, std::uintptr_t w_hh, std::uintptr_t w_hr) const {
    const Tiles<float, eight_bit> tiles(*kernels_.products, cell_.traits, f_);
    const auto to = [](std::uintptr_t address) { return reinterpret_cast<eight_bit*>(address); };
    for (index tile = 0; tile < tiles.count; tile++) tiles.unpack(tile, f_.packed + tile * tiles.size, to(w_ih), to(w_hh));
    if (f_.projected) kernels_.products->unpack_transposed(f_.packed + tiles.count * tiles.size, f_.hidden, f_.projected, to(w_hr));
  }

  index bytes() const { return weights_.size * static_cast<index>(sizeof(float)); }

 private:
  static const CellKernel<float>& find(const Kernels<float, eight_bit>& kernels, const std::string& name) {
    const CellKernel<float>* cell = kernels.cell(name.c_str());
    if (!cell) throw nb::value_error("openlstm._native.Packed: unknown cell; use openlstm.quantize");
    return *cell;
  }

  const Kernels<float, eight_bit>& kernels_;
  const CellKernel<float>& cell_;
  Forward<float, eight_bit> f_;
  PackedWeights<float, eight_bit> weights_;
};

}  // namespace

void bind_packed(nb::module_& m) {
  nb::class_<Packed>(m, "Packed")
      .def(nb::init<const std::string&, nb::dict>())
      .def("forward", &Packed::forward)
      .def("unpack", &Packed::unpack)
      .def_prop_ro("bytes", &Packed::bytes);
}

}  // namespace openlstm
