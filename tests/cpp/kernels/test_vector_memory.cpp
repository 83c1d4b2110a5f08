// Loads and stores of vector programs: every pair of dtypes against PyTorch's own conversions, and
// every kind of stride against a plain loop.
#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>

#include "tests/cpp/kernels/vector_test.h"

namespace accel::kernels::vector {
namespace {

template <class T>
struct Tag {
  using Type = T;
};

// Calls visit(dtype, Tag<type of C++>) for every dtype.
template <class Visit>
void for_each_dtype(Visit visit) {
  visit(DType::UInt8, Tag<uint8_t>{});
  visit(DType::Int8, Tag<int8_t>{});
  visit(DType::Int16, Tag<int16_t>{});
  visit(DType::Int32, Tag<int32_t>{});
  visit(DType::Int64, Tag<int64_t>{});
  visit(DType::Float16, Tag<c10::Half>{});
  visit(DType::Float32, Tag<float>{});
  visit(DType::Float64, Tag<double>{});
  visit(DType::Bool, Tag<bool>{});
  visit(DType::BFloat16, Tag<c10::BFloat16>{});
  visit(DType::Float8E5M2, Tag<c10::Float8_e5m2>{});
  visit(DType::Float8E4M3FN, Tag<c10::Float8_e4m3fn>{});
}

template <class T>
constexpr bool kIsSmallFloat = std::is_class_v<T>;

// The value that a cast to the lane's type gives.
template <class Element, class T>
Element widened(T x) {
  if constexpr (kIsSmallFloat<T>) {
    return static_cast<Element>(static_cast<float>(x));
  } else {
    return static_cast<Element>(x);
  }
}

template <class T, class Element>
T narrowed(Element x) {
  if constexpr (std::is_same_v<T, bool>) {
    return x != 0;
  } else if constexpr (kIsSmallFloat<T>) {
    return T(static_cast<float>(x));
  } else if constexpr (std::is_same_v<T, uint8_t>) {
    return static_cast<uint8_t>(static_cast<int64_t>(x));
  } else if constexpr (std::is_integral_v<T> && sizeof(T) < 4) {
    return static_cast<T>(static_cast<int64_t>(x));
  } else {
    return static_cast<T>(x);
  }
}

template <class T>
bool same_value(T a, T b) {
  if constexpr (kIsSmallFloat<T>) {
    const float x = a, y = b;
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) && std::isnan(y);
  }
  return same(a, b);
}

// Bit patterns of a type: all of a small one, a sample of a large one.
template <class T>
std::vector<T> patterns() {
  std::vector<T> values;
  if constexpr (std::is_same_v<T, bool>) {
    values = {false, true, true};
  } else if constexpr (sizeof(T) <= 2) {
    for (uint32_t bits = 0; bits < (1u << (8 * sizeof(T))); ++bits) {
      T value;
      std::memcpy(&value, &bits, sizeof value);
      values.push_back(value);
    }
  } else if constexpr (std::is_integral_v<T>) {
    std::mt19937_64 random(7);
    for (int i = 0; i < 2000; ++i) values.push_back(static_cast<T>(random() >> (i % 64)));
  } else {
    std::mt19937_64 random(7);
    for (int i = 0; i < 2000; ++i) {
      values.push_back(static_cast<T>((static_cast<double>(random() % 2000001) - 1e6) *
                                      std::pow(2.0, i % 80 - 60)));
    }
    for (T x : {T(0),      T(-0.0),   T(1),      T(INFINITY),   T(-INFINITY), T(NAN),     T(1e-45),
                T(448),    T(464),    T(465),    T(480),        T(-1e9),      T(57344),   T(61440),
                T(65504),  T(65519),  T(65520),  T(6.1e-5),     T(2.9e-8),    T(5.96e-8), T(8.9e-8),
                T(1.6e-5), T(7.7e-6), T(9.7e-4), T(1.00390625), T(1.01171875)}) {
      values.push_back(x);
    }
  }
  return values;
}

template <class Element, Lane lane>
void check_loads() {
  for_each_dtype([&](DType dtype, auto tag) {
    using T = typename decltype(tag)::Type;
    auto values = patterns<T>();
    if constexpr (std::is_floating_point_v<T> && std::is_integral_v<Element> &&
                  lane != Lane::Bool) {
      std::erase_if(values, [](T x) { return !(std::fabs(x) < 9e18); });
    }
    if constexpr (kIsSmallFloat<T> && std::is_integral_v<Element> && lane != Lane::Bool) {
      std::erase_if(values, [](T x) { return !(std::fabs(static_cast<float>(x)) < 9e18f); });
    }
    const int64_t n = values.size();
    Guarded memory(n * sizeof(T), sizeof(T)), out(n * sizeof(Element));
    for (int64_t i = 0; i < n; ++i) memory.as<T>()[i] = values[i];
    Builder builder;
    const int from = builder.operand(dtype);
    const int to = builder.operand(lane == Lane::F32   ? DType::Float32
                                   : lane == Lane::F64 ? DType::Float64
                                   : lane == Lane::I64 ? DType::Int64
                                                       : DType::Bool);
    builder.store(to, builder.load(from, lane));
    const Operand operands[] = {make_operand(memory.data(), {int64_t(sizeof(T))}),
                                make_operand(out.data(), {int64_t(sizeof(Element))})};
    for (Isa isa : testable_isas()) {
      run_on(engine_of(isa), builder.program, make_space({n}), operands, nullptr);
      for (int64_t i = 0; i < n; ++i) {
        Element want = widened<Element>(T(values[i]));
        if (lane == Lane::Bool) want = widened<double>(T(values[i])) != 0;
        ASSERT_TRUE(same(out.as<Element>()[i], want))
            << "dtype " << static_cast<int>(dtype) << " pattern " << i << " on " << isa_name(isa);
      }
    }
  });
}

TEST(VectorLoad, EveryDTypeIntoF32) { check_loads<float, Lane::F32>(); }
TEST(VectorLoad, EveryDTypeIntoF64) { check_loads<double, Lane::F64>(); }
TEST(VectorLoad, EveryDTypeIntoI64) { check_loads<int64_t, Lane::I64>(); }
TEST(VectorLoad, EveryDTypeIntoBool) { check_loads<uint8_t, Lane::Bool>(); }

template <class Element, Lane lane>
void check_stores() {
  for_each_dtype([&](DType dtype, auto tag) {
    using T = typename decltype(tag)::Type;
    auto values = patterns<Element>();
    if constexpr (lane == Lane::Bool) values = {0, 1, 1, 0, 1};
    if constexpr (std::is_floating_point_v<Element> && std::is_integral_v<T> &&
                  !std::is_same_v<T, bool>) {
      const double limit = sizeof(T) == 8 ? 9e18 : sizeof(T) == 4 ? 2147483000.0 : 32000.0;
      std::erase_if(values, [&](Element x) { return !(std::fabs(x) < limit); });
    }
    const int64_t n = values.size();
    Guarded out(n * sizeof(T), sizeof(T));
    Builder builder;
    const int from = builder.operand(lane == Lane::F32   ? DType::Float32
                                     : lane == Lane::F64 ? DType::Float64
                                     : lane == Lane::I64 ? DType::Int64
                                                         : DType::Bool);
    const int to = builder.operand(dtype);
    builder.store(to, builder.load(from), lane);
    const Operand operands[] = {make_operand(values.data(), {int64_t(sizeof(Element))}),
                                make_operand(out.data(), {int64_t(sizeof(T))})};
    for (Isa isa : testable_isas()) {
      run_on(engine_of(isa), builder.program, make_space({n}), operands, nullptr);
      ASSERT_TRUE(out.intact());
      for (int64_t i = 0; i < n; ++i) {
        const T want = narrowed<T>(values[i]);
        ASSERT_TRUE(same_value(out.as<T>()[i], want))
            << "dtype " << static_cast<int>(dtype) << " value " << +values[i] << " on "
            << isa_name(isa);
      }
    }
  });
}

TEST(VectorStore, F32IntoEveryDType) { check_stores<float, Lane::F32>(); }
TEST(VectorStore, F64IntoEveryDType) { check_stores<double, Lane::F64>(); }
TEST(VectorStore, I64IntoEveryDType) { check_stores<int64_t, Lane::I64>(); }
TEST(VectorStore, BoolIntoEveryDType) { check_stores<uint8_t, Lane::Bool>(); }

// Round and Convert agree with a store and a load.
TEST(VectorRound, EqualsAStoreAndALoad) {
  const std::vector<float> values = patterns<float>();
  const int64_t n = values.size();
  for (DType dtype : {DType::BFloat16, DType::Float16, DType::Float8E5M2, DType::Float8E4M3FN}) {
    std::vector<char> memory(n * size_of(dtype));
    std::vector<float> rounded(n), reloaded(n);
    Builder first, second;
    const int in = first.operand(DType::Float32), out = first.operand(DType::Float32);
    const int stored = first.operand(dtype);
    const int value = first.load(in);
    first.store(stored, value, Lane::F32);
    first.store(out, first.round(Lane::F32, dtype, value));
    const int from = second.operand(dtype), to = second.operand(DType::Float32);
    second.store(to, second.load(from, Lane::F32));
    const Operand a[] = {make_operand(const_cast<float*>(values.data()), {4}),
                         make_operand(rounded.data(), {4}),
                         make_operand(memory.data(), {size_of(dtype)})};
    const Operand b[] = {make_operand(memory.data(), {size_of(dtype)}),
                         make_operand(reloaded.data(), {4})};
    for (Isa isa : testable_isas()) {
      run_on(engine_of(isa), first.program, make_space({n}), a, nullptr);
      run_on(engine_of(isa), second.program, make_space({n}), b, nullptr);
      for (int64_t i = 0; i < n; ++i) ASSERT_TRUE(same(rounded[i], reloaded[i])) << values[i];
    }
  }
}

TEST(VectorRound, IntegersWrap) {
  const std::vector<int64_t> values = patterns<int64_t>();
  const int64_t n = values.size();
  std::vector<int64_t> out(n);
  for (DType dtype : {DType::UInt8, DType::Int8, DType::Int16, DType::Int32, DType::Int64}) {
    Builder builder;
    const int in = builder.operand(DType::Int64), to = builder.operand(DType::Int64);
    builder.store(to, builder.round(Lane::I64, dtype, builder.load(in)));
    const Operand operands[] = {make_operand(const_cast<int64_t*>(values.data()), {8}),
                                make_operand(out.data(), {8})};
    for (Isa isa : testable_isas()) {
      run_on(engine_of(isa), builder.program, make_space({n}), operands, nullptr);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t x = values[i];
        const int64_t want = dtype == DType::UInt8   ? uint8_t(x)
                             : dtype == DType::Int8  ? int8_t(x)
                             : dtype == DType::Int16 ? int16_t(x)
                             : dtype == DType::Int32 ? int32_t(x)
                                                     : x;
        ASSERT_EQ(out[i], want);
      }
    }
  }
}

