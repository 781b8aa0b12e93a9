// One vector type per element type, its multiply-add, and its exp, sigmoid and tanh.
//
// Everything an output's bits depend on is written with `fma` and single IEEE operations, so that every instruction set gives
// the same bits: the compiler may contract nothing (-ffp-contract=off) and nothing is summed across lanes. This file is
// compiled once per instruction set, named by OPENLSTM_ISA, which is also the namespace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engine.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define OPENLSTM_VECTOR_BYTES_scalar 16
#define OPENLSTM_VECTOR_BYTES_avx2 32
#define OPENLSTM_VECTOR_BYTES_avx512 64
#define OPENLSTM_VECTOR_BYTES_avx512bf16 64
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
template <class T>
OPENLSTM_INLINE Vec<T> load(const T* p, index n) {
  if (n >= width<T>) return load(p);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
#endif
  Vec<T> v{};
  for (index k = 0; k < n; k++) v[k] = p[k];
  return v;
}
template <class T>
OPENLSTM_INLINE void store(T* p, Vec<T> v, index n) {
  if (n >= width<T>) return store(p, v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
#endif
  for (index k = 0; k < n; k++) p[k] = v[k];
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
OPENLSTM_INLINE T smaller(T a, T b) {
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
OPENLSTM_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  for (int k = 0; k < width<float>; k++) c[k] = __builtin_fmaf(a[k], b[k], c[k]);
  return c;
}
OPENLSTM_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
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

// Constants of exp: x = n ln2 + r with |r| <= ln2/2, and expm1(r) = r + r^2 q(r) with a minimax q (Remez, relative error
// 1.3e-8 for float, 1.8e-17 for double). ln2 is split so that n * ln2_hi is exact.
template <class T>
struct Exp;
template <>
struct Exp<float> {
  static constexpr float log2e = 0x1.715476p+0f, ln2_hi = 0x1.63p-1f, ln2_lo = -0x1.bd0106p-13f;
  static constexpr float round = 0x1.8p+23f;  // adding it leaves whole numbers in the lowest bits
  static constexpr float q[] = {0x1p-1f, 0x1.5554bp-3f, 0x1.555486p-5f, 0x1.1227fep-7f, 0x1.6d991cp-10f};
  static constexpr int mantissa = 23, bias = 127, spare = 64;
  static constexpr float unspare = 0x1p-64f, lowest = -110.f, highest = 100.f, tanh_end = 40.f;
};
template <>
struct Exp<double> {
  static constexpr double log2e = 0x1.71547652b82fep+0, ln2_hi = 0x1.62e42feep-1, ln2_lo = 0x1.a39ef35793c76p-33;
  static constexpr double round = 0x1.8p+52;
  static constexpr double q[] = {0x1.0000000000005p-1,  0x1.555555555555cp-3,  0x1.55555555520f3p-5,  0x1.111111110e6e6p-7,  0x1.6c16c17f378d1p-10,
                                 0x1.a01a01b5d1b08p-13, 0x1.a019a685a727ep-16, 0x1.71ddea14af46cp-19, 0x1.28a2ab9cabe5cp-22, 0x1.af7692a9c622dp-26};
  static constexpr int mantissa = 52, bias = 1023, spare = 128;
  static constexpr double unspare = 0x1p-128, lowest = -780., highest = 720., tanh_end = 80.;  // n + bias + spare > 0
};

// The functions take N vectors at once and go through them statement by statement: one result is a chain of some thirty
// operations that wait for each other, and a processor looks ahead over too few to find the next chain by itself.
#define OPENLSTM_EACH(k) _Pragma("GCC unroll 8") for (int k = 0; k < N; k++)

// exp(x) = 2^n (1 + p): p = expm1(r), and scale = 2^(n + extra), which must be in the normal range.
template <int extra, class T, int N>
OPENLSTM_INLINE void reduce(const Vec<T> (&x)[N], Vec<T> (&p)[N], Vec<T> (&scale)[N]) {
  using E = Exp<T>;
  constexpr int degree = sizeof(E::q) / sizeof(T) - 1;
  constexpr T round = E::round + (E::bias + extra);  // adding it leaves the exponent of scale in the lowest bits
  Vec<T> whole[N], r[N], q[N];
  OPENLSTM_EACH(k) whole[k] = fma(x[k], splat(E::log2e), splat(round));
  OPENLSTM_EACH(k) scale[k] = from_bits<T>(bits<T>(whole[k]) << E::mantissa), whole[k] = whole[k] - round;
  OPENLSTM_EACH(k) r[k] = fma(whole[k], splat(-E::ln2_hi), x[k]);
  OPENLSTM_EACH(k) r[k] = fma(whole[k], splat(-E::ln2_lo), r[k]), q[k] = splat(E::q[degree]);
#pragma GCC unroll 16
  for (int d = degree - 1; d >= 0; d--) {
    OPENLSTM_EACH(k) q[k] = fma(q[k], r[k], splat(E::q[d]));
  }
  OPENLSTM_EACH(k) p[k] = fma(r[k] * r[k], q[k], r[k]);
}

// exp(x) for x <= 0, down to the last subnormal and to exact 0: scaled in the normal range, rounded once at the end.
template <class T, int N>
OPENLSTM_INLINE void exp_down(Vec<T> (&x)[N]) {
  using E = Exp<T>;
  Vec<T> p[N], scale[N];
  OPENLSTM_EACH(k) x[k] = at_least(x[k], splat(E::lowest));
  reduce<E::spare, T>(x, p, scale);
  OPENLSTM_EACH(k) x[k] = fma(p[k], scale[k], scale[k]) * E::unspare;
}

// exp(x) for every x: infinity where it overflows.
template <class T, int N>
OPENLSTM_INLINE void exp(Vec<T> (&x)[N]) {
  using E = Exp<T>;
  Vec<T> high[N], p[N], scale[N], down[N];
  OPENLSTM_EACH(k) high[k] = x[k] > E::highest ? splat(E::highest) : x[k], down[k] = x[k];
  OPENLSTM_EACH(k) high[k] = high[k] < T(0) ? Vec<T>{} : high[k];
  reduce<-E::spare, T>(high, p, scale);
  exp_down<T>(down);
  OPENLSTM_EACH(k) {
    Vec<T> up = fma(p[k], scale[k], scale[k]) * (T(1) / E::unspare);
    x[k] = x[k] > T(0) ? up : down[k];
  }
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

// Close to 1 / d for d in 1 .. 2: float by the polynomial of least relative error, 1/577, and one Newton step.
template <int N>
OPENLSTM_INLINE void reciprocal(const Vec<float> (&d)[N], Vec<float> (&r)[N]) {
  Vec<float> t[N];
  OPENLSTM_EACH(k) r[k] = fma(splat(-128.f / 577), d[k], splat(768.f / 577));
  OPENLSTM_EACH(k) r[k] = fma(r[k], d[k], splat(-1696.f / 577));
  OPENLSTM_EACH(k) r[k] = fma(r[k], d[k], splat(1632.f / 577));
  OPENLSTM_EACH(k) t[k] = fma(-d[k], r[k], splat(1.f));
  OPENLSTM_EACH(k) r[k] = fma(r[k], t[k], r[k]);
}
template <int N>
OPENLSTM_INLINE void reciprocal(const Vec<double> (&d)[N], Vec<double> (&r)[N]) {
  OPENLSTM_EACH(k) r[k] = splat(1.) / d[k];
}

#ifdef OPENLSTM_BFLOAT16
// Beside products of 8 bits' accuracy the last bits of the gates are not worth half of their cost: sigmoid and tanh within 4e-6 of
// their value, by 2^y = 2^n (1 + r q(r)), y = n + r (minimax q of degree 4, relative error 4.3e-7), and the processor's own
// powers of two and reciprocals, with one Newton step so that an open gate is exactly 1; a closed one is 2^-100.
constexpr float log2e = 0x1.715476p+0f, of_2[] = {0x1.62e42ep-1f, 0x1.ebfa4ep-3f, 0x1.c6b26ep-5f, 0x1.3cbe58p-7f, 0x1.5d87dcp-10f};

// y -> n, and r q(r).
template <int N>
OPENLSTM_INLINE void split_power(const Vec<float> (&y)[N], Vec<float> (&n)[N], Vec<float> (&p)[N]) {
  Vec<float> r[N];
  OPENLSTM_EACH(k) n[k] = (Vec<float>)_mm512_roundscale_ps((__m512)y[k], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  OPENLSTM_EACH(k) r[k] = y[k] - n[k], p[k] = splat(of_2[4]);
#pragma GCC unroll 4
  for (int d = 3; d >= 0; d--) OPENLSTM_EACH(k) p[k] = fma(p[k], r[k], splat(of_2[d]));
  OPENLSTM_EACH(k) p[k] = p[k] * r[k];
}
// x 2^n
OPENLSTM_INLINE Vec<float> scale(Vec<float> x, Vec<float> n) { return (Vec<float>)_mm512_scalef_ps((__m512)x, (__m512)n); }
OPENLSTM_INLINE Vec<float> reciprocal(Vec<float> d) {
  Vec<float> r = (Vec<float>)_mm512_rcp14_ps((__m512)d);
  return fma(r, fma(-d, r, splat(1.f)), r);
}

template <class T, int N>
OPENLSTM_INLINE void sigmoid(Vec<T> (&x)[N]) {
  Vec<T> n[N], p[N];
  OPENLSTM_EACH(k) x[k] = (Vec<T>)_mm512_min_ps(_mm512_set1_ps(100), (__m512)(x[k] * splat(-log2e)));  // NaN stays NaN
  split_power(x, n, p);
  OPENLSTM_EACH(k) x[k] = reciprocal(T(1) + scale(p[k] + T(1), n[k]));
}

// m / (2 - m) with m = 1 - 2^y, y = -2 log2(e) |x|.
template <class T, int N>
OPENLSTM_INLINE void tanh(Vec<T> (&x)[N]) {
  constexpr int32_t sign = static_cast<int32_t>(0x80000000);
  Vec<T> y[N], n[N], p[N];
  OPENLSTM_EACH(k) y[k] = at_least(minus_abs<T>(x[k]) * splat(2 * log2e), splat(-100.f));
  split_power(y, n, p);
  OPENLSTM_EACH(k) {
    Vec<T> whole = scale(splat(1.f), n[k]), m = fma(-whole, p[k], T(1) - whole);
    m = m * reciprocal(T(2) - m);
    x[k] = from_bits<T>(bits<T>(m) | (bits<T>(x[k]) & sign));
  }
}
#else
// 1 / (1 + exp(-x)), from e = exp(-|x|) so that both ends are exact: 0 below about -104 (double: -746), 1 above 16.7 (36.8).
// With a = 1 or e and q close to a / (1 + e), a - q is exact (Sterbenz), so a - q - q e takes back what d and q were rounded by.
template <class T, int N>
OPENLSTM_INLINE void sigmoid(Vec<T> (&x)[N]) {
  Vec<T> e[N], d[N], a[N], q[N], r[N], one = splat(T(1));
  OPENLSTM_EACH(k) e[k] = minus_abs<T>(x[k]);
  exp_down<T>(e);
  OPENLSTM_EACH(k) d[k] = one + e[k];
  reciprocal(d, r);
  OPENLSTM_EACH(k) a[k] = x[k] < T(0) ? e[k] : one;
  OPENLSTM_EACH(k) e[k] = d[k] > one ? e[k] : Vec<T>{};  // where e is nothing beside 1 the gate is open
  OPENLSTM_EACH(k) q[k] = a[k] * r[k];
  OPENLSTM_EACH(k) a[k] = fma(-q[k], e[k], a[k] - q[k]);
  OPENLSTM_EACH(k) x[k] = fma(a[k], r[k], q[k]);
}

// tanh(x) = m / (2 - m) with m = -expm1(-2|x|), which keeps its relative accuracy down to the smallest x; odd by construction.
// m - 2q is exact, as a - q in sigmoid.
template <class T, int N>
OPENLSTM_INLINE void tanh(Vec<T> (&x)[N]) {
  using E = Exp<T>;
  using Bit = typename Lane<T>::Bit;
  constexpr Bit sign = static_cast<Bit>(Bit(1) << (8 * sizeof(T) - 1));
  Vec<T> y[N], p[N], m[N], d[N], q[N];
  OPENLSTM_EACH(k) y[k] = minus_abs<T>(x[k]), y[k] = y[k] + y[k];
  OPENLSTM_EACH(k) y[k] = at_least(y[k], splat(-E::tanh_end));
  reduce<0, T>(y, p, q);
  OPENLSTM_EACH(k) m[k] = fma(-q[k], p[k], T(1) - q[k]);
  OPENLSTM_EACH(k) d[k] = T(2) - m[k];
  reciprocal(d, p);
  OPENLSTM_EACH(k) q[k] = m[k] * p[k];
  OPENLSTM_EACH(k) m[k] = fma(q[k], m[k], fma(splat(T(-2)), q[k], m[k]));
  OPENLSTM_EACH(k) q[k] = fma(m[k], p[k], q[k]);
  OPENLSTM_EACH(k) x[k] = from_bits<T>(bits<T>(q[k]) | (bits<T>(x[k]) & sign));
}
#endif

}  // namespace openlstm::OPENLSTM_ISA
