// The forward pass: one time loop for every cell, over rows reached through pointers.
//
//     z = (b_ih + b_hh) + x W_ih^T + h W_hh^T      summed in this order, k by k
//     h', c' = cell(z, c);  with a projection h' <- h' W_hr^T;  then zoneout
//
// A step goes tile by tile: the products leave their sums in memory close by, and one call of the cell takes them up. What needs a
// whole row (projection, zoneout of what is fed back) follows when all its tiles are done. A cell that wants the sums of a whole
// row (layer normalisation) is called once, when the products of all tiles are done.
//
// x W_ih^T does not wait for the step before. Where rows are few, or the weights too many for the cache, it is summed for several
// steps at once; the order of the sum stays the same, and so do the bits. Sums of W x that are given stand in its place.
//
// Where units are in heads, a tile's rows begin at its head's h; where a unit sees itself alone the product is one multiply-add, and
// where no unit sees h there is none.
#include <unistd.h>

#include "loop/loop.hpp"
#include "loop/tiles.hpp"

namespace openlstm {
namespace {

constexpr index rows_at_once = 48;  // whose sums of one tile wait in the first-level cache for the cell
constexpr index most_tiles = 4;     // worked on at once where rows are few
constexpr index few_inputs = 8;     // of a single row: their product takes less time than to wait for it
constexpr index whole_panel = index(1) << 40;

// Bytes of a panel that stay in the first-level cache while many rows go by. Measured: 5 to 12 % on an Intel server, whose cache of 48
// KB has room for it beside rows and sums; a loss on AMD's of 32 KB.
const index panel_in_cache = sysconf(_SC_LEVEL1_DCACHE_SIZE) >= 40 << 10 ? 16 << 10 : 0;

// What all parts share.
template <class T, class X>
struct Plan {
  const Kernels<T, X>& kernels;
  const CellKernel<T>& cell;
  const Forward<T, X>& f;
  const Order& order;
  const Tiles<T, X>& tiles;
  const T* zeros;
  T* to_pack;       // where the weights go that come unpacked, or null
  const T* packed;  // tiles, behind them the panels of the projection
  const T* w_hr;    // these panels, or null
  T* c;             // [B, C], where cell states live if they are not kept
  T* h;             // [2, B, R], where h lives if y does not hold it as it is: this step's and the one's before
  bool by_units;    // every part takes all rows and its own units: one row, one step
  index ahead;      // steps whose inputs are summed at once
  bool one_step;    // each tile is used once: packed one after the other into the same place
  bool plain;       // a step is the product and the cell, and nothing in between: a part with a single row takes many in one call
};

// One part's way through time.
template <class T, class X>
class RowsForward {
 public:
  RowsForward(const Plan<T, X>& plan, const Part& part)
      : plan_(plan),
        products_(*plan.kernels.products),
        rows_(*plan.kernels.rows),
        cell_(plan.cell.traits),
        tiles_(plan.tiles),
        f_(plan.f),
        part_(part),
        begin_{plan.f, plan.zeros},
        share_(plan.order, plan.f.batch, plan.by_units ? Part{0, 1, nullptr} : part),
        own_(tiles_.count, part),
        keep_(f_.c || f_.gates),
        alone_(share_.count() == 1 && plan.plain),
        waits_(cell_.needs_row || (alone_ && !f_.w_ih) || (plan.ahead > 1 && !(alone_ && f_.inputs <= few_inputs))),
        one_tile_(plan.one_step ? tiles_.size : 0),
        m_(f_.projected && !f_.m ? share_.count() * f_.hidden : 0),
        masked_(f_.hidden_mask ? share_.count() * f_.fed_back() : 0),
        as_factors_(pairs ? share_.count() * (room_of_h() + products_.factors(f_.hidden) + plan.ahead * room_of_x()) : 0),
        sums_(tiles_.sums *
              (waits_ ? (last_tile() - first_tile()) * plan.ahead * share_.count() : most_tiles * std::min(rows_at_once, std::max<index>(share_.count(), 1)))),
        gates_(cell_.needs_row && !keep_ ? share_.count() * cell_.saved * f_.hidden : 0),
        coming_(waits_ ? plan.ahead * share_.count() : 0),
        keys_(3 * share_.count()),
        pointers_(9 * share_.count()) {
    const index n = share_.count(), C = cell_.states * f_.hidden;
    auto in = [&](index k) { return const_cast<const T**>(pointers_ + k * n); };
    auto out = [&](index k) { return pointers_ + k * n; };
    x_ = in(0), h_ = in(1), c_ = in(2), seen_ = f_.hidden_mask || pairs ? in(3) : h_;
    y_ = out(4), out_ = f_.projected ? out(5) : y_, c_out_ = carries() ? out(6) : nullptr;
    saved_ = cell_.saved && (keep_ || cell_.needs_row) ? out(7) : nullptr;
    shown_ = pairs && f_.projected ? in(8) : const_cast<const T**>(out_);
    zoneout_h_ = keys_, zoneout_c_ = keys_ + n, dropped_ = keys_ + 2 * n;
    for (index j = 0; j < n; j++) {
      h_[j] = f_.h0 ? f_.h0 + row(j) * f_.fed_back() : plan.zeros;
      if (cell_.has_cell) c_[j] = !carries() ? h_[j] : f_.c0 ? f_.c0 + row(j) * C : plan.zeros;
      if (f_.hidden_mask) seen_[j] = masked_ + j * f_.fed_back();
      if (f_.projected) out_[j] = m_ + j * f_.hidden;
      if (cell_.needs_row && !keep_) saved_[j] = gates_ + j * cell_.saved * f_.hidden;
    }
  }

