// Reductions of vector programs, bit for bit against the order that reduce.h states, over sizes,
// strides, lanes, phases, instruction sets and teams.
#include <algorithm>

#include "tests/cpp/kernels/vector_test.h"

namespace accel::kernels::vector {
namespace {

template <class T>
struct WideOf {
  using Type = T;
};
template <>
struct WideOf<float> {
  using Type = double;
};

template <class T>
T identity_of(Op op) {
  switch (op) {
    case Op::ReduceSum:
    case Op::ReduceAny:
      return 0;
    case Op::ReduceProd:
    case Op::ReduceAll:
      return 1;
    case Op::ReduceMin:
      return std::is_integral_v<T> ? std::numeric_limits<T>::max()
                                   : std::numeric_limits<T>::infinity();
    default:
      return std::is_integral_v<T> ? std::numeric_limits<T>::min()
                                   : -std::numeric_limits<T>::infinity();
  }
}

template <class T>
T combine(Op op, T a, T b) {
  switch (op) {
    case Op::ReduceSum:
      if constexpr (std::is_integral_v<T>) return T(uint64_t(a) + uint64_t(b));
      return a + b;
    case Op::ReduceProd:
      if constexpr (std::is_integral_v<T>) return T(uint64_t(a) * uint64_t(b));
      return a * b;
    case Op::ReduceMin:
      return a != a ? a : b != b ? b : std::min(a, b);
    case Op::ReduceMax:
      return a != a ? a : b != b ? b : std::max(a, b);
    case Op::ReduceAny:
      return a || b;
    default:
      return a && b;
  }
}

// reduce.h's order for a row.
template <class T>
T reduce_row(Op op, const std::vector<T>& values) {
  using Wide = typename WideOf<T>::Type;
  Wide total = identity_of<Wide>(op);
  for (size_t begin = 0; begin < values.size(); begin += 4096) {
    T lanes[64];
    std::fill_n(lanes, 64, identity_of<T>(op));
    for (size_t j = begin; j < std::min(values.size(), begin + 4096); ++j) {
      T& lane = lanes[(j - begin) % 64];
      lane = combine(op, lane, values[j]);
    }
    for (int half = 32; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] = combine(op, lanes[i], lanes[i + half]);
    }
    total = combine(op, total, static_cast<Wide>(lanes[0]));
  }
  return static_cast<T>(total);
}

// reduce.h's order for a column of a space with `columns` columns.
template <class T>
T reduce_column(Op op, const std::vector<T>& values, int64_t columns) {
  using Wide = typename WideOf<T>::Type;
  const size_t group = block_group(columns) * 64;
  Wide all = identity_of<Wide>(op);
  for (size_t g = 0; g < values.size(); g += group) {
    Wide total = identity_of<Wide>(op);
    for (size_t b = g; b < std::min(values.size(), g + group); b += 64) {
      T sum = identity_of<T>(op);
      for (size_t i = b; i < std::min(values.size(), b + 64); ++i)
        sum = combine(op, sum, values[i]);
      total = combine(op, total, static_cast<Wide>(sum));
    }
    all = combine(op, all, total);
  }
  return static_cast<T>(all);
}

template <class T>
T value_at(Op op, int64_t i) {
  const uint64_t hash = (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u;
  const uint32_t word = static_cast<uint32_t>(hash >> 35);
  if constexpr (std::is_same_v<T, uint8_t>) {
    return op == Op::ReduceAny ? word % 97 == 0 : word % 97 != 0;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return static_cast<int64_t>(word) - (1 << 28);
  } else {
    const T unit = static_cast<T>(word) / static_cast<T>(1u << 29);
    return op == Op::ReduceProd ? T(0.75) + unit / 2 : unit * 3 - 1;
  }
}

struct Case {
  std::vector<int64_t> sizes;
  int kept;
  std::vector<int64_t> order;  // of the dimensions in memory, outermost first
};

std::vector<int64_t> strides_of(const Case& test) {
  std::vector<int64_t> strides(test.sizes.size());
  int64_t step = 1;
  for (int d = static_cast<int>(test.sizes.size()) - 1; d >= 0; --d) {
    strides[test.order[d]] = step;
    step *= test.sizes[test.order[d]];
  }
  return strides;
}

int64_t product(const std::vector<int64_t>& sizes, size_t begin, size_t end) {
  int64_t result = 1;
  for (size_t d = begin; d < end; ++d) result *= sizes[d];
  return result;
}

template <class T>
constexpr DType kDTypeOf = std::is_same_v<T, float>     ? DType::Float32
                           : std::is_same_v<T, double>  ? DType::Float64
                           : std::is_same_v<T, int64_t> ? DType::Int64
                                                        : DType::Bool;

// out = reduce(x) over the last (RowReduce) or the first (ColumnReduce) dimensions.
template <class T>
void check(Kind kind, Op op, const Case& test) {
  const size_t dims = test.sizes.size();
  const size_t kept_begin = kind == Kind::RowReduce ? 0 : dims - test.kept;
  const size_t kept_end = kept_begin + test.kept;
  const int64_t kept = product(test.sizes, kept_begin, kept_end);
  const int64_t elements = product(test.sizes, 0, dims);
  const int64_t reduced = kind == Kind::RowReduce ? product(test.sizes, kept_end, dims)
                                                  : product(test.sizes, 0, kept_begin);
  const std::vector<int64_t> strides = strides_of(test);
  std::vector<T> memory(elements);
  // By row-major position in the space, so that memory's layout cannot matter.
  std::vector<std::vector<T>> lines(kept, std::vector<T>(reduced));
  for (int64_t e = 0; e < elements; ++e) {
    int64_t rest = e, at = 0;
    for (int d = static_cast<int>(dims) - 1; d >= 0; --d) {
      at += rest % test.sizes[d] * strides[d];
      rest /= test.sizes[d];
    }
    const T value = value_at<T>(op, e);
    memory[at] = value;
    if (kind == Kind::RowReduce) {
      lines[e / reduced][e % reduced] = value;
    } else {
      lines[e % kept][e / kept] = value;
    }
  }
  Builder builder(kind);
  const int slot = builder.add_slot(lane_of(kDTypeOf<T>));
  const int in = builder.operand(kDTypeOf<T>), out = builder.operand(kDTypeOf<T>);
  builder.reduce(op, builder.load(in), slot);
  builder.phase(Over::Elements);
  builder.store(out, builder.slot(slot));
  builder.phase(Over::Kept);
  std::vector<int64_t> in_strides, out_strides(dims, 0);
  for (int64_t stride : strides) in_strides.push_back(stride * int64_t(sizeof(T)));
  int64_t step = sizeof(T);
  for (int d = static_cast<int>(kept_end) - 1; d >= static_cast<int>(kept_begin); --d) {
    out_strides[d] = step;
    step *= test.sizes[d];
  }
  for (Isa isa : testable_isas()) {
    for (int width : {1, 2}) {
      Guarded result(kept * sizeof(T));
      const Operand operands[] = {make_operand(memory.data(), in_strides),
                                  make_operand(result.data(), out_strides)};
      set_team_width(width);
      run_on(engine_of(isa), builder.program, make_space(test.sizes, test.kept), operands, nullptr);
      set_team_width(1);
      ASSERT_TRUE(result.intact());
      for (int64_t k = 0; k < kept; ++k) {
        const T want =
            kind == Kind::RowReduce ? reduce_row(op, lines[k]) : reduce_column(op, lines[k], kept);
        ASSERT_TRUE(same(result.as<T>()[k], want))
            << "op " << static_cast<int>(op) << " of " << elements << " elements, kept " << k
            << " of " << kept << " on " << isa_name(isa) << ", team " << width << ": "
            << +result.as<T>()[k] << ", not " << +want;
      }
    }
  }
}

template <class T>
void check_all_ops(Kind kind, const Case& test) {
  if constexpr (std::is_same_v<T, uint8_t>) {
    check<T>(kind, Op::ReduceAny, test);
    check<T>(kind, Op::ReduceAll, test);
  } else {
    check<T>(kind, Op::ReduceSum, test);
    check<T>(kind, Op::ReduceProd, test);
    check<T>(kind, Op::ReduceMin, test);
    check<T>(kind, Op::ReduceMax, test);
  }
}

const Case kRowCases[] = {
    {{1}, 0, {0}},
    {{5}, 1, {0}},
    {{3, 0}, 1, {0, 1}},
    {{0, 3}, 1, {0, 1}},
    {{7, 1}, 1, {0, 1}},
    {{100, 3}, 1, {0, 1}},
    {{33, 16}, 1, {0, 1}},
    {{40, 17}, 1, {0, 1}},
    {{19, 24}, 1, {0, 1}},
    {{21, 32}, 1, {0, 1}},
    {{9, 100}, 1, {0, 1}},
    {{5, 128}, 1, {0, 1}},
    {{5, 255}, 1, {0, 1}},
    {{5, 256}, 1, {0, 1}},
    {{5, 257}, 1, {0, 1}},
    {{3, 1000}, 1, {0, 1}},
    {{2, 4096}, 1, {0, 1}},
    {{2, 4097}, 1, {0, 1}},
    {{70, 9000}, 1, {0, 1}},
    {{100000}, 0, {0}},
    {{3, 40000}, 1, {0, 1}},
    // Other layouts of the same: rows side by side, kept and reduced dimensions mixed.
    {{50, 40}, 1, {1, 0}},
    {{33, 300}, 1, {1, 0}},
    {{3, 40000}, 1, {1, 0}},
    {{17, 5000}, 1, {1, 0}},
    {{70, 9000}, 1, {1, 0}},
    {{3, 70, 4200}, 2, {0, 2, 1}},
    {{4, 6, 7, 9}, 2, {0, 2, 1, 3}},
    {{6, 4, 7, 7}, 1, {1, 0, 2, 3}},
    {{6, 40, 7, 7}, 1, {1, 0, 2, 3}},
    {{6, 40, 7, 7}, 1, {1, 2, 3, 0}},
    {{2, 300, 11, 13}, 1, {1, 0, 3, 2}},
    {{2, 500, 9, 13}, 1, {2, 0, 3, 1}},
};

TEST(VectorRowReduce, F32) {
  for (const Case& test : kRowCases) check_all_ops<float>(Kind::RowReduce, test);
}
TEST(VectorRowReduce, F64) {
  for (const Case& test : kRowCases) check_all_ops<double>(Kind::RowReduce, test);
}
TEST(VectorRowReduce, I64) {
  for (const Case& test : kRowCases) check_all_ops<int64_t>(Kind::RowReduce, test);
}
TEST(VectorRowReduce, Bool) {
  for (const Case& test : kRowCases) check_all_ops<uint8_t>(Kind::RowReduce, test);
}

const Case kColumnCases[] = {
    {{1}, 0, {0}},
    {{5}, 1, {0}},
    {{0, 3}, 1, {0, 1}},
    {{3, 0}, 1, {0, 1}},
    {{1, 300}, 1, {0, 1}},
    {{63, 16}, 1, {0, 1}},
    {{64, 17}, 1, {0, 1}},
    {{65, 1}, 1, {0, 1}},
    {{700, 3}, 1, {0, 1}},
    {{200, 100}, 1, {0, 1}},
    {{130, 256}, 1, {0, 1}},
    {{130, 257}, 1, {0, 1}},
    {{70, 1500}, 1, {0, 1}},
    {{40000, 2}, 1, {0, 1}},
    {{3000, 32}, 1, {0, 1}},
    {{200, 100}, 1, {1, 0}},
    {{5, 8, 9, 6}, 1, {0, 3, 1, 2}},
    {{5, 8, 9, 6}, 2, {2, 0, 3, 1}},
    {{20, 30, 40}, 2, {1, 0, 2}},
};

TEST(VectorColumnReduce, F32) {
  for (const Case& test : kColumnCases) check_all_ops<float>(Kind::ColumnReduce, test);
}
TEST(VectorColumnReduce, F64) {
  for (const Case& test : kColumnCases) check_all_ops<double>(Kind::ColumnReduce, test);
}
TEST(VectorColumnReduce, I64) {
  for (const Case& test : kColumnCases) check_all_ops<int64_t>(Kind::ColumnReduce, test);
}
TEST(VectorColumnReduce, Bool) {
  for (const Case& test : kColumnCases) check_all_ops<uint8_t>(Kind::ColumnReduce, test);
}

TEST(VectorReduce, NanReachesMinimaAndMaxima) {
  for (Isa isa : testable_isas()) {
    for (Op op : {Op::ReduceMin, Op::ReduceMax}) {
      for (int64_t length : {1, 20, 64, 300, 9000}) {
        for (int64_t at : {int64_t{0}, length / 2, length - 1}) {
          std::vector<float> x(length, 1.0f);
          x[at] = std::nanf("");
          float result = 0;
          Builder builder(Kind::RowReduce);
          const int slot = builder.add_slot(Lane::F32);
          const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
          builder.reduce(op, builder.load(in), slot);
          builder.phase(Over::Elements);
          builder.store(out, builder.slot(slot));
          builder.phase(Over::Kept);
          const Operand operands[] = {make_operand(x.data(), {4}), make_operand(&result, {0})};
          run_on(engine_of(isa), builder.program, make_space({length}, 0), operands, nullptr);
          EXPECT_TRUE(std::isnan(result)) << length << " " << at;
        }
      }
    }
  }
}

// The sum of each row of fp32.
Program sum_program() {
  Builder builder(Kind::RowReduce);
  const int slot = builder.add_slot(Lane::F32);
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  builder.reduce(Op::ReduceSum, builder.load(in), slot);
  builder.phase(Over::Elements);
  builder.store(out, builder.slot(slot));
  builder.phase(Over::Kept);
  return builder.program;
}

TEST(VectorReduce, LongSumsStayAccurate) {
  constexpr int64_t kLength = 1 << 22;
  std::vector<float> x(kLength);
  double exact = 0;
  for (int64_t i = 0; i < kLength; ++i) {
    x[i] = value_at<float>(Op::ReduceProd, i);
    exact += x[i];
  }
  float result = 0;
  const Operand operands[] = {make_operand(x.data(), {4}), make_operand(&result, {0})};
  run_on(engine_of(current_isa()), sum_program(), make_space({kLength}, 0), operands, nullptr);
  EXPECT_NEAR(result / exact, 1, 1.5e-7);
}

// What lies in memory is reduced in tiles of any length; a register holds one of kTileElements.
TEST(VectorReduce, RegistersAreNotReadBeyondTheirTile) {
  const Scalar scalar{.d = 2};
  for (Isa isa : testable_isas()) {
    for (const int64_t length : {256, 300, 1000, 5000, 40010}) {
      float result[2] = {};
      Builder builder(Kind::RowReduce);
      const int sum = builder.add_slot(Lane::F32), largest = builder.add_slot(Lane::F32);
      const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
      const int two = builder.scalar(Lane::F32);
      builder.reduce(Op::ReduceSum, two, sum);
      builder.reduce(Op::ReduceMax, builder.load(in), largest);
      builder.phase(Over::Elements);
      builder.store(out,
                    builder.emit(Op::Add, Lane::F32, builder.slot(sum), builder.slot(largest)));
      builder.phase(Over::Kept);
      std::vector<float> x(static_cast<size_t>(length), 1);
      const Operand operands[] = {make_operand(x.data(), {0, 4}), make_operand(result, {4, 0})};
      run_on(engine_of(isa), builder.program, make_space({2, length}, 1), operands, &scalar);
      EXPECT_EQ(result[0], 2 * length + 1) << isa_name(isa);
      EXPECT_EQ(result[1], 2 * length + 1) << isa_name(isa);
    }
  }
}

// Many rows, each longer than the longest tile and no multiple of a vector, in the last register.
TEST(VectorReduce, WhatIsLeftOfALongRowFitsARegister) {
  constexpr int64_t kRows = 66, kLength = 40010;
  std::vector<float> x(kRows * kLength, 1);
  std::vector<float> result(kRows);
  Program program = sum_program();
  ASSERT_EQ(program.code[0].op, Op::Load);
  program.code[0].dst = program.code[1].a = kMaxRegisters - 1;
  const Operand operands[] = {make_operand(x.data(), {kLength * 4, 4}),
                              make_operand(result.data(), {4, 0})};
  for (Isa isa : testable_isas()) {
    run_on(engine_of(isa), program, make_space({kRows, kLength}, 1), operands, nullptr);
    for (const float sum : result) ASSERT_EQ(sum, kLength) << isa_name(isa);
  }
}

// softmax: three phases over elements, two slots.
Program softmax_program() {
  Builder builder(Kind::RowReduce);
  const int largest = builder.add_slot(Lane::F32), sum = builder.add_slot(Lane::F32);
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  builder.reduce(Op::ReduceMax, builder.load(in), largest);
  builder.phase(Over::Elements);
  int power = builder.emit(Op::Sub, Lane::F32, builder.load(in), builder.slot(largest));
  power = builder.emit(Op::Exp, Lane::F32, power);
  builder.store(out, power);
  builder.reduce(Op::ReduceSum, power, sum);
  builder.phase(Over::Elements);
  const int stored = builder.load(out);
  builder.store(out, builder.emit(Op::Div, Lane::F32, stored, builder.slot(sum)));
  builder.phase(Over::Elements);
  return builder.program;
}

TEST(VectorPhases, SoftmaxInOneProgram) {
  const Program program = softmax_program();
  for (Isa isa : testable_isas()) {
    for (const auto& [rows, length] : {std::pair<int64_t, int64_t>{1, 1},
                                       {5, 3},
                                       {300, 16},
                                       {33, 50},
                                       {40, 128},
                                       {7, 300},
                                       {100, 256},
                                       {3, 5000},
                                       {2, 40000}}) {
      std::vector<float> x(rows * length), y(rows * length), in_place(rows * length);
      for (size_t i = 0; i < x.size(); ++i) x[i] = 4 * value_at<float>(Op::ReduceSum, i);
      in_place = x;
      const Space space = make_space({rows, length}, 1);
      const Operand operands[] = {make_operand(x.data(), {length * 4, 4}),
                                  make_operand(y.data(), {length * 4, 4})};
      const Operand same_operands[] = {make_operand(in_place.data(), {length * 4, 4}),
                                       make_operand(in_place.data(), {length * 4, 4})};
      run_on(engine_of(isa), program, space, operands, nullptr);
      run_on(engine_of(isa), program, space, same_operands, nullptr);
      ASSERT_EQ(std::memcmp(y.data(), in_place.data(), y.size() * 4), 0);
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        float largest = -INFINITY;
        for (int64_t c = 0; c < length; ++c) largest = std::max(largest, x[r * length + c]);
        for (int64_t c = 0; c < length; ++c) sum += std::exp(double(x[r * length + c]) - largest);
        for (int64_t c = 0; c < length; ++c) {
          const double want = std::exp(double(x[r * length + c]) - largest) / sum;
          ASSERT_NEAR(y[r * length + c], want, 1e-6 * want + 1e-12) << rows << " " << length;
        }
      }
    }
  }
}

// Phases over kept indices between phases over elements, their own operands and positions.
TEST(VectorPhases, KeptPhasesReadSlotsAndWriteRowResults) {
  Builder builder(Kind::RowReduce);
  const int sum = builder.add_slot(Lane::F32), count = builder.add_slot(Lane::I64);
  const int in = builder.operand(DType::Float32), row = builder.operand(DType::Float32);
  const int out = builder.operand(DType::Float32), index = builder.operand(DType::Int64);
  int x = builder.load(in);
  builder.reduce(Op::ReduceSum, x, sum);
  builder.reduce(Op::ReduceMax, builder.emit(Op::LinearIndex, Lane::I64), count);
  builder.phase(Over::Elements);
  builder.store(row, builder.emit(Op::Add, Lane::F32, builder.slot(sum), builder.slot(sum)));
  builder.store(index, builder.emit(Op::Add, Lane::I64, builder.slot(count),
                                    builder.emit(Op::LinearIndex, Lane::I64)));
  builder.phase(Over::Kept);
  x = builder.load(in);
  builder.store(out, builder.emit(Op::Sub, Lane::F32, x, builder.load(row)));
  builder.phase(Over::Elements);
  for (Isa isa : testable_isas()) {
    for (const auto& [rows, length] :
         {std::pair<int64_t, int64_t>{6, 5}, {300, 20}, {10, 700}, {5, 33000}}) {
      // The kept dimensions are 2 × rows, in memory the other way round.
      const int64_t all = 2 * rows;
      std::vector<float> values(all * length), result(all * length), row_result(all);
      std::vector<int64_t> indices(all);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 11);
      const Space space = make_space({2, rows, length}, 2);
      const Operand operands[] = {make_operand(values.data(), {length * 4, 2 * length * 4, 4}),
                                  make_operand(row_result.data(), {rows * 4, 4, 0}),
                                  make_operand(result.data(), {length * 4, 2 * length * 4, 4}),
                                  make_operand(indices.data(), {rows * 8, 8, 0})};
      run_on(engine_of(isa), builder.program, space, operands, nullptr);
      for (int64_t k = 0; k < all; ++k) {
        const int64_t line = (k % rows * 2 + k / rows) * length;
        float total = 0;
        for (int64_t c = 0; c < length; ++c) total += values[line + c];
        ASSERT_EQ(row_result[k], 2 * total) << rows << " " << length << " " << k;
        ASSERT_EQ(indices[k], (k + 1) * length - 1 + k);
        for (int64_t c = 0; c < length; ++c) {
          ASSERT_EQ(result[line + c], values[line + c] - 2 * total);
        }
      }
    }
  }
}

