// Matrix products against a plain double reference, over sizes, layouts, dtypes, batches, engines
// and epilogues. What must not change a bit is compared bit by bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/isa.h"
#include "kernels/common/parallel.h"
#include "kernels/matmul/engine.h"
#include "kernels/matmul/matmul.h"

namespace accel::kernels {
namespace {

// --- Elements of any dtype as doubles ---------------------------------------------------------

float bf16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

uint16_t float_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

double read(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::Float32:
      return static_cast<const float*>(data)[i];
    case DType::Float64:
      return static_cast<const double*>(data)[i];
    case DType::BFloat16:
      return bf16_to_float(static_cast<const uint16_t*>(data)[i]);
    case DType::Float16:
      return static_cast<float>(static_cast<const _Float16*>(data)[i]);
    case DType::Int64:
      return static_cast<double>(static_cast<const int64_t*>(data)[i]);
    case DType::Int32:
      return static_cast<const int32_t*>(data)[i];
    case DType::Int8:
      return static_cast<const int8_t*>(data)[i];
    default:
      return static_cast<const uint8_t*>(data)[i];
  }
}

void write(void* data, DType dtype, int64_t i, double value) {
  switch (dtype) {
    case DType::Float32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      return;
    case DType::Float64:
      static_cast<double*>(data)[i] = value;
      return;
    case DType::BFloat16:
      static_cast<uint16_t*>(data)[i] = float_to_bf16(static_cast<float>(value));
      return;
    case DType::Float16:
      static_cast<_Float16*>(data)[i] = static_cast<_Float16>(static_cast<float>(value));
      return;
    case DType::Int64:
      static_cast<int64_t*>(data)[i] = static_cast<int64_t>(value);
      return;
    case DType::Int32:
      static_cast<int32_t*>(data)[i] = static_cast<int32_t>(value);
      return;
    case DType::Int8:
      static_cast<int8_t*>(data)[i] = static_cast<int8_t>(value);
      return;
    default:
      static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(value);
  }
}

double rounded(double value, DType dtype) {
  alignas(8) char piece[8];
  write(piece, dtype, 0, value);
  return read(piece, dtype, 0);
}

// --- Matrices in memory -----------------------------------------------------------------------

enum class Layout { RowMajor, ColumnMajor, Padded, Spread };

// A batch of matrices in one of the layouts, `offset` bytes off alignment, with guard bytes on both
// sides and in every gap between elements.
class Matrix {
 public:
  static constexpr int64_t kGuard = 256;
  static constexpr unsigned char kGuardByte = 0xff;  // as a float: NaN

  Matrix(int64_t batch, int64_t rows, int64_t columns, DType dtype, Layout layout,
         int64_t offset = 0)
      : batch_(batch), rows_(rows), columns_(columns), dtype_(dtype) {
    switch (layout) {
      case Layout::RowMajor:
        row_stride_ = columns;
        column_stride_ = 1;
        break;
      case Layout::ColumnMajor:
        row_stride_ = 1;
        column_stride_ = rows;
        break;
      case Layout::Padded:
        row_stride_ = columns + 3;
        column_stride_ = 1;
        break;
      case Layout::Spread:
        row_stride_ = 2 * columns + 1;
        column_stride_ = 2;
        break;
    }
    batch_stride_ = layout == Layout::ColumnMajor ? rows * columns : rows * row_stride_ + 5;
    bytes_.assign(2 * kGuard + offset + batch * batch_stride_ * size_of(dtype), kGuardByte);
    data_ = bytes_.data() + kGuard + offset;
  }

