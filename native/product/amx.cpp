// The products of bfloat16 with AMX: 32 numbers of 16 rows with as many of 16 columns by one instruction.
//
// A sum is one chain again, in links of 32 numbers, cut off from the first one on: to what there is, the sum of the link is added,
// which the processor rounds in an order of its own. A link that is not full is padded with zeros. So a sum's bits depend on its own
// row and column alone, whatever other rows are in the tile; but they are not those of AVX512-BF16.
//
// Of the eight registers 0 to 3 hold sums, 4 and 5 rows, 6 and 7 columns. More than 16 rows are taken by two blocks of rows and two
// vectors of columns, so that whatever is loaded is used twice; fewer by one block and up to four vectors.
#include "kernels.hpp"
#include "product/amx_tiles.hpp"
#include "product/packing.hpp"

namespace openlstm::OPENLSTM_ISA {

constexpr index row_bytes = tile_floats * sizeof(float);  // of a tile; of a row or column these are `align` factors
static_assert(align == tile_floats && width<float> == tile_floats);

// f(Count<0>), f(Count<1>), ... f(Count<N - 1>)
template <int N, int first = 0, class F>
OPENLSTM_INLINE void each(F f) {
  if constexpr (first < N) {
    f(Count<first>{});
    each<N, first + 1>(f);
  }
}

// The heights of the two blocks of rows for which this thread's tiles are configured. To configure them takes as long as a hundred
// rows of sums, so they stay so from call to call, until `end`: the thread may be torch's, and other libraries use tiles too.
struct Heights {
  index first, second;
};
static thread_local Heights configured = {0, 0};

static void configure(index first, index second) {
  if (configured.first == first && configured.second == second) return;
  TileConfig config;
  const index rows[] = {first, first, second, second, first, second, tile_rows, tile_rows};
  for (int tile = 0; tile < 8; tile++) config.row_bytes[tile] = row_bytes, config.rows[tile] = static_cast<uint8_t>(rows[tile]);
  configure_tiles(config);
  configured = {first, second};
}
static void end() {
  if (configured.first) release_tiles();
  configured = {0, 0};
}

// Up to 16 rows behind pointers. A tile is loaded from rows that are equally far apart; others are copied together first.
class RowBlock {
 public:
  OPENLSTM_INLINE RowBlock(const float* const* x, index rows) : x_(x), rows_(rows) {
    auto address = [&](index r) { return reinterpret_cast<std::intptr_t>(x[r]); };
    between_ = rows > 1 ? address(1) - address(0) : row_bytes;
    for (index r = 2; r < rows; r++) together_ = together_ && address(r) - address(r - 1) == between_;
  }
  // The factors k .. k + align - 1.
  template <int tile>
  OPENLSTM_INLINE void load(index k) {
    if (together_) return load_tile<tile>(x_[0] + k, between_);
    for (index r = 0; r < rows_; r++) store(copy_ + r * tile_floats, openlstm::OPENLSTM_ISA::load(x_[r] + k));
    load_tile<tile>(copy_, row_bytes);
  }

