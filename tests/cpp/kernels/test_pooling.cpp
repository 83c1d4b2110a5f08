// Max pooling against the definition, written out over padded coordinates.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/pooling/pooling.h"

namespace accel::kernels {
namespace {

struct Case {
  int64_t depth, rows, columns;
  int64_t kernel, stride, padding, dilation;
  bool adaptive = false;
};

class MaxPoolingOf : public ::testing::TestWithParam<Case> {
 protected:
  Pooling args(int64_t planes, int64_t channels) const {
    const Case& c = GetParam();
    Pooling args;
    args.planes = planes;
    args.channels = channels;
    args.adaptive = c.adaptive;
    const int64_t sizes[3] = {c.depth, c.rows, c.columns};
    for (int dim = 0; dim < 3; ++dim) {
      PoolingAxis& axis = args.axes[dim];
      axis.full = sizes[dim];
      if (sizes[dim] == 1) continue;
      axis.kernel = c.kernel;
      axis.stride = c.stride;
      axis.padding = c.padding;
      axis.dilation = c.dilation;
      axis.pooled =
          c.adaptive ? (axis.full + 1) / 2
                     : (axis.full + 2 * c.padding - (c.kernel - 1) * c.dilation - 1) / c.stride + 1;
    }
    return args;
  }

  // The elements of a window along one dimension.
  static std::vector<int64_t> places(const Pooling& args, int dim, int64_t i) {
    const PoolingAxis& axis = args.axes[dim];
    std::vector<int64_t> result;
    if (args.adaptive) {
      for (int64_t at = i * axis.full / axis.pooled; at * axis.pooled < (i + 1) * axis.full; ++at) {
        result.push_back(at);
      }
      return result;
    }
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t at = i * axis.stride - axis.padding + k * axis.dilation;
      if (at >= 0 && at < axis.full) result.push_back(at);
    }
    return result;
  }

  // The place of the largest element of each window of one plane and channel.
  static std::vector<int64_t> largest(const Pooling& args, const std::vector<float>& input) {
    std::vector<int64_t> result;
    const int64_t rows = args.axes[1].full, columns = args.axes[2].full;
    for (int64_t d = 0; d < args.axes[0].pooled; ++d) {
      for (int64_t h = 0; h < args.axes[1].pooled; ++h) {
        for (int64_t w = 0; w < args.axes[2].pooled; ++w) {
          int64_t best = -1;
          for (int64_t z : places(args, 0, d)) {
            for (int64_t y : places(args, 1, h)) {
              for (int64_t x : places(args, 2, w)) {
                const int64_t at = (z * rows + y) * columns + x;
                const float value = input[static_cast<size_t>(at)];
                if (best < 0 || value > input[static_cast<size_t>(best)] || std::isnan(value)) {
                  best = at;
                }
              }
            }
          }
          result.push_back(best);
        }
      }
    }
    return result;
  }
};

TEST_P(MaxPoolingOf, IsTheDefinition) {
  for (int64_t channels : {1, 3, 37}) {
    const int64_t planes = channels == 1 ? 23 : 2;
    Pooling a = args(planes, channels);
    int64_t full = 1, pooled = 1;
    for (const PoolingAxis& axis : a.axes) {
      full *= axis.full;
      pooled *= axis.pooled;
    }
    std::mt19937 random(7);
    std::vector<float> input(static_cast<size_t>(planes * full * channels));
    for (float& x : input) x = static_cast<float>(random() % 50);  // with ties
    input[input.size() / 2] = input[input.size() / 3] = NAN;
    std::vector<float> grad(static_cast<size_t>(planes * pooled * channels));
    for (float& x : grad) x = std::normal_distribution<float>()(random);
    std::vector<float> out(grad.size()), back(input.size()), unpooled(input.size());
    std::vector<float> expected_back(input.size()), expected_unpooled(input.size());
    std::vector<int64_t> indices(grad.size()), expected(grad.size());
    for (int64_t plane = 0; plane < planes; ++plane) {
      for (int64_t c = 0; c < channels; ++c) {
        std::vector<float> image;
        for (int64_t i = 0; i < full; ++i) {
          image.push_back(input[static_cast<size_t>((plane * full + i) * channels + c)]);
        }
        const std::vector<int64_t> places = largest(a, image);
        for (int64_t i = 0; i < pooled; ++i) {
          const auto at = static_cast<size_t>((plane * pooled + i) * channels + c);
          const int64_t place = places[static_cast<size_t>(i)];
          const auto there = static_cast<size_t>((plane * full + place) * channels + c);
          expected[at] = place;
          expected_back[there] += grad[at];
          expected_unpooled[there] = grad[at];
        }
      }
    }
    for (int width : {1, 2}) {
      set_team_width(width);
      a.kind = PoolingKind::Max;
      a.input = input.data();
      a.output = out.data();
      a.indices = indices.data();
      pooling(a);
      EXPECT_EQ(indices, expected);
      a.kind = PoolingKind::MaxBack;
      a.input = grad.data();
      a.output = back.data();
      pooling(a);
      EXPECT_EQ(back, expected_back);
      a.kind = PoolingKind::Unpool;
      a.output = unpooled.data();
      pooling(a);
      EXPECT_EQ(unpooled, expected_unpooled);
    }
    set_team_width(1);
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, MaxPoolingOf,
                         ::testing::Values(Case{1, 11, 14, 2, 2, 0, 1}, Case{1, 11, 14, 3, 2, 1, 1},
                                           Case{1, 11, 14, 3, 1, 1, 2}, Case{1, 11, 14, 2, 3, 1, 3},
                                           Case{1, 1, 40, 3, 2, 1, 1}, Case{5, 6, 7, 2, 2, 0, 1},
                                           Case{5, 6, 7, 3, 2, 1, 1}, Case{7, 6, 7, 3, 1, 1, 2},
                                           Case{1, 9, 13, 1, 1, 0, 1, true},
                                           Case{5, 9, 7, 1, 1, 0, 1, true}));

TEST(Pooling, MaximumKeepsNanAndInfinity) {
  Pooling args;
  args.planes = 1;
  for (int dim = 1; dim < 3; ++dim) {
    args.axes[dim].full = args.axes[dim].kernel = args.axes[dim].stride = 2;
  }
  std::vector<float> input{1, NAN, NAN, 2}, out(1);
  std::vector<int64_t> index(1);
  args.input = input.data();
  args.output = out.data();
  args.indices = index.data();
  pooling(args);
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_EQ(index[0], 2);  // the last NaN
  input.assign(4, -INFINITY);
  pooling(args);
  EXPECT_EQ(out[0], -INFINITY);
  EXPECT_EQ(index[0], 0);
}

TEST(Pooling, IndicesOutOfRangeAreFaults) {
  Fault fault;
  Pooling args;
  args.kind = PoolingKind::Unpool;
  args.planes = 1;
  args.axes[2].full = 4;
  args.axes[2].pooled = 2;
  std::vector<float> input{1, 2}, out(4, 9);
  std::vector<int64_t> indices{3, 4};
  args.input = input.data();
  args.output = out.data();
  args.indices = indices.data();
  args.fault = &fault;
  pooling(args);
  EXPECT_EQ(out, (std::vector<float>{0, 0, 0, 1}));
  EXPECT_TRUE(fault.raised);
  EXPECT_EQ(fault.index, 4);
}

}  // namespace
}  // namespace accel::kernels
