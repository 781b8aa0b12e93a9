// The backward pass: backpropagation through time for every cell, in blocks of steps.
//
//     dz, dc = cell'(dh + dy, dc);   dh = dz W_hh   (cut at resets);   dx = dz W_ih
//     dW_ih = sum dz^T x;   dW_hh = sum dz^T h_before;   db = sum dz    over all rows and steps
//     dw_ch = sum dz c    of the gates with a peephole, c before the step, for the output gate after it
//     dnorm = sum dn s, sum dn    of what was normalised, s, and dL/d of what that became
//
// dz lies in the order of the sums (kernels.hpp, Traits): those of W x are a run, those of W h another. With heads the products of
// W_hh are made head by head, from dz and h of its own units; where a unit sees itself alone they are products of numbers.
//
// Each part first takes its own rows through a block's steps and lays their dz, x and h into memory that all parts share; then,
// after the block's one barrier, it sums its own rows of the weights' gradients. Sums over tokens run by falling time and, within
// a step, in the order of rows; a block's sum is added as one number. Blocks depend on T and B alone, so the gradients do not
// depend on the number of threads or on the vectors' width, nor on being worked out stretch by stretch, cut between two blocks.
// Gradients of norms are summed for every row of a block first.
#include "loop/loop.hpp"
#include "loop/plan.hpp"

namespace openlstm {
namespace {

// The tokens of a block: one for each row in each of so many steps.
struct Tokens {
  index steps, most;
  Tokens(index T, index B) : steps(B > 0 && B < 512 ? 512 / B : 1), most(std::min(steps, T) * B) {}
};

// What the parts of one call share: packed weights, and for two blocks in turn what the sums over tokens need.
template <class T>
struct Shared {
  T *w_ih, *w_hh, *w_hr;   // panels of the weights as they are, for dx, dh and the projection's input
  T *dz[2], *g[2], *c[2];  // [tokens, sums*H]; dL/d(projection) [tokens, P]; for peepholes c before and after [tokens, 2*H]
  T *x[2], *h[2], *m[2];   // panels [tokens, I]; for each head [tokens, recurrent], or [tokens, H] as it is; [tokens, H]
  T* norm[2];              // every row's gradients of norms [B, 14*H]: weights of x, both biases, weights of h, weights and biases of c
};

template <class T, class X>
struct Plan {
  const Kernels<T, X>& kernels;
  const CellKernel<T>& cell;
  const Backward<T, X>& b;
  const Order& order;
  const T* zeros;
  Tokens tokens;
  const Shared<T>& shared;
  const X* const* rows_of_x;                     // of W_ih, in the order of dz
  const X *const *rows_of_h, *const *rows_of_r;  // of W_hh head by head

