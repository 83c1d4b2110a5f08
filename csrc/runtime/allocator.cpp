// The c10::DeviceAllocator of the device: one CachingAllocator for each device, and what happens
// when it is full. Called by PyTorch for every tensor, so the way to a cached Block is short.
#include "csrc/runtime/allocator.h"

#include <memory>

#include <c10/util/Exception.h>

#include "csrc/runtime/address.h"
#include "csrc/runtime/caching_allocator.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/pinned.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"
#include "csrc/runtime/worker_stream.h"

namespace accel::runtime {

namespace {

class DeviceMemory final : public MemorySource {
 public:
  explicit DeviceMemory(int device) : device_(device) {}
  void* reserve(size_t bytes) override {
    note_use();
    return driver().reserve(device_, bytes);
  }
  void release(void* address, size_t bytes) override { driver().release(device_, address, bytes); }

 private:
  int device_;
};

struct DeviceAllocatorState {
  explicit DeviceAllocatorState(int device)
      : source(device), memory(device, driver().properties(device).total_memory, source) {}
  DeviceMemory source;
  CachingAllocator memory;
};

std::vector<std::unique_ptr<DeviceAllocatorState>>& states() {
  static auto* all = [] {  // outlives static destruction: tensors may die later
    auto* created = new std::vector<std::unique_ptr<DeviceAllocatorState>>;
    for (int device = 0; device < driver().device_count(); ++device) {
      created->push_back(std::make_unique<DeviceAllocatorState>(device));
    }
    return created;
  }();
  return *all;
}

CachingAllocator& memory_of(int device) {
  auto& all = states();
  TORCH_CHECK(device >= 0 && device < static_cast<int>(all.size()),
              "Expected a device index from 0 to ", static_cast<int>(all.size()) - 1, ", got ",
              device);
  return all[static_cast<size_t>(device)]->memory;
}

c10::Device c10_device(int device) {
  if (device == kHost) return c10::Device(c10::kCPU);
  return c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(device));
}

void report_to_profiler(const CachingAllocator& memory, const Block& block, int64_t change) {
  if (!c10::memoryProfilingEnabled()) [[likely]]
    return;
  c10::reportMemoryUsageToProfiler(block.address, change, memory.allocated_bytes(),
                                   memory.reserved_bytes(), c10_device(block.device));
}

[[noreturn]] void raise_out_of_memory(CachingAllocator& memory, size_t bytes) {
  using c10::CachingAllocator::format_size;
  memory.note_out_of_memory();
  const int device = memory.device();
  const size_t capacity = driver().properties(device).total_memory;
  const size_t limit = memory.limit();
  const size_t reserved = memory.reserved_bytes();
  const size_t allocated = std::min(memory.allocated_bytes(), reserved);
  c10::reportOutOfMemoryToProfiler(static_cast<int64_t>(bytes), allocated, reserved,
                                   c10_device(device));
  TORCH_CHECK_WITH(
      OutOfMemoryError, false, "accel out of memory. Tried to allocate ", format_size(bytes),
      ". accel:", device, " has a total capacity of ", format_size(capacity), " of which ",
      format_size(limit > reserved ? limit - reserved : 0), " is free",
      limit < capacity ? c10::str(" (", format_size(limit), " allowed)") : std::string(),
      ". Of the allocated memory ", format_size(allocated), " is allocated by PyTorch, and ",
      format_size(reserved - allocated),
      " is reserved by PyTorch but unallocated. If the latter is large, "
      "torch.accel.empty_cache() or another order of allocations may help; "
      "ACCEL_MEMORY_CAPACITY sets the capacity.");
}

// Nothing cached fits and the limit is reached.
Block* allocate_when_full(CachingAllocator& memory, size_t bytes, WhenFull when_full) {
  // More than there can ever be is refused without disturbing anyone.
  if (bytes <= memory.limit()) {
    memory.note_retry();
    // Blocks that the user has dropped come back as soon as the work that uses them has run.
    settle_device(memory.device(), when_full == WhenFull::HandOverAndWait ? Settle::HandOver
                                                                          : Settle::SubmittedOnly);
    if (Block* block = memory.allocate(bytes)) return block;
    // Arenas of the other pool, or of other sizes.
    if (memory.empty_cache() > 0) {
      if (Block* block = memory.allocate(bytes)) return block;
    }
  }
  raise_out_of_memory(memory, bytes);
}

}  // namespace

