// Embeddings, their gradients and the negative log likelihood, against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/embedding/embedding.h"

namespace accel::kernels {
namespace {

// Values that every dtype holds exactly: small integers, so that sums are exact as well (below the
// 8 bits of bf16) and results can be compared for equality.
double get(const void* data, int64_t i, DType dtype) {
  switch (dtype) {
    case DType::Float32:
      return static_cast<const float*>(data)[i];
    case DType::Float64:
      return static_cast<const double*>(data)[i];
    case DType::BFloat16: {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    default: {
      const uint16_t bits = static_cast<const uint16_t*>(data)[i];
      const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
      if (exponent == 31) return NAN;
      return (bits & 0x8000 ? -1 : 1) *
             (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
    }
  }
}

void set(void* data, int64_t i, DType dtype, double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, 4);
  switch (dtype) {
    case DType::Float32:
      static_cast<float*>(data)[i] = narrow;
      return;
    case DType::Float64:
      static_cast<double*>(data)[i] = value;
      return;
    case DType::BFloat16:
      static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(bits >> 16);
      return;
    default: {
      int exponent;
      const double fraction = std::frexp(std::fabs(value), &exponent);
      const int magnitude =
          value == 0 ? 0 : (exponent + 14) << 10 | (static_cast<int>(fraction * 2048) & 1023);
      static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(magnitude | (value < 0 ? 0x8000 : 0));
    }
  }
}

struct Array {
  DType dtype;
  std::vector<uint8_t> memory;

  Array(int64_t count, DType type)
      : dtype(type), memory(static_cast<size_t>(count * size_of(type) + 64), 0xa5) {}
  void* data() { return memory.data(); }
  double at(int64_t i) const { return get(memory.data(), i, dtype); }
  void fill(std::mt19937& generator, int64_t count, int low, int high) {
    std::uniform_int_distribution<int> uniform(low, high);
    for (int64_t i = 0; i < count; ++i) set(data(), i, dtype, uniform(generator));
  }
};

constexpr DType kDTypes[] = {DType::Float32, DType::BFloat16, DType::Float16, DType::Float64};

TEST(Embedding, PicksRows) {
  std::mt19937 generator(1);
  for (const DType dtype :
       {DType::UInt8, DType::BFloat16, DType::Float32, DType::Int64, DType::ComplexFloat64}) {
    for (const int64_t width : {1, 3, 16, 100}) {
      for (const int64_t column_stride : {1, 2}) {
        const int64_t rows = 11, count = 300, size = size_of(dtype);
        std::vector<uint8_t> table(static_cast<size_t>(rows * width * column_stride * size));
        for (auto& byte : table) byte = static_cast<uint8_t>(generator());
        std::vector<int64_t> indices(static_cast<size_t>(2 * count));
        for (auto& index : indices) index = static_cast<int64_t>(generator() % rows);
        std::vector<uint8_t> out(static_cast<size_t>(count * width * size + 64), 0xa5);
        Embedding args;
        args.count = count;
        args.width = width;
        args.rows = rows;
        args.indices = indices.data();
        args.index_stride = 2;
        args.dtype = dtype;
        args.table = table.data();
        args.table_row_stride = width * column_stride;
        args.table_column_stride = column_stride;
        args.out = out.data();
        Fault fault;
        embedding(args, &fault);
        EXPECT_FALSE(fault.raised);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t j = 0; j < width; ++j) {
            const int64_t row = indices[static_cast<size_t>(2 * i)];
            ASSERT_EQ(
                std::memcmp(&out[static_cast<size_t>((i * width + j) * size)],
                            &table[static_cast<size_t>((row * width + j) * column_stride * size)],
                            static_cast<size_t>(size)),
                0);
          }
        }
        ASSERT_EQ(out[out.size() - 64], 0xa5);
      }
    }
  }
}

TEST(Embedding, IndexOutOfRangeIsAFaultAndWritesNothing) {
  for (const int32_t bad : {-1, 4, 1 << 30}) {
    const float table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const int32_t indices[3] = {3, bad, 0};
    float out[6] = {-9, -9, -9, -9, -9, -9};
    Embedding args;
    args.count = 3;
    args.width = 2;
    args.rows = 4;
    args.indices = indices;
    args.index_dtype = DType::Int32;
    args.table = table;
    args.table_row_stride = 2;
    args.out = out;
    Fault fault;
    embedding(args, &fault);
    EXPECT_TRUE(fault.raised);
    EXPECT_EQ(fault.index, bad);
    EXPECT_EQ(fault.bound, 4);
    EXPECT_EQ(out[0], 7);
    EXPECT_EQ(out[2], -9);
    EXPECT_EQ(out[5], 2);
  }
}

struct BackwardCase {
  int64_t count = 200, width = 16, rows = 30;
  DType dtype = DType::Float32;
  int64_t padding_index = -1;
  bool scale_by_frequency = false;
  int64_t column_stride = 1;
};

void check_backward(const BackwardCase& c) {
  SCOPED_TRACE("count " + std::to_string(c.count) + " width " + std::to_string(c.width) +
               " dtype " + std::to_string(static_cast<int>(c.dtype)));
  std::mt19937 generator(2);
  std::vector<int64_t> indices(static_cast<size_t>(c.count));
  for (auto& index : indices) {
    index = static_cast<int64_t>(generator()) % c.rows;
    if (index % 3 == 1) index = 0;  // a hot row, and rows that do not occur
  }
  Array grad(c.count * c.width * c.column_stride, c.dtype), table(c.rows * c.width, c.dtype);
  grad.fill(generator, c.count * c.width * c.column_stride, -1, 1);
  std::vector<double> expected(static_cast<size_t>(c.rows * c.width));
  std::vector<int64_t> occurrences(static_cast<size_t>(c.rows));
  for (int64_t i = 0; i < c.count; ++i) {
    const int64_t row = indices[static_cast<size_t>(i)];
    if (row == c.padding_index) continue;
    ++occurrences[static_cast<size_t>(row)];
    for (int64_t j = 0; j < c.width; ++j) {
      expected[static_cast<size_t>(row * c.width + j)] +=
          grad.at((i * c.width + j) * c.column_stride);
    }
  }
  EmbeddingBackward args;
  args.count = c.count;
  args.width = c.width;
  args.rows = c.rows;
  args.indices = indices.data();
  args.dtype = c.dtype;
  args.grad = grad.data();
  args.grad_row_stride = c.width * c.column_stride;
  args.grad_column_stride = c.column_stride;
  args.padding_index = c.padding_index;
  args.scale_by_frequency = c.scale_by_frequency;
  args.grad_table = table.data();
  Fault fault;
  embedding_backward(args, &fault);
  EXPECT_FALSE(fault.raised);
  for (int64_t i = 0; i < c.rows * c.width; ++i) {
    double want = expected[static_cast<size_t>(i)];
    const int64_t times = occurrences[static_cast<size_t>(i / c.width)];
    if (c.scale_by_frequency && times) want /= static_cast<double>(times);
    ASSERT_NEAR(table.at(i), want, c.scale_by_frequency ? 4e-3 * std::fabs(want) : 0) << i;
  }
  ASSERT_EQ(table.memory[table.memory.size() - 64], 0xa5);
}

TEST(EmbeddingBackward, WidthsAndDTypes) {
  for (const DType dtype : kDTypes) {
    for (const int64_t width : {1, 3, 7, 16, 17, 63, 64, 100, 200}) {
      BackwardCase c;
      c.dtype = dtype;
      c.width = width;
      check_backward(c);
      c.column_stride = 2;
      check_backward(c);
    }
  }
}

TEST(EmbeddingBackward, PaddingFrequencyAndSizes) {
  for (const DType dtype : kDTypes) {
    BackwardCase c;
    c.dtype = dtype;
    c.padding_index = 0;
    check_backward(c);
    c.scale_by_frequency = true;
    check_backward(c);
    c = BackwardCase();
    c.dtype = dtype;
    c.count = 0;
    check_backward(c);
    c.count = 1;
    check_backward(c);
    c.rows = 5000;
    c.count = 600;
    check_backward(c);
  }
}

TEST(EmbeddingBackward, IndexOutOfRangeIsAFault) {
  const int64_t indices[3] = {1, 9, 1};
  const float grad[3] = {1, 2, 4};
  float table[3] = {-9, -9, -9};
  EmbeddingBackward args;
  args.count = 3;
  args.width = 1;
  args.rows = 3;
  args.indices = indices;
  args.grad = grad;
  args.grad_row_stride = 1;
  args.grad_table = table;
  Fault fault;
  embedding_backward(args, &fault);
  EXPECT_TRUE(fault.raised);
  EXPECT_EQ(fault.index, 9);
  EXPECT_EQ(table[0], 0);
  EXPECT_EQ(table[1], 5);
}

// Sums whose order shows in the bits.
TEST(EmbeddingBackward, SameBitsForAnyTeam) {
  std::mt19937 generator(4);
  std::normal_distribution<float> normal;
  const int64_t count = 5000, width = 48, rows = 3000;
  std::vector<int32_t> indices(count);
  for (auto& index : indices) index = static_cast<int32_t>(generator() % 40) * 70;
  std::vector<float> grad(count * width), one(rows * width), two(rows * width);
  for (auto& value : grad) value = normal(generator);
  EmbeddingBackward args;
  args.count = count;
  args.width = width;
  args.rows = rows;
  args.indices = indices.data();
  args.index_dtype = DType::Int32;
  args.grad = grad.data();
  args.grad_row_stride = width;
  args.grad_table = one.data();
  Fault fault;
  embedding_backward(args, &fault);
  args.grad_table = two.data();
  set_team_width(2);
  embedding_backward(args, &fault);
  set_team_width(1);
  EXPECT_EQ(one, two);
}

void check_nll(DType dtype, int64_t rows, int64_t classes, Reduction reduction, bool weighted,
               bool transposed) {
  SCOPED_TRACE("dtype " + std::to_string(static_cast<int>(dtype)) + " rows " +
               std::to_string(rows) + " reduction " + std::to_string(static_cast<int>(reduction)));
  std::mt19937 generator(6);
  Array input(rows * classes, dtype), weight(classes, dtype), out(rows + 1, dtype), total(1, dtype);
  input.fill(generator, rows * classes, -8, 8);
  weight.fill(generator, classes, 1, 4);
  std::vector<int64_t> targets(static_cast<size_t>(2 * rows));
  for (auto& target : targets) {
    target = static_cast<int64_t>(generator() % static_cast<unsigned>(classes));
    if (generator() % 5 == 0) target = -100;
  }
  NllLoss args;
  args.rows = rows;
  args.classes = classes;
  args.dtype = dtype;
  args.input = input.data();
  args.row_stride = transposed ? 1 : classes;
  args.column_stride = transposed ? rows : 1;
  args.targets = targets.data();
  args.target_stride = 2;
  args.weight = weighted ? weight.data() : nullptr;
  args.reduction = reduction;
  args.out = out.data();
  args.total_weight = total.data();
  Fault fault;
  set_team_width(2);
  nll_loss(args, &fault);
  set_team_width(1);
  EXPECT_FALSE(fault.raised);
  double sum = 0, weights = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t target = targets[static_cast<size_t>(2 * i)];
    double loss = 0;
    if (target != -100) {
      const double w = weighted ? weight.at(target) : 1;
      loss = -w * input.at(i * args.row_stride + target * args.column_stride);
      weights += w;
    }
    sum += loss;
    if (reduction == Reduction::None) {
      ASSERT_EQ(out.at(i), loss) << i;
    }
  }
  const double epsilon = dtype == DType::BFloat16 ? 4e-3 : dtype == DType::Float16 ? 1e-3 : 1e-7;
  if (reduction == Reduction::None) {
    EXPECT_EQ(total.at(0), 0);
    return;
  }
  if (reduction == Reduction::Mean) sum /= weights;
  EXPECT_NEAR(out.at(0), sum, epsilon * std::fabs(sum));
  EXPECT_NEAR(total.at(0), weights, epsilon * weights);
}

