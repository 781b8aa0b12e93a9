// What products in 8 bits multiply: rows and weights that are rounded to whole numbers from -127 to 127, a scale for each row of
// either. What multiplies them, int8.cpp and amx.cpp, gives
//
//     scale = max |x| / 127, rounded up to 17 bits; at least `least`        q = x / scale, to the nearest whole number, ties to even
//     z = fma(float(sum of q_x q_w) * scale_w, scale_x, z)                   where z was the bias, or the sum so far
//
// Sums of whole numbers are exact, so the bits of z are the same whatever multiplies: AMX, VNNI, pairs in 16 bits, plain code. A row that
// holds NaN or infinity has the scale NaN, and so have all of its sums. A scale of 17 bits times q is exact in a float: what was
// rounded once is rounded to the same numbers again.
//
// Four numbers lie in the place of one float. A row begins with its scale; a panel with the scales of its columns, and what each
// of its sums begins with. VNNI takes the numbers of rows without a sign: they lie 128 higher, and sums begin that much lower.
#pragma once

#include "kernels.hpp"
#include "product/packing.hpp"

namespace openlstm::OPENLSTM_ISA {

using Numbers = Bits<float>;  // sums, or words of four numbers

constexpr index in_word = 4, head = 2;
#if defined(__AVX512VNNI__)
constexpr int offset = 128;
#else
constexpr int offset = 0;
#endif
constexpr float least = 0x1p-100f / 127;  // smaller rows are rounded as if they held 2^-100: the inverse of a scale is finite

OPENLSTM_INLINE index words(index n) { return (n + in_word - 1) / in_word; }
OPENLSTM_INLINE index word_factors(index n) { return head + (words(n) + align - 1) / align * align; }
OPENLSTM_INLINE Numbers load_words(const float* p) { return bits<float>(load(p)); }
OPENLSTM_INLINE Numbers spread_word(const float* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof word);
  return word - Numbers{};
}

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
  clear(room + head + words(n), word_factors(n) - head - words(n));
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
  for (index k = words(K); k < word_factors(K) - head; k++) clear(out + (head + k) * stride, n);
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

// What the table of products has of all this.
constexpr Products<float, eight_bit> with_words(const char* name) {
  Products<float, eight_bit> products = {};
  products.name = name, products.width = width<float>, products.numbers = in_word, products.align = align, products.head = head;
  products.pack_columns = pack_words, products.pack_transposed = pack_words_transposed, products.unpack_columns = unpack_words;
  products.unpack_transposed = unpack_words_transposed;
  products.factors_of = row_as_factors, products.factors_of_given = given_as_factors, products.convert = give;
  return products;
}

}  // namespace openlstm::OPENLSTM_ISA
