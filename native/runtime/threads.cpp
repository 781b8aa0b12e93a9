// The thread pool: workers spin for a moment, then sleep; they keep off the caller's processor and start afresh after fork.
//
// Where torch brought an OpenMP runtime into the process, its threads are borrowed instead: they go on spinning for milliseconds
// after each of torch's operations, on the very processors that threads of our own would need.
#include "runtime/threads.hpp"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace openlstm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned most_threads = 4096;
constexpr auto patience = std::chrono::microseconds(80);  // a step of a small network; sleeping earlier costs a wake-up each call

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Rounding to nearest, no flush to zero, no traps, whatever the thread had; put back at the end.
class IeeeDefault {
 public:
#if defined(__x86_64__)
  IeeeDefault() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~IeeeDefault() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  IeeeDefault() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(0ul));
  }
  ~IeeeDefault() { asm volatile("msr fpcr, %0" ::"r"(before_)); }

 private:
  unsigned long before_;
#endif
};

// Spin while `value` is `old`; after a while hand the processor to others, so that more threads than processors work too.
void spin_until_not(const int& value, int old) {
  std::atomic_ref<int> watched(const_cast<int&>(value));
  for (int tries = 0; watched.load(std::memory_order_acquire) == old; tries++) {
    if (tries < 2000)
      pause();
    else
      sched_yield();
  }
}

struct Abandoned {};  // what ends a part whose job another one has left
constexpr int abandoned = -1;

// A job, as its parts see it. Each runs in a function that may not throw (a thread's first one, or one called by an OpenMP
// runtime), so what it throws is kept for the caller.
class Job {
 public:
  Job(void (*body)(void*, const Part&), void* context) : body_(body), context_(context) {}

  void work(const Part& part) noexcept {
    IeeeDefault ieee;
    try {
      body_(context_, part);
    } catch (const Abandoned&) {
    } catch (...) {
      if (std::atomic_ref(thrown_).fetch_add(1) == 0) exception_ = std::current_exception();
      part.barrier->leave();
    }
  }
  // To be called when all parts have ended.
  void end() const {
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  void (*body_)(void*, const Part&);
  void* context_;
  int thrown_ = 0;
  std::exception_ptr exception_;
};

// What is needed of an OpenMP runtime that is already in the process (GNU's; the addresses are found by engine/threads.py).
struct Openmp {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
  int (*number)() = nullptr, (*count)() = nullptr;
};

// One job on a team of OpenMP threads; how many came is known only there, so the first of them makes the barrier.
struct Team {
  const Openmp& openmp;
  Job& job;
  std::optional<Barrier> barrier{};
  int made = 0;

  static void work(void* data) {
    Team& team = *static_cast<Team*>(data);
    const int id = team.openmp.number(), count = team.openmp.count();
    if (id == 0) {
      team.barrier.emplace(count);
      std::atomic_ref(team.made).store(1, std::memory_order_release);
    } else {
      spin_until_not(team.made, 0);
    }
    team.job.work(Part{id, count, &*team.barrier});
  }
};

class Pool {
 public:
  void borrow(const Openmp& openmp) {
    std::lock_guard lock(busy_);  // another thread may be in the middle of a job
    openmp_ = openmp;
  }

  // False if the pool is taken; the caller then works alone.
  bool run(int threads, Job& job) {
    std::unique_lock lock(busy_, std::try_to_lock);
    if (!lock) return false;
    if (openmp_.parallel) {
      Team team{openmp_, job};
      openmp_.parallel(Team::work, &team, static_cast<unsigned>(threads), 0);
      return true;
    }
    while (static_cast<int>(workers_.size()) < threads - 1 && start_worker()) {
    }
    int count = std::min(std::min(threads, static_cast<int>(most_threads) - 1), static_cast<int>(workers_.size()) + 1);
    if (count == 1) return false;
    keep_off_caller();
    Barrier barrier(count);
    job_ = &job, barrier_ = &barrier;
    running_ = count - 1;
    number_.store((number_.load(std::memory_order_relaxed) / most_threads + 1) * most_threads + static_cast<unsigned>(count), std::memory_order_release);
    number_.notify_all();
    job.work(Part{0, count, &barrier});
    for (int left; (left = std::atomic_ref(running_).load(std::memory_order_acquire)) > 0;) spin_until_not(running_, left);
    return true;
  }

