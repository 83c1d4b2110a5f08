// Streams, waits, faults, idle tails and events, with commands that are plain functions.
#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <functional>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "csrc/runtime/event.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"
#include "csrc/runtime/team.h"
#include "csrc/runtime/worker_stream.h"

namespace accel::runtime {
namespace {

class FunctionCommand final : public Command {
 public:
  explicit FunctionCommand(
      std::function<void()> run, std::function<void()> skip = [] {}, size_t bytes = 0)
      : run_(std::move(run)), skip_(std::move(skip)), bytes_(bytes) {}
  void run() override { run_(); }
  void skip() override { skip_(); }
  size_t bytes() const override { return bytes_; }

 private:
  std::function<void()> run_, skip_;
  size_t bytes_;
};

uint64_t submit(
    Stream& stream, std::function<void()> run, std::function<void()> skip = [] {}) {
  return stream.submit(std::make_unique<FunctionCommand>(std::move(run), std::move(skip)));
}

// Closed until open() is called; a command that passes through it is as long as the test wants.
class Gate {
 public:
  void open() {
    std::lock_guard<std::mutex> lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return is_open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false;
};

void sleep_ms(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

// Streams live as long as the process: a worker may outlive any scope.
WorkerStream& new_stream() {
  static auto* streams = new std::vector<std::unique_ptr<WorkerStream>>;
  return *streams->emplace_back(std::make_unique<WorkerStream>(0, 0, 0));
}

TEST(Stream, CommandsRunInOrder) {
  WorkerStream& stream = new_stream();
  std::vector<int> ran;
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(submit(stream, [&ran, i] { ran.push_back(i); }), static_cast<uint64_t>(i + 1));
  }
  stream.wait(1000);
  ASSERT_EQ(ran.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(ran[static_cast<size_t>(i)], i);
  EXPECT_EQ(stream.completed(), 1000u);
}

TEST(Stream, AWaitIsForItsCommandOnly) {
  WorkerStream& stream = new_stream();
  Gate gate;
  const uint64_t first = submit(stream, [] {});
  submit(stream, [&] { gate.pass(); });
  stream.wait(first);
  EXPECT_FALSE(stream.query());
  gate.open();
  stream.synchronize();
  EXPECT_TRUE(stream.query());
}

TEST(Stream, TheCommandIsDestroyedBeforeItCountsAsCompleted) {
  WorkerStream& stream = new_stream();
  for (int i = 0; i < 200; ++i) {
    auto owned = std::make_shared<int>(i);
    const uint64_t sequence = submit(stream, [owned] {});
    stream.wait(sequence);
    EXPECT_EQ(owned.use_count(), 1);
  }
}

TEST(Stream, WaitingForWhatWasNeverSubmittedIsAnError) {
  EXPECT_THROW(new_stream().wait(1), c10::Error);
}

TEST(Stream, AWorkerCannotWait) {
  WorkerStream& stream = new_stream();
  WorkerStream& other = new_stream();
  Gate gate;
  const uint64_t sequence = submit(other, [&] { gate.pass(); });
  submit(stream, [&] { other.wait(sequence); });
  EXPECT_THROW(stream.synchronize(), c10::Error);
  gate.open();
  other.synchronize();
}

TEST(Stream, ManyHostsWait) {
  WorkerStream& stream = new_stream();
  std::atomic<int> sum{0};
  std::vector<std::thread> hosts;
  for (int host = 0; host < 8; ++host) {
    hosts.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const uint64_t sequence = submit(stream, [&] { sum.fetch_add(1); });
        stream.wait(sequence);
      }
    });
  }
  for (auto& host : hosts) host.join();
  EXPECT_EQ(sum, 4000);
  EXPECT_EQ(waiting_hosts(), 0);
}

TEST(Stream, ManyStreamsRunSideBySide) {
  // Every stream waits for the next one's command: run one after another, they would never end.
  constexpr int kCount = 16;
  std::vector<std::unique_ptr<Gate>> gates;
  std::vector<WorkerStream*> streams;
  for (int i = 0; i < kCount; ++i) {
    gates.push_back(std::make_unique<Gate>());
    streams.push_back(&new_stream());
  }
  for (int i = 0; i < kCount; ++i) {
    submit(*streams[static_cast<size_t>(i)], [&, i] {
      if (i + 1 < kCount) gates[static_cast<size_t>(i + 1)]->pass();
      gates[static_cast<size_t>(i)]->open();
    });
  }
  for (auto* stream : streams) stream->synchronize();
}

TEST(Stream, AHostThatWaitsIsCounted) {
  WorkerStream& stream = new_stream();
  Gate gate;
  int seen = 0;
  submit(stream, [&] {
    gate.pass();
    for (int i = 0; i < 1000 && (seen = waiting_hosts()) == 0; ++i) sleep_ms(1);
  });
  gate.open();
  stream.synchronize();
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(waiting_hosts(), 0);
}

// Faults.

TEST(Stream, AFailureIsRaisedOnceAndSkipsTheRest) {
  WorkerStream& stream = new_stream();
  Gate gate;
  int ran = 0;
  int skipped = 0;
  submit(stream, [&] { gate.pass(); });
  submit(stream, [] { TORCH_CHECK_INDEX(false, "index 7 is out of range"); });
  for (int i = 0; i < 5; ++i)
    submit(
        stream, [&] { ++ran; }, [&] { ++skipped; });
  gate.open();
  try {
    stream.synchronize();
    FAIL() << "nothing was raised";
  } catch (const c10::IndexError& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "index 7 is out of range");
  }
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(skipped, 5);
  submit(stream, [&] { ++ran; });
  stream.synchronize();
  EXPECT_EQ(ran, 1);
  EXPECT_TRUE(stream.query());
}

