// Random numbers without memory: one for each (seed, stream, kind, step, row, unit), whatever runs before or beside it.
//
// The same arithmetic as src/openlstm/noise.py: 32-bit integers that wrap, mixed by the multiplications and shifts of
// "lowbias32" (C. Wellons, hash-prospector). An event of probability p happens where the upper 24 bits are below p * 2^24.
#pragma once

#include "call.hpp"

namespace openlstm {

enum class Kind : uint32_t { zoneout_h, zoneout_c, candidate };

OPENLSTM_INLINE uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

OPENLSTM_INLINE uint32_t key_of(const Noise& noise, Kind kind, index t, index row) {
  uint32_t seed = mix(static_cast<uint32_t>(noise.seed)) ^ static_cast<uint32_t>(noise.seed >> 32);
  uint32_t stream = mix(seed) + static_cast<uint32_t>(noise.stream) * 4 + static_cast<uint32_t>(kind);
  return mix(mix(mix(stream) ^ static_cast<uint32_t>(t)) + static_cast<uint32_t>(noise.first_row + row));
}

}  // namespace openlstm
