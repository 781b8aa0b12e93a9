// One vector type per element type, its loads and stores, and its multiply-add.
//
// Everything an output's bits depend on is written with `fma` and single IEEE operations, so that every instruction set gives
// the same bits: the compiler may contract nothing (-ffp-contract=off) and nothing is summed across lanes. This file is
// compiled once per instruction set, named by OPENLSTM_ISA, which is also the namespace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "call.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define OPENLSTM_VECTOR_BYTES_scalar 16
#define OPENLSTM_VECTOR_BYTES_avx2 32
#define OPENLSTM_VECTOR_BYTES_avx512 64
#define OPENLSTM_VECTOR_BYTES_avx512bf16 64
#define OPENLSTM_VECTOR_BYTES_avx512vnni 64
#define OPENLSTM_VECTOR_BYTES_amx 64
#define OPENLSTM_VECTOR_BYTES_amxtest 64
#define OPENLSTM_VECTOR_BYTES_wide 64
#define OPENLSTM_VECTOR_BYTES_neon 16
#define OPENLSTM_JOIN_(a, b) a##b
#define OPENLSTM_JOIN(a, b) OPENLSTM_JOIN_(a, b)
#define OPENLSTM_VECTOR_BYTES OPENLSTM_JOIN(OPENLSTM_VECTOR_BYTES_, OPENLSTM_ISA)

namespace openlstm::OPENLSTM_ISA {

// Rows of a register tile: with four vectors a row, as many accumulators as leave room for a row of weights.
#if OPENLSTM_VECTOR_BYTES == 32
#define OPENLSTM_ROWS 3  // 12 of 16 registers
#elif defined(__SSE2__) && OPENLSTM_VECTOR_BYTES == 16
#define OPENLSTM_ROWS 2  // no multiply-add in hardware; small is enough
#else
#define OPENLSTM_ROWS 6  // 24 of 32 registers
#endif
constexpr int max_rows = OPENLSTM_ROWS;

template <class T>
struct Lane;
template <>
struct Lane<float> {
  typedef float V __attribute__((vector_size(OPENLSTM_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(OPENLSTM_VECTOR_BYTES), aligned(4)));
  typedef int32_t Bits __attribute__((vector_size(OPENLSTM_VECTOR_BYTES)));
  using Bit = int32_t;
};
template <>
struct Lane<double> {
  typedef double V __attribute__((vector_size(OPENLSTM_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(OPENLSTM_VECTOR_BYTES), aligned(8)));
  typedef int64_t Bits __attribute__((vector_size(OPENLSTM_VECTOR_BYTES)));
  using Bit = int64_t;
};
template <class T>
using Vec = typename Lane<T>::V;
template <class T>
using Bits = typename Lane<T>::Bits;

template <class T>
constexpr index width = OPENLSTM_VECTOR_BYTES / sizeof(T);

template <class T>
OPENLSTM_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Lane<T>::Unaligned*>(p);
}
template <class T>
OPENLSTM_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Lane<T>::Unaligned*>(p) = v;
}
// The first n lanes only: the others are read as zero, and memory beyond is neither read nor written.
#if !defined(__AVX512F__)
template <class T>
__attribute__((noinline)) static Vec<T> load_lanes(const T* p, index n) {
  Vec<T> v{};
  std::memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(T));
  return v;
}
template <class T>
__attribute__((noinline)) static void store_lanes(T* p, Vec<T> v, index n) {
  std::memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(T));
}
#endif
template <class T>
OPENLSTM_INLINE Vec<T> load(const T* p, index n) {
  if (n >= width<T>) return load(p);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
#else
  return load_lanes(p, n);
#endif
}
template <class T>
OPENLSTM_INLINE void store(T* p, Vec<T> v, index n) {
  if (n >= width<T>) return store(p, v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
#else
  store_lanes(p, v, n);
#endif
}
template <class T>
OPENLSTM_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};  // x - 0 is x, also for x = -0
}