Block* allocate_block(size_t bytes, int device, WhenFull when_full) {
  if (bytes == 0) return nullptr;
  check_fork();
  CachingAllocator& memory = memory_of(device);
  Block* block = memory.allocate(bytes);
  if (block == nullptr) [[unlikely]]
    block = allocate_when_full(memory, bytes, when_full);
  report_to_profiler(memory, *block, static_cast<int64_t>(block->size));
  return block;
}

Block* split_block(Block* block, size_t at) { return CachingAllocator::split(block, at); }

void give_to_user(Block* block, size_t bytes) {
  CachingAllocator::give_to_user(block, bytes);
  report_to_profiler(memory_of(block->device), *block, static_cast<int64_t>(block->size));
}

c10::DataPtr to_data_ptr(Block* block, int device) {
  return {block != nullptr ? block->address : nullptr, block, &delete_block, c10_device(device)};
}

void Block::give_back() {
  if (in_bad_fork()) return;
  // Memory that never was a tensor's (a Plan's workspace) counts as allocated until here.
  if (user_alive.load(std::memory_order_relaxed)) CachingAllocator::release_by_user(*this);
  CachingAllocator::give_back(this);
}

void delete_block(void* context) {
  auto* block = static_cast<Block*>(context);
  if (block == nullptr || in_bad_fork()) return;
  CachingAllocator::release_by_user(*block);
  if (block->device != kHost) {
    report_to_profiler(memory_of(block->device), *block, -static_cast<int64_t>(block->size));
  }
  // Last: a Block that is dead may be split.
  block->user_alive.store(false, std::memory_order_release);
  block->drop();
}

BlockReference find_block(const void* address) {
  check_fork();
  for (auto& state : states()) {
    if (BlockReference block = state->memory.find(address)) return block;
  }
  return pinned_memory().find(address);
}

int device_of(const void* address) {
  check_fork();
  for (auto& state : states()) {
    if (state->memory.owns(address)) return state->memory.device();
  }
  return kHost;
}

c10::CachingDeviceAllocator::DeviceStats memory_stats(int device) {
  check_fork();
  return memory_of(device).stats();
}

void reset_accumulated_memory_stats(int device) {
  check_fork();
  memory_of(device).reset_accumulated_stats();
}

void reset_peak_memory_stats(int device) {
  check_fork();
  memory_of(device).reset_peak_stats();
}

std::vector<c10::CachingDeviceAllocator::SegmentInfo> memory_snapshot() {
  check_fork();
  std::vector<c10::CachingDeviceAllocator::SegmentInfo> result;
  for (auto& state : states()) {
    auto segments = state->memory.snapshot();
    std::move(segments.begin(), segments.end(), std::back_inserter(result));
  }
  return result;
}

std::pair<size_t, size_t> memory_info(int device) {
  const size_t capacity = driver().properties(device).total_memory;
  const size_t reserved = memory_of(device).reserved_bytes();
  return {capacity > reserved ? capacity - reserved : 0, capacity};
}

void set_memory_fraction(int device, double fraction) {
  TORCH_CHECK_VALUE(fraction > 0 && fraction <= 1, "Expected a fraction in (0, 1], got ", fraction);
  const auto capacity = static_cast<double>(driver().properties(device).total_memory);
  memory_of(device).set_limit(static_cast<size_t>(fraction * capacity));
}

void empty_cache() {
  check_fork();
  for (auto& state : states()) state->memory.empty_cache();
}

namespace {

class Allocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const int device = current_device();
    return to_data_ptr(allocate_block(bytes, device), device);
  }
  // data and context of a DataPtr differ (address and Block), so there is no raw interface.
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  // The contract is the host's: the bytes are there when it returns.
  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    synchronize_device(current_device());
    default_copy_data(host_pointer(destination), host_pointer(source), bytes);
  }

  bool initialized() override { return !in_bad_fork(); }
  void emptyCache(c10::MempoolId_t /*pool*/) override { empty_cache(); }
  // Queued work holds its Blocks on whichever stream it runs, so nothing needs to be noted.
  void recordStream(const c10::DataPtr& /*pointer*/, c10::Stream /*stream*/) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    return memory_stats(device);
  }
  void resetAccumulatedStats(c10::DeviceIndex device) override {
    reset_accumulated_memory_stats(device);
  }
  void resetPeakStats(c10::DeviceIndex device) override { reset_peak_memory_stats(device); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    return memory_info(device);
  }
};

Allocator* const allocator = new Allocator;  // outlives static destruction

}  // namespace

REGISTER_ALLOCATOR(c10::kPrivateUse1, allocator)

}  // namespace accel::runtime
