// Resampling against definitions written out in fp64, its gradients against the transposed sum.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/resampling/resampling.h"

namespace accel::kernels {
namespace {

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> result(static_cast<size_t>(count));
  for (float& x : result) x = std::normal_distribution<float>()(random);
  return result;
}

double cubic(double x, double a) {
  x = std::abs(x);
  if (x <= 1) return (a + 2) * x * x * x - (a + 3) * x * x + 1;
  return x < 2 ? a * x * x * x - 5 * a * x * x + 8 * a * x - 4 * a : 0;
}

// The weight of every input element for output element i of one dimension.
std::vector<double> weights_of(const Resampling& args, const ResamplingAxis& axis, int64_t i) {
  std::vector<double> weights(static_cast<size_t>(axis.full));
  auto add = [&](int64_t at, double weight) {
    weights[static_cast<size_t>(std::clamp<int64_t>(at, 0, axis.full - 1))] += weight;
  };
  const double ratio = static_cast<double>(axis.full) / static_cast<double>(axis.resampled);
  const double scale =
      args.align_corners && axis.resampled > 1
          ? static_cast<double>(axis.full - 1) / static_cast<double>(axis.resampled - 1)
          : ratio;
  const double at = static_cast<double>(i);
  const double centre = args.align_corners ? at * scale : (at + 0.5) * scale - 0.5;
  switch (args.method) {
    case ResamplingMethod::Window: {
      int64_t inside = 0;
      for (int64_t k = 0; k < axis.kernel; ++k) {
        const int64_t place = i * axis.stride - axis.padding + k;
        inside += place >= 0 && place < axis.full;
      }
      const double size = static_cast<double>(args.count_padding ? axis.kernel : inside);
      for (int64_t k = 0; k < axis.kernel; ++k) {
        const int64_t place = i * axis.stride - axis.padding + k;
        if (place >= 0 && place < axis.full) add(place, args.divisor ? 1 : 1 / size);
      }
      break;
    }
    case ResamplingMethod::Adaptive: {
      const auto begin = static_cast<int64_t>(std::floor(at * ratio));
      const auto end = static_cast<int64_t>(std::ceil((at + 1) * ratio));
      for (int64_t place = begin; place < end; ++place)
        add(place, 1.0 / static_cast<double>(end - begin));
      break;
    }
    case ResamplingMethod::Nearest:
      add(static_cast<int64_t>(std::floor(at * ratio)), 1);
      break;
    case ResamplingMethod::NearestExact:
      add(static_cast<int64_t>(std::floor((at + 0.5) * ratio)), 1);
      break;
    case ResamplingMethod::Linear: {
      const double from = std::max(centre, 0.0), floor = std::floor(from);
      add(static_cast<int64_t>(floor), 1 - (from - floor));
      add(static_cast<int64_t>(floor) + 1, from - floor);
      break;
    }
    case ResamplingMethod::Cubic:
      for (int64_t k = -1; k <= 2; ++k) {
        const double place = std::floor(centre) + static_cast<double>(k);
        add(static_cast<int64_t>(place), cubic(place - centre, -0.75));
      }
      break;
    default: {
      const double wide = std::max(ratio, 1.0);
      double total = 0;
      for (int64_t place = 0; place < axis.full; ++place) {
        const double x = (static_cast<double>(place) + 0.5 - (at + 0.5) * ratio) / wide;
        const double weight = args.method == ResamplingMethod::LinearAntialiased
                                  ? std::max(0.0, 1 - std::abs(x))
                                  : cubic(x, -0.5);
        weights[static_cast<size_t>(place)] = weight;
        total += weight;
      }
      for (double& weight : weights) weight /= total;
    }
  }
  return weights;
}

struct Case {
  ResamplingMethod method;
  int64_t full[3], resampled[3];
  bool align_corners = false;
  bool count_padding = true;
  int64_t divisor = 0;
};

class ResamplingOf : public ::testing::TestWithParam<Case> {};

TEST_P(ResamplingOf, IsTheDefinition) {
  const Case& c = GetParam();
  for (int64_t channels : {1, 3, 21}) {
    Resampling a;
    a.method = c.method;
    a.align_corners = c.align_corners;
    a.count_padding = c.count_padding;
    a.divisor = c.divisor;
    a.planes = channels == 1 ? 13 : 2;
    a.channels = channels;
    int64_t full = 1, resampled = 1;
    for (int dim = 0; dim < 3; ++dim) {
      ResamplingAxis& axis = a.axes[dim];
      axis.full = c.full[dim];
      axis.resampled = c.resampled[dim];
      if (c.method == ResamplingMethod::Window && axis.full > 1) {
        axis.kernel = 3;
        axis.stride = 2;
        axis.padding = 1;
      }
      full *= axis.full;
      resampled *= axis.resampled;
    }
    // The whole map, [resampled, full].
    std::vector<double> map(static_cast<size_t>(resampled * full),
                            c.divisor ? 1.0 / static_cast<double>(c.divisor) : 1.0);
    for (int64_t to = 0; to < resampled; ++to) {
      const int64_t out[3] = {to / (c.resampled[1] * c.resampled[2]),
                              to / c.resampled[2] % c.resampled[1], to % c.resampled[2]};
      std::vector<double> weights[3];
      for (int dim = 0; dim < 3; ++dim) weights[dim] = weights_of(a, a.axes[dim], out[dim]);
      for (int64_t from = 0; from < full; ++from) {
        const auto x = static_cast<size_t>(from % c.full[2]);
        const auto y = static_cast<size_t>(from / c.full[2] % c.full[1]);
        const auto z = static_cast<size_t>(from / (c.full[2] * c.full[1]));
        map[static_cast<size_t>(to * full + from)] *= weights[0][z] * weights[1][y] * weights[2][x];
      }
    }
    const std::vector<float> input = random_values(a.planes * full * channels, 1);
    const std::vector<float> grad = random_values(a.planes * resampled * channels, 2);
    std::vector<float> out(grad.size()), back(input.size());
    std::vector<double> expected(grad.size()), expected_back(input.size());
    for (int64_t plane = 0; plane < a.planes; ++plane) {
      for (int64_t to = 0; to < resampled; ++to) {
        for (int64_t from = 0; from < full; ++from) {
          const double weight = map[static_cast<size_t>(to * full + from)];
          if (weight == 0) continue;
          for (int64_t ch = 0; ch < channels; ++ch) {
            const auto i = static_cast<size_t>((plane * full + from) * channels + ch);
            const auto o = static_cast<size_t>((plane * resampled + to) * channels + ch);
            expected[o] += weight * static_cast<double>(input[i]);
            expected_back[i] += weight * static_cast<double>(grad[o]);
          }
        }
      }
    }
    std::vector<float> first[2];
    for (int width : {1, 2}) {
      set_team_width(width);
      a.backward = false;
      a.input = input.data();
      a.output = out.data();
      resampling(a);
      a.backward = true;
      a.input = grad.data();
      a.output = back.data();
      resampling(a);
      for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 1e-4) << i;
      for (size_t i = 0; i < back.size(); ++i) ASSERT_NEAR(back[i], expected_back[i], 1e-4) << i;
      if (width == 1) {
        first[0] = out;
        first[1] = back;
      }
      EXPECT_EQ(out, first[0]);
      EXPECT_EQ(back, first[1]);
    }
    set_team_width(1);
  }
}

