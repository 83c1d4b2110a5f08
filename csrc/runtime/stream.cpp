// The streams of every device: the default one, the pools, and what is current on each thread.
// Called by PyTorch through guard.cpp and by the floors above; holds no lock while it waits.
#include "csrc/runtime/stream.h"

#include <array>
#include <cstdlib>
#include <vector>

#include <c10/util/Exception.h>

#include "csrc/runtime/driver.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/worker_stream.h"

namespace accel::runtime {

namespace {

// Stream ids: 0 is the default stream, then come a pool of normal priority (0) and one of high
// priority (-1). A pool hands its streams out in turn. On the host, a stream is a thread and the
// operating system decides who runs: priority is what the program asked for, and no more.
constexpr int kPoolSize = 32;
constexpr int kStreamPools = 2;
constexpr int kCaptureStream = 1 + kStreamPools * kPoolSize;
// Those for one owner each: a process group has one, and two more for each rank it sends to.
constexpr int kFirstOwned = kCaptureStream + 1;
constexpr int kOwnedStreams = 256;
constexpr int kStreams = kFirstOwned + kOwnedStreams;

// How long the exit of the process waits for queued work, and then for what cannot be interrupted.
constexpr int64_t kShutdownDrain = 2'000'000'000;  // ns
constexpr int64_t kShutdownStop = 1'000'000'000;

struct DeviceStreams {
  std::array<std::atomic<WorkerStream*>, kStreams> streams{};
  std::array<std::atomic<uint32_t>, kStreamPools> next{};
  std::vector<int> released;  // of those for one owner; under the registry's mutex
  int acquired = 0;           // how many of them have been acquired at least once
};

struct Registry {
  std::mutex mutex;  // of creation
  std::array<DeviceStreams, kMaximumDevices> devices;
};

Registry& registry() {
  static auto* all = new Registry;  // outlives static destruction
  return *all;
}

thread_local int this_device = 0;
thread_local std::array<Stream*, kMaximumDevices> this_streams{};

void check_device(int device) {
  TORCH_CHECK(device >= 0 && device < device_count(), "Expected a device index from 0 to ",
              device_count() - 1, ", got ", device);
}

WorkerStream& stream_at(int device, int id) {
  auto& slot = registry().devices[static_cast<size_t>(device)].streams[static_cast<size_t>(id)];
  if (WorkerStream* stream = slot.load(std::memory_order_acquire)) return *stream;
  check_device(device);
  std::lock_guard<std::mutex> lock(registry().mutex);
  if (WorkerStream* stream = slot.load(std::memory_order_relaxed)) return *stream;
  static const int at_exit [[maybe_unused]] = std::atexit([] { shutdown(); });
  const int priority = id > kPoolSize && id < kCaptureStream ? -1 : 0;
  const auto room = id >= kFirstOwned ? WorkerStream::Room::Unlimited : WorkerStream::Room::Budget;
  auto* stream = new WorkerStream(device, id, priority, room);
  slot.store(stream, std::memory_order_release);
  return *stream;
}

template <typename Body>
void for_each_stream(int device, Body body) {
  for (auto& slot : registry().devices[static_cast<size_t>(device)].streams) {
    if (WorkerStream* stream = slot.load(std::memory_order_acquire)) body(*stream);
  }
}

// Runs, or is skipped, when all else on the stream has been.
class ReleaseCommand final : public Command {
 public:
  explicit ReleaseCommand(Stream& stream) : stream_(stream) {}
  void run() override { release(); }
  void skip() override { release(); }

