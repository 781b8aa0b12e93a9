// What the files of the binding have in common.
#pragma once

#include <nanobind/nanobind.h>
#include <unistd.h>

namespace openlstm {

void bind_stepper(nanobind::module_& m);  // stepper.cpp
void bind_packed(nanobind::module_& m);   // packed.cpp

// The interpreter's lock is released while a kernel runs. A thread that comes back when the interpreter has ended is unwound by
// Python (before 3.14), through code that may not throw, which would abort the process: it is held here for ever instead.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace openlstm