TEST(VectorReduce, RandomNumbersAndIndicesSeeTheWholeSpace) {
  // Dropout in front of a column sum: the mask depends on the row-major position only.
  constexpr int64_t kRows = 300, kColumns = 70;
  Builder row(Kind::RowReduce), column(Kind::ColumnReduce);
  for (Builder* builder : {&row, &column}) {
    const int slot = builder->add_slot(Lane::I64), out = builder->operand(DType::Int64);
    builder->program.scalars = 2;
    const int bits = builder->emit(Op::RandomBits, Lane::I64);
    const int place = builder->emit(Op::LinearIndex, Lane::I64);
    const int column_index = builder->emit(Op::ColumnIndex, Lane::I64);
    int value = builder->emit(Op::Add, Lane::I64, bits, place);
    value = builder->emit(Op::BitXor, Lane::I64, value, column_index);
    builder->reduce(Op::ReduceSum, value, slot);
    builder->phase(Over::Elements);
    builder->store(out, builder->slot(slot));
    builder->phase(Over::Kept);
  }
  Scalar scalars[2];
  scalars[0].i = 3;
  scalars[1].i = 9;
  for (Isa isa : testable_isas()) {
    std::vector<int64_t> by_row(kRows), by_column(kColumns);
    const Operand row_operands[] = {make_operand(by_row.data(), {8, 0})};
    const Operand column_operands[] = {make_operand(by_column.data(), {0, 8})};
    const Space space = make_space({kRows, kColumns}, 1);
    run_on(engine_of(isa), row.program, space, row_operands, scalars);
    run_on(engine_of(isa), column.program, space, column_operands, scalars);
    int64_t rows = 0, columns = 0;
    for (int64_t x : by_row) rows += x;
    for (int64_t x : by_column) columns += x;
    EXPECT_EQ(rows, columns) << isa_name(isa);
    EXPECT_NE(rows, 0);
  }
}

TEST(VectorTeam, PointwiseBitsDoNotDependOnIt) {
  constexpr int64_t kCount = 300001;
  std::vector<float> x(kCount), one(kCount), two(kCount);
  for (int64_t i = 0; i < kCount; ++i) x[i] = value_at<float>(Op::ReduceSum, i);
  Builder builder;
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  builder.store(out, builder.emit(Op::Tanh, Lane::F32, builder.load(in)));
  for (Isa isa : testable_isas()) {
    for (int width : {1, 2}) {
      const Operand operands[] = {make_operand(x.data(), {4}),
                                  make_operand(width == 1 ? one.data() : two.data(), {4})};
      set_team_width(width);
      run_on(engine_of(isa), builder.program, make_space({kCount}), operands, nullptr);
      set_team_width(1);
    }
    EXPECT_EQ(std::memcmp(one.data(), two.data(), kCount * 4), 0);
  }
}

}  // namespace
}  // namespace accel::kernels::vector
