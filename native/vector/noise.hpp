// Random masks in vectors: the last step of noise.hpp, for the units of a row.
#pragma once

#include "noise.hpp"
#include "vector/vec.hpp"

namespace openlstm::OPENLSTM_ISA {

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

// All ones in the lanes of units unit, unit + 1, ... where the event bernoulli.
template <class T>
OPENLSTM_INLINE Bits<T> bernoulli(uint32_t key, index unit, uint32_t threshold) {
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
OPENLSTM_INLINE Vec<T> zoneout(const Noise& noise, double p, uint32_t key, index unit, Vec<T> before, Vec<T> now) {
  if (noise.training) return bernoulli<T>(key, unit, Noise::threshold(p)) ? before : now;
  return splat(T(p)) * before + splat(T(1 - p)) * now;
}

}  // namespace openlstm::OPENLSTM_ISA