 private:
  void release() {
    std::lock_guard<std::mutex> lock(registry().mutex);
    registry().devices[static_cast<size_t>(stream_.device())].released.push_back(
        static_cast<int>(stream_.id()));
  }
  Stream& stream_;
};

std::atomic<Interrupt> interrupt{nullptr};

template <typename Body>
void for_each_stream(Body body) {
  for (int device = 0; device < kMaximumDevices; ++device) for_each_stream(device, body);
}

}  // namespace

int device_count() {
  static const int count = driver().device_count();
  return count;
}

int current_device() { return this_device; }

void set_current_device(int device) {
  check_device(device);
  this_device = device;
}

Stream& default_stream(int device) { return stream_at(device, 0); }

Stream& current_stream(int device) {
  Stream* stream = this_streams[static_cast<size_t>(device)];
  return stream != nullptr ? *stream : default_stream(device);
}

void set_current_stream(Stream& stream) {
  this_streams[static_cast<size_t>(stream.device())] = &stream;
}

Stream& stream_of(c10::Stream stream) {
  TORCH_CHECK(stream.device_type() == c10::kPrivateUse1, "Expected a stream of accel, got one of ",
              stream.device_type());
  TORCH_CHECK(stream.id() >= 0 && stream.id() < kStreams, "accel has no stream ", stream.id());
  const int device = stream.device_index();
  check_device(device);
  return stream_at(device, static_cast<int>(stream.id()));
}

c10::Stream to_c10(const Stream& stream) {
  return c10::Stream(c10::Stream::UNSAFE,
                     c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(stream.device())),
                     stream.id());
}

Stream& stream_from_pool(int device, int priority) {
  check_fork();
  check_device(device);
  const int pool = priority < 0 ? 1 : 0;
  auto& next = registry().devices[static_cast<size_t>(device)].next[static_cast<size_t>(pool)];
  const auto turn = static_cast<int>(next.fetch_add(1, std::memory_order_relaxed) % kPoolSize);
  return stream_at(device, 1 + pool * kPoolSize + turn);
}

Stream& capture_stream(int device) { return stream_at(device, kCaptureStream); }

Stream& acquire_stream(int device) {
  check_fork();
  check_device(device);
  int id = 0;
  {
    std::lock_guard<std::mutex> lock(registry().mutex);
    DeviceStreams& streams = registry().devices[static_cast<size_t>(device)];
    if (!streams.released.empty()) {
      id = streams.released.back();
      streams.released.pop_back();
    } else {
      TORCH_CHECK(streams.acquired < kOwnedStreams, "accel:", device, " has no more than ",
                  kOwnedStreams,
                  " streams for process groups; destroy_process_group() gives them back");
      id = kFirstOwned + streams.acquired++;
    }
  }
  WorkerStream& stream = stream_at(device, id);
  stream.forget_failure();
  return stream;
}

void release_stream(Stream& stream) {
  if (!in_bad_fork()) stream.submit(std::make_unique<ReleaseCommand>(stream));
}

void register_interrupt(Interrupt function) { interrupt.store(function); }

void synchronize_device(int device) {
  check_fork();
  check_device(device);
  count_wait("synchronize");
  // All tails first, so that the streams run side by side.
  for_each_stream(device, [](WorkerStream& stream) { stream.hand_over(); });
  for_each_stream(device, [](WorkerStream& stream) { stream.wait(stream.submitted()); });
}

void settle_device(int device, Settle how) {
  if (on_worker()) return;
  if (how == Settle::HandOver) {
    for_each_stream(device, [](WorkerStream& stream) { stream.hand_over(); });
  }
  const Gil gil = how == Settle::HandOver ? Gil::Release : Gil::Keep;
  for_each_stream(device, [gil](WorkerStream& stream) { stream.drain(kNever, gil); });
}

void forget_failure_everywhere(const std::exception_ptr& failure) {
  for_each_stream([&](WorkerStream& stream) { stream.forget_failure(failure); });
}

void shutdown() {
  if (in_bad_fork()) return;
  const auto quietly = [](auto&& action) {
    try {
      action();
    } catch (...) {  // there is no one left to tell
    }
  };
  for_each_stream([&](WorkerStream& stream) { quietly([&] { stream.hand_over(); }); });
  const int64_t drained = steady_now() + kShutdownDrain;
  for_each_stream([&](WorkerStream& stream) { quietly([&] { stream.drain(drained); }); });
  if (const Interrupt end_waits = interrupt.load()) quietly(end_waits);
  const int64_t stopped = steady_now() + kShutdownStop;
  for_each_stream([&](WorkerStream& stream) { stream.stop(stopped); });
}

}  // namespace accel::runtime