  int64_t index(int64_t b, int64_t i, int64_t j) const {
    return b * batch_stride_ + i * row_stride_ + j * column_stride_;
  }
  double at(int64_t b, int64_t i, int64_t j) const { return read(data_, dtype_, index(b, i, j)); }
  void set(int64_t b, int64_t i, int64_t j, double value) {
    write(data_, dtype_, index(b, i, j), value);
  }
  template <typename Next>
  void fill(Next&& next) {
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t i = 0; i < rows_; ++i) {
        for (int64_t j = 0; j < columns_; ++j) set(b, i, j, next());
      }
    }
  }
  MatrixOperand operand() const {
    return {data_, dtype_, batch_stride_, row_stride_, column_stride_};
  }
  Matmul::Output output() { return {data_, batch_stride_, row_stride_, column_stride_}; }
  unsigned char* data() { return data_; }

  // All bytes outside of the elements are untouched.
  bool guards_intact() const {
    std::vector<bool> owned(bytes_.size(), false);
    const int64_t size = size_of(dtype_), start = data_ - bytes_.data();
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t i = 0; i < rows_; ++i) {
        for (int64_t j = 0; j < columns_; ++j) {
          for (int64_t byte = 0; byte < size; ++byte) {
            owned[start + index(b, i, j) * size + byte] = true;
          }
        }
      }
    }
    for (size_t byte = 0; byte < bytes_.size(); ++byte) {
      if (!owned[byte] && bytes_[byte] != kGuardByte) return false;
    }
    return true;
  }

 private:
  int64_t batch_, rows_, columns_;
  DType dtype_;
  int64_t batch_stride_ = 0, row_stride_ = 0, column_stride_ = 0;
  std::vector<unsigned char> bytes_;
  unsigned char* data_ = nullptr;
};

struct Sizes {
  int64_t batch, m, n, k;
};

std::string name_of(const Sizes& s) {
  return std::to_string(s.batch) + " x " + std::to_string(s.m) + " x " + std::to_string(s.n) +
         ", k " + std::to_string(s.k);
}

std::mt19937& engine_of_randomness() {
  static std::mt19937 engine(7);
  return engine;
}

double normal() {
  static std::normal_distribution<double> distribution;
  return distribution(engine_of_randomness());
}

double small_integer() { return std::uniform_int_distribution<int>(0, 20)(engine_of_randomness()); }

Matmul product_of(const Sizes& s, const Matrix& a, const Matrix& b, Matrix& out, DType compute,
                  DType result) {
  Matmul args;
  args.batch = s.batch;
  args.m = s.m;
  args.n = s.n;
  args.k = s.k;
  args.a = a.operand();
  args.b = b.operand();
  args.compute = compute;
  args.result = result;
  args.out = out.output();
  return args;
}

double unit_of(DType dtype) {
  switch (dtype) {
    case DType::Float64:
      return 0x1p-53;
    case DType::BFloat16:
      return 0x1p-8;
    case DType::Float16:
      return 0x1p-11;
    default:
      return 0x1p-24;
  }
}

// Compares with the sum in double. Bound: (blocks of 512 values) half an ulp for each addition in
// the worst order, over the sum of magnitudes, and the rounding of the result.
void expect_close(const Sizes& s, const Matrix& a, const Matrix& b, const Matrix& out,
                  DType compute, DType result, double unit) {
  const bool exact = !is_floating(compute);
  std::vector<double> x(s.m * s.k), y(s.n * s.k);  // rows of A, columns of B
  for (int64_t batch = 0; batch < s.batch; ++batch) {
    for (int64_t k = 0; k < s.k; ++k) {
      for (int64_t i = 0; i < s.m; ++i) x[i * s.k + k] = rounded(a.at(batch, i, k), compute);
      for (int64_t j = 0; j < s.n; ++j) y[j * s.k + k] = rounded(b.at(batch, k, j), compute);
    }
    for (int64_t i = 0; i < s.m; ++i) {
      for (int64_t j = 0; j < s.n; ++j) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < s.k; ++k) {
          const double term = x[i * s.k + k] * y[j * s.k + k];
          sum += term;
          magnitude += std::abs(term);
        }
        const double value = out.at(batch, i, j);
        if (exact) {
          // Sums of the tests fit in a double; the result wraps.
          ASSERT_EQ(value, rounded(static_cast<double>(static_cast<int64_t>(sum)), result))
              << name_of(s) << " at " << batch << ", " << i << ", " << j;
          continue;
        }
        const double additions = std::min<double>(s.k, 512) + s.k / 256.0 + 8;
        const double bound = additions * unit * magnitude + unit_of(result) * std::abs(sum) +
                             (result == DType::Float16 ? 1e-7 : 1e-37);
        ASSERT_LE(std::abs(value - sum), bound)
            << name_of(s) << " at " << batch << ", " << i << ", " << j << ": " << value
            << " instead of " << sum;
      }
    }
  }
}

