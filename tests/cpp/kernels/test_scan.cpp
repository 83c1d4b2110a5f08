// Scans and the reductions that find a place, against plain loops: lengths around a block, lanes
// around a vector, every dtype, memory laid out along lines, across them, and apart.
#include "kernels/scan/scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"

namespace accel::kernels {
namespace {

struct Layout {
  const char* name;
  int64_t lane, step;  // strides in elements, for `lanes` lanes of `length`
};

Layout layout_of(int kind, int64_t lanes, int64_t length) {
  if (kind == 0) return {"along", length, 1};
  if (kind == 1) return {"across", 1, lanes};
  if (kind == 2) return {"apart", 3 * length, 3};
  return {"apart across", 2, 2 * lanes + 1};
}
constexpr int kLayouts = 4;

int64_t extent(const Layout& layout, int64_t lanes, int64_t length) {
  return (lanes - 1) * layout.lane + (length - 1) * layout.step + 1;
}

template <class Element>
LineOperand operand(Element* data, DType dtype, const Layout& layout) {
  constexpr int64_t kSize = sizeof(Element);
  return {data, dtype, {layout.lane * kSize}, layout.step * kSize};
}

const int64_t kLengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 100, 4095, 4096, 4097, 12288, 12300};
const int64_t kLaneCounts[] = {1, 2, 15, 16, 17, 33};

template <class Element>
std::vector<Element> random_elements(int64_t count, bool with_nan) {
  std::mt19937 generator(5);
  std::uniform_int_distribution<int> uniform(-3, 3);
  std::vector<Element> elements(static_cast<size_t>(count));
  for (Element& x : elements) {
    x = static_cast<Element>(uniform(generator));
    if constexpr (std::is_floating_point_v<Element>) {
      const int kind = static_cast<int>(generator() % 60);
      if (with_nan && kind == 0) x = NAN;
      if (with_nan && kind == 1) x = INFINITY;
      if (with_nan && kind == 2) x = -INFINITY;
    }
  }
  return elements;
}

template <class Element>
bool same(Element a, Element b) {
  return a == b || (a != a && b != b);
}

// Extrema, whose results are exact whatever the order.
template <class Element>
void check_extrema(DType dtype, int64_t lanes, int64_t length, int in_kind, int out_kind) {
  const Layout in = layout_of(in_kind, lanes, length), out = layout_of(out_kind, lanes, length);
  SCOPED_TRACE(std::to_string(lanes) + " lanes of " + std::to_string(length) + ", " + in.name +
               " to " + out.name);
  auto input = random_elements<Element>(extent(in, lanes, length), true);
  const size_t room = static_cast<size_t>(extent(out, lanes, length));
  for (const ScanOp op : {ScanOp::LastMaximum, ScanOp::LastMinimum}) {
    const bool maximum = op == ScanOp::LastMaximum;
    std::vector<Element> values(room);
    std::vector<int64_t> indices(room, -1), kept_indices(static_cast<size_t>(lanes));
    std::vector<Element> kept(static_cast<size_t>(lanes));
    Scan args;
    args.op = op;
    args.sizes = {lanes};
    args.length = length;
    args.in = operand(input.data(), dtype, in);
    args.values = operand(values.data(), dtype, out);
    args.indices = operand(indices.data(), DType::Int64, out);
    scan(args);
    args.op = maximum ? ScanOp::FirstMaximum : ScanOp::FirstMinimum;
    args.values = operand(kept.data(), dtype, {"", 1, 0});
    args.indices = operand(kept_indices.data(), DType::Int64, {"", 1, 0});
    arg_reduce(args);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      Element last = input[static_cast<size_t>(lane * in.lane)], first = last;
      int64_t last_place = 0, first_place = 0;
      for (int64_t i = 0; i < length; ++i) {
        const Element x = input[static_cast<size_t>(lane * in.lane + i * in.step)];
        const bool nan = x != x;
        if (nan || (last == last && (maximum ? x >= last : x <= last))) last = x, last_place = i;
        if ((nan && first == first) || (maximum ? x > first : x < first))
          first = x, first_place = i;
        const size_t at = static_cast<size_t>(lane * out.lane + i * out.step);
        ASSERT_TRUE(same(values[at], last)) << lane << " " << i;
        ASSERT_EQ(indices[at], last_place) << lane << " " << i;
      }
      ASSERT_TRUE(same(kept[static_cast<size_t>(lane)], first)) << lane;
      ASSERT_EQ(kept_indices[static_cast<size_t>(lane)], first_place) << lane;
    }
  }
}

