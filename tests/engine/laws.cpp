// Prints a hash of everything the kernels compute on drawn problems, so that two machines can be compared line by line.
//
// Built with the loops, the runtime and the kernels of one instruction set, named by OPENLSTM_ISA. It keeps some laws
// itself: more threads and flush to zero change no bit, a row alone gives the bits of the row in its batch, NaN passes, the
// ends of sigmoid are exact, memory that runs out is an exception and changes no bit of the next run, no thread keeps the tiles of
// AMX. Exit status 1 where one is broken.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "loop/loop.hpp"
#include "runtime/workspace.hpp"

// `new`, whose n-th call by a kernel may be refused.
static std::atomic<long> calls_left{0};
static std::atomic<bool> in_kernel{false};
void* operator new(std::size_t bytes) {
  if (in_kernel && calls_left > 0 && --calls_left == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace openlstm::OPENLSTM_ISA {
#ifdef OPENLSTM_BFLOAT16
extern const Kernels<float, bfloat16> kernels;
#ifdef OPENLSTM_EMULATE_TILES
int tiles_in_use();
#endif
#else
extern const InstructionSet kernels;
#endif
}  // namespace openlstm::OPENLSTM_ISA

namespace laws {

using openlstm::bfloat16;
using openlstm::index;
const auto& kernels = openlstm::OPENLSTM_ISA::kernels;

struct Random {  // xorshift; numbers in (-1, 1) with few bits, the same in float and double
  uint64_t state;
  uint64_t next() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
  }
  template <class T>
  T number() {
    return T(double(int64_t(next() >> 44) - (1 << 19)) / (1 << 19));
  }
};

template <class T>
using Numbers = std::vector<T>;
using Hash = uint64_t;

template <class T>
void put(T& a, double x) {
  a = T(x);
}
[[maybe_unused]] static void put(bfloat16& a, double x) {  // cut off, not rounded: any number will do
  const float f = float(x);
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  a.bits = uint16_t(bits >> 16);
}
template <class T>
bool nan(T x) {
  return x != x;
}
[[maybe_unused]] static bool nan(bfloat16 x) { return (x.bits & 0x7fff) > 0x7f80; }

template <class T>
Hash hash(const Numbers<T>& numbers, Hash h) {
  T none;
  put(none, std::nan(""));
  for (T x : numbers) {
    if (nan(x)) x = none;  // one NaN is as good as another
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &x, sizeof(T));
    for (unsigned char byte : bytes) h = (h ^ byte) * 1099511628211u;
  }
  return h;
}

static void flush_to_zero(bool on) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(on ? 0x9fc0 : 0x1f80);
#elif defined(__aarch64__)
  unsigned long fpcr = on ? 1ul << 24 : 0;
  asm volatile("msr fpcr, %0" ::"r"(fpcr));
#endif
}

// What Python knows of the cells; a GRU has a cell state only under a projection. `sees` is what a unit sees of h: A all or its
// head, B itself, C nothing; 'a' for A where there can be no projection, since a step reads h beside the sums.
struct Shape {
  const char* name;
  index gates, saved, peepholes, feedback;
  bool has_cell;
  index states = 1;
  char sees = 'A';
};
static const Shape shapes[] = {
    {"lstm", 4, 4, 0, 1, true},
    {"rnn_tanh", 1, 0, 0, 1, false},
    {"rnn_relu", 1, 0, 0, 1, false},
    {"gru", 3, 4, 0, 1, false},
    {"peephole", 4, 4, 3, 1, true},
    {"fgr", 4, 4, 3, 4, true},
    {"lstm_ln", 4, 12, 0, 1, true},
    {"slstm", 4, 5, 0, 1, true, 3},
    {"mingru", 2, 2, 0, 1, false, 1, 'C'},
    {"minlstm", 3, 5, 0, 1, false, 1, 'C'},
    {"janet", 2, 3, 0, 1, false, 1, 'a'},
    {"indrnn_tanh", 1, 0, 0, 1, false, 1, 'B'},
    {"indrnn_relu", 1, 0, 0, 1, false, 1, 'B'},
#ifndef OPENLSTM_FEW_CELLS
    {"nig", 3, 3, 2, 1, true},
    {"nig_np", 3, 3, 0, 1, true},
    {"nfg", 3, 3, 2, 1, true},
    {"nfg_np", 3, 3, 0, 1, true},
    {"nog", 3, 3, 2, 1, true},
    {"nog_np", 3, 3, 0, 1, true},
    {"niaf", 4, 4, 3, 1, true},
    {"niaf_np", 4, 4, 0, 1, true},
    {"noaf", 4, 4, 3, 1, true},
    {"noaf_np", 4, 4, 0, 1, true},
    {"cifg", 3, 3, 2, 1, true},
    {"cifg_np", 3, 3, 0, 1, true},
#endif
};
constexpr int cells = sizeof shapes / sizeof *shapes;
static int cell_of(const char* name) {
  int k = 0;
  while (std::strcmp(shapes[k].name, name) != 0) k++;
  return k;
}

