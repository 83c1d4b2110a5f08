// Random numbers of vector programs: Philox4x32-10 by position, whatever the tiling and the team.
#include "tests/cpp/kernels/vector_test.h"

// The scalar functions, in the variant that needs no instruction set.
#define ACCEL_ISA portable
#include "kernels/common/philox.h"
#undef ACCEL_ISA

namespace accel::kernels::vector {
namespace {

TEST(Philox, MatchesThePublishedVectors) {
  const auto zeros = portable::philox_block(0, 0, 0);
  EXPECT_EQ(zeros.word[0], 0x6627e8d5u);
  EXPECT_EQ(zeros.word[1], 0xe169c58du);
  EXPECT_EQ(zeros.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zeros.word[3], 0x9b00dbd8u);
  const auto ones = portable::philox_block(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0});
  EXPECT_EQ(ones.word[0], 0x408f276du);
  EXPECT_EQ(ones.word[1], 0x41c83b0eu);
  EXPECT_EQ(ones.word[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.word[3], 0x6d5451fdu);
  const auto pi =
      portable::philox_block(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e);
  EXPECT_EQ(pi.word[0], 0xd16cfe09u);
  EXPECT_EQ(pi.word[1], 0x94fdccebu);
  EXPECT_EQ(pi.word[2], 0x5001e420u);
  EXPECT_EQ(pi.word[3], 0x24126ea1u);
}

TEST(VectorRandom, NumbersFollowFromThePosition) {
  Scalar scalars[2];
  scalars[0].i = 0x123456789abcdef;
  scalars[1].i = INT64_C(0xfffffffffe);  // the counter carries into its second word
  Builder builder;
  const int o32 = builder.operand(DType::Float32), o64 = builder.operand(DType::Float64);
  const int obits = builder.operand(DType::Int64);
  builder.program.scalars = 2;
  builder.store(o32, builder.emit(Op::Uniform, Lane::F32));
  builder.store(o64, builder.emit(Op::Uniform, Lane::F64));
  builder.store(obits, builder.emit(Op::RandomBits, Lane::I64));
  for (Isa isa : testable_isas()) {
    // Rows that are no multiple of four start in the middle of a block.
    for (const std::vector<int64_t>& sizes :
         {std::vector<int64_t>{1}, {5}, {256}, {1003}, {40, 7}, {9, 301}, {70001}}) {
      int64_t n = 1;
      for (int64_t size : sizes) n *= size;
      // Transposed where there are two dimensions: square tiles, with other linear strides.
      for (const bool transposed : {false, true}) {
        std::vector<float> f32(n);
        std::vector<double> f64(n);
        std::vector<int64_t> bits(n);
        std::vector<int64_t> strides = {1};
        if (sizes.size() == 2) {
          strides =
              transposed ? std::vector<int64_t>{1, sizes[0]} : std::vector<int64_t>{sizes[1], 1};
        }
        const auto scaled = [&](int64_t size) {
          auto bytes = strides;
          for (int64_t& stride : bytes) stride *= size;
          return bytes;
        };
        const Operand operands[] = {make_operand(f32.data(), scaled(4)),
                                    make_operand(f64.data(), scaled(8)),
                                    make_operand(bits.data(), scaled(8))};
        run_on(engine_of(isa), builder.program, make_space(sizes), operands, scalars);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t at =
              sizes.size() == 2 ? i / sizes[1] * strides[0] + i % sizes[1] * strides[1] : i;
          const uint64_t seed = scalars[0].i, offset = scalars[1].i;
          const uint32_t word = portable::random_word(seed, offset, i);
          ASSERT_EQ(bits[at], word) << isa_name(isa) << " element " << i;
          ASSERT_EQ(f32[at], (word >> 8) / 16777216.0f);
          ASSERT_EQ(f32[at], portable::uniform(seed, offset, i));
          const uint32_t low = portable::philox_block(seed, offset + i / 4, 1).word[i % 4];
          ASSERT_EQ(f64[at], portable::uniform_of(word, low));
        }
      }
    }
  }
}

TEST(VectorRandom, UniformNumbersAreUniform) {
  constexpr int64_t kCount = 1 << 20;
  std::vector<float> values(kCount);
  Builder builder;
  const int out = builder.operand(DType::Float32);
  builder.program.scalars = 2;
  builder.store(out, builder.emit(Op::Uniform, Lane::F32));
  Scalar scalars[2];
  scalars[0].i = 42;
  scalars[1].i = 0;
  const Operand operands[] = {make_operand(values.data(), {4})};
  run_on(engine_of(current_isa()), builder.program, make_space({kCount}), operands, scalars);
  double sum = 0, squares = 0;
  for (float x : values) {
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
    squares += static_cast<double>(x) * x;
  }
  EXPECT_NEAR(sum / kCount, 0.5, 0.002);
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 0.002);
}

}  // namespace
}  // namespace accel::kernels::vector