TEST(Stream, TheFirstFailureIsTheOneRaised) {
  WorkerStream& stream = new_stream();
  submit(stream, [] { throw std::runtime_error("first"); });
  submit(
      stream, [] {}, [] { throw std::runtime_error("while skipping"); });
  try {
    stream.synchronize();
    FAIL() << "nothing was raised";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "first");
  }
}

TEST(Stream, QueryRaisesAFailure) {
  WorkerStream& stream = new_stream();
  const uint64_t sequence = submit(stream, [] { throw std::runtime_error("fault"); });
  while (stream.completed() < sequence) std::this_thread::yield();
  EXPECT_THROW(stream.query(), std::runtime_error);
  EXPECT_TRUE(stream.query());
}

// What was queued behind a failure stays skipped after the failure has been raised at a wait for an
// earlier command: it was written against results that do not exist.
TEST(Stream, WorkQueuedBeforeTheReportNeverRuns) {
  WorkerStream& stream = new_stream();
  Gate gate;
  std::atomic<int> ran{0};
  const uint64_t failing = submit(stream, [] { throw std::runtime_error("fault"); });
  submit(
      stream, [] {}, [&] { gate.pass(); });
  submit(stream, [&] { ++ran; });
  EXPECT_THROW(stream.wait(failing), std::runtime_error);
  gate.open();
  stream.synchronize();
  EXPECT_EQ(ran, 0);
  submit(stream, [&] { ++ran; });
  stream.synchronize();
  EXPECT_EQ(ran, 1);
}

// The in-flight budget.

TEST(Stream, RoomRunsOutByCommandsAndByBytes) {
  for (const bool by_bytes : {false, true}) {
    WorkerStream& stream = new_stream();
    Gate gate;
    submit(stream, [&] { gate.pass(); });
    const size_t bytes = by_bytes ? kInFlightBytes / 4 : 0;
    const int fitting = by_bytes ? 4 : static_cast<int>(kInFlightCommands) - 1;
    for (int i = 0; i < fitting; ++i) {
      stream.submit(std::make_unique<FunctionCommand>([] {}, [] {}, bytes));
      stream.wait_for_room();
    }
    stream.submit(std::make_unique<FunctionCommand>([] {}, [] {}, bytes));
    std::atomic<bool> has_room{false};
    std::thread host([&] {
      stream.wait_for_room();
      has_room = true;
    });
    sleep_ms(30);
    EXPECT_FALSE(has_room);
    gate.open();
    host.join();
    stream.synchronize();
  }
}

TEST(Stream, OneCommandMayExceedTheBudget) {
  WorkerStream& stream = new_stream();
  Gate gate;
  stream.submit(std::make_unique<FunctionCommand>([&] { gate.pass(); }, [] {}, 2 * kInFlightBytes));
  stream.wait_for_room();
  gate.open();
  stream.synchronize();
}

// Python's side of a wait.

std::atomic<int> held{1};     // whether "the GIL" is held by the test's thread
std::atomic<int> signals{0};  // how often signals were asked for
std::atomic<bool> interrupt{false};

