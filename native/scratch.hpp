// Memory of one call, given back at its end.
#pragma once

#include "vec.hpp"

namespace openlstm::OPENLSTM_ISA {

template <class T>
class Scratch {
 public:
  OPENLSTM_INLINE explicit Scratch(index n) {
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    data_ = bytes == 0 ? nullptr : bytes <= sizeof small_ ? reinterpret_cast<T*>(small_) : static_cast<T*>(take(bytes));
  }
  OPENLSTM_INLINE ~Scratch() {
    if (data_ && data_ != reinterpret_cast<T*>(small_)) give(data_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  OPENLSTM_INLINE operator T*() const { return data_; }

 private:
  alignas(64) char small_[512];  // what a step of a few rows needs costs no trip to the pool
  T* data_;
};

}  // namespace openlstm::OPENLSTM_ISA
