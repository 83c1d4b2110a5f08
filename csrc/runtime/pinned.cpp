// The allocator of pinned host memory, registered with PyTorch for pin_memory(). Page-aligned
// memory that the device's work may read at any time is all that pinning means here.
#include "csrc/runtime/pinned.h"

#include <sys/mman.h>

#include <cstring>

#include <ATen/core/CachingHostAllocator.h>

#include "csrc/runtime/allocator.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {

namespace {

class HostMemory final : public MemorySource {
 public:
  void* reserve(size_t bytes) override {
    note_use();
    void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) return nullptr;
    madvise(address, bytes, MADV_HUGEPAGE);
    return address;
  }
  void release(void* address, size_t bytes) override { munmap(address, bytes); }
};

// Holds a Block until the stream has come to it.
class HoldCommand final : public Command {
 public:
  explicit HoldCommand(BlockReference block) : block_(std::move(block)) {}
  void run() override {}

 private:
  BlockReference block_;
};

}  // namespace

CachingAllocator& pinned_memory() {
  static auto* memory = [] {  // outlives static destruction
    static HostMemory source;
    return new CachingAllocator(kHost, SIZE_MAX, source);
  }();
  return *memory;
}

bool is_pinned(const void* address) {
  // Asked by data loader workers too, which may be forked with the lock held.
  return !in_bad_fork() && in_use() && pinned_memory().owns(address);
}

namespace {

class PinnedAllocator final : public at::HostAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return to_data_ptr(nullptr, kHost);
    check_fork();
    Block* block = pinned_memory().allocate(bytes);
    if (block == nullptr) {
      pinned_memory().empty_cache();
      block = pinned_memory().allocate(bytes);
    }
    TORCH_CHECK_WITH(OutOfMemoryError, block != nullptr,
                     "accel: the host has no memory to pin. Tried to allocate ",
                     c10::CachingAllocator::format_size(bytes), ".");
    return to_data_ptr(block, kHost);
  }

  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    std::memcpy(destination, source, bytes);
  }

  // For callers that queue work on the memory without holding its Block.
  bool record_event(void* pointer, void* /*context*/, c10::Stream stream) override {
    BlockReference block = pinned_memory().find(pointer);
    if (!block) return false;
    Stream& target = stream_of(stream);
    if (Tail* tail = target.tail()) tail->hand_over();
    target.submit(std::make_unique<HoldCommand>(std::move(block)));
    return true;
  }

  void empty_cache() override { pinned_memory().empty_cache(); }

  at::HostStats get_stats() override {
    const auto device_stats = pinned_memory().stats();
    at::HostStats stats;
    stats.active_requests = device_stats.active[0];
    stats.active_bytes = device_stats.active_bytes[0];
    stats.allocations = device_stats.segment[0];
    stats.allocated_bytes = device_stats.reserved_bytes[0];
    stats.num_host_alloc = device_stats.num_device_alloc;
    stats.num_host_free = device_stats.num_device_free;
    return stats;
  }
  void reset_accumulated_stats() override { pinned_memory().reset_accumulated_stats(); }
  void reset_peak_stats() override { pinned_memory().reset_peak_stats(); }
};

PinnedAllocator* const pinned_allocator = new PinnedAllocator;  // outlives static destruction

}  // namespace

REGISTER_HOST_ALLOCATOR(c10::kPrivateUse1, pinned_allocator)

}  // namespace accel::runtime
