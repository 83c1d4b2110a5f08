// Several arrays into one, against plain loops in wider types.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/combine/combine.h"
#include "tests/cpp/kernels/elements_test.h"

namespace accel::kernels {
namespace {

constexpr int64_t kLengths[] = {0, 1, 2, 3, 7, 15, 16, 17, 31, 63, 64, 65, 255, 256, 257, 1000};
constexpr int kGuard = 64;

// Arrays that begin one element off, with a guard behind the end.
struct Arrays {
  std::vector<std::vector<uint8_t>> memory;
  int64_t element;

  Arrays(int count, int64_t elements, int64_t size) : element(size) {
    for (int i = 0; i < count; ++i) {
      memory.emplace_back(static_cast<size_t>((elements + 1) * size + kGuard), uint8_t{0xa5});
    }
  }
  void* at(int i) { return memory[static_cast<size_t>(i)].data() + element; }
  std::vector<const void*> sources(int count) {
    std::vector<const void*> result;
    for (int i = 0; i < count; ++i) result.push_back(at(i));
    return result;
  }
  void expect_guard(int i) const {
    const auto& bytes = memory[static_cast<size_t>(i)];
    for (size_t k = bytes.size() - kGuard; k < bytes.size(); ++k) ASSERT_EQ(bytes[k], 0xa5);
  }
};

template <class Integer>
Integer apply(CombineOp op, Integer a, Integer b) {
  using Unsigned = std::make_unsigned_t<Integer>;
  const auto x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
  switch (op) {
    case CombineOp::Product:
      return static_cast<Integer>(x * y);
    case CombineOp::Minimum:
      return std::min(a, b);
    case CombineOp::Maximum:
      return std::max(a, b);
    case CombineOp::UnsignedMinimum:
      return static_cast<Integer>(std::min(static_cast<Unsigned>(a), static_cast<Unsigned>(b)));
    case CombineOp::UnsignedMaximum:
      return static_cast<Integer>(std::max(static_cast<Unsigned>(a), static_cast<Unsigned>(b)));
    case CombineOp::And:
      return static_cast<Integer>(x & y);
    case CombineOp::Or:
      return static_cast<Integer>(x | y);
    case CombineOp::Xor:
      return static_cast<Integer>(x ^ y);
    default:
      return static_cast<Integer>(x + y);
  }
}

template <class Integer>
void check_integers(DType dtype) {
  std::mt19937_64 random(3);
  for (int op = 0; op <= static_cast<int>(CombineOp::Xor); ++op) {
    for (const int count : {1, 2, 3, 5}) {
      for (const int64_t elements : kLengths) {
        Arrays arrays(count + 1, elements, sizeof(Integer));
        Combination combination;
        combination.op = static_cast<CombineOp>(op);
        combination.dtype = dtype;
        combination.divisor = combination.op == CombineOp::Sum ? count : 1;
        std::vector<Integer> expected(static_cast<size_t>(elements));
        for (int64_t i = 0; i < elements; ++i) {
          Integer total{};
          for (int s = 0; s < count; ++s) {
            const auto value = static_cast<Integer>(random());
            std::memcpy(static_cast<Integer*>(arrays.at(s)) + i, &value, sizeof(value));
            total = s == 0 ? value : apply(combination.op, total, value);
          }
          expected[static_cast<size_t>(i)] = static_cast<Integer>(total / combination.divisor);
        }
        const auto sources = arrays.sources(count);
        combine(combination, arrays.at(count), sources.data(), count, elements);
        ASSERT_TRUE(elements == 0 || std::memcmp(arrays.at(count), expected.data(),
                                                 expected.size() * sizeof(Integer)) == 0)
            << "op " << op << " of " << count << " x " << elements;
        arrays.expect_guard(count);
      }
    }
  }
}

TEST(Combine, IntegersOfEveryOp) {
  check_integers<int8_t>(DType::Int8);
  check_integers<int16_t>(DType::Int16);
  check_integers<int32_t>(DType::Int32);
  check_integers<int64_t>(DType::Int64);
}

TEST(Combine, BytesAreUnsigned) {
  const uint8_t a[] = {200, 3, 0, 255}, b[] = {100, 250, 1, 255};
  const void* sources[] = {a, b};
  uint8_t out[4];
  Combination combination;
  combination.dtype = DType::UInt8;
  combination.op = CombineOp::Maximum;
  combine(combination, out, sources, 2, 4);
  EXPECT_EQ(std::vector<int>(out, out + 4), (std::vector<int>{200, 250, 1, 255}));
  combination.op = CombineOp::Minimum;
  combine(combination, out, sources, 2, 4);
  EXPECT_EQ(std::vector<int>(out, out + 4), (std::vector<int>{100, 3, 0, 255}));
}

TEST(Combine, BoolsStayBools) {
  const uint8_t a[] = {0, 0, 1, 1}, b[] = {0, 1, 0, 1};
  const void* sources[] = {a, b};
  uint8_t out[4];
  Combination combination;
  combination.dtype = DType::Bool;
  const auto result = [&](CombineOp op) {
    combination.op = op;
    combine(combination, out, sources, 2, 4);
    return std::vector<int>(out, out + 4);
  };
  const std::vector<int> either{0, 1, 1, 1}, both{0, 0, 0, 1}, one{0, 1, 1, 0};
  EXPECT_EQ(result(CombineOp::Sum), either);
  EXPECT_EQ(result(CombineOp::Maximum), either);
  EXPECT_EQ(result(CombineOp::Or), either);
  EXPECT_EQ(result(CombineOp::Product), both);
  EXPECT_EQ(result(CombineOp::Minimum), both);
  EXPECT_EQ(result(CombineOp::And), both);
  EXPECT_EQ(result(CombineOp::Xor), one);
}

// One step of the sum in the dtype that is computed in.
double step(CombineOp op, DType dtype, double a, double b) {
  double result = 0;
  switch (op) {
    case CombineOp::Product:
      result = a * b;
      break;
    case CombineOp::Minimum:
      return std::isnan(a) || std::isnan(b) ? NAN : std::min(a, b);
    case CombineOp::Maximum:
      return std::isnan(a) || std::isnan(b) ? NAN : std::max(a, b);
    default:
      result = a + b;
  }
  // Both are floats, so that the double result is rounded as the float operation rounds.
  return dtype == DType::Float64 ? result : static_cast<double>(static_cast<float>(result));
}

double tolerance(DType dtype) {
  return dtype == DType::BFloat16 ? 0x1p-8 : dtype == DType::Float16 ? 0x1p-10 : 0;
}

TEST(Combine, FloatingNumbersFromLeftToRight) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(-2, 2);
  for (const DType dtype : {DType::Float32, DType::Float64, DType::BFloat16, DType::Float16}) {
    for (int op = 0; op <= static_cast<int>(CombineOp::Maximum); ++op) {
      for (const int count : {1, 2, 3, 5}) {
        for (const int64_t elements : kLengths) {
          Arrays arrays(count, elements, size_of(dtype));
          Combination combination;
          combination.op = static_cast<CombineOp>(op);
          combination.dtype = dtype;
          std::vector<double> expected;
          for (int64_t i = 0; i < elements; ++i) {
            double total = 0;
            for (int s = 0; s < count; ++s) {
              write_element(arrays.at(s), i, dtype, i == 5 && s == 1 ? NAN : uniform(random));
              const double value = read_element(arrays.at(s), i, dtype);
              total = s == 0 ? value : step(combination.op, dtype, total, value);
            }
            expected.push_back(total);
          }
          const auto sources = arrays.sources(count);
          // In place: the result takes the place of the last source.
          combine(combination, arrays.at(count - 1), sources.data(), count, elements);
          for (int64_t i = 0; i < elements; ++i) {
            const double actual = read_element(arrays.at(count - 1), i, dtype);
            const double wanted = expected[static_cast<size_t>(i)];
            if (std::isnan(wanted)) {
              ASSERT_TRUE(std::isnan(actual));
            } else {
              ASSERT_LE(std::fabs(actual - wanted),
                        tolerance(dtype) * std::fabs(wanted) + 1e-7 * (tolerance(dtype) > 0))
                  << "op " << op << " of " << count << " x " << elements << " at " << i;
            }
          }
          arrays.expect_guard(count - 1);
        }
      }
    }
  }
}

TEST(Combine, InPlaceEveryArrayBecomesTheResult) {
  std::mt19937 random(7);
  for (const DType dtype : {DType::Float32, DType::BFloat16, DType::ComplexFloat64, DType::Int64,
                            DType::Int16, DType::UInt8, DType::Bool}) {
    for (const int64_t divisor : {1, 3}) {
      for (const int count : {1, 2, 3, 5}) {
        // Beyond what integers are divided at a time, too.
        for (const int64_t elements : {0, 1, 17, 257, 9000}) {
          Arrays arrays(count + 1, elements, size_of(dtype));
          // Bytes of bools and integers, halves of complex numbers.
          const DType part = dtype == DType::ComplexFloat64 ? DType::Float64
                             : is_floating(dtype)           ? dtype
                                                            : DType::Bool;
          for (int s = 0; s < count; ++s) {
            for (int64_t i = 0; i < elements * size_of(dtype) / size_of(part); ++i) {
              write_element(arrays.at(s), i, part, static_cast<double>(random() % 2));
            }
          }
          Combination combination;
          combination.dtype = dtype;
          combination.divisor = divisor;
          combine(combination, arrays.at(count), arrays.sources(count).data(), count, elements);
          std::vector<void*> all;
          for (int s = 0; s < count; ++s) all.push_back(arrays.at(s));
          combine_in_place(combination, all.data(), count, elements);
          for (int s = 0; s < count; ++s) {
            ASSERT_EQ(arrays.memory[static_cast<size_t>(s)], arrays.memory.back())
                << "array " << s << " of " << count << ", " << elements << " elements";
          }
        }
      }
    }
  }
}

TEST(Combine, SixteenBitsAreRoundedOnce) {
  // 256 + 1 + 1 + ... in bf16 stays 256 if every sum is rounded.
  constexpr int kCount = 9;
  Arrays arrays(kCount, 40, 2);
  for (int s = 0; s < kCount; ++s) {
    for (int i = 0; i < 40; ++i) write_element(arrays.at(s), i, DType::BFloat16, s == 0 ? 256 : 1);
  }
  Combination combination;
  combination.dtype = DType::BFloat16;
  const auto sources = arrays.sources(kCount);
  combine(combination, arrays.at(0), sources.data(), kCount, 40);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(read_element(arrays.at(0), i, DType::BFloat16), 264);
}

TEST(Combine, FactorsAndDivisors) {
  const float a[] = {1, 2, 3}, b[] = {10, 20, 30};
  const void* sources[] = {a, b};
  const double factors[] = {0.5, 2};
  float out[3];
  Combination combination;
  combination.factors = factors;
  combine(combination, out, sources, 2, 3);
  EXPECT_EQ(std::vector<float>(out, out + 3), (std::vector<float>{20.5f, 41, 61.5f}));
  combination.factors = nullptr;
  combination.divisor = 2;
  combine(combination, out, sources, 2, 3);
  EXPECT_EQ(std::vector<float>(out, out + 3), (std::vector<float>{5.5f, 11, 16.5f}));
}

TEST(Combine, ComplexNumbersAreAddedInBothParts) {
  const float a[] = {1, 2, 3, 4}, b[] = {10, 20, 30, 40};
  const void* sources[] = {a, b};
  float out[4];
  Combination combination;
  combination.dtype = DType::ComplexFloat32;
  combine(combination, out, sources, 2, 2);
  EXPECT_EQ(std::vector<float>(out, out + 4), (std::vector<float>{11, 22, 33, 44}));
  EXPECT_FALSE(can_combine(CombineOp::Product, DType::ComplexFloat32));
  EXPECT_FALSE(can_combine(CombineOp::And, DType::Float32));
}

}  // namespace
}  // namespace accel::kernels
