// How matrices are laid out for the products: transposed, in panels.
#pragma once

#include "product/factors.hpp"

namespace openlstm::OPENLSTM_ISA {

// How `columns` are cut into panels: as few as can be of at most four vectors, and as equal as can be, since a register tile
// with a single vector waits for its own sums.
template <class T>
struct Panels {
  index columns, vectors, count;
  OPENLSTM_INLINE explicit Panels(index columns) : columns(columns), vectors((columns + width<T> - 1) / width<T>), count((vectors + 3) / 4) {}
  // f(first column, vectors) for panels [first, last).
  template <class F>
  OPENLSTM_INLINE void each(index first, index last, F f) const {
    for (index k = first; k < last; k++) {
      const index least = vectors / count, more = vectors % count;
      f((k * least + min(k, more)) * width<T>, least + (k < more));
    }
  }
  template <class F>
  OPENLSTM_INLINE void each(F f) const {
    each(0, count, f);
  }
};
// Squares of 16 bytes a side are transposed in registers.
OPENLSTM_INLINE void transpose_square(const float* const* rows, index column, float* out, index stride) {
  typedef float V4 __attribute__((vector_size(16)));
  typedef float U4 __attribute__((vector_size(16), aligned(4)));
  V4 a = *(const U4*)(rows[0] + column), b = *(const U4*)(rows[1] + column), c = *(const U4*)(rows[2] + column), d = *(const U4*)(rows[3] + column);
  V4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  V4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *(U4*)(out) = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  *(U4*)(out + stride) = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  *(U4*)(out + 2 * stride) = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
  *(U4*)(out + 3 * stride) = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
}
OPENLSTM_INLINE void transpose_square(const double* const* rows, index column, double* out, index stride) {
  for (index r = 0; r < 2; r++) out[r] = rows[r][column], out[stride + r] = rows[r][column + 1];
}

// A vector's worth of rows at once: the 16-byte lanes of a vector hold rows 4 (double: 2) apart, and are transposed each for itself.
#if defined(__AVX512F__) && OPENLSTM_VECTOR_BYTES == 64
OPENLSTM_INLINE __m512 gather_lanes(const float* a, const float* b, const float* c, const float* d) {
  __m512 v = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
  return _mm512_insertf32x4(_mm512_insertf32x4(v, _mm_loadu_ps(c), 2), _mm_loadu_ps(d), 3);
}
template <class Row>
OPENLSTM_INLINE void transpose_lanes(Row row, index k, float* out, index stride) {
  __m512 r[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) r[j] = gather_lanes(row(j) + k, row(4 + j) + k, row(8 + j) + k, row(12 + j) + k);
  __m512d ab0 = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1])), ab1 = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
  __m512d cd0 = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3])), cd1 = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
  _mm512_storeu_ps(out, _mm512_castpd_ps(_mm512_unpacklo_pd(ab0, cd0)));
  _mm512_storeu_ps(out + stride, _mm512_castpd_ps(_mm512_unpackhi_pd(ab0, cd0)));
  _mm512_storeu_ps(out + 2 * stride, _mm512_castpd_ps(_mm512_unpacklo_pd(ab1, cd1)));
  _mm512_storeu_ps(out + 3 * stride, _mm512_castpd_ps(_mm512_unpackhi_pd(ab1, cd1)));
}
OPENLSTM_INLINE __m512d gather_lanes(const double* a, const double* b, const double* c, const double* d) {
  __m512d v = _mm512_insertf64x2(_mm512_castpd128_pd512(_mm_loadu_pd(a)), _mm_loadu_pd(b), 1);
  return _mm512_insertf64x2(_mm512_insertf64x2(v, _mm_loadu_pd(c), 2), _mm_loadu_pd(d), 3);
}
template <class Row>
OPENLSTM_INLINE void transpose_lanes(Row row, index k, double* out, index stride) {
  __m512d a = gather_lanes(row(0) + k, row(2) + k, row(4) + k, row(6) + k), b = gather_lanes(row(1) + k, row(3) + k, row(5) + k, row(7) + k);
  _mm512_storeu_pd(out, _mm512_unpacklo_pd(a, b));
  _mm512_storeu_pd(out + stride, _mm512_unpackhi_pd(a, b));
}
#elif defined(__AVX2__) && OPENLSTM_VECTOR_BYTES == 32
template <class Row>
OPENLSTM_INLINE void transpose_lanes(Row row, index k, float* out, index stride) {
  __m256 r[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) r[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(j) + k)), _mm_loadu_ps(row(4 + j) + k), 1);
  __m256d ab0 = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1])), ab1 = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
  __m256d cd0 = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3])), cd1 = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
  _mm256_storeu_ps(out, _mm256_castpd_ps(_mm256_unpacklo_pd(ab0, cd0)));
  _mm256_storeu_ps(out + stride, _mm256_castpd_ps(_mm256_unpackhi_pd(ab0, cd0)));
  _mm256_storeu_ps(out + 2 * stride, _mm256_castpd_ps(_mm256_unpacklo_pd(ab1, cd1)));
  _mm256_storeu_ps(out + 3 * stride, _mm256_castpd_ps(_mm256_unpackhi_pd(ab1, cd1)));
}
template <class Row>
OPENLSTM_INLINE void transpose_lanes(Row row, index k, double* out, index stride) {
  __m256d r[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; j++) r[j] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(row(j) + k)), _mm_loadu_pd(row(2 + j) + k), 1);
  _mm256_storeu_pd(out, _mm256_unpacklo_pd(r[0], r[1]));
  _mm256_storeu_pd(out + stride, _mm256_unpackhi_pd(r[0], r[1]));
}
#else
template <class Row, class T>
OPENLSTM_INLINE void transpose_lanes(Row row, index k, T* out, index stride) {
  constexpr index side = 16 / sizeof(T);
  for (index r = 0; r < width<T>; r += side) {
    const T* rows[side];
    for (index s = 0; s < side; s++) rows[s] = row(r + s);
    transpose_square(rows, k, out + r, stride);
  }
}
#endif

