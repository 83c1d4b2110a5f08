// Queue, worker, waits and faults of one stream. Called through stream.h.
//
// Note [Waking up]
// Two threads agree on a wake-up without a lock on the fast path: each first publishes (a completed
// command, a waiting host), then looks at what the other published, all in the one total order of
// sequentially consistent operations, so that at least one of them sees the other. Whoever sees a
// sleeper takes the mutex before it notifies; the sleeper looks once more under the mutex.
#include "csrc/runtime/worker_stream.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include <c10/util/Exception.h>

#include "csrc/runtime/process.h"
#include "csrc/runtime/team.h"
#include "kernels/common/relax.h"

namespace accel::runtime {

namespace {

// How long a worker without work and a host without its value look again before they sleep. A
// futex wake-up costs 5-50 µs, a host's gap between two Segments is about as long.
constexpr int64_t kWorkerSpin = 30'000;  // ns
constexpr int64_t kHostSpin = 20'000;
// A tail that has not grown for this long is taken by a worker that has been idle for as long, and
// how often one that may appear is looked for before the worker sleeps without a timer.
constexpr int64_t kIdleTail = 1'000'000;
constexpr int kDozes = 3;
// How often a waiting host listens for Ctrl-C.
constexpr int64_t kSignalPeriod = 50'000'000;

thread_local bool is_worker = false;

size_t in_flight_bytes_budget() {
  static const size_t budget = [] {
    const char* value = std::getenv("ACCEL_IN_FLIGHT_BYTES");
    if (value == nullptr) return kInFlightBytes;
    char* end = nullptr;
    const unsigned long long bytes = std::strtoull(value, &end, 10);
    if (end != value && *end == '\0') return static_cast<size_t>(bytes);
    std::fprintf(stderr, "[accel] ACCEL_IN_FLIGHT_BYTES=%s is ignored: expected bytes\n", value);
    return kInFlightBytes;
  }();
  return budget;
}

std::atomic<TailFactory> tail_factory{nullptr};

// The last failures that were raised: one that reaches another stream later is no news.
struct RaisedFailures {
  std::mutex mutex;
  std::array<std::exception_ptr, 16> last;
  size_t count = 0;
};

RaisedFailures& raised_failures() {
  static auto* raised = new RaisedFailures;  // outlives static destruction
  return *raised;
}

bool was_raised(const std::exception_ptr& failure) {
  RaisedFailures& raised = raised_failures();
  std::lock_guard<std::mutex> lock(raised.mutex);
  return std::find(raised.last.begin(), raised.last.end(), failure) != raised.last.end();
}

void remember_raised(const std::exception_ptr& failure) {
  RaisedFailures& raised = raised_failures();
  std::exception_ptr oldest = failure;  // which goes without the lock
  std::lock_guard<std::mutex> lock(raised.mutex);
  std::swap(raised.last[raised.count++ % raised.last.size()], oldest);
}

}  // namespace

TailFactory register_tail_factory(TailFactory factory) { return tail_factory.exchange(factory); }

int64_t steady_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

bool on_worker() { return is_worker; }

void note_raised(const std::exception_ptr& failure) {
  remember_raised(failure);
  forget_failure_everywhere(failure);
}

Tail* WorkerStream::tail() const {
  if (Tail* tail = tail_.load(std::memory_order_acquire)) return tail;
  const TailFactory factory = tail_factory.load();
  if (factory == nullptr) return nullptr;  // the runtime alone, as its tests use it
  std::call_once(tail_once_, [&] {
    auto& self = const_cast<WorkerStream&>(*this);
    tail_.store(factory(self).release(), std::memory_order_release);
  });
  return tail_.load(std::memory_order_acquire);
}

uint64_t WorkerStream::submit(std::unique_ptr<Command> command) {
  check_fork();
  follow_host_threads();
  Entry entry{std::move(command)};
  entry.bytes = entry.command->bytes();
  uint64_t sequence = 0;
  bool asleep = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    bytes_in_flight_.fetch_add(entry.bytes, std::memory_order_relaxed);
    queue_.push_back(std::move(entry));
    sequence = submitted_.load(std::memory_order_relaxed) + 1;
    submitted_.store(sequence, std::memory_order_release);
    const Activity activity = activity_.load(std::memory_order_relaxed);
    if (activity == Activity::Unstarted) start_worker();
    asleep = activity == Activity::Dozing || activity == Activity::Asleep;
  }
  if (asleep) work_.notify_one();
  return sequence;
}

