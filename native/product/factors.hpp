// What the products multiply: numbers as they are; or, in the kernels for bfloat16, pairs of neighbours, each in the place of one
// float. A product over K numbers is one over `factors(K)`, rows and panels lie as ever, and only the functions here know more.
//
// Pairs carry float-typed memory's bits, never its arithmetic. The processor's dot product takes subnormal numbers for 0 and
// rounds after each of its two products; sums, states, gates and the gradients of weights are float.
#pragma once

#include "vector/vec.hpp"

namespace openlstm::OPENLSTM_ISA {

#ifdef OPENLSTM_BFLOAT16

constexpr index in_factor = 2;  // numbers
template <class T>
using Given = bfloat16;  // what inputs, outputs and weights are made of

OPENLSTM_INLINE __mmask32 first_lanes(index n) { return n >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << n) - 1); }
OPENLSTM_INLINE __m512bh two_of(const float* p, index n) {
  return _mm512_cvtne2ps_pbh((__m512)(n > 16 ? load(p + 16, n - 16) : Vec<float>{}), (__m512)load(p, n));
}

// Numbers from and to what is given.
OPENLSTM_INLINE Vec<float> load(const bfloat16* p, index n) {
  return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(first_lanes(min<index>(n, 16))), p)), 16);
}
OPENLSTM_INLINE void store(bfloat16* p, Vec<float> v, index n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(first_lanes(min<index>(n, 16))), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}

// acc + what a pair and the pairs of a vector give.
OPENLSTM_INLINE Vec<float> spread(const float* factor) { return (Vec<float>)_mm512_broadcastss_ps(_mm_load_ss(factor)); }
OPENLSTM_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> acc) {
  return (Vec<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)(__m512)a, (__m512bh)(__m512)b);
}

// n numbers as factors, put into `room`.
OPENLSTM_INLINE const float* as_factors(const float* row, index n, float* room) {
  for (index k = 0; k < n; k += 32) store(room + k / 2, (Vec<float>)(__m512)two_of(row + k, n - k), (n - k + 1) / 2);
  return room;
}
// What is given lies in pairs already, but for an odd row.
OPENLSTM_INLINE bool lies_as_factors(const bfloat16* row, index n) { return n % 2 == 0 && reinterpret_cast<std::uintptr_t>(row) % sizeof(float) == 0; }
OPENLSTM_INLINE void copy_factors(const bfloat16* row, index n, float* room) {
  if (n % 2) room[n / 2] = 0;  // the odd last one's neighbour
  std::memcpy(room, row, static_cast<std::size_t>(n) * sizeof(bfloat16));
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
OPENLSTM_INLINE Vec<float> side_by_side(Vec<float> even, Vec<float> odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
  return (Vec<float>)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
// Half of such factors: the numbers of row k where k + 1 is written by somebody else, at the same time.
OPENLSTM_INLINE void store_half(float* factors, Vec<float> v, index half) {
  const __m512i wide = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
  _mm512_mask_storeu_epi16(factors, half ? 0xAAAAAAAAu : 0x55555555u, half ? _mm512_slli_epi32(wide, 16) : wide);
}

#else

constexpr index in_factor = 1;
template <class T>
using Given = T;

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

// The factors of n numbers.
OPENLSTM_INLINE index factors(index n) { return (n + in_factor - 1) / in_factor; }

}  // namespace openlstm::OPENLSTM_ISA
