// Events: marks in a stream's queue that hosts and other streams can wait for. Used by guard.cpp
// for torch.Event, and by csrc/distributed.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "csrc/runtime/stream.h"

namespace accel::runtime {

// One recording of an Event. Complete once the stream's worker has come to it, whether the work
// before it ran or was skipped.
class EventMark {
 public:
  bool is_complete() const { return time_.load(std::memory_order_acquire) != 0; }
  int64_t time() const { return time_.load(std::memory_order_acquire); }  // steady clock, ns
  void complete();
  // For workers, which have no GIL to release and no signals to hear of.
  void wait();

 private:
  std::atomic<int64_t> time_{0};
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
  // Blocks the host, and raises the stream's pending failure.
  void synchronize() const;
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