// out[k * stride + r] = row(r)[first + k], for r < n and k < K.
template <class T, class Row>
OPENLSTM_INLINE void transpose(Row row, index n, index first, index K, T* out, index stride) {
  constexpr index side = 16 / sizeof(T);
  index r = 0;
  for (; r + width<T> <= n; r += width<T>) {
    auto from = [&](index s) { return row(r + s) + first; };
    index k = 0;
    for (; k + side <= K; k += side) transpose_lanes(from, k, out + k * stride + r, stride);
    for (; k < K; k++)
      for (index s = 0; s < width<T>; s++) out[k * stride + r + s] = from(s)[k];
  }
  for (; r + side <= n; r += side) {
    const T* rows[side];
    for (index s = 0; s < side; s++) rows[s] = row(r + s) + first;
    index k = 0;
    for (; k + side <= K; k += side) transpose_square(rows, k, out + k * stride + r, stride);
    for (; k < K; k++)
      for (index s = 0; s < side; s++) out[k * stride + r + s] = rows[s][k];
  }
  for (; r < n; r++) {
    const T* source = row(r) + first;
    for (index k = 0; k < K; k++) out[k * stride + r] = source[k];
  }
}

// out[k * stride + r] = factor k of row r, for r < n rows of K numbers that were given.
template <class T>
static void pack_columns(const Given<T>* rows, index n, index K, T* out, index stride) {
  if constexpr (in_factor == 1) {
    transpose([&](index r) { return rows + r * K; }, n, 0, K, out, stride);
  } else if (lies_as_factors(rows, K)) {
    transpose([&](index r) { return reinterpret_cast<const T*>(rows + r * K); }, n, 0, factors(K), out, stride);
  } else {  // odd rows: pairs are put together first, so many at a time
    constexpr index most_rows = width<T>, most = 128;
    T room[most_rows * most];
    for (index r = 0; r < n; r += most_rows)
      for (index k = 0; k < K; k += in_factor * most) {
        const index count = min(most_rows, n - r), numbers = min(in_factor * most, K - k);
        for (index j = 0; j < count; j++) copy_factors(rows + (r + j) * K + k, numbers, room + j * most);
        transpose([&](index j) { return static_cast<const T*>(room) + j * most; }, count, 0, factors(numbers), out + k / in_factor * stride + r, stride);
      }
  }
}

