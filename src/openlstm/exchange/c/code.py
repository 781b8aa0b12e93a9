"""The C that does not depend on a model. `@` stands for what the names of a header begin with."""

from __future__ import annotations

import re

FMA = """\
#ifdef __FP_FAST_FMAF
#define @fma(a, b, c) __builtin_fmaf(a, b, c)
#else
#define @fma(a, b, c) ((a) * (b) + (c))
#endif
#if defined(__GNUC__)
#define @aligned __attribute__((aligned(64)))
#define @restrict __restrict__
#else
#define @aligned
#define @restrict
#endif
"""

BASE = """\
static inline float @from_bits(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
static inline uint32_t @to_bits(float x) { uint32_t bits; memcpy(&bits, &x, sizeof bits); return bits; }

/* a where yes is 1, b where it is 0: without a branch, so that loops around it are vectorised. */
static inline float @pick(int yes, float a, float b) {
  const uint32_t mask = 0u - (uint32_t)yes;
  return @from_bits((@to_bits(a) & mask) | (@to_bits(b) & ~mask));
}

/* x within -end .. end; NaN stays NaN. */
static inline float @clamp(float x, float end) {
  x = @pick(x < -end, -end, x);
  return @pick(x > end, end, x);
}

/* exp(x) = scale (1 + p) 2^-extra, with scale in the normal range: p = expm1(x - n ln 2) by a polynomial. */
static inline float @exp_split(float x, float extra, float *scale) {
  const float magic = 12582912.f + (127.f + extra); /* 1.5 2^23: adding it rounds to whole numbers, in the lowest bits */
  const uint32_t bits = @to_bits(@fma(x, 1.44269502f, magic));
  const float n = (float)(int32_t)(bits - @to_bits(magic));
  const float r = @fma(n, 2.12194442e-4f, @fma(n, -0.693359375f, x));
  float q = @fma(1.39464601e-3f, r, 8.36658385e-3f);
  q = @fma(q, r, 4.16662805e-2f);
  q = @fma(q, r, 1.66665435e-1f);
  q = @fma(q, r, 0.5f);
  *scale = @from_bits(bits << 23);
  return @fma(r * r, q, r);
}
"""

QUICK = """\
static inline float @exp(float x) {
  float scale;
  const float p = @exp_split(@clamp(x, 87.f), 0.f, &scale);
  return @fma(p, scale, scale);
}

static inline float @sigmoid(float x) { return 1.f / (1.f + @exp(-x)); }

/* m / (m + 2) with m = expm1(2 x), accurate relative to itself down to the smallest x. */
static inline float @tanh(float x) {
  float scale;
  const float p = @exp_split(@clamp(x + x, 87.f), 0.f, &scale), m = @fma(scale, p, scale - 1.f);
  return m / (m + 2.f);
}

/* log(1 + e) for 0 <= e <= 1. */
static inline float @log1p(float e) {
  const float v = e - 0.5f;
  float q = -3.31848161e-3f;
  q = @fma(q, v, 6.93069631e-3f);
  q = @fma(q, v, -1.01777008e-2f);
  q = @fma(q, v, 1.66569855e-2f);
  q = @fma(q, v, -2.89050005e-2f);
  q = @fma(q, v, 5.10890596e-2f);
  q = @fma(q, v, -9.32318568e-2f);
  q = @fma(q, v, 1.79224893e-1f);
  q = @fma(q, v, -3.78139555e-1f);
  return @fma(e * e, q, e);
}

static inline float @log_sigmoid(float x) {
  return @pick(x < 0.f, x, 0.f) - @log1p(@exp(@pick(x < 0.f, x, -x)));
}

/* log(x) for x above 0: 2^n m with m in 1 .. 2. */
static inline float @log(float x) {
  const uint32_t bits = @to_bits(x);
  const float n = (float)((int)(bits >> 23) - 127);
  return @fma(n, 0.693147182f, @log1p(@from_bits((bits & 0x7fffffu) | 0x3f800000u) - 1.f));
}

/* x + 1/2 where x >= 0, else sigmoid(x). */
static inline float @positive(float x) { return @pick(x >= 0.f, x + 0.5f, @sigmoid(x)); }

/* 1 / sqrt(x) by Newton steps, for x above 0. */
static inline float @rsqrt(float x) {
  float r = @from_bits(0x5f3759dfu - (@to_bits(x) >> 1));
  for (int k = 0; k < 4; k++) r = @fma(0.5f * r, @fma(-x * r, r, 1.f), r);
  return r;
}

/* By Newton steps, for x of any size. */
static inline double @sqrt(double x) {
  uint64_t bits;
  double r;
  memcpy(&bits, &x, sizeof bits);
  bits = 0x5fe6eb50c7b537a9u - (bits >> 1);
  memcpy(&r, &bits, sizeof r);
  for (int k = 0; k < 5; k++) r *= 1.5 - 0.5 * x * r * r;
  return x > 0. ? x * r : 0.;
}

/* Mean, and 1 / sqrt(variance + 1e-5), of rows of n numbers that are `stride` apart. */
static inline void @moments(const float *s, int rows, int stride, int n, float *mean, float *scale) {
  float sum[16] = {0}, squares[16] = {0};
  for (int g = 0; g < rows; g++)
    for (int j = 0; j < n; j++) sum[j & 15] += s[g * stride + j];
  for (int k = 8; k > 0; k /= 2)
    for (int j = 0; j < k; j++) sum[j] += sum[j + k];
  *mean = sum[0] / (float)(rows * n);
  for (int g = 0; g < rows; g++)
    for (int j = 0; j < n; j++) {
      const float d = s[g * stride + j] - *mean;
      squares[j & 15] = @fma(d, d, squares[j & 15]);
    }
  for (int k = 8; k > 0; k /= 2)
    for (int j = 0; j < k; j++) squares[j] += squares[j + k];
  *scale = @rsqrt(squares[0] / (float)(rows * n) + 1e-5f);
}
"""

