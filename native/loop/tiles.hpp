// Both weight matrices by tiles of units, the gates of a unit in one tile: per tile first the biases [sums * blocks][width], then
// a panel of W_ih [I][gates * blocks][width], then one of W_hh [recurrent][gates * blocks][width], in the order of `Traits`. The
// units of a tile belong to one head, whose last tile may be smaller. Where a unit sees itself alone, the latter is one row of numbers.
#pragma once

#include "kernels.hpp"
#include "loop/plan.hpp"

namespace openlstm {

template <class T, class X>
struct Tiles {
  const Products<T, X>& products;
  const Traits& cell;
  const Problem<T, X>& p;
  const index width, full, units;          // of a vector; blocks and units of a full tile
  const index head, of_head, count, last;  // units of a head; its tiles; all tiles; blocks of the last one of a head
  const index inputs, seen, size, sums;    // factors of x, of h for one head; elements of a tile, and of its sums for one row

  Tiles(const Products<T, X>& products, const Traits& cell, const Problem<T, X>& p)
      : products(products),
        cell(cell),
        p(p),
        width(products.width),
        full(cell.blocks()),
        units(full * width),
        head(p.hidden / p.heads),
        of_head((head + units - 1) / units),
        count(p.heads * of_head),
        last(products.vectors(head) - (of_head - 1) * full),
        inputs(p.w_ih ? products.factors(p.inputs) : 0),
        seen(cell.recurrence == Recurrence::dense ? products.factors(p.recurrent) : p.recurrent),
        size((cell.sums() + (inputs + seen) * cell.gates) * units),
        sums(cell.sums() * units) {}

  // The first unit of a tile, which is the end of the one before; the end of its own.
  index unit(index tile) const { return tile / of_head * head + tile % of_head * units; }
  index end(index tile) const { return std::min(unit(tile) + units, (tile / of_head + 1) * head); }
  // Vectors of units in a tile, of columns in its panels, and of its sums.
  index blocks(index tile) const { return (tile + 1) % of_head ? full : last; }
  int vectors(index tile) const { return static_cast<int>(blocks(tile)) * cell.gates; }
  int biases(index tile) const { return static_cast<int>(blocks(tile)) * cell.sums(); }

  const T* w_ih(const T* tile, index which) const { return tile + biases(which) * width; }
  const T* w_hh(const T* tile, index which) const { return w_ih(tile, which) + inputs * vectors(which) * width; }

  void pack(index tile, T* out) const {
    const index W = width, G = cell.gates, stride = vectors(tile) * W;
    if (unit(tile) + units > end(tile)) clear(out, size);
    T *w_ih = const_cast<T*>(this->w_ih(out, tile)), *w_hh = const_cast<T*>(this->w_hh(out, tile));
    for (index block = 0; block < blocks(tile); block++) {
      const index unit = this->unit(tile) + block * W, n = std::min(W, end(tile) - unit);
      for (index k = 0; k < G; k++) {  // the k-th vector of each product
        const index of_x = cell.gate_of_x(static_cast<int>(k)) * p.hidden + unit, of_h = k * p.hidden + unit;
        T *to_x = w_ih + (block * G + k) * W, *to_h = w_hh + (block * G + k) * W;
        if (p.w_ih) products.pack_columns(p.w_ih + of_x * p.inputs, n, p.inputs, to_x, stride);
        if (cell.recurrence == Recurrence::dense)
          products.pack_columns(p.w_hh + of_h * p.recurrent, n, p.recurrent, to_h, stride);
        else if (cell.recurrence == Recurrence::elementwise)
          if (const T* own = products.numbers_of_given(p.w_hh + of_h, n, to_h); own != to_h) copy(own, to_h, n);
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