// --- Strides ---

struct Layout {
  const char* name;
  std::vector<int64_t> sizes;
  std::vector<int64_t> a, b, out;  // strides in elements
};

const Layout kLayouts[] = {
    {"scalar", {}, {}, {}, {}},
    {"empty", {3, 0}, {0, 1}, {0, 1}, {0, 1}},
    {"contiguous", {1000}, {1}, {1}, {1}},
    {"broadcast", {1000}, {0}, {1}, {1}},
    {"stepped", {301}, {3}, {2}, {1}},
    {"bias", {37, 300}, {300, 1}, {0, 1}, {300, 1}},
    {"column", {37, 300}, {300, 1}, {1, 0}, {300, 1}},
    {"narrow_bias", {77, 5}, {5, 1}, {0, 1}, {5, 1}},
    {"narrow_column", {77, 5}, {5, 1}, {1, 0}, {5, 1}},
    {"padded_rows", {50, 33}, {40, 1}, {33, 1}, {64, 1}},
    {"rows_of_257", {9, 257}, {260, 1}, {0, 1}, {259, 1}},
    {"transposed", {100, 70}, {1, 100}, {70, 1}, {70, 1}},
    {"transposed_out", {100, 70}, {70, 1}, {70, 1}, {1, 100}},
    {"transposed_all", {100, 70}, {1, 100}, {1, 100}, {1, 100}},
    {"transposed_narrow", {300, 3}, {1, 300}, {3, 1}, {3, 1}},
    {"permuted", {4, 30, 17}, {17, 68, 1}, {510, 17, 1}, {510, 17, 1}},
    {"heads", {3, 4, 20, 16}, {1280, 16, 64, 1}, {1280, 320, 16, 1}, {1280, 320, 16, 1}},
    {"channels_last", {2, 3, 8, 9}, {216, 1, 27, 3}, {216, 72, 9, 1}, {216, 1, 27, 3}},
    {"three_small", {6, 5, 7}, {70, 14, 2}, {0, 7, 1}, {35, 7, 1}},
    {"ones", {1, 5, 1, 7, 1}, {9, 7, 5, 1, 3}, {0, 7, 0, 1, 0}, {35, 7, 7, 1, 1}},
    {"large", {70000}, {1}, {1}, {1}},
};

