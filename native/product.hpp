// The one product of the engine: rows times a packed panel, summed over k in order, in a register tile.
//
// Every output is one chain of multiply-adds over k, whatever the tile, the vector width or the thread, so its bits depend on
// its own row and column alone. A panel holds up to four vectors of columns for all k, side by side: [K][N][width].
#pragma once

#include "factors.hpp"
#include "scratch.hpp"

namespace openlstm::OPENLSTM_ISA {

template <int N>
struct Count {
  static constexpr int value = N;
};

// acc[m][n] += x[m][k] * p[k][n], for the factors k = 0 .. K-1 in this order. p moves on to what follows the panel.
// U panels, `apart` from each other, are gone through side by side: acc[u * M + m] is row m of panel u.
// The sums are copied into an array that is only ever indexed by constants: otherwise GCC 12 stores all of them at every k.
template <class T, int M, int N, int U = 1>
OPENLSTM_INLINE void product(Vec<T> (*acc)[N], const T* const* x, index K, const T*& p, index apart = 0) {
  const T* row[M];
  Vec<T> sum[U * M][N];
#pragma GCC unroll 6
  for (int m = 0; m < M; m++) row[m] = x[m];
#pragma GCC unroll 6
  for (int m = 0; m < U * M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) sum[m][n] = acc[m][n];
  }
  for (index k = 0; k < K; k++, p += N * width<T>) {
#pragma GCC unroll 6
    for (int u = 0; u < U; u++) {
      Vec<T> w[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) w[n] = load(p + u * apart + n * width<T>);
#pragma GCC unroll 6
      for (int m = 0; m < M; m++) {
        Vec<T> b = spread(row[m] + k);
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[u * M + m][n] = multiply_add(b, w[n], sum[u * M + m][n]);
      }
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < U * M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) acc[m][n] = sum[m][n];
  }
}

// Cut n rows into tiles of at most max_rows and of heights as equal as can be: f(Count<height>, first row).
template <class F>
OPENLSTM_INLINE void in_tiles(index n, F f) {
  index tiles = (n + max_rows - 1) / max_rows;
  for (index k = 0, first = 0; k < tiles; k++) {
    index height = n / tiles + (k < n % tiles);
    switch (height) {
      case 1: f(Count<1>{}, first); break;
      case 2: f(Count<2>{}, first); break;
#if OPENLSTM_ROWS > 2
      case 3: f(Count<3>{}, first); break;
#endif
#if OPENLSTM_ROWS > 3
      case 4: f(Count<4>{}, first); break;
      case 5: f(Count<5>{}, first); break;
      case 6: f(Count<6>{}, first); break;
#endif
    }
    first += height;
  }
}

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
      f((k * least + smaller(k, more)) * width<T>, least + (k < more));
    }
  }
  template <class F>
  OPENLSTM_INLINE void each(F f) const {
    each(0, count, f);
  }
};
// Elements of all panels of a matrix [K, columns].
template <class T>
OPENLSTM_INLINE index panel_size(index K, index columns) {
  return factors(K) * ((columns + width<T> - 1) / width<T>)*width<T>;
}

enum class Into { store, add };

template <Into into, class T, class Out, int M, int N>
static void multiply_tile(const T* const* x, Out* const* out, index K, const T* panel, index column, index columns) {
  Vec<T> acc[M][N] = {};
  product<T, M, N>(acc, x, K, panel);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) {
      index at = column + n * width<T>, lanes = columns - at;
      if (into == Into::add) acc[m][n] = load(out[m] + at, lanes) + acc[m][n];
      store(out[m] + at, acc[m][n], lanes);
    }
}

// out[m][0..columns) = (or +=) x[m] . panels, for n rows of the factors of K numbers, reached through pointers.
template <Into into, class T, class Out>
static void multiply(const T* const* x, Out* const* out, index n, index K, const T* panels, index columns) {
  Panels<T>(columns).each([&](index column, index vectors) {
    const T* panel = panels + factors(K) * column;
    in_tiles(n, [&](auto height, index first) {
      constexpr int M = decltype(height)::value;
      switch (vectors) {
        case 1: multiply_tile<into, T, Out, M, 1>(x + first, out + first, factors(K), panel, column, columns); break;
        case 2: multiply_tile<into, T, Out, M, 2>(x + first, out + first, factors(K), panel, column, columns); break;
        case 3: multiply_tile<into, T, Out, M, 3>(x + first, out + first, factors(K), panel, column, columns); break;
        default: multiply_tile<into, T, Out, M, 4>(x + first, out + first, factors(K), panel, column, columns);
      }
    });
  });
}

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

// out[k * stride + r] = factor k of row(r), for r < n rows of K numbers that were given.
template <class T, class Row>
OPENLSTM_INLINE void transpose_factors(Row row, index n, index K, T* out, index stride) {
  if constexpr (in_factor == 1) {
    transpose(row, n, 0, K, out, stride);
  } else {
    const index each = factors(K);
    const bool copied = n > 0 && !lies_as_factors(row(0), K);
    Scratch<T> room(copied ? n * each : 0);
    if (copied)
      for (index r = 0; r < n; r++) as_factors(row(r), K, room + r * each);
    transpose([&](index r) { return copied ? room + r * each : reinterpret_cast<const T*>(row(r)); }, n, 0, each, out, stride);
  }
}

// Panels [first, last) of a matrix whose K rows are reached through row(k).
template <class T, class Row>
OPENLSTM_INLINE void pack_panels(Row row, index K, index first, index last, index columns, T* panels) {
  Panels<T>(columns).each(first, last, [&](index column, index vectors) {
    T* out = panels + factors(K) * column;
    for (index k = 0; k < K; k += in_factor, out += vectors * width<T>) {
      const auto *source = row(k) + column, *next = k + 1 < K ? row(k + 1) + column : nullptr;
      for (index n = 0; n < vectors; n++) {
        const index at = n * width<T>, lanes = columns - column - at;
        if constexpr (in_factor == 1)
          store(out + at, load(source + at, lanes));
        else
          store(out + at, side_by_side(load(source + at, lanes), next ? load(next + at, lanes) : Vec<T>{}));
      }
    }
  });
}

// Row k of panels with K rows; zeros where source is null. Rows may be put down by several threads at once.
template <class T>
OPENLSTM_INLINE void pack_row(const T* source, index k, index K, index columns, T* panels) {
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
  });
}

// Panels [first, last) of the transpose of w [columns, K].
template <class T>
OPENLSTM_INLINE void pack_transposed(const Given<T>* w, index K, index first, index last, index columns, T* panels) {
  constexpr index W = width<T>;
  Panels<T>(columns).each(first, last, [&](index column, index vectors) {
    T* out = panels + factors(K) * column;
    if (columns - column < vectors * W) clear(out, factors(K) * vectors * W);
    transpose_factors<T>([&](index r) { return w + (column + r) * K; }, smaller(columns - column, vectors * W), K, out, vectors * W);
  });
}

}  // namespace openlstm::OPENLSTM_ISA
