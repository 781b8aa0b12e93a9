// Random masks without memory: a number for each (seed, stream, kind, step, row, unit), whatever runs before or beside it.
//
// The same arithmetic as src/openlstm/noise.py: 32-bit integers that wrap, mixed by the multiplications and shifts of
// "lowbias32" (C. Wellons, hash-prospector). An event of probability p happens where the upper 24 bits are below p * 2^24.
#pragma once

#include "vec.hpp"

namespace openlstm::OPENLSTM_ISA {

enum class Kind : uint32_t { zoneout_h, zoneout_c, candidate };

OPENLSTM_INLINE uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

OPENLSTM_INLINE uint32_t key_of(const Noise& noise, Kind kind, index t, index row) {
  uint32_t seed = mix(static_cast<uint32_t>(noise.seed)) ^ static_cast<uint32_t>(noise.seed >> 32);
  uint32_t stream = mix(seed) + static_cast<uint32_t>(noise.stream) * 4 + static_cast<uint32_t>(kind);
  return mix(mix(mix(stream) ^ static_cast<uint32_t>(t)) + static_cast<uint32_t>(row));
}

template <class T>
struct Draws;  // 32-bit numbers in lanes as wide as T
template <>
struct Draws<float> {
  typedef uint32_t V __attribute__((vector_size(OPENLSTM_VECTOR_BYTES)));
};
template <>
struct Draws<double> {
  typedef uint64_t V __attribute__((vector_size(OPENLSTM_VECTOR_BYTES)));
};

// All ones in the lanes of units unit, unit + 1, ... where the event happens.
template <class T>
OPENLSTM_INLINE Bits<T> happens(uint32_t key, index unit, uint32_t threshold) {
  using D = typename Draws<T>::V;
  constexpr uint32_t word = 0xffffffffu, golden = 0x9e3779b9u;
  D lanes{};
  for (index k = 0; k < width<T>; k++) lanes[k] = static_cast<uint32_t>(k) * golden;
  D x = ((lanes + static_cast<uint32_t>(unit) * golden) & word) ^ key;
  x = ((x ^ (x >> 16)) * 0x7feb352du) & word;
  x = ((x ^ (x >> 15)) * 0x846ca68bu) & word;
  x = x ^ (x >> 16);
  return (Bits<T>)((x >> 8) < threshold);
}

// Zoneout (Krueger et al. 2017): a unit keeps its value with probability p; without draws, the expectation.
template <class T>
OPENLSTM_INLINE Vec<T> zone(const Noise& noise, double p, uint32_t key, index unit, Vec<T> before, Vec<T> now) {
  if (noise.training) return happens<T>(key, unit, Noise::threshold(p)) ? before : now;
  return splat(T(p)) * before + splat(T(1 - p)) * now;
}

}  // namespace openlstm::OPENLSTM_ISA