EXACT = """\
/* Close to 1 / d for d in 1 .. 2. */
static inline float @reciprocal(float d) {
  float r = @fma(-0.221837088f, d, 1.3310225f);
  r = @fma(r, d, -2.93934131f);
  r = @fma(r, d, 2.82842278f);
  return @fma(r, @fma(-d, r, 1.f), r);
}

/* 1 / (1 + exp(-x)) from e = exp(-|x|); a - q is exact, and takes back what d and q were rounded by. */
static inline float @sigmoid(float x) {
  float scale, e = @from_bits(@to_bits(x) | 0x80000000u);
  e = @pick(e < -110.f, -110.f, e);
  const float p = @exp_split(e, 64.f, &scale);
  e = @fma(p, scale, scale) * 5.42101086e-20f;
  const float d = 1.f + e, r = @reciprocal(d), a = @pick(x < 0.f, e, 1.f), q = a * r;
  return @fma(@fma(-q, @pick(d > 1.f, e, 0.f), a - q), r, q);
}

/* m / (2 - m) with m = -expm1(-2 |x|). */
static inline float @tanh(float x) {
  float scale, y = @from_bits(@to_bits(x) | 0x80000000u);
  y = @pick(y + y < -40.f, -40.f, y + y);
  const float p = @exp_split(y, 0.f, &scale), m = @fma(-scale, p, 1.f - scale), r = @reciprocal(2.f - m), q = m * r;
  return @from_bits(@to_bits(@fma(@fma(q, m, @fma(-2.f, q, m)), r, q)) | (@to_bits(x) & 0x80000000u));
}
"""
"""`native/vector/functions.hpp` word by word: beside 8 bits a last bit decides how the next h is rounded."""

SUMS = """\
/* z[g][j] += sum over k of w[k][g][j] v[k], for {unit} units of {gates} gates whose rows of z are {stride} apart. */
static inline void @{name}(float *@restrict z, const float *@restrict w, const float *@restrict v, int n) {{
  float sum[{gates}][{unit}];
  for (int g = 0; g < {gates}; g++)
    for (int j = 0; j < {unit}; j++) sum[g][j] = @fma(w[g * {unit} + j], v[0], z[g * {stride} + j]);
  for (int k = 1; k < n; k++) {{
    w += {gates} * {unit};
    for (int g = 0; g < {gates}; g++)
      for (int j = 0; j < {unit}; j++) sum[g][j] = @fma(w[g * {unit} + j], v[k], sum[g][j]);
  }}
  for (int g = 0; g < {gates}; g++)
    for (int j = 0; j < {unit}; j++) z[g * {stride} + j] = sum[g][j];
}}
"""

SUMS_INT8 = """\
/* z[g][j] += s scale[g][j] sum over k of w[k][g][j] q[k], for {unit} units of {gates} gates whose rows are {stride} apart. */
static inline void @{name}(float *@restrict z, const int8_t *@restrict w, const float *@restrict scale,
                            const int8_t *@restrict q, float s, int n) {{
  int32_t sum[{gates}][{unit}] = {{{{0}}}};
  for (int k = 0; k < n; k++, w += {gates} * {unit})
    for (int g = 0; g < {gates}; g++)
      for (int j = 0; j < {unit}; j++) sum[g][j] += (int32_t)w[g * {unit} + j] * q[k];
  for (int g = 0; g < {gates}; g++)
    for (int j = 0; j < {unit}; j++)
      z[g * {stride} + j] = @fma((float)sum[g][j] * scale[g * {stride} + j], s, z[g * {stride} + j]);
}}
"""

ROUND = """\
/* v[n] in 8 bits: q = v / scale to the nearest whole number, ties to even; scale = max |v| / 127, rounded up to 17 bits. */
static inline float @round(const float *@restrict v, int n, int8_t *@restrict q) {
  uint32_t most = 0;
  for (int k = 0; k < n; k++) {
    const uint32_t bits = @to_bits(v[k]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  const int whole = most < 0x7f800000u; /* no NaN and no infinity */
  float scale = @from_bits(whole ? most : 0u) / 127.f;
  scale = scale < 6.21150317e-33f ? 6.21150317e-33f : scale;
  scale = @from_bits((@to_bits(scale) + 0x7fu) & ~0x7fu);
  const float inverse = 1.f / scale;
  for (int k = 0; k < n; k++)
    q[k] = (int8_t)(uint8_t)(@to_bits((whole ? v[k] : 0.f) * inverse + 12582912.f) & 0xffu);
  return whole ? scale : @from_bits(0x7fc00000u);
}
"""


DENSE = """\
/* w v + b for so many blocks of 16 rows. */
static inline void @dense(float *out, const float *w, const float *b, const float *v, int n, int blocks) {
  memcpy(out, b, (size_t)blocks * 16 * sizeof *out);
  for (int k = 0; k < blocks; k++) @rows(out + k * 16, w + k * 16 * n, v, n);
}
"""


def used(body: str, int8: bool) -> str:
    """Those functions of the library that a text calls, and those that they call."""
    found: dict[str, str] = {}
    for text in (BASE, *((EXACT, ROUND) if int8 else ()), QUICK):
        for function in re.split(r"\n\n|\n(?=static inline uint32_t @to_bits)", text):
            name = re.search(r"static inline \w+ (@\w+)\(", function)
            if name:
                found.setdefault(name[1], function.strip("\n"))
    kept: list[str] = []
    for name, function in reversed(found.items()):
        if f"{name}(" in "\n".join([body, *kept]):
            kept.insert(0, function)
    return "\n\n".join(kept) + "\n"