void check(const Sizes& s, DType memory, DType compute, DType result, Layout layout_a,
           Layout layout_b, Layout layout_out = Layout::RowMajor, int64_t offset = 0,
           int width = 1) {
  Matrix a(s.batch, s.m, s.k, memory, layout_a, offset);
  Matrix b(s.batch, s.k, s.n, memory, layout_b, offset);
  Matrix out(s.batch, s.m, s.n, result, layout_out, offset);
  if (is_floating(memory)) {
    a.fill(normal);
    b.fill(normal);
  } else {
    a.fill(small_integer);
    b.fill(small_integer);
  }
  set_team_width(width);
  matmul(product_of(s, a, b, out, compute, result));
  set_team_width(1);
  const DType accumulator = compute == DType::Float64 ? DType::Float64 : DType::Float32;
  expect_close(s, a, b, out, compute, result, unit_of(accumulator));
  EXPECT_TRUE(out.guards_intact()) << name_of(s);
}

const Sizes kSizes[] = {
    {1, 1, 1, 1},    {1, 2, 2, 1},    {1, 2, 3, 5},      {1, 8, 32, 32},   {1, 13, 31, 7},
    {1, 14, 32, 16}, {1, 15, 33, 17}, {1, 29, 65, 64},   {1, 64, 64, 65},  {1, 127, 129, 33},
    {1, 5, 300, 70}, {1, 200, 5, 70}, {1, 17, 40, 257},  {1, 30, 70, 600}, {1, 70, 300, 513},
    {3, 9, 10, 11},  {5, 20, 50, 30}, {1, 300, 290, 20}, {1, 1, 300, 40},  {1, 300, 1, 40},
    {2, 1, 70, 530}, {2, 70, 1, 530}, {1, 1, 1, 1000},   {9, 1, 5, 3},     {1, 33, 17, 2},
};
const Layout kInputs[] = {Layout::RowMajor, Layout::ColumnMajor, Layout::Padded, Layout::Spread};

// --- Tests ------------------------------------------------------------------------------------

TEST(Matmul, EverySizeAndLayoutFloat32) {
  for (const Sizes& s : kSizes) {
    for (Layout a : kInputs) {
      for (Layout b : kInputs) {
        check(s, DType::Float32, DType::Float32, DType::Float32, a, b);
      }
    }
  }
}

TEST(Matmul, EverySizeAndLayoutBFloat16) {
  for (const Sizes& s : kSizes) {
    for (Layout a : kInputs) {
      for (Layout b : kInputs) {
        check(s, DType::BFloat16, DType::BFloat16, DType::BFloat16, a, b);
      }
    }
  }
}

TEST(Matmul, EverySizeOtherDTypes) {
  const DType dtypes[] = {DType::Float16, DType::Float64, DType::Int64,
                          DType::Int32,   DType::Int8,    DType::UInt8};
  for (const Sizes& s : kSizes) {
    for (DType dtype : dtypes) {
      for (Layout layout : {Layout::RowMajor, Layout::ColumnMajor}) {
        const bool narrow = dtype == DType::Int8 || dtype == DType::UInt8;
        if (narrow && s.k > 40) continue;  // the reference's sums would not fit
        check(s, dtype, dtype, dtype, layout, Layout::RowMajor);
        check(s, dtype, dtype, dtype, Layout::Padded, layout);
      }
    }
  }
}

