// Events: marks in a stream's queue that hosts and other streams can wait for. Used by guard.cpp
// for torch.Event, and by csrc/distributed.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

#include "csrc/runtime/stream.h"

namespace accel::runtime {

// One recording of an Event. Complete once the stream's worker has come to it, whether the work
// before it ran or was skipped; it then knows the failure for which that was skipped, so that what
// other streams do with its results is skipped too.
class EventMark {
 public:
  bool is_complete() const { return time_.load(std::memory_order_acquire) != 0; }
  int64_t time() const { return time_.load(std::memory_order_acquire); }  // steady clock, ns
  void complete(std::exception_ptr failure = nullptr);
  // Once complete: whether what it marks was skipped.
  bool failed() const { return failure_ != nullptr; }
  // For workers, which have no GIL to release and no signals to hear of. Raises the failure.
  void wait();
  // Whether it was complete before the deadline (steady clock, ns).
  bool wait_until(int64_t deadline);

 private:
  std::atomic<int64_t> time_{0};
  std::exception_ptr failure_;
  std::mutex mutex_;
  std::condition_variable completed_;
};

// Can be recorded again and again; waits are for the recording that is the latest when they are
// called. An Event that was never recorded is complete. Any thread.
class Event {
 public:
  // Hands the stream's tail over and marks its end.
  void record(Stream& stream);
  // Makes the stream wait for the mark before it runs what is recorded from now on. Does not block
  // the host. Cannot deadlock: a mark is queued before anything that waits for it, so the oldest
  // waiting stream always has something to wait for that runs.
  void block(Stream& stream) const;
  bool query() const;
  bool is_recorded() const { return latest().mark != nullptr; }
  // Blocks the host, and raises the stream's pending failure.
  void synchronize() const;
  // Blocks the host at most until the deadline (steady clock, ns), and raises nothing. Whether the
  // mark is complete.
  bool wait_until(int64_t deadline) const;
  // From this Event's mark to the other's. Both have to be complete.
  double elapsed_milliseconds(const Event& end) const;

 private:
  struct Recording {
    std::shared_ptr<EventMark> mark;
    Stream* stream = nullptr;
    uint64_t sequence = 0;
  };
  Recording latest() const;

  mutable std::mutex mutex_;
  Recording latest_;
};

}  // namespace accel::runtime
