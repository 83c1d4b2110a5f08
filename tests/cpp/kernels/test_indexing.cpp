// Reading, writing and reducing by index against a plain walk over every point.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/indexing/indexing.h"

namespace accel::kernels {
namespace {

using Dims = std::vector<int64_t>;

// Small whole numbers, which float, double and bf16 hold exactly, as do their sums here.
double get(const char* at, DType dtype) {
  float f;
  switch (dtype) {
    case DType::Float64: {
      double value;
      std::memcpy(&value, at, 8);
      return value;
    }
    case DType::BFloat16: {
      uint16_t bits;
      std::memcpy(&bits, at, 2);
      const uint32_t wide = static_cast<uint32_t>(bits) << 16;
      std::memcpy(&f, &wide, 4);
      return f;
    }
    case DType::Int64: {
      int64_t value;
      std::memcpy(&value, at, 8);
      return static_cast<double>(value);
    }
    case DType::UInt8:
      return static_cast<uint8_t>(*at);
    default:
      std::memcpy(&f, at, 4);
      return f;
  }
}

void set(char* at, DType dtype, double value) {
  const auto f = static_cast<float>(value);
  switch (dtype) {
    case DType::Float64:
      std::memcpy(at, &value, 8);
      return;
    case DType::BFloat16: {
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      const auto upper = static_cast<uint16_t>(bits >> 16);
      std::memcpy(at, &upper, 2);
      return;
    }
    case DType::Int64: {
      const auto whole = static_cast<int64_t>(value);
      std::memcpy(at, &whole, 8);
      return;
    }
    case DType::UInt8:
      *at = static_cast<char>(static_cast<uint8_t>(value));
      return;
    default:
      std::memcpy(at, &f, 4);
  }
}

int64_t count_of(const Dims& sizes) {
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  return count;
}

int64_t dot(const Dims& at, const Dims& strides) {
  int64_t sum = 0;
  for (size_t i = 0; i < at.size(); ++i) sum += at[i] * strides[i];
  return sum;
}

struct Case {
  std::string name;
  Indexing args;
  int64_t target_elements = 0, other_elements = 0;
  Dims index_elements;
};

// A target [before, bound, after] with an index along its middle dimension: one for every point
// (full), or one for every position (a vector). The unit in elements leaves gaps between them.
Case along(const std::string& name, int64_t before, int64_t bound, int64_t after, int64_t count,
           bool full, int64_t unit) {
  Case c{name, {}, before * bound * after * unit, before * count * after, {}};
  c.args.sizes = {before, count, after};
  c.args.target_strides = {bound * after * unit, 0, unit};
  c.args.other_strides = {count * after, after, 1};
  Indexing::Index index;
  index.bound = bound;
  index.target_stride = after * unit;
  index.strides = full ? Dims{count * after, after, 1} : Dims{0, 1, 0};
  c.index_elements = {full ? before * count * after : count};
  c.args.indices = {index};
  return c;
}

// target[i, j, :] for two lists of indices.
Case two_lists(int64_t rows, int64_t columns, int64_t after, int64_t count) {
  Case c{"two lists", {}, rows * columns * after, count * after, {count, count}};
  c.args.sizes = {count, after};
  c.args.target_strides = {0, 1};
  c.args.other_strides = {after, 1};
  c.args.indices = {{DType::Int64, rows, columns * after, {1, 0}},
                    {DType::Int32, columns, after, {1, 0}}};
  return c;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t unit : {1, 2}) {
    for (const bool full : {false, true}) {
      for (const int64_t after : {1, 3, 7, 16, 65, 200}) {
        all.push_back(along("after " + std::to_string(after), 2, 9, after, 40, full, unit));
      }
      all.push_back(along("one list", 1, 50, 1, 3000, full, unit));
      all.push_back(along("many rows", 1, 3000, 70, 2000, full, unit));
      all.push_back(along("many lists", 700, 11, 1, 60, full, unit));
      all.push_back(along("wide", 1, 3, 40000, 5, full, unit));
      all.push_back(along("empty", 1, 3, 4, 0, full, unit));
    }
  }
  all.push_back(two_lists(5, 6, 1, 500));
  all.push_back(two_lists(50, 60, 40, 3000));
  return all;
}

// What the header says, one point after the other.
void reference(const Case& c, std::vector<char>& target, std::vector<char>& other,
               const std::vector<std::vector<int64_t>>& indices) {
  const Indexing& args = c.args;
  const int64_t size = size_of(args.dtype);
  std::vector<double> result(static_cast<size_t>(c.target_elements));
  std::vector<int64_t> times(static_cast<size_t>(c.target_elements));
  Dims at(args.sizes.size());
  for (int64_t point = 0; point < count_of(args.sizes); ++point) {
    int64_t rest = point;
    for (size_t i = at.size(); i-- > 0;) {
      at[i] = rest % args.sizes[i];
      rest /= args.sizes[i];
    }
    int64_t place = dot(at, args.target_strides);
    bool valid = true;
    for (size_t k = 0; k < indices.size(); ++k) {
      const Indexing::Index& index = args.indices[k];
      int64_t i = indices[k][static_cast<size_t>(dot(at, index.strides))];
      valid &= i != args.skipped;
      if (i < 0 && args.negative == NegativeIndex::Wraps) i += index.bound;
      valid &= i >= 0 && i < index.bound;
      if (valid) place += i * index.target_stride;
    }
    if (!valid) continue;
    char* there = &target[static_cast<size_t>(place * size)];
    char* here = &other[static_cast<size_t>(dot(at, args.other_strides) * size)];
    if (args.mode == IndexingMode::Read) {
      std::memcpy(here, there, static_cast<size_t>(size));
      continue;
    }
    double& sum = result[static_cast<size_t>(place)];
    int64_t& count = times[static_cast<size_t>(place)];
    const double value = get(here, args.dtype);
    if (count == 0 && args.include_self == IncludeSelf::Yes) sum = get(there, args.dtype);
    const bool first = count++ == 0 && args.include_self == IncludeSelf::No;
    switch (args.mode) {
      case IndexingMode::Write:
        sum = value;
        break;
      case IndexingMode::Product:
        sum = first ? value : sum * value;
        break;
      case IndexingMode::Maximum:
        sum = first ? value : std::max(sum, value);
        break;
      case IndexingMode::Minimum:
        sum = first ? value : std::min(sum, value);
        break;
      default:
        sum = first ? value : sum + value;
    }
  }
  for (size_t i = 0; i < times.size(); ++i) {
    if (times[i] == 0) continue;
    double value = result[i];
    if (args.mode == IndexingMode::Mean) {
      value /= static_cast<double>(times[i] + (args.include_self == IncludeSelf::Yes));
    }
    set(&target[i * static_cast<size_t>(size)], args.dtype, value);
  }
}

struct Memory {
  std::vector<char> target, other;
  std::vector<std::vector<int64_t>> indices;
};

Memory random_memory(const Case& c, std::mt19937& generator) {
  const auto size = static_cast<size_t>(size_of(c.args.dtype));
  Memory memory;
  auto fill = [&](std::vector<char>& bytes, int64_t count) {
    bytes.resize(static_cast<size_t>(count) * size);
    // Products stay within 8 bits.
    const bool multiplies = c.args.mode == IndexingMode::Product;
    for (int64_t i = 0; i < count; ++i) {
      set(&bytes[static_cast<size_t>(i) * size], c.args.dtype, multiplies ? 1 : generator() % 2);
    }
  };
  fill(memory.target, c.target_elements);
  fill(memory.other, c.other_elements);
  for (size_t k = 0; k < c.args.indices.size(); ++k) {
    std::vector<int64_t> list(static_cast<size_t>(c.index_elements[k]));
    for (int64_t& index : list) {
      index = static_cast<int64_t>(generator() % static_cast<uint64_t>(c.args.indices[k].bound));
    }
    memory.indices.push_back(std::move(list));
  }
  return memory;
}

void run(const Case& c, Memory& memory, Fault* fault) {
  // Guards behind both sides: nothing is written there.
  constexpr size_t kGuard = 64;
  for (auto* bytes : {&memory.target, &memory.other}) bytes->insert(bytes->end(), kGuard, '\x5a');
  std::vector<std::vector<int32_t>> narrow(memory.indices.size());
  std::vector<const void*> indices;
  for (size_t k = 0; k < memory.indices.size(); ++k) {
    if (c.args.indices[k].dtype == DType::Int32) {
      narrow[k].assign(memory.indices[k].begin(), memory.indices[k].end());
      indices.push_back(narrow[k].data());
    } else {
      indices.push_back(memory.indices[k].data());
    }
  }
  indexing(simplify(c.args), memory.target.data(), memory.other.data(), indices.data(), fault);
  for (auto* bytes : {&memory.target, &memory.other}) {
    for (size_t i = bytes->size() - kGuard; i < bytes->size(); ++i) ASSERT_EQ((*bytes)[i], '\x5a');
    bytes->resize(bytes->size() - kGuard);
  }
}

void check(Case c, DType dtype, IndexingMode mode, IncludeSelf include_self) {
  SCOPED_TRACE(c.name + " dtype " + std::to_string(static_cast<int>(dtype)) + " mode " +
               std::to_string(static_cast<int>(mode)) + " include self " +
               std::to_string(static_cast<int>(include_self)));
  c.args.dtype = dtype;
  c.args.mode = mode;
  c.args.include_self = include_self;
  std::mt19937 generator(3);
  Memory got = random_memory(c, generator);
  Memory expected = got;
  reference(c, expected.target, expected.other, expected.indices);
  Fault fault;
  run(c, got, &fault);
  EXPECT_FALSE(fault.raised);
  ASSERT_EQ(got.other, expected.other);
  const auto size = static_cast<size_t>(size_of(dtype));
  // Sums of 60 ones and zeros and more are rounded by bf16, means by all.
  const double tolerance = dtype == DType::BFloat16 ? 8e-3 : 1e-6;
  for (size_t i = 0; i < got.target.size(); i += size) {
    const double want = get(&expected.target[i], dtype);
    ASSERT_NEAR(get(&got.target[i], dtype), want, tolerance * std::fabs(want)) << i / size;
  }
}

TEST(Indexing, ReadsAndWritesElementsOfEverySize) {
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::UInt8, DType::BFloat16, DType::Float32, DType::Float64}) {
      check(c, dtype, IndexingMode::Read, IncludeSelf::Yes);
      check(c, dtype, IndexingMode::Write, IncludeSelf::Yes);
    }
  }
}

