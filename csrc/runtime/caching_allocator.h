// The caching allocator of one memory: a device's, or the pinned memory of the host. It cuts arenas
// of a MemorySource into Blocks and keeps what is given back. Used by allocator.cpp and pinned.cpp;
// may not wait for streams or touch the memory itself.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include <c10/core/CachingDeviceAllocator.h>

#include "csrc/runtime/block.h"

namespace accel::runtime {

// Where arenas come from. Sizes are multiples of kArenaUnit.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  virtual void* reserve(size_t bytes) = 0;  // null where there is no more
  virtual void release(void* address, size_t bytes) = 0;
};

// Small requests have arenas of their own, so that a long-lived scalar cannot split the memory of
// large tensors.
enum class Pool : uint8_t { Small, Large };
constexpr int kPools = 2;

constexpr size_t kArenaUnit = size_t{2} << 20;   // a huge page
constexpr size_t kSmallBlock = size_t{1} << 20;  // the largest request of the small pool
constexpr size_t kSmallArena = kArenaUnit;
constexpr size_t kLargeArena = size_t{32} << 20;   // for requests below kSharedArena
constexpr size_t kSharedArena = size_t{16} << 20;  // larger requests get an arena of their size
constexpr size_t kSmallGranule = 64;               // a cache line
constexpr size_t kLargeGranule = 4096;             // a page

class CachingAllocator;

// A Block together with its place in its arena. Neighbours by address are linked, so that free
// memory coalesces the moment it comes back.
struct alignas(64) Chunk : Block {
  Chunk* before = nullptr;
  Chunk* after = nullptr;
  Chunk* previous_free = nullptr;  // the list of its size class; Block::next_free is the other link
  bool is_free = false;
};

struct Arena {
  CachingAllocator* allocator;
  Pool pool;
  size_t size;
  Chunk* first;
};

// Free chunks by size class: exact classes of 64 bytes below 2 KiB, then 32 to a power of two. Two
// levels of bitmaps find the next class that has a chunk in constant time.
class FreeLists {
 public:
  void insert(Chunk* chunk);
  void remove(Chunk* chunk);
  // The smallest of the chunks looked at that has `size` bytes, at the lowest address among equals;
  // null where none has.
  Chunk* find(size_t size) const;

 private:
  static constexpr int kSubdivisions = 32;
  static constexpr int kLevels = 40;
  struct SizeClass {
    int level, slot;
  };
  static SizeClass size_class(size_t size);
  Chunk* best_of(SizeClass where, size_t size) const;

  uint64_t levels_ = 0;
  uint32_t slots_[kLevels] = {};
  Chunk* heads_[kLevels][kSubdivisions] = {};
};

// One figure with its peak and its totals, per pool and for both together. It rises under the
// allocator's lock only; Count is std::atomic<int64_t> where it falls without the lock, int64_t
// elsewhere. What came and what went are counted apart, so that only the falls without a lock cost
// an atomic read-modify-write (three of those are a quarter of an allocation).
template <typename Count>
class Gauge {
 public:
  void increase(Pool pool, int64_t amount) {
    const int index = static_cast<int>(pool);
    came_[index].store(came_[index].load(std::memory_order_relaxed) + amount,
                       std::memory_order_relaxed);
    const int64_t mine = current(index);
    peak_[index] = std::max(peak_[index], mine);
    peak_of_both_ = std::max(peak_of_both_, mine + current(1 - index));
  }
  void decrease(Pool pool, int64_t amount) { went_[static_cast<int>(pool)] += amount; }
  int64_t current() const { return current(0) + current(1); }
  void reset_peak() {
    for (int pool = 0; pool < kPools; ++pool) peak_[pool] = current(pool);
    peak_of_both_ = current();
  }
  void reset_accumulated() {
    for (int pool = 0; pool < kPools; ++pool) {
      came_before_[pool] = came_[pool];
      went_before_[pool] = went_[pool];
    }
  }
  c10::CachingAllocator::StatArray stats() const {
    c10::CachingAllocator::StatArray result;
    for (int pool = 0; pool < kPools; ++pool) {
      auto& mine = result[static_cast<size_t>(pool) + 1];
      const int64_t went = went_[pool];
      mine.current = came_[pool] - went;
      mine.peak = peak_[pool];
      mine.allocated = came_[pool] - came_before_[pool];
      mine.freed = went - went_before_[pool];
      result[0].current += mine.current;
      result[0].allocated += mine.allocated;
      result[0].freed += mine.freed;
    }
    result[0].peak = peak_of_both_;
    return result;
  }