  void run() {
    for (index n = 0; n < f_.taken();) {
      if (waits_ && n % plan_.ahead == 0) look_ahead(n);
      if constexpr (!pairs)
        if (alone_) {
          n = steps_of_one_row(n);
          continue;
        }
      step(n++);
    }
    finish();
  }

 private:
  static constexpr bool pairs = !std::is_same_v<T, X>;

  index row(index j) const { return plan_.order.row(share_.position(j)); }
  index first_tile() const { return plan_.by_units ? own_.first : 0; }
  index last_tile() const { return plan_.by_units ? own_.last : tiles_.count; }
  // Whether there is a c beside h. The cell state of a GRU is h itself, unless h is not what its cell puts out (projection).
  bool carries() const { return cell_.has_cell && (!cell_.h_is_cell || f_.has_cell); }

  // Elements for a row of h as factors, and for one of x, which as sums stays numbers.
  index room_of_h() const { return f_.heads * tiles_.seen; }
  index room_of_x() const { return f_.w_ih ? tiles_.inputs : f_.inputs; }

  // f(first tile, how many) for this part's tiles, `most` at once, there or back. Those of a call belong to one head, whose last tile
  // may be a smaller one.
  template <class F>
  void in_tiles(index most, bool back, F f) const {
    const index begin = first_tile(), end = last_tile(), n = tiles_.of_head;
    for (index done = begin; done < end;) {
      const index here = back ? begin + end - 1 - done : done, head = here / n * n, first = std::max(begin, head), last = std::min(end, head + n);
      const index whole = tiles_.blocks(last - 1) < tiles_.full ? last - 1 : last;
      if (back && whole < last) f(whole, 1);
      for (index k = first; k < whole; k += most) {
        const index count = std::min(most, whole - k);
        f(back ? whole - (k - first) - count : k, count);
      }
      if (!back && whole < last) f(whole, 1);
      done += last - first;
    }
  }

  // The sums of a tile that wait for their step, from row `slot` on.
  index between_waiting() const { return plan_.ahead * share_.count() * tiles_.sums; }
  T* waiting(index tile, index slot) const { return sums_ + (tile - first_tile()) * between_waiting() + slot * tiles_.sums; }

