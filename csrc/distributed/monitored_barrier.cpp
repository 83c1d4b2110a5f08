#include "csrc/distributed/monitored_barrier.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include "csrc/runtime/process.h"
#include "csrc/runtime/worker_stream.h"

namespace accel::distributed {

namespace {

const std::string kPassed = "passed";

// One rank's part of one barrier: the others tell rank 0 that they have come, rank 0 answers all.
class Barrier {
 public:
  Barrier(c10d::Store& store, uint64_t number, int rank, int size,
          std::chrono::milliseconds timeout)
      : store_(store),
        number_(number),
        rank_(rank),
        size_(size),
        timeout_(timeout),
        deadline_(runtime::steady_now() + timeout.count() * 1'000'000) {}

  void collect(Missing report) {
    std::vector<int> missing;
    for (int rank = 1; rank < size_; ++rank) {
      if (await(arrival_of(rank))) continue;
      missing.push_back(rank);
      if (report == Missing::First) break;
    }
    if (!missing.empty()) {
      const std::string reason =
          c10::str(missing.size() == 1 ? "Rank " : "Ranks ", c10::Join(", ", missing),
                   " failed to pass monitoredBarrier in ", timeout_.count(), " ms");
      store_.set(answer_of(number_), reason);
      TORCH_CHECK_WITH(DistBackendError, false,
                       "accl: Rank 0 timed out in monitoredBarrier: ", reason);
    }
    store_.set(answer_of(number_), kPassed);
    // All who are here have read the answer before.
    if (number_ > 1) store_.deleteKey(answer_of(number_ - 1));
    for (int rank = 1; rank < size_; ++rank) store_.deleteKey(arrival_of(rank));
  }

  void arrive() {
    store_.set(arrival_of(rank_), "here");
    const std::string answer = await(answer_of(number_))
                                   ? store_.get_to_str(answer_of(number_))
                                   : c10::str("no answer from rank 0 in ", timeout_.count(), " ms");
    TORCH_CHECK_WITH(DistBackendError, answer == kPassed, "accl: Rank ", rank_,
                     " successfully reached monitoredBarrier, but received errors while waiting "
                     "for send/recv from rank 0. Please check rank 0 logs for faulty rank. ",
                     answer);
  }

 private:
  std::string arrival_of(int rank) const {
    return "barrier/" + std::to_string(number_) + "/" + std::to_string(rank);
  }
  static std::string answer_of(uint64_t number) {
    return "barrier/" + std::to_string(number) + "/answer";
  }

  // Whether the key was there before the deadline. Looks again and again: who waits in the Store
  // keeps other threads from it.
  bool await(const std::string& key) {
    constexpr std::chrono::microseconds kLongestPause{20'000};
    const runtime::WaitGuard guard;
    std::chrono::microseconds pause{200};
    while (!store_.check({key})) {
      if (runtime::steady_now() >= deadline_) return false;
      guard.check_signals();
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, kLongestPause);
    }
    return true;
  }

  c10d::Store& store_;
  const uint64_t number_;
  const int rank_, size_;
  const std::chrono::milliseconds timeout_;
  const int64_t deadline_;
};

}  // namespace

void monitored_barrier(c10d::Store& store, uint64_t number, int rank, int size,
                       std::chrono::milliseconds timeout, Missing missing) {
  Barrier barrier(store, number, rank, size, timeout);
  rank == 0 ? barrier.collect(missing) : barrier.arrive();
}

}  // namespace accel::distributed
