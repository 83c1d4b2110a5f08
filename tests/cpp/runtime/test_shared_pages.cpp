// Memory that moves into a file and back: contents, addresses, what others see, what is given back.
#include <gtest/gtest.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "csrc/runtime/driver.h"
#include "csrc/runtime/shared_pages.h"

namespace accel::runtime {
namespace {

constexpr size_t kPage = SharedMemory::kPage, kArena = size_t{8} << 20;

// As the driver reserves it, and forgotten before it is unmapped.
class Arena {
 public:
  explicit Arena(SharedPages& shared) : shared_(shared) {
    data_ = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  ~Arena() {
    shared_.forget(data_, kArena);
    munmap(data_, kArena);
  }
  char* data() const { return data_; }

 private:
  SharedPages& shared_;
  char* data_;
};

// What another process does.
class Peer {
 public:
  Peer(const SharedMemory& memory, size_t bytes) : bytes_(bytes) {
    data_ = static_cast<char*>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.descriptor, memory.offset));
  }
  ~Peer() { munmap(data_, bytes_); }
  char* data() const { return data_; }

 private:
  size_t bytes_;
  char* data_;
};

size_t bytes_in_file(const SharedMemory& memory) {
  struct stat status {};
  EXPECT_EQ(fstat(memory.descriptor, &status), 0);
  return static_cast<size_t>(status.st_blocks) * 512;
}

void fill(char* data, size_t bytes, unsigned seed) {
  std::mt19937_64 random(seed);
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    const uint64_t value = random();
    std::memcpy(data + i, &value, 8);
  }
}

TEST(SharedPages, BothSidesSeeWhatTheOtherWrites) {
  SharedPages shared;
  const Arena arena(shared);
  std::vector<char> expected(kArena);
  fill(arena.data(), kArena, 1);
  std::memcpy(expected.data(), arena.data(), kArena);
  // Not at a huge page's beginning, and longer than one.
  const size_t at = 3 * kPage, bytes = (size_t{5} << 20) + kPage;
  const auto memory = shared.share(arena.data() + at, bytes);
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(std::memcmp(arena.data(), expected.data(), kArena), 0);
  const Peer peer(*memory, bytes);
  EXPECT_EQ(std::memcmp(peer.data(), expected.data() + at, bytes), 0);
  peer.data()[bytes - 1] = 17;
  EXPECT_EQ(arena.data()[at + bytes - 1], 17);
  arena.data()[at] = 18;
  EXPECT_EQ(peer.data()[0], 18);
  EXPECT_EQ(shared.shared_bytes(), bytes);
}

TEST(SharedPages, WhatOthersWriteAfterwardsIsLost) {
  SharedPages shared;
  const Arena arena(shared);
  const size_t bytes = size_t{3} << 20;
  fill(arena.data(), kArena, 2);
  const auto memory = shared.share(arena.data(), bytes);
  ASSERT_TRUE(memory.has_value());
  const Peer peer(*memory, bytes);
  std::memset(peer.data(), 1, bytes);
  std::vector<char> expected(kArena);
  std::memcpy(expected.data(), arena.data(), kArena);
  shared.unshare(arena.data(), kArena);  // more than is shared
  std::memset(peer.data(), 2, bytes);
  EXPECT_EQ(std::memcmp(arena.data(), expected.data(), kArena), 0);
  EXPECT_EQ(shared.shared_bytes(), 0u);
  // Not even when the pages are shared again.
  const auto again = shared.share(arena.data(), bytes);
  ASSERT_TRUE(again.has_value());
  std::memset(peer.data(), 3, bytes);
  EXPECT_EQ(std::memcmp(arena.data(), expected.data(), kArena), 0);
}

TEST(SharedPages, AnArenaThatGoesGivesItsMemoryBack) {
  SharedPages shared;
  SharedMemory memory;
  {
    const Arena arena(shared);
    memory = *shared.share(arena.data() + kPage, kArena - kPage);
    EXPECT_EQ(bytes_in_file(memory), kArena - kPage);
    // A mapping of another process does not keep it.
    const Peer peer(memory, kArena - kPage);
    shared.unshare(arena.data() + kPage, kArena / 2);
    EXPECT_EQ(bytes_in_file(memory), kArena / 2 - kPage);
  }
  EXPECT_EQ(bytes_in_file(memory), 0u);
  EXPECT_EQ(shared.shared_bytes(), 0u);
}

TEST(SharedPages, WhereThereIsNoFileNothingChanges) {
  SharedPages shared;
  const Arena arena(shared);
  fill(arena.data(), kArena, 3);
  std::vector<char> expected(arena.data(), arena.data() + kArena);
  // Descriptors are numbers below this limit.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto memory = shared.share(arena.data(), kArena);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(memory.has_value());
  EXPECT_EQ(std::memcmp(arena.data(), expected.data(), kArena), 0);
}

// Ranges that overlap earlier ones in every way: contents stay, each is one piece for its peer, and
// the file holds no more than what is shared.
TEST(SharedPages, RandomRanges) {
  SharedPages shared;
  const Arena arena(shared);
  fill(arena.data(), kArena, 4);
  std::vector<char> expected(arena.data(), arena.data() + kArena);
  std::mt19937 random(5);
  SharedMemory any;
  for (int turn = 0; turn < 300; ++turn) {
    const size_t pages = kArena / kPage, first = random() % pages;
    const size_t at = first * kPage, bytes = (1 + random() % (pages - first)) * kPage;
    if (random() % 4 == 0) {
      shared.unshare(arena.data() + at, bytes);
    } else {
      const auto memory = shared.share(arena.data() + at, bytes);
      ASSERT_TRUE(memory.has_value());
      any = *memory;
      const Peer peer(*memory, bytes);
      ASSERT_EQ(std::memcmp(peer.data(), expected.data() + at, bytes), 0);
      const size_t written = random() % bytes;
      expected[at + written] = static_cast<char>(turn);
      peer.data()[written] = static_cast<char>(turn);
    }
    ASSERT_EQ(std::memcmp(arena.data(), expected.data(), kArena), 0);
    if (any.descriptor >= 0) {
      ASSERT_EQ(bytes_in_file(any), shared.shared_bytes());
    }
  }
}

TEST(Driver, SharesOnlyWhatItHasReserved) {
  Driver& device = driver();
  std::vector<char> host(2 * kPage);
  EXPECT_FALSE(device.can_share(host.data()));
  EXPECT_FALSE(device.share(host.data(), kPage).has_value());
  const size_t bytes = size_t{2} << 20;
  char* const arena = static_cast<char*>(device.reserve(0, bytes));
  ASSERT_NE(arena, nullptr);
  if (arena != device.host_pointer(arena)) {
    EXPECT_FALSE(device.can_share(arena));  // guarded
  } else {
    EXPECT_TRUE(device.can_share(arena + bytes - 1));
    arena[kPage] = 5;
    const auto memory = device.share(arena + kPage, kPage);
    ASSERT_TRUE(memory.has_value());
    const Peer peer(*memory, kPage);
    EXPECT_EQ(peer.data()[0], 5);
    device.unshare(arena, bytes);
    arena[kPage] = 6;
    EXPECT_EQ(peer.data()[0], 0);  // its memory is gone
  }
  device.release(0, arena, bytes);
  EXPECT_FALSE(device.can_share(arena));
}

}  // namespace
}  // namespace accel::runtime