class VectorStrides : public testing::TestWithParam<Layout> {};

int64_t extent(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
  return std::max<int64_t>(last, 0) + 1;
}

// out = a * 2 + b + linear index (optionally), with `a` and `out` of the given dtypes.
template <class T>
void check_layout(const Layout& layout, DType dtype, bool positions, bool in_place) {
  const auto& sizes = layout.sizes;
  const auto& a_strides = in_place ? layout.out : layout.a;
  const int64_t a_extent = extent(sizes, a_strides), b_extent = extent(sizes, layout.b);
  const int64_t out_extent = extent(sizes, layout.out);
  int64_t elements = 1;
  for (int64_t size : sizes) elements *= size;
  const auto bytes = [](const std::vector<int64_t>& strides) {
    std::vector<int64_t> scaled;
    for (int64_t s : strides) scaled.push_back(s * int64_t(sizeof(T)));
    return scaled;
  };
  Builder builder;
  const int oa = builder.operand(dtype), ob = builder.operand(dtype), out = builder.operand(dtype);
  const Lane lane = lane_of(dtype);
  const int a = builder.load(oa), b = builder.load(ob);
  int value = builder.emit(Op::Add, lane, builder.emit(Op::Add, lane, a, a), b);
  if (positions) {
    const int linear = builder.emit(Op::LinearIndex, Lane::I64);
    const int column = builder.emit(Op::ColumnIndex, Lane::I64);
    const int seven = builder.scalar(Lane::I64);
    const int place =
        builder.emit(Op::Add, Lane::I64, builder.emit(Op::Mul, Lane::I64, column, seven), linear);
    value = builder.emit(Op::Add, lane, value,
                         lane == Lane::I64 ? place : builder.convert(lane, Lane::I64, place));
  }
  builder.store(out, value);
  // In place: `a` is used after the store as well.
  const int again = builder.operand(dtype);
  builder.store(again, a);
  Scalar scalars[1];
  scalars[0].i = 7;

  for (Isa isa : testable_isas()) {
    Guarded am(a_extent * sizeof(T)), bm(b_extent * sizeof(T)),
        om(out_extent * sizeof(T), sizeof(T));
    Guarded again_memory(elements * sizeof(T) + 1);
    Guarded& target = in_place ? am : om;
    std::vector<T> old(out_extent), a_old(a_extent);
    for (int64_t i = 0; i < a_extent; ++i) a_old[i] = am.as<T>()[i] = T(i % 50);
    for (int64_t i = 0; i < b_extent; ++i) bm.as<T>()[i] = T(i % 31);
    if (!in_place) std::memset(om.data(), 0x11, out_extent * sizeof(T));
    std::memcpy(old.data(), target.data(), out_extent * sizeof(T));
    std::vector<int64_t> contiguous(sizes.size());
    int64_t step = 1;
    for (int d = static_cast<int>(sizes.size()) - 1; d >= 0; --d) {
      contiguous[d] = step;
      step *= sizes[d];
    }
    const Operand operands[] = {make_operand(am.data(), bytes(a_strides)),
                                make_operand(bm.data(), bytes(layout.b)),
                                make_operand(target.data(), bytes(layout.out)),
                                make_operand(again_memory.data(), bytes(contiguous))};
    run_on(engine_of(isa), builder.program, make_space(sizes), operands, scalars);
    ASSERT_TRUE(target.intact()) << layout.name;
    ASSERT_TRUE(again_memory.intact()) << layout.name;
    std::vector<bool> written(out_extent, false);
    for (int64_t e = 0; e < elements; ++e) {
      int64_t ia = 0, ib = 0, io = 0, rest = e, column = 0;
      for (int d = static_cast<int>(sizes.size()) - 1; d >= 0; --d) {
        const int64_t index = rest % sizes[d];
        rest /= sizes[d];
        if (d == static_cast<int>(sizes.size()) - 1) column = index;
        ia += index * a_strides[d];
        ib += index * layout.b[d];
        io += index * layout.out[d];
      }
      const double place = positions ? static_cast<double>(e + 7 * column) : 0;
      const T want = T(2 * double(a_old[ia]) + double(bm.as<T>()[ib]) + place);
      ASSERT_EQ(target.as<T>()[io], want)
          << layout.name << " element " << e << " on " << isa_name(isa);
      ASSERT_EQ(again_memory.as<T>()[e], a_old[ia]) << layout.name << " element " << e;
      written[io] = true;
    }
    for (int64_t i = 0; i < out_extent; ++i) {
      ASSERT_TRUE(written[i] || target.as<T>()[i] == old[i]) << "wrote between elements";
    }
  }
}

