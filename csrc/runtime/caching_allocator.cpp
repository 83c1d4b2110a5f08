// Splitting, coalescing and statistics of one memory. See caching_allocator.h.
#include "csrc/runtime/caching_allocator.h"

#include <algorithm>
#include <bit>

namespace accel::runtime {

namespace {

// How many chunks of a class are compared. Most loops ask for sizes they have asked for before, and
// the chunk given back last is the one whose memory is still in cache.
constexpr int kLooked = 16;

// Larger requests are refused before their rounding can overflow.
constexpr size_t kLargestRequest = size_t{1} << 46;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

Arena& arena_of_chunk(const Block& block) { return *static_cast<Arena*>(block.arena); }

// A Block that nobody has used yet.
void begin_life(Block& block, bool user_alive) {
  block.references.store(1, std::memory_order_relaxed);
  block.user_alive.store(user_alive, std::memory_order_relaxed);
  block.writer.store(nullptr, std::memory_order_relaxed);
  block.write_sequence.store(0, std::memory_order_relaxed);
  block.filled_by_host.store(false, std::memory_order_relaxed);
  block.first_capture.store(0, std::memory_order_relaxed);
  block.lost.store(false, std::memory_order_relaxed);
  block.held_elsewhere.store(false, std::memory_order_relaxed);
}

}  // namespace

FreeLists::SizeClass FreeLists::size_class(size_t size) {
  const uint64_t units = size / kSmallGranule;
  if (units < kSubdivisions) return {0, static_cast<int>(units)};
  const int top = 63 - std::countl_zero(units);
  return {top - 4, static_cast<int>((units >> (top - 5)) & (kSubdivisions - 1))};
}

void FreeLists::insert(Chunk* chunk) {
  const auto [level, slot] = size_class(chunk->size);
  Chunk*& head = heads_[level][slot];
  chunk->previous_free = nullptr;
  chunk->next_free = head;
  if (head != nullptr) head->previous_free = chunk;
  head = chunk;
  slots_[level] |= uint32_t{1} << slot;
  levels_ |= uint64_t{1} << level;
}

void FreeLists::remove(Chunk* chunk) {
  auto* next = static_cast<Chunk*>(chunk->next_free);
  if (next != nullptr) next->previous_free = chunk->previous_free;
  if (chunk->previous_free != nullptr) {
    chunk->previous_free->next_free = next;
    return;
  }
  const auto [level, slot] = size_class(chunk->size);
  heads_[level][slot] = next;
  if (next != nullptr) return;
  slots_[level] &= ~(uint32_t{1} << slot);
  if (slots_[level] == 0) levels_ &= ~(uint64_t{1} << level);
}

Chunk* FreeLists::best_of(SizeClass where, size_t size) const {
  Chunk* best = nullptr;
  Chunk* chunk = heads_[where.level][where.slot];
  for (int looked = 0; chunk != nullptr && looked < kLooked; ++looked) {
    if (chunk->size == size) return chunk;
    if (chunk->size > size && (best == nullptr || chunk->size < best->size ||
                               (chunk->size == best->size && chunk->address < best->address))) {
      best = chunk;
    }
    chunk = static_cast<Chunk*>(chunk->next_free);
  }
  return best;
}

Chunk* FreeLists::find(size_t size) const {
  // Its own class may hold smaller chunks, the classes above only larger ones.
  SizeClass where = size_class(size);
  if (Chunk* chunk = best_of(where, size)) return chunk;
  uint32_t slots =
      where.slot + 1 < kSubdivisions ? slots_[where.level] & (~uint32_t{0} << (where.slot + 1)) : 0;
  if (slots == 0) {
    const uint64_t levels = levels_ & (~uint64_t{0} << (where.level + 1));
    if (levels == 0) return nullptr;
    where.level = std::countr_zero(levels);
    slots = slots_[where.level];
  }
  where.slot = std::countr_zero(slots);
  return best_of(where, size);
}

Block* CachingAllocator::allocate(size_t bytes) {
  if (bytes > kLargestRequest) return nullptr;
  const Pool pool = bytes <= kSmallBlock ? Pool::Small : Pool::Large;
  const size_t size = round_up(bytes, pool == Pool::Small ? kSmallGranule : kLargeGranule);

  std::lock_guard<std::mutex> lock(mutex_);
  take_returned();
  Chunk* chunk = take(pool, size);
  if (chunk == nullptr) {
    if (!grow(pool, size)) return nullptr;
    chunk = take(pool, size);
  }
  begin_life(*chunk, /*user_alive=*/true);
  count_for_user(chunk, bytes);
  active_.increase(pool, 1);
  active_bytes_.increase(pool, static_cast<int64_t>(chunk->size));
  return chunk;
}

void CachingAllocator::count_for_user(Chunk* chunk, size_t bytes) {
  const Pool pool = arena_of_chunk(*chunk).pool;
  chunk->requested = bytes;
  allocations_.increase(pool, 1);
  allocated_bytes_.increase(pool, static_cast<int64_t>(chunk->size));
  requested_bytes_.increase(pool, static_cast<int64_t>(bytes));
}

Block* CachingAllocator::split(Block* block, size_t at) {
  const Arena& arena = arena_of_chunk(*block);
  CachingAllocator& self = *arena.allocator;
  std::lock_guard<std::mutex> lock(self.mutex_);
  Chunk* rest = self.cut(static_cast<Chunk*>(block), at);
  rest->is_free = false;
  rest->requested = 0;
  begin_life(*rest, /*user_alive=*/false);
  self.active_.increase(arena.pool, 1);  // the bytes were active before
  return rest;
}

void CachingAllocator::give_to_user(Block* block, size_t bytes) {
  CachingAllocator& self = *arena_of_chunk(*block).allocator;
  std::lock_guard<std::mutex> lock(self.mutex_);
  self.count_for_user(static_cast<Chunk*>(block), bytes);
  block->user_alive.store(true, std::memory_order_relaxed);
}

void CachingAllocator::release_by_user(const Block& block) {
  const Arena& arena = arena_of_chunk(block);
  CachingAllocator& self = *arena.allocator;
  self.allocations_.decrease(arena.pool, 1);
  self.allocated_bytes_.decrease(arena.pool, static_cast<int64_t>(block.size));
  self.requested_bytes_.decrease(arena.pool, static_cast<int64_t>(block.requested));
}

void CachingAllocator::give_back(Block* block) {
  std::atomic<Block*>& top = arena_of_chunk(*block).allocator->returned_;
  block->next_free = top.load(std::memory_order_relaxed);
  while (!top.compare_exchange_weak(block->next_free, block, std::memory_order_release,
                                    std::memory_order_relaxed)) {
  }
}

void CachingAllocator::take_returned() {
  if (returned_.load(std::memory_order_relaxed) == nullptr) return;
  Block* block = returned_.exchange(nullptr, std::memory_order_acquire);
  while (block != nullptr) {
    Block* next = block->next_free;
    const Pool pool = arena_of_chunk(*block).pool;
    active_.decrease(pool, 1);
    active_bytes_.decrease(pool, static_cast<int64_t>(block->size));
    put(static_cast<Chunk*>(block));
    block = next;
  }
}

// Makes a chunk free, in one piece with free neighbours.
void CachingAllocator::put(Chunk* chunk) {
  Chunk *before = chunk->before, *after = chunk->after;
  if (before != nullptr && before->is_free) {
    remove_free(before);
    absorb(before, chunk);
    chunk = before;
  }
  if (after != nullptr && after->is_free) {
    remove_free(after);
    absorb(chunk, after);
  }
  if (chunk->size > 0) {
    insert_free(chunk);
  } else if (before != nullptr) {
    absorb(before, chunk);  // a split left nothing of it
  } else {
    arena_of_chunk(*chunk).first = after;
    after->before = nullptr;
    recycle(chunk);
  }
}

// Adds the chunk behind another one to it.
void CachingAllocator::absorb(Chunk* chunk, Chunk* behind) {
  chunk->size += behind->size;
  chunk->after = behind->after;
  if (behind->after != nullptr) behind->after->before = chunk;
  recycle(behind);
}

void CachingAllocator::recycle(Chunk* chunk) {
  chunk->next_free = spare_chunks_;
  spare_chunks_ = chunk;
}

Chunk* CachingAllocator::take(Pool pool, size_t size) {
  Chunk* chunk = free_[static_cast<int>(pool)].find(size);
  if (chunk == nullptr) return nullptr;
  remove_free(chunk);
  // Sizes are multiples of the pool's granule, so the rest is one too. The low part is handed out:
  // what is free gathers at high addresses, which may never have been touched.
  if (chunk->size > size) insert_free(cut(chunk, size));
  return chunk;
}

// What lies behind the first `at` bytes becomes a chunk.
Chunk* CachingAllocator::cut(Chunk* chunk, size_t at) {
  Chunk* rest = new_chunk();
  rest->address = chunk->address + at;
  rest->size = chunk->size - at;
  rest->device = device_;
  rest->arena = chunk->arena;
  rest->before = chunk;
  rest->after = chunk->after;
  if (chunk->after != nullptr) chunk->after->before = rest;
  chunk->after = rest;
  chunk->size = at;
  return rest;
}

bool CachingAllocator::grow(Pool pool, size_t size) {
  const size_t exact = round_up(size, kArenaUnit);
  const size_t usual =
      pool == Pool::Small ? kSmallArena : (size < kSharedArena ? kLargeArena : exact);
  return add_arena(pool, usual) || (exact < usual && add_arena(pool, exact));
}

bool CachingAllocator::add_arena(Pool pool, size_t size) {
  const size_t reserved = reserved_bytes();
  if (size > limit() || reserved > limit() - size) return false;
  auto* address = static_cast<char*>(source_.reserve(size));
  if (address == nullptr) return false;
  Chunk* chunk = new_chunk();
  Arena& arena = arenas_[reinterpret_cast<uintptr_t>(address)];
  arena = {this, pool, size, chunk};
  chunk->address = address;
  chunk->size = size;
  chunk->device = device_;
  chunk->arena = &arena;
  chunk->before = chunk->after = nullptr;
  insert_free(chunk);
  segments_.increase(pool, 1);
  reserved_bytes_.increase(pool, static_cast<int64_t>(size));
  reserved_.store(reserved + size, std::memory_order_relaxed);
  ++arenas_reserved_;
  return true;
}

size_t CachingAllocator::empty_cache() {
  std::lock_guard<std::mutex> lock(mutex_);
  take_returned();
  size_t released = 0;
  for (auto entry = arenas_.begin(); entry != arenas_.end();) {
    const Arena& arena = entry->second;
    Chunk* first = arena.first;
    if (!first->is_free || first->after != nullptr) {
      ++entry;
      continue;
    }
    remove_free(first);
    recycle(first);
    source_.release(first->address, arena.size);
    segments_.decrease(arena.pool, 1);
    reserved_bytes_.decrease(arena.pool, static_cast<int64_t>(arena.size));
    released += arena.size;
    ++arenas_released_;
    entry = arenas_.erase(entry);
  }
  reserved_.store(reserved_bytes() - released, std::memory_order_relaxed);
  return released;
}

Chunk* CachingAllocator::new_chunk() {
  if (spare_chunks_ == nullptr) return &chunks_.emplace_back();
  Chunk* chunk = spare_chunks_;
  spare_chunks_ = static_cast<Chunk*>(chunk->next_free);
  return chunk;
}

// A free chunk that is not a whole arena cannot be given back to the system: the statistics call
// it split.
void CachingAllocator::insert_free(Chunk* chunk) {
  const Pool pool = arena_of_chunk(*chunk).pool;
  chunk->is_free = true;
  free_[static_cast<int>(pool)].insert(chunk);
  if (chunk->before != nullptr || chunk->after != nullptr) {
    split_.increase(pool, 1);
    split_bytes_.increase(pool, static_cast<int64_t>(chunk->size));
  }
}

void CachingAllocator::remove_free(Chunk* chunk) {
  const Pool pool = arena_of_chunk(*chunk).pool;
  chunk->is_free = false;
  free_[static_cast<int>(pool)].remove(chunk);
  if (chunk->before != nullptr || chunk->after != nullptr) {
    split_.decrease(pool, 1);
    split_bytes_.decrease(pool, static_cast<int64_t>(chunk->size));
  }
}

Arena* CachingAllocator::arena_of(const void* address) {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  auto entry = arenas_.upper_bound(wanted);
  if (entry == arenas_.begin()) return nullptr;
  --entry;
  return wanted - entry->first < entry->second.size ? &entry->second : nullptr;
}

bool CachingAllocator::owns(const void* address) {
  std::lock_guard<std::mutex> lock(mutex_);
  return arena_of(address) != nullptr;
}

BlockReference CachingAllocator::find(const void* address) {
  std::lock_guard<std::mutex> lock(mutex_);
  const Arena* arena = arena_of(address);
  if (arena == nullptr) return {};
  // A walk: imports of foreign tensors are rare, and an arena of large Blocks has few.
  Chunk* chunk = arena->first;
  while (static_cast<const char*>(address) >= chunk->address + chunk->size) chunk = chunk->after;
  if (chunk->is_free) return {};
  // Its last reference may be going right now, on another thread.
  int32_t references = chunk->references.load(std::memory_order_relaxed);
  while (references > 0 && !chunk->references.compare_exchange_weak(references, references + 1,
                                                                    std::memory_order_acquire)) {
  }
  if (references == 0) return {};
  BlockReference result(chunk);
  chunk->references.fetch_sub(1, std::memory_order_relaxed);  // result has its own
  return result;
}

c10::CachingDeviceAllocator::DeviceStats CachingAllocator::stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  take_returned();
  c10::CachingDeviceAllocator::DeviceStats result;
  result.allocation = allocations_.stats();
  result.allocated_bytes = allocated_bytes_.stats();
  result.requested_bytes = requested_bytes_.stats();
  result.segment = segments_.stats();
  result.reserved_bytes = reserved_bytes_.stats();
  result.active = active_.stats();
  result.active_bytes = active_bytes_.stats();
  result.inactive_split = split_.stats();
  result.inactive_split_bytes = split_bytes_.stats();
  result.num_alloc_retries = retries_;
  result.num_ooms = out_of_memory_;
  result.num_device_alloc = arenas_reserved_;
  result.num_device_free = arenas_released_;
  result.num_sync_all_streams = retries_;
  return result;
}