TEST(Indexing, Reduces) {
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::BFloat16, DType::Float32, DType::Float64}) {
      for (const IncludeSelf include : {IncludeSelf::Yes, IncludeSelf::No}) {
        for (const IndexingMode mode :
             {IndexingMode::Sum, IndexingMode::Product, IndexingMode::Mean, IndexingMode::Maximum,
              IndexingMode::Minimum}) {
          check(c, dtype, mode, include);
        }
      }
    }
    check(c, DType::Int64, IndexingMode::Sum, IncludeSelf::Yes);
    check(c, DType::Int64, IndexingMode::Maximum, IncludeSelf::No);
  }
}

TEST(Indexing, AnIndexOutOfRangeIsAFaultAndTouchesNothing) {
  for (const IndexingMode mode : {IndexingMode::Read, IndexingMode::Write, IndexingMode::Sum,
                                  IndexingMode::Mean, IndexingMode::Maximum}) {
    for (const int64_t after : {1, 20}) {
      for (const int64_t bad : {int64_t{9}, int64_t{-10}, int64_t{1} << 40, INT64_MIN + 1}) {
        Case c = along("bad", 1, 9, after, 40, false, 1);
        c.args.mode = mode;
        std::mt19937 generator(5);
        Memory got = random_memory(c, generator);
        got.indices[0][17] = bad;
        got.indices[0][3] = -1;
        Memory expected = got;
        reference(c, expected.target, expected.other, expected.indices);
        Fault fault;
        run(c, got, &fault);
        EXPECT_TRUE(fault.raised);
        EXPECT_EQ(fault.index, bad);
        EXPECT_EQ(fault.bound, 9);
        EXPECT_EQ(got.target, expected.target);
        EXPECT_EQ(got.other, expected.other);
      }
    }
  }
}