  TileProduct<T> product(index tile, index count, const T* packed, const T* const* x, index rows, T* sums, index between_sums, bool back) const {
    const index block = rows >= 4 * products_.rows ? panel_in_cache / (tiles_.vectors(tile) * tiles_.width * static_cast<index>(sizeof(T))) : 0;
    return {x, 0, rows, 0, packed, tiles_.vectors(tile), count, tiles_.size, sums, tiles_.sums, between_sums, nullptr, 0, block ? block : whole_panel, back};
  }
  void add_inputs(TileProduct<T> p, index tile) const {
    if (!f_.w_ih) return each_tile(rows_.put_sums, p, tile);
    p.bias = p.panel, p.biases = tiles_.biases(tile);
    p.panel = tiles_.w_ih(p.panel, tile), p.factors = tiles_.inputs;
    products_.tiles(p);
  }
  void add_hidden(TileProduct<T> p, index tile) const {
    if (cell_.recurrence == Recurrence::none) return;
    p.panel = tiles_.w_hh(p.panel, tile), p.factors = tiles_.seen;
    if (cell_.recurrence == Recurrence::elementwise) return each_tile(rows_.add_diagonal, p, tile);
    p.from = tile / tiles_.of_head * tiles_.seen;
    p.sums += cell_.separate * tiles_.width;
    products_.tiles(p);
  }
  void each_tile(void (*f)(const TileRows<T>&), const TileProduct<T>& p, index tile) const {
    for (index k = 0; k < p.tiles; k++)
      f({p.x, p.rows, p.panel + k * p.between_panels, tiles_.unit(tile + k), tiles_.end(tile + k), f_.hidden, cell_, p.sums + k * p.between_sums,
         p.between_rows});
  }

  // The sums of the inputs of steps n, n + 1, ..., tile by tile.
  void look_ahead(index n) {
    const index last = std::min(n + plan_.ahead, f_.taken());
    index count = 0;
    for (index s = n; s < last; s++) {
      const index t = step_at(f_, s), alive = share_.alive(plan_.order.alive(t));
      for (index j = 0; j < alive; j++, count++) coming_[count] = x_factors(t, row(j), count);
    }
    ready_ = 0;
    in_tiles(1, false,
             [&](index tile, index) { add_inputs(product(tile, 1, plan_.packed + tile * tiles_.size, coming_, count, waiting(tile, 0), 0, false), tile); });
  }

  // A row of x as factors; where it does not lie so already, it is put into the room number `slot`.
  const T* x_factors(index t, index b, index slot) const {
    if constexpr (pairs) {
      T* room = as_factors_ + share_.count() * (room_of_h() + products_.factors(f_.hidden)) + slot * room_of_x();
      return (f_.w_ih ? products_.factors_of_given : products_.numbers_of_given)(f_.x.at(t, b), f_.inputs, room);
    } else {
      return f_.x.at(t, b);
    }
  }

  // A row of h as factors, head by head, in the j-th row's room; as it is where there is no product.
  const T* h_factors(const T* h, index j) const {
    if (cell_.recurrence != Recurrence::dense) return h;
    T* room = as_factors_ + j * room_of_h();
    const T* seen = h;
    for (index head = 0; head < f_.heads; head++) seen = products_.factors_of(h + head * f_.recurrent, f_.recurrent, room + head * tiles_.seen);
    return f_.heads > 1 ? room : seen;
  }

  // Where the n-th step's h is put: into y, but for numbers that y does not hold as they are.
  T* h_row(index n, index t, index b) const {
    if constexpr (pairs)
      return plan_.h + (n % 2 * f_.batch + b) * f_.fed_back();
    else
      return f_.y.at(t, b);
  }

  static void fetch(T* to, index n) {
    for (index k = 0; k < n; k += 64 / static_cast<index>(sizeof(T))) __builtin_prefetch(to + k, 1, 2);
  }