bool WorkerStream::is_over_budget() const {
  const uint64_t commands = submitted_.load() - completed_.load();
  if (commands > kInFlightCommands) return true;
  // One command may be larger than the budget.
  return commands > 1 && bytes_in_flight_.load() > in_flight_bytes_budget();
}

void WorkerStream::wait_for_room() {
  if (on_worker() || room_ == Room::Unlimited) return;
  block_until([this] { return !is_over_budget(); });
}

void WorkerStream::notice_pending() {
  // A read-modify-write, like the exchange in next(): of the two, the later sees the earlier's
  // thread, so either the worker sees the pending tail or we see it asleep.
  Activity activity = activity_.load(std::memory_order_relaxed);
  while (!activity_.compare_exchange_weak(activity, activity)) {
  }
  if (activity != Activity::Asleep && activity != Activity::Unstarted) return;
  check_fork();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (activity_.load() == Activity::Unstarted) start_worker();
  }
  work_.notify_one();
}

// Under the mutex.
void WorkerStream::start_worker() {
  note_use();
  stopping_.store(false);
  if (worker_.joinable()) worker_.join();  // one that has ended
  activity_.store(Activity::Awake);
  worker_ = std::thread([this] { work(); });
}

void WorkerStream::work() {
  is_worker = true;
  char name[16];
  std::snprintf(name, sizeof(name), "accel%d:%d", device_, static_cast<int>(id_));
  pthread_setname_np(pthread_self(), name);
  while (std::optional<Entry> entry = next()) execute(std::move(*entry));
}

std::optional<WorkerStream::Entry> WorkerStream::next() {
  const int64_t idle_since = steady_now(), spin_end = idle_since + kWorkerSpin;
  while (submitted_.load(std::memory_order_acquire) == completed_.load(std::memory_order_relaxed) &&
         !stopping_.load(std::memory_order_relaxed) && steady_now() < spin_end) {
    kernels::relax();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  int dozes = 0;
  while (queue_.empty()) {
    if (stopping_.load(std::memory_order_relaxed)) {
      activity_.store(Activity::Unstarted);
      done_.notify_all();
      return std::nullopt;
    }
    Tail* tail = tail_.load(std::memory_order_acquire);
    if (tail != nullptr && tail->pending()) {
      // A host that has just been given its value gets its millisecond too.
      const int64_t age = steady_now() - std::max(tail->last_recorded(), idle_since);
      if (age < kIdleTail) {
        doze(lock, kIdleTail - age);
        continue;
      }
      lock.unlock();
      take_tail();
      lock.lock();
      // A tail that stays (its lock's holder is about to hand it over) is looked at again later.
      if (queue_.empty() && tail->pending()) doze(lock, kIdleTail);
    } else if (tail != nullptr && dozes < kDozes) {
      ++dozes;
      doze(lock, kIdleTail);
    } else {
      activity_.exchange(Activity::Asleep);
      tail = tail_.load(std::memory_order_acquire);
      if (tail == nullptr || !tail->pending()) work_.wait(lock);
      activity_.store(Activity::Awake);
    }
  }
  Entry entry = std::move(queue_.front());
  queue_.pop_front();
  return entry;
}

void WorkerStream::doze(std::unique_lock<std::mutex>& lock, int64_t nanoseconds) {
  activity_.store(Activity::Dozing);
  work_.wait_for(lock, std::chrono::nanoseconds(nanoseconds));
  activity_.store(Activity::Awake);
}

void WorkerStream::take_tail() {
  try {
    tail()->hand_over_idle();
  } catch (...) {
    store_failure(std::current_exception());
  }
}

void WorkerStream::execute(Entry entry) {
  const uint64_t sequence = completed_.load(std::memory_order_relaxed) + 1;
  const bool skipped = failed_.load(std::memory_order_acquire) ||
                       sequence <= skip_through_.load(std::memory_order_acquire);
  try {
    if (skipped) {
      entry.command->skip();
    } else {
      entry.command->run();
    }
  } catch (...) {
    store_failure(std::current_exception());
  }
  // Before it counts as completed: whoever waits for memory finds the command's Blocks given back.
  entry.command.reset();
  bytes_in_flight_.fetch_sub(entry.bytes, std::memory_order_relaxed);
  completed_.store(sequence);
  notify_waiting();
}

void WorkerStream::notify_waiting() {
  if (waiters_.load() == 0) return;  // see Note [Waking up]
  { std::lock_guard<std::mutex> lock(mutex_); }
  done_.notify_all();
}

// The first failure is the one that is told; what it led to is not news.
void WorkerStream::store_failure(std::exception_ptr failure) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (failure_ != nullptr || was_raised(failure)) return;
  failure_ = std::move(failure);
  failed_.store(true, std::memory_order_release);
}