  // The rows of W_hh that lie together: all of them, or with heads those of a gate, so many times a head; elements of their panels,
  // and of those of a head's h for a block.
  index runs() const { return b.heads > 1 ? cell.traits.gates : 1; }
  index run() const { return cell.traits.gates * b.hidden / (b.heads * runs()); }
  index panels_of_run() const { return kernels.products->panel_size(run(), b.recurrent); }
  index panels_of_h() const { return kernels.products->panel_size(tokens.most, b.recurrent); }
};

// One part's way through its rows.
template <class T, class X>
class RowsBackward {
 public:
  RowsBackward(const Plan<T, X>& plan, const Part& part)
      : plan_(plan),
        products_(*plan.kernels.products),
        rows_(*plan.kernels.rows),
        cell_(plan.cell.traits),
        b_(plan.b),
        begin_{plan.b, plan.zeros},
        share_(plan.order, plan.b.batch, part),
        most_(std::min(plan.tokens.steps, plan.b.taken()) * share_.count()),
        dm_(b_.projected ? share_.count() * b_.hidden : 0),
        kept_(b_.noise.zoneout_h > 0 ? share_.count() * b_.fed_back() : 0),
        masked_(b_.hidden_mask ? b_.fed_back() : 0),
        work_(cell_.needs_row ? 6 * b_.hidden : 0),
        own_c_(cell_.peepholes && b_.noise.zoneout_c > 0 ? share_.count() * b_.hidden : 0),
        rooms_(pairs ? share_.count() * rooms_of_a_row() + most_ * room_of_dx() : 0),
        keys_(2 * share_.count()),
        pointers_(2 * most_ + 16 * share_.count()) {
    const index R = b_.fed_back(), C = cell_.states * b_.hidden, n = share_.count();
    T** at = pointers_;
    auto out = [&] { return at += n, at - n; };
    auto in = [&] { return const_cast<const T**>(out()); };
    all_dz_ = out(), dh_ = out(), g_ = out(), dm_rows_ = out(), dz_h_ = in();
    given_ = {in(), in(), in(), in(), in(), in(), in(), out(), out(), out(), out()};
    dz_x_ = const_cast<const T**>(at), at += most_;
    dx_ = reinterpret_cast<X**>(at);
    for (index j = 0; j < n; j++) {
      const index b = row(j);
      start(b_.dh_n, b_.dh0, b, R);
      if (cell_.has_cell) start(carries() ? b_.dc_n : nullptr, b_.dc0, b, C);
    }
  }

  // Steps [first, last) in the order of processing, from the last to the first; K tokens in all.
  void block(index first, index last, index K, int turn) {
    tokens_ = 0;
    index slot = 0;
    if (cell_.needs_row)
      for (index j = 0; j < share_.count(); j++) clear(norm_sums(j, turn), norm_rows() * b_.hidden);
    for (index n = last - 1; n >= first; n--) {
      const index t = step_at(b_, n), alive = plan_.order.alive(t);
      step(t, share_.alive(alive), slot, K, turn);
      slot += alive;
    }
    if (b_.dx && b_.w_ih) products_.multiply_given(dz_x_, dx_, tokens_, cell_.gates * b_.hidden, plan_.shared.w_ih, b_.inputs);
  }

 private:
  static constexpr bool pairs = !std::is_same_v<T, X>;

  index row(index j) const { return plan_.order.row(share_.position(j)); }
  // Whether there is a c beside h; the cell state of a GRU is h itself, unless h is not what its cell puts out (projection).
  bool carries() const { return cell_.has_cell && (!cell_.h_is_cell || b_.has_cell); }
  index norm_rows() const { return 3 * cell_.gates + 2; }
  T* norm_sums(index j, int turn) const { return plan_.shared.norm[turn] + row(j) * norm_rows() * b_.hidden; }

  // Where rows are put that do not lie as factors, or hold no numbers of type T: for each row of a step x, h before it and after
  // it, dz of W h, and what is projected; for each of a block dz of W x.
  index rooms_of_a_row() const { return b_.inputs + 2 * b_.fed_back() + room_of_dz() + products_.factors(b_.projected); }
  index room_of_dz() const { return b_.heads * plan_.runs() * products_.factors(plan_.run()); }
  index room_of_dx() const { return b_.dx ? products_.factors(cell_.gates * b_.hidden) : 0; }
  T* room_of_x(index j) const { return rooms_ + j * rooms_of_a_row(); }
  T* room_of_h(index j) const { return room_of_x(j) + b_.inputs; }
  T* room_of_y(index j) const { return room_of_h(j) + b_.fed_back(); }
  T* room_of_dz(index j) const { return room_of_y(j) + b_.fed_back(); }
  T* room_of_g(index j) const { return room_of_dz(j) + room_of_dz(); }
  T* room_of_dx(index token) const { return rooms_ + share_.count() * rooms_of_a_row() + token * room_of_dx(); }