  void step(index n) {
    const index R = f_.fed_back(), H = f_.hidden, C = cell_.states * H, t = step_at(f_, n), alive = share_.alive(plan_.order.alive(t));
    const Noise& noise = f_.noise;
    for (index j = 0; j < alive; j++) {
      const index b = row(j);
      if (!waits_) x_[j] = x_factors(t, b, j);
      if (begin_.cut(t, b)) {
        h_[j] = begin_.reset_h(t, b);
        c_[j] = carries() ? begin_.reset_c(t, b) : h_[j];
      }
      y_[j] = h_row(n, t, b);
      if (c_out_) c_out_[j] = keep_ ? f_.c.at(t, b) : plan_.c + b * C;
      if (saved_ && keep_) saved_[j] = f_.gates.at(t, b);
      if (saved_ && keep_ && n + 1 < f_.taken() && !plan_.by_units) {  // where the next step writes, ahead of time
        const index next = step_at(f_, n + 1);
        fetch(f_.gates.at(next, b), cell_.saved * H);
        if (c_out_) fetch(f_.c.at(next, b), C);
      }
      if (f_.projected && f_.m) out_[j] = f_.m.at(t, b);
      if (noise.zoneout_h > 0) zoneout_h_[j] = key_of(noise, Kind::zoneout_h, t, b);
      if (noise.zoneout_c > 0) zoneout_c_[j] = key_of(noise, Kind::zoneout_c, t, b);
      if (noise.candidate > 0) dropped_[j] = key_of(noise, Kind::candidate, t, b);
      if (f_.hidden_mask) rows_.times(h_[j], f_.hidden_mask + b * R, masked_ + j * R, R);
      if constexpr (pairs) seen_[j] = h_factors(f_.hidden_mask ? masked_ + j * R : h_[j], j);
    }
    if (!plan_.by_units || part_.id == 0)
      for (index j = alive; j < share_.count(); j++) empty(t, row(j));
    if (alive > 0) cell_.needs_row ? whole_rows(alive) : tile_by_tile(alive, n % 2);
    ready_ += alive;
    if (plan_.w_hr) {
      if constexpr (pairs)
        for (index j = 0; j < alive; j++) shown_[j] = products_.factors_of(out_[j], H, as_factors_ + share_.count() * room_of_h() + j * products_.factors(H));
      products_.multiply(shown_, y_, alive, H, plan_.w_hr, R);
    }
    for (index j = 0; j < alive; j++) {
      if (noise.zoneout_h > 0) in_own_units([&](index first, index last) { rows_.zoneout(noise, zoneout_h_[j], h_[j], y_[j], first, last); });
      if constexpr (pairs) in_own_units([&](index first, index last) { products_.convert(y_[j] + first, f_.y.at(t, row(j)) + first, last - first); });
    }
    for (index j = 0; j < alive; j++) {
      h_[j] = y_[j];
      if (cell_.has_cell) c_[j] = c_out_ ? c_out_[j] : h_[j];
    }
    if (plan_.by_units && n + 1 < f_.taken()) part_.wait();
  }