TEST(NllLoss, ReductionsAndDTypes) {
  for (const DType dtype : kDTypes) {
    for (const Reduction reduction : {Reduction::None, Reduction::Mean, Reduction::Sum}) {
      for (const bool weighted : {false, true}) {
        check_nll(dtype, 7, 5, reduction, weighted, false);
        check_nll(dtype, 1000, 33, reduction, weighted, true);
      }
    }
  }
}

TEST(NllLoss, MeanOfNothingIsNan) {
  const float input[4] = {1, 2, 3, 4};
  const int64_t targets[2] = {7, 7};
  float out = 0, total = 1;
  NllLoss args;
  args.rows = 2;
  args.classes = 2;
  args.input = input;
  args.row_stride = 2;
  args.targets = targets;
  args.ignore_index = 7;
  args.out = &out;
  args.total_weight = &total;
  Fault fault;
  nll_loss(args, &fault);
  EXPECT_FALSE(fault.raised);
  EXPECT_TRUE(std::isnan(out));
  EXPECT_EQ(total, 0);
}

TEST(NllLoss, TargetOutOfRangeIsAFault) {
  for (const int64_t bad : {-1, 2}) {
    const float input[4] = {1, 2, 3, 4};
    const int64_t targets[2] = {bad, 1};
    float out = 0, total = 0;
    NllLoss args;
    args.rows = 2;
    args.classes = 2;
    args.input = input;
    args.row_stride = 2;
    args.targets = targets;
    args.out = &out;
    args.total_weight = &total;
    Fault fault;
    nll_loss(args, &fault);
    EXPECT_TRUE(fault.raised);
    EXPECT_EQ(fault.index, bad);
    EXPECT_EQ(fault.bound, 2);
    EXPECT_EQ(out, -4);
  }
}

}  // namespace
}  // namespace accel::kernels
