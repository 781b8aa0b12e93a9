// The thread pool: a few workers that sleep when idle, and a barrier.
#pragma once

namespace openlstm {

// Where threads of one `parallel` call meet; every thread sees what the others wrote before they came. Where one of them has left
// by an exception, the others leave by one too, instead of waiting for it.
class Barrier {
 public:
  inline __attribute__((always_inline)) explicit Barrier(int size) : size_(size) {}
  void wait();
  void leave();

 private:
  const int size_;
  int waiting_ = 0, round_ = 0;  // atomic in threads.cpp; plain here, since kernels may hold no code of the standard library
};

// One thread's part of a job: which of how many.
struct Part {
  int id, count;
  Barrier* barrier;
  inline __attribute__((always_inline)) void wait() const {
    if (count > 1) barrier->wait();
  }
};

// Run body(context, part) on up to `threads` threads, the caller among them. Fewer take part, at the least the caller alone,
// when another Python thread is using the pool. Floating point is put into its IEEE default (no flush to zero) meanwhile. What a
// part throws is thrown here when all have ended: of several, the first.
void parallel(int threads, void (*body)(void* context, const Part& part), void* context);

// From now on take the threads of an OpenMP runtime: GOMP_parallel, omp_get_thread_num, omp_get_num_threads; null to stop.
void borrow_openmp(void* parallel, void* number, void* count);

}  // namespace openlstm
