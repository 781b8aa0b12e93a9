// The one product of the engine: rows times packed panels, summed over k in order, in a register tile. Compiled once for each
// instruction set, with -DOPENLSTM_ISA=<its name>.
//
// Every output is one chain of multiply-adds over k, whatever the tile, the vector width, the thread or the cut of k into blocks,
// so its bits depend on its own row and column alone.
#include "kernels.hpp"
#include "product/packing.hpp"
#include "product/panel.hpp"

namespace openlstm::OPENLSTM_ISA {

// Tiles of units ----------------------------------------------------------------------------------------------------------

// Rows [row, row + M) of tiles u .. u + U - 1, over the factors [first, last).
template <class T, int M, int N, int U>
static void tile(const TileProduct<T>& p, index row, index u, index first, index last) {
  constexpr index W = width<T>;
  Vec<T> acc[U * M][N];
  T* const sums = p.sums + u * p.between_sums + row * p.between_rows;
  if (p.bias && first == 0) {
    for (int t = 0; t < U; t++) {
      const T* bias = p.bias + (u + t) * p.between_panels;
      for (int n = 0; n < N; n++)
        for (int m = 0; m < M; m++) acc[t * M + m][n] = load(bias + n * W);
      for (index n = N; n < p.biases; n++)
        for (int m = 0; m < M; m++) store(sums + t * p.between_sums + m * p.between_rows + n * W, load(bias + n * W));
    }
  } else {
    for (int m = 0; m < U * M; m++)
      for (int n = 0; n < N; n++) acc[m][n] = load(sums + m / M * p.between_sums + m % M * p.between_rows + n * W);
  }
  product<T, M, N, U>(acc, p.x + row, p.from + first, last - first, p.panel + u * p.between_panels + first * N * W, p.between_panels);
  for (int m = 0; m < U * M; m++)
    for (int n = 0; n < N; n++) store(sums + m / M * p.between_sums + m % M * p.between_rows + n * W, acc[m][n]);
}

template <class T, int N>
static void tiles_of(const TileProduct<T>& p) {
  const index height = min<index>(p.rows, max_rows);
  const index together = 2 * height <= max_rows && p.tiles > 1 ? 2 : 1;  // a single panel and few rows wait for their own sums
  for (index done = 0; done < p.tiles; done += together) {
    const index count = min(together, p.tiles - done), u = p.back ? p.tiles - done - count : done;
    index first = 0;
    do {
      const index last = min(first + p.block, p.factors);
      in_tiles(p.rows, [&](auto rows, index row) {
        constexpr int M = decltype(rows)::value;
        if constexpr (2 * M <= max_rows)
          if (count == 2) return tile<T, M, N, 2>(p, row, u, first, last);
        tile<T, M, N, 1>(p, row, u, first, last);
      });
      first = last;
    } while (first < p.factors);
  }
}

template <class T>
static void tiles(const TileProduct<T>& p) {
  with_count<panel_vectors>(p.vectors, [&](auto vectors) { tiles_of<T, decltype(vectors)::value>(p); });
}

// Whole rows --------------------------------------------------------------------------------------------------------------

template <class T, class Out, int M, int N>
static void multiply_tile(const RunsProduct<T, Out>& p, index row, index column, bool add) {
  const index K = factors(p.run);
  Vec<T> acc[M][N] = {};
  product<T, M, N>(acc, p.x + row, p.from, K, p.panels + K * column);
  for (index run = 1; run < p.runs; run++) product<T, M, N>(acc, p.x + row, p.from + run * p.between, K, p.panels + run * p.between_panels + K * column);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) {
      const index at = column + n * width<T>, lanes = p.columns - at;
      Out* out = p.out[row + m] + p.to + at;
      store(out, add ? load(out, lanes) + acc[m][n] : acc[m][n], lanes);
    }
}

