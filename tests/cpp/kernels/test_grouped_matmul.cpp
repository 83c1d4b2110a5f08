// Products of groups: bit for bit the products of their parts.
#include "kernels/matmul/grouped.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/common/parallel.h"

namespace accel::kernels {
namespace {

constexpr int64_t kGroups = 4;
constexpr int32_t kEnds[kGroups] = {5, 5, 6, 23};  // one group is empty
constexpr int64_t kExtent = 25;                    // and something lies behind the last

struct Operands {
  std::vector<float> a, b, out, expected;
};

Operands operands(std::mt19937& generator, int64_t a, int64_t b, int64_t out) {
  std::normal_distribution<float> normal;
  Operands result;
  for (int64_t i = 0; i < a; ++i) result.a.push_back(normal(generator));
  for (int64_t i = 0; i < b; ++i) result.b.push_back(normal(generator));
  result.out.assign(static_cast<size_t>(out), 7);
  result.expected.assign(static_cast<size_t>(out), 0);
  return result;
}

// m, n and k of one group; the dimension that is divided is kExtent.
void check(GroupedDimension dimension, int64_t m, int64_t n, int64_t k) {
  std::mt19937 generator(8);
  const bool rows = dimension == GroupedDimension::Rows,
             inner = dimension == GroupedDimension::Inner;
  const bool columns = dimension == GroupedDimension::Columns;
  Operands memory = operands(generator, m * k * (columns ? kGroups : 1),
                             k * n * (rows ? kGroups : 1), m * n * (inner ? kGroups : 1));
  GroupedMatmul args;
  args.grouped = dimension;
  args.ends = kEnds;
  Matmul& whole = args.matmul;
  whole.batch = kGroups;
  whole.m = m;
  whole.n = n;
  whole.k = k;
  whole.a = {memory.a.data(), DType::Float32, columns ? m * k : 0, k, 1};
  whole.b = {memory.b.data(), DType::Float32, rows ? k * n : 0, n, 1};
  whole.out = {memory.out.data(), inner ? m * n : 0, n, 1};
  Fault fault;
  set_team_width(2);
  grouped_matmul(args, &fault);
  set_team_width(1);
  ASSERT_FALSE(fault.raised);
  for (int64_t g = 0, begin = 0; g < kGroups; ++g) {
    Matmul part = whole;
    const int64_t size = kEnds[g] - begin;
    part.batch = 1;
    (rows ? part.m : columns ? part.n : part.k) = size;
    part.a.data = memory.a.data() + (rows ? begin * k : columns ? g * m * k : begin);
    part.b.data = memory.b.data() + (rows ? g * k * n : columns ? begin : begin * n);
    part.out.data = memory.expected.data() + (rows ? begin * n : columns ? begin : g * m * n);
    if (part.m > 0 && part.n > 0) matmul(part);
    begin = kEnds[g];
  }
  EXPECT_EQ(memory.out, memory.expected);
}

TEST(GroupedMatmul, EachGroupIsAProduct) {
  check(GroupedDimension::Rows, kExtent, 19, 33);
  check(GroupedDimension::Columns, 19, kExtent, 33);
  check(GroupedDimension::Inner, 19, 33, kExtent);
}

TEST(GroupedMatmul, EndsThatDescendOrLeaveTheMatrixAreFaults) {
  for (const auto& ends : {std::vector<int32_t>{2, 1}, {1, 4}, {-1, 3}}) {
    const float a[6] = {}, b[8] = {};
    float out[6];
    GroupedMatmul args;
    args.ends = ends.data();
    args.matmul.batch = 2;
    args.matmul.m = 3;
    args.matmul.n = args.matmul.k = 2;
    args.matmul.a = {a, DType::Float32, 0, 2, 1};
    args.matmul.b = {b, DType::Float32, 4, 2, 1};
    args.matmul.out = {out, 0, 2, 1};
    Fault fault;
    grouped_matmul(args, &fault);
    EXPECT_TRUE(fault.raised);
  }
}

}  // namespace
}  // namespace accel::kernels
