// What the products multiply: numbers as they are; or, in the kernels for bfloat16, pairs of neighbours, each in the place of one
// float. A product over K numbers is one over `factors(K)`, rows and panels lie as ever, and only the functions here know more.
//
// Pairs carry float-typed memory's bits, never its arithmetic. The processor's dot product takes subnormal numbers for 0 and
// rounds after each of its two products; sums, states, gates and the gradients of weights are float.
//
// With -DOPENLSTM_TILES as many factors are multiplied at once as a tile of AMX is wide: rows and panels are padded with zeros.
#pragma once

#include "vector/vec.hpp"

namespace openlstm::OPENLSTM_ISA {

#ifdef OPENLSTM_BFLOAT16

constexpr index in_factor = 2;  // numbers
#ifdef OPENLSTM_TILES
constexpr index align = 16;
#else
constexpr index align = 1;
#endif
template <class T>
using Given = bfloat16;  // what inputs, outputs and weights are made of

// The factors of n numbers.
OPENLSTM_INLINE index factors(index n) { return (n + in_factor * align - 1) / (in_factor * align) * align; }

// Numbers from and to what is given; `rounded` has them in the lower halves of 32 bits.
#ifdef __AVX512BF16__
OPENLSTM_INLINE __mmask32 first_lanes(index n) { return n >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << n) - 1); }
OPENLSTM_INLINE Bits<float> rounded(Vec<float> v) { return (Bits<float>)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)); }
OPENLSTM_INLINE Vec<float> load(const bfloat16* p, index n) {
  return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(first_lanes(min<index>(n, 16))), p)), 16);
}
OPENLSTM_INLINE void store(bfloat16* p, Vec<float> v, index n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(first_lanes(min<index>(n, 16))), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
// Those of every second number, the first or the second of each pair; the others may be written by somebody else, at the same time.
OPENLSTM_INLINE void store_half(float* factors, Vec<float> v, index half) {
  const __m512i wide = (__m512i)rounded(v);
  _mm512_mask_storeu_epi16(factors, half ? 0xAAAAAAAAu : 0x55555555u, half ? _mm512_slli_epi32(wide, 16) : wide);
}

// acc + what a pair and the pairs of a vector give.
OPENLSTM_INLINE Vec<float> spread(const float* factor) { return (Vec<float>)_mm512_broadcastss_ps(_mm_load_ss(factor)); }
OPENLSTM_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> acc) {
  return (Vec<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)(__m512)a, (__m512bh)(__m512)b);
}

OPENLSTM_INLINE void put_pairs(const float* row, index n, float* room) {
  for (index k = 0; k < n; k += 32) {
    const Vec<float> second = n - k > 16 ? load(row + k + 16, n - k - 16) : Vec<float>{};
    store(room + k / 2, (Vec<float>)(__m512)_mm512_cvtne2ps_pbh((__m512)second, (__m512)load(row + k, n - k)), (n - k + 1) / 2);
  }
}
#else  // the same for tests on any processor, where these conversions need not be quick
OPENLSTM_INLINE Bits<float> rounded(Vec<float> v) {
  const Bits<float> x = bits<float>(v), all = x & 0x7fffffff;
  Bits<float> r = ((x + 0x7fff + ((x >> 16) & 1)) >> 16) & 0xffff;
  r = all > 0x7f800000 ? ((x >> 16) & 0xffff) | 0x40 : r;  // NaN
  return all < 0x00800000 ? (x >> 16) & 0x8000 : r;        // subnormal numbers are taken for 0
}
OPENLSTM_INLINE Vec<float> load(const bfloat16* p, index n) {
  Bits<float> v{};
  for (index k = 0; k < min(n, width<float>); k++) v[k] = static_cast<int32_t>(uint32_t{p[k].bits} << 16);
  return from_bits<float>(v);
}
OPENLSTM_INLINE void store(bfloat16* p, Vec<float> v, index n) {
  const Bits<float> r = rounded(v);
  for (index k = 0; k < min(n, width<float>); k++) p[k].bits = static_cast<uint16_t>(r[k]);
}
OPENLSTM_INLINE void store_half(float* factors, Vec<float> v, index half) {
  const Bits<float> r = rounded(v);
  for (index k = 0; k < width<float>; k++) {
    const uint16_t one = static_cast<uint16_t>(r[k]);
    std::memcpy(reinterpret_cast<char*>(factors + k) + 2 * half, &one, sizeof one);
  }
}
OPENLSTM_INLINE void put_pairs(const float* row, index n, float* room) {
  for (index k = 0; k < n; k++) {
    const uint16_t one = static_cast<uint16_t>(rounded(splat(row[k]))[0]);
    std::memcpy(reinterpret_cast<char*>(room) + k * 2, &one, sizeof one);
  }
}
#endif

// Zeros behind the n numbers of a row in `room`.
OPENLSTM_INLINE void pad(float* room, index n) {
  const index bytes = 4 * factors(n) - 2 * n;
  if (bytes) std::memset(reinterpret_cast<char*>(room) + 2 * n, 0, static_cast<std::size_t>(bytes));
}
// n numbers as factors, put into `room`.
OPENLSTM_INLINE const float* as_factors(const float* row, index n, float* room) {
  put_pairs(row, n, room);
  pad(room, n);
  return room;
}
// What is given lies in pairs already, but for the end of a row that needs padding.
OPENLSTM_INLINE bool lies_as_factors(const bfloat16* row, index n) {
  return n == in_factor * factors(n) && reinterpret_cast<std::uintptr_t>(row) % sizeof(float) == 0;
}
OPENLSTM_INLINE void copy_factors(const bfloat16* row, index n, float* room) {
  std::memcpy(room, row, static_cast<std::size_t>(n) * sizeof(bfloat16));
  pad(room, n);
}
OPENLSTM_INLINE const float* as_factors(const bfloat16* row, index n, float* room) {
  if (lies_as_factors(row, n)) return reinterpret_cast<const float*>(row);
  copy_factors(row, n, room);
  return room;
}
// n numbers that were given, as such.
OPENLSTM_INLINE const float* as_numbers(const bfloat16* row, index n, float* room) {
  for (index k = 0; k < n; k += width<float>) store(room + k, load(row + k, n - k), n - k);
  return room;
}
OPENLSTM_INLINE void give_out(const float* from, bfloat16* to, index n) {
  for (index k = 0; k < n; k += width<float>) store(to + k, load(from + k, n - k), n - k);
}

// The factors of two rows' numbers, side by side: a vector of columns of row k and of row k + 1.
OPENLSTM_INLINE Vec<float> side_by_side(Vec<float> even, Vec<float> odd) { return from_bits<float>(rounded(even) | rounded(odd) << 16); }

#else

constexpr index in_factor = 1, align = 1;
template <class T>
using Given = T;

OPENLSTM_INLINE index factors(index n) { return n; }

template <class T>
OPENLSTM_INLINE Vec<T> spread(const T* factor) {
  return splat(*factor);
}
template <class T>
OPENLSTM_INLINE auto multiply_add(T a, T b, T acc) {
  return fma(a, b, acc);
}
template <class T>
OPENLSTM_INLINE const T* as_factors(const T* row, index, T*) {
  return row;
}
template <class T>
OPENLSTM_INLINE const T* as_numbers(const T* row, index, T*) {
  return row;
}
template <class T>
OPENLSTM_INLINE void give_out(const T* from, T* to, index n) {
  copy(from, to, n);
}

#endif

}  // namespace openlstm::OPENLSTM_ISA