constexpr GilHooks kFakeHooks{[] {
                                held = 0;
                                return static_cast<void*>(&held);
                              },
                              [](void* state) { *static_cast<std::atomic<int>*>(state) = 1; },
                              [] {
                                ++signals;
                                if (interrupt) throw std::runtime_error("KeyboardInterrupt");
                              },
                              [] { return std::string("train.py:12"); }};

class Hooked {
 public:
  Hooked() { register_gil_hooks(&kFakeHooks); }
  ~Hooked() { register_gil_hooks(nullptr); }
};

TEST(Wait, ReleasesTheGil) {
  Hooked hooked;
  WorkerStream& stream = new_stream();
  int seen = -1;
  submit(stream, [&] {
    for (int i = 0; i < 1000 && held == 1; ++i) sleep_ms(1);
    seen = held;
  });
  stream.synchronize();
  EXPECT_EQ(seen, 0);
  EXPECT_EQ(held, 1);
  EXPECT_EQ(python_location(), "train.py:12");
}

TEST(Wait, IsEndedByCtrlC) {
  Hooked hooked;
  WorkerStream& stream = new_stream();
  Gate gate;
  submit(stream, [&] { gate.pass(); });
  interrupt = true;
  EXPECT_THROW(stream.synchronize(), std::runtime_error);
  interrupt = false;
  EXPECT_EQ(held, 1);
  EXPECT_EQ(waiting_hosts(), 0);
  gate.open();
  stream.synchronize();  // the work is still there
}

TEST(Wait, CountsByReason) {
  reset_wait_counts();
  count_wait("item");
  count_wait("item");
  new_stream().synchronize();
  const auto counts = wait_counts();
  EXPECT_EQ(counts.at("item"), 2u);
  EXPECT_EQ(counts.at("synchronize"), 1u);
  reset_wait_counts();
  EXPECT_TRUE(wait_counts().empty());
}

// Tails.

class FakeTail final : public Tail {
 public:
  explicit FakeTail(Stream& stream) : stream_(stream) {}
  void record() {
    last_ = steady_now();
    if (nodes_.fetch_add(1) == 0) stream_.notice_pending();
  }
  void hand_over() override {
    const int nodes = nodes_.exchange(0);
    if (nodes > 0) submit(stream_, [this, nodes] { ran_ += nodes; });
  }
  void hand_over_idle() override {
    ++taken_;
    idle_after_ = steady_now() - last_;
    if (fails) throw std::runtime_error("cannot plan");
    hand_over();
  }
  bool pending() const override {
    ++looked_;
    return nodes_ > 0;
  }
  int64_t last_recorded() const override { return last_; }

  std::atomic<bool> fails{false};
  std::atomic<int> nodes_{0}, ran_{0}, taken_{0};
  mutable std::atomic<int> looked_{0};
  std::atomic<int64_t> last_{0}, idle_after_{0};

 private:
  Stream& stream_;
};

class TailTest : public ::testing::Test {
 protected:
  TailTest() {
    const TailFactory recorders = register_tail_factory(
        [](Stream& of) -> std::unique_ptr<Tail> { return std::make_unique<FakeTail>(of); });
    stream = &new_stream();
    tail = static_cast<FakeTail*>(stream->tail());
    register_tail_factory(recorders);
  }
  WorkerStream* stream;
  FakeTail* tail;
};

TEST_F(TailTest, AnIdleWorkerTakesTheTail) {
  for (int turn = 0; turn < 3; ++turn) {
    const int before = tail->taken_;
    tail->record();
    for (int i = 0; i < 2000 && tail->ran_ <= turn; ++i) sleep_ms(1);
    EXPECT_EQ(tail->ran_, turn + 1);
    EXPECT_EQ(tail->taken_, before + 1);
    EXPECT_GE(tail->idle_after_, 1'000'000);
    sleep_ms(turn == 0 ? 0 : 20);  // dozing, and then asleep without a timer
  }
}

TEST_F(TailTest, ARecordingHostIsLeftAlone) {
  const int64_t end = steady_now() + 20'000'000;
  while (steady_now() < end) tail->record();
  // Scheduling may take the host away for a millisecond, but not all the time.
  EXPECT_LE(tail->taken_, 10);
  stream->synchronize();
}