TEST(Matmul, ConvertsWhilePacking) {
  for (const Sizes& s : kSizes) {
    for (Layout layout : kInputs) {
      check(s, DType::Float32, DType::BFloat16, DType::BFloat16, layout, Layout::RowMajor);
      check(s, DType::Float32, DType::BFloat16, DType::Float32, Layout::RowMajor, layout);
      check(s, DType::Float32, DType::Float16, DType::Float16, layout, layout);
      check(s, DType::BFloat16, DType::Float32, DType::Float32, layout, Layout::ColumnMajor);
      check(s, DType::Float16, DType::Float32, DType::Float32, layout, Layout::RowMajor);
      check(s, DType::Float32, DType::Float64, DType::Float64, layout, Layout::ColumnMajor);
    }
  }
}

TEST(Matmul, MisalignedInputsAndStridedOutputs) {
  for (const Sizes& s :
       {Sizes{1, 31, 67, 45}, Sizes{2, 50, 40, 300}, Sizes{1, 1, 77, 33}, Sizes{1, 77, 1, 33}}) {
    for (Layout out : kInputs) {
      for (int64_t offset : {4, 12, 36}) {
        check(s, DType::Float32, DType::Float32, DType::Float32, Layout::RowMajor,
              Layout::ColumnMajor, out, offset);
        check(s, DType::BFloat16, DType::BFloat16, DType::BFloat16, Layout::Padded,
              Layout::RowMajor, out, offset + 2);
      }
    }
  }
}

TEST(Matmul, LargeProductsOfATeam) {
  for (const Sizes& s : {Sizes{1, 150, 700, 300}, Sizes{1, 700, 150, 90}, Sizes{40, 30, 40, 50},
                         Sizes{3, 130, 270, 64}, Sizes{1, 160, 280, 4200}}) {
    for (DType dtype : {DType::Float32, DType::BFloat16}) {
      check(s, dtype, dtype, dtype, Layout::RowMajor, Layout::ColumnMajor, Layout::RowMajor, 0, 2);
      check(s, dtype, dtype, dtype, Layout::ColumnMajor, Layout::RowMajor, Layout::Padded, 0, 3);
    }
  }
}

TEST(Matmul, BroadcastsOverTheBatch) {
  const Sizes s{4, 20, 30, 40};
  Matrix a(1, s.m, s.k, DType::Float32, Layout::RowMajor);
  Matrix b(s.batch, s.k, s.n, DType::Float32, Layout::RowMajor);
  Matrix out(s.batch, s.m, s.n, DType::Float32, Layout::RowMajor);
  a.fill(normal);
  b.fill(normal);
  Matmul args = product_of(s, a, b, out, DType::Float32, DType::Float32);
  args.a.batch_stride = 0;
  matmul(args);
  for (int64_t batch = 0; batch < s.batch; ++batch) {
    Matrix one(1, s.m, s.n, DType::Float32, Layout::RowMajor);
    Matmul single = product_of({1, s.m, s.n, s.k}, a, b, one, DType::Float32, DType::Float32);
    single.b.data = static_cast<const float*>(args.b.data) + batch * args.b.batch_stride;
    matmul(single);
    for (int64_t i = 0; i < s.m; ++i) {
      for (int64_t j = 0; j < s.n; ++j) ASSERT_EQ(out.at(batch, i, j), one.at(0, i, j));
    }
  }
}

TEST(Matmul, EmptySizes) {
  for (DType dtype : {DType::Float32, DType::BFloat16, DType::Float64, DType::Int32}) {
    check({1, 20, 40, 0}, dtype, dtype, dtype, Layout::RowMajor, Layout::RowMajor);
    check({3, 1, 40, 0}, dtype, dtype, dtype, Layout::RowMajor, Layout::RowMajor);
    check({1, 0, 40, 5}, dtype, dtype, dtype, Layout::RowMajor, Layout::RowMajor);
    check({1, 4, 0, 5}, dtype, dtype, dtype, Layout::RowMajor, Layout::RowMajor);
    check({0, 4, 4, 5}, dtype, dtype, dtype, Layout::RowMajor, Layout::RowMajor);
  }
}

