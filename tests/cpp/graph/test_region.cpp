// Regions: what was captured runs again over other memory, and temporaries that share a place never
// meet.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <random>

#include "csrc/graph/recorder.h"
#include "csrc/graph/region.h"
#include "csrc/runtime/address.h"
#include "csrc/runtime/allocator.h"
#include "csrc/runtime/generator.h"

namespace accel::graph {
namespace {

constexpr auto kFloat = static_cast<uint64_t>(DType::Float32);

// A dense fp32 vector in device memory, dead to the user when the object goes.
class Vector {
 public:
  explicit Vector(int64_t size)
      : size_(size),
        block_(runtime::allocate_block(static_cast<size_t>(size) * sizeof(float), 0),
               runtime::delete_block) {}

  Block* block() const { return block_.get(); }
  int64_t size() const { return size_; }
  ViewSpec view() const { return {block_.get(), DType::Float32, 1, &size_, &kStride, 0}; }
  float* data() const { return reinterpret_cast<float*>(runtime::host_pointer(block_->address)); }
  void fill(const std::vector<float>& values) const {
    std::copy(values.begin(), values.end(), data());
  }
  std::vector<float> values() const { return {data(), data() + size_}; }

 private:
  static constexpr int64_t kStride = 1;
  int64_t size_;
  std::unique_ptr<Block, void (*)(void*)> block_;
};

runtime::Stream& captured_stream() { return runtime::capture_stream(0); }
Recorder& recorder() { return *static_cast<Recorder*>(captured_stream().tail()); }

void record(Opcode opcode, const Vector& out, std::initializer_list<const Vector*> in,
            std::vector<uint64_t> attributes, std::vector<Scalar> scalars = {},
            std::vector<RandomScalars> random = {}) {
  const ViewSpec output = out.view();
  std::vector<ViewSpec> inputs;
  for (const Vector* vector : in) inputs.push_back(vector->view());
  NodeSpec node{opcode, {&output, 1}, inputs, attributes, scalars, random};
  recorder().record(node);
}

void add(const Vector& out, const Vector& a, const Vector& b) {
  record(Opcode::Add, out, {&a, &b}, {kFloat, 1});
}

void run(const Region& region, std::vector<Region::Given> given) {
  runtime::Stream& stream = runtime::default_stream(0);
  region.run(stream, given);
  stream.synchronize();
}

TEST(Region, RunsOverTheMemoryOfEachRun) {
  const Vector x(100), y(100);
  RegionCapture capture(captured_stream());
  add(y, x, x);
  const auto region = capture.finish(std::vector{x.block(), y.block()});
  for (float value : {1.0f, 2.5f}) {
    const Vector in(100), out(100);
    in.fill(std::vector<float>(100, value));
    run(*region, {{in.block()}, {out.block()}});
    EXPECT_EQ(out.values(), std::vector<float>(100, 2 * value));
  }
  EXPECT_EQ(region->workspace(), 0u);
}

TEST(Region, AShiftMovesAllViewsOfTheBlock) {
  const Vector x(4), y(4);
  RegionCapture capture(captured_stream());
  add(y, x, x);
  const auto region = capture.finish(std::vector{x.block(), y.block()});
  const Vector in(8), out(4);
  in.fill({1, 2, 3, 4, 5, 6, 7, 8});
  run(*region, {{in.block(), 3 * sizeof(float)}, {out.block()}});
  EXPECT_EQ(out.values(), (std::vector<float>{8, 10, 12, 14}));
}

TEST(Region, KeepsWhatTheUserHolds) {
  const Vector constant(4), out(4);
  constant.fill({1, 2, 3, 4});
  RegionCapture capture(captured_stream());
  add(out, constant, constant);
  const auto region = capture.finish({});
  run(*region, {});
  EXPECT_EQ(out.values(), (std::vector<float>{2, 4, 6, 8}));
  constant.fill({5, 6, 7, 8});
  run(*region, {});
  EXPECT_EQ(out.values(), (std::vector<float>{10, 12, 14, 16}));
}

TEST(Region, KeepsWhatTheHostFilledDuringTheCapture) {
  const Vector out(4);
  RegionCapture capture(captured_stream());
  {
    const Vector constant(4);
    constant.block()->filled_by_host = true;
    constant.fill({1, 2, 3, 4});
    add(out, constant, constant);
  }
  const auto region = capture.finish(std::vector{out.block()});
  const Vector other(4);
  run(*region, {{other.block()}});
  EXPECT_EQ(other.values(), (std::vector<float>{2, 4, 6, 8}));
}

TEST(Region, KeepsWhatAnEarlierCaptureMade) {
  const Vector x(4), out(4);
  x.fill({1, 2, 3, 4});
  std::shared_ptr<const Region> first, second;
  {
    const Vector between(4);
    RegionCapture capture(captured_stream());
    add(between, x, x);
    first = capture.finish({});
    RegionCapture other(captured_stream());
    add(out, between, between);
    Vector scratch(4);
    add(scratch, out, out);
    second = other.finish({});
  }
  run(*first, {});
  run(*second, {});
  EXPECT_EQ(out.values(), (std::vector<float>{4, 8, 12, 16}));
}

TEST(Region, EachRunDrawsNumbersOfItsOwn) {
  auto& generator = *at::check_generator<runtime::Generator>(runtime::default_generator(0));
  const auto& state = generator.random_state();
  auto draw = [&](const Vector& out) {
    const auto [seed, offset] = state->reserve(16);
    Scalar scalars[4];
    scalars[0].i = static_cast<int64_t>(seed);
    scalars[1].i = static_cast<int64_t>(offset);
    scalars[2].d = 0;
    scalars[3].d = 1;
    record(Opcode::Uniform, out, {}, {kFloat}, {scalars, scalars + 4}, {{0, state}});
  };
  generator.random_state()->reserve(100);
  const uint64_t before = generator.get_offset();
  const Vector x(64), y(64);
  RegionCapture capture(captured_stream());
  draw(x);
  draw(y);
  const auto region = capture.finish(std::vector{x.block(), y.block()});
  EXPECT_EQ(generator.get_offset(), before);
  const Vector a(64), b(64), c(64), d(64), e(64), f(64);
  run(*region, {{a.block()}, {b.block()}});
  run(*region, {{c.block()}, {d.block()}});
  EXPECT_EQ(generator.get_offset(), before + 64);
  generator.set_offset(before);
  run(*region, {{e.block()}, {f.block()}});
  EXPECT_EQ(a.values(), e.values());
  EXPECT_EQ(b.values(), f.values());
  EXPECT_NE(a.values(), b.values());
  EXPECT_NE(a.values(), c.values());
}

TEST(Region, AnAbandonedCaptureLeavesNoTrace) {
  auto& generator = *at::check_generator<runtime::Generator>(runtime::default_generator(0));
  const uint64_t before = generator.get_offset();
  const Vector x(4);
  x.fill({1, 2, 3, 4});
  {
    RegionCapture capture(captured_stream());
    add(x, x, x);
    generator.random_state()->reserve(5);
  }
  captured_stream().synchronize();
  EXPECT_EQ(generator.get_offset(), before);
  EXPECT_EQ(x.values(), (std::vector<float>{1, 2, 3, 4}));
}

TEST(Region, WhatIsCapturedDoesNotRunAndCannotBeWaitedFor) {
  const Vector x(4), y(4);
  x.fill({1, 2, 3, 4});
  y.fill({0, 0, 0, 0});
  recorder().begin_capture();
  add(y, x, x);
  EXPECT_ANY_THROW(recorder().begin_capture());
  runtime::Stream& before = runtime::current_stream(0);
  runtime::set_current_stream(captured_stream());
  EXPECT_ANY_THROW(wait_for(*y.block(), "item"));
  runtime::set_current_stream(before);
  recorder().end_capture();
  captured_stream().synchronize();
  EXPECT_EQ(y.values(), (std::vector<float>{0, 0, 0, 0}));
  EXPECT_ANY_THROW(recorder().end_capture());
}

int64_t held_bytes() { return runtime::memory_stats(0).active_bytes[0].current; }

// How much memory is held at most while `action` runs, beyond what is held before.
int64_t peak_of(const std::function<void()>& action) {
  const int64_t before = held_bytes();
  runtime::reset_peak_memory_stats(0);
  action();
  return runtime::memory_stats(0).active_bytes[0].peak - before;
}

class Donation : public ::testing::Test {
 protected:
  void SetUp() override { set_fusion_enabled(false); }
  void TearDown() override { set_fusion_enabled(before_); }

