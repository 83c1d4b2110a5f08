// Pooling against the definition, written out over padded coordinates.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/pooling/pooling.h"

namespace accel::kernels {
namespace {

struct Case {
  PoolingKind kind;
  int64_t kernel, stride, padding, dilation;
  bool count_padding = true;
  int64_t divisor = 0;
};

class PoolingOf : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kPlanes = 37, kRows = 11, kColumns = 14;

  Pooling args() const {
    const Case& c = GetParam();
    Pooling args;
    args.kind = c.kind;
    args.planes = kPlanes;
    args.full[0] = kRows;
    args.full[1] = kColumns;
    for (int dim = 0; dim < 2; ++dim) {
      args.windows.kernel[dim] = c.kernel;
      args.windows.stride[dim] = c.stride;
      args.windows.padding[dim] = c.padding;
      args.windows.dilation[dim] = c.dilation;
      args.pooled[dim] =
          (args.full[dim] + 2 * c.padding - (c.kernel - 1) * c.dilation - 1) / c.stride + 1;
    }
    args.count_padding = c.count_padding;
    args.divisor = c.divisor;
    return args;
  }
  std::vector<float> values(int64_t count, uint32_t seed) const {
    std::mt19937 random(seed);
    std::vector<float> result(static_cast<size_t>(count));
    for (float& x : result) x = std::normal_distribution<float>()(random);
    return result;
  }
  // Calls visit(plane, window, element) for every element of every window.
  template <class Visit>
  void for_each(const Pooling& a, const Visit& visit) const {
    const Case& c = GetParam();
    for (int64_t plane = 0; plane < kPlanes; ++plane) {
      for (int64_t i = 0; i < a.pooled[0]; ++i) {
        for (int64_t j = 0; j < a.pooled[1]; ++j) {
          for (int64_t m = 0; m < c.kernel; ++m) {
            for (int64_t n = 0; n < c.kernel; ++n) {
              const int64_t h = i * c.stride - c.padding + m * c.dilation;
              const int64_t w = j * c.stride - c.padding + n * c.dilation;
              if (h < 0 || w < 0 || h >= kRows || w >= kColumns) continue;
              visit(plane, i * a.pooled[1] + j, h * kColumns + w);
            }
          }
        }
      }
    }
  }
};

TEST_P(PoolingOf, IsTheDefinition) {
  Pooling a = args();
  const int64_t full = kRows * kColumns, pooled = a.pooled[0] * a.pooled[1];
  const std::vector<float> input = values(kPlanes * full, 1), grad = values(kPlanes * pooled, 2);
  std::vector<float> out(static_cast<size_t>(kPlanes * pooled)), expected = out, count = out;
  std::vector<float> d_input(static_cast<size_t>(kPlanes * full)), d_expected = d_input;
  std::vector<int64_t> indices(out.size()), places(out.size(), -1);
  auto x = [&](int64_t plane, int64_t element) {
    return input[static_cast<size_t>(plane * full + element)];
  };
  for_each(a, [&](int64_t plane, int64_t window, int64_t element) {
    const auto i = static_cast<size_t>(plane * pooled + window);
    expected[i] += x(plane, element);
    count[i] += 1;
    if (places[i] < 0 || x(plane, element) > x(plane, places[i])) places[i] = element;
  });
  const bool is_max = a.kind == PoolingKind::Max;
  const Case& c = GetParam();
  for (size_t i = 0; i < expected.size(); ++i) {
    // No test has windows that reach over the padding.
    if (c.count_padding) count[i] = static_cast<float>(c.kernel * c.kernel);
    if (c.divisor) count[i] = static_cast<float>(c.divisor);
    expected[i] = is_max ? x(static_cast<int64_t>(i) / pooled, places[i]) : expected[i] / count[i];
  }
  for_each(a, [&](int64_t plane, int64_t window, int64_t element) {
    const auto i = static_cast<size_t>(plane * pooled + window);
    const float share = is_max ? (places[i] == element ? 1.0f : 0.0f) : 1 / count[i];
    d_expected[static_cast<size_t>(plane * full + element)] += grad[i] * share;
  });
  for (int width : {1, 2}) {
    set_team_width(width);
    a.backward = false;
    a.input = input.data();
    a.output = out.data();
    a.indices = indices.data();
    pooling(a);
    a.backward = true;
    a.input = grad.data();
    a.output = d_input.data();
    pooling(a);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 1e-5) << i;
    for (size_t i = 0; i < d_input.size(); ++i) ASSERT_NEAR(d_input[i], d_expected[i], 1e-5) << i;
    if (is_max) {
      EXPECT_EQ(indices, places);
    }
  }
  set_team_width(1);
}

INSTANTIATE_TEST_SUITE_P(Windows, PoolingOf,
                         ::testing::Values(Case{PoolingKind::Max, 2, 2, 0, 1},
                                           Case{PoolingKind::Max, 3, 2, 1, 1},
                                           Case{PoolingKind::Max, 3, 1, 1, 2},
                                           Case{PoolingKind::Max, 2, 3, 1, 3},
                                           Case{PoolingKind::Average, 2, 2, 0, 1},
                                           Case{PoolingKind::Average, 3, 2, 1, 1},
                                           Case{PoolingKind::Average, 3, 1, 1, 1, false},
                                           Case{PoolingKind::Average, 3, 2, 1, 1, true, 5}));

TEST(Pooling, MaximumKeepsNan) {
  std::vector<float> input{1, NAN, 3, 2}, out(1);
  std::vector<int64_t> index(1);
  Pooling args;
  args.planes = 1;
  for (int dim = 0; dim < 2; ++dim) {
    args.full[dim] = args.windows.kernel[dim] = args.windows.stride[dim] = 2;
    args.pooled[dim] = 1;
  }
  args.input = input.data();
  args.output = out.data();
  args.indices = index.data();
  pooling(args);
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_EQ(index[0], 1);
}

TEST(Pooling, NearestThereAndBack) {
  std::vector<float> input{1, 2, 3, 4, 5, 6}, out(20), back(6);
  Pooling args;
  args.kind = PoolingKind::Nearest;
  args.planes = 1;
  args.full[0] = 2;
  args.full[1] = 3;
  args.pooled[0] = 4;
  args.pooled[1] = 5;
  args.windows.scale[0] = 0.5;
  args.windows.scale[1] = 0.6;
  args.input = input.data();
  args.output = out.data();
  pooling(args);
  EXPECT_EQ(out, (std::vector<float>{1, 1, 2, 2, 3, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 4, 4, 5, 5, 6}));
  args.backward = true;
  args.input = out.data();
  args.output = back.data();
  pooling(args);
  EXPECT_EQ(back, (std::vector<float>{4, 8, 6, 16, 20, 12}));
}

}  // namespace
}  // namespace accel::kernels