  // The steps from n on that only follow each other, up to the end of the sums that wait, if they do; gives the one behind them.
  index steps_of_one_row(index n) {
    const index b = row(0), first = step_at(f_, n);
    const auto here = [&](index s) { return share_.alive(plan_.order.alive(step_at(f_, s))) > 0; };
    if (!here(n)) {
      empty(first, b);
      return n + 1;
    }
    if (begin_.cut(first, b)) {
      h_[0] = begin_.reset_h(first, b);
      if (cell_.has_cell) c_[0] = carries() ? begin_.reset_c(first, b) : h_[0];
    }
    index end = n + 1;
    while ((!waits_ || end % plan_.ahead != 0) && end < f_.taken() && here(end) && !begin_.cut(step_at(f_, end), b)) end++;
    const index along = f_.reverse ? -1 : 1, last = step_at(f_, end - 1);
    T* const c = !carries() ? nullptr : keep_ ? f_.c.at(first, b) : plan_.c + b * cell_.states * f_.hidden;
    const bool saves = cell_.saved && keep_;
    const auto tile = [&](index which) {
      const T* packed = plan_.packed + which * tiles_.size;
      return WeightTile<T>{packed, tiles_.w_ih(packed, which), tiles_.w_hh(packed, which)};
    };
    plan_.cell.row({.steps = end - n,
                    .hidden = f_.hidden,
                    .heads = f_.heads,
                    .factors = tiles_.seen,
                    .x = waits_ ? nullptr : f_.x.at(first, b),
                    .between_x = along * f_.x.step,
                    .inputs = tiles_.inputs,
                    .sums = waits_ ? waiting(0, ready_) : nullptr,
                    .between_steps = waits_ ? tiles_.sums : 0,
                    .between_sums = waits_ ? between_waiting() : 0,
                    .first = tile(0),
                    .last = tile(tiles_.of_head - 1),
                    .between_tiles = tiles_.size,
                    .h = h_[0],
                    .c = cell_.has_cell ? c_[0] : nullptr,
                    .out = f_.y.at(first, b),
                    .c_out = c,
                    .gates = saves ? f_.gates.at(first, b) : nullptr,
                    .between_out = along * f_.y.step,
                    .between_c = keep_ ? along * f_.c.step : 0,
                    .between_gates = along * f_.gates.step,
                    .w_ch = f_.w_ch,
                    .clip = f_.clip,
                    .beta = f_.beta});
    ready_ += end - n;
    h_[0] = f_.y.at(last, b);
    if (cell_.has_cell) c_[0] = !carries() ? h_[0] : keep_ ? f_.c.at(last, b) : c;
    return end;
  }

  // There and back again: what a step reads last is still in the cache when the next one begins with it.
  void tile_by_tile(index alive, bool back) {
    const index pair = alive % 2 && alive < rows_at_once / 4 ? 2 : 1;  // cells are worked out two vectors at a time
    const index most = plan_.one_step ? 1 : alive >= products_.rows ? pair : std::min(most_tiles, products_.rows / alive);
    in_tiles(most, back, [&](index tile, index count) {
      const T* packed = plan_.packed + tile * tiles_.size;
      if (plan_.one_step) {
        tiles_.pack(tile, one_tile_);
        packed = one_tile_;
      }
      for (index first = 0; first < alive; first += rows_at_once) {
        const index rows = std::min(rows_at_once, alive - first), between_sums = waits_ ? between_waiting() : rows * tiles_.sums;
        T* sums = waits_ ? waiting(tile, ready_ + first) : sums_;
        if (!waits_) add_inputs(product(tile, count, packed, x_ + first, rows, sums, between_sums, back), tile);
        add_hidden(product(tile, count, packed, seen_ + first, rows, sums, between_sums, back), tile);
        call_cell(sums, between_sums, first, rows, tiles_.unit(tile), tiles_.end(tile + count - 1));
      }
    });
  }

  void whole_rows(index alive) {
    in_tiles(1, false,
             [&](index tile, index) { add_hidden(product(tile, 1, plan_.packed + tile * tiles_.size, seen_, alive, waiting(tile, ready_), 0, false), tile); });
    call_cell(waiting(0, ready_), between_waiting(), 0, alive, 0, f_.hidden);
  }

  void call_cell(const T* sums, index between_sums, index first, index rows, index unit, index last) const {
    plan_.cell.forward({sums, tiles_.sums, between_sums, rows, unit, last, f_.hidden, c_ + first, out_ + first, c_out_ ? c_out_ + first : nullptr,
                        saved_ ? saved_ + first : nullptr, zoneout_c_ + first, dropped_ + first, f_.w_ch, f_.norm, f_.clip, f_.beta, &f_.noise});
  }

  // Past the row's length.
  void empty(index t, index b) const {
    clear(f_.y.at(t, b), f_.fed_back());
    if (keep_ && carries()) clear(f_.c.at(t, b), cell_.states * f_.hidden);
    if (saved_ && keep_) clear(f_.gates.at(t, b), cell_.saved * f_.hidden);
    if (f_.m) clear(f_.m.at(t, b), f_.hidden);
  }