  // out = 2^7 x, through six temporaries: two at a time, the first beside x, the last beside out.
  std::shared_ptr<const Region> chain() {
    const Vector x(kSize), out(kSize);
    RegionCapture capture(captured_stream());
    std::vector<Vector> between;
    for (int i = 0; i < 6; ++i) between.emplace_back(kSize);
    add(between[0], x, x);
    for (size_t i = 0; i < 5; ++i) add(between[i + 1], between[i], between[i]);
    add(out, between[5], between[5]);
    between.clear();
    return capture.finish(std::vector{x.block(), out.block()});
  }

  // An input as work on the default stream leaves it.
  static std::unique_ptr<Vector> input() {
    auto x = std::make_unique<Vector>(kSize);
    x->fill(std::vector<float>(kSize, 1));
    x->block()->writer = runtime::default_stream(0).tail();
    return x;
  }

  // Runs the chain after the user has let go of the input.
  static int64_t run_without(const Region& region, std::unique_ptr<Vector> x) {
    const Vector out(kSize);
    const runtime::BlockReference held(x->block(), runtime::default_stream(0).tail());
    x.reset();
    const int64_t peak = peak_of([&] { run(region, {{held.get()}, {out.block()}}); });
    EXPECT_EQ(out.values(), std::vector<float>(kSize, 128));
    return peak;
  }