TEST_F(TailTest, AnIdleStreamNeverWakesUp) {
  tail->record();
  stream->synchronize();
  sleep_ms(30);
  const int looked = tail->looked_;
  sleep_ms(50);
  EXPECT_EQ(tail->looked_, looked);
}

TEST_F(TailTest, SynchronizeAndQueryHandOver) {
  tail->record();
  stream->synchronize();
  EXPECT_EQ(tail->ran_, 1);
  tail->record();
  while (!stream->query()) std::this_thread::yield();
  EXPECT_EQ(tail->ran_, 2);
}

TEST_F(TailTest, AFailureToTakeTheTailIsRaisedAtTheNextWait) {
  tail->fails = true;
  tail->record();
  while (tail->taken_ == 0) sleep_ms(1);
  tail->fails = false;
  sleep_ms(1);
  EXPECT_THROW(stream->synchronize(), std::runtime_error);
  stream->synchronize();
}

TEST_F(TailTest, AnEventHandsOver) {
  tail->record();
  Event event;
  event.record(*stream);
  event.synchronize();
  EXPECT_EQ(tail->ran_, 1);
}

// Recording hosts against idle workers, to shake out lost wake-ups: every turn has to end.
TEST_F(TailTest, NoWakeUpIsLost) {
  std::mt19937 random(5);
  for (int turn = 0; turn < 300; ++turn) {
    tail->record();
    if (turn % 3 == 0) {
      stream->synchronize();
    } else {
      for (int i = 0; i < 5000 && tail->nodes_ > 0; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
      }
    }
    ASSERT_EQ(tail->nodes_, 0) << turn;
  }
}

// Events.

TEST(Events, OneStreamWaitsForAnother) {
  WorkerStream& first = new_stream();
  WorkerStream& second = new_stream();
  Gate gate;
  int value = 0;
  int seen = -1;
  submit(first, [&] {
    gate.pass();
    value = 5;
  });
  Event event;
  EXPECT_TRUE(event.query());
  event.record(first);
  event.block(second);
  submit(second, [&] { seen = value; });
  sleep_ms(20);  // long enough for a second stream that does not wait
  EXPECT_FALSE(event.query());
  EXPECT_FALSE(second.query());
  gate.open();
  second.synchronize();
  EXPECT_EQ(seen, 5);
  EXPECT_TRUE(event.query());
}

TEST(Events, AWaitIsForTheLatestRecording) {
  WorkerStream& first = new_stream();
  WorkerStream& second = new_stream();
  Gate gate;
  Event event;
  event.record(first);
  event.block(second);
  submit(first, [&] { gate.pass(); });
  event.record(first);
  second.synchronize();  // waited for the first recording only
  EXPECT_FALSE(event.query());
  gate.open();
  event.synchronize();
  EXPECT_TRUE(event.query());
}

TEST(Events, CompleteBehindAFailureAndRaiseIt) {
  WorkerStream& first = new_stream();
  WorkerStream& second = new_stream();
  submit(first, [] { throw std::runtime_error("fault"); });
  Event event;
  event.record(first);
  event.block(second);
  // What the second would do with the results of the first is skipped as well.
  bool ran = false;
  submit(second, [&] { ran = true; });
  EXPECT_THROW(second.synchronize(), std::runtime_error);
  EXPECT_FALSE(ran);
  submit(second, [&] { ran = true; });
  second.synchronize();
  EXPECT_TRUE(ran);
}

TEST(Events, CrossedWaitsEnd) {
  WorkerStream& first = new_stream();
  WorkerStream& second = new_stream();
  std::vector<Event> events(200);
  for (size_t i = 0; i < events.size(); ++i) {
    events[i].record(i % 2 == 0 ? first : second);
    events[i].block(i % 2 == 0 ? second : first);
  }
  first.synchronize();
  second.synchronize();
}

TEST(Events, MeasureTime) {
  const c10::Stream stream = to_c10(stream_from_pool(0, 0));
  c10::Event start(c10::kPrivateUse1, c10::EventFlag::BACKEND_DEFAULT);
  c10::Event end(c10::kPrivateUse1, c10::EventFlag::BACKEND_DEFAULT);
  start.record(stream);
  submit(stream_of(stream), [] { sleep_ms(20); });
  end.record(stream);
  end.synchronize();
  EXPECT_GE(start.elapsedTime(end), 20.0);
  EXPECT_LE(start.elapsedTime(end), 2000.0);
}

// The registry, as PyTorch uses it.

