// What one instruction set offers the loops, as pointers to functions: products, cells, and plain work on rows.
//
// The three know little of each other. A product knows numbers, panels and rows behind pointers; a cell knows vectors of units
// and the sums that a product left for them; the loops (loop/) know time, lengths, resets and threads. This file is data alone.
#pragma once

#include "call.hpp"

namespace openlstm {

// A matrix is multiplied in panels: up to `panel_vectors` vectors of columns side by side for all k, [factors][vectors][width].
constexpr int panel_vectors = 4;

// How h enters the sums: every unit sees all of it (or of its head), itself alone through one number a gate, or nothing.
enum class Recurrence { dense, elementwise, none };

// What a cell is to the loops.
struct Traits {
  int gates;      // blocks of H rows in the weights
  int separate;   // the last of them want the sums of W x and of W h apart
  int saved;      // blocks of H kept for backward
  int peepholes;  // gates that see c directly
  int feedback;   // blocks of H that are fed back
  int states;     // blocks of H that make up c
  Recurrence recurrence;
  bool has_cell;   // a cell state c beside h
  bool h_is_cell;  // its cell state is h itself, unless a projection makes h something else
  bool needs_row;  // wants the sums of a whole row at once
  int after;       // the peephole that sees c after the step, -1 for none
  int sees[3];     // the gates with a peephole

  // Sums lie in the order: separate ones of W x, those of both, separate ones of W h; so each product fills one run.
  OPENLSTM_INLINE int sums() const { return gates + separate; }
  OPENLSTM_INLINE int blocks() const { return panel_vectors / gates; }  // vectors of units in a tile
  // The gate whose weights make sum k of W x (k < gates), or of W h counted from `separate`.
  OPENLSTM_INLINE int gate_of_x(int k) const { return k < separate ? gates - separate + k : k - separate; }
  // Where the sum of W x of a gate lies; that of W h lies at `separate + gate`.
  OPENLSTM_INLINE int place_of_x(int gate) const { return gate < gates - separate ? gate + separate : gate - (gates - separate); }
};

// sums[tile u][row r][vector n] += x[r] . panel of tile u, for k in order: one chain of multiply-adds each, begun by the biases.
template <class T>
struct TileProduct {
  const T* const* x;  // rows of factors
  index from;         // where in a row they begin
  index rows, factors;
  const T* panel;  // of the first tile
  int vectors;     // in each panel
  index tiles, between_panels;
  T* sums;                           // of the first tile and row
  index between_rows, between_sums;  // of one tile; from tile to tile
  const T* bias;                     // [biases][width] for each tile, as far apart as panels; null to add to what the sums hold
  int biases;                        // at least `vectors`: further sums are only begun
  index block;                       // factors that all rows go through before the next ones: a cut in the work, not in the sum
  bool back;                         // from the last tile to the first
};

// The vectors of a tile: with the numbers of rows that lie gate by gate, or unit by unit.
template <class T>
struct TileRows {
  const T* const* x;
  index rows;
  const T* panel;    // of the tile: its biases, or the panel of one row that is its weights
  index unit, last;  // its units
  index hidden;      // H
  const Traits& cell;
  T* out;  // the tile's sums
  index between_rows;
};

// out[m][to .. to + columns) = sum over runs of numbers of x[m], in order, times panels of their own.
template <class T, class Out = T>
struct RunsProduct {
  const T* const* x;
  Out* const* out;
  index rows;
  index from, runs, between, run;  // where in a row the first run begins; runs, from one to the next in factors; numbers of each
  const T* panels;                 // of the first run
  index between_panels;
  index to, columns;
};

// dw[r] += sum over the tokens k, in order, of d[k][r] * x[k], for r < rows; the whole sum is added as one number.
template <class T>
struct WeightGradient {
  const T* turned;     // d, by `turn`
  index first;         // of its rows
  index tokens, rows;  // first + rows <= gradient_rows
  const T* panels;     // x [tokens, columns]
  T* dw;               // [rows, columns]
  index columns;
};

// The products of numbers of type X with sums of type T. What is multiplied lies in factors: a number, or a pair of bfloat16 in
// the place of one float.
template <class T, class X>
struct Products {
  const char* name;
  index width;          // columns in a vector
  index rows;           // of a register tile
  index numbers;        // in a factor
  index align;          // factors of a row or panel are a multiple of it, padded with zeros
  index gradient_rows;  // of weights that one WeightGradient takes
  index rows_ahead;     // where a step has fewer rows than a register tile: rows of so many steps are multiplied at once
  index rows_in_large;  // rows of a thread that hide how weights beyond its own cache are fetched; 0: do not ask

