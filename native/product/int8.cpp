// The products in 8 bits: of rows and weights that are rounded to whole numbers from -127 to 127, a scale for each row of either.
// Compiled once for each instruction set, and once more for VNNI.
//
//     scale = max |x| / 127, rounded up to 17 bits; at least `least`        q = x / scale, to the nearest whole number, ties to even
//     z = fma(float(sum of q_x q_w) * scale_w, scale_x, z)                   where z was the bias, or the sum so far
//
// Sums of whole numbers are exact, so the bits of z are the same whatever multiplies: VNNI, pairs in 16 bits, plain code. A row that
// holds NaN or infinity has the scale NaN, and so have all of its sums. A scale of 17 bits times q is exact in a float: what was
// rounded once is rounded to the same numbers again.
//
// Four numbers lie in the place of one float. A row begins with its scale; a panel with the scales of its columns, and what each
// of its sums begins with. VNNI takes the numbers of rows without a sign: they lie 128 higher, and sums begin that much lower.
#include "kernels.hpp"
#include "product/packing.hpp"
#include "product/panel.hpp"

namespace openlstm::OPENLSTM_ISA {

using Numbers = Bits<float>;  // sums, or words of four numbers

constexpr index in_word = 4, head = 2;
constexpr float least = 0x1p-100f / 127;  // smaller rows are rounded as if they held 2^-100: the inverse of a scale is finite

OPENLSTM_INLINE index words(index n) { return (n + in_word - 1) / in_word; }
OPENLSTM_INLINE index word_factors(index n) { return head + words(n); }
OPENLSTM_INLINE Numbers load_words(const float* p) { return bits<float>(load(p)); }
OPENLSTM_INLINE Numbers spread_word(const float* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof word);
  return word - Numbers{};
}

// sums + the four products in each lane.
#if defined(__AVX512VNNI__)
constexpr int offset = 128;
OPENLSTM_INLINE Numbers add_products(Numbers sums, Numbers x, Numbers w) {
  return (Numbers)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w);
}
#else
constexpr int offset = 0;
#if defined(__AVX512BW__)  // |x| times w with the sign of x: two such products fit 16 bits
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
#endif

// Rounding ----------------------------------------------------------------------------------------------------------------

// The bits of a positive float grow with it, NaN's lie above infinity's.
static float scale_of(const float* row, index n) {
  Numbers most{};
  for (index k = 0; k < n; k += width<float>) {
    const Numbers all = bits<float>(load(row + k, n - k)) & 0x7fffffff;
    most = all > most ? all : most;
  }
  int32_t top = 0;
  for (index k = 0; k < width<float>; k++) top = most[k] > top ? most[k] : top;
  if (top >= 0x7f800000) return __builtin_nanf("");
  float scale;
  std::memcpy(&scale, &top, sizeof scale);
  scale = scale / 127 < least ? least : scale / 127;
  std::memcpy(&top, &scale, sizeof top);
  top = (top + 0x7f) & ~0x7f;
  std::memcpy(&scale, &top, sizeof scale);
  return scale;
}

// n numbers of a row in words, the last one filled up with zeros. A float about 1.5 * 2^23 has no places behind the point: what is
// added to it is rounded, and stands in its lower bits.
static void put_words(const float* row, index n, float scale, float* out) {
  typedef int8_t Bytes __attribute__((vector_size(width<float>)));
  const Vec<float> inverse = splat(1 / scale), high = splat(0x1.8p23f);
  char* to = reinterpret_cast<char*>(out);
  for (index k = 0; k < n; k += width<float>) {
    const Numbers q = bits<float>(load(row + k, n - k) * inverse + high) - bits<float>(high) + offset;
    const Bytes bytes = __builtin_convertvector(q, Bytes);
    if (n - k >= width<float>)
      std::memcpy(to + k, &bytes, sizeof bytes);
    else
      std::memcpy(to + k, &bytes, static_cast<std::size_t>(in_word * words(n - k)));
  }
}

