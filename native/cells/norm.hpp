// Layer normalisation of rows: sums over a whole row whose order depends on nothing but its length.
//
// Element k of a block is added to lane k % 16, in rising order, whatever the width of a vector; the lanes are then added in
// pairs that are 8, 4, 2 and 1 distance. What lies past the end of a block is left out, not added as zero times something.
#pragma once

#include "vector/vec.hpp"

namespace openlstm::OPENLSTM_ISA {

// A lambda whose captures are to stay in registers.
#define OPENLSTM_ALWAYS __attribute__((always_inline))

constexpr index lanes = 16;
template <class T>
constexpr index parts = lanes / width<T>;  // vectors that make up the lanes

// The first n lanes of v, zero in the others.
template <class T>
OPENLSTM_INLINE Vec<T> only(Vec<T> v, index n) {
  if (n >= width<T>) return v;
  Bits<T> lane{};
  for (index k = 0; k < width<T>; k++) lane[k] = static_cast<typename Lane<T>::Bit>(k);
  return lane < static_cast<typename Lane<T>::Bit>(n) ? v : Vec<T>{};
}

// The running sums of one block.
template <class T>
struct Lanes {
  Vec<T> sum[parts<T>] = {};

  OPENLSTM_INLINE Lanes operator+(const Lanes& other) const {
    Lanes out;
    for (index p = 0; p < parts<T>; p++) out.sum[p] = sum[p] + other.sum[p];
    return out;
  }
  OPENLSTM_INLINE T total() const {
    T at[lanes];
    for (index p = 0; p < parts<T>; p++) store(at + p * width<T>, sum[p]);
#pragma GCC unroll 4
    for (index distance = lanes / 2; distance; distance /= 2)
#pragma GCC unroll 8
      for (index k = 0; k < distance; k++) at[k] = at[k] + at[k + distance];
    return at[0];
  }
};

// f(part, first) for the vectors of a block of n numbers: the vector from `first` on belongs to lanes `part`.
template <class T, class F>
OPENLSTM_INLINE void in_lanes(index n, F f) {
  for (index group = 0; group < n; group += lanes)
#pragma GCC unroll 8
    for (index part = 0; part < parts<T>; part++)
      if (part == 0 || group + part * width<T> < n) f(part, group + part * width<T>);
}

// The sum over blocks: each in lanes of its own, then the blocks in pairs.
template <class T, std::size_t blocks>
OPENLSTM_INLINE T total_of(const Lanes<T> (&block)[blocks]) {
  static_assert(blocks == 1 || blocks == 4);
  if constexpr (blocks == 1)
    return block[0].total();
  else
    return ((block[0] + block[1]) + (block[2] + block[3])).total();
}

// That of `blocks` blocks of n numbers each.
template <int blocks, class T, class F>
OPENLSTM_INLINE T sum_of(index n, F value) {
  Lanes<T> block[blocks];
  in_lanes<T>(n, [&](index part, index k) OPENLSTM_ALWAYS {
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) value(block[b].sum[part], b, k);
  });
  return total_of(block);
}

// What a row is normalised by: (s - mean) * scale, scale = 1 / sqrt(variance + eps).
template <class T>
struct Moments {
  T mean, scale;
  OPENLSTM_INLINE Vec<T> of(Vec<T> s) const { return (s - mean) * scale; }
};

constexpr double norm_eps = 1e-5;

OPENLSTM_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
OPENLSTM_INLINE double square_root(double x) { return __builtin_sqrt(x); }

// 1 / sqrt(mean of d^2 + eps) where the squares overflow: those of d / max|d| do not.
template <int blocks, class T>
static T scale_of_large(const T* row, index n, T mean) {
  T most = 0;
  for (index k = 0; k < blocks * n; k++) {
    T d = row[k] > mean ? row[k] - mean : mean - row[k];
    most = d > most ? d : most;
  }
  T squares = sum_of<blocks, T>(n, [&](Vec<T>& sum, int b, index k) OPENLSTM_ALWAYS {
    Vec<T> d = only<T>((load(row + b * n + k, n - k) - mean) / splat(most), n - k);
    sum = fma(d, d, sum);
  });
  return T(1) / square_root(squares / static_cast<T>(blocks * n) + static_cast<T>(norm_eps) / most / most) / most;
}

// The moments of a row of `blocks` blocks of n numbers, whose mean is known.
template <int blocks, class T>
OPENLSTM_INLINE Moments<T> moments(const T* row, index n, T mean) {
  const T squares = sum_of<blocks, T>(n, [&](Vec<T>& sum, int b, index k) OPENLSTM_ALWAYS {
    Vec<T> d = only<T>(load(row + b * n + k, n - k) - mean, n - k);
    sum = fma(d, d, sum);
  });
  const T variance = squares / static_cast<T>(blocks * n);
  if (__builtin_expect(variance - variance != 0 && mean - mean == 0, 0)) return {mean, scale_of_large<blocks>(row, n, mean)};
  return {mean, T(1) / square_root(variance + static_cast<T>(norm_eps))};
}
template <int blocks, class T>
OPENLSTM_INLINE Moments<T> moments(const T* row, index n) {
  const T sum = sum_of<blocks, T>(n, [&](Vec<T>& sum, int b, index k) OPENLSTM_ALWAYS { sum = sum + load(row + b * n + k, n - k); });
  return moments<blocks>(row, n, sum / static_cast<T>(blocks * n));
}

}  // namespace openlstm::OPENLSTM_ISA
