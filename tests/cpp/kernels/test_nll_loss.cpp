// The negative log likelihood against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/loss/nll_loss.h"
#include "tests/cpp/kernels/elements_test.h"

namespace accel::kernels {
namespace {

// Values that every dtype holds exactly: small integers, so that sums are exact as well (below the
// 8 bits of bf16) and results can be compared for equality.
struct Array {
  DType dtype;
  std::vector<uint8_t> memory;

  Array(int64_t count, DType type)
      : dtype(type), memory(static_cast<size_t>(count * size_of(type) + 64), 0xa5) {}
  void* data() { return memory.data(); }
  double at(int64_t i) const { return read_element(memory.data(), i, dtype); }
  void fill(std::mt19937& generator, int64_t count, int low, int high) {
    std::uniform_int_distribution<int> uniform(low, high);
    for (int64_t i = 0; i < count; ++i) write_element(data(), i, dtype, uniform(generator));
  }
};

constexpr DType kDTypes[] = {DType::Float32, DType::BFloat16, DType::Float16, DType::Float64};

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
