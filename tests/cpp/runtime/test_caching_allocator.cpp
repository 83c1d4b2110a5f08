// The caching allocator over a fake memory source: no device, no streams.
#include "csrc/runtime/caching_allocator.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <thread>

namespace accel::runtime {
namespace {

// Hands out addresses that nobody may touch, and checks that each comes back once.
class FakeSource final : public MemorySource {
 public:
  void* reserve(size_t bytes) override {
    EXPECT_EQ(bytes % kArenaUnit, 0u);
    if (reserved_.size() >= most_arenas) return nullptr;
    void* address = reinterpret_cast<void*>(next_);
    next_ += bytes;
    reserved_[address] = bytes;
    return address;
  }
  void release(void* address, size_t bytes) override {
    auto found = reserved_.find(address);
    ASSERT_NE(found, reserved_.end());
    EXPECT_EQ(found->second, bytes);
    reserved_.erase(found);
  }
  size_t arenas() const { return reserved_.size(); }

  size_t most_arenas = SIZE_MAX;

 private:
  std::map<void*, size_t> reserved_;
  uintptr_t next_ = uintptr_t{1} << 40;
};

class CachingAllocatorTest : public ::testing::Test {
 protected:
  static constexpr size_t kLimit = size_t{1} << 30;
  static void free(Block* block) { delete_block(block); }
  FakeSource source;
  CachingAllocator memory{kHost, kLimit, source};
};

TEST_F(CachingAllocatorTest, BlocksAreAlignedAndLargeEnough) {
  for (size_t bytes : {1, 3, 63, 64, 65, 1000, 4096, 1 << 20, (1 << 20) + 1, 5 << 20, 40 << 20}) {
    Block* block = memory.allocate(bytes);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block->address) % 64, 0u);
    EXPECT_GE(block->size, bytes);
    EXPECT_LT(block->size, bytes + 4096);
    EXPECT_EQ(block->requested, bytes);
    EXPECT_EQ(block->device, kHost);
    EXPECT_TRUE(block->user_alive);
  }
}

TEST_F(CachingAllocatorTest, ABlockGivenBackIsHandedOutAgain) {
  for (size_t bytes : {64, 2000, 1 << 18, 3 << 20, 100 << 20}) {
    Block* first = memory.allocate(bytes);
    Block* fence = memory.allocate(bytes);
    char* address = first->address;
    free(first);
    Block* second = memory.allocate(bytes);
    EXPECT_EQ(second->address, address);
    EXPECT_EQ(second->references, 1);
    EXPECT_TRUE(second->user_alive);
    free(second);
    free(fence);
  }
}

TEST_F(CachingAllocatorTest, ABlockHeldByQueuedWorkIsNotHandedOut) {
  Block* block = memory.allocate(4096);
  BlockReference held(block);
  char* address = block->address;
  free(block);
  EXPECT_FALSE(block->user_alive);
  Block* other = memory.allocate(4096);
  EXPECT_NE(other->address, address);
  auto stats = memory.stats();
  EXPECT_EQ(stats.allocation[0].current, 1);
  EXPECT_EQ(stats.active[0].current, 2);
  held = BlockReference();
  EXPECT_EQ(memory.stats().active[0].current, 1);
  free(other);
}

TEST_F(CachingAllocatorTest, NeighboursCoalesceInEveryOrder) {
  std::vector<int> order{0, 1, 2, 3};
  do {
    Block* blocks[4];
    for (auto& block : blocks) block = memory.allocate(kArenaUnit / 4 - 64);
    for (int index : order) free(blocks[index]);
    // One arena in one piece again: the largest small request fits twice, without a second arena.
    Block* first = memory.allocate(kSmallBlock);
    Block* second = memory.allocate(kSmallBlock);
    EXPECT_EQ(source.arenas(), 1u);
    free(first);
    free(second);
  } while (std::next_permutation(order.begin(), order.end()));
  const auto stats = memory.stats();
  EXPECT_EQ(stats.inactive_split[0].current, 0);
  EXPECT_EQ(stats.inactive_split_bytes[0].current, 0);
}

