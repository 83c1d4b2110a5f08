// What prepare_on() makes of a program (pairs, hoisted scalars, results written where they are
// stored) computes the same bits as the plain instructions, one by one.
#include "kernels/vector/prepare.h"
#include "tests/cpp/kernels/vector_test.h"

namespace accel::kernels::vector {
namespace {

constexpr int kOperands = 5, kScalars = 4;
constexpr int64_t kCount = 1000;

// A random program over few registers, so that they are overwritten and read again all the time.
// Operands are loaded and stored at any point, in place too.
Program random_program(std::mt19937& random) {
  const Op ops[] = {Op::Add,     Op::Sub,    Op::Mul,    Op::MulAdd, Op::Square,
                    Op::Neg,     Op::Add,    Op::MulAdd, Op::Round,  Op::Round,
                    Op::Maximum, Op::Scalar, Op::Mul,    Op::Load,   Op::Store};
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  const int registers = 3 + pick(6);
  const DType dtypes[] = {DType::Float32, DType::Float32, DType::BFloat16, DType::Float16};
  Program program;
  for (int o = 0; o < kOperands; ++o) program.operands.push_back(dtypes[pick(4)]);
  program.scalars = kScalars;
  const auto add = [&](Op op, int dst, int index) {
    Instruction instruction{op};
    instruction.dst = static_cast<uint8_t>(dst);
    instruction.a = static_cast<uint8_t>(pick(registers));
    instruction.b = static_cast<uint8_t>(pick(registers));
    instruction.c = static_cast<uint8_t>(pick(registers));
    if (op == Op::Round) instruction.dtype = pick(2) ? DType::BFloat16 : DType::Float16;
    instruction.index = static_cast<int16_t>(index);
    program.code.push_back(instruction);
  };
  for (int r = 0; r < registers; ++r) add(Op::Load, r, r % kOperands);
  const int length = 4 + pick(25);
  for (int i = 0; i < length; ++i) {
    const Op op = ops[pick(std::size(ops))];
    add(op, pick(registers), op == Op::Scalar ? pick(kScalars) : pick(kOperands));
  }
  add(Op::Store, 0, pick(kOperands));
  return program;
}

// A step for each instruction.
Prepared prepare_plainly(const Engine& engine, const Program& program) {
  Prepared prepared{&engine, {}, {}, {0}, {static_cast<int>(program.code.size())}};
  for (const Instruction& instruction : program.code) {
    prepared.steps.push_back({kernel_of(engine, program, instruction), instruction});
  }
  return prepared;
}

TEST(VectorPrepare, NeverChangesABit) {
  std::mt19937 random(11);
  Scalar scalars[kScalars];
  for (int s = 0; s < kScalars; ++s) scalars[s].d = 0.37 * s - 0.6;
  for (int round = 0; round < 400; ++round) {
    const Program program = random_program(random);
    // Of two bytes or four: halves of floats are as good as any.
    std::vector<std::vector<float>> start(kOperands, std::vector<float>(kCount));
    for (auto& operand : start) {
      for (float& x : operand) x = static_cast<float>(random() % 4096) / 2048.0f - 1;
    }
    for (Isa isa : testable_isas()) {
      auto memory = start, plain_memory = start;
      Operand operands[kOperands], plain_operands[kOperands];
      for (int o = 0; o < kOperands; ++o) {
        const int64_t size = size_of(program.operands[o]);
        operands[o] = make_operand(memory[o].data(), {size});
        plain_operands[o] = make_operand(plain_memory[o].data(), {size});
      }
      const Engine& engine = engine_of(isa);
      const Space space = make_space({kCount});
      run(program, prepare_on(engine, program), space, operands, scalars);
      run(program, prepare_plainly(engine, program), space, plain_operands, scalars);
      for (int o = 0; o < kOperands; ++o) {
        const auto at = [&](const std::vector<float>& values, int64_t i) {
          return program.operands[o] == DType::Float32
                     ? values[i]
                     : static_cast<float>(reinterpret_cast<const uint16_t*>(values.data())[i]);
        };
        for (int64_t i = 0; i < kCount; ++i) {
          ASSERT_TRUE(same(at(memory[o], i), at(plain_memory[o], i)))
              << "round " << round << " operand " << o << " element " << i << " on "
              << isa_name(isa);
        }
      }
    }
  }
}

TEST(VectorPrepare, HoistsScalarsMakesPairsAndSkipsStores) {
  Builder builder;
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  const int x = builder.load(in);
  const int product = builder.emit(Op::Mul, Lane::F32, x, builder.scalar());
  builder.store(out, builder.emit(Op::Sub, Lane::F32, builder.scalar(), product));
  const Prepared prepared = prepare_on(engine_of(Isa::Portable), builder.program);
  EXPECT_EQ(prepared.prologue.size(), 2u);
  ASSERT_EQ(prepared.steps.size(), 3u);  // load, pair, store
  EXPECT_EQ(prepared.steps[1].aim, out);
}

TEST(VectorPrepare, RoundsInTheStore) {
  Builder builder;
  const int in = builder.operand(DType::BFloat16), out = builder.operand(DType::BFloat16);
  const int x = builder.load(in);
  const int root = builder.emit(Op::Sqrt, Lane::F32, x);
  builder.store(out, builder.round(Lane::F32, DType::BFloat16, root));
  const Engine& engine = engine_of(Isa::Portable);
  const Prepared prepared = prepare_on(engine, builder.program);
  ASSERT_EQ(prepared.steps.size(), 3u);  // load, root, store
  EXPECT_EQ(prepared.steps[2].instruction.a, root);
  // A store that is told that there is nothing to round, and rounds after all.
  builder.program.code.back().dtype = DType::BFloat16;
  EXPECT_EQ(prepare_on(engine, builder.program).steps[2].kernel, prepared.steps[2].kernel);
}

TEST(VectorPrepare, FillsRowConstantsOnceARow) {
  Builder builder(Kind::RowReduce);
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  const int sum = builder.add_slot(Lane::F32), most = builder.add_slot(Lane::F32);
  const int x = builder.load(in);
  builder.reduce(Op::ReduceSum, x, sum);
  builder.reduce(Op::ReduceMax, x, most);
  builder.phase(Over::Elements);
  const int again = builder.load(in);
  const int shifted = builder.emit(Op::Sub, Lane::F32, again, builder.slot(sum));
  builder.store(out, builder.emit(Op::Mul, Lane::F32, shifted, builder.slot(most)));
  builder.phase(Over::Elements);
  // The second slot takes the register of the first: they are apart all the same.
  for (Instruction& instruction : builder.program.code) {
    if (instruction.op == Op::Slot) instruction.dst = 1;
    if (instruction.op == Op::Sub || instruction.op == Op::Mul) instruction.b = 1;
  }
  const Prepared prepared = prepare_on(engine_of(Isa::Portable), builder.program);
  EXPECT_EQ(prepared.tile_begin(1) - prepared.begin(1), 2);  // both slots
  EXPECT_EQ(prepared.end(1) - prepared.tile_begin(1), 3);    // load, pair, store
}

TEST(VectorPrepare, KeepsWhatIsReadTwice) {
  Builder builder;
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  const int x = builder.load(in);
  const int square = builder.emit(Op::Square, Lane::F32, x);
  const int sum = builder.emit(Op::Add, Lane::F32, square, x);
  builder.store(out, builder.emit(Op::Maximum, Lane::F32, sum, square));
  EXPECT_EQ(prepare_on(engine_of(Isa::Portable), builder.program).steps.size(), 5u);
}

}  // namespace
}  // namespace accel::kernels::vector
