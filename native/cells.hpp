// One small struct per cell: its traits, its step and the derivative of its step, on one vector of units.
//
// Traits: gates (blocks of H rows in the weights, in the order i, f, g, o), apart (how many of the last gates want W x and W h
// unadded), saved (activated gates kept for backward), blocks (vectors of units in one register tile), highway (a cell state c
// beside h), merged (its highway is h itself), peepholes (gates that see c directly), feedback (blocks of H that are fed back),
// whole (the gates want statistics of a whole row first: its sums are handed over raw, and normalised).
//
// `Sums` z is what the products leave, gate by gate; an apart gate has two, at the end. A step works on N vectors at once, each
// z turned into its gate in place, in three parts, so that the engine can act between them:
//     activate: (z, c) -> gates      update: (gates, c) -> c'      output: (gates, c') -> h'
// A cell without a highway hands z on instead of c'.
#pragma once

#include "vec.hpp"

namespace openlstm::OPENLSTM_ISA {

// What a step's derivative starts from. `masked`: recurrent dropout multiplied the candidate by `mask` (0 or 1 / (1 - p)), and
// the candidate that was saved is the product.
template <class T, int saved, int N, bool masked>
struct Around {
  Vec<T> s[saved ? saved : 1][N];  // saved gates
  Vec<T> c_before[N], c[N], h[N];  // the state before, c' and the cell's own output
  Vec<T> dh[N], dc[N];             // dL/dh', and dL/dc' along the highway
  Vec<T> dfed[3][N];               // dL/d(the gates that are fed back)
  Vec<T> peephole[3][N];           // w_ch
  Vec<T> mask[N];
  T keep;   // 1 - p
  T limit;  // c' was clipped there; NaN, at which no comparison is true, for no limit

