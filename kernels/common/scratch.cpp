#include "kernels/common/scratch.h"

#include <cstdlib>
#include <new>

namespace accel::kernels {

namespace {

constexpr size_t kAlignment = 64;

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
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    std::free(t_pool.memory[i]);
    t_pool.memory[i] = std::aligned_alloc(kAlignment, rounded);
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
