// Sorts, the first k and single ranks against std::stable_sort: lengths around every change of
// algorithm, every dtype, ties, NaN, and memory laid out along lines and across them.
#include "kernels/sort/sort.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"

namespace accel::kernels {
namespace {

// Elements as the dtype has them in memory; 16-bit floating types as their bits.
double number(uint16_t bits, DType dtype) {
  if (dtype == DType::BFloat16) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
  }
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}
template <class Element>
auto number(Element x, DType) {
  return x;
}

enum class Spread { Wide, Ties, Ascending };

template <class Element>
std::vector<Element> elements(int64_t count, Spread spread) {
  std::mt19937_64 generator(static_cast<uint64_t>(count));
  std::vector<Element> result(static_cast<size_t>(count));
  for (size_t i = 0; i < result.size(); ++i) {
    uint64_t bits = generator();
    if (spread == Spread::Ties) bits %= 4;
    Element x{};
    if constexpr (std::is_floating_point_v<Element>) {
      x = static_cast<Element>(static_cast<int64_t>(bits)) * Element(1e-12);
      if (spread == Spread::Ties) x = static_cast<Element>(bits) - 1;
      if (spread == Spread::Ascending) x = static_cast<Element>(i);
      const Element special[] = {NAN, INFINITY, -INFINITY, -0.0f, 0.0f};
      if (spread != Spread::Ascending && generator() % 8 == 0) x = special[generator() % 5];
    } else {
      x = static_cast<Element>(bits);
      if (spread == Spread::Ascending) x = static_cast<Element>(i);
    }
    result[i] = x;
  }
  return result;
}

template <class Element>
std::vector<int64_t> expected_order(const std::vector<Element>& line, DType dtype,
                                    bool descending) {
  std::vector<int64_t> order(line.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    const auto x = number(line[static_cast<size_t>(i)], dtype);
    const auto y = number(line[static_cast<size_t>(j)], dtype);
    const bool x_nan = x != x, y_nan = y != y;
    return descending ? (x_nan && !y_nan) || x > y : (!x_nan && y_nan) || x < y;
  });
  return order;
}

template <class Element>
void check(DType dtype, int64_t lines, int64_t length, Spread spread, bool across) {
  SCOPED_TRACE("dtype " + std::to_string(static_cast<int>(dtype)) + ", " + std::to_string(lines) +
               " lines of " + std::to_string(length) + ", spread " +
               std::to_string(static_cast<int>(spread)) + (across ? ", across" : ""));
  constexpr int64_t kSize = sizeof(Element);
  auto input = elements<Element>(lines * length, spread);
  const int64_t line_step = across ? 1 : length, step = across ? lines : 1;
  for (const bool descending : {false, true}) {
    std::vector<std::vector<int64_t>> orders;
    for (int64_t line = 0; line < lines; ++line) {
      std::vector<Element> one(static_cast<size_t>(length));
      for (int64_t i = 0; i < length; ++i) {
        one[static_cast<size_t>(i)] = input[static_cast<size_t>(line * line_step + i * step)];
      }
      orders.push_back(expected_order(one, dtype, descending));
    }
    for (const int64_t count : {length, (length + 1) / 2, length / 5, int64_t{50}, int64_t{1}}) {
      if (count < 1 || count > length) continue;
      const size_t room = static_cast<size_t>(lines * count);
      std::vector<Element> values(room + 1);
      std::vector<int64_t> indices(room + 1, -7);
      const int64_t out_line = across ? 1 : count, out_step = across ? lines : 1;
      Sort args;
      args.sizes = {lines};
      args.length = length;
      args.count = count;
      args.order = descending ? SortOrder::Descending : SortOrder::Ascending;
      args.in = {input.data(), dtype, {line_step * kSize}, step * kSize};
      args.values = {values.data(), dtype, {out_line * kSize}, out_step * kSize};
      args.indices = {indices.data(), DType::Int64, {out_line * 8}, out_step * 8};
      sort(args);
      for (int64_t line = 0; line < lines; ++line) {
        for (int64_t i = 0; i < count; ++i) {
          const size_t at = static_cast<size_t>(line * out_line + i * out_step);
          const int64_t place = orders[static_cast<size_t>(line)][static_cast<size_t>(i)];
          ASSERT_EQ(indices[at], place) << "k " << count << " line " << line << " number " << i;
          ASSERT_EQ(
              std::memcmp(&values[at], &input[static_cast<size_t>(line * line_step + place * step)],
                          sizeof(Element)),
              0);
        }
      }
      ASSERT_EQ(indices[room], -7);
    }
    if (descending) continue;
    for (const int64_t k : {int64_t{0}, length / 3, length - 1}) {
      std::vector<Element> values(static_cast<size_t>(lines));
      std::vector<int64_t> indices(static_cast<size_t>(lines));
      Select args;
      args.sizes = {lines};
      args.length = length;
      args.k = k;
      args.in = {input.data(), dtype, {line_step * kSize}, step * kSize};
      args.values = {values.data(), dtype, {kSize}, 0};
      args.indices = {indices.data(), DType::Int64, {8}, 0};
      select(args);
      for (int64_t line = 0; line < lines; ++line) {
        ASSERT_EQ(indices[static_cast<size_t>(line)],
                  orders[static_cast<size_t>(line)][static_cast<size_t>(k)]);
      }
    }
  }
}