template <class T>
OPENLSTM_INLINE void clear(T* p, index n) {
  std::memset(p, 0, static_cast<std::size_t>(n) * sizeof(T));
}
template <class T>
OPENLSTM_INLINE void copy(const T* from, T* to, index n) {
  std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
}
template <class T>
OPENLSTM_INLINE void times(const T* a, const T* b, T* out, index n) {
  for (index k = 0; k < n; k += width<T>) store(out + k, load(a + k, n - k) * load(b + k, n - k), n - k);
}
template <class T>
OPENLSTM_INLINE T min(T a, T b) {
  return b < a ? b : a;
}

// a * b + c, rounded once.
#if OPENLSTM_VECTOR_BYTES == 64 && defined(__AVX512F__)
OPENLSTM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return (Vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
OPENLSTM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return (Vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif OPENLSTM_VECTOR_BYTES == 64  // the tile of AVX-512 carried out by two halves
OPENLSTM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  __m256 x[2], y[2], z[2];
  std::memcpy(x, &a, 64), std::memcpy(y, &b, 64), std::memcpy(z, &c, 64);
  for (int h = 0; h < 2; h++) z[h] = _mm256_fmadd_ps(x[h], y[h], z[h]);
  std::memcpy(&c, z, 64);
  return c;
}
OPENLSTM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  __m256d x[2], y[2], z[2];
  std::memcpy(x, &a, 64), std::memcpy(y, &b, 64), std::memcpy(z, &c, 64);
  for (int h = 0; h < 2; h++) z[h] = _mm256_fmadd_pd(x[h], y[h], z[h]);
  std::memcpy(&c, z, 64);
  return c;
}
#elif defined(__FMA__)
OPENLSTM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return (Vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
OPENLSTM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return (Vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#elif defined(__aarch64__)
OPENLSTM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return (Vec<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
OPENLSTM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return (Vec<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#else  // in software where the processor has none: slow, and right
__attribute__((noinline)) static Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  for (int k = 0; k < width<float>; k++) c[k] = __builtin_fmaf(a[k], b[k], c[k]);
  return c;
}
__attribute__((noinline, unused)) static Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  for (int k = 0; k < width<double>; k++) c[k] = __builtin_fma(a[k], b[k], c[k]);
  return c;
}
#endif

template <class T>
OPENLSTM_INLINE Bits<T> bits(Vec<T> x) {
  return (Bits<T>)x;
}
template <class T>
OPENLSTM_INLINE Vec<T> from_bits(Bits<T> x) {
  return (Vec<T>)x;
}

// -|x|
template <class T>
OPENLSTM_INLINE Vec<T> minus_abs(Vec<T> x) {
  using Bit = typename Lane<T>::Bit;
  return from_bits<T>(bits<T>(x) | static_cast<Bit>(Bit(1) << (8 * sizeof(T) - 1)));
}

// The larger of x and low; x where it is NaN.
template <class V>
OPENLSTM_INLINE V at_least(V x, V low) {
#if OPENLSTM_VECTOR_BYTES == 64 && defined(__AVX512F__)
  if constexpr (sizeof(x[0]) == 4) return (V)_mm512_max_ps((__m512)low, (__m512)x);
  if constexpr (sizeof(x[0]) == 8) return (V)_mm512_max_pd((__m512d)low, (__m512d)x);
#endif
  return x < low ? low : x;
}

// x within -limit .. limit; NaN stays NaN.
template <class T>
OPENLSTM_INLINE Vec<T> clamp(Vec<T> x, T limit) {
  x = x > limit ? splat(limit) : x;
  return x < -limit ? splat(-limit) : x;
}

template <class T>
OPENLSTM_INLINE Vec<T> abs(Vec<T> x) {
  using Bit = typename Lane<T>::Bit;
  constexpr Bit mask = static_cast<Bit>(~(Bit(1) << (8 * sizeof(T) - 1)));
  return from_bits<T>(bits<T>(x) & mask);
}

// A number that is known when code is compiled.
template <int N>
struct Count {
  static constexpr int value = N;
};

// f(Count<n>), for n in 1 .. most.
template <int most, class F>
OPENLSTM_INLINE void with_count(index n, F f) {
  if constexpr (most == 1)
    f(Count<1>{});
  else
    n == most ? f(Count<most>{}) : with_count<most - 1>(n, f);
}

}  // namespace openlstm::OPENLSTM_ISA