  void (*tiles)(const TileProduct<T>&);
  // out[m][0 .. columns) = x[m] . panels, for n rows of K numbers.
  void (*multiply)(const T* const* x, T* const* out, index n, index K, const T* panels, index columns);
  void (*multiply_runs)(const RunsProduct<T>&);
  void (*multiply_given)(const T* const* x, X* const* out, index n, index K, const T* panels, index columns);
  void (*add_gradient)(const WeightGradient<T>&);
  // d [tokens, rows] as add_gradient wants it: put into room, of turned_size(tokens) elements.
  void (*turn)(const T* d, index between_tokens, index tokens, index rows, T* room);
  index (*turned_size)(index tokens);

  // out[k * stride + r] = factor k of row r, for r < n rows of K numbers each.
  void (*pack_columns)(const X* rows, index n, index K, T* out, index stride);
  // Panels [first, last) of the transpose of w [columns, K].
  void (*pack_transposed)(const X* w, index K, index first, index last, index columns, T* panels);
  // Panels [first, last) of the matrix with these K rows.
  void (*pack_rows)(const X* const* rows, index K, index first, index last, index columns, T* panels);
  // Row k of panels with K rows; zeros where source is null. Rows may be put down by several threads at once.
  void (*pack_row)(const T* source, index k, index K, index columns, T* panels);

  // A row as factors, as numbers, and back; in `room` where it does not lie so already. Identities where X is T.
  const T* (*factors_of)(const T* row, index n, T* room);
  const T* (*factors_of_given)(const X* row, index n, T* room);
  const T* (*numbers_of_given)(const X* row, index n, T* room);
  void (*convert)(const T* from, X* to, index n);

  void (*end)();                 // to be called when a thread makes no more products for now; null: nothing to do
  double (*peak)(index rounds);  // multiplies and adds in registers alone, gives the number of operations

  OPENLSTM_INLINE index factors(index n) const { return ((n + numbers - 1) / numbers + align - 1) / align * align; }
  OPENLSTM_INLINE index vectors(index columns) const { return (columns + width - 1) / width; }
  OPENLSTM_INLINE index panels(index columns) const { return (vectors(columns) + panel_vectors - 1) / panel_vectors; }
  // Elements of all panels of a matrix [K, columns].
  OPENLSTM_INLINE index panel_size(index K, index columns) const { return factors(K) * vectors(columns) * width; }
};

// Elementwise work on rows of n numbers.
template <class T, class X>
struct RowFunctions {
  void (*times)(const T* a, const T* b, T* out, index n);
  void (*add)(const T* from, T* to, index n);
  void (*add_given)(const X* from, T* to, index n);
  bool (*any)(const T* row, index n);  // not exactly zero; NaN counts
  // Units [first, last) of a row keep what they were before, or take what they are now.
  void (*zoneout)(const Noise& noise, uint32_t key, const T* before, T* now, index first, index last);
  // dL/dh of a step's result: what passes by where zoneout kept the old value, and in its place what the cell answers for.
  void (*split_zoneout)(const Noise& noise, uint32_t key, T* dh, T* kept, index n);
  // Sums of W x that are given, from rows [gates][H], where a product would have put them; and to sums what a unit sees of itself,
  // from rows [H].
  void (*put_sums)(const TileRows<T>&);
  void (*add_diagonal)(const TileRows<T>&);
  // The way back of the latter: out[u] = sum over the gates of w[gate][u] * d[gate][u], for n units.
  void (*diagonal)(const T* w, const T* d, index gates, index n, T* out);
  // out[r] += sum over the tokens of d[token][r], times c[token][r] where c is given; the sum is added as one number.
  void (*add_tokens)(const T* d, index between_d, const T* c, index between_c, index tokens, T* out, index n);
  void (*exp)(const T* in, T* out, index n);
  void (*sigmoid)(const T* in, T* out, index n);
  void (*tanh)(const T* in, T* out, index n);
  void (*log_sigmoid)(const T* in, T* out, index n);
};

// A step of a cell on some rows and tiles: what it reads and writes.
template <class T>
struct CellStep {
  const T* sums;  // of the first tile and row, as TileProduct left them
  index between_rows, between_sums;
  index rows, first, last;              // units [first, last), of whole tiles but for the row's end
  index hidden;                         // H
  const T* const* c;                    // by row: before the step
  T *const *out, *const *c_out;         // the cell's own output; c' (null: nobody asks)
  T* const* gates;                      // what is saved (null: nothing)
  const uint32_t *zoneout_c, *dropped;  // by row: keys of the random numbers
  const T *w_ch, *norm;
  T clip, beta;
  const Noise* noise;

