// The Stream of the host driver: a queue, and a worker thread that starts with the first command.
// Created by stream.cpp, never destroyed: a worker may outlive static destruction.
#pragma once

#include <exception>
#include <optional>
#include <thread>

#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {

// Deadlines are in nanoseconds of the steady clock.
int64_t steady_now();
constexpr int64_t kNever = INT64_MAX;

class WorkerStream final : public Stream {
 public:
  // Whether wait_for_room() bounds what is in flight.
  enum class Room { Budget, Unlimited };

  WorkerStream(int device, c10::StreamId id, int priority, Room room = Room::Budget)
      : device_(device), id_(id), priority_(priority), room_(room) {}

  int device() const override { return device_; }
  c10::StreamId id() const override { return id_; }
  int priority() const override { return priority_; }
  Tail* tail() const override;

  uint64_t submit(std::unique_ptr<Command> command) override;
  void wait_for_room() override;
  void notice_pending() override;
  uint64_t submitted() const override { return submitted_.load(std::memory_order_acquire); }
  uint64_t completed() const override { return completed_.load(std::memory_order_acquire); }
  void wait(uint64_t sequence) override;
  void synchronize() override;
  bool query() override;
  std::exception_ptr failure() const override;

  void hand_over();
  // Drops the pending failure: nobody is left who would be told. Or only if it is this one.
  void forget_failure();
  void forget_failure(const std::exception_ptr& failure);
  // Waits for all that is queued, at most until the deadline; raises nothing and leaves a failure
  // pending.
  void drain(int64_t deadline = kNever, Gil gil = Gil::Release);
  // Skips what is left, ends the worker, and waits for its end until the deadline.
  void stop(int64_t deadline);

 private:
  // What the worker is doing, for those who may have to wake it. Dozing has a timer.
  enum class Activity { Unstarted, Awake, Dozing, Asleep };

  struct Entry {
    std::unique_ptr<Command> command;
    size_t bytes = 0;
  };

  void start_worker();
  void work();
  std::optional<Entry> next();
  void doze(std::unique_lock<std::mutex>& lock, int64_t nanoseconds);
  void take_tail();
  void execute(Entry entry);
  void store_failure(std::exception_ptr failure);
  void raise_failure();
  bool is_over_budget() const;
  template <typename Done>
  void block_until(Done done, int64_t deadline = kNever, Gil gil = Gil::Release);
  void notify_waiting();

  const int device_;
  const c10::StreamId id_;
  const int priority_;
  const Room room_;
  mutable std::once_flag tail_once_;
  mutable std::atomic<Tail*> tail_{nullptr};

  std::atomic<uint64_t> submitted_{0};
  std::atomic<uint64_t> completed_{0};
  std::atomic<size_t> bytes_in_flight_{0};
  std::atomic<bool> failed_{false};
  // Commands up to this one are skipped: they were queued before a failure was raised.
  std::atomic<uint64_t> skip_through_{0};
  std::atomic<Activity> activity_{Activity::Unstarted};
  std::atomic<bool> stopping_{false};
  std::atomic<int> waiters_{0};

  mutable std::mutex mutex_;  // guards all that follows
  std::deque<Entry> queue_;
  std::exception_ptr failure_;
  std::thread worker_;
  std::condition_variable work_;  // for the worker: a command, a pending tail, the end
  std::condition_variable done_;  // for waiting hosts: a command has completed
};

// Events pass failures on to other streams, but each is raised once: from now on it is pending
// nowhere.
void note_raised(const std::exception_ptr& failure);
void forget_failure_everywhere(const std::exception_ptr& failure);

// Whether the calling thread is a stream's worker, which must not wait for streams.
bool on_worker();

// Waits for the work of every stream of a device, so that its Blocks come back; raises nothing.
// No-op on a worker. SubmittedOnly is for a caller under a recorder's lock: it neither hands over
// nor touches the GIL.
enum class Settle { HandOver, SubmittedOnly };
void settle_device(int device, Settle how);

}  // namespace accel::runtime