  const T* numbers(const X* from, index n, T* room) const {
    if constexpr (pairs)
      return products_.numbers_of_given(from, n, room);
    else
      return from;
  }
  const T* factors(const T* from, index n, T* room) const {
    if constexpr (pairs)
      return products_.factors_of(from, n, room);
    else
      return from;
  }

  static void start(const T* given, T* out, index b, index n) {
    if (given)
      copy(given + b * n, out + b * n, n);
    else
      clear(out + b * n, n);
  }

  void step(index t, index alive, index slot, index K, int turn) {
    const index R = b_.fed_back(), H = b_.hidden, C = cell_.states * H, GH = cell_.gates * H, SH = cell_.sums() * H;
    const Shared<T>& shared = plan_.shared;
    const index live_before = tokens_;
    index live = 0;
    for (index j = 0; j < share_.count(); j++) {
      const index b = row(j);
      T *dh = b_.dh0 + b * R, *dc = carries() ? b_.dc0 + b * C : nullptr;
      if (j >= alive) {
        if (b_.dx) clear(b_.dx.at(t, b), b_.inputs);
        if (b_.h_steps) clear(b_.h_steps.at(t, b), R);
        if (b_.c_steps) clear(b_.c_steps.at(t, b), C);
        continue;
      }
      if (b_.dy) rows_.add_given(b_.dy.at(t, b), dh, R);
      if (b_.h_steps) copy(dh, b_.h_steps.at(t, b), R);
      if (b_.c_steps && dc) copy(dc, b_.c_steps.at(t, b), C);
      // A step that nothing depends on contributes exact zeros, whatever its numbers are: 0 * NaN would be NaN.
      const bool matters = rows_.any(dh, R) || (dc && rows_.any(dc, C));
      const index at = slot + share_.position(j);
      T* dz = shared.dz[turn] + at * SH;
      all_dz_[j] = matters ? dz : nullptr;
      const T *h_before, *c_before;
      before(t, j, h_before, c_before);
      if (b_.w_ih) products_.pack_row(matters ? numbers(b_.x.at(t, b), b_.inputs, room_of_x(j)) : nullptr, at, K, b_.inputs, shared.x[turn]);
      const T* seen = h_before;
      if (b_.hidden_mask) {
        rows_.times(h_before, b_.hidden_mask + b * R, masked_, R);
        seen = masked_;
      }
      put_h(matters ? seen : nullptr, at, K, shared.h[turn]);
      if (!matters) {
        clear(dz, SH);
        if (b_.dx) clear(b_.dx.at(t, b), b_.inputs);
        continue;
      }
      if (b_.dx) dx_[live_before + live] = b_.dx.at(t, b);
      g_[live] = dh_[live] = dh;
      if (b_.projected) dm_rows_[live] = dm_ + live * H;
      if (b_.noise.zoneout_h > 0) rows_.split_zoneout(b_.noise, key_of(b_.noise, Kind::zoneout_h, t, b), dh, kept_ + live * R, R);
      give_cell(live, t, j, h_before, c_before, turn);
      live++;
    }
    if (b_.projected) {
      for (index j = 0; j < live; j++) dz_h_[j] = factors(g_[j], b_.projected, room_of_g(j));
      products_.multiply(dz_h_, dm_rows_, live, b_.projected, shared.w_hr, H);
      for (index j = 0; j < alive; j++) projection_token(t, j, slot + share_.position(j), K, turn);
    }
    if (live > 0) call_cell(live);
    for (index n = 0; n < live; n++) {
      const T *dz_x = given_.dz[n], *dz_h = dz_x + cell_.separate * H;
      const bool multiplied = b_.dx && b_.w_ih, alike = !cell_.separate && b_.heads == 1 && cell_.recurrence == Recurrence::dense;
      if (multiplied) dz_x = dz_x_[live_before + n] = factors(dz_x, GH, room_of_dx(live_before + n));
      if (b_.dx && !b_.w_ih)
        for (int gate = 0; gate < cell_.gates; gate++) products_.convert(dz_x + cell_.place_of_x(gate) * H, dx_[live_before + n] + gate * H, H);
      dz_h_[n] = multiplied && alike ? dz_x : factors_by_head(dz_h, room_of_dz(n));
    }
    through_w_hh(live);
    for (index j = 0, n = 0; j < alive; j++) {
      if (!all_dz_[j]) continue;
      T* dh = dh_[n];
      if (b_.hidden_mask) rows_.times(dh, b_.hidden_mask + row(j) * R, dh, R);
      if (b_.noise.zoneout_h > 0) rows_.add(kept_ + n * R, dh, R);
      if (cell_.h_is_cell && !carries()) rows_.add(b_.dc0 + row(j) * H, dh, H), clear(b_.dc0 + row(j) * H, H);
      n++;
    }
    if (cell_.peepholes > 0)
      for (index j = 0, n = 0; j < alive; j++) n += cells_token(t, j, n, shared.c[turn] + (slot + share_.position(j)) * 2 * H);
    for (index j = 0; j < alive; j++)
      if (begin_.cut(t, row(j))) cut(t, row(j));
    tokens_ += live;
  }