  // f(first, last) over what this part writes of an output row.
  template <class F>
  void in_own_units(F f) const {
    if (!plan_.by_units) return f(0, f_.fed_back());
    const index first = tiles_.unit(own_.first), last = tiles_.unit(own_.last);
    if (first < last)
      for (index block = 0; block < cell_.feedback; block++) f(block * f_.hidden + first, block * f_.hidden + last);
  }

  // The final states.
  void finish() const {
    for (index j = 0; j < share_.count(); j++) {
      const index b = row(j);
      if (f_.h_n) in_own_units([&](index first, index last) { copy(h_[j] + first, f_.h_n + b * f_.fed_back() + first, last - first); });
      if (!f_.c_n || !carries()) continue;
      const index first = plan_.by_units ? tiles_.unit(own_.first) : 0, last = plan_.by_units ? tiles_.unit(own_.last) : f_.hidden;
      for (index state = 0; state < cell_.states && first < last; state++) {
        const index at = state * f_.hidden + first;
        copy(c_[j] + at, f_.c_n + b * cell_.states * f_.hidden + at, last - first);
      }
    }
  }

  const Plan<T, X>& plan_;
  const Products<T, X>& products_;
  const RowFunctions<T, X>& rows_;
  const Traits& cell_;
  const Tiles<T, X>& tiles_;
  const Forward<T, X>& f_;
  const Part& part_;
  Begin<T, X> begin_;
  Share share_;
  const Slice own_;   // of the tiles
  const bool keep_;   // gates and states, for backward
  const bool alone_;  // one row, whose steps are taken many at once
  const bool waits_;  // sums of inputs are there before their step
  Scratch<T> one_tile_, m_, masked_, as_factors_, sums_, gates_;
  Scratch<const T*> coming_;
  Scratch<uint32_t> keys_;
  Scratch<T*> pointers_;
  // Pointers to the rows of one step, in the order of the part's share: x and h as the products see them (as factors, h behind
  // the locked mask), the state before, what is fed back, the cell's own output, c' and what is saved.
  const T **x_, **h_, **c_, **seen_, **shown_;
  T **y_, **out_, **c_out_, **saved_;
  uint32_t *zoneout_h_, *zoneout_c_, *dropped_;
  index ready_ = 0;  // rows of the sums that wait which have been used
};

// The weights as a run wants them: tiles, behind them the panels of the projection.
template <class T, class X>
void pack_part(const Tiles<T, X>& tiles, T* packed, const Part& part) {
  const Slice own(tiles.count, part);
  const Problem<T, X>& p = tiles.p;
  for (index tile = own.first; tile < own.last; tile++) tiles.pack(tile, packed + tile * tiles.size);
  if (p.projected && part.id == 0)
    tiles.products.pack_transposed(p.w_hr, p.hidden, 0, tiles.products.panels(p.projected), p.projected, packed + tiles.count * tiles.size);
}

template <class T, class X>
void forward_part(const Plan<T, X>& plan, const Part& part) {
  const Multiplying<T, X> multiplying{*plan.kernels.products};
  if (plan.to_pack) {
    pack_part(plan.tiles, plan.to_pack, part);
    if (!plan.by_units) part.wait();  // a part that takes its own units needs no more than it packed
  }
  RowsForward<T, X>(plan, part).run();
}

// How many steps' inputs to sum at once: a full register tile where rows are few; where the weights do not stay in a processor's
// own cache (1 to 2 MB), so many that W_ih is fetched rarely, and so few that their sums stay there.
template <class T, class X>
index steps_ahead(const Problem<T, X>& p, const Products<T, X>& products, index rows, index weights) {
  if (p.taken() == 1 || rows == 0 || (!p.w_ih && rows > 1)) return 1;
  const bool large = weights * static_cast<index>(sizeof(T)) > 1 << 20;
  const index of_large = products.rows_in_large ? std::max<index>(products.rows_in_large / rows, 1) : 4;
  return std::min<index>(rows < products.rows ? products.rows_ahead / rows : large ? of_large : 1, p.taken());
}

// Whether rows are too few to be shared: none for some threads; or, of weights that are fetched from beyond a thread's own cache at
// every step, fewer than hide the way. Where units are shared instead, each thread keeps its own part of the weights.
template <class T, class X>
bool few_rows(const Problem<T, X>& p, const Products<T, X>& products, index weights, int threads) {
  const bool large = weights * static_cast<index>(sizeof(T)) > 3 << 19;
  return p.batch < threads * std::max<index>(4, large ? products.rows_in_large : 0);
}

}  // namespace

template <class T, class X>
index packed_size(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Problem<T, X>& p) {
  const Tiles<T, X> tiles(*kernels.products, cell.traits, p);
  return tiles.count * tiles.size + (p.projected ? kernels.products->panel_size(p.hidden, p.projected) : 0);
}

template <class T, class X>
void pack(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Problem<T, X>& p, T* packed) {
  pack_part(Tiles<T, X>(*kernels.products, cell.traits, p), packed, Part{0, 1, nullptr});
}

template <class T, class X>
void forward(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Forward<T, X>& f) {
  const Traits& traits = cell.traits;
  const double per_step = static_cast<double>(f.batch * traits.gates * f.hidden) * static_cast<double>(columns(f));
  int threads = useful_threads(f, per_step * static_cast<double>(f.taken()), work_per_thread);
  const bool whole = f.projected || traits.needs_row;  // a row's units cannot be shared out
  bool by_units = !whole && f.taken() == 1;
  const Tiles<T, X> tiles(*kernels.products, traits, f);
  const index weights = tiles.count * tiles.size, projection = f.projected ? kernels.products->panel_size(f.hidden, f.projected) : 0;
  if (!whole && f.taken() > 1 && few_rows(f, *kernels.products, weights, threads)) {
    int with_barriers = useful_threads(f, per_step, f.batch == 1 ? work_of_one_row : work_per_barrier);
    by_units = with_barriers > 1 && with_barriers * 2 > std::min<index>(threads, f.batch);
    threads = by_units ? std::min(threads, with_barriers) : static_cast<int>(std::min<index>(threads, f.batch > 1 ? f.batch : 1));
  }
  const Order order(f);
  const bool one_step = by_units && f.taken() == 1 && !f.packed;
  const bool keep = static_cast<bool>(f.c) || static_cast<bool>(f.gates);
  const Noise& noise = f.noise;
  const bool plain = cell.row && std::is_same_v<T, X> && !f.projected && !f.hidden_mask && noise.zoneout_h <= 0 && noise.zoneout_c <= 0 &&
                     noise.candidate <= 0 && !one_step && (!by_units || threads == 1);
  const index ahead = steps_ahead(f, *kernels.products, by_units ? f.batch : f.batch / threads, weights);
  const index C = traits.states * f.hidden;
  Scratch<T> zeros(f.fed_back() + C), to_pack(one_step || f.packed ? 0 : weights + projection);
  Scratch<T> c(keep || !traits.has_cell ? 0 : f.batch * C), h(std::is_same_v<T, X> ? 0 : 2 * f.batch * f.fed_back());
  clear<T>(zeros, f.fed_back() + C);
  const T* packed = f.packed ? f.packed : to_pack;
  Plan<T, X> plan{kernels, cell, f, order, tiles, zeros, to_pack, packed, f.projected ? packed + weights : nullptr, c, h, by_units, ahead, one_step, plain};
  parallel(threads, [](void* context, const Part& part) { forward_part(*static_cast<const Plan<T, X>*>(context), part); }, &plan);
}

#define OPENLSTM_FORWARD(T, X)                                                                  \
  template void forward(const Kernels<T, X>&, const CellKernel<T>&, const Forward<T, X>&);      \
  template index packed_size(const Kernels<T, X>&, const CellKernel<T>&, const Problem<T, X>&); \
  template void pack(const Kernels<T, X>&, const CellKernel<T>&, const Problem<T, X>&, T*);
OPENLSTM_FORWARD(float, float)
OPENLSTM_FORWARD(double, double)
OPENLSTM_FORWARD(float, bfloat16)
OPENLSTM_FORWARD(float, eight_bit)

}  // namespace openlstm