 private:
  const float* const* x_;
  index rows_, between_;
  bool together_ = true;
  alignas(64) float copy_[tile_rows * tile_floats];
};

// The register of the sums of M blocks of rows and N vectors.
template <int M>
constexpr int sums_of(int m, int n) {
  return M == 1 ? n : 2 * m + n;
}

// sums += rows . N vectors of a panel that has `vectors`, over K factors, which in the rows begin at the first one.
template <int M, int N>
OPENLSTM_INLINE void product(RowBlock* rows, index first, index K, const float* panel, index vectors) {
  for (index k = first; k < first + K; k += align, panel += align * vectors * tile_floats) {
    each<M>([&](auto m) __attribute__((always_inline)) { rows[m.value].template load<4 + m.value>(k); });
    each<N>([&](auto n) __attribute__((always_inline)) {
      constexpr int column = 6 + n.value % 2;
      load_tile<column>(panel + n.value * tile_floats, vectors * row_bytes);
      each<M>([&](auto m) __attribute__((always_inline)) { multiply_tiles<sums_of<M>(m.value, n.value), 4 + m.value, column>(); });
    });
  }
}

// f(Count<M>, Count<N>, blocks of rows, first row, first vector) for all sums of a panel.
template <class F>
OPENLSTM_INLINE void in_blocks(const float* const* x, index rows, index vectors, F f) {
  for (index row = 0; row < rows; row += 2 * tile_rows) {
    const index first = min(rows - row, tile_rows), second = min(rows - row - first, tile_rows);
    RowBlock blocks[2] = {{x + row, first}, {x + row + first, second}};
    if (second > 0) {
      configure(first, second);
      for (index v = 0; v < vectors; v += 2) with_count<2>(min<index>(vectors - v, 2), [&](auto n) { f(Count<2>{}, n, blocks, row, v); });
    } else {
      configure(first, first);
      with_count<panel_vectors>(vectors, [&](auto n) { f(Count<1>{}, n, blocks, row, index{0}); });
    }
  }
}

// f(register, first row, vector) for the sums of M blocks of rows and N vectors.
template <int M, int N, class F>
OPENLSTM_INLINE void each_sum(F f) {
  each<M>([&](auto m) __attribute__((always_inline)) {
    each<N>([&](auto n) __attribute__((always_inline)) { f(Count<sums_of<M>(m.value, n.value)>{}, m.value * tile_rows, index{n.value}); });
  });
}

static void tile(const TileProduct<float>& p, index u) {
  float* const sums = p.sums + u * p.between_sums;
  const float *panel = p.panel + u * p.between_panels, *bias = p.bias ? p.bias + u * p.between_panels : nullptr;
  const index between = p.between_rows * static_cast<index>(sizeof(float));
  in_blocks(p.x, p.rows, p.vectors, [&](auto m, auto n, RowBlock* blocks, index row, index vector) {
    constexpr int M = decltype(m)::value, N = decltype(n)::value;
    float* const here = sums + row * p.between_rows + vector * tile_floats;
    each_sum<M, N>([&](auto tile, index r, index v) __attribute__((always_inline)) {
      if (bias)
        load_tile<tile.value>(bias + (vector + v) * tile_floats, 0);  // the same in every row
      else
        load_tile<tile.value>(here + r * p.between_rows + v * tile_floats, between);
    });
    product<M, N>(blocks, p.from, p.factors, panel + vector * tile_floats, p.vectors);
    each_sum<M, N>([&](auto tile, index r, index v)
                       __attribute__((always_inline)) { store_tile<tile.value>(here + r * p.between_rows + v * tile_floats, between); });
  });
  if (bias)
    for (index n = p.vectors; n < p.biases; n++)
      for (index r = 0; r < p.rows; r++) store(sums + r * p.between_rows + n * tile_floats, load(bias + n * tile_floats));
}

static void tiles(const TileProduct<float>& p) {
  for (index done = 0; done < p.tiles; done++) tile(p, p.back ? p.tiles - 1 - done : done);
}

template <class Out>
static void multiply_panels(const RunsProduct<float, Out>& p, bool add) {
  const index K = factors(p.run);
  Panels<float>(p.columns).each([&](index column, index vectors) {
    in_blocks(p.x, p.rows, vectors, [&](auto m, auto n, RowBlock* blocks, index row, index vector) {
      constexpr int M = decltype(m)::value, N = decltype(n)::value;
      alignas(64) float sums[M * tile_rows * N * tile_floats];
      each_sum<M, N>([&](auto tile, index, index) __attribute__((always_inline)) { zero_tile<tile.value>(); });
      for (index run = 0; run < p.runs; run++)
        product<M, N>(blocks, p.from + run * p.between, K, p.panels + run * p.between_panels + K * column + vector * tile_floats, vectors);
      each_sum<M, N>([&](auto tile, index r, index v)
                         __attribute__((always_inline)) { store_tile<tile.value>(sums + (r * N + v) * tile_floats, N * row_bytes); });
      for (index r = 0; r < min<index>(p.rows - row, M * tile_rows); r++)
        for (index v = 0; v < N; v++) {
          const index at = column + (vector + v) * tile_floats, lanes = p.columns - at;
          const Vec<float> sum = load(sums + (r * N + v) * tile_floats);
          Out* out = p.out[row + r] + p.to + at;
          store(out, add ? load(out, lanes) + sum : sum, lanes);
        }
    });
  });
}
template <class Out>
static void multiply(const float* const* x, Out* const* out, index rows, index K, const float* panels, index columns) {
  multiply_panels<Out>({x, out, rows, 0, 1, 0, K, panels, 0, 0, columns}, false);
}
static void multiply_runs(const RunsProduct<float>& p) { multiply_panels<float>(p, false); }

static void add_gradient(const WeightGradient<float>& g) {
  const float* in[gradient_rows];
  float* out[gradient_rows];
  for (index r = 0; r < g.rows; r++) in[r] = g.turned + (g.first + r) * turned_stride(g.tokens), out[r] = g.dw + r * g.columns;
  multiply_panels<float>({in, out, g.rows, 0, 1, 0, g.tokens, g.panels, 0, 0, g.columns}, true);
}

// In four chains: as many sums as there are registers for.
static double peak(index rounds) {
  configure(tile_rows, tile_rows);
  each<8>([](auto tile) __attribute__((always_inline)) { zero_tile<tile.value>(); });
  for (index k = 0; k < rounds; k++) each<4>([](auto tile) __attribute__((always_inline)) { multiply_tiles<tile.value, 4, 6>(); });
  end();
  return 2. * 4 * static_cast<double>(tile_rows * tile_floats * align * in_factor) * static_cast<double>(rounds);
}

#define OPENLSTM_NAME_(isa) #isa
#define OPENLSTM_NAME(isa) OPENLSTM_NAME_(isa)

extern const Products<float, bfloat16> products_float32;
const Products<float, bfloat16> products_float32 = {OPENLSTM_NAME(OPENLSTM_ISA),
                                                    width<float>,
                                                    2 * tile_rows,
                                                    in_factor,
                                                    align,
                                                    gradient_rows,
                                                    4 * tile_rows,
                                                    128,
                                                    tiles,
                                                    multiply<float>,
                                                    multiply_runs,
                                                    multiply<bfloat16>,
                                                    add_gradient,
                                                    turn<float>,
                                                    turned_size<float>,
                                                    pack_columns<float>,
                                                    pack_transposed<float>,
                                                    pack_rows<float>,
                                                    pack_row<float>,
                                                    as_factors,
                                                    as_factors,
                                                    as_numbers,
                                                    give_out,
                                                    end,
                                                    peak};

}  // namespace openlstm::OPENLSTM_ISA