  // What the sums saw of h, or zeros where it is null, for their gradients.
  void put_h(const T* seen, index at, index K, T* to) const {
    const index H = b_.hidden;
    if (cell_.recurrence == Recurrence::dense)
      for (index head = 0; head < b_.heads; head++)
        products_.pack_row(seen ? seen + head * b_.recurrent : nullptr, at, K, b_.recurrent, to + head * plan_.panels_of_h());
    else if (cell_.recurrence == Recurrence::elementwise)
      seen ? copy(seen, to + at * H, H) : clear(to + at * H, H);
  }

  // dz of W h as it enters the product: as it lies, or in factors, with heads those of each head and gate by themselves.
  const T* factors_by_head(const T* dz, T* room) const {
    if (!pairs || cell_.recurrence != Recurrence::dense) return dz;
    if (b_.heads == 1) return factors(dz, plan_.run(), room);
    for (index gate = 0; gate < cell_.gates; gate++)
      for (index head = 0; head < b_.heads; head++)
        factors(dz + gate * b_.hidden + head * plan_.run(), plan_.run(), room + (head * cell_.gates + gate) * products_.factors(plan_.run()));
    return room;
  }

  // dh = dz W_hh for the rows that matter.
  void through_w_hh(index live) const {
    const index R = b_.fed_back(), run = plan_.run();
    const T* w = plan_.shared.w_hh;
    if (cell_.recurrence == Recurrence::none)
      for (index n = 0; n < live; n++) clear(dh_[n], R);
    else if (cell_.recurrence == Recurrence::elementwise)
      for (index n = 0; n < live; n++) rows_.diagonal(w, dz_h_[n], cell_.gates, R, dh_[n]);
    else
      for (index head = 0; head < b_.heads; head++) {
        const index of_head = pairs ? cell_.gates * products_.factors(run) : run, between = pairs ? products_.factors(run) : b_.hidden;
        const index panels = plan_.panels_of_run();
        products_.multiply_runs(
            {dz_h_, dh_, live, head * of_head, plan_.runs(), between, run, w + head * plan_.runs() * panels, panels, head * b_.recurrent, b_.recurrent});
      }
  }

  // The state that step t of the j-th row began with.
  void before(index t, index j, const T*& h, const T*& c) const {
    const index R = b_.fed_back(), b = row(j);
    c = nullptr;
    if (begin_.cut(t, b)) {
      h = begin_.reset_h(t, b);
      if (carries()) c = begin_.reset_c(t, b);
    } else if (begin_.first(t, b)) {
      h = rounded(b_.h0 + b * R, j);
      if (carries()) c = b_.c0 + b * cell_.states * b_.hidden;
    } else {
      h = numbers(b_.y.at(begin_.before(t), b), R, room_of_h(j));
      if (carries()) c = b_.c.at(begin_.before(t), b);
    }
    if (!carries()) c = h;
  }

