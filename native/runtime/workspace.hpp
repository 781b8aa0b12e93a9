// Work memory from a bounded pool: 64-byte aligned, contents undefined.
#pragma once

#include <cstddef>

namespace openlstm {

void* allocate(std::size_t bytes);  // throws std::bad_alloc
void release(void* block);

void set_workspace_limit(std::size_t bytes);  // of memory that is kept though nobody uses it
std::size_t workspace_limit();
std::size_t workspace_bytes();  // kept at this moment
void set_poison(bool on);       // tests: fill every block handed out with NaN
void refuse_block(long n);      // tests: the n-th block asked for from now on is refused, as if memory had run out; 0 for none

}  // namespace openlstm
