// Both weight matrices by tiles of units, the gates of a unit in one tile: per tile first the biases [sums * blocks][width], then
// a panel of W_ih [I][gates * blocks][width], then one of W_hh [R][gates * blocks][width], in the order of `Traits`.
#pragma once

#include "kernels.hpp"
#include "loop/plan.hpp"

namespace openlstm {

template <class T, class X>
struct Tiles {
  const Products<T, X>& products;
  const Traits& cell;
  const Problem<T, X>& p;
  const index width, full, units, count, last;  // of a vector; blocks and units of a full tile; tiles; blocks of the last one
  const index inputs, fed_back, size, sums;     // factors of x and h; elements of a tile, and of its sums for one row

  Tiles(const Products<T, X>& products, const Traits& cell, const Problem<T, X>& p)
      : products(products),
        cell(cell),
        p(p),
        width(products.width),
        full(cell.blocks()),
        units(full * width),
        count((p.hidden + units - 1) / units),
        last(products.vectors(p.hidden) - (count - 1) * full),
        inputs(products.factors(p.inputs)),
        fed_back(products.factors(p.fed_back())),
        size((cell.sums() + (inputs + fed_back) * cell.gates) * units),
        sums(cell.sums() * units) {}

  // Vectors of units in a tile, of columns in its panels, and of its sums.
  index blocks(index tile) const { return tile == count - 1 ? last : full; }
  int vectors(index tile) const { return static_cast<int>(blocks(tile)) * cell.gates; }
  int biases(index tile) const { return static_cast<int>(blocks(tile)) * cell.sums(); }

  const T* w_ih(const T* tile, index which) const { return tile + biases(which) * width; }
  const T* w_hh(const T* tile, index which) const { return w_ih(tile, which) + inputs * vectors(which) * width; }

  // What `pack` put down of the matrices.
  void unpack(index tile, const T* from, X* to_ih, X* to_hh) const {
    const index W = width, G = cell.gates, stride = vectors(tile) * W;
    for (index block = 0; block < blocks(tile); block++) {
      const index unit = tile * units + block * W, n = std::min(W, p.hidden - unit);
      for (index k = 0; k < G; k++) {
        const index of_x = cell.gate_of_x(static_cast<int>(k)) * p.hidden + unit, of_h = k * p.hidden + unit;
        products.unpack_columns(w_ih(from, tile) + (block * G + k) * W, stride, n, p.inputs, to_ih + of_x * p.inputs);
        products.unpack_columns(w_hh(from, tile) + (block * G + k) * W, stride, n, p.fed_back(), to_hh + of_h * p.fed_back());
      }
    }
  }

  void pack(index tile, T* out) const {
    const index W = width, G = cell.gates, stride = vectors(tile) * W;
    if ((tile + 1) * units > p.hidden) clear(out, size);
    T *w_ih = const_cast<T*>(this->w_ih(out, tile)), *w_hh = const_cast<T*>(this->w_hh(out, tile));
    for (index block = 0; block < blocks(tile); block++) {
      const index unit = tile * units + block * W, n = std::min(W, p.hidden - unit);
      for (index k = 0; k < G; k++) {  // the k-th vector of each product
        const index of_x = cell.gate_of_x(static_cast<int>(k)) * p.hidden + unit, of_h = k * p.hidden + unit;
        products.pack_columns(p.w_ih + of_x * p.inputs, n, p.inputs, w_ih + (block * G + k) * W, stride);
        products.pack_columns(p.w_hh + of_h * p.fed_back(), n, p.fed_back(), w_hh + (block * G + k) * W, stride);
      }
      for (index gate = 0; gate < G; gate++) {
        const bool separate = gate >= G - cell.separate;
        T *of_x = out + (block * G + cell.place_of_x(static_cast<int>(gate))) * W, *of_h = out + (cell.separate + gate) * W;
        for (index k = 0; k < n; k++) {
          const T b_ih = p.b_ih ? p.b_ih[gate * p.hidden + unit + k] : T(0), b_hh = p.b_hh ? p.b_hh[gate * p.hidden + unit + k] : T(0);
          of_x[k] = separate ? b_ih : b_ih + b_hh;
          if (separate) of_h[k] = b_hh;
        }
      }
    }
  }
};

}  // namespace openlstm