TEST_P(VectorStrides, F32) { check_layout<float>(GetParam(), DType::Float32, false, false); }
TEST_P(VectorStrides, F64) { check_layout<double>(GetParam(), DType::Float64, false, false); }
TEST_P(VectorStrides, I64) { check_layout<int64_t>(GetParam(), DType::Int64, false, false); }
TEST_P(VectorStrides, I32) { check_layout<int32_t>(GetParam(), DType::Int32, false, false); }
TEST_P(VectorStrides, Positions) { check_layout<double>(GetParam(), DType::Float64, true, false); }
TEST_P(VectorStrides, InPlace) { check_layout<float>(GetParam(), DType::Float32, false, true); }

INSTANTIATE_TEST_SUITE_P(Layouts, VectorStrides, testing::ValuesIn(kLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(VectorRunArea, AppliesAnEpilogue) {
  // out = max(tile + bias, 0) rounded to bf16, dropped by position: what a matmul asks for.
  for (Isa isa : testable_isas()) {
    for (const auto& [rows, columns] :
         {std::pair{16, 16}, {1, 256}, {3, 48}, {8, 32}, {5, 7}, {16, 40}, {4, 290}}) {
      constexpr int kStride = 300;
      std::vector<float> values(16 * kStride), bias(columns);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 19) - 9.37f;
      for (int c = 0; c < columns; ++c) bias[c] = 0.25f * c;
      Guarded out(16 * kStride * 2);
      std::memset(out.data(), 0, 16 * kStride * 2);
      Builder builder;
      const int ob = builder.operand(DType::Float32), oo = builder.operand(DType::BFloat16);
      const int tile = builder.emit(Op::LoadTile, Lane::F32);
      const int sum = builder.emit(Op::Add, Lane::F32, tile, builder.load(ob));
      const int relu = builder.emit(Op::Maximum, Lane::F32, sum, builder.scalar());
      const int place =
          builder.convert(Lane::F32, Lane::I64, builder.emit(Op::LinearIndex, Lane::I64));
      builder.store(oo, builder.emit(Op::Add, Lane::F32, relu, place), Lane::F32);
      Area shape;
      shape.rows = rows;
      shape.columns = columns;
      shape.values = values.data();
      shape.values_stride = kStride;
      shape.linear_index = 1000;
      shape.linear_stride = kStride;
      const TileOperand operands[] = {{reinterpret_cast<char*>(bias.data()), 0, 4},
                                      {out.data(), kStride * 2, 2}};
      Scalar scalars[1];
      scalars[0].d = 0;
      run_area(builder.program, prepare_on(engine_of(isa), builder.program), shape, operands,
               scalars);
      EXPECT_TRUE(out.intact());
      for (int r = 0; r < 16; ++r) {
        for (int c = 0; c < kStride; ++c) {
          float want = 0;
          if (r < rows && c < columns) {
            want =
                std::max(values[r * kStride + c] + bias[c], 0.0f) + float(1000 + r * kStride + c);
          }
          ASSERT_EQ(static_cast<float>(out.as<c10::BFloat16>()[r * kStride + c]),
                    static_cast<float>(c10::BFloat16(want)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace accel::kernels::vector