std::exception_ptr WorkerStream::failure() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

void WorkerStream::forget_failure() { forget_failure(failure()); }

// What was recorded before it is told is skipped too, so it must be in the queue.
void WorkerStream::forget_failure(const std::exception_ptr& failure) {
  if (failure == nullptr || this->failure() != failure) return;
  hand_over();
  std::lock_guard<std::mutex> lock(mutex_);
  if (failure_ == nullptr || failure_ != failure) return;
  failure_ = nullptr;
  skip_through_.store(submitted_.load(), std::memory_order_release);
  failed_.store(false, std::memory_order_release);
}

void WorkerStream::raise_failure() {
  if (!failed_.load(std::memory_order_acquire)) return;
  hand_over();
  std::exception_ptr failure;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    std::swap(failure, failure_);
    if (failure == nullptr) return;  // another thread has just raised it
    skip_through_.store(submitted_.load(), std::memory_order_release);
    failed_.store(false, std::memory_order_release);
  }
  note_raised(failure);
  std::rethrow_exception(failure);
}

template <typename Done>
void WorkerStream::block_until(Done done, int64_t deadline, Gil gil) {
  if (done()) return;
  WaitGuard guard(gil);
  const int64_t spin_end = steady_now() + kHostSpin;
  do {
    kernels::relax();
    if (done()) return;
  } while (steady_now() < spin_end);

  struct Waiter {
    explicit Waiter(std::atomic<int>& count) : count(count) { count.fetch_add(1); }
    ~Waiter() { count.fetch_sub(1); }
    std::atomic<int>& count;
  } waiter(waiters_);
  // By the clock, not when a wait times out: commands that complete all the time wake this one.
  const bool listens = guard.interruptible();
  int64_t listen_at = listens ? steady_now() + kSignalPeriod : kNever;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!done()) {
    const int64_t until = std::min(listen_at, deadline);
    if (until == kNever) {
      done_.wait(lock);
      continue;
    }
    const int64_t now = steady_now();
    if (now >= deadline) return;
    if (now >= listen_at) {
      lock.unlock();
      guard.check_signals();
      lock.lock();
      listen_at = steady_now() + kSignalPeriod;
    } else {
      done_.wait_for(lock, std::chrono::nanoseconds(until - now));
    }
  }
}

void WorkerStream::wait(uint64_t sequence) {
  check_fork();
  if (completed_.load() < sequence) {
    TORCH_CHECK(!on_worker(), "A stream's worker cannot wait for a stream.");
    TORCH_CHECK(sequence <= submitted(), "Command ", sequence, " was never submitted.");
    block_until([this, sequence] { return completed_.load() >= sequence; });
  }
  raise_failure();
}

void WorkerStream::hand_over() {
  if (Tail* tail = this->tail()) tail->hand_over();
}

void WorkerStream::synchronize() {
  check_fork();
  count_wait("synchronize");
  hand_over();
  wait(submitted());
}

bool WorkerStream::query() {
  check_fork();
  hand_over();
  const bool idle = completed() == submitted();
  raise_failure();
  return idle;
}

void WorkerStream::drain(int64_t deadline, Gil gil) {
  const uint64_t sequence = submitted();
  block_until([this, sequence] { return completed_.load() >= sequence; }, deadline, gil);
}

void WorkerStream::stop(int64_t deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (activity_.load() != Activity::Unstarted) {
    skip_through_.store(submitted_.load());
    stopping_.store(true);
    work_.notify_one();
    done_.wait_for(lock, std::chrono::nanoseconds(deadline - steady_now()),
                   [this] { return activity_.load() == Activity::Unstarted; });
  }
  if (!worker_.joinable()) return;
  if (activity_.load() == Activity::Unstarted) {
    worker_.join();
  } else {
    worker_.detach();  // a command that does not end, such as a collective without its peer
  }
}

}  // namespace accel::runtime