static const float* row_as_factors(const float* row, index n, float* room) {
  room[0] = scale_of(row, n), room[1] = 0;
  put_words(row, n, room[0], room + head);
  return room;
}
static const float* given_as_factors(const eight_bit* row, index n, float* room) { return row_as_factors(&row->number, n, room); }
static void give(const float* from, eight_bit* to, index n) { copy(from, &to->number, n); }

// Numbers of a word in memory, without the offset of rows.
OPENLSTM_INLINE int8_t number_at(const float* words, index k) {
  int8_t q;
  std::memcpy(&q, reinterpret_cast<const char*>(words) + k, 1);
  return q;
}

// Columns of a panel from n rows of K numbers: each row's scale, what its sums begin with, its words.
static void pack_words(const eight_bit* rows, index n, index K, float* out, index stride) {
  constexpr index most = 128;  // words of a row that are put together first
  float room[width<float> * most];
  for (index r = 0; r < n; r += width<float>) {
    const index count = min(width<float>, n - r);
    int32_t sums[width<float>] = {};
    for (index j = 0; j < count; j++) out[r + j] = scale_of(&rows[(r + j) * K].number, K);
    for (index k = 0; k < K; k += in_word * most) {
      const index numbers = min(in_word * most, K - k);
      for (index j = 0; j < count; j++) {
        float* to = room + j * most;
        put_words(&rows[(r + j) * K + k].number, numbers, out[r + j], to);
        for (index i = 0; i < words(numbers); i++) {  // words of weights lie without the offset of rows
          uint32_t word;
          std::memcpy(&word, to + i, sizeof word);
          if (offset) word ^= 0x80808080u;
          std::memcpy(to + i, &word, sizeof word);
        }
        for (index i = 0; i < numbers; i++) sums[j] += number_at(to, i);
        for (index i = numbers; i < in_word * words(numbers); i++) reinterpret_cast<char*>(to)[i] = 0;
      }
      transpose([&](index j) { return static_cast<const float*>(room) + j * most; }, count, 0, words(numbers), out + (head + k / in_word) * stride + r, stride);
    }
    for (index j = 0; j < count; j++) {
      const int32_t begin = -offset * sums[j];
      std::memcpy(out + stride + r + j, &begin, sizeof begin);
    }
  }
}

static void unpack_words(const float* panel, index stride, index n, index K, eight_bit* rows) {
  for (index k = 0; k < K; k++)
    for (index r = 0; r < n; r++) rows[r * K + k].number = panel[r] * number_at(panel + (head + k / in_word) * stride + r, k % in_word);
}

// Panels [first, last) of the transpose of w [columns, K].
static void pack_words_transposed(const eight_bit* w, index K, index first, index last, index columns, float* panels) {
  Panels<float>(columns).each(first, last, [&](index column, index vectors) {
    float* out = panels + word_factors(K) * column;
    const index stride = vectors * width<float>;
    if (columns - column < stride) clear(out, word_factors(K) * stride);
    pack_words(w + column * K, min(columns - column, stride), K, out, stride);
  });
}

static void unpack_words_transposed(const float* panels, index K, index columns, eight_bit* w) {
  Panels<float>(columns).each([&](index column, index vectors) {
    const index stride = vectors * width<float>;
    unpack_words(panels + word_factors(K) * column, stride, min(columns - column, stride), K, w + column * K);
  });
}

// Products ----------------------------------------------------------------------------------------------------------------

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
  Products<float, eight_bit> products = {};
  products.name = OPENLSTM_NAME(OPENLSTM_ISA);
  products.width = width<float>, products.rows = max_rows, products.numbers = in_word, products.align = 1, products.head = head;
  products.rows_ahead = 4 * max_rows;
  products.tiles = word_tiles, products.multiply = multiply_rows_of_words;
  products.pack_columns = pack_words, products.pack_transposed = pack_words_transposed, products.unpack_columns = unpack_words;
  products.unpack_transposed = unpack_words_transposed;
  products.factors_of = row_as_factors, products.factors_of_given = given_as_factors, products.convert = give;
  return products;
}

extern const Products<float, eight_bit> products_int8;
constexpr Products<float, eight_bit> products_int8 = made();

}  // namespace openlstm::OPENLSTM_ISA
