// Device and pinned memory as PyTorch uses it: out of memory, DataPtrs, guarded memory, forks.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <csignal>
#include <cstring>
#include <memory>
#include <string>

#include "csrc/runtime/address.h"
#include "csrc/runtime/allocator.h"
#include "csrc/runtime/driver.h"
#include "csrc/runtime/event.h"
#include "csrc/runtime/generator.h"
#include "csrc/runtime/pinned.h"
#include "csrc/runtime/process.h"
#include "csrc/runtime/stream.h"

namespace accel::runtime {
namespace {

c10::DeviceAllocator& allocator() { return *c10::getDeviceAllocator(c10::kPrivateUse1); }

// A command that only holds a Block, as a queued Segment does.
class HoldCommand final : public Command {
 public:
  HoldCommand(Block* block, int milliseconds) : block_(block), milliseconds_(milliseconds) {}
  void run() override { usleep(static_cast<useconds_t>(1000 * milliseconds_)); }

 private:
  BlockReference block_;
  int milliseconds_;
};

// Leaves the allocator `bytes` for new arenas while it lives.
class Room {
 public:
  explicit Room(size_t bytes) {
    empty_cache();
    const auto [free, total] = memory_info(0);
    set_memory_fraction(0, static_cast<double>(total - free + bytes) / static_cast<double>(total));
  }
  ~Room() { set_memory_fraction(0, 1.0); }
};

TEST(DeviceMemory, TensorsShowDeviceAddresses) {
  c10::DataPtr data = allocator().allocate(1000);
  EXPECT_EQ(data.device(), c10::Device(c10::kPrivateUse1, 0));
  Block* block = block_of(data);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(block->address, data.get());
  EXPECT_EQ(device_of(data.get()), 0);
  EXPECT_EQ(find_block(static_cast<char*>(data.get()) + 999).get(), block);
  std::memset(host_pointer(data.get()), 1, 1000);
  EXPECT_EQ(device_pointer(host_pointer(data.get())), data.get());
  EXPECT_EQ(host_pointer(nullptr), nullptr);
  EXPECT_EQ(at::detail::getPrivateUse1Hooks().getDeviceFromPtr(data.get()), data.device());
}

TEST(DeviceMemory, ZeroBytesHaveAnEmptyDataPtr) {
  c10::DataPtr data = allocator().allocate(0);
  EXPECT_EQ(data.get(), nullptr);
  EXPECT_EQ(data.device(), c10::Device(c10::kPrivateUse1, 0));
  EXPECT_EQ(block_of(data), nullptr);
  int local = 0;
  EXPECT_EQ(block_of(c10::DataPtr(&local, c10::Device(c10::kCPU))), nullptr);
  EXPECT_EQ(device_of(&local), kHost);
  EXPECT_EQ(host_pointer(&local), &local);
}

TEST(DeviceMemory, OutOfMemoryTellsTheFiguresAndPasses) {
  const size_t mebibyte = size_t{1} << 20;
  Room room(100 * mebibyte);
  c10::DataPtr kept = allocator().allocate(60 * mebibyte);
  const auto before = memory_stats(0);
  try {
    allocator().allocate(50 * mebibyte);
    FAIL() << "nothing was raised";
  } catch (const c10::OutOfMemoryError& error) {
    const std::string text = error.what_without_backtrace();
    EXPECT_NE(text.find("accel out of memory. Tried to allocate 50.00 MiB."), std::string::npos)
        << text;
    EXPECT_NE(text.find("accel:0 has a total capacity of"), std::string::npos) << text;
    EXPECT_NE(text.find("of which 40.00 MiB is free"), std::string::npos) << text;
  }
  const auto after = memory_stats(0);
  EXPECT_EQ(after.num_ooms, before.num_ooms + 1);
  EXPECT_EQ(after.allocated_bytes[0].current, before.allocated_bytes[0].current);
  EXPECT_THROW(allocator().allocate(size_t{1} << 60), c10::OutOfMemoryError);
  EXPECT_NE(allocator().allocate(39 * mebibyte).get(), nullptr);
}

TEST(DeviceMemory, FullMemoryWaitsForWorkInFlight) {
  const size_t mebibyte = size_t{1} << 20;
  Room room(64 * mebibyte);
  c10::DataPtr data = allocator().allocate(64 * mebibyte);
  default_stream(0).submit(std::make_unique<HoldCommand>(block_of(data), 20));
  data.clear();
  EXPECT_NE(allocator().allocate(64 * mebibyte).get(), nullptr);
}

TEST(DeviceMemory, FullMemoryGivesUpCachedArenas) {
  const size_t mebibyte = size_t{1} << 20;
  Room room(64 * mebibyte);
  allocator().allocate(40 * mebibyte);
  EXPECT_EQ(memory_stats(0).allocated_bytes[2].current, 0);
  EXPECT_NE(allocator().allocate(60 * mebibyte).get(), nullptr);
}

TEST(DeviceMemory, FiguresFollowTensorsNotWork) {
  synchronize_device(0);
  const int64_t before = memory_stats(0).allocated_bytes[0].current;
  c10::DataPtr data = allocator().allocate(4096);
  default_stream(0).submit(std::make_unique<HoldCommand>(block_of(data), 20));
  data.clear();
  EXPECT_EQ(memory_stats(0).allocated_bytes[0].current, before);
  EXPECT_EQ(memory_stats(0).active_bytes[0].current, before + 4096);
  synchronize_device(0);
  EXPECT_EQ(memory_stats(0).active_bytes[0].current, before);
}

TEST(PinnedMemory, IsKnownByAnyOfItsAddresses) {
  const auto& hooks = at::detail::getPrivateUse1Hooks();
  at::Allocator* pinned = hooks.getPinnedMemoryAllocator();
  c10::DataPtr data = pinned->allocate(10'000);
  EXPECT_EQ(data.device(), c10::Device(c10::kCPU));
  std::memset(data.get(), 1, 10'000);
  EXPECT_TRUE(hooks.isPinnedPtr(data.get()));
  EXPECT_TRUE(hooks.isPinnedPtr(static_cast<char*>(data.get()) + 9'999));
  EXPECT_EQ(host_pointer(data.get()), data.get());
  ASSERT_NE(block_of(data), nullptr);
  EXPECT_EQ(block_of(data)->device, kHost);
  EXPECT_EQ(find_block(data.get()).get(), block_of(data));
  int local = 0;
  EXPECT_FALSE(hooks.isPinnedPtr(&local));
  EXPECT_THROW(hooks.getDeviceFromPtr(&local), c10::Error);
}

TEST(PinnedMemory, RecordedEventsKeepIt) {
  auto* pinned = at::getHostAllocator(c10::kPrivateUse1);
  Stream& stream = stream_from_pool(0, 0);
  c10::DataPtr hold = allocator().allocate(64);
  stream.submit(std::make_unique<HoldCommand>(block_of(hold), 20));
  c10::DataPtr data = pinned->allocate(10'000);
  void* address = data.get();
  EXPECT_TRUE(pinned->record_event(address, data.get_context(), to_c10(stream)));
  data.clear();
  EXPECT_NE(pinned->allocate(10'000).get(), address);
  stream.synchronize();
  EXPECT_EQ(pinned->allocate(10'000).get(), address);
}

// In a process of its own, so that the variables are read and nothing is in use yet.
class FreshProcess : public ::testing::Test {
 protected:
  FreshProcess() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};
using FreshProcessDeathTest = FreshProcess;

TEST_F(FreshProcessDeathTest, GuardedAddressesAreInaccessible) {
  EXPECT_EXIT(
      {
        setenv("ACCEL_MEMORY", "guarded", 1);
        c10::DataPtr data = allocator().allocate(size_t{5} << 20);
        auto* kernels_view = static_cast<char*>(host_pointer(data.get()));
        if (kernels_view == data.get()) std::exit(1);
        std::memset(kernels_view, 1, size_t{5} << 20);
        if (device_pointer(kernels_view) != data.get()) std::exit(2);
        // Given back and reserved anew, memory is zero again.
        data.clear();
        empty_cache();
        data = allocator().allocate(size_t{5} << 20);
        if (*static_cast<char*>(host_pointer(data.get())) != 0) std::exit(3);
        std::fprintf(stderr, "peeking\n");
        std::signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would end it otherwise
        std::exit(*static_cast<volatile char*>(data.get()));
      },
      ::testing::KilledBySignal(SIGSEGV), "peeking");
}

TEST_F(FreshProcessDeathTest, VariablesSizeTheDevice) {
  EXPECT_EXIT(
      {
        setenv("ACCEL_DEVICE_COUNT", "3", 1);
        setenv("ACCEL_MEMORY_CAPACITY", "96M", 1);
        if (device_count() != 3) std::exit(1);
        if (driver().properties(2).total_memory != size_t{96} << 20) std::exit(2);
        if (memory_info(1).first != size_t{96} << 20) std::exit(3);
        set_current_device(2);
        if (block_of(allocator().allocate(100))->device != 2) std::exit(4);
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(
      {
        const size_t whole = driver().properties(0).total_memory;
        std::exit(whole > (size_t{256} << 20) ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(
      {
        setenv("ACCEL_MEMORY_CAPACITY", "much", 1);
        std::exit(driver().properties(0).total_memory > 0 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "ACCEL_MEMORY_CAPACITY=much is ignored");
}

// Runs `body` in a forked child and returns its exit code.
template <typename Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

template <typename Use>
bool says_bad_fork(Use use) {
  try {
    use();
  } catch (const c10::Error& error) {
    return std::string(error.what_without_backtrace())
               .find(
                   "Cannot re-initialize accel in forked subprocess. To use accel with "
                   "multiprocessing, you must use the 'spawn' start method") == 0;
  }
  return false;
}

TEST(Fork, AChildOfAUserSaysSoAndDropsQuietly) {
  auto data = std::make_unique<c10::DataPtr>(allocator().allocate(1000));
  auto pinned = at::getHostAllocator(c10::kPrivateUse1)->allocate(1000);
  std::memset(pinned.get(), 7, 1000);
  BlockReference held(block_of(*data));
  synchronize_device(0);
  const int code = in_child([&] {
    if (!in_bad_fork()) return 1;
    if (!says_bad_fork([] { allocator().allocate(10); })) return 2;
    if (!says_bad_fork([] { default_stream(0).synchronize(); })) return 3;
    if (!says_bad_fork([] { stream_from_pool(0, 0); })) return 4;
    if (!says_bad_fork([] { Event().record(default_stream(0)); })) return 5;
    if (!says_bad_fork([] { at::detail::getPrivateUse1Hooks().init(); })) return 6;
    if (!says_bad_fork([&] { default_stream(0).submit(nullptr); })) return 7;
    if (at::detail::getPrivateUse1Hooks().isPinnedPtr(pinned.get())) return 8;
    if (static_cast<char*>(pinned.get())[999] != 7) return 9;
    held = BlockReference();
    data.reset();
    pinned.clear();
    shutdown();
    return 0;
  });
  EXPECT_EQ(code, 0);
  EXPECT_FALSE(in_bad_fork());
  EXPECT_NE(allocator().allocate(10).get(), nullptr);
}

TEST_F(FreshProcessDeathTest, AChildOfANonUserMayUseTheDevice) {
  EXPECT_EXIT(
      {
        if (!at::detail::getPrivateUse1Hooks().isAvailable()) std::exit(1);
        std::exit(in_child([] {
          if (in_bad_fork()) return 2;
          c10::DataPtr data = allocator().allocate(1000);
          default_stream(0).submit(std::make_unique<HoldCommand>(block_of(data), 1));
          synchronize_device(0);
          return 0;
        }));
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(FreshProcessDeathTest, ExitWithWorkQueuedIsClean) {
  EXPECT_EXIT(
      {
        static c10::DataPtr outlives_main = allocator().allocate(1000);
        for (int i = 0; i < 30; ++i) {
          default_stream(0).submit(std::make_unique<HoldCommand>(block_of(outlives_main), 1));
        }
        std::exit(5);
      },
      ::testing::ExitedWithCode(5), "");
}

TEST(Generator, ReservesCountersAndRoundTrips) {
  at::Generator generator = new_generator(0);
  auto& philox = *generator.get<Generator>();
  generator.set_current_seed(123);
  for (const auto& [counters, first] : {std::pair{10u, 0u}, {5u, 10u}}) {
    const auto [seed, offset] = philox.random_state()->reserve(counters);
    EXPECT_EQ(seed, 123u);
    EXPECT_EQ(offset, first);
  }
  const auto state = philox.get_state();
  EXPECT_EQ(state->numel(), 16);
  at::Generator copy = generator.clone();
  generator.set_current_seed(7);
  EXPECT_EQ(generator.get_offset(), 0u);
  philox.set_state(*state);
  EXPECT_EQ(generator.current_seed(), 123u);
  EXPECT_EQ(generator.get_offset(), 15u);
  EXPECT_EQ(copy.get_offset(), 15u);
  EXPECT_EQ(copy.current_seed(), 123u);
  // One state for two, until one of them takes another's.
  at::Generator shared = generator.graphsafe_get_state();
  philox.random_state()->reserve(1);
  EXPECT_EQ(shared.get_offset(), 16u);
  shared.graphsafe_set_state(copy);
  EXPECT_EQ(shared.get_offset(), 15u);
  EXPECT_EQ(generator.get_offset(), 16u);
  const auto& hooks = at::detail::getPrivateUse1Hooks();
  EXPECT_EQ(hooks.getDefaultGenerator(-1), hooks.getDefaultGenerator(0));
  EXPECT_NE(hooks.getNewGenerator(0), hooks.getDefaultGenerator(0));
}

}  // namespace
}  // namespace accel::runtime