  OPENLSTM_INLINE bool clipped() const { return clip - clip == 0; }
};

// A tile of the weights: its biases, and its panels of W_ih and W_hh.
template <class T>
struct WeightTile {
  const T *bias, *w_ih, *w_hh;
};

// Steps of a cell on a single row, one after the other. The sums of W x wait, or are made with each step where x is given.
template <class T>
struct RowSteps {
  index steps, hidden, heads;  // n, H, groups of units
  index factors;               // those of h that a group sees
  const T* x;                  // of the first step, or null
  index between_x, inputs;     // from step to step; factors
  const T* sums;               // that wait, of the first step and tile
  index between_steps, between_sums;
  WeightTile<T> first, last;  // tiles of a head; the last one may have fewer vectors
  index between_tiles;
  const T *h, *c;                               // before the first
  T *out, *c_out, *gates;                       // of the first: h', c' and what is saved; null where nobody asks
  index between_out, between_c, between_gates;  // from step to step, backwards in time where negative
  const T* w_ch;
  T clip, beta;
};

// The derivative of a step of a cell on some rows: dL/dh', dL/dc' -> dL/dz, dL/dc.
template <class T>
struct CellGradient {
  index rows, hidden;
  const T *const *gates, *const *c_before, *const *h_before, *const *c, *const *h;  // by row; h is the cell's own output
  const T *const *dh, *const *dfed;                                                 // dL/dh', and of the gates that are fed back
  T *const *dc, *const *dz;                                                         // dL/dc' becomes dL/dc; dz in the order of the sums
  T* const* own_c;                                                                  // null, or where c' goes as it was before zoneout
  T* const* dnorm;                                                                  // by row: gradients of norms are added here
  T* room;                                                                          // 6 * H
  const uint32_t *zoneout_c, *dropped;
  const T *w_ch, *norm;
  T clip, beta;
  bool h_is_output;  // no projection
  const Noise* noise;

  OPENLSTM_INLINE bool clipped() const { return clip - clip == 0; }
};

template <class T>
struct CellKernel {
  const char* name;  // `Cell.kernel` in Python
  Traits traits;
  void (*forward)(const CellStep<T>&);
  void (*backward)(const CellGradient<T>&);
  void (*row)(const RowSteps<T>&);  // null: there is no such thing for this cell
};

// The cells of one file.
template <class T>
struct Family {
  const CellKernel<T>* cells;
  int count;
};

template <class T, class X = T>
struct Kernels {
  const Products<T, X>* products;
  const RowFunctions<T, X>* rows;
  const Family<T>* const* families;
  int family_count;

  // The cell of this name; null if there is none.
  const CellKernel<T>* cell(const char* name) const {
    for (int f = 0; f < family_count; f++)
      for (int k = 0; k < families[f]->count; k++) {
        const CellKernel<T>& cell = families[f]->cells[k];
        const char *a = cell.name, *b = name;
        while (*a && *a == *b) a++, b++;
        if (*a == *b) return &cell;
      }
    return nullptr;
  }
};

struct InstructionSet {
  const char* name;
  Kernels<float> float32;
  Kernels<double> float64;
};

}  // namespace openlstm