template <class Element>
void sweep(DType dtype) {
  for (const int64_t length :
       {1, 2, 7, 8, 9, 63, 64, 65, 95, 96, 97, 200, 1023, 1024, 1025, 6000}) {
    for (const Spread spread : {Spread::Wide, Spread::Ties, Spread::Ascending}) {
      for (const bool across : {false, true}) {
        check<Element>(dtype, length > 1000 ? 2 : 19, length, spread, across);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(Sort, Float32) { sweep<float>(DType::Float32); }
TEST(Sort, Float64) { sweep<double>(DType::Float64); }
TEST(Sort, BFloat16) { sweep<uint16_t>(DType::BFloat16); }
TEST(Sort, Float16) { sweep<uint16_t>(DType::Float16); }
TEST(Sort, Int64) { sweep<int64_t>(DType::Int64); }
TEST(Sort, Int32) { sweep<int32_t>(DType::Int32); }
TEST(Sort, Int16) { sweep<int16_t>(DType::Int16); }
TEST(Sort, Int8) { sweep<int8_t>(DType::Int8); }
TEST(Sort, UInt8) { sweep<uint8_t>(DType::UInt8); }

// A line that the whole team sorts.
TEST(Sort, LongLines) {
  for (const int width : {1, 2}) {
    set_team_width(width);
    for (const int64_t length : {131071, 131072, 200001}) {
      check<float>(DType::Float32, 2, length, Spread::Wide, false);
      check<int64_t>(DType::Int64, 1, length, Spread::Ties, false);
      check<double>(DType::Float64, 1, length, Spread::Wide, true);
    }
  }
  set_team_width(1);
}

TEST(Select, Medians) {
  const float nan = NAN;
  const float lines[4][5] = {
      {5, 1, 4, 2, 3}, {5, nan, 4, nan, 3}, {nan, nan, nan, nan, nan}, {2, 2, nan, 1, 7}};
  float values[4];
  int64_t indices[4];
  Select args;
  args.sizes = {4};
  args.length = 5;
  args.in = {const_cast<float*>(&lines[0][0]), DType::Float32, {20}, 4};
  args.values = {values, DType::Float32, {4}, 0};
  args.indices = {indices, DType::Int64, {8}, 0};
  args.rank = Rank::Median;
  select(args);
  EXPECT_EQ(values[0], 3);
  EXPECT_EQ(indices[0], 4);
  EXPECT_TRUE(std::isnan(values[1]) && std::isnan(values[2]) && std::isnan(values[3]));
  EXPECT_EQ(indices[1], 1);
  EXPECT_EQ(indices[2], 0);
  EXPECT_EQ(indices[3], 2);
  args.rank = Rank::NanMedian;
  select(args);
  EXPECT_EQ(values[1], 4);
  EXPECT_TRUE(std::isnan(values[2]));
  EXPECT_EQ(indices[2], 0);
  EXPECT_EQ(values[3], 2);
  EXPECT_EQ(indices[3], 0);
  args.indices = {};
  select(args);
  EXPECT_EQ(values[0], 3);
}

}  // namespace
}  // namespace accel::kernels