using Method = ResamplingMethod;
INSTANTIATE_TEST_SUITE_P(
    Methods, ResamplingOf,
    ::testing::Values(
        Case{Method::Window, {1, 11, 14}, {1, 6, 7}},
        Case{Method::Window, {5, 7, 9}, {3, 4, 5}, false, false},
        Case{Method::Window, {1, 7, 9}, {1, 4, 5}, false, true, 5},
        Case{Method::Adaptive, {1, 9, 13}, {1, 4, 5}}, Case{Method::Adaptive, {1, 3, 4}, {1, 7, 7}},
        Case{Method::Adaptive, {6, 5, 7}, {4, 5, 1}}, Case{Method::Nearest, {1, 4, 8}, {1, 8, 16}},
        Case{Method::Nearest, {3, 8, 8}, {6, 4, 2}},
        Case{Method::NearestExact, {2, 4, 8}, {4, 12, 4}},
        Case{Method::Linear, {1, 1, 40}, {1, 1, 97}}, Case{Method::Linear, {1, 7, 19}, {1, 16, 40}},
        Case{Method::Linear, {1, 19, 37}, {1, 6, 11}}, Case{Method::Linear, {1, 5, 9}, {1, 5, 4}},
        Case{Method::Linear, {4, 5, 6}, {8, 10, 3}},
        Case{Method::Linear, {1, 7, 19}, {1, 16, 40}, true},
        Case{Method::Linear, {4, 5, 6}, {8, 3, 13}, true},
        Case{Method::Cubic, {1, 7, 19}, {1, 16, 40}}, Case{Method::Cubic, {1, 2, 3}, {1, 5, 8}},
        Case{Method::Cubic, {1, 20, 18}, {1, 7, 6}},
        Case{Method::Cubic, {1, 7, 19}, {1, 16, 40}, true},
        Case{Method::LinearAntialiased, {1, 20, 33}, {1, 7, 9}},
        Case{Method::LinearAntialiased, {1, 7, 9}, {1, 20, 33}},
        Case{Method::CubicAntialiased, {1, 20, 33}, {1, 7, 9}}));