TEST(Matmul, IntegersWrap) {
  const Sizes s{1, 3, 4, 2};
  Matrix a(1, 3, 2, DType::Int32, Layout::RowMajor), b(1, 2, 4, DType::Int32, Layout::RowMajor);
  Matrix out(1, 3, 4, DType::Int32, Layout::RowMajor);
  a.fill([] { return 0x7fffffff; });
  b.fill([] { return 0x7fffffff; });
  matmul(product_of(s, a, b, out, DType::Int32, DType::Int32));
  // 2 * (2^31 - 1)^2 = 2^63 - 2^33 + 2
  EXPECT_EQ(out.at(0, 2, 3), 2);
}

TEST(Matmul, NaNAndInfinityPropagate) {
  const double inf = std::numeric_limits<double>::infinity();
  for (DType dtype : {DType::Float32, DType::BFloat16, DType::Float16, DType::Float64}) {
    for (const Sizes& s : {Sizes{1, 20, 40, 35}, Sizes{1, 1, 40, 35}, Sizes{1, 20, 1, 35}}) {
      Matrix a(1, s.m, s.k, dtype, Layout::RowMajor), b(1, s.k, s.n, dtype, Layout::ColumnMajor);
      Matrix out(1, s.m, s.n, dtype, Layout::RowMajor);
      a.fill([] { return 1; });
      b.fill([] { return 1; });
      const int64_t i = s.m - 1, j = s.n - 1;
      a.set(0, i, 3, inf);
      matmul(product_of(s, a, b, out, dtype, dtype));
      EXPECT_EQ(out.at(0, i, j), inf);
      if (i > 0) {
        EXPECT_EQ(out.at(0, 0, j), 35);
      }
      b.set(0, 3, j, 0);
      matmul(product_of(s, a, b, out, dtype, dtype));
      EXPECT_TRUE(std::isnan(out.at(0, i, j)));
      if (j > 0) {
        EXPECT_EQ(out.at(0, i, 0), inf);
      }
      a.set(0, i, 3, 1);
      b.set(0, 34, j, std::numeric_limits<double>::quiet_NaN());
      matmul(product_of(s, a, b, out, dtype, dtype));
      EXPECT_TRUE(std::isnan(out.at(0, i, j)));
      if (j > 0) {
        EXPECT_EQ(out.at(0, i, 0), 35);
      }
    }
  }
}

// The bits of a product follow from sizes and dtypes alone.
TEST(Matmul, SameBitsForAnyTeamAndStrides) {
  for (const Sizes& s : {Sizes{1, 150, 300, 4200}, Sizes{1, 33, 65, 100}, Sizes{6, 90, 70, 130},
                         Sizes{1, 1, 500, 700}, Sizes{1, 500, 1, 700}, Sizes{1, 70, 90, 600},
                         Sizes{1, 600, 600, 40}}) {
    for (DType dtype : {DType::Float32, DType::BFloat16, DType::Float16, DType::Float64}) {
      Matrix a(s.batch, s.m, s.k, dtype, Layout::RowMajor);
      Matrix b(s.batch, s.k, s.n, dtype, Layout::RowMajor);
      Matrix first(s.batch, s.m, s.n, dtype, Layout::RowMajor);
      a.fill(normal);
      b.fill(normal);
      matmul(product_of(s, a, b, first, dtype, dtype));
      for (Layout layout : kInputs) {
        Matrix a2(s.batch, s.m, s.k, dtype, layout, 2 * size_of(dtype));
        Matrix b2(s.batch, s.k, s.n, dtype, layout);
        Matrix out(s.batch, s.m, s.n, dtype, layout);
        for (int64_t batch = 0; batch < s.batch; ++batch) {
          for (int64_t i = 0; i < s.m; ++i) {
            for (int64_t k = 0; k < s.k; ++k) a2.set(batch, i, k, a.at(batch, i, k));
          }
          for (int64_t k = 0; k < s.k; ++k) {
            for (int64_t j = 0; j < s.n; ++j) b2.set(batch, k, j, b.at(batch, k, j));
          }
        }
        for (int width : {1, 2, 5}) {
          set_team_width(width);
          out.fill([] { return -7; });
          matmul(product_of(s, a2, b2, out, dtype, dtype));
          set_team_width(1);
          for (int64_t batch = 0; batch < s.batch; ++batch) {
            for (int64_t i = 0; i < s.m; ++i) {
              for (int64_t j = 0; j < s.n; ++j) {
                ASSERT_EQ(out.at(batch, i, j), first.at(batch, i, j))
                    << name_of(s) << ", team of " << width << ", layout "
                    << static_cast<int>(layout);
              }
            }
          }
        }
      }
    }
  }
}

