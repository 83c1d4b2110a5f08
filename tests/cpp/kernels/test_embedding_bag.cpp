// Bags of rows against plain loops.
#include "kernels/embedding_bag/embedding_bag.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/common/parallel.h"
#include "tests/cpp/kernels/elements_test.h"

namespace accel::kernels {
namespace {

using Memory = std::vector<uint8_t>;

Memory elements(int64_t count, DType dtype) {
  return Memory(static_cast<size_t>(count * size_of(dtype)) + 64, 0xa5);
}

// Small whole numbers, whose sums every dtype holds.
Memory numbers(int64_t count, DType dtype, std::mt19937& generator) {
  Memory memory = elements(count, dtype);
  for (int64_t i = 0; i < count; ++i) {
    write_element(memory.data(), i, dtype, static_cast<double>(generator() % 5) - 2);
  }
  return memory;
}

template <class Index>
void check(DType dtype, BagMode mode, int64_t width, bool weighted, bool last_offset) {
  SCOPED_TRACE(testing::Message() << "dtype " << static_cast<int>(dtype) << " mode "
                                  << static_cast<int>(mode) << " width " << width);
  constexpr int64_t kRows = 9, kPadding = 4;
  std::mt19937 generator(4);
  std::vector<Index> offsets{0}, indices;
  for (const int64_t size : {3, 0, 1, 12, 2}) {
    for (int64_t i = 0; i < size; ++i) indices.push_back(static_cast<Index>(generator() % kRows));
    offsets.push_back(static_cast<Index>(indices.size()));
  }
  if (!last_offset) offsets.pop_back();
  const int64_t bags = 5, count = static_cast<int64_t>(indices.size());
  const Memory table = numbers(kRows * (width + 3), dtype, generator);
  const Memory weights = numbers(count, dtype, generator),
               grad = numbers(bags * width, dtype, generator);
  Memory out = elements(bags * width, dtype), weight_grad = elements(count, dtype);
  std::vector<Index> bag_of(indices.size(), -7), sizes(bags, -7);
  std::vector<Index> maxima(static_cast<size_t>(bags * width), -7);
  BagWeightGradient args;
  EmbeddingBag& bag = args.forward;
  bag.mode = mode;
  bag.dtype = dtype;
  bag.index_dtype = sizeof(Index) == 4 ? DType::Int32 : DType::Int64;
  bag.rows = kRows;
  bag.width = width;
  bag.count = count;
  bag.bags = bags;
  bag.offset_count = static_cast<int64_t>(offsets.size());
  bag.row_stride = width + 3;
  bag.padding = kPadding;
  bag.table = table.data();
  bag.indices = indices.data();
  bag.offsets = offsets.data();
  bag.weights = weighted ? weights.data() : nullptr;
  bag.out = out.data();
  bag.offset2bag = bag_of.data();
  bag.bag_size = sizes.data();
  bag.maximum_index = maxima.data();
  args.grad = grad.data();
  args.weight_grad = weight_grad.data();
  Fault fault;
  set_team_width(2);
  embedding_bag(bag, &fault);
  bag_weight_gradient(args, &fault);
  set_team_width(1);
  ASSERT_FALSE(fault.raised);
  int64_t i = 0;
  for (int64_t b = 0; b < bags; ++b) {
    const int64_t begin = i;
    const int64_t end = b + 1 < bags ? offsets[static_cast<size_t>(b + 1)] : count;
    int64_t size = 0;
    for (; i < end; ++i) {
      size += indices[static_cast<size_t>(i)] != kPadding;
      ASSERT_EQ(bag_of[static_cast<size_t>(i)], b);
    }
    ASSERT_EQ(sizes[static_cast<size_t>(b)], size);
    for (int64_t d = 0; d < width; ++d) {
      double sum = 0, most = 0;
      int64_t place = -1;
      for (int64_t k = begin; k < end; ++k) {
        const int64_t index = indices[static_cast<size_t>(k)];
        if (index == kPadding) continue;
        const double value = read_element(table.data(), index * (width + 3) + d, dtype);
        sum += weighted ? value * read_element(weights.data(), k, dtype) : value;
        if (place < 0 || value > most) {
          most = value;
          place = index;
        }
      }
      const double got = read_element(out.data(), b * width + d, dtype);
      if (mode == BagMode::Max) {
        ASSERT_EQ(got, most);
        ASSERT_EQ(maxima[static_cast<size_t>(b * width + d)], place);
      } else {
        if (mode == BagMode::Mean && size > 0) sum /= static_cast<double>(size);
        ASSERT_NEAR(got, sum, std::fabs(sum) * (size_of(dtype) == 2 ? 8e-3 : 1e-6))
            << b << " " << d;
      }
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    const int64_t index = indices[static_cast<size_t>(k)];
    double sum = 0;
    for (int64_t d = 0; d < width && index != kPadding; ++d) {
      sum += read_element(grad.data(), bag_of[static_cast<size_t>(k)] * width + d, dtype) *
             read_element(table.data(), index * (width + 3) + d, dtype);
    }
    ASSERT_NEAR(read_element(weight_grad.data(), k, dtype), sum,
                std::fabs(sum) * (size_of(dtype) == 2 ? 8e-3 : 0));
  }
}

TEST(EmbeddingBag, ModesWidthsAndDTypes) {
  for (const DType dtype : {DType::Float32, DType::BFloat16, DType::Float16, DType::Float64}) {
    for (const int64_t width : {1, 3, 7, 16, 17, 63, 64, 65, 130}) {
      for (const bool last_offset : {false, true}) {
        for (const BagMode mode : {BagMode::Sum, BagMode::Mean, BagMode::Max}) {
          check<int64_t>(dtype, mode, width, false, last_offset);
          check<int32_t>(dtype, mode, width, false, last_offset);
        }
        check<int64_t>(dtype, BagMode::Sum, width, true, last_offset);
      }
    }
  }
}

TEST(EmbeddingBag, IndicesAndOffsetsOutOfRangeAreFaults) {
  const float table[6] = {1, 2, 3, 4, 5, 6};
  auto faults = [&](std::vector<int64_t> indices, std::vector<int64_t> offsets) {
    std::vector<float> out(2 * offsets.size());
    std::vector<int64_t> bag_of(indices.size()), sizes(offsets.size());
    EmbeddingBag bag;
    bag.rows = 3;
    bag.width = bag.row_stride = 2;
    bag.count = static_cast<int64_t>(indices.size());
    bag.bags = bag.offset_count = static_cast<int64_t>(offsets.size());
    bag.table = table;
    bag.indices = indices.data();
    bag.offsets = offsets.data();
    bag.out = out.data();
    bag.offset2bag = bag_of.data();
    bag.bag_size = sizes.data();
    Fault fault;
    embedding_bag(bag, &fault);
    return fault.raised.load();
  };
  EXPECT_FALSE(faults({0, 2, 1}, {0, 3}));
  EXPECT_TRUE(faults({0, 3, 1}, {0, 2}));
  EXPECT_TRUE(faults({0, -2, 1}, {0, 2}));
  EXPECT_TRUE(faults({0, 2, 1}, {1, 2}));
  EXPECT_TRUE(faults({0, 2, 1}, {0, 4}));
  EXPECT_TRUE(faults({0, 2, 1}, {0, 2, 1}));
}

}  // namespace
}  // namespace accel::kernels
