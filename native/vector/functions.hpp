// exp, sigmoid, tanh and the logarithm of sigmoid of vectors.
#pragma once

#include "vector/vec.hpp"

namespace openlstm::OPENLSTM_ISA {

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

// 1 / (1 + exp(-x)) from e = exp(-|x|), in place of e. With a = 1 or e and q close to a / (1 + e), a - q is exact (Sterbenz), so
// a - q - q e takes back what d and q were rounded by.
template <class T, int N>
OPENLSTM_INLINE void share_of(const Vec<T> (&x)[N], Vec<T> (&e)[N]) {
  Vec<T> d[N], a[N], q[N], r[N], one = splat(T(1));
  OPENLSTM_EACH(k) d[k] = one + e[k];
  reciprocal(d, r);
  OPENLSTM_EACH(k) a[k] = x[k] < T(0) ? e[k] : one;
  OPENLSTM_EACH(k) e[k] = d[k] > one ? e[k] : Vec<T>{};  // where e is nothing beside 1 the gate is open
  OPENLSTM_EACH(k) q[k] = a[k] * r[k];
  OPENLSTM_EACH(k) a[k] = fma(-q[k], e[k], a[k] - q[k]);
  OPENLSTM_EACH(k) e[k] = fma(a[k], r[k], q[k]);
}

// log(sigmoid(x)) = min(x, 0) - log(1 + e) from e = exp(-|x|); log(1 + e) = e + e^2 q(e - 1/2) with a minimax q (Remez, relative
// error 5e-9 for float, 1e-17 for double), so that it is accurate relative to itself also where the gate is open.
template <class T>
struct Log;
template <>
struct Log<float> {
  static constexpr float q[] = {-0x1.833704p-2f, 0x1.6f0d76p-3f,  -0x1.7de0bp-4f, 0x1.a28586p-5f, -0x1.d9945cp-6f,
                                0x1.10e876p-6f,  -0x1.4d80bep-7f, 0x1.c635cap-8f, -0x1.b2f5c4p-9f};
};
template <>
struct Log<double> {
  static constexpr double q[] = {-0x1.833704d019ed0p-2,  0x1.6f0d7bd624beep-3,   -0x1.7ddf1fe86ababp-4,  0x1.a279c04c78328p-5,   -0x1.da34824888254p-6,
                                 0x1.131116fc39950p-6,   -0x1.44ba45d9b1a5ap-7,  0x1.84904ec05c89dp-8,   -0x1.d5faf1e0328afp-9,  0x1.1ebd459b918c8p-9,
                                 -0x1.6075f5b141057p-10, 0x1.b3dcf897c66c6p-11,  -0x1.0ed0b469204a9p-11, 0x1.532dbbeb9c406p-12,  -0x1.ada9bbc8154f1p-13,
                                 0x1.0715f92968a3ap-13,  -0x1.2a2957a214d53p-14, 0x1.ba754089de56dp-15,  -0x1.ace1ce729d744p-15, 0x1.a8f711683b728p-16};
};
template <class T, int N>
OPENLSTM_INLINE void log_share_of(const Vec<T> (&x)[N], const Vec<T> (&e)[N], Vec<T> (&log)[N]) {
  constexpr int degree = sizeof(Log<T>::q) / sizeof(T) - 1;
  Vec<T> v[N], q[N];
  OPENLSTM_EACH(k) v[k] = e[k] - T(0.5), q[k] = splat(Log<T>::q[degree]);
#pragma GCC unroll 20
  for (int d = degree - 1; d >= 0; d--) OPENLSTM_EACH(k) q[k] = fma(q[k], v[k], splat(Log<T>::q[d]));
  OPENLSTM_EACH(k) q[k] = fma(e[k] * e[k], q[k], e[k]);
  OPENLSTM_EACH(k) log[k] = (x[k] < T(0) ? x[k] : Vec<T>{}) - q[k];
}

// exp(-|x|)
template <class T, int N>
OPENLSTM_INLINE void exp_minus_abs(const Vec<T> (&x)[N], Vec<T> (&e)[N]) {
  OPENLSTM_EACH(k) e[k] = minus_abs<T>(x[k]);
  exp_down<T>(e);
}

#if defined(OPENLSTM_BFLOAT16) && defined(__AVX512F__)
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
template <class T, int N>
OPENLSTM_INLINE void sigmoid(Vec<T> (&x)[N]) {
  Vec<T> e[N];
  exp_minus_abs<T>(x, e);
  share_of<T>(x, e);
  OPENLSTM_EACH(k) x[k] = e[k];
}

// tanh(x) = m / (2 - m) with m = -expm1(-2|x|), which keeps its relative accuracy down to the smallest x; odd by construction.
// m - 2q is exact, as a - q in share_of.
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