struct Inside {
  Inside() { in_kernel = true; }
  ~Inside() { in_kernel = false; }
};

struct Sizes {
  int cell;
  index T, B, I, H, P;
  bool reverse, lengths, reset, reset_state, bias, clip, zoneout, drop, training;
  index heads = 1;
  bool given = false;  // x is the sums of W x
  const Shape& shape() const { return shapes[cell]; }
  bool dense() const { return shape().sees == 'A' || shape().sees == 'a'; }
  index recurrent() const { return dense() ? fed_back() / heads : shape().sees == 'B'; }
  index C() const { return shape().states * H; }
  bool normed() const { return shape().saved == 12; }
  bool has_cell() const { return shape().has_cell || (shape().saved && P); }
  index fed_back() const { return P ? P : H * shape().feedback; }
};

template <class T, class X = T>
struct Run {
  const Sizes& s;
  index G, R;
  Numbers<X> x, w_ih, w_hh, w_hr, dy;
  Numbers<T> b_ih, b_hh, w_ch, norm, mask, h0, c0, reset_h, reset_c, dh, dc;
  std::vector<int64_t> lengths;
  std::vector<uint8_t> reset;
  Numbers<X> y, dx;
  Numbers<T> gates, c, m, h_n, c_n, dw_ih, dw_hh, db_ih, db_hh, dw_hr, dw_ch, dnorm, dh0, dc0, dreset_h, dreset_c, h_steps, c_steps;

  Run(const Sizes& sizes, uint64_t seed, double scale) : s(sizes), G(s.shape().gates), R(s.fed_back()) {
    Random random{seed * 2654435761u + 88172645463325252u};
    auto fill = [&](auto& v, index n, double by) {
      v.resize(n);
      for (auto& a : v) put(a, random.number<T>() * by);
    };
    double w = 1.2 / std::sqrt(double(s.H));
    fill(x, s.T * s.B * s.I, 2 * scale), fill(w_ih, G * s.H * s.I, w * scale), fill(w_hh, G * s.H * s.recurrent(), w);
    fill(b_ih, G * s.H, 0.5 * scale), fill(b_hh, G * s.H, 0.5 * scale), fill(w_hr, s.P * s.H, w);
    fill(h0, s.B * R, scale), fill(c0, s.B * s.C(), scale), fill(reset_h, s.B * R, scale), fill(reset_c, s.B * s.C(), scale);
    for (auto* c : {&c0, &reset_c})  // the normaliser of an sLSTM is above 0, or 0 at the begin
      for (index k = 0; k < index(c->size()) && s.C() == 3 * s.H; k++)
        if (k / s.H % 3 == 1) (*c)[k] = (*c)[k] < 0 ? T(0) : (*c)[k] + T(0.125);
    fill(w_ch, s.shape().peepholes * s.H, w), fill(mask, s.drop ? s.B * R : 0, 2);
    fill(norm, s.normed() ? 18 * s.H : 0, 1);
    fill(dy, s.T * s.B * R, 1), fill(dh, s.B * R, 1), fill(dc, s.B * s.C(), 1);
    for (index b = 0; b < s.B; b++) lengths.push_back(int64_t(random.next() >> 20) % (s.T + 1));
    for (index k = 0; k < s.T * s.B; k++) reset.push_back((random.next() >> 20) % 4 == 0);
  }