// Zeros from the end of K numbers on, in a panel whose factors end at `out`.
template <class T>
OPENLSTM_INLINE void pad_panel(T* out, index K, index vectors) {
  if constexpr (align > 1) clear(out, (factors(K) - (K + in_factor - 1) / in_factor) * vectors * width<T>);
}

// Panels [first, last) of a matrix whose K rows are reached through pointers.
template <class T>
static void pack_rows(const Given<T>* const* rows, index K, index first, index last, index columns, T* panels) {
  Panels<T>(columns).each(first, last, [&](index column, index vectors) {
    T* out = panels + factors(K) * column;
    for (index k = 0; k < K; k += in_factor, out += vectors * width<T>) {
      const Given<T>*source = rows[k] + column, *next = k + 1 < K ? rows[k + 1] + column : nullptr;
      for (index n = 0; n < vectors; n++) {
        const index at = n * width<T>, lanes = columns - column - at;
        if constexpr (in_factor == 1)
          store(out + at, load(source + at, lanes));
        else
          store(out + at, side_by_side(load(source + at, lanes), next ? load(next + at, lanes) : Vec<T>{}));
      }
    }
    pad_panel(out, K, vectors);
  });
}

// Row k of panels with K rows; zeros where source is null. Rows may be put down by several threads at once.
template <class T>
static void pack_row(const T* source, index k, index K, index columns, T* panels) {
  Panels<T>(columns).each([&](index column, index vectors) {
    T* out = panels + factors(K) * column + k / in_factor * vectors * width<T>;
    for (index n = 0; n < vectors; n++) {
      const index at = column + n * width<T>;
      const Vec<T> v = source ? load(source + at, columns - at) : Vec<T>{};
      if constexpr (in_factor == 1)
        store(out + n * width<T>, v);
      else if (k + 1 == K && k % 2 == 0)
        store(out + n * width<T>, side_by_side(v, Vec<T>{}));
      else
        store_half(out + n * width<T>, v, k % 2);
    }
    if (k + 1 == K) pad_panel(out + vectors * width<T>, K, vectors);
  });
}

// Panels [first, last) of the transpose of w [columns, K].
template <class T>
static void pack_transposed(const Given<T>* w, index K, index first, index last, index columns, T* panels) {
  constexpr index W = width<T>;
  Panels<T>(columns).each(first, last, [&](index column, index vectors) {
    T* out = panels + factors(K) * column;
    if (columns - column < vectors * W) clear(out, factors(K) * vectors * W);
    pack_columns<T>(w + column * K, min(columns - column, vectors * W), K, out, vectors * W);
  });
}

// For the gradients of weights the tokens become the axis that is summed over: d [tokens, rows] is turned into [rows, tokens] in
// factors, `turned_stride` apart.
constexpr index gradient_rows = 16 * max_rows;  // that are turned at once: their tokens stay in the cache

OPENLSTM_INLINE index turned_stride(index tokens) { return (factors(tokens) + 15) / 16 * 16 + 16; }

template <class T>
static index turned_size(index tokens) {
  return gradient_rows * (turned_stride(tokens) + (in_factor > 1 ? factors(tokens) : 0));
}

template <class T>
static void turn(const T* d, index between_tokens, index tokens, index rows, T* room) {
  const index stride = turned_stride(tokens);
  if constexpr (in_factor == 1) {
    transpose([&](index token) { return d + token * between_tokens; }, tokens, 0, rows, room, stride);
  } else {
    T* paired = room + gradient_rows * stride;  // [tokens, rows], two tokens' numbers in one
    for (index k = 0; k < in_factor * factors(tokens); k += 2) {
      const T *even = d + k * between_tokens, *odd = even + between_tokens;
      for (index r = 0; r < rows; r += width<T>) {
        const index lanes = rows - r;
        store(paired + k / 2 * gradient_rows + r, side_by_side(k < tokens ? load(even + r, lanes) : Vec<T>{}, k + 1 < tokens ? load(odd + r, lanes) : Vec<T>{}),
              lanes);
      }
    }
    transpose([&](index k) { return static_cast<const T*>(paired) + k * gradient_rows; }, factors(tokens), 0, rows, room, stride);
  }
}

}  // namespace openlstm::OPENLSTM_ISA
