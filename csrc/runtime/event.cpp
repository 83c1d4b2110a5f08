// Recording, waiting for and timing of Events. See event.h.
#include "csrc/runtime/event.h"

#include <algorithm>
#include <chrono>

#include <c10/util/Exception.h>

#include "csrc/runtime/process.h"
#include "csrc/runtime/worker_stream.h"

namespace accel::runtime {

namespace {

class MarkCommand final : public Command {
 public:
  MarkCommand(std::shared_ptr<EventMark> mark, const Stream& stream)
      : mark_(std::move(mark)), stream_(stream) {}
  void run() override { mark_->complete(); }
  void skip() override { mark_->complete(stream_.failure()); }

 private:
  std::shared_ptr<EventMark> mark_;
  const Stream& stream_;
};

class WaitCommand final : public Command {
 public:
  explicit WaitCommand(std::shared_ptr<EventMark> mark) : mark_(std::move(mark)) {}
  void run() override { mark_->wait(); }

 private:
  std::shared_ptr<EventMark> mark_;
};

}  // namespace

void EventMark::complete(std::exception_ptr failure) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    failure_ = std::move(failure);
    time_.store(steady_now(), std::memory_order_release);
  }
  completed_.notify_all();
}

void EventMark::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  completed_.wait(lock, [this] { return is_complete(); });
  if (failure_) std::rethrow_exception(failure_);
}

bool EventMark::wait_until(int64_t deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  return completed_.wait_for(lock, std::chrono::nanoseconds(deadline - steady_now()),
                             [this] { return is_complete(); });
}

Event::Recording Event::latest() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return latest_;
}

void Event::record(Stream& stream) {
  check_fork();
  if (Tail* tail = stream.tail()) {
    TORCH_CHECK(!tail->is_capturing(),
                "operation not permitted when stream is capturing: an event, or another stream "
                "that waits for this one");
    tail->hand_over();
  }
  auto mark = std::make_shared<EventMark>();
  const uint64_t sequence = stream.submit(std::make_unique<MarkCommand>(mark, stream));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    latest_ = {std::move(mark), &stream, sequence};
  }
  stream.wait_for_room();
}

void Event::block(Stream& stream) const {
  check_fork();
  const Recording recording = latest();
  if (recording.mark == nullptr || recording.stream == &stream) return;
  // Handed over whether or not the mark is complete: where a Segment ends must not depend on time.
  if (Tail* tail = stream.tail()) tail->hand_over();
  if (recording.mark->is_complete() && !recording.mark->failed()) return;
  stream.submit(std::make_unique<WaitCommand>(recording.mark));
}

bool Event::query() const {
  check_fork();
  const Recording recording = latest();
  return recording.mark == nullptr || recording.mark->is_complete();
}

void Event::synchronize() const {
  check_fork();
  const Recording recording = latest();
  if (recording.mark == nullptr) return;
  count_wait("event");
  recording.stream->wait(recording.sequence);
}

bool Event::wait_until(int64_t deadline) const {
  const Recording recording = latest();
  if (recording.mark == nullptr || recording.mark->is_complete()) return true;
  // How often a waiting host listens for Ctrl-C.
  constexpr int64_t kSignalPeriod = 50'000'000;
  WaitGuard guard;
  for (;;) {
    const int64_t now = steady_now();
    if (recording.mark->wait_until(std::min(deadline, now + kSignalPeriod))) return true;
    if (steady_now() >= deadline) return false;
    guard.check_signals();
  }
}

double Event::elapsed_milliseconds(const Event& end) const {
  const Recording first = latest();
  const Recording last = end.latest();
  TORCH_CHECK_VALUE(first.mark != nullptr && last.mark != nullptr,
                    "Both events must be recorded before calculating elapsed time.");
  TORCH_CHECK(first.mark->is_complete() && last.mark->is_complete(),
              "Both events must be completed before calculating elapsed time.");
  return static_cast<double>(last.mark->time() - first.mark->time()) * 1e-6;
}

}  // namespace accel::runtime