  void problem(openlstm::Problem<T, X>& p, int threads, index row) {
    bool one = row >= 0;
    index b = one ? row : 0;
    auto at = [](Numbers<T>& v, index offset) { return v.empty() ? nullptr : v.data() + offset; };
    p.steps = s.T, p.batch = one ? 1 : s.B, p.inputs = s.I, p.hidden = s.H, p.projected = s.P, p.reverse = s.reverse;
    p.first = 0, p.last = s.T, p.norm = at(norm, 0);
    p.w_ih = s.given ? nullptr : w_ih.data(), p.w_hh = w_hh.data(), p.recurrent = s.recurrent(), p.heads = s.heads, p.beta = T(0.75),
    p.w_hr = s.P ? w_hr.data() : nullptr;
    p.b_ih = s.bias ? b_ih.data() : nullptr, p.b_hh = s.bias ? b_hh.data() : nullptr;
    p.x = {x.data() + b * s.I, s.B * s.I, s.I};
    p.h0 = at(h0, b * R), p.c0 = at(c0, b * s.C());
    p.lengths = s.lengths ? lengths.data() + b : nullptr;
    p.reset = s.reset && !one ? reset.data() : nullptr;
    if (s.reset_state) p.reset_h = {at(reset_h, b * R), 0, R}, p.reset_c = {at(reset_c, b * s.C()), 0, s.C()};
    p.threads = threads;
    p.w_ch = at(w_ch, 0), p.clip = s.clip ? T(0.4) : std::numeric_limits<T>::infinity(), p.hidden_mask = at(mask, b * R);
    p.feedback = s.shape().feedback, p.has_cell = s.has_cell();
    p.noise.training = s.training, p.noise.seed = 0x123456789abcdef, p.noise.stream = 3;
    if (s.zoneout) p.noise.zoneout_h = 0.3, p.noise.zoneout_c = s.has_cell() ? 0.2 : 0;
    if (s.drop && s.shape().saved) p.noise.candidate = 0.25;
  }

  Hash go(int threads) {
    const index S = s.shape().saved;
    const bool has_cell = s.has_cell();
    auto make = [](auto& v, index n) {
      v.resize(n);
      for (auto& a : v) put(a, std::nan(""));
    };
    make(y, s.T * s.B * R), make(gates, s.T * s.B * S * s.H), make(c, has_cell ? s.T * s.B * s.C() : 0), make(m, s.P ? s.T * s.B * s.H : 0);
    make(h_n, s.B * R), make(c_n, has_cell ? s.B * s.C() : 0);
    openlstm::Forward<T, X> f{};
    problem(f, threads, -1);
    f.y = {y.data(), s.B * R, R};
    if (S) f.gates = {gates.data(), s.B * S * s.H, S * s.H};
    if (has_cell) f.c = {c.data(), s.B * s.C(), s.C()}, f.c_n = c_n.data();
    if (s.P) f.m = {m.data(), s.B * s.H, s.H};
    f.h_n = h_n.data();
    {
      const Inside kernel;
      openlstm::forward(table(), cell(), f);
    }

    const bool gru = s.shape().gates == 3 && S == 4;
    make(dx, x.size()), make(dw_ih, w_ih.size()), make(dw_hh, w_hh.size()), make(db_ih, s.normed() ? 0 : G * s.H), make(db_hh, gru ? G * s.H : 0);
    make(dnorm, norm.size());
    make(dw_hr, w_hr.size()), make(dw_ch, w_ch.size()), make(dh0, s.B * R), make(dc0, S ? s.B * s.C() : 0);
    dreset_h.assign(s.reset_state ? s.B * R : 0, T(0)), dreset_c.assign(s.reset_state && has_cell ? s.B * s.C() : 0, T(0));
    make(h_steps, y.size()), make(c_steps, c.size());
    openlstm::Backward<T, X> b{};
    problem(b, threads, -1);
    b.y = {y.data(), s.B * R, R}, b.dy = {dy.data(), s.B * R, R}, b.dh_n = dh.data();
    b.h_steps = {h_steps.data(), s.B * R, R}, b.dh0 = dh0.data(), b.dc0 = dc0.data();
    b.dx = {dx.data(), s.B * s.I, s.I};
    b.dw_ih = s.given ? nullptr : dw_ih.data(), b.dw_hh = dw_hh.data(), b.db_ih = s.normed() ? nullptr : db_ih.data(), b.dnorm = dnorm.data(),
    b.db_hh = gru ? db_hh.data() : nullptr;
    b.dw_hr = s.P ? dw_hr.data() : nullptr, b.dw_ch = dw_ch.data();
    if (S) b.gates = {gates.data(), s.B * S * s.H, S * s.H};
    if (has_cell) b.c = {c.data(), s.B * s.C(), s.C()}, b.dc_n = dc.data(), b.c_steps = {c_steps.data(), s.B * s.C(), s.C()};
    if (s.P) b.m = {m.data(), s.B * s.H, s.H};
    if (s.reset_state) b.dreset_h = {dreset_h.data(), 0, R};
    if (s.reset_state && has_cell) b.dreset_c = {dreset_c.data(), 0, s.C()};
    {
      const Inside kernel;
      openlstm::backward(table(), cell(), b);
    }
    Hash h = 14695981039346656037u;
    for (auto* v : {&y, &dx}) h = hash(*v, h);
    for (auto* v : {&gates, &c, &m, &h_n, &c_n, &dw_ih, &dw_hh, &db_ih, &db_hh, &dw_hr, &dw_ch, &dnorm, &dh0, &dc0, &dreset_h, &dreset_c, &h_steps, &c_steps})
      h = hash(*v, h);
    return h;
  }

