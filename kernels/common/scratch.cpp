#include "kernels/common/scratch.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace accel::kernels {

namespace {

constexpr size_t kAlignment = 64, kPage = 4096, kHugePage = 2 << 20;

struct Pool {
  void* memory[static_cast<int>(ScratchSlot::Count)] = {};
  size_t size[static_cast<int>(ScratchSlot::Count)] = {};

  ~Pool() {
    for (void* piece : memory) std::free(piece);
  }
};

thread_local Pool t_pool;

}  // namespace

void* scratch(ScratchSlot slot, size_t bytes) {
  const int i = static_cast<int>(slot);
  if (t_pool.size[i] < bytes) {
    // Packed panels of some MiB are walked again and again, in more small pages than a processor
    // remembers the addresses of.
    const bool huge = bytes >= kHugePage;
    const size_t page = huge ? kHugePage : kPage;
    const size_t rounded = (bytes + page - 1) / page * page;
    std::free(t_pool.memory[i]);
    t_pool.memory[i] = std::aligned_alloc(huge ? kHugePage : kAlignment, rounded);
    if (huge && t_pool.memory[i]) madvise(t_pool.memory[i], rounded, MADV_HUGEPAGE);
    t_pool.size[i] = t_pool.memory[i] ? rounded : 0;
    if (!t_pool.memory[i]) throw std::bad_alloc();
  }
  return t_pool.memory[i];
}

void trim_scratch() {
  constexpr size_t kMost = 64 << 20;
  for (int i = 0; i < static_cast<int>(ScratchSlot::Count); ++i) {
    if (t_pool.size[i] <= kMost) continue;
    std::free(t_pool.memory[i]);
    t_pool.memory[i] = nullptr;
    t_pool.size[i] = 0;
  }
}

}  // namespace accel::kernels