 private:
  struct Worker {
    pthread_t thread;
  };

  bool start_worker() {
    int id = static_cast<int>(workers_.size()) + 1;
    unsigned seen = number_.load();
    try {
      workers_.reserve(workers_.size() + 1);
      std::thread thread([this, id, seen] { live(id, seen); });
      workers_.push_back({thread.native_handle()});
      thread.detach();
    } catch (const std::exception&) {
      return false;  // no more threads to be had, or no memory for one: fewer do the work
    }
    placed_for_ = -1;
    return true;
  }

  void live(int id, unsigned seen) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals belong to Python's main thread
    for (;;) {
      await_job(seen);
      seen = number_.load(std::memory_order_acquire);
      int count = static_cast<int>(seen % most_threads);
      if (id >= count) continue;  // this job needs fewer
      job_->work(Part{id, count, barrier_});
      std::atomic_ref(running_).fetch_sub(1, std::memory_order_release);
    }
  }

  void await_job(unsigned seen) {
    auto until = Clock::now() + patience;
    for (int tries = 1; number_.load(std::memory_order_acquire) == seen; tries++) {
      pause();
      if (tries % 64 == 0 && Clock::now() > until) number_.wait(seen, std::memory_order_acquire);
    }
  }

  // A woken worker tends to be put on the processor that woke it, where it can only wait for the caller to finish.
  void keep_off_caller() {
    int here = sched_getcpu();
    if (here == placed_for_ || here < 0) return;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    placed_for_ = here;
    if (CPU_COUNT(&allowed) > static_cast<int>(workers_.size())) CPU_CLR(here, &allowed);
    for (const Worker& worker : workers_) pthread_setaffinity_np(worker.thread, sizeof allowed, &allowed);
  }

  std::mutex busy_;
  Openmp openmp_;
  std::vector<Worker> workers_;
  int placed_for_ = -1;
  // The number of the job and, in the lowest digits, how many threads it takes: read at once, so that a worker which sleeps
  // through a job it has no part in cannot mistake the next one for it.
  std::atomic<unsigned> number_{0};
  int running_ = 0;  // workers still at it; atomic once they are
  Job* job_ = nullptr;
  Barrier* barrier_ = nullptr;
};

// Never destroyed: workers may sleep in it until the process ends. A forked child has no workers and takes a fresh one, which also
// forgets the OpenMP runtime: GNU's does not work in a child of a process that used it.
Pool* pool = nullptr;
void fresh_pool() { pool = new Pool; }

Pool& the_pool() {
  static const bool once = [] {
    fresh_pool();
    pthread_atfork(nullptr, nullptr, fresh_pool);
    return true;
  }();
  (void)once;
  return *pool;
}

}  // namespace

void Barrier::wait() {
  std::atomic_ref<int> waiting(waiting_), round(round_);
  const int mine = round.load(std::memory_order_relaxed);
  if (mine == abandoned) throw Abandoned{};
  if (waiting.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    waiting.store(0, std::memory_order_relaxed);
    round.store(mine + 1, std::memory_order_release);
  } else {
    spin_until_not(round_, mine);
    if (round.load(std::memory_order_relaxed) == abandoned) throw Abandoned{};
  }
}

// No round can end any more: whoever comes, comes to one that lacks the caller.
void Barrier::leave() { std::atomic_ref(round_).store(abandoned, std::memory_order_release); }

void borrow_openmp(void* parallel, void* number, void* count) {
  the_pool().borrow({reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel), reinterpret_cast<int (*)()>(number),
                     reinterpret_cast<int (*)()>(count)});
}

void parallel(int threads, void (*body)(void*, const Part&), void* context) {
  if (threads > 1) {
    Job job(body, context);
    if (the_pool().run(threads, job)) return job.end();
  }
  IeeeDefault ieee;
  Barrier alone(1);
  body(context, Part{0, 1, &alone});
}

}  // namespace openlstm