  // Whether row b run alone (without resets) gives the bits it has in y; asked of problems without resets.
  bool alone(index b) {
    Numbers<X> out(s.T * R);
    Numbers<T> h(R), c_n(s.C());
    openlstm::Forward<T, X> f{};
    problem(f, 1, b);
    f.y = {out.data(), R, R}, f.h_n = h.data();
    if (s.has_cell()) f.c_n = c_n.data();
    openlstm::forward(table(), cell(), f);
    for (index t = 0; t < s.T; t++)
      if (std::memcmp(out.data() + t * R, y.data() + (t * s.B + b) * R, R * sizeof(X))) return false;
    return true;
  }

  static const openlstm::Kernels<T, X>& table();
  const openlstm::CellKernel<T>& cell() const { return *table().cell(s.shape().name); }
};
#ifdef OPENLSTM_BFLOAT16
template <>
const openlstm::Kernels<float, bfloat16>& Run<float, bfloat16>::table() {
  return kernels;
}
#else
template <>
const openlstm::Kernels<float>& Run<float>::table() {
  return kernels.float32;
}
template <>
const openlstm::Kernels<double>& Run<double>::table() {
  return kernels.float64;
}
#endif

static int broken = 0;
static void law(bool holds, const char* what, const char* where) {
  if (!holds) std::printf("BROKEN %s %s\n", what, where), broken++;
}

static void tiles_released([[maybe_unused]] const char* where) {
#ifdef OPENLSTM_EMULATE_TILES
  law(openlstm::OPENLSTM_ISA::tiles_in_use() == 0, "tiles are released", where);
#endif
}

constexpr int drawn = 216;

template <class T, class X = T>
void problems(const char* type) {
  const index widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 33, 66};
  for (int n = 0; n < drawn; n++) {
    Random random{uint64_t(n) * 7919 + 1234567};
    auto draw = [&](index below) { return index((random.next() >> 20) % uint64_t(below)); };
    Sizes s{n % cells,    draw(7),      draw(7),      widths[draw(12)], widths[draw(12)], 0,           draw(2) == 1, draw(2) == 1, draw(2) == 1,
            draw(2) == 1, draw(4) != 0, draw(4) == 0, draw(4) == 0,     draw(4) == 0,     draw(3) != 0};
    if (s.shape().feedback == 1 && s.shape().sees == 'A' && draw(3) == 0) s.P = widths[draw(8)];
    if (s.shape().feedback == 1 && s.dense() && !s.normed() && !s.P && draw(2) == 0) s.heads = 2 + draw(3), s.H *= s.heads;
    if (n % 36 >= 18 && n >= drawn - 36) s.T = 12, s.B = 13, s.I = 40, s.H = 90;          // enough work for several threads, by rows
    if (n % 36 < 18 && n >= drawn - 36) s.T = 3, s.B = 1, s.I = 256, s.H = 300, s.P = 0;  // and by units
    while (s.H % s.heads) s.heads--;
    s.given = draw(5) == 0;
    if (s.given) s.I = s.shape().gates * s.H;
    Run<T, X> run(s, uint64_t(n) + 1, n % 5 == 4 ? (sizeof(T) == 4 ? 1e-20 : 1e-155) : 1.);
    char where[128];
    std::snprintf(where, sizeof where, "%s %s T%td B%td I%td H%td/%td P%td %d%d%d%d%d %d%d%d%d%d", type, s.shape().name, s.T, s.B, s.I, s.H, s.heads, s.P,
                  s.reverse, s.lengths, s.reset, s.reset_state, s.bias, s.clip, s.zoneout, s.drop, s.training, s.given);
    Hash h = run.go(1);
    std::printf("%s %016llx\n", where, static_cast<unsigned long long>(h));
    law(run.go(3) == h, "threads", where);
    flush_to_zero(true);
    law(run.go(1) == h, "flush to zero", where);
    flush_to_zero(false);
    tiles_released(where);
    if (!s.reset && !(s.training && (s.zoneout || s.drop)))  // a row's noise depends on its place
      for (index b = 0; b < s.B; b++) law(run.alone(b), "row alone", where);
  }
}

