// Who works on which rows: rows in order of falling length, dealt to the threads, and where a row's state comes from.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels.hpp"
#include "noise.hpp"
#include "runtime/scratch.hpp"
#include "runtime/threads.hpp"

namespace openlstm {

template <class T>
inline void clear(T* p, index n) {
  std::memset(p, 0, static_cast<std::size_t>(n) * sizeof(T));
}
template <class T>
inline void copy(const T* from, T* to, index n) {
  std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
}

// One part's slice of n things that are shared out evenly.
struct Slice {
  index first, last;
  Slice(index n, const Part& part) : first(n * part.id / part.count), last(n * (part.id + 1) / part.count) {}
  index size() const { return last - first; }
};

// The rows by falling length (equal ones as they came), so that those alive at any step are a prefix of them.
class Order {
 public:
  template <class T, class X>
  explicit Order(const Problem<T, X>& p) : batch_(p.batch), ragged_(p.lengths != nullptr), rows_(p.batch), alive_(ragged_ ? 2 * (p.steps + 1) : 0) {
    if (!ragged_) {
      for (index b = 0; b < batch_; b++) rows_[b] = b;
      return;
    }
    index *alive = alive_, *next = alive_ + p.steps + 1;
    clear(alive, p.steps + 1);
    for (index b = 0; b < batch_; b++)
      if (p.lengths[b] > 0) alive[p.lengths[b] - 1]++;
    for (index t = p.steps - 1; t >= 0; t--) alive[t] += alive[t + 1];  // rows longer than t
    copy(alive, next, p.steps + 1);
    for (index b = 0; b < batch_; b++) rows_[next[p.lengths[b]]++] = b;
  }
  index row(index position) const { return rows_[position]; }
  index alive(index t) const { return ragged_ ? alive_[t] : batch_; }
  bool ragged() const { return ragged_; }

 private:
  index batch_;
  bool ragged_;
  Scratch<index> rows_, alive_;
};

// The positions in that order which one part takes through all of time: one stretch of a dense batch; of a ragged one every
// so many stretches of four, so that all parts have long and short rows and each step's work is shared.
class Share {
 public:
  Share(const Order& order, index batch, const Part& part) : positions_(batch) {
    if (order.ragged() && part.count > 1) {
      for (index first = 4 * part.id; first < batch; first += 4 * part.count)
        for (index p = first; p < std::min(first + 4, batch); p++) positions_[count_++] = p;
    } else {
      Slice mine(batch, part);
      for (index p = mine.first; p < mine.last; p++) positions_[count_++] = p;
    }
  }
  index count() const { return count_; }
  index position(index j) const { return positions_[j]; }
  // How many of the part's rows are among the first `alive`.
  index alive(index alive) {
    while (alive_ < count_ && positions_[alive_] < alive) alive_++;
    while (alive_ > 0 && positions_[alive_ - 1] >= alive) alive_--;
    return alive_;
  }

 private:
  Scratch<index> positions_;
  index count_ = 0, alive_ = 0;
};

// The state before a step that does not simply follow another: carried in, or put there by a reset.
template <class T, class X>
struct Begin {
  const Problem<T, X>& p;
  const T* zeros;  // [max(R, C)]

  // The step before t, in the order of processing.
  index before(index t) const { return p.reverse ? t + 1 : t - 1; }
  index length(index b) const { return p.lengths ? p.lengths[b] : p.steps; }
  bool first(index t, index b) const { return p.reverse ? t == std::min(length(b), p.last) - 1 : t == p.first; }
  // Whether the state is replaced before step t: reset[t] lies between t-1 and t, in whichever direction that is crossed.
  bool cut(index t, index b) const { return p.reset && crossed(t) < length(b) && p.reset[crossed(t) * p.batch + b]; }
  // What the state before step t is replaced by; given states are indexed like `reset`.
  const T* reset_h(index t, index b) const { return p.reset_h ? p.reset_h.at(crossed(t), b) : zeros; }
  const T* reset_c(index t, index b) const { return p.reset_c ? p.reset_c.at(crossed(t), b) : zeros; }
  index crossed(index t) const { return p.reverse ? t + 1 : t; }
};

// Around a part's products: what they hold of the processor is given back, however the part ends.
template <class T, class X>
struct Multiplying {
  const Products<T, X>& products;
  ~Multiplying() {
    if (products.end) products.end();
  }
};

// The step that is processed as the n-th.
template <class T, class X>
inline index step_at(const Problem<T, X>& p, index n) {
  return p.reverse ? p.last - 1 - n : p.first + n;
}

// A thread is worth waking for this many multiply-adds, and worth a barrier for this many between two: fewer where there is one
// row, whose weights then come from the caches of two processors. (On a quiet machine 4,096 would do; on a busy one every barrier
// waits for the other thread's turn, which a short step cannot make up for.)
constexpr index work_per_thread = 1 << 18, work_per_barrier = 1 << 16, work_of_one_row = 1 << 15;

// Multiply-adds of a gate's sum; a cell takes as long as a few of them.
template <class T, class X>
inline index columns(const Problem<T, X>& p) {
  return std::max<index>((p.w_ih ? p.inputs : 0) + p.recurrent, 8);
}

template <class T, class X>
inline int useful_threads(const Problem<T, X>& p, double work, index least) {
  double most = work / static_cast<double>(least);
  return most < 1 ? 1 : most < p.threads ? static_cast<int>(most) : p.threads;
}

}  // namespace openlstm
