// The products in 8 bits (words.hpp says of what), compiled once for each instruction set, and once more for VNNI.
#include "product/panel.hpp"
#include "product/words.hpp"

namespace openlstm::OPENLSTM_ISA {

// sums + the four products in each lane.
#if defined(__AVX512VNNI__)
OPENLSTM_INLINE Numbers add_products(Numbers sums, Numbers x, Numbers w) { return (Numbers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w); }
#elif defined(__AVX512BW__)  // |x| times w with the sign of x: two such products fit 16 bits
OPENLSTM_INLINE Numbers add_products(Numbers sums, Numbers x, Numbers w) {
  const __m512i all = _mm512_abs_epi8((__m512i)x), signs = _mm512_mask_sub_epi8((__m512i)w, _mm512_movepi8_mask((__m512i)x), __m512i{}, (__m512i)w);
  return sums + (Numbers)_mm512_madd_epi16(_mm512_maddubs_epi16(all, signs), _mm512_set1_epi16(1));
}
#elif defined(__AVX2__)
OPENLSTM_INLINE Numbers add_products(Numbers sums, Numbers x, Numbers w) {
  constexpr int parts = OPENLSTM_VECTOR_BYTES / 32;
  __m256i x_part[parts], w_part[parts];
  std::memcpy(x_part, &x, sizeof x), std::memcpy(w_part, &w, sizeof w);
  for (int k = 0; k < parts; k++) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x_part[k]), _mm256_sign_epi8(w_part[k], x_part[k]));
    w_part[k] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  std::memcpy(&w, w_part, sizeof w);
  return sums + w;
}
#else
OPENLSTM_INLINE Numbers add_products(Numbers sums, Numbers x, Numbers w) {
  for (int up = 24; up >= 0; up -= 8) sums += ((x << up) >> 24) * ((w << up) >> 24);
  return sums;
}
#endif

// z[u * M + m][n] += row m . column n of panel u; the panels are `stride` apart.
template <int M, int N, int U>
OPENLSTM_INLINE void multiply_words(Vec<float> (&z)[U * M][N], const float* const* x, index factors, const float* panel, index stride) {
  constexpr index W = width<float>;
  const float* row[M];
  Numbers sum[U * M][N];
#pragma GCC unroll 6
  for (int m = 0; m < M; m++) row[m] = x[m];
#pragma GCC unroll 6
  for (int m = 0; m < U * M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) sum[m][n] = load_words(panel + m / M * stride + (N + n) * W);
  }
  const float* p = panel + head * N * W;
  for (index k = head; k < factors; k++, p += N * W) {
#pragma GCC unroll 2
    for (int u = 0; u < U; u++) {
      Numbers w[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) w[n] = load_words(p + u * stride + n * W);
#pragma GCC unroll 6
      for (int m = 0; m < M; m++) {
        const Numbers b = spread_word(row[m] + k);
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[u * M + m][n] = add_products(sum[u * M + m][n], b, w[n]);
      }
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < U * M; m++) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const Vec<float> scaled = __builtin_convertvector(sum[m][n], Vec<float>) * load(panel + m / M * stride + n * W);
      z[m][n] = fma(scaled, splat(row[m % M][0]), z[m][n]);
    }
  }
}

// Rows [row, row + M) of tiles u .. u + U - 1.
template <int M, int N, int U>
static void word_tile(const TileProduct<float>& p, index row, index u) {
  constexpr index W = width<float>;
  float* const sums = p.sums + u * p.between_sums + row * p.between_rows;
  const float* const bias = p.bias ? p.bias + u * p.between_panels : nullptr;
  Vec<float> z[U * M][N];
  for (int m = 0; m < U * M; m++) {
    float* here = sums + m / M * p.between_sums + m % M * p.between_rows;
    for (int n = 0; n < N; n++) z[m][n] = load((bias ? bias + m / M * p.between_panels : here) + n * W);
    if (bias)
      for (index n = N; n < p.biases; n++) store(here + n * W, load(bias + m / M * p.between_panels + n * W));
  }
  multiply_words<M, N, U>(z, p.x + row, p.factors, p.panel + u * p.between_panels, p.between_panels);
  for (int m = 0; m < U * M; m++)
    for (int n = 0; n < N; n++) store(sums + m / M * p.between_sums + m % M * p.between_rows + n * W, z[m][n]);
}

template <int N>
static void word_tiles_of(const TileProduct<float>& p) {
  const index together = 2 * min<index>(p.rows, max_rows) <= max_rows && p.tiles > 1 ? 2 : 1;
  for (index done = 0; done < p.tiles; done += together) {
    const index count = min(together, p.tiles - done), u = p.back ? p.tiles - done - count : done;
    in_tiles(p.rows, [&](auto rows, index row) {
      constexpr int M = decltype(rows)::value;
      if constexpr (2 * M <= max_rows)
        if (count == 2) return word_tile<M, N, 2>(p, row, u);
      word_tile<M, N, 1>(p, row, u);
    });
  }
}
static void word_tiles(const TileProduct<float>& p) {
  with_count<panel_vectors>(p.vectors, [&](auto vectors) { word_tiles_of<decltype(vectors)::value>(p); });
}

static void multiply_rows_of_words(const float* const* x, float* const* out, index n, index K, const float* panels, index columns) {
  Panels<float>(columns).each([&](index column, index vectors) {
    const float* panel = panels + word_factors(K) * column;
    in_tiles(n, [&](auto rows, index first) {
      with_count<panel_vectors>(vectors, [&](auto vectors) {
        constexpr int M = decltype(rows)::value, N = decltype(vectors)::value;
        Vec<float> z[M][N] = {};
        multiply_words<M, N, 1>(z, x + first, word_factors(K), panel, 0);
        for (int m = 0; m < M; m++)
          for (int v = 0; v < N; v++) {
            const index at = column + v * width<float>;
            store(out[first + m] + at, z[m][v], columns - at);
          }
      });
    });
  });
}

#define OPENLSTM_NAME_(isa) #isa
#define OPENLSTM_NAME(isa) OPENLSTM_NAME_(isa)

constexpr Products<float, eight_bit> made() {
  Products<float, eight_bit> products = with_words(OPENLSTM_NAME(OPENLSTM_ISA));
  products.rows = max_rows, products.rows_ahead = 4 * max_rows;
  products.tiles = word_tiles, products.multiply = multiply_rows_of_words;
  return products;
}

extern const Products<float, eight_bit> products_int8;
constexpr Products<float, eight_bit> products_int8 = made();

}  // namespace openlstm::OPENLSTM_ISA