// Every request for memory is refused once, of `new` and of work memory. (What a thread of the pool, or its place, would have
// taken may be done without.)
template <class T, class X = T>
void starved(const char* type) {
  const Sizes all[] = {{cell_of("lstm"), 6, 13, 20, 40, 0, false, true, true, true, true, false, false, false, true},
                       {cell_of("lstm"), 3, 1, 256, 300, 0, false, false, false, false, true, false, false, false, true},
                       {cell_of("lstm"), 6, 13, 20, 40, 9, true, false, false, false, true, false, true, false, true},
                       {cell_of("rnn_tanh"), 12, 13, 20, 60, 0, false, false, false, false, true, false, false, false, true},
                       {cell_of("gru"), 6, 13, 20, 40, 0, false, true, false, false, true, false, false, true, true},
                       {cell_of("fgr"), 4, 13, 20, 40, 0, false, false, false, false, true, false, true, false, true},
                       {cell_of("slstm"), 6, 13, 20, 40, 0, false, true, true, true, true, false, true, false, true, 4},
                       {cell_of("indrnn_tanh"), 6, 13, 20, 70, 0, false, true, true, false, true, false, true, false, true},
                       {cell_of("mingru"), 6, 13, 80, 40, 0, false, false, false, false, true, false, false, true, true, 1, true},
                       {cell_of("lstm_ln"), 6, 13, 20, 40, 0, false, true, false, false, true, false, false, false, true}};
  for (const Sizes& s : all) {
    Run<T, X> run(s, 5, 1.);
    char where[64];
    const Hash h = run.go(1);
    for (int threads : {3, 1})
      for (bool blocks : {false, true}) {
        std::snprintf(where, sizeof where, "%s %s T%td, %d threads, %s", type, s.shape().name, s.T, threads, blocks ? "blocks" : "new");
        long ran_out = 0;
        for (long n = 1;; n++) {
          bool thrown = false;
          blocks ? openlstm::refuse_block(n) : void(calls_left = n);
          try {
            law(run.go(threads) == h, "memory done without", where);
          } catch (const std::bad_alloc&) {
            thrown = true, ran_out++;
          }
          const bool refused = blocks ? thrown : calls_left <= 0;
          openlstm::refuse_block(0), calls_left = 0;
          tiles_released(where);
          if (!refused) break;
          law(run.go(threads) == h, "after memory ran out", where);
        }
        if (blocks) law(ran_out > 0, "memory asked for", where);
      }
  }
}

template <class T>
void functions(const char* type) {
  const auto& table = Run<T>::table();
  Numbers<T> in, out;
  for (int e = std::numeric_limits<T>::min_exponent - 30; e < std::numeric_limits<T>::max_exponent; e++)
    for (int k = 0; k < 16; k++) {
      T x = T(std::ldexp(1 + k / 16., e));
      in.push_back(x), in.push_back(-x);
    }
  for (double x : {0., -0., 1. / 0., -1. / 0., std::nan("")}) in.push_back(T(x));
  out.resize(in.size());
  struct {
    const char* name;
    void (*f)(const T*, T*, index);
  } all[] = {{"exp", table.rows->exp}, {"sigmoid", table.rows->sigmoid}, {"tanh", table.rows->tanh}, {"logsigmoid", table.rows->log_sigmoid}};
  for (auto& one : all) {
    one.f(in.data(), out.data(), index(in.size()));
    std::printf("%s %s %016llx\n", type, one.name, static_cast<unsigned long long>(hash(out, 1)));
    law(out.back() != out.back(), "NaN passes", one.name);
  }
  T ends[] = {sizeof(T) == 4 ? T(-104.) : T(-746.), sizeof(T) == 4 ? T(16.7) : T(36.8), T(-1e30), T(1e30)}, got[4];
  table.rows->sigmoid(ends, got, 4);
  law(got[0] == 0 && got[1] == 1 && got[2] == 0 && got[3] == 1, "ends of sigmoid", type);
}

}  // namespace laws

int main() {
#ifdef OPENLSTM_BFLOAT16
  laws::starved<float, openlstm::bfloat16>("bfloat16");
  laws::problems<float, openlstm::bfloat16>("bfloat16");
#else
  std::fprintf(stderr, "instruction set %s\n", laws::kernels.name);
  laws::starved<float>("float32");  // first, while the pool has no thread
  laws::functions<float>("float32");
  laws::functions<double>("float64");
  laws::problems<float>("float32");
  laws::problems<double>("float64");
#endif
  return laws::broken != 0;
}