// LoadTile, plus a row of biases, stored; and where the program thinks each element is.
TEST(Matmul, EpilogueSeesEachElementOnce) {
  using namespace vector;
  Program program;
  program.operands = {DType::Float32, DType::Float32, DType::Int64};
  const auto instruction = [](Op op, int dst, int a, int b, int index, Lane lane) {
    Instruction i{op};
    i.dst = static_cast<uint8_t>(dst);
    i.a = static_cast<uint8_t>(a);
    i.b = static_cast<uint8_t>(b);
    i.index = static_cast<int16_t>(index);
    i.lane = lane;
    return i;
  };
  program.code = {instruction(Op::LoadTile, 0, 0, 0, 0, Lane::F32),
                  instruction(Op::Load, 1, 0, 0, 0, Lane::F32),
                  instruction(Op::Add, 2, 0, 1, 0, Lane::F32),
                  instruction(Op::Store, 0, 2, 0, 1, Lane::F32),
                  instruction(Op::LinearIndex, 3, 0, 0, 0, Lane::I64),
                  instruction(Op::Store, 0, 3, 0, 2, Lane::I64)};
  program.phases = {{Over::Elements, 0, 6}};
  const auto prepared = prepare(program);

  for (const Sizes& s :
       {Sizes{1, 8, 32, 32}, Sizes{2, 70, 300, 530}, Sizes{1, 40, 3, 9}, Sizes{3, 1, 300, 20},
        Sizes{3, 300, 1, 20}, Sizes{1, 60, 70, 5000}, Sizes{1, 90, 257, 0}}) {
    for (DType dtype : {DType::Float32, DType::BFloat16}) {
      Matrix a(s.batch, s.m, s.k, dtype, Layout::RowMajor);
      Matrix b(s.batch, s.k, s.n, dtype, Layout::ColumnMajor);
      Matrix plain(s.batch, s.m, s.n, dtype, Layout::RowMajor);
      Matrix out(s.batch, s.m, s.n, DType::Float32, Layout::Padded);
      Matrix indices(s.batch, s.m, s.n, DType::Int64, Layout::RowMajor);
      Matrix bias(1, 1, s.n, DType::Float32, Layout::RowMajor);
      a.fill(normal);
      b.fill(normal);
      bias.fill(normal);
      matmul(product_of(s, a, b, plain, dtype, dtype));
      const auto operand = [](Matrix& matrix, int64_t size) {
        const Matmul::Output o = matrix.output();
        return Epilogue::Operand{static_cast<char*>(o.data), o.batch_stride * size,
                                 o.row_stride * size, o.column_stride * size};
      };
      Epilogue::Operand operands[] = {operand(bias, 4), operand(out, 4), operand(indices, 8)};
      operands[0].batch_stride = operands[0].row_stride = 0;
      // With the product itself stored, or without.
      for (const auto& [width, stored] : {std::pair{1, false}, {2, false}, {1, true}, {2, true}}) {
        set_team_width(width);
        out.fill([] { return -1; });
        indices.fill([] { return -1; });
        Matrix wide(s.batch, s.m, s.n, DType::Float32, Layout::Padded);
        Matmul args = product_of(s, a, b, wide, dtype, dtype);
        if (!stored) args.out = {};
        args.widened = stored;
        args.epilogue = {&program, prepared.get(), operands, nullptr};
        matmul(args);
        set_team_width(1);
        for (int64_t batch = 0; batch < s.batch; ++batch) {
          for (int64_t i = 0; i < s.m; ++i) {
            for (int64_t j = 0; j < s.n; ++j) {
              const float expected =
                  static_cast<float>(plain.at(batch, i, j)) + static_cast<float>(bias.at(0, 0, j));
              ASSERT_EQ(out.at(batch, i, j), expected) << name_of(s);
              if (stored) {
                ASSERT_EQ(wide.at(batch, i, j), plain.at(batch, i, j)) << name_of(s);
              }
              ASSERT_EQ(indices.at(batch, i, j), (batch * s.m + i) * s.n + j) << name_of(s);
            }
          }
        }
        EXPECT_TRUE(out.guards_intact());
        EXPECT_TRUE(wide.guards_intact());
      }
    }
  }
}

