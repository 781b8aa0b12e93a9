// Elementwise work on rows of numbers, compiled once for each instruction set, and the table of all that it has.
#include "cells/families.hpp"
#include "kernels.hpp"
#include "product/factors.hpp"
#include "vector/functions.hpp"
#include "vector/noise.hpp"

// The instruction set whose cells these rows go with; amxtest borrows those of another one.
#ifndef OPENLSTM_CELLS
#define OPENLSTM_CELLS OPENLSTM_ISA
#endif
namespace openlstm::OPENLSTM_CELLS {
#define OPENLSTM_DECLARE(family)               \
  extern const Family<float> family##_float32; \
  extern const Family<double> family##_float64;
OPENLSTM_FAMILIES(OPENLSTM_DECLARE)
}  // namespace openlstm::OPENLSTM_CELLS

namespace openlstm::OPENLSTM_ISA {

template <class T, class F>
OPENLSTM_INLINE void elementwise(const T* in, T* out, index n, F f) {
  for (index k = 0; k < n; k += width<T>) {
    Vec<T> x[1] = {load(in + k, n - k)};
    f(x);
    store(out + k, x[0], n - k);
  }
}
template <class T>
static void apply_exp(const T* in, T* out, index n) {
  elementwise(in, out, n, [](Vec<T>(&x)[1]) { exp<T>(x); });
}
template <class T>
static void apply_sigmoid(const T* in, T* out, index n) {
  elementwise(in, out, n, [](Vec<T>(&x)[1]) { sigmoid<T>(x); });
}
template <class T>
static void apply_tanh(const T* in, T* out, index n) {
  elementwise(in, out, n, [](Vec<T>(&x)[1]) { tanh<T>(x); });
}

template <class T>
static void apply_log_sigmoid(const T* in, T* out, index n) {
  elementwise(in, out, n, [](Vec<T>(&x)[1]) {
    Vec<T> e[1];
    exp_minus_abs<T>(x, e);
    log_share_of<T>(x, e, x);
  });
}

// f(gate, first unit of a vector, its place in the panel) for the vectors of a tile.
template <class T, class F>
OPENLSTM_INLINE void in_tile(const TileRows<T>& p, F f) {
  for (index block = 0; p.unit + block * width<T> < p.last; block++)
    for (int gate = 0; gate < p.cell.gates; gate++) f(gate, p.unit + block * width<T>, (block * p.cell.gates + gate) * width<T>);
}
template <class T>
static void put_sums(const TileRows<T>& p) {
  const index W = width<T>;
  for (index row = 0; row < p.rows; row++) {
    T* out = p.out + row * p.between_rows;
    in_tile(p, [&](int gate, index unit, index place) {
      const index at = place + (p.cell.place_of_x(gate) - gate) * W;
      store(out + at, load(p.panel + at) + load(p.x[row] + gate * p.hidden + unit, p.last - unit));
    });
    for (index n = p.cell.gates; n < p.cell.sums(); n++) store(out + n * W, load(p.panel + n * W));  // of W h alone
  }
}
template <class T>
static void add_diagonal(const TileRows<T>& p) {
  for (index row = 0; row < p.rows; row++)
    in_tile(p, [&](int, index unit, index place) {
      T* sum = p.out + row * p.between_rows + p.cell.separate * width<T> + place;
      store(sum, fma(load(p.panel + place), load(p.x[row] + unit, p.last - unit), load(sum)));
    });
}
template <class T>
static void diagonal(const T* w, const T* d, index gates, index n, T* out) {
  for (index u = 0; u < n; u += width<T>) {
    Vec<T> sum{};
    for (index gate = 0; gate < gates; gate++) sum = fma(load(w + gate * n + u, n - u), load(d + gate * n + u, n - u), sum);
    store(out + u, sum, n - u);
  }
}

template <class T>
static void multiply_rows(const T* a, const T* b, T* out, index n) {
  times(a, b, out, n);
}
template <class X, class T>
static void add(const X* from, T* to, index n) {
  for (index k = 0; k < n; k += width<T>) store(to + k, load(to + k, n - k) + load(from + k, n - k), n - k);
}
template <class T>
static bool any(const T* row, index n) {
  for (index k = 0; k < n; k++)
    if (row[k] != T(0)) return true;  // also NaN
  return false;
}
template <class T>
static void zoneout_row(const Noise& noise, uint32_t key, const T* before, T* now, index first, index last) {
  for (index u = first; u < last; u += width<T>)
    store(now + u, zoneout<T>(noise, noise.zoneout_h, key, u, load(before + u, last - u), load(now + u, last - u)), last - u);
}
template <class T>
static void split_zoneout(const Noise& noise, uint32_t key, T* dh, T* kept, index n) {
  for (index u = 0; u < n; u += width<T>) {
    Vec<T> d = load(dh + u, n - u), zero{};
    store(kept + u, zoneout<T>(noise, noise.zoneout_h, key, u, d, zero), n - u);
    store(dh + u, zoneout<T>(noise, noise.zoneout_h, key, u, zero, d), n - u);
  }
}

template <int N, class T>
OPENLSTM_INLINE void add_columns(const T* d, index between_d, const T* c, index between_c, index tokens, T* out, index n) {
  Vec<T> sum[N] = {};
  for (index token = 0; token < tokens; token++)
    for (int v = 0; v < N; v++) {
      Vec<T> a = load(d + token * between_d + v * width<T>, n - v * width<T>);
      sum[v] = c ? fma(a, load(c + token * between_c + v * width<T>, n - v * width<T>), sum[v]) : sum[v] + a;
    }
  for (int v = 0; v < N; v++) store(out + v * width<T>, load(out + v * width<T>, n - v * width<T>) + sum[v], n - v * width<T>);
}
template <class T>
static void add_tokens(const T* d, index between_d, const T* c, index between_c, index tokens, T* out, index n) {
  index r = 0;
  for (; r + 8 * width<T> <= n; r += 8 * width<T>) add_columns<8>(d + r, between_d, c ? c + r : c, between_c, tokens, out + r, n - r);
  for (; r < n; r += width<T>) add_columns<1>(d + r, between_d, c ? c + r : c, between_c, tokens, out + r, n - r);
}

template <class T>
constexpr RowFunctions<T, Given<T>> rows_of = {multiply_rows<T>, add<T, T>,           add<Given<T>, T>, any<T>,        zoneout_row<T>, split_zoneout<T>,
                                               put_sums<T>,      add_diagonal<T>,     diagonal<T>,      add_tokens<T>, apply_exp<T>,   apply_sigmoid<T>,
                                               apply_tanh<T>,    apply_log_sigmoid<T>};

extern const Products<float, Given<float>> products_float32;
extern const Products<double, double> products_float64;

#define OPENLSTM_FLOAT32(family) &OPENLSTM_CELLS::family##_float32,
constexpr const Family<float>* float32[] = {OPENLSTM_FAMILIES(OPENLSTM_FLOAT32)};
constexpr int families = sizeof float32 / sizeof *float32;

#ifdef OPENLSTM_BFLOAT16
extern const Kernels<float, bfloat16> kernels;
const Kernels<float, bfloat16> kernels = {&products_float32, &rows_of<float>, float32, families};
#else
#define OPENLSTM_FLOAT64(family) &family##_float64,
constexpr const Family<double>* float64[] = {OPENLSTM_FAMILIES(OPENLSTM_FLOAT64)};
#define OPENLSTM_NAME_(isa) #isa
#define OPENLSTM_NAME(isa) OPENLSTM_NAME_(isa)
extern const InstructionSet kernels;
const InstructionSet kernels = {
    OPENLSTM_NAME(OPENLSTM_ISA), {&products_float32, &rows_of<float>, float32, families}, {&products_float64, &rows_of<double>, float64, families}};
#endif

}  // namespace openlstm::OPENLSTM_ISA
