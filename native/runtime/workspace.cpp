// A bounded pool of freed work memory: pages that were touched once are used again, since fresh ones cost more than arithmetic.
#include "runtime/workspace.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace openlstm {
namespace {

constexpr std::size_t header = 64;  // keeps the block aligned, holds its size
constexpr std::size_t huge_page = std::size_t(2) << 20;

// Few different sizes, so that a block fits the next call: at most an eighth is lost.
std::size_t rounded(std::size_t bytes) {
  std::size_t unit = 4096;
  while (unit * 8 < bytes) unit *= 2;
  return (bytes + unit - 1) / unit * unit;
}

// Memory that has run out: a MemoryError in Python.
class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(std::size_t bytes) {
    std::snprintf(text_, sizeof text_,
                  "openlstm: memory has run out\n  got       no room for %zu bytes\n  expected  that much memory to be free\n"
                  "  hint      fewer rows or steps in one call, or checkpoint=64 in the layer",
                  bytes);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[256];
};

std::size_t default_limit() {
  std::size_t memory = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  std::size_t most = std::size_t(2) << 30;
  return memory / 8 < most ? memory / 8 : most;
}

struct Workspace {
  std::mutex lock;
  std::multimap<std::size_t, void*> free;  // by size
  std::size_t free_bytes = 0, limit = default_limit();
  bool poison = false;
  long refused = 0;  // how many blocks from now

  void shrink(std::size_t most) {  // the largest first
    while (free_bytes > most) {
      auto last = std::prev(free.end());
      free_bytes -= last->first;
      std::free(last->second);
      free.erase(last);
    }
  }
};

// Never destroyed: arrays may be freed after everything else.
Workspace* workspace = nullptr;
Workspace& the_workspace() {
  static const bool once = [] {
    workspace = new Workspace;
    pthread_atfork([] { workspace->lock.lock(); }, [] { workspace->lock.unlock(); }, [] { workspace->lock.unlock(); });
    return true;
  }();
  (void)once;
  return *workspace;
}

// A new block of the system's, or null.
void* fresh(std::size_t size) {
  void* block = nullptr;
  bool large = size >= 2 * huge_page;
  if (posix_memalign(&block, large ? huge_page : header, size) != 0) return nullptr;
  if (large) madvise(block, size, MADV_HUGEPAGE);
  std::memcpy(block, &size, sizeof size);
  return block;
}

}  // namespace

void* allocate(std::size_t bytes) {
  std::size_t size = rounded(bytes + header);
  Workspace& w = the_workspace();
  void* block = nullptr;
  bool poison;
  {
    std::lock_guard lock(w.lock);
    if (w.refused > 0 && --w.refused == 0) throw NoMemory(bytes);
    poison = w.poison;
    auto found = w.free.find(size);
    if (found != w.free.end()) {
      block = found->second;
      w.free_bytes -= size;
      w.free.erase(found);
    }
  }
  if (!block) block = fresh(size);
  if (!block) {  // what is kept for later may be in its place
    std::lock_guard lock(w.lock);
    w.shrink(0);
    block = fresh(size);
  }
  if (!block) throw NoMemory(bytes);
  char* data = static_cast<char*>(block) + header;
  if (poison) std::memset(data, 0xff, size - header);
  return data;
}

void release(void* data) {
  if (!data) return;
  void* block = static_cast<char*>(data) - header;
  std::size_t size;
  std::memcpy(&size, block, sizeof size);
  Workspace& w = the_workspace();
  std::lock_guard lock(w.lock);
  if (size > w.limit) return std::free(block);
  w.shrink(w.limit - size);
  try {
    w.free.emplace(size, block);
    w.free_bytes += size;
  } catch (const std::bad_alloc&) {  // no memory to remember it by
    std::free(block);
  }
}

void set_workspace_limit(std::size_t bytes) {
  Workspace& w = the_workspace();
  std::lock_guard lock(w.lock);
  w.limit = bytes;
  w.shrink(bytes);
}

std::size_t workspace_limit() {
  Workspace& w = the_workspace();
  std::lock_guard lock(w.lock);
  return w.limit;
}

std::size_t workspace_bytes() {
  Workspace& w = the_workspace();
  std::lock_guard lock(w.lock);
  return w.free_bytes;
}

void set_poison(bool on) {
  Workspace& w = the_workspace();
  std::lock_guard lock(w.lock);
  w.poison = on;
}

void refuse_block(long n) {
  Workspace& w = the_workspace();
  std::lock_guard lock(w.lock);
  w.refused = n;
}

}  // namespace openlstm
