// How rows are cut into tiles, and rows times a panel in registers: the innermost loop of products.
#pragma once

#include "product/factors.hpp"

namespace openlstm::OPENLSTM_ISA {

// Cut n rows into tiles of at most max_rows and of heights as equal as can be: f(Count<height>, first row).
template <class F>
OPENLSTM_INLINE void in_tiles(index n, F f) {
  index tiles = n > 0, least = n, more = 0;
  if (n > max_rows) tiles = (n + max_rows - 1) / max_rows, least = n / tiles, more = n - least * tiles;
  for (index k = 0, first = 0; k < tiles; k++) {
    const index height = least + (k < more);
    with_count<max_rows>(height, [&](auto rows) { f(rows, first); });
    first += height;
  }
}

// acc[m][n] += x[m][k] * p[k][n], for the factors k = 0 .. K-1 in this order.
// U panels, `stride` numbers apart, are gone through side by side: acc[u * M + m] is row m of panel u.
// The sums are copied into an array that is only ever indexed by constants: otherwise GCC 12 stores all of them at every k.
template <class T, int M, int N, int U = 1>
OPENLSTM_INLINE void product(Vec<T> (*acc)[N], const T* const* x, index first, index K, const T* p, index stride = 0) {
  const T* row[M];
  Vec<T> sum[U * M][N];
#pragma GCC unroll 6
  for (int m = 0; m < M; m++) row[m] = x[m] + first;
#pragma GCC unroll 6
  for (int m = 0; m < U * M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) sum[m][n] = acc[m][n];
  }
  for (index k = 0; k < K; k++, p += N * width<T>) {
#pragma GCC unroll 2
    for (int u = 0; u < U; u++) {
      Vec<T> w[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) w[n] = load(p + u * stride + n * width<T>);
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

}  // namespace openlstm::OPENLSTM_ISA
