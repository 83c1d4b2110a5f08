// parallel_for: every chunk once, whoever comes, and nobody is left inside.
#include "kernels/common/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace accel::kernels {
namespace {

class ParallelFor : public ::testing::Test {
 protected:
  void TearDown() override { set_team_width(1); }
};

TEST_F(ParallelFor, RunsEveryChunkOnce) {
  for (int width : {1, 2, 3, 8}) {
    set_team_width(width);
    for (int64_t chunks : {0, 1, 2, 7, 100, 5000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(chunks));
      parallel_for(chunks, [&](int64_t chunk) { ++runs[static_cast<size_t>(chunk)]; });
      for (const auto& count : runs) ASSERT_EQ(count, 1) << width << ' ' << chunks;
    }
  }
}

// The values need no atomics: a region ends after all that was done inside.
TEST_F(ParallelFor, EndsAfterAllItsWork) {
  std::vector<int64_t> values(64);
  int64_t turns = 0;
  for (int width : {2, 4, 2, 1, 3}) {
    set_team_width(width);
    for (int turn = 0; turn < 5000; ++turn) {
      parallel_for(64, [&](int64_t chunk) { ++values[static_cast<size_t>(chunk)]; });
      ++turns;
    }
    for (int64_t value : values) ASSERT_EQ(value, turns);
  }
}

TEST_F(ParallelFor, HelpersThatSleepAreWoken) {
  set_team_width(2);
  for (int turn = 0; turn < 20; ++turn) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    // Ends only if a helper comes: each chunk waits for the other.
    std::atomic<int> inside{0};
    parallel_for(2, [&](int64_t) {
      ++inside;
      while (inside < 2) std::this_thread::yield();
    });
  }
}

TEST_F(ParallelFor, IsAsWideAsTheTeamAtMost) {
  set_team_width(4);
  parallel_for(100, [](int64_t) {});
  set_team_width(2);
  std::mutex mutex;
  for (int turn = 0; turn < 50; ++turn) {
    std::set<std::thread::id> threads;
    parallel_for(20, [&](int64_t) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      const std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
    });
    ASSERT_LE(threads.size(), 2u);
  }
}

TEST_F(ParallelFor, NestedCallsStayOnTheirThread) {
  set_team_width(3);
  std::atomic<int> runs{0};
  parallel_for(10, [&](int64_t) {
    const std::thread::id mine = std::this_thread::get_id();
    parallel_for(10, [&](int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), mine);
      ++runs;
    });
  });
  EXPECT_EQ(runs, 100);
}

TEST_F(ParallelFor, ThreadsHaveTeamsOfTheirOwnThatEndWithThem) {
  for (int round = 0; round < 10; ++round) {
    std::vector<std::thread> threads;
    std::atomic<int64_t> sum{0};
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&] {
        set_team_width(3);
        for (int turn = 0; turn < 200; ++turn) {
          parallel_for(16, [&](int64_t chunk) { sum += chunk; });
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(sum, int64_t{4} * 200 * 120);
  }
}

}  // namespace
}  // namespace accel::kernels