// What is rounded to 16 bits and stored as fp32 has the values of what is stored in 16 bits.
void check_widened(const Sizes& s, DType dtype, Layout layout, int width) {
  Matrix a(s.batch, s.m, s.k, dtype, Layout::RowMajor);
  Matrix b(s.batch, s.k, s.n, dtype, Layout::ColumnMajor);
  Matrix narrow(s.batch, s.m, s.n, dtype, Layout::RowMajor);
  Matrix wide(s.batch, s.m, s.n, DType::Float32, layout);
  a.fill(normal);
  b.fill(normal);
  matmul(product_of(s, a, b, narrow, dtype, dtype));
  Matmul args = product_of(s, a, b, wide, dtype, dtype);
  args.widened = true;
  set_team_width(width);
  matmul(args);
  set_team_width(1);
  for (int64_t batch = 0; batch < s.batch; ++batch) {
    for (int64_t i = 0; i < s.m; ++i) {
      for (int64_t j = 0; j < s.n; ++j) {
        ASSERT_EQ(wide.at(batch, i, j), narrow.at(batch, i, j)) << name_of(s);
      }
    }
  }
  EXPECT_TRUE(wide.guards_intact()) << name_of(s);
}

TEST(Matmul, WidenedHasTheValuesOfTheRounded) {
  for (DType dtype : {DType::BFloat16, DType::Float16}) {
    for (const Sizes& s : kSizes) {
      for (Layout layout : kInputs) check_widened(s, dtype, layout, 1);
    }
    for (const Sizes& s : {Sizes{1, 150, 700, 300}, Sizes{3, 130, 270, 64}, Sizes{1, 90, 70, 4200},
                           Sizes{1, 90, 257, 0}}) {
      check_widened(s, dtype, Layout::RowMajor, 2);
      check_widened(s, dtype, Layout::Spread, 3);
    }
  }
}

// The brgemm engine serves AMX; AVX512-BF16 runs the same blocking and packing.
class BrgemmMatmul : public ::testing::Test {
 protected:
  void SetUp() override {
    if (current_isa() < Isa::Avx512Bf16) GTEST_SKIP() << "no bf16 instructions";
    use_brgemm_without_amx(true);
  }
  void TearDown() override { use_brgemm_without_amx(false); }
};

TEST_F(BrgemmMatmul, EverySizeAndLayout) {
  for (const Sizes& s : kSizes) {
    for (Layout layout : kInputs) {
      check(s, DType::BFloat16, DType::BFloat16, DType::BFloat16, layout, Layout::RowMajor);
      check(s, DType::Float32, DType::BFloat16, DType::Float32, Layout::RowMajor, layout);
    }
  }
  check({1, 200, 300, 1100}, DType::BFloat16, DType::BFloat16, DType::BFloat16, Layout::ColumnMajor,
        Layout::RowMajor, Layout::RowMajor, 0, 2);
}