  // The state at the begin as y would hold it, so that a sequence run in stretches has the gradients of a whole one.
  const T* rounded(const T* h, index j) const {
    if constexpr (!pairs) return h;
    X* room = reinterpret_cast<X*>(room_of_y(j));
    products_.convert(h, room, b_.fed_back());
    return numbers(room, b_.fed_back(), room_of_h(j));
  }

  // What the cell needs of the n-th row that matters.
  void give_cell(index n, index t, index j, const T* h_before, const T* c_before, int turn) {
    const index b = row(j), H = b_.hidden;
    const T* y = numbers(b_.y.at(t, b), b_.fed_back(), room_of_y(j));
    given_.gates[n] = cell_.saved ? b_.gates.at(t, b) : nullptr;
    given_.h_before[n] = h_before, given_.c_before[n] = c_before;
    given_.c[n] = carries() ? b_.c.at(t, b) : y;
    given_.h[n] = b_.projected ? b_.m.at(t, b) : y;
    given_.dh[n] = b_.projected ? dm_ + n * H : b_.dh0 + b * b_.fed_back();
    given_.dfed[n] = b_.dh0 + b * b_.fed_back() + H;
    given_.dc[n] = cell_.has_cell ? b_.dc0 + b * cell_.states * H : nullptr;
    given_.dz[n] = all_dz_[j];
    given_.own_c[n] = own_c_ ? own_c_ + n * H : nullptr;
    given_.dnorm[n] = cell_.needs_row ? norm_sums(j, turn) : nullptr;
    if (!begin_.first(t, b)) {  // what the next step reads, ahead of time: memory is slower than a short step
      fetch(b_.gates.at(begin_.before(t), b), cell_.saved * H);
      if (carries() && !begin_.first(begin_.before(t), b)) fetch(b_.c.at(begin_.before(begin_.before(t)), b), cell_.states * H);
    }
    if (b_.noise.zoneout_c > 0) keys_[n] = key_of(b_.noise, Kind::zoneout_c, t, b);
    if (b_.noise.candidate > 0) keys_[share_.count() + n] = key_of(b_.noise, Kind::candidate, t, b);
  }

  static void fetch(const T* from, index n) {
    for (index k = 0; k < n; k += 64 / static_cast<index>(sizeof(T))) __builtin_prefetch(from + k, 0, 2);
  }

  void call_cell(index rows) const {
    plan_.cell.backward({rows,
                         b_.hidden,
                         given_.gates,
                         given_.c_before,
                         given_.h_before,
                         given_.c,
                         given_.h,
                         given_.dh,
                         given_.dfed,
                         given_.dc,
                         given_.dz,
                         own_c_ ? given_.own_c : nullptr,
                         given_.dnorm,
                         work_,
                         keys_,
                         keys_ + share_.count(),
                         b_.w_ch,
                         b_.norm,
                         b_.clip,
                         b_.beta,
                         !b_.projected,
                         &b_.noise});
  }

  // For the peepholes: c before step t and the cell's own c' after it (before zoneout). Gives 1 if the row matters.
  index cells_token(index t, index j, index n, T* out) const {
    const index H = b_.hidden;
    if (!all_dz_[j]) return clear(out, 2 * H), 0;
    copy(given_.c_before[n], out, H);
    copy(own_c_ ? static_cast<const T*>(own_c_ + n * H) : b_.c.at(t, row(j)), out + H, H);
    return 1;
  }

  // dW_hr = sum g^T m: the gradients of h' = m W_hr^T, and m.
  void projection_token(index t, index j, index at, index K, int turn) const {
    const index b = row(j), P = b_.projected;
    T* g = plan_.shared.g[turn] + at * P;
    if (all_dz_[j])
      copy(static_cast<const T*>(b_.dh0 + b * P), g, P);
    else
      clear(g, P);
    products_.pack_row(all_dz_[j] ? b_.m.at(t, b) : nullptr, at, K, b_.hidden, plan_.shared.m[turn]);
  }