TEST(Streams, PoolsAndCurrentStreams) {
  Stream& normal = stream_from_pool(0, 0);
  Stream& high = stream_from_pool(0, -1);
  EXPECT_EQ(normal.priority(), 0);
  EXPECT_EQ(high.priority(), -1);
  EXPECT_NE(normal.id(), high.id());
  EXPECT_EQ(default_stream(0).id(), 0);
  EXPECT_EQ(&stream_of(to_c10(high)), &high);
  std::set<c10::StreamId> ids;
  for (int i = 0; i < 64; ++i) ids.insert(stream_from_pool(0, 0).id());
  EXPECT_EQ(ids.size(), 32u);

  c10::impl::VirtualGuardImpl guard(c10::kPrivateUse1);
  const c10::Stream previous = guard.exchangeStream(to_c10(normal));
  EXPECT_EQ(previous.id(), 0);
  EXPECT_EQ(&current_stream(0), &normal);
  std::thread([] { EXPECT_EQ(current_stream(0).id(), 0); }).join();
  guard.exchangeStream(previous);
  EXPECT_EQ(current_stream(0).id(), 0);
  EXPECT_THROW(set_current_device(device_count()), c10::Error);
  EXPECT_THROW(stream_of(c10::Stream(c10::Stream::UNSAFE, previous.device(), 1000)), c10::Error);
}

TEST(Streams, ADeviceWaitsForAllItsStreams) {
  std::atomic<int> ran{0};
  for (int i = 0; i < 5; ++i) {
    submit(stream_from_pool(0, 0), [&] {
      sleep_ms(5);
      ++ran;
    });
  }
  synchronize_device(0);
  EXPECT_EQ(ran, 5);
}

TEST(Streams, ShutdownRunsWhatIsQueuedAndCanBeFollowedByWork) {
  Stream& stream = stream_from_pool(0, 0);
  std::atomic<int> ran{0};
  for (int i = 0; i < 10; ++i) {
    submit(stream, [&] {
      sleep_ms(1);
      ++ran;
    });
  }
  shutdown();
  EXPECT_EQ(ran, 10);
  submit(stream, [&] { ++ran; });
  stream.synchronize();
  EXPECT_EQ(ran, 11);
}

TEST(Streams, ShutdownDoesNotHangOnAStuckCommand) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Stream& stream = stream_from_pool(0, 0);
        submit(stream, [] { sleep_ms(60'000); });
        std::exit(3);
      },
      ::testing::ExitedWithCode(3), "");
}

// PyTorch's bindings often let go of the GIL before a wait begins: on the main thread Ctrl-C counts
// all the same, elsewhere Python would not run its handler.
TEST(Wait, IsEndedByCtrlCOnTheMainThreadWithoutTheGil) {
  static constexpr GilHooks kWithoutGil{[] { return static_cast<void*>(nullptr); }, [](void*) {},
                                        kFakeHooks.check_signals, kFakeHooks.location};
  register_gil_hooks(&kWithoutGil);
  WorkerStream& stream = new_stream();
  Gate gate;
  submit(stream, [&] { gate.pass(); });
  interrupt = true;
  EXPECT_THROW(stream.synchronize(), std::runtime_error);
  std::atomic<bool> returned{false};
  std::thread host([&] {
    stream.synchronize();
    returned = true;
  });
  sleep_ms(120);
  EXPECT_FALSE(returned);
  gate.open();
  host.join();
  interrupt = false;
  register_gil_hooks(nullptr);
}

TEST(Team, FollowsTheMainThread) {
  const int before = at::get_num_threads();
  WorkerStream& stream = new_stream();
  submit(stream, [] {});
  at::set_num_threads(before + 2);
  submit(stream, [] {});
  EXPECT_EQ(full_team(), before + 2);
  at::set_num_threads(before);
  submit(stream, [] {});
  EXPECT_EQ(full_team(), before);
  stream.synchronize();
}

TEST(Team, IsAsWideAsTheHostAllows) {
  const int before = full_team();
  set_full_team(4);
  EXPECT_EQ(elastic_team(steady_now()), 3);
  EXPECT_EQ(elastic_team(steady_now() - 10'000'000), 4);
  {
    WaitGuard guard;
    EXPECT_EQ(elastic_team(steady_now()), 4);
  }
  set_full_team(1);
  EXPECT_EQ(elastic_team(steady_now()), 1);
  set_full_team(before);
}

}  // namespace
}  // namespace accel::runtime