TEST_F(BrgemmMatmul, WidenedHasTheValuesOfTheRounded) {
  for (const Sizes& s : kSizes) {
    for (Layout layout : kInputs) check_widened(s, DType::BFloat16, layout, 1);
  }
  check_widened({1, 200, 300, 1100}, DType::BFloat16, Layout::RowMajor, 2);
}

TEST_F(BrgemmMatmul, SameBitsForAnyTeamAndStrides) {
  const Sizes s{1, 150, 290, 700};
  Matrix a(1, s.m, s.k, DType::BFloat16, Layout::RowMajor);
  Matrix transposed(1, s.m, s.k, DType::BFloat16, Layout::ColumnMajor);
  Matrix b(1, s.k, s.n, DType::BFloat16, Layout::Padded);
  a.fill(normal);
  b.fill(normal);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t k = 0; k < s.k; ++k) transposed.set(0, i, k, a.at(0, i, k));
  }
  Matrix one(1, s.m, s.n, DType::Float32, Layout::RowMajor);
  Matrix two(1, s.m, s.n, DType::Float32, Layout::Spread);
  matmul(product_of(s, a, b, one, DType::BFloat16, DType::Float32));
  set_team_width(2);
  matmul(product_of(s, transposed, b, two, DType::BFloat16, DType::Float32));
  set_team_width(1);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) ASSERT_EQ(one.at(0, i, j), two.at(0, i, j));
  }
}

// Three bf16 products: the dropped low times low part and the rounding of the low parts leave an
// error of at most 3 * 2^-16 of each product.
TEST_F(BrgemmMatmul, HighPrecisionOfFloat32) {
  for (const Sizes& s : {Sizes{1, 40, 50, 60}, Sizes{2, 130, 70, 700}}) {
    Matrix a(s.batch, s.m, s.k, DType::Float32, Layout::RowMajor);
    Matrix b(s.batch, s.k, s.n, DType::Float32, Layout::ColumnMajor);
    Matrix out(s.batch, s.m, s.n, DType::Float32, Layout::RowMajor);
    Matrix medium(s.batch, s.m, s.n, DType::Float32, Layout::RowMajor);
    a.fill(normal);
    b.fill(normal);
    Matmul args = product_of(s, a, b, out, DType::Float32, DType::Float32);
    args.precision = Float32Precision::High;
    matmul(args);
    const double additions = std::min<double>(s.k, 512) + 16;
    expect_close(s, a, b, out, DType::Float32, DType::Float32, 0x1p-24 + 0x3p-16 / additions);

    args = product_of(s, a, b, medium, DType::Float32, DType::Float32);
    args.precision = Float32Precision::Medium;
    matmul(args);
    expect_close(s, a, b, medium, DType::Float32, DType::Float32, 0x1p-24 + 0x2p-8 / additions);
    bool differs = false;
    for (int64_t j = 0; j < s.n; ++j) differs |= medium.at(0, 0, j) != out.at(0, 0, j);
    EXPECT_TRUE(differs) << "medium should be one bf16 product";
  }
}

TEST_F(BrgemmMatmul, HighPrecisionKeepsInfinities) {
  const Sizes s{1, 20, 30, 40};
  Matrix a(1, s.m, s.k, DType::Float32, Layout::RowMajor);
  Matrix b(1, s.k, s.n, DType::Float32, Layout::RowMajor);
  Matrix out(1, s.m, s.n, DType::Float32, Layout::RowMajor);
  a.fill([] { return 1; });
  b.fill([] { return 2; });
  a.set(0, 4, 5, std::numeric_limits<double>::infinity());
  Matmul args = product_of(s, a, b, out, DType::Float32, DType::Float32);
  args.precision = Float32Precision::High;
  matmul(args);
  EXPECT_EQ(out.at(0, 4, 7), std::numeric_limits<double>::infinity());
  EXPECT_EQ(out.at(0, 3, 7), 80);
}

}  // namespace
}  // namespace accel::kernels