  // The candidate before its mask, and the way back through the mask.
  OPENLSTM_INLINE Vec<T> candidate(int gate, int k) const {
    if constexpr (masked) return s[gate][k] * splat(keep);
    return s[gate][k];
  }
  OPENLSTM_INLINE Vec<T> through_mask(Vec<T> d, int k) const {
    if constexpr (masked) return d * mask[k];
    return d;
  }
};

// What it gives: dL/dz and dL/dc.
template <class T, int sums, int N>
struct Flow {
  Vec<T> dz[sums][N], dc[N];
};

// What a variant of the LSTM leaves out or changes (Greff et al. 2017).
enum class Variant { none, nig, nfg, nog, niaf, noaf, cifg, fgr };

// Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, and every variant of Greff et al. 2017:
//     i, f = sigmoid(z + p c);  g = tanh(z);  c' = f c + i g;  o = sigmoid(z + p c');  h' = o tanh(c')
// with peepholes p or without. NIG: i = 1. NFG: f = 1. NOG: o = 1. NIAF: g = z. NOAF: h' = o c'. CIFG: f = 1 - i. FGR: the gates
// are fed back beside h.
template <class T, Variant variant = Variant::none, bool peephole = false>
struct Lstm {
  using V = Vec<T>;
  static constexpr bool has_i = variant != Variant::nig, has_o = variant != Variant::nog;
  static constexpr bool has_f = variant != Variant::nfg && variant != Variant::cifg;
  static constexpr int I = 0, F = has_i, G = F + has_f, O = G + 1;
  static constexpr int gates = G + 1 + has_o, apart = 0, sums = gates, saved = gates, blocks = 1, candidate = G;
  static constexpr int peepholes = peephole ? has_i + has_f + has_o : 0;
  static constexpr int feedback = variant == Variant::fgr ? 4 : 1;
  static constexpr bool highway = true, merged = false, whole = false;
  static constexpr int fed[3] = {I, F, O};                                                // the gates that are fed back
  static constexpr int sees[3] = {has_i ? I : has_f ? F : O, has_i && has_f ? F : O, O};  // the gates with a peephole
  static constexpr int last_peephole = peepholes - 1;                                     // of the output gate, which sees c' instead of c

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[sums][N], const V (&c)[N], const V* p) {
    if constexpr (peephole) {
      constexpr int early = peepholes - has_o;
      for (int j = 0; j < early; j++) OPENLSTM_EACH(k) z[sees[j]][k] = fma(p[j], c[k], z[sees[j]][k]);
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
  static OPENLSTM_INLINE void output(V (&z)[sums][N], V (&c)[N], const V* p) {
    if constexpr (has_o && peephole) {
      OPENLSTM_EACH(k) z[O][k] = fma(p[last_peephole], c[k], z[O][k]);
      sigmoid<T>(z[O]);
    }
    if constexpr (variant != Variant::noaf) tanh<T>(c);
    if constexpr (has_o) OPENLSTM_EACH(k) c[k] = z[O][k] * c[k];
  }

  template <int N, bool masked>
  static OPENLSTM_INLINE void backward(const Around<T, saved, N, masked>& at, Flow<T, sums, N>& out) {
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

// Ba, Kiros & Hinton 2016: the LSTM whose sums of W x and of W h are normalised over all gates of a row before they are added,
// and whose cell is normalised, n = N(c'), before the output gate shows it:  h' = o tanh(n). A step keeps the four gates and,
// behind them, the raw sums of W x and of W h.
template <class T>
struct LayerNormLstm {
  using V = Vec<T>;
  using Plain = Lstm<T>;
  enum { I, F, G, O };
  static constexpr int gates = 4, apart = 4, sums = 8, saved = 12, blocks = 1, candidate = G;
  static constexpr int peepholes = 0, feedback = 1;
  static constexpr bool highway = true, merged = false, whole = true;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[gates][N], const V (&c)[N], const V* p) {
    Plain::activate(z, c, p);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[gates][N], V (&c)[N]) {
    Plain::update(z, c);
  }
  // n becomes h'.
  template <int N>
  static OPENLSTM_INLINE void show(const V (&o)[N], V (&n)[N]) {
    tanh<T>(n);
    OPENLSTM_EACH(k) n[k] = o[k] * n[k];
  }

  // dL/dh' -> dL/dz of the output gate, and dL/dn in place of n.
  template <int N>
  static OPENLSTM_INLINE void backward_show(const V (&o)[N], const V (&dh)[N], V (&n)[N], V (&dz)[N]) {
    const V one = splat(T(1));
    tanh<T>(n);
    OPENLSTM_EACH(k) {
      dz[k] = dh[k] * (o[k] * (one - o[k])) * n[k];
      n[k] = dh[k] * o[k] * fma(-n[k], n[k], one);
    }
  }
  // dL/dc', all of it, in at.dc -> dL/dz of the other gates, and dL/dc.
  template <int N, bool masked>
  static OPENLSTM_INLINE void backward(const Around<T, gates, N, masked>& at, Flow<T, gates, N>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V i = at.s[I][k], f = at.s[F][k], g = at.s[G][k], d = abs<T>(at.c[k]) >= at.limit ? V{} : at.dc[k];
      out.dz[I][k] = d * (i * (one - i)) * g;
      out.dz[F][k] = d * (f * (one - f)) * at.c_before[k];
      out.dz[G][k] = at.through_mask(d * i, k) * fma(-at.candidate(G, k), at.candidate(G, k), one);
      out.dc[k] = d * f;
    }
  }
};

// Cho et al. 2014 in the form of Chung et al. 2014 that cuDNN made common: the reset gate acts on the product.
//     r, u = sigmoid(z);  n = tanh(z_nx + r z_nh);  h' = (1 - u) n + u h
template <class T>
struct Gru {
  using V = Vec<T>;
  static constexpr int gates = 3, apart = 1, sums = 4, saved = 4, blocks = 1, candidate = 2;
  static constexpr int peepholes = 0, feedback = 1;
  static constexpr bool highway = true, merged = true, whole = false;
  enum { R, U, X, H };  // X becomes n, H stays W_hn h + b_hn

  template <int N>
  static OPENLSTM_INLINE void activate(V (&z)[sums][N], const V (&)[N], const V*) {
    sigmoid<T>(z[R]), sigmoid<T>(z[U]);
    OPENLSTM_EACH(k) z[X][k] = fma(z[R][k], z[H][k], z[X][k]);
    tanh<T>(z[X]);
  }
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[sums][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = fma(z[U][k], c[k], fma(-z[U][k], z[X][k], z[X][k]));  // u = 1 keeps h to the last bit
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&)[sums][N], V (&)[N], const V*) {}

  template <int N, bool masked>
  static OPENLSTM_INLINE void backward(const Around<T, saved, N, masked>& at, Flow<T, sums, N>& out) {
    const V one = splat(T(1));
    OPENLSTM_EACH(k) {
      V r = at.s[R][k], u = at.s[U][k], n = at.candidate(X, k), d = at.dh[k] + at.dc[k];
      V dn = at.through_mask(d * (one - u), k) * fma(-n, n, one);
      out.dz[U][k] = d * (u * (one - u)) * (at.c_before[k] - at.s[X][k]);
      out.dz[X][k] = dn;
      out.dz[H][k] = dn * r;
      out.dz[R][k] = dn * (r * (one - r)) * at.s[H][k];
      out.dc[k] = d * u;
    }
  }
};

// Elman 1990: h' = tanh(z). Le, Jaitly & Hinton 2015: h' = max(z, 0); NaN stays NaN.
template <class T, bool relu>
struct Rnn {
  using V = Vec<T>;
  static constexpr int gates = 1, apart = 0, sums = 1, saved = 0, blocks = 4, candidate = -1;
  static constexpr int peepholes = 0, feedback = 1;
  static constexpr bool highway = false, merged = false, whole = false;

  template <int N>
  static OPENLSTM_INLINE void activate(V (&)[1][N], const V (&)[N], const V*) {}
  template <int N>
  static OPENLSTM_INLINE void update(const V (&z)[1][N], V (&c)[N]) {
    OPENLSTM_EACH(k) c[k] = z[0][k];
  }
  template <int N>
  static OPENLSTM_INLINE void output(V (&)[1][N], V (&z)[N], const V*) {
    if constexpr (relu)
      OPENLSTM_EACH(k) z[k] = z[k] < T(0) ? V{} : z[k];
    else
      tanh<T>(z);
  }
  template <int N, bool masked>
  static OPENLSTM_INLINE void backward(const Around<T, saved, N, masked>& at, Flow<T, sums, N>& out) {
    OPENLSTM_EACH(k) {
      if constexpr (relu)
        out.dz[0][k] = at.h[k] > T(0) ? at.dh[k] : V{};
      else
        out.dz[0][k] = at.dh[k] * fma(-at.h[k], at.h[k], splat(T(1)));
    }
  }
};

}  // namespace openlstm::OPENLSTM_ISA