TEST_F(CachingAllocatorTest, BestFitLeavesTheLargeHole) {
  Block* large = memory.allocate(8 << 20);
  Block* fence = memory.allocate(2 << 20);
  Block* small = memory.allocate(3 << 20);
  Block* last = memory.allocate(2 << 20);
  char* hole = small->address;
  free(large);
  free(small);
  Block* fitting = memory.allocate((3 << 20) - 4096);
  EXPECT_EQ(fitting->address, hole);
  for (Block* block : {fence, last, fitting}) free(block);
}

// Random sizes and lifetimes: no two Blocks in use overlap, all lie in arenas, the figures agree
// with a model, and everything coalesces in the end.
TEST_F(CachingAllocatorTest, RandomAllocationsNeverOverlap) {
  std::mt19937_64 random(20240711);
  std::map<char*, Block*> live;
  int64_t bytes_live = 0;
  int64_t peak = 0;
  for (int step = 0; step < 200'000; ++step) {
    if (live.size() < 50 || (live.size() < 400 && random() % 2 == 0)) {
      const size_t magnitude = 1 + random() % 23;
      const size_t bytes = 1 + random() % (size_t{1} << magnitude);
      Block* block = memory.allocate(bytes);
      if (block == nullptr) continue;
      auto next = live.lower_bound(block->address);
      if (next != live.end()) {
        ASSERT_LE(block->address + block->size, next->first);
      }
      if (next != live.begin()) {
        --next;
        ASSERT_LE(next->first + next->second->size, block->address);
      }
      ASSERT_TRUE(memory.owns(block->address));
      ASSERT_TRUE(memory.owns(block->address + block->size - 1));
      live[block->address] = block;
      bytes_live += static_cast<int64_t>(block->size);
      peak = std::max(peak, bytes_live);
    } else {
      auto victim =
          live.lower_bound(std::prev(live.end())->first -
                           random() % (std::prev(live.end())->first - live.begin()->first + 1));
      bytes_live -= static_cast<int64_t>(victim->second->size);
      free(victim->second);
      live.erase(victim);
    }
  }
  auto stats = memory.stats();
  EXPECT_EQ(stats.allocated_bytes[0].current, bytes_live);
  EXPECT_EQ(stats.allocated_bytes[0].peak, peak);
  EXPECT_EQ(stats.allocation[0].current, static_cast<int64_t>(live.size()));
  for (auto& [address, block] : live) {
    EXPECT_EQ(memory.find(address + block->size / 2).get(), block);
    free(block);
  }
  stats = memory.stats();
  EXPECT_EQ(stats.allocated_bytes[0].current, 0);
  EXPECT_EQ(stats.active_bytes[0].current, 0);
  EXPECT_EQ(stats.inactive_split_bytes[0].current, 0);
  const auto reserved = static_cast<size_t>(stats.reserved_bytes[0].current);
  EXPECT_EQ(memory.reserved_bytes(), reserved);
  EXPECT_EQ(memory.empty_cache(), reserved);
  EXPECT_EQ(source.arenas(), 0u);
}