// What the layout is changes no bit, nor does 16 bits' way through fp32.
TEST(Resampling, LayoutChangesNoBit) {
  constexpr int64_t kChannels = 19, kRows = 13, kColumns = 21, kOutRows = 30, kOutColumns = 17;
  for (const bool backward : {false, true}) {
    Resampling a;
    a.backward = backward;
    a.axes[1].full = kRows;
    a.axes[2].full = kColumns;
    a.axes[1].resampled = kOutRows;
    a.axes[2].resampled = kOutColumns;
    const int64_t in = backward ? kOutRows * kOutColumns : kRows * kColumns;
    const int64_t out = backward ? kRows * kColumns : kOutRows * kOutColumns;
    const std::vector<float> planes = random_values(kChannels * in, 3);
    std::vector<float> places(planes.size());
    for (int64_t c = 0; c < kChannels; ++c) {
      for (int64_t i = 0; i < in; ++i) {
        places[static_cast<size_t>(i * kChannels + c)] = planes[static_cast<size_t>(c * in + i)];
      }
    }
    std::vector<float> by_planes(static_cast<size_t>(kChannels * out)), by_places = by_planes;
    a.planes = kChannels;
    a.input = planes.data();
    a.output = by_planes.data();
    resampling(a);
    a.planes = 1;
    a.channels = kChannels;
    a.input = places.data();
    a.output = by_places.data();
    resampling(a);
    for (int64_t c = 0; c < kChannels; ++c) {
      for (int64_t i = 0; i < out; ++i) {
        ASSERT_EQ(by_planes[static_cast<size_t>(c * out + i)],
                  by_places[static_cast<size_t>(i * kChannels + c)]);
      }
    }
  }
}

TEST(Resampling, SixteenBitsAreFp32RoundedOnce) {
  Resampling a;
  a.planes = 3;
  a.axes[1].full = 9;
  a.axes[2].full = 23;
  a.axes[1].resampled = 14;
  a.axes[2].resampled = 51;
  std::vector<float> input = random_values(3 * 9 * 23, 4), wide(3 * 14 * 51);
  std::vector<uint16_t> short_input(input.size()), out(wide.size());
  for (size_t i = 0; i < input.size(); ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(input[i]) & 0xffff0000u;
    short_input[i] = static_cast<uint16_t>(bits >> 16);
    input[i] = std::bit_cast<float>(bits);
  }
  a.input = input.data();
  a.output = wide.data();
  resampling(a);
  a.dtype = DType::BFloat16;
  a.input = short_input.data();
  a.output = out.data();
  resampling(a);
  for (size_t i = 0; i < out.size(); ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(wide[i]);
    ASSERT_EQ(out[i], static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16));
  }
}

}  // namespace
}  // namespace accel::kernels
