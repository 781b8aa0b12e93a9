// What a run of the engine is: plain structs that Python fills, that kernels read, and the table that leads to the kernels.
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

// One layer in one direction. Weights, states and `reset` are contiguous; what is not given is null.
template <class T>
struct Problem {
  index steps, batch, inputs, hidden, projected;  // T, B, I, H, P (0: no projection)
  bool reverse;                                   // from each row's last real step to its first
  const T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;      // [G*H, I], [G*H, R], [G*H], [G*H], [P, H]
  Rows<const T> x;                                // [T, B, I]
  const T *h0, *c0;                               // [B, R], [B, H]
  const int64_t* lengths;                         // [B], each in 0 .. T
  const uint8_t* reset;                           // [T, B]
  const T *reset_h, *reset_c;                     // [B, R], [B, H]; zeros where null
  int threads;

  OPENLSTM_INLINE index fed_back() const { return projected ? projected : hidden; }  // R
};

template <class T>
struct Forward : Problem<T> {
  Rows<T> y, gates, c;  // [T, B, R]; [T, B, saved*H] and [T, B, H] if backward will follow
  T *h_n, *c_n;         // [B, R], [B, H]; may be null
};

template <class T>
struct Backward : Problem<T> {
  Rows<const T> y, gates, c;           // what forward saved
  Rows<const T> dy;                    // [T, B, R] or null
  const T *dh_n, *dc_n;                // [B, R], [B, H] or null
  Rows<T> dx;                          // [T, B, I]; null if nobody asks
  T *dw_ih, *dw_hh, *db, *dw_hr;       // as the weights
  T *dh0, *dc0, *dreset_h, *dreset_c;  // [B, R], [B, H], ...; the last two null without a reset state
  Rows<T> h_steps, c_steps;            // dL/dh_t [T, B, R] and dL/dc_t [T, B, H], or null
};

// The cells in the order of `KERNELS` in src/openlstm/engine/cpu.py.
enum Cells { LSTM, RNN_TANH, RNN_RELU, CELLS };

template <class T>
struct KernelsOf {
  void (*forward[CELLS])(const Forward<T>&);
  void (*backward[CELLS])(const Backward<T>&);
  void (*exp)(const T* in, T* out, index n);
  void (*sigmoid)(const T* in, T* out, index n);
  void (*tanh)(const T* in, T* out, index n);
  double (*peak)(index rounds);  // runs a register-only multiply-add loop, gives the number of operations
};

// One instruction set.
struct Kernels {
  const char* name;
  KernelsOf<float> single;
  KernelsOf<double> twofold;
};

// Work memory from a bounded pool (workspace.cpp): 64-byte aligned, contents undefined.
void* take(std::size_t bytes);
void give(void* block);

}  // namespace openlstm
