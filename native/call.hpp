// A call of the engine: plain structs that Python fills by name (bind/fields.hpp) and that the loops read.
//
// Everything here is data or always inlined, so that no object compiled for one instruction set can lend its code to another.
// A matrix row is always reached through `Rows::at(t, b)` or a pointer per row, never by assuming where it lies.
#pragma once

#include <cstddef>
#include <cstdint>

#define OPENLSTM_INLINE inline __attribute__((always_inline))

namespace openlstm {

using index = std::ptrdiff_t;

// The rows of an array [T, B, n] whose last axis is contiguous; strides in elements. Empty where data is null.
template <class T>
struct Rows {
  T* data = nullptr;
  index step = 0, row = 0;

  OPENLSTM_INLINE explicit operator bool() const { return data != nullptr; }
  OPENLSTM_INLINE T* at(index t, index b) const { return data + t * step + b * row; }
};

// The upper half of a float: its range with 8 bits of accuracy.
struct bfloat16 {
  uint16_t bits;
};

// Regularisers of the recurrence (src/openlstm/noise.py says what they are); zero where there are none.
struct Noise {
  double zoneout_h = 0, zoneout_c = 0, candidate = 0;  // probabilities
  uint64_t seed = 0;
  index stream = 0;
  index first_row = 0;   // where row 0 stands in the whole batch
  bool training = true;  // draws; otherwise zoneout takes its expectation

  // A probability as a threshold for 24 random bits.
  OPENLSTM_INLINE static uint32_t threshold(double p) { return static_cast<uint32_t>(p * (1 << 24)); }
};

// One layer in one direction. Weights, initial states and `reset` are contiguous; what is not given is null. Steps are counted
// from the sequence's begin whichever of them are run: an array that holds [first, last) alone is given as if it began at 0.
// C is the width of all cell states side by side: H for each (`Traits::states`).
// What enters the products, and y, are of type X; it differs from T where those are bfloat16 and everything else is float.
template <class T, class X = T>
struct Problem {
  index steps, batch, inputs, hidden, projected;  // T, B, I, H, P (0: no projection)
  bool reverse;                                   // from each row's last real step to its first
  index first, last;                              // only the steps of [first, last) are run; h0, c0 are the state at their begin
  const X* w_ih;                                  // [G*H, I]; null where x is the sums of W_ih x, gate by gate, I = G*H
  const X* w_hh;                                  // [G*H, recurrent]
  const T *b_ih, *b_hh;                           // [G*H]
  const X* w_hr;                                  // [P, H]
  const T* w_ch;                                  // [peepholes*H]
  const T* norm;                                  // weight and bias of the norms of W x, of W h [G*H] each, and of c [H] each
  Rows<const X> x;                                // [T, B, I]
  const T *h0, *c0;                               // [B, R], [B, C]; to forward, null is zeros
  const int64_t* lengths;                         // [B], each in 0 .. T
  const uint8_t* reset;                           // [T, B]
  Rows<const T> reset_h, reset_c;                 // [T, B, R], [T, B, C] (a step of 0: the same at each t); zeros where null
  int threads;
  T clip = static_cast<T>(__builtin_huge_val());  // c' stays within -clip .. clip; infinity for no limit
  Noise noise;
  const T* hidden_mask;  // [B, R], multiplied onto h inside the sums; may be null
  index feedback = 1;    // blocks of H that are fed back
  bool has_cell;         // whether there is a c beside h
  index recurrent;       // columns of W_hh: R; R / heads, the units of a head; 1, a unit itself; 0, no unit
  index heads = 1;       // groups of units that each see the h of their own group
  T beta;                // a constant of the cell's own, where it has one

  OPENLSTM_INLINE index fed_back() const { return projected ? projected : feedback * hidden; }  // R
  OPENLSTM_INLINE bool clipped() const { return clip - clip == 0; }                             // not infinite
  OPENLSTM_INLINE index taken() const { return last - first; }                                  // steps that are run
};

template <class T, class X = T>
struct Forward : Problem<T, X> {
  Rows<X> y;            // [T, B, R]
  Rows<T> gates, c, m;  // if backward will follow [T, B, saved*H], [T, B, C] and, where y is not the cell's own
                        // output (projection, zoneout of h), that output [T, B, H]
  T *h_n, *c_n;         // [B, R], [B, C]; may be null
  const T* packed;      // the weights as `pack` (loop/forward.hpp) put them, or null
};

template <class T, class X = T>
struct Backward : Problem<T, X> {
  Rows<const X> y;                                   // what forward gave
  Rows<const T> gates, c, m;                         // and saved
  Rows<const X> dy;                                  // [T, B, R] or null
  const T *dh_n, *dc_n;                              // [B, R], [B, C] or null
  Rows<X> dx;                                        // [T, B, I]; null if nobody asks
  T *dw_ih, *dw_hh, *db_ih, *db_hh, *dw_hr, *dw_ch;  // as the weights; db_hh null where it equals db_ih, both with norms
  T* dnorm;
  bool go_on;                  // add to them, the sums of the steps that follow, instead of beginning at 0
  T *dh0, *dc0;                // [B, R], [B, C]
  Rows<T> dreset_h, dreset_c;  // as reset_h and reset_c, zeros on entry; null without a reset state
  Rows<T> h_steps, c_steps;    // dL/dh_t [T, B, R] and dL/dc_t [T, B, C], or null
};

}  // namespace openlstm