template <class Element>
void check_extrema(DType dtype) {
  for (const int64_t length : kLengths) {
    for (const int64_t lanes : kLaneCounts) {
      if (length * lanes > 50000) continue;
      for (int kind = 0; kind < kLayouts; ++kind) {
        check_extrema<Element>(dtype, lanes, length, kind, (kind + static_cast<int>(lanes)) % 4);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(Scan, ExtremaOfFloat32) { check_extrema<float>(DType::Float32); }
TEST(Scan, ExtremaOfFloat64) { check_extrema<double>(DType::Float64); }
TEST(Scan, ExtremaOfInt64) { check_extrema<int64_t>(DType::Int64); }
TEST(Scan, ExtremaOfInt32) { check_extrema<int32_t>(DType::Int32); }
TEST(Scan, ExtremaOfInt8) { check_extrema<int8_t>(DType::Int8); }

// Small whole numbers, whose sums are exact in any order, and products that wrap.
template <class In, class Out>
void check_arithmetic(DType from, DType to) {
  for (const int64_t length : kLengths) {
    for (const int64_t lanes : kLaneCounts) {
      if (length * lanes > 50000) continue;
      for (int kind = 0; kind < kLayouts; ++kind) {
        const Layout in = layout_of(kind, lanes, length);
        const Layout out = layout_of((kind + static_cast<int>(length)) % 4, lanes, length);
        SCOPED_TRACE(std::to_string(lanes) + " lanes of " + std::to_string(length) + ", " +
                     in.name + " to " + out.name);
        auto input = random_elements<In>(extent(in, lanes, length), false);
        const size_t room = static_cast<size_t>(extent(out, lanes, length));
        const bool whole = std::is_integral_v<Out>;
        std::vector<Out> sums(room), products(room);
        Scan args;
        args.sizes = {lanes};
        args.length = length;
        args.in = operand(input.data(), from, in);
        args.values = operand(sums.data(), to, out);
        scan(args);
        args.op = ScanOp::Product;
        args.values = operand(products.data(), to, out);
        if (whole) scan(args);
        for (int64_t lane = 0; lane < lanes; ++lane) {
          double sum = 0;
          uint64_t product = 1;
          for (int64_t i = 0; i < length; ++i) {
            const In x = input[static_cast<size_t>(lane * in.lane + i * in.step)];
            sum += static_cast<double>(x);
            product *= static_cast<uint64_t>(static_cast<int64_t>(x));
            const size_t at = static_cast<size_t>(lane * out.lane + i * out.step);
            ASSERT_EQ(sums[at],
                      whole ? static_cast<Out>(static_cast<int64_t>(sum)) : static_cast<Out>(sum));
            if (whole) {
              ASSERT_EQ(products[at], static_cast<Out>(product));
            }
          }
        }
      }
    }
  }
}

TEST(Scan, SumsOfFloat32) { check_arithmetic<float, float>(DType::Float32, DType::Float32); }
TEST(Scan, SumsOfFloat64) { check_arithmetic<double, double>(DType::Float64, DType::Float64); }
TEST(Scan, SumsOfInt64) { check_arithmetic<int64_t, int64_t>(DType::Int64, DType::Int64); }
TEST(Scan, SumsOfInt8InInt64) { check_arithmetic<int8_t, int64_t>(DType::Int8, DType::Int64); }
TEST(Scan, SumsOfInt16) { check_arithmetic<int16_t, int16_t>(DType::Int16, DType::Int16); }
TEST(Scan, SumsOfUInt8Wrap) { check_arithmetic<uint8_t, uint8_t>(DType::UInt8, DType::UInt8); }

TEST(Scan, ProductsOfFloats) {
  std::vector<double> wide(9000), wide_out(9000);
  std::vector<float> narrow(9000), narrow_out(9000);
  for (size_t i = 0; i < wide.size(); ++i) {
    wide[i] = narrow[i] = i % 3 == 0 ? 0.5f : i % 3 == 1 ? -4 : 0.5f;
  }
  Scan args;
  args.op = ScanOp::Product;
  args.length = 9000;
  args.in = {wide.data(), DType::Float64, {}, 8};
  args.values = {wide_out.data(), DType::Float64, {}, 8};
  scan(args);
  args.in = {narrow.data(), DType::Float32, {}, 4};
  args.values = {narrow_out.data(), DType::Float32, {}, 4};
  scan(args);
  double product = 1;
  for (size_t i = 0; i < wide.size(); ++i) {
    product *= wide[i];
    ASSERT_EQ(wide_out[i], product);
    ASSERT_EQ(narrow_out[i], static_cast<float>(product));
  }
}

// bf16: x + 1 for every x rounds to x from 256 on if it is rounded at each step.
TEST(Scan, SixteenBitsAccumulateInFp32) {
  for (const int64_t length : {1000, 5000}) {
    std::vector<uint16_t> ones(static_cast<size_t>(length), 0x3f80), out(ones.size());
    Scan args;
    args.length = length;
    args.in = {ones.data(), DType::BFloat16, {}, 2};
    args.values = {out.data(), DType::BFloat16, {}, 2};
    scan(args);
    const uint32_t bits = static_cast<uint32_t>(out.back()) << 16;
    float last;
    std::memcpy(&last, &bits, 4);
    EXPECT_NEAR(last, static_cast<double>(length), static_cast<double>(length) / 256);
  }
}

template <class Real>
void check_log_sum_exp(DType dtype, double tolerance) {
  std::mt19937 generator(9);
  std::normal_distribution<double> normal(0, 20);
  for (const int64_t length : {1, 17, 1000, 4097, 9000}) {
    for (const int64_t lanes : {1, 17}) {
      for (int kind = 0; kind < kLayouts; ++kind) {
        const Layout layout = layout_of(kind, lanes, length);
        std::vector<Real> in(static_cast<size_t>(extent(layout, lanes, length))), out(in.size());
        for (Real& x : in) x = static_cast<Real>(normal(generator));
        in[0] = -INFINITY;
        Scan args;
        args.op = ScanOp::LogSumExp;
        args.sizes = {lanes};
        args.length = length;
        args.in = operand(in.data(), dtype, layout);
        args.values = operand(out.data(), dtype, layout);
        scan(args);
        for (int64_t lane = 0; lane < lanes; ++lane) {
          long double sum = 0;
          for (int64_t i = 0; i < length; ++i) {
            const size_t at = static_cast<size_t>(lane * layout.lane + i * layout.step);
            sum += std::exp(static_cast<long double>(in[at]));
            const double expected = static_cast<double>(std::log(sum));
            if (std::isinf(expected)) {
              ASSERT_EQ(static_cast<double>(out[at]), expected);
            } else {
              ASSERT_NEAR(out[at], expected, tolerance * (1 + std::fabs(expected)));
            }
          }
        }
      }
    }
  }
}

TEST(Scan, LogSumExp) {
  check_log_sum_exp<float>(DType::Float32, 5e-7);
  check_log_sum_exp<double>(DType::Float64, 1e-14);
}

// A small term beside a large one: log(1 + e) is e.
TEST(Scan, LogSumExpKeepsSmallTerms) {
  float x[2] = {0, -20}, y[2];
  Scan args;
  args.op = ScanOp::LogSumExp;
  args.length = 2;
  args.in = {x, DType::Float32, {}, 4};
  args.values = {y, DType::Float32, {}, 4};
  scan(args);
  EXPECT_NEAR(y[1] / std::exp(-20.0), 1, 1e-6);
}

// Several kept dimensions, one of them broadcast, and a result in place.
TEST(Scan, KeptDimensionsInPlaceAndBroadcast) {
  std::vector<int64_t> x(3 * 5 * 7 * 2), y(4 * 3 * 5 * 7 * 2);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int64_t>(i * i % 11);
  Scan args;
  args.sizes = {4, 3, 7, 2};
  args.length = 5;
  args.in = {x.data(), DType::Int64, {0, 5 * 7 * 2 * 8, 2 * 8, 8}, 7 * 2 * 8};
  args.values = {y.data(), DType::Int64, {3 * 5 * 7 * 2 * 8, 5 * 7 * 2 * 8, 2 * 8, 8}, 7 * 2 * 8};
  scan(args);
  std::vector<int64_t> z = x;
  args.sizes = {3, 7, 2};
  args.in = args.values = {z.data(), DType::Int64, {5 * 7 * 2 * 8, 2 * 8, 8}, 7 * 2 * 8};
  scan(args);
  for (size_t i = 0; i < 3; ++i) {
    for (size_t k = 0; k < 14; ++k) {
      int64_t sum = 0;
      for (size_t j = 0; j < 5; ++j) {
        const size_t at = (i * 5 + j) * 14 + k;
        sum += x[at];
        ASSERT_EQ(z[at], sum);
        for (size_t copy = 0; copy < 4; ++copy) ASSERT_EQ(y[copy * x.size() + at], sum);
      }
    }
  }
}

TEST(Scan, SameBitsForAnyTeamAndLayout) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  const int64_t lanes = 20, length = 30000;
  std::vector<float> along(lanes * length), across(along.size());
  for (int64_t lane = 0; lane < lanes; ++lane) {
    for (int64_t i = 0; i < length; ++i) {
      const size_t at = static_cast<size_t>(lane * length + i);
      across[static_cast<size_t>(i * lanes + lane)] = along[at] = normal(generator) / 100 + 1;
    }
  }
  for (const ScanOp op : {ScanOp::Sum, ScanOp::Product, ScanOp::LogSumExp}) {
    std::vector<float> one(along.size()), two(along.size()), other(along.size());
    Scan args;
    args.op = op;
    args.sizes = {lanes};
    args.length = length;
    args.in = operand(along.data(), DType::Float32, layout_of(0, lanes, length));
    args.values = operand(one.data(), DType::Float32, layout_of(0, lanes, length));
    scan(args);
    set_team_width(2);
    args.values.data = two.data();
    scan(args);
    args.in = operand(across.data(), DType::Float32, layout_of(1, lanes, length));
    args.values = operand(other.data(), DType::Float32, layout_of(0, lanes, length));
    scan(args);
    set_team_width(1);
    EXPECT_EQ(one, two);
    EXPECT_EQ(one, other);
  }
}

}  // namespace
}  // namespace accel::kernels
