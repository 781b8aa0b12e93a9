// Memory of one call, released at its end.
#pragma once

#include "call.hpp"
#include "runtime/workspace.hpp"

namespace openlstm {

template <class T>
class Scratch {
 public:
  OPENLSTM_INLINE explicit Scratch(index n) {
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    data_ = bytes == 0 ? nullptr : bytes <= sizeof small_ ? reinterpret_cast<T*>(small_) : static_cast<T*>(allocate(bytes));
  }
  OPENLSTM_INLINE ~Scratch() {
    if (data_ && data_ != reinterpret_cast<T*>(small_)) release(data_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  OPENLSTM_INLINE operator T*() const { return data_; }

 private:
  alignas(64) char small_[512];  // what a step of a few rows needs costs no trip to the pool
  T* data_;
};

}  // namespace openlstm
