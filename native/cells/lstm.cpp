// The LSTM and its variants.
#include "cells/kernel.hpp"

namespace openlstm::OPENLSTM_ISA {

// What a variant of the LSTM leaves out or changes (Greff et al. 2017).
enum class Variant { none, nig, nfg, nog, niaf, noaf, cifg, fgr };

// Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, and every variant of Greff et al. 2017:
//     i, f = sigmoid(z + p c);  g = tanh(z);  c' = f c + i g;  o = sigmoid(z + p c');  h' = o tanh(c')
// with peepholes p or without. NIG: i = 1. NFG: f = 1. NOG: o = 1. NIAF: g = z. NOAF: h' = o c'. CIFG: f = 1 - i. FGR: the gates
// are fed back beside h.
template <class T, Variant variant = Variant::none, bool peephole = false>
struct Lstm : Plain {
  using V = Vec<T>;
  static constexpr bool has_i = variant != Variant::nig, has_o = variant != Variant::nog;
  static constexpr bool has_f = variant != Variant::nfg && variant != Variant::cifg;
  static constexpr int I = 0, F = has_i, G = F + has_f, O = G + 1;
  static constexpr int gates = G + 1 + has_o, sums = gates, saved = gates, candidate = G;
  static constexpr int peepholes = peephole ? has_i + has_f + has_o : 0;
  static constexpr int feedback = variant == Variant::fgr ? 4 : 1;
  static constexpr int fed[3] = {I, F, O};                                                // the gates that are fed back
  static constexpr int sees[3] = {has_i ? I : has_f ? F : O, has_i && has_f ? F : O, O};  // the gates with a peephole
  static constexpr int last_peephole = peepholes - 1;                                     // of the output gate, which sees c' instead of c

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[sums][N], const V (&c)[N], const V (&p)[3][N]) {
    if constexpr (peephole) {
      constexpr int early = peepholes - has_o;
      for (int j = 0; j < early; j++) OPENLSTM_EACH(k) z[sees[j]][k] = fma(p[j][k], c[k], z[sees[j]][k]);
    }
    if constexpr (has_i) sigmoid<T>(z[I]);
    if constexpr (has_f) sigmoid<T>(z[F]);
    if constexpr (variant != Variant::niaf) tanh<T>(z[G]);
    if constexpr (has_o && !peephole) sigmoid<T>(z[O]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[sums][N], V (&c)[N]) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V in = has_i ? z[I][k] * z[G][k] : z[G][k];
      if constexpr (has_f)
        c[k] = fma(z[F][k], c[k], in);
      else if constexpr (variant == Variant::cifg)
        c[k] = fma(one - z[I][k], c[k], in);
      else
        c[k] = c[k] + in;
    }
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&z)[sums][N], V (&c)[N], const V (&p)[3][N]) {
    if constexpr (has_o && peephole) {
      OPENLSTM_EACH(k) z[O][k] = fma(p[last_peephole][k], c[k], z[O][k]);
      sigmoid<T>(z[O]);
    }
    if constexpr (variant != Variant::noaf) tanh<T>(c);
    if constexpr (has_o) OPENLSTM_EACH(k) c[k] = z[O][k] * c[k];
  }

  template <int N>
  static OPENLSTM_INLINE void backward(const Known<T, saved, N>& at, Gradients<T, sums, N>& out) {
    const V one = splat(T(1));
    V shown[N];  // what the output gate shows of c'
    OPENLSTM_EACH(k) shown[k] = at.c[k];
    if constexpr (variant != Variant::noaf) tanh<T>(shown);
    OPENLSTM_EACH(k) {  // products in this order: a closed gate must not meet an overflow, 0 * inf is NaN
      V i = has_i ? at.s[I][k] : one, o = one, g = at.s[G][k], d_shown = at.dh[k];
      V f = has_f ? at.s[has_f ? F : 0][k] : variant == Variant::cifg ? one - i : one;
      if constexpr (has_o) {
        o = at.s[O][k];
        if constexpr (feedback > 1)
          out.dz[O][k] = fma(at.dh[k] * (o * (one - o)), shown[k], at.dfed[2][k] * (o * (one - o)));
        else
          out.dz[O][k] = at.dh[k] * (o * (one - o)) * shown[k];
        d_shown = at.dh[k] * o;
      }
      V d = variant == Variant::noaf ? at.dc[k] + d_shown : fma(d_shown, fma(-shown[k], shown[k], one), at.dc[k]);
      if constexpr (has_o && peephole) d = fma(out.dz[O][k], at.peephole[last_peephole][k], d);
      d = abs<T>(at.c[k]) >= at.limit ? V{} : d;
      V dc = d * f;
      if constexpr (has_i) {
        if constexpr (variant == Variant::cifg)
          out.dz[I][k] = d * (i * (one - i)) * (g - at.c_before[k]);
        else if constexpr (feedback > 1)
          out.dz[I][k] = fma(d * (i * (one - i)), g, at.dfed[0][k] * (i * (one - i)));
        else
          out.dz[I][k] = d * (i * (one - i)) * g;
        if constexpr (peephole) dc = fma(out.dz[I][k], at.peephole[0][k], dc);
      }
      if constexpr (has_f) {
        out.dz[F][k] = d * (f * (one - f)) * at.c_before[k];
        if constexpr (feedback > 1) out.dz[F][k] = fma(at.dfed[1][k], f * (one - f), out.dz[F][k]);
        if constexpr (peephole) dc = fma(out.dz[F][k], at.peephole[has_i][k], dc);
      }
      V dg = at.through_mask(has_i ? d * i : d, k);
      if constexpr (variant == Variant::niaf)
        out.dz[G][k] = dg;
      else
        out.dz[G][k] = dg * fma(-at.candidate(G, k), at.candidate(G, k), one);
      out.dc[k] = dc;
    }
  }
};

template <class T>
constexpr CellKernel<T> cells[] = {
    cell_kernel<Lstm<T>, T>("lstm"),
#if !defined(OPENLSTM_FEW_CELLS) || OPENLSTM_FEW_CELLS > 1  // for tests alone: one cell, or one of each way to reach memory
    cell_kernel<Lstm<T, Variant::none, true>, T>("peephole"),
    cell_kernel<Lstm<T, Variant::fgr, true>, T>("fgr"),
#endif
#ifndef OPENLSTM_FEW_CELLS
    cell_kernel<Lstm<T, Variant::nig, true>, T>("nig"),
    cell_kernel<Lstm<T, Variant::nig>, T>("nig_np"),
    cell_kernel<Lstm<T, Variant::nfg, true>, T>("nfg"),
    cell_kernel<Lstm<T, Variant::nfg>, T>("nfg_np"),
    cell_kernel<Lstm<T, Variant::nog, true>, T>("nog"),
    cell_kernel<Lstm<T, Variant::nog>, T>("nog_np"),
    cell_kernel<Lstm<T, Variant::niaf, true>, T>("niaf"),
    cell_kernel<Lstm<T, Variant::niaf>, T>("niaf_np"),
    cell_kernel<Lstm<T, Variant::noaf, true>, T>("noaf"),
    cell_kernel<Lstm<T, Variant::noaf>, T>("noaf_np"),
    cell_kernel<Lstm<T, Variant::cifg, true>, T>("cifg"),
    cell_kernel<Lstm<T, Variant::cifg>, T>("cifg_np"),
#endif
};

OPENLSTM_FAMILY(lstm)

}  // namespace openlstm::OPENLSTM_ISA