TEST(Indexing, BelowZeroAndSkippedIndices) {
  Case c = along("skipped", 1, 9, 20, 40, false, 1);
  c.args.mode = IndexingMode::Sum;
  c.args.skipped = 4;
  c.args.negative = NegativeIndex::Fault;
  std::mt19937 generator(6);
  Memory got = random_memory(c, generator);
  Memory expected = got, negative = got;
  reference(c, expected.target, expected.other, expected.indices);
  Fault fault;
  run(c, got, &fault);
  EXPECT_FALSE(fault.raised);
  EXPECT_EQ(got.target, expected.target);
  negative.indices[0][5] = -1;
  run(c, negative, &fault);
  EXPECT_TRUE(fault.raised);
  EXPECT_EQ(fault.index, -1);
}

// Sums whose order shows in the bits.
TEST(Indexing, SameBitsForAnyTeam) {
  for (Case c : cases()) {
    SCOPED_TRACE(c.name);
    for (const IndexingMode mode : {IndexingMode::Write, IndexingMode::Sum, IndexingMode::Mean}) {
      c.args.mode = mode;
      std::mt19937 generator(7);
      std::normal_distribution<float> normal;
      Memory one = random_memory(c, generator);
      for (auto* bytes : {&one.target, &one.other}) {
        for (size_t i = 0; i < bytes->size(); i += 4)
          set(&(*bytes)[i], DType::Float32, normal(generator));
      }
      Memory three = one;
      Fault fault;
      run(c, one, &fault);
      set_team_width(3);
      run(c, three, &fault);
      set_team_width(1);
      EXPECT_EQ(one.target, three.target);
    }
  }
}

}  // namespace
}  // namespace accel::kernels