void CachingAllocator::reset_accumulated_stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto* gauge : {&allocations_, &allocated_bytes_, &requested_bytes_}) {
    gauge->reset_accumulated();
  }
  for (auto* gauge :
       {&segments_, &reserved_bytes_, &active_, &active_bytes_, &split_, &split_bytes_}) {
    gauge->reset_accumulated();
  }
  retries_ = out_of_memory_ = arenas_reserved_ = arenas_released_ = 0;
}

void CachingAllocator::reset_peak_stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  take_returned();
  for (auto* gauge : {&allocations_, &allocated_bytes_, &requested_bytes_}) gauge->reset_peak();
  for (auto* gauge :
       {&segments_, &reserved_bytes_, &active_, &active_bytes_, &split_, &split_bytes_}) {
    gauge->reset_peak();
  }
}

void CachingAllocator::note_retry() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++retries_;
}

void CachingAllocator::note_out_of_memory() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++out_of_memory_;
}

std::vector<c10::CachingDeviceAllocator::SegmentInfo> CachingAllocator::snapshot() {
  std::lock_guard<std::mutex> lock(mutex_);
  take_returned();
  std::vector<c10::CachingDeviceAllocator::SegmentInfo> result;
  for (const auto& [address, arena] : arenas_) {
    auto& segment = result.emplace_back();
    segment.device = static_cast<c10::DeviceIndex>(device_);
    segment.address = address;
    segment.total_size = arena.size;
    segment.is_large = arena.pool == Pool::Large;
    for (const Chunk* chunk = arena.first; chunk != nullptr; chunk = chunk->after) {
      auto& block = segment.blocks.emplace_back();
      block.size = chunk->size;
      block.active = !chunk->is_free;
      block.allocated = block.active && chunk->user_alive.load(std::memory_order_relaxed);
      if (!block.active) continue;
      block.requested_size = chunk->requested;
      segment.active_size += chunk->size;
      segment.requested_size += chunk->requested;
      if (block.allocated) segment.allocated_size += chunk->size;
    }
  }
  return result;
}

}  // namespace accel::runtime