// A dead Block that someone holds, cut into pieces of which some become the user's: they tile it,
// the figures agree, and all coalesces in whatever order they go.
TEST_F(CachingAllocatorTest, PiecesTileTheBlockTheyAreCutFrom) {
  std::mt19937_64 random(7);
  constexpr size_t kPages = 2000;
  for (int round = 0; round < 300; ++round) {
    std::vector<Block*> fences;
    if (round % 2 == 0) fences.push_back(memory.allocate(kPages * kLargeGranule));
    Block* whole = memory.allocate(kPages * kLargeGranule);
    if (round % 3 == 0) fences.push_back(memory.allocate(2 << 20));
    int64_t fenced = 0;
    for (const Block* fence : fences) fenced += static_cast<int64_t>(fence->size);
    char* const address = whole->address;
    BlockReference held(whole);
    free(whole);
    std::vector<Block*> pieces = {whole};
    int64_t given = 0;
    for (size_t pages = kPages; pages > 0;) {
      pages -= 1 + random() % pages;
      Block* piece = CachingAllocator::split(whole, pages * kLargeGranule);
      EXPECT_EQ(piece->address, address + pages * kLargeGranule);
      EXPECT_EQ(piece->references, 1);
      EXPECT_FALSE(piece->user_alive);
      if (random() % 2 == 0) {
        CachingAllocator::give_to_user(piece, piece->size - 3);
        EXPECT_TRUE(piece->user_alive);
        EXPECT_EQ(memory.find(piece->address + piece->size - 1).get(), piece);
        given += static_cast<int64_t>(piece->size);
      }
      pieces.push_back(piece);
    }
    EXPECT_EQ(whole->size, 0u);
    auto stats = memory.stats();
    EXPECT_EQ(stats.allocated_bytes[0].current, given + fenced);
    EXPECT_EQ(stats.active_bytes[0].current, fenced + static_cast<int64_t>(kPages * kLargeGranule));
    std::shuffle(pieces.begin(), pieces.end(), random);
    for (Block* piece : pieces) {
      if (piece == whole) {
        held = {};
      } else if (piece->user_alive) {
        free(piece);
      } else {
        piece->drop();
      }
      memory.stats();  // takes what came back
    }
    for (Block* fence : fences) free(fence);
    stats = memory.stats();
    EXPECT_EQ(stats.active[0].current, 0);
    EXPECT_EQ(stats.active_bytes[0].current, 0);
    EXPECT_EQ(stats.allocated_bytes[0].current, 0);
    EXPECT_EQ(stats.requested_bytes[0].current, 0);
    EXPECT_EQ(stats.inactive_split[0].current, 0);
    EXPECT_EQ(stats.inactive_split_bytes[0].current, 0);
  }
  memory.empty_cache();
  EXPECT_EQ(source.arenas(), 0u);
}

TEST_F(CachingAllocatorTest, FiguresFallWhenTheUserLetsGo) {
  Block* small = memory.allocate(100);
  Block* large = memory.allocate(3 << 20);
  auto stats = memory.stats();
  EXPECT_EQ(stats.allocation[0].current, 2);
  EXPECT_EQ(stats.allocation[1].current, 1);
  EXPECT_EQ(stats.allocation[2].current, 1);
  EXPECT_EQ(stats.allocated_bytes[1].current, 128);
  EXPECT_EQ(stats.requested_bytes[1].current, 100);
  EXPECT_EQ(stats.allocated_bytes[2].current, 3 << 20);
  EXPECT_EQ(stats.segment[0].current, 2);
  EXPECT_EQ(stats.reserved_bytes[0].current, static_cast<int64_t>(kSmallArena + kLargeArena));
  EXPECT_EQ(stats.inactive_split_bytes[0].current,
            static_cast<int64_t>(kSmallArena + kLargeArena) - 128 - (3 << 20));
  free(large);
  stats = memory.stats();
  EXPECT_EQ(stats.allocated_bytes[0].current, 128);
  EXPECT_EQ(stats.allocated_bytes[0].peak, 128 + (3 << 20));
  EXPECT_EQ(stats.allocated_bytes[0].freed, 3 << 20);
  memory.reset_peak_stats();
  memory.reset_accumulated_stats();
  stats = memory.stats();
  EXPECT_EQ(stats.allocated_bytes[0].peak, 128);
  EXPECT_EQ(stats.allocated_bytes[0].allocated, 0);
  EXPECT_EQ(stats.allocated_bytes[0].freed, 0);
  free(small);
  EXPECT_EQ(memory.stats().allocated_bytes[0].freed, 128);
  EXPECT_EQ(memory.stats().allocated_bytes[0].current, 0);
}

TEST_F(CachingAllocatorTest, WorkspaceCountsUntilItsReferenceGoes) {
  Block* workspace = memory.allocate(1 << 20);
  EXPECT_EQ(memory.stats().allocation[0].current, 1);
  workspace->drop();
  EXPECT_EQ(memory.stats().allocation[0].current, 0);
}

