// Weights that are packed once, for calls that come again and again.
#pragma once

#include <cstring>
#include <memory>
#include <type_traits>

#include "loop/loop.hpp"
#include "runtime/workspace.hpp"

namespace openlstm {

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

// What a call's weights become, and copies of what the cell reads unpacked. The call then points here: the caller may let go of
// its weights, which are of type T.
template <class T, class X>
struct PackedWeights {
  index size;  // of packed
  Block<T> packed, peepholes, norm;

  PackedWeights(const Kernels<T, X>& kernels, const CellKernel<T>& cell, Forward<T, X>& f) {
    const index H = f.hidden, rows = cell.traits.gates * H;
    const Block<X> w_ih = given(kernels, f.w_ih, rows * f.inputs), w_hh = given(kernels, f.w_hh, rows * f.recurrent);
    const Block<X> w_hr = given(kernels, f.w_hr, f.projected * H);
    size = packed_size(kernels, cell, f);
    packed = block_of<T>(size + 1);
    pack(kernels, cell, f, packed.get());
    peepholes = block_of(cell.traits.peepholes * H, f.w_ch), norm = block_of(f.norm ? 4 * rows + 2 * H : 0, f.norm);
    f.packed = packed.get(), f.w_ch = peepholes.get(), f.norm = norm.get();
    f.w_hh = f.w_hr = nullptr, f.b_ih = f.b_hh = nullptr;  // w_ih stays, for it says that x is multiplied
  }

 private:
  // A matrix in the type that is multiplied, for as long as it is being packed.
  static Block<X> given(const Kernels<T, X>& kernels, const X*& w, index n) {
    if (std::is_same_v<T, X> || !w) return nullptr;
    Block<X> block = block_of<X>(n);
    kernels.products->convert(reinterpret_cast<const T*>(w), block.get(), n);
    w = block.get();
    return block;
  }
};

}  // namespace openlstm