 private:
  int64_t current(int index) const {
    const int64_t went = went_[index];  // first: without the lock, the difference is never negative
    return came_[index].load(std::memory_order_relaxed) - went;
  }

  std::atomic<int64_t> came_[kPools] = {};
  Count went_[kPools] = {};
  int64_t peak_[kPools] = {}, came_before_[kPools] = {}, went_before_[kPools] = {};
  int64_t peak_of_both_ = 0;
};

class CachingAllocator {
 public:
  // `limit` bounds the bytes of all arenas together.
  CachingAllocator(int device, size_t limit, MemorySource& source)
      : device_(device), limit_(limit), source_(source) {}

  // A Block of at least `bytes` (not zero) with one reference, counted as allocated until
  // release_by_user() or, without that, until the reference goes. Null where neither the cache nor
  // what is left below the limit has room.
  Block* allocate(size_t bytes);
  // Gives every arena without a Block in use back to its source; returns the bytes.
  size_t empty_cache();

  // Cuts a Block in use that is dead to the user: it keeps the bytes below `at`, the rest becomes a
  // Block with one reference, dead to the user as well. at: a multiple of the pool's granule, below
  // the Block's size; may be 0.
  static Block* split(Block* block, size_t at);
  // Makes a Block that split() returned one of `bytes` that the user holds.
  static void give_to_user(Block* block, size_t bytes);

  // The user's reference goes: the figures of allocated memory fall. Without a lock.
  static void release_by_user(const Block& block);
  // The last reference is gone: the Block may be handed out again. Without a lock.
  static void give_back(Block* block);

  // The Block in use that holds this address, if there is one.
  BlockReference find(const void* address);
  // Whether the address lies in an arena.
  bool owns(const void* address);

  c10::CachingDeviceAllocator::DeviceStats stats();
  void reset_accumulated_stats();
  void reset_peak_stats();
  void note_retry();
  void note_out_of_memory();
  std::vector<c10::CachingDeviceAllocator::SegmentInfo> snapshot();

  int device() const { return device_; }
  size_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(size_t limit) { limit_.store(limit, std::memory_order_relaxed); }
  size_t allocated_bytes() const { return static_cast<size_t>(allocated_bytes_.current()); }
  size_t reserved_bytes() const { return reserved_.load(std::memory_order_relaxed); }

 private:
  void take_returned();
  void put(Chunk* chunk);
  Chunk* take(Pool pool, size_t size);
  Chunk* cut(Chunk* chunk, size_t at);
  void absorb(Chunk* chunk, Chunk* behind);
  void recycle(Chunk* chunk);
  void count_for_user(Chunk* chunk, size_t bytes);
  bool grow(Pool pool, size_t size);
  bool add_arena(Pool pool, size_t size);
  Chunk* new_chunk();
  Arena* arena_of(const void* address);
  void insert_free(Chunk* chunk);
  void remove_free(Chunk* chunk);

  const int device_;
  std::atomic<size_t> limit_;
  MemorySource& source_;

  // Blocks whose last reference is gone, pushed without the lock and taken all at once by the next
  // allocation: with no pop of one, the classic trouble of lock-free stacks cannot arise.
  alignas(64) std::atomic<Block*> returned_{nullptr};

  // Fall without the lock, in release_by_user().
  Gauge<std::atomic<int64_t>> allocations_, allocated_bytes_, requested_bytes_;

  alignas(64) std::mutex mutex_;  // guards all that follows
  FreeLists free_[kPools];
  std::map<uintptr_t, Arena> arenas_;  // by address
  std::deque<Chunk> chunks_;           // every Chunk there is; never shrinks
  Chunk* spare_chunks_ = nullptr;      // linked by next_free
  Gauge<int64_t> segments_, reserved_bytes_, active_, active_bytes_, split_, split_bytes_;
  std::atomic<size_t> reserved_{0};  // also read without the lock
  int64_t retries_ = 0, out_of_memory_ = 0, arenas_reserved_ = 0, arenas_released_ = 0;
};

}  // namespace accel::runtime