  // Nothing crosses a reset; what arrives there belongs to the state that was put in place.
  void cut(index t, index b) const {
    const index R = b_.fed_back(), C = cell_.states * b_.hidden;
    if (b_.dreset_h) rows_.add(b_.dh0 + b * R, b_.dreset_h.at(begin_.crossed(t), b), R);
    clear(b_.dh0 + b * R, R);
    if (!carries()) return;
    if (b_.dreset_c) rows_.add(b_.dc0 + b * C, b_.dreset_c.at(begin_.crossed(t), b), C);
    clear(b_.dc0 + b * C, C);
  }

  const Plan<T, X>& plan_;
  const Products<T, X>& products_;
  const RowFunctions<T, X>& rows_;
  const Traits& cell_;
  const Backward<T, X>& b_;
  Begin<T, X> begin_;
  Share share_;
  index most_;                // of the part's tokens in a block
  index tokens_ = 0;          // of them that matter, so far
  Scratch<T> dm_;             // dL/dm of one step
  Scratch<T> kept_, masked_;  // of one step: what of dL/dh passes by; of one row: h behind the locked mask
  Scratch<T> work_;           // of the cell
  Scratch<T> own_c_;          // of one step: c' before zoneout, which the output gate's peephole saw
  Scratch<T> rooms_;
  Scratch<uint32_t> keys_;
  Scratch<T*> pointers_;
  T **all_dz_, **dh_, **g_, **dm_rows_;  // of one step; all_dz_ of dead rows too, where it is null
  const T **dz_h_, **dz_x_;              // as factors; the latter of all tokens of a block
  X** dx_;
  struct {
    const T **gates, **c_before, **h_before, **c, **h, **dh, **dfed;
    T **dc, **dz, **own_c, **dnorm;
  } given_;  // to the cell
};

// f(first, n) for the stretches of a slice that do not cross a multiple of `run`, at most `most` long.
template <class F>
void in_runs(index first, index end, index run, index most, F f) {
  for (index last; first < end; first = last) {
    last = std::min({(first / run + 1) * run, end, first + most});
    f(first, last - first);
  }
}
template <class F>
void in_runs(Slice rows, index run, index most, F f) {
  in_runs(rows.first, rows.last, run, most, f);
}

template <class T, class X>
void backward_part(const Plan<T, X>& plan, const Part& part) {
  const Backward<T, X>& b = plan.b;
  const Shared<T>& shared = plan.shared;
  const Products<T, X>& products = *plan.kernels.products;
  const Multiplying<T, X> multiplying{products};
  const Traits& cell = plan.cell.traits;
  const index H = b.hidden, rows = cell.gates * H, head = H / b.heads, wide = cell.sums() * H, most = products.gradient_rows;
  const Slice gates(rows, part), projected(b.projected, part), peepholes(cell.peepholes * H, part), norms(cell.needs_row ? 4 * rows + 2 * H : 0, part);
  // Where row r of the weights lies among the blocks of dz.
  auto in_x = [&](index r) { return cell.place_of_x(static_cast<int>(r / H)) * H + r % H; };
  auto in_h = [&](index r) { return r + cell.separate * H; };
  if (!b.go_on) {
    if (b.w_ih) clear(b.dw_ih + gates.first * b.inputs, gates.size() * b.inputs);
    clear(b.dw_hh + gates.first * b.recurrent, gates.size() * b.recurrent);
    if (b.db_ih) clear(b.db_ih + gates.first, gates.size());
    if (b.db_hh) clear(b.db_hh + gates.first, gates.size());
    if (b.projected) clear(b.dw_hr + projected.first * H, projected.size() * H);
    if (cell.peepholes) clear(b.dw_ch + peepholes.first, peepholes.size());
    if (cell.needs_row) clear(b.dnorm + norms.first, norms.size());
  }

  auto pack = [&](const X* const* from, index K, index columns, T* panels) {
    const Slice mine(products.panels(columns), part);
    products.pack_rows(from, K, mine.first, mine.last, columns, panels);
  };
  if (const index panels = products.panels(b.recurrent); cell.recurrence == Recurrence::dense)
    in_runs(Slice(b.heads * plan.runs() * panels, part), panels, panels, [&](index first, index n) {
      const index which = first / panels, at = which % plan.runs() * H + which / plan.runs() * head;  // a run, and its first row
      const index begin = first % panels;
      products.pack_rows(plan.rows_of_h + at, plan.run(), begin, begin + n, b.recurrent, shared.w_hh + which * plan.panels_of_run());
    });
  else if (cell.recurrence == Recurrence::elementwise && part.id == 0)
    if (const T* own = products.numbers_of_given(b.w_hh, rows, shared.w_hh); own != shared.w_hh) copy(own, shared.w_hh, rows);
  if (b.dx && b.w_ih) pack(plan.rows_of_x, rows, b.inputs, shared.w_ih);
  if (b.projected) pack(plan.rows_of_r, b.projected, H, shared.w_hr);
  part.wait();

  RowsBackward<T, X> mine(plan, part);
  Scratch<T> turned(products.turned_size(plan.tokens.most));
  int turn = 0;
  for (index last = b.taken(); last > 0; last -= plan.tokens.steps, turn = !turn) {
    const index first = last > plan.tokens.steps ? last - plan.tokens.steps : 0;
    index K = 0;
    for (index n = first; n < last; n++) K += plan.order.alive(step_at(b, n));
    mine.block(first, last, K, turn);
    part.wait();  // one is enough: the next block is written elsewhere, the one after it only when all have come here again
    const T* dz = shared.dz[turn];
    auto add_tokens = [&](const T* d, index between, const T* c, index between_c, index tokens, T* out, index n) {
      plan.kernels.rows->add_tokens(d, between, c, between_c, tokens, out, n);
    };
    in_runs(gates, H, most, [&](index r, index n) {
      const bool dense = cell.recurrence == Recurrence::dense;
      if (b.w_ih || dense) products.turn(dz + in_x(r), wide, K, n, turned);
      if (b.w_ih) products.add_gradient({turned, 0, K, n, shared.x[turn], b.dw_ih + r * b.inputs, b.inputs});
      if (dense && in_h(r) != in_x(r)) products.turn(dz + in_h(r), wide, K, n, turned);
      if (dense)
        in_runs(r, r + n, head, n, [&](index own, index count) {
          const T* h = shared.h[turn] + own % H / head * plan.panels_of_h();
          products.add_gradient({turned, own - r, K, count, h, b.dw_hh + own * b.recurrent, b.recurrent});
        });
      if (cell.recurrence == Recurrence::elementwise) add_tokens(dz + in_h(r), wide, shared.h[turn] + r % H, H, K, b.dw_hh + r, n);
      if (b.db_ih) add_tokens(dz + in_x(r), wide, nullptr, 0, K, b.db_ih + r, n);
      if (b.db_hh) add_tokens(dz + in_h(r), wide, nullptr, 0, K, b.db_hh + r, n);
    });
    in_runs(projected, b.projected, most, [&](index r, index n) {
      products.turn(shared.g[turn] + r, b.projected, K, n, turned);
      products.add_gradient({turned, 0, K, n, shared.m[turn], b.dw_hr + r * H, H});
    });
    in_runs(peepholes, H, H, [&](index r, index n) {
      const index which = r / H, unit = r % H, after = which == cell.after ? H : 0;
      add_tokens(dz + cell.sees[which] * H + unit, wide, shared.c[turn] + after + unit, 2 * H, K, b.dw_ch + r, n);
    });
    in_runs(norms, H, H, [&](index r, index n) {
      const index from = r < 3 * rows ? r : r < 4 * rows ? r - 2 * rows : r - rows;  // the biases of both sums have one gradient
      add_tokens(shared.norm[turn] + from, 3 * rows + 2 * H, nullptr, 0, b.batch, b.dnorm + r, n);
    });
  }
}

}  // namespace

template <class T, class X>
void backward(const Kernels<T, X>& kernels, const CellKernel<T>& cell, const Backward<T, X>& b) {
  const Products<T, X>& products = *kernels.products;
  const Traits& traits = cell.traits;
  const index H = b.hidden, rows = traits.gates * H, sums = traits.sums() * H, widest = std::max({sums, b.fed_back(), traits.states * H});
  const bool dense = traits.recurrence == Recurrence::dense, elementwise = traits.recurrence == Recurrence::elementwise;
  const Order order(b);
  const Tokens tokens(b.taken(), b.batch);
  Scratch<T> zeros(widest);
  clear<T>(zeros, widest);
  Scratch<const X*> matrix_rows(2 * rows + b.projected);
  const X** rows_of_r = matrix_rows + 2 * rows;
  for (index k = 0; k < rows; k++) {
    if (b.w_ih) matrix_rows[k] = b.w_ih + (traits.gate_of_x(static_cast<int>(k / H)) * H + k % H) * b.inputs;
    matrix_rows[rows + k] = b.w_hh + k * b.recurrent;
  }
  for (index k = 0; k < b.projected; k++) rows_of_r[k] = b.w_hr + k * H;
  Shared<T> shared{};
  Plan<T, X> plan{kernels, cell, b, order, zeros, tokens, shared, matrix_rows, matrix_rows + rows, rows_of_r};
  Scratch<T> w_ih(b.dx && b.w_ih ? products.panel_size(rows, b.inputs) : 0);
  Scratch<T> w_hh(dense ? b.heads * plan.runs() * plan.panels_of_run() : elementwise ? rows : 0);
  Scratch<T> w_hr(b.projected ? products.panel_size(b.projected, H) : 0);
  const index sizes[] = {sums * tokens.most,
                         b.projected * tokens.most,
                         traits.peepholes ? 2 * H * tokens.most : 0,
                         b.w_ih ? products.panel_size(tokens.most, b.inputs) : 0,
                         dense         ? b.heads * plan.panels_of_h()
                         : elementwise ? H * tokens.most
                                       : 0,
                         b.projected ? products.panel_size(tokens.most, H) : 0,
                         traits.needs_row ? (3 * rows + 2 * H) * b.batch : 0};
  index each = 0;
  for (index size : sizes) each += size;
  Scratch<T> blocks(2 * each);
  shared.w_ih = w_ih, shared.w_hh = w_hh, shared.w_hr = w_hr;
  for (int turn = 0; turn < 2; turn++) {
    T* at = blocks + turn * each;
    T** const places[] = {&shared.dz[turn], &shared.g[turn], &shared.c[turn], &shared.x[turn], &shared.h[turn], &shared.m[turn], &shared.norm[turn]};
    for (int k = 0; k < 7; at += sizes[k++]) *places[k] = at;
  }
  const double work = 3. * static_cast<double>(b.taken() * b.batch) * static_cast<double>(rows) * static_cast<double>(columns(b));
  const int threads = useful_threads(b, work, work_per_thread);
  parallel(threads, [](void* context, const Part& part) { backward_part(*static_cast<const Plan<T, X>*>(context), part); }, &plan);
}

template void backward(const Kernels<float>&, const CellKernel<float>&, const Backward<float>&);
template void backward(const Kernels<double>&, const CellKernel<double>&, const Backward<double>&);
template void backward(const Kernels<float, bfloat16>&, const CellKernel<float>&, const Backward<float, bfloat16>&);

}  // namespace openlstm