TEST_F(CachingAllocatorTest, TheLimitBoundsArenas) {
  memory.set_limit(40 << 20);
  Block* first = memory.allocate(30 << 20);
  ASSERT_NE(first, nullptr);
  // The usual arena of 32 MiB is over the limit; one of the request's own size is not.
  Block* second = memory.allocate(9 << 20);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(memory.reserved_bytes(), size_t{40} << 20);
  EXPECT_EQ(memory.allocate(9 << 20), nullptr);
  EXPECT_EQ(memory.allocate(SIZE_MAX), nullptr);
  EXPECT_EQ(memory.allocate(SIZE_MAX - 10), nullptr);
  free(first);
  EXPECT_EQ(memory.allocate(31 << 20), nullptr);
  EXPECT_EQ(memory.empty_cache(), size_t{30} << 20);
  Block* third = memory.allocate(30 << 20);
  EXPECT_NE(third, nullptr);
  free(second);
  free(third);
}

TEST_F(CachingAllocatorTest, ASourceWithoutMemoryIsNoCrash) {
  source.most_arenas = 1;
  Block* first = memory.allocate(kSmallBlock);
  EXPECT_EQ(memory.allocate(64 << 20), nullptr);
  Block* second = memory.allocate(kSmallBlock);
  EXPECT_NE(second, nullptr);
  free(first);
  free(second);
}

TEST_F(CachingAllocatorTest, FindSeesOnlyBlocksInUse) {
  Block* block = memory.allocate(1000);
  EXPECT_EQ(memory.find(block->address + 999).get(), block);
  EXPECT_EQ(memory.find(block->address + block->size).get(), nullptr);
  EXPECT_EQ(memory.find(nullptr).get(), nullptr);
  EXPECT_EQ(block->references, 1);
  char* address = block->address;
  free(block);
  EXPECT_EQ(memory.find(address).get(), nullptr);
}

TEST_F(CachingAllocatorTest, SnapshotTilesEveryArena) {
  Block* small = memory.allocate(100);
  Block* dead = memory.allocate(5 << 20);
  BlockReference held(dead);
  free(dead);
  const auto segments = memory.snapshot();
  ASSERT_EQ(segments.size(), 2u);
  for (const auto& segment : segments) {
    size_t total = 0;
    for (const auto& block : segment.blocks) total += block.size;
    EXPECT_EQ(total, segment.total_size);
    if (segment.is_large) {
      EXPECT_EQ(segment.allocated_size, 0u);
      EXPECT_EQ(segment.active_size, size_t{5} << 20);
      EXPECT_TRUE(segment.blocks[0].active);
      EXPECT_FALSE(segment.blocks[0].allocated);
    } else {
      EXPECT_EQ(segment.allocated_size, 128u);
      EXPECT_EQ(segment.requested_size, 100u);
    }
  }
  free(small);
}

// Four threads allocate, hand Blocks to each other and drop them: for the thread sanitizer, and to
// see that nothing is lost.
TEST_F(CachingAllocatorTest, ThreadsShareTheMemory) {
  std::atomic<Block*> exchange{nullptr};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int step = 0; step < 20'000; ++step) {
        Block* block = memory.allocate(1 + random() % 100'000);
        ASSERT_NE(block, nullptr);
        ASSERT_EQ(block->references.load(), 1);
        BlockReference queued(block);
        if (Block* taken = exchange.exchange(block)) free(taken);
        if (random() % 64 == 0) {
          BlockReference found = memory.find(queued->address);
          ASSERT_EQ(found.get(), queued.get());
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  if (Block* taken = exchange.exchange(nullptr)) free(taken);
  const auto stats = memory.stats();
  EXPECT_EQ(stats.allocation[0].current, 0);
  EXPECT_EQ(stats.active[0].current, 0);
  EXPECT_EQ(stats.allocation[0].allocated, 80'000);
  EXPECT_EQ(memory.empty_cache(), static_cast<size_t>(stats.reserved_bytes[0].current));
}

}  // namespace
}  // namespace accel::runtime
