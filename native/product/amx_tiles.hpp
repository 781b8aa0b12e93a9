// The instructions of AMX that the products need: eight registers, each a tile of up to 16 rows of 64 bytes.
//
// With -DOPENLSTM_EMULATE_TILES plain loops over arrays take their place, so that layout, tails and the order of sums are tested on
// any processor. They do what Intel's manual says of TDPBF16PS: two chains of multiply-adds from 0, one over the first numbers of
// the pairs and one over the second, then the sum of the two onto the tile, subnormal numbers taken for 0. Where the processor
// would stop the program, for tiles that are not configured or do not fit each other, so do they.
#pragma once

#include "vector/vec.hpp"

namespace openlstm::OPENLSTM_ISA {

constexpr index tile_rows = 16, tile_floats = 16;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

#ifndef OPENLSTM_EMULATE_TILES

OPENLSTM_INLINE void configure_tiles(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
OPENLSTM_INLINE void release_tiles() { asm volatile("tilerelease"); }
template <int tile>
OPENLSTM_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
// Rows `stride` bytes apart.
template <int tile>
OPENLSTM_INLINE void load_tile(const float* p, index stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
OPENLSTM_INLINE void store_tile(float* p, index stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(tile) : "memory");
}
// c += a . b, for rows a of pairs and columns b of pairs.
template <int c, int a, int b>
OPENLSTM_INLINE void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}
// The same of whole numbers: c in 32 bits, a and b four numbers of 8 bits in a word.
template <int c, int a, int b>
OPENLSTM_INLINE void multiply_words() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

#else

#define OPENLSTM_ONCE __attribute__((noinline))  // tests do not hurry

struct Tile {
  Vec<float> row[tile_rows];
};
static thread_local Tile registers[8];
static thread_local TileConfig shape;
static thread_local bool configured_tiles = false;
static int threads_with_tiles = 0;
int tiles_in_use();  // threads that have not released theirs
int tiles_in_use() { return __atomic_load_n(&threads_with_tiles, __ATOMIC_SEQ_CST); }

static void must(bool holds) {
  if (!holds) __builtin_trap();
}
static void configure_tiles(const TileConfig& config) {
  must(config.palette == 1);
  if (!configured_tiles) __atomic_fetch_add(&threads_with_tiles, 1, __ATOMIC_SEQ_CST);
  configured_tiles = true, shape = config;
  for (Tile& tile : registers) tile = {};
}
static void release_tiles() {
  if (configured_tiles) __atomic_fetch_sub(&threads_with_tiles, 1, __ATOMIC_SEQ_CST);
  configured_tiles = false;
}
OPENLSTM_ONCE static void zero(int tile) {
  must(configured_tiles && shape.rows[tile] > 0);
  registers[tile] = {};
}
OPENLSTM_ONCE static void load(int tile, const float* p, index stride) {
  zero(tile);
  for (index r = 0; r < shape.rows[tile]; r++) std::memcpy(&registers[tile].row[r], reinterpret_cast<const char*>(p) + r * stride, shape.row_bytes[tile]);
}
OPENLSTM_ONCE static void store(int tile, float* p, index stride) {
  must(configured_tiles && shape.rows[tile] > 0);
  for (index r = 0; r < shape.rows[tile]; r++) std::memcpy(reinterpret_cast<char*>(p) + r * stride, &registers[tile].row[r], shape.row_bytes[tile]);
}
OPENLSTM_INLINE Vec<float> without_subnormals(Vec<float> x) {
  const Bits<float> b = bits<float>(x), sign = static_cast<int32_t>(0x80000000) & b;
  return from_bits<float>((b & 0x7f800000) == 0 ? sign : b);
}
// The first or the second numbers of pairs.
OPENLSTM_INLINE Vec<float> numbers(Vec<float> pairs, int half) {
  const Bits<float> x = bits<float>(pairs);
  return without_subnormals(from_bits<float>(half ? x & static_cast<int32_t>(0xffff0000) : x << 16));
}
OPENLSTM_ONCE static void multiply(int c, int a, int b) {
  must(configured_tiles && shape.rows[c] == shape.rows[a] && shape.row_bytes[c] == shape.row_bytes[b] && shape.row_bytes[a] == 4 * shape.rows[b]);
  Tile columns[2];
  for (int half = 0; half < 2; half++)
    for (index k = 0; k < shape.rows[b]; k++) columns[half].row[k] = numbers(registers[b].row[k], half);
  for (index r = 0; r < shape.rows[c]; r++) {
    Vec<float> sum[2] = {};
    for (int half = 0; half < 2; half++) {
      const Vec<float> row = numbers(registers[a].row[r], half);
      for (index k = 0; k < shape.rows[b]; k++) sum[half] = without_subnormals(fma(splat(row[k]), columns[half].row[k], sum[half]));
    }
    registers[c].row[r] = without_subnormals(without_subnormals(registers[c].row[r]) + without_subnormals(sum[0] + sum[1]));
  }
}
OPENLSTM_ONCE static void multiply_whole(int c, int a, int b) {
  must(configured_tiles && shape.rows[c] == shape.rows[a] && shape.row_bytes[c] == shape.row_bytes[b] && shape.row_bytes[a] == 4 * shape.rows[b]);
  for (index r = 0; r < shape.rows[c]; r++) {
    Bits<float> sum = bits<float>(registers[c].row[r]);
    for (index k = 0; k < shape.rows[b]; k++) {
      const Bits<float> row = bits<float>(registers[a].row[r])[k] - Bits<float>{}, column = bits<float>(registers[b].row[k]);
      for (int up = 24; up >= 0; up -= 8) sum += ((row << up) >> 24) * ((column << up) >> 24);
    }
    registers[c].row[r] = from_bits<float>(sum);
  }
}

template <int tile>
OPENLSTM_INLINE void zero_tile() {
  zero(tile);
}
template <int tile>
OPENLSTM_INLINE void load_tile(const float* p, index stride) {
  load(tile, p, stride);
}
template <int tile>
OPENLSTM_INLINE void store_tile(float* p, index stride) {
  store(tile, p, stride);
}
template <int c, int a, int b>
OPENLSTM_INLINE void multiply_tiles() {
  multiply(c, a, b);
}
template <int c, int a, int b>
OPENLSTM_INLINE void multiply_words() {
  multiply_whole(c, a, b);
}

#endif

}  // namespace openlstm::OPENLSTM_ISA