  static constexpr int64_t kSize = 5000;
  const bool before_ = fusion_enabled();
};

TEST_F(Donation, TemporariesLieInOutputsNotWrittenYet) {
  const auto region = chain();
  EXPECT_LE(region->workspace(), kSize * sizeof(float) + 64);  // two at a time, one in `out`
}

TEST_F(Donation, ADeadInputTakesThePlaceOfAWorkspace) {
  const auto region = chain();
  for (int turn = 0; turn < 3; ++turn) EXPECT_EQ(run_without(*region, input()), 0);
}

TEST_F(Donation, AnInputThatTheUserHoldsStays) {
  const auto region = chain();
  const auto x = input();
  const Vector out(kSize);
  EXPECT_GT(peak_of([&] { run(*region, {{x->block()}, {out.block()}}); }), 0);
  EXPECT_EQ(out.values(), std::vector<float>(kSize, 128));
  EXPECT_EQ(x->values(), std::vector<float>(kSize, 1));
}

TEST_F(Donation, AnInputThatSomebodyElseHoldsStays) {
  const auto region = chain();
  auto x = input();
  const runtime::BlockReference elsewhere(x->block());  // as a captured graph holds it
  EXPECT_GT(run_without(*region, std::move(x)), 0);
}

TEST_F(Donation, AnInputOfAnotherStreamStays) {
  const auto region = chain();
  auto x = input();
  x->block()->writer = captured_stream().tail();
  EXPECT_GT(run_without(*region, std::move(x)), 0);
  // And one that another stream has read.
  x = input();
  {
    const Vector other(kSize);
    const ViewSpec out = other.view(), in[2] = {x->view(), x->view()};
    const uint64_t attributes[] = {kFloat, 1};
    NodeSpec node{Opcode::Add, {&out, 1}, in, attributes};
    runtime::Stream& side = runtime::stream_from_pool(0, 0);
    static_cast<Recorder*>(side.tail())->record(node);
    side.synchronize();
  }
  EXPECT_GT(run_without(*region, std::move(x)), 0);
}

// What a run makes itself: a backward in small.
class MadeOutputs : public Donation {
 protected:
  // Two outputs after the input has been read, a third before: 2 x, then 4 x and 8 x.
  std::shared_ptr<const Region> outputs() {
    const Vector x(kLarge), first(kLarge), second(kLarge / 2), third(kLarge / 2);
    RegionCapture capture(captured_stream());
    add(first, x, x);
    record(Opcode::Add, second, {&half_, &half_}, {kFloat, 1});
    record(Opcode::Add, third, {&second, &second}, {kFloat, 1});
    return capture.finish(std::vector{x.block(), first.block(), second.block(), third.block()});
  }

