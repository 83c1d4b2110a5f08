// Convolutions against the definition, in fp64: all three kinds over shapes, layouts and dtypes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/convolution/convolution.h"

namespace accel::kernels {
namespace {

enum class Order { ChannelsFirst, ChannelsLast };

struct Shape {
  int64_t batch, groups, inputs, outputs;  // channels of one group
  int64_t size[3], kernel[3], stride[3], padding[3], dilation[3];
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.batch << "x" << s.groups << "x(" << s.inputs << "->" << s.outputs << ")";
}

float rounded(float value, DType dtype) {
  if (dtype == DType::Float16) return static_cast<float>(static_cast<_Float16>(value));
  if (dtype == DType::Float32) return value;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

// A tensor [batch][channels][size...] in either order, with NaN around it.
class Values {
 public:
  Values(int64_t batch, int64_t channels, const int64_t (&size)[3], Order order, DType dtype)
      : dtype_(dtype), sizes_{batch, channels, size[0], size[1], size[2]} {
    const int by_stride[2][5] = {{4, 3, 2, 1, 0}, {1, 4, 3, 2, 0}};
    int64_t stride = 1;
    for (int dim : by_stride[order == Order::ChannelsLast]) {
      strides_[dim] = stride;
      stride *= sizes_[dim];
    }
    count_ = stride;
    bytes_.resize((count_ + 2 * kMargin) * size_of(dtype));
    for (int64_t i = -kMargin; i < count_ + kMargin; ++i) {
      set(i, std::numeric_limits<float>::quiet_NaN());
    }
  }

  void randomise(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count_; ++i) set(i, rounded(normal(random), dtype_));
  }
  ConvolutionTensor tensor() {
    ConvolutionTensor tensor;
    tensor.data = bytes_.data() + kMargin * size_of(dtype_);
    tensor.batch_stride = strides_[0];
    tensor.channel_stride = strides_[1];
    for (int dim = 0; dim < 3; ++dim) tensor.strides[dim] = strides_[2 + dim];
    return tensor;
  }
  double at(int64_t n, int64_t c, int64_t z, int64_t y, int64_t x) const {
    return get(n * strides_[0] + c * strides_[1] + z * strides_[2] + y * strides_[3] +
               x * strides_[4]);
  }
  const int64_t* sizes() const { return sizes_; }
  const std::vector<char>& bytes() const { return bytes_; }
  bool margins_are_untouched() const {
    for (int64_t i = 0; i < kMargin; ++i) {
      if (get(-1 - i) == get(-1 - i) || get(count_ + i) == get(count_ + i)) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kMargin = 32;

  void set(int64_t i, float value) {
    char* at = bytes_.data() + (i + kMargin) * size_of(dtype_);
    if (dtype_ == DType::Float32) {
      std::memcpy(at, &value, sizeof(value));
    } else if (dtype_ == DType::Float16) {
      const auto half = static_cast<_Float16>(value);
      std::memcpy(at, &half, sizeof(half));
    } else {
      std::memcpy(at, reinterpret_cast<const char*>(&value) + 2, 2);
    }
  }
  float get(int64_t i) const {
    const char* at = bytes_.data() + (i + kMargin) * size_of(dtype_);
    float value = 0;
    if (dtype_ == DType::Float32) {
      std::memcpy(&value, at, sizeof(value));
    } else if (dtype_ == DType::Float16) {
      _Float16 half;
      std::memcpy(&half, at, sizeof(half));
      value = static_cast<float>(half);
    } else {
      std::memcpy(reinterpret_cast<char*>(&value) + 2, at, 2);
    }
    return value;
  }

  DType dtype_;
  int64_t sizes_[5], strides_[5], count_;
  std::vector<char> bytes_;
};

class ConvolutionOf
    : public ::testing::TestWithParam<std::tuple<Shape, DType, Order, ConvolutionKind>> {
 protected:
  // Calls visit(n, o, c in group, output pixel, tap, input pixel) for every product.
  template <class Visit>
  static void for_each(const Convolution& a, const Visit& visit) {
    const int64_t inputs = a.input_channels / a.groups, outputs = a.output_channels / a.groups;
    int64_t p[3], t[3], q[3];
    const auto walk = [](const int64_t(&size)[3], int64_t(&at)[3], const auto& body) {
      for (at[0] = 0; at[0] < size[0]; ++at[0]) {
        for (at[1] = 0; at[1] < size[1]; ++at[1]) {
          for (at[2] = 0; at[2] < size[2]; ++at[2]) body();
        }
      }
    };
    walk(a.output_size, p, [&] {
      walk(a.kernel, t, [&] {
        for (int dim = 0; dim < 3; ++dim) {
          q[dim] = p[dim] * a.stride[dim] - a.padding[dim] + t[dim] * a.dilation[dim];
          if (q[dim] < 0 || q[dim] >= a.input_size[dim]) return;
        }
        for (int64_t n = 0; n < a.batch; ++n) {
          for (int64_t o = 0; o < a.output_channels; ++o) {
            for (int64_t c = 0; c < inputs; ++c) visit(n, o, o / outputs * inputs + c, c, p, t, q);
          }
        }
      });
    });
  }
};

TEST_P(ConvolutionOf, IsTheDefinition) {
  const auto& [shape, dtype, order, kind] = GetParam();
  Convolution args;
  args.kind = kind;
  args.dtype = dtype;
  args.batch = shape.batch;
  args.groups = shape.groups;
  args.input_channels = shape.groups * shape.inputs;
  args.output_channels = shape.groups * shape.outputs;
  for (int dim = 0; dim < 3; ++dim) {
    args.input_size[dim] = shape.size[dim];
    args.kernel[dim] = shape.kernel[dim];
    args.stride[dim] = shape.stride[dim];
    args.padding[dim] = shape.padding[dim];
    args.dilation[dim] = shape.dilation[dim];
    args.output_size[dim] = (shape.size[dim] + 2 * shape.padding[dim] -
                             shape.dilation[dim] * (shape.kernel[dim] - 1) - 1) /
                                shape.stride[dim] +
                            1;
  }
  const Order weight_order = shape.batch % 2 == 0 ? order : Order::ChannelsFirst;
  Values input(args.batch, args.input_channels, args.input_size, order, dtype);
  Values weight(args.output_channels, shape.inputs, args.kernel, weight_order, dtype);
  Values output(args.batch, args.output_channels, args.output_size, order, dtype);
  const int64_t one[3] = {1, 1, 1};
  const bool forward = kind == ConvolutionKind::Output;
  const int64_t channels = forward ? args.output_channels : args.input_channels;
  Values bias(channels, 1, one, Order::ChannelsFirst, dtype);
  bias.randomise(4);
  if (kind != ConvolutionKind::InputGradient) input.randomise(1);
  if (kind != ConvolutionKind::WeightGradient) weight.randomise(2);
  if (!forward) output.randomise(3);
  args.input = input.tensor();
  args.weight = weight.tensor();
  args.output = output.tensor();
  if (kind != ConvolutionKind::WeightGradient) args.bias = bias.tensor().data;

  Values& computed = forward ? output : kind == ConvolutionKind::WeightGradient ? weight : input;
  set_team_width(1);
  convolution(args);
  const std::vector<char> bytes = computed.bytes();
  set_team_width(3);
  convolution(args);
  set_team_width(1);
  EXPECT_EQ(bytes, computed.bytes()) << "bits depend on the team";
  EXPECT_TRUE(computed.margins_are_untouched());

  const int64_t* sizes = computed.sizes();
  const auto place = [&](int64_t n, int64_t c, const int64_t(&at)[3]) {
    return (((n * sizes[1] + c) * sizes[2] + at[0]) * sizes[3] + at[1]) * sizes[4] + at[2];
  };
  std::vector<double> expected(sizes[0] * sizes[1] * sizes[2] * sizes[3] * sizes[4]);
  std::vector<double> magnitudes(expected.size());
  for_each(args, [&](int64_t n, int64_t o, int64_t i, int64_t c, const int64_t(&p)[3],
                     const int64_t(&t)[3], const int64_t(&q)[3]) {
    const double x = forward || kind == ConvolutionKind::WeightGradient
                         ? input.at(n, i, q[0], q[1], q[2])
                         : output.at(n, o, p[0], p[1], p[2]);
    const double y = kind == ConvolutionKind::WeightGradient ? output.at(n, o, p[0], p[1], p[2])
                                                             : weight.at(o, c, t[0], t[1], t[2]);
    const int64_t at = forward                                   ? place(n, o, p)
                       : kind == ConvolutionKind::WeightGradient ? place(o, c, t)
                                                                 : place(n, i, q);
    expected[at] += x * y;
    magnitudes[at] += std::abs(x * y);
  });
  const double unit = dtype == DType::Float32   ? 0
                      : dtype == DType::Float16 ? 1.0 / 2048
                                                : 1.0 / 256;
  int64_t at[3];
  for (int64_t n = 0; n < sizes[0]; ++n) {
    for (int64_t c = 0; c < sizes[1]; ++c) {
      for (at[0] = 0; at[0] < sizes[2]; ++at[0]) {
        for (at[1] = 0; at[1] < sizes[3]; ++at[1]) {
          for (at[2] = 0; at[2] < sizes[4]; ++at[2]) {
            const int64_t i = place(n, c, at);
            const double shift = args.bias ? bias.at(c, 0, 0, 0, 0) : 0;
            const double value = expected[i] + shift;
            const double bound =
                1e-6 * (magnitudes[i] + std::abs(shift)) + unit * (std::abs(value) + 1e-4) + 1e-30;
            ASSERT_NEAR(computed.at(n, c, at[0], at[1], at[2]), value, bound)
                << n << " " << c << " " << at[0] << " " << at[1] << " " << at[2];
          }
        }
      }
    }
  }
}

// clang-format off
constexpr Shape kShapes[] = {
    {1, 1, 1, 1, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}},
    {2, 1, 3, 20, {1, 17, 19}, {1, 7, 7}, {1, 2, 2}, {0, 3, 3}, {1, 1, 1}},   // a stem
    {2, 1, 33, 34, {1, 9, 15}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {1, 1, 64, 40, {1, 14, 14}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}},
    {3, 1, 18, 66, {1, 15, 14}, {1, 1, 1}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}},
    {2, 1, 530, 3, {1, 4, 3}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},    // cut sums
    {1, 1, 80, 17, {1, 1, 300}, {1, 1, 3}, {1, 1, 2}, {0, 0, 1}, {1, 1, 1}},
    {1, 1, 8, 5, {1, 3, 1200}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},   // cut rows
    {2, 1, 5, 6, {1, 12, 13}, {1, 3, 2}, {1, 3, 2}, {0, 2, 1}, {1, 2, 3}},
    {2, 1, 4, 4, {1, 6, 6}, {1, 2, 2}, {1, 4, 4}, {0, 0, 0}, {1, 1, 1}},      // phases without taps
    {1, 1, 7, 9, {5, 6, 7}, {3, 2, 3}, {2, 1, 1}, {1, 0, 1}, {1, 2, 1}},
    {2, 3, 5, 7, {1, 8, 9}, {1, 3, 3}, {1, 2, 1}, {0, 1, 1}, {1, 1, 1}},
    {2, 8, 1, 3, {1, 8, 9}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {1, 1, 9, 8, {1, 70, 57}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {2, 70, 1, 1, {1, 9, 21}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},    // depthwise
    {1, 96, 1, 1, {1, 14, 14}, {1, 7, 7}, {1, 1, 1}, {0, 3, 3}, {1, 1, 1}},
    {2, 17, 1, 1, {1, 16, 13}, {1, 5, 3}, {1, 2, 2}, {0, 2, 1}, {1, 1, 2}},
    {1, 20, 1, 1, {5, 6, 7}, {3, 3, 2}, {1, 2, 1}, {1, 1, 0}, {1, 1, 1}},
};
// clang-format on

INSTANTIATE_TEST_SUITE_P(
    Sweep, ConvolutionOf,
    ::testing::Combine(::testing::ValuesIn(kShapes),
                       ::testing::Values(DType::Float32, DType::BFloat16, DType::Float16),
                       ::testing::Values(Order::ChannelsFirst, Order::ChannelsLast),
                       ::testing::Values(ConvolutionKind::Output, ConvolutionKind::InputGradient,
                                         ConvolutionKind::WeightGradient)));

}  // namespace
}  // namespace accel::kernels