template <class T, class Out>
static void multiply_panels(const RunsProduct<T, Out>& p, bool add) {
  Panels<T>(p.columns).each([&](index column, index vectors) {
    in_tiles(p.rows, [&](auto rows, index first) {
      with_count<panel_vectors>(vectors, [&](auto vectors) { multiply_tile<T, Out, decltype(rows)::value, decltype(vectors)::value>(p, first, column, add); });
    });
  });
}
template <class T, class Out>
static void multiply(const T* const* x, Out* const* out, index n, index K, const T* panels, index columns) {
  multiply_panels<T, Out>({x, out, n, 0, 1, 0, K, panels, 0, 0, columns}, false);
}
template <class T>
static void multiply_runs(const RunsProduct<T>& p) {
  multiply_panels<T, T>(p, false);
}

// Gradients of weights ----------------------------------------------------------------------------------------------------

template <class T>
static void add_gradient(const WeightGradient<T>& g) {
  const index stride = turned_stride(g.tokens);
  const T* in[gradient_rows];
  T* out[gradient_rows];
  for (index k = 0; k < g.rows; k++) in[k] = g.turned + (g.first + k) * stride, out[k] = g.dw + k * g.columns;
  multiply_panels<T, T>({in, out, g.rows, 0, 1, 0, g.tokens, g.panels, 0, 0, g.columns}, true);
}

// Multiply-adds on registers alone, in as many chains as the product's tile has: the limit of what the product can reach.
template <class T>
static double peak(index rounds) {
  constexpr int chains = 4 * max_rows;
  Vec<T> acc[chains], a = splat(T(0.999)), b = splat(T(1e-3));
#pragma GCC unroll 24
  for (int n = 0; n < chains; n++) acc[n] = splat(T(n));  // all different, lest the compiler work out one of them only
  for (index k = 0; k < rounds; k++)
#pragma GCC unroll 24
    for (int n = 0; n < chains; n++) acc[n] = multiply_add(a, b, acc[n]);
  Vec<T> sum{};
  for (int n = 0; n < chains; n++) sum = sum + acc[n];
  volatile T sink = sum[0];
  (void)sink;
  return 2. * in_factor * chains * static_cast<double>(width<T>) * static_cast<double>(rounds);
}

// The table ---------------------------------------------------------------------------------------------------------------

template <class T>
static const T* factors_of(const T* row, index n, T* room) {
  return as_factors(row, n, room);
}
template <class T>
static const T* factors_of_given(const Given<T>* row, index n, T* room) {
  return as_factors(row, n, room);
}
template <class T>
static const T* numbers_of_given(const Given<T>* row, index n, T* room) {
  return as_numbers(row, n, room);
}
template <class T>
static void convert(const T* from, Given<T>* to, index n) {
  give_out(from, to, n);
}

#define OPENLSTM_NAME_(isa) #isa
#define OPENLSTM_NAME(isa) OPENLSTM_NAME_(isa)

template <class T>
constexpr Products<T, Given<T>> products_of = {OPENLSTM_NAME(OPENLSTM_ISA),
                                               width<T>,
                                               max_rows,
                                               in_factor,
                                               align,
                                               gradient_rows,
                                               4 * max_rows,
                                               0,
                                               tiles<T>,
                                               multiply<T, T>,
                                               multiply_runs<T>,
                                               multiply<T, Given<T>>,
                                               add_gradient<T>,
                                               turn<T>,
                                               turned_size<T>,
                                               pack_columns<T>,
                                               pack_transposed<T>,
                                               pack_rows<T>,
                                               pack_row<T>,
                                               factors_of<T>,
                                               factors_of_given<T>,
                                               numbers_of_given<T>,
                                               convert<T>,
                                               nullptr,
                                               peak<T>};

extern const Products<float, Given<float>> products_float32;
const Products<float, Given<float>> products_float32 = products_of<float>;
#ifndef OPENLSTM_BFLOAT16
extern const Products<double, double> products_float64;
const Products<double, double> products_float64 = products_of<double>;
#endif

}  // namespace openlstm::OPENLSTM_ISA