  static constexpr int64_t kLarge = 2 << 20;
  const Vector half_{kLarge / 2};
};

TEST_F(MadeOutputs, LargeOnesTakeThePlaceOfADeadInput) {
  half_.fill(std::vector<float>(kLarge / 2, 3));
  const auto region = outputs();
  runtime::Stream& stream = runtime::default_stream(0);
  for (int turn = 0; turn < 3; ++turn) {
    const int64_t before = held_bytes();
    auto x = std::make_unique<Vector>(kLarge);
    x->fill(std::vector<float>(kLarge, 1));
    x->block()->writer = stream.tail();
    runtime::BlockReference held(x->block(), stream.tail());
    const char* address = x->block()->address;
    x.reset();
    constexpr size_t kBytes = kLarge * sizeof(float);
    std::vector<Region::Given> given = {
        {held.get()}, {nullptr, 0, kBytes}, {nullptr, 0, kBytes / 2}, {nullptr, 0, kBytes / 2 - 4}};
    const int64_t peak = peak_of([&] {
      region->run(stream, given);
      stream.synchronize();
    });
    EXPECT_EQ(peak, static_cast<int64_t>(kBytes));  // the first, beside the input
    EXPECT_EQ(std::min(given[2].block->address, given[3].block->address), address);
    EXPECT_EQ(std::max(given[2].block->address, given[3].block->address), address + kBytes / 2);
    EXPECT_EQ(given[3].block->requested, kBytes / 2 - 4);
    held = {};
    const float expected[] = {2, 6, 12};
    for (size_t i = 1; i < 4; ++i) {
      const auto* values =
          static_cast<const float*>(runtime::host_pointer(given[i].block->address));
      for (size_t k = 0; k < given[i].bytes / sizeof(float); ++k) {
        ASSERT_EQ(values[k], expected[i - 1]) << i;
      }
    }
    // Any of them may go first.
    for (size_t i = 0; i < 3; ++i) {
      runtime::delete_block(given[1 + (i + static_cast<size_t>(turn)) % 3].block);
    }
    EXPECT_EQ(held_bytes(), before);
  }
}

TEST_F(MadeOutputs, HaveMemoryOfTheirOwnBesideAnInputThatLives) {
  const auto region = outputs();
  runtime::Stream& stream = runtime::default_stream(0);
  const Vector x(kLarge);
  x.fill(std::vector<float>(kLarge, 1));
  x.block()->writer = stream.tail();
  constexpr size_t kBytes = kLarge * sizeof(float);
  std::vector<Region::Given> given = {
      {x.block()}, {nullptr, 0, kBytes}, {nullptr, 0, kBytes / 2}, {nullptr, 0, kBytes / 2}};
  EXPECT_EQ(peak_of([&] {
              region->run(stream, given);
              stream.synchronize();
            }),
            static_cast<int64_t>(2 * kBytes));
  EXPECT_EQ(x.values(), std::vector<float>(kLarge, 1));
  for (size_t i = 1; i < 4; ++i) runtime::delete_block(given[i].block);
}

// Random programs of additions over vectors of three sizes, of which most are dropped on the way.
// Without fusion each of them passes through memory.
class RegionPrograms : public ::testing::TestWithParam<bool> {
  void SetUp() override {
    before_ = fusion_enabled();
    set_fusion_enabled(GetParam());
  }
  void TearDown() override { set_fusion_enabled(before_); }
  bool before_ = true;
};

TEST_P(RegionPrograms, TemporariesNeverMeet) {
  std::mt19937 random(0);
  auto pick = [&](size_t bound) { return random() % bound; };
  size_t shared = 0;
  for (int round = 0; round < 200; ++round) {
    struct Value {
      Vector vector;
      std::vector<float> expected;
    };
    std::map<int64_t, std::vector<Value>> values;  // by size
    for (int64_t size : {16, 300, 5000}) {
      Vector input(size);
      std::vector<float> content(static_cast<size_t>(size));
      for (float& value : content) value = static_cast<float>(pick(5));
      input.fill(content);
      values[size].push_back({std::move(input), content});
    }
    RegionCapture capture(captured_stream());
    size_t bytes = 0;
    for (int step = 0; step < 40; ++step) {
      auto group = std::next(values.begin(), static_cast<std::ptrdiff_t>(pick(values.size())));
      std::vector<Value>& those = group->second;
      const Value &a = those[pick(those.size())], &b = those[pick(those.size())];
      Vector out(group->first);
      bytes += out.block()->size;
      add(out, a.vector, b.vector);
      std::vector<float> expected = a.expected;
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += b.expected[i];
      those.push_back({std::move(out), std::move(expected)});
      // The first of each size is an input, which stays.
      if (those.size() > 3) {
        those.erase(those.begin() + 1 + static_cast<std::ptrdiff_t>(pick(those.size() - 1)));
      }
    }
    const auto region = capture.finish({});
    run(*region, {});
    for (const auto& [size, those] : values) {
      for (const Value& value : those) ASSERT_EQ(value.vector.values(), value.expected) << round;
    }
    EXPECT_LE(region->workspace(), bytes);
    shared += region->workspace() * 2 < bytes;
  }
  EXPECT_GT(shared, 190u);
}

INSTANTIATE_TEST_SUITE_P(Fusion, RegionPrograms, ::testing::Bool());

}  // namespace
}  // namespace accel::graph
